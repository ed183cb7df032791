"""S1: files that run a program when they are unpickled, at every place where something is loaded.

Each shape is put where a door looks for something: weights, moments, states, manifests, configs,
tokenizers, pairs, caches, tables. With a manifest that fits it, where there is one: an attacker
would see to that. The canary must not appear, and the door must name the file in one line.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Result
from benchmarks.security import doors, pickled_shapes
from benchmarks.security.bench import Bench
from benchmarks.security.pickled_shapes import Shape
from chatlm.checkpoint import manifest
from tests import tiny_data

TITLE = "files that run a program when they are loaded"
COUNTS = {"full": 500, "slice": 8}
SECONDS = 0.25
Door = Callable[[Sequence[str]], int]
CHECKPOINT = "out/train-001/step_000008"
OF_WEIGHTS = ("config.json", "model.safetensors", "tokenizer.json", "spiece.model")
OF_A_RUN = (*OF_WEIGHTS, "optimizer.safetensors", "state.json", "MANIFEST.json")
BESIDE = (
    *("optimizer.pt", "optimizer.bin", "scheduler.bin", "random_states_0.pkl", ".metadata"),
    *("custom_checkpoint_0.pkl", "training_args.bin", "generation_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "code_beside.py", "model.pkl"),
)
"""Files that others load from such a folder; ours do not, or only as plain JSON."""


@dataclass(frozen=True)
class Place:
    """Where a malicious file is put, and the door that comes by.

    `file` is a path in a copy of the project; `instead` files are taken away; `refused`: the door
    needs the file, so it cannot but refuse it. A text in `names` has to stand in the message.
    """

    door: str
    argv: tuple[str, ...]
    file: str
    refused: bool = True
    names: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()


def run(count: int, bench: Bench) -> Result:
    """Puts shapes into places: all, or a sample of `count`."""
    os.environ["CHATLM_SECURITY"] = "1"
    doors.warm_up()
    canary = bench.folder / "canary"
    whole = bench.folder / "whole"
    _project(whole, bench)
    result = Result("S1", TITLE)
    made = bench.folder / "made"
    made.mkdir()
    shapes = pickled_shapes.shapes(made, canary)
    result.failures += _duds(shapes, canary, bench)
    cases = _cases(shapes, _places(), count, bench)
    refused = ignored = 0
    for shape, place in cases:
        project = bench.folder / "project"
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(whole, project, symlinks=True)
        _put(shape, place, project, canary)
        seen = doors.visit(_door(place.door), place.argv, project, bench)
        names = place.names or (Path(place.file).name,)
        wrong = seen.wrong(*names, refused=place.refused and not _is_plain(shape, place))
        if canary.exists():
            wrong.append("IT RAN")
            shutil.rmtree(canary) if canary.is_dir() else canary.unlink()
        refused, ignored = refused + (seen.code != 0), ignored + (seen.code == 0)
        where = f"{shape.name} as {place.file} for {place.door} {place.argv[0]}"
        result.failures += [f"{where}: {why}" for why in wrong]
    result.faults = len(cases)
    result.figures = {
        "shapes": len(shapes),
        "places": len(_places()),
        "executions": sum("IT RAN" in failure for failure in result.failures),
        "refused": refused,
        "not_looked_at": ignored,
    }
    return result


def _is_plain(shape: Shape, place: Place) -> bool:
    """Tells whether a shape is, in this place, nothing but JSON with keys that ours do not read."""
    return shape.load is None and place.file.endswith(("chat.json", "tokenizer_config.json"))


def _cases(
    shapes: Sequence[Shape], places: Sequence[Place], count: int, bench: Bench
) -> list[tuple[Shape, Place]]:
    """Returns pairs in rounds: each round every place gets a shape, and every shape some places."""
    order = bench.random.sample(range(len(places)), len(places))
    rounds = [
        (shapes[(at + turn) % len(shapes)], places[number])
        for turn in range(len(shapes))
        for at, number in enumerate(order)
    ]
    return rounds[:count]


def _door(name: str) -> Door:
    import cli_demo
    import train
    import utils.export_model
    import utils.train_tokenizer

    return {
        "train.py": train.main,
        "cli_demo.py": cli_demo.main,
        "utils.export_model": utils.export_model.main,
        "utils.train_tokenizer": utils.train_tokenizer.main,
    }[name]


def _places() -> list[Place]:
    return list(_all_places())


def _all_places() -> Iterator[Place]:
    settings = tuple(tiny_data.argv(data="data", max_steps=1, background_saves=False))
    resume = ("train", "out=out/train-001", "resume=True")
    finetune = ("finetune=True", f"init_from={CHECKPOINT}", "out=out/tuned", *settings)
    evaluate = ("evaluate", f"model={CHECKPOINT}", "data=data/test.parquet", "device=cpu")
    chat = ("chat", f"model={CHECKPOINT}", "device=cpu", "3加4等于多少？")
    to = (f"model={CHECKPOINT}", "out=out/exported")
    export = (*to, "quantization=float32", "probes=questions.txt")
    for file in OF_A_RUN:
        yield Place("train.py", resume, f"{CHECKPOINT}/{file}")
    for door, argv in (
        ("train.py", finetune),
        ("train.py", evaluate),
        ("cli_demo.py", chat),
        ("utils.export_model", export),
        ("utils.export_model", (*to, "format=hf")),
    ):
        for file in OF_WEIGHTS:
            yield Place(door, argv, f"{CHECKPOINT}/{file}")
        bare = tuple(f"{CHECKPOINT}/{one}" for one in ("model.safetensors", "MANIFEST.json"))
        for name in ("pytorch_model.bin", "model.pt", "model.ckpt"):
            yield Place(door, argv, f"{CHECKPOINT}/{name}", instead=bare)
    for file in BESIDE:
        yield Place("train.py", resume, f"{CHECKPOINT}/{file}", refused=False)
        yield Place("cli_demo.py", chat, f"{CHECKPOINT}/{file}", refused=False)
    yield Place("cli_demo.py", chat, f"{CHECKPOINT}/chat.json")
    yield Place("cli_demo.py", chat, f"{CHECKPOINT}/tokenizer_config.json")
    yield Place("train.py", resume, "out/train-001/config.yaml")
    for file in ("metrics.jsonl", "ledger.jsonl", "samples.jsonl", "best"):
        yield Place("train.py", resume, f"out/train-001/{file}", refused=False)
    yield from _data_places(settings)


def _data_places(settings: tuple[str, ...]) -> Iterator[Place]:
    fresh = ("train", "out=out/new", *settings)
    for name in ("train.parquet", "valid.parquet", "tokenizer/tokenizer.json"):
        yield Place("train.py", fresh, f"data/{name}")
    for name in (
        "pairs.jsonl",
        "pairs.json",
        "pairs.csv",
        "pairs.parquet",
        "pairs.pkl",
        "pairs.pt",
    ):
        of_a_file = tuple(one for one in fresh if not one.startswith("data="))
        yield Place(
            "train.py",
            (*of_a_file, f"data={name}", "tokenizer=data/tokenizer"),
            name,
            names=(name, "cache"),
        )
        yield Place("utils.train_tokenizer", (f"data={name}", "out=made", "vocab_size=400"), name)
    caches = ("source_offsets.npy", "target_offsets.npy", "target_chars.npy", "sources.bin")
    for name in (*caches, "meta.json"):
        yield Place("train.py", fresh, f"data/cache/tokens-*/{name}", refused=False)
    yield Place("train.py", ("train", "config=settings.yaml"), "settings.yaml")
    yield Place("train.py", ("evaluate", "config=settings.yaml"), "settings.yaml")
    yield Place("train.py", ("plan", "config=settings.yaml"), "settings.yaml")
    yield Place("cli_demo.py", ("chat", "config=settings.yaml"), "settings.yaml")
    yield Place("utils.export_model", ("config=settings.yaml",), "settings.yaml")
    starter = ("train", "out=out/new", "data=tables", "preset=starter", "max_steps=1")
    yield Place("train.py", starter, "tables/facts.yaml")


def _put(shape: Shape, place: Place, project: Path, canary: Path) -> None:
    """Puts a shape into its place, with code beside it, and a manifest that fits."""
    for gone in place.instead:
        (project / gone).unlink()
    paths = list(project.glob(place.file)) if "*" in place.file else [project / place.file]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shape.content)
        if path.name != "code_beside.py":
            (path.parent / "code_beside.py").write_bytes(pickled_shapes.code_beside(canary))
    folder = project / CHECKPOINT
    if place.file.startswith(CHECKPOINT) and "MANIFEST" not in place.file:
        if not (folder / "MANIFEST.json").exists():
            return
        files = [path for path in folder.iterdir() if path.name[0] != "." and path.is_file()]
        entries = {
            path.name: manifest.entry_of(path) for path in files if path.name != "MANIFEST.json"
        }
        before = manifest.read(folder)
        sealed = manifest.Manifest(
            before.step, entries, before.data, before.tokenizer, before.config
        )
        manifest.write(folder, sealed)


def _project(folder: Path, bench: Bench) -> None:
    """Makes a folder with data, a tokenizer, a run and its caches, by a real training."""
    folder.mkdir()
    # Writing parquet starts threads, so it has a process of its own.
    bench.fork(lambda: int(not tiny_data.make(folder / "data").is_dir()))
    assert bench.wait() == [0]
    argv = ["train", "out=out/train-001", *tiny_data.argv(data="data", background_saves=False)]
    seen = doors.visit(_door("train.py"), argv, folder, bench)
    assert seen.code == 0, seen.printed[-2000:]
    assert (folder / CHECKPOINT / "MANIFEST.json").is_file(), list(folder.rglob("step_*"))
    shutil.rmtree((folder / CHECKPOINT).with_name("step_000004"))  # no other to go on from
    (folder / "questions.txt").write_text("3加4等于多少？\n5加2等于多少？\n")


def _duds(shapes: Sequence[Shape], canary: Path, bench: Bench) -> list[str]:
    """Returns the shapes that do nothing even to the careless: they would show nothing."""
    found = []
    for shape in shapes:
        if shape.load is None:
            continue
        bench.fork(lambda shape=shape: _careless(shape, bench.folder))
        bench.wait()
        if not canary.exists():
            found.append(f"{shape.name}: does nothing even where it is loaded")
        elif canary.is_dir():
            canary.rmdir()
        else:
            canary.unlink()
    return found


def _careless(shape: Shape, folder: Path) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    pickled_shapes.fires(shape, folder)
    return 0
