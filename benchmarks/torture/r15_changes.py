"""R15: data, tokenizer or settings that are not what a run was trained with.

Each case goes on with a copy of the same half-done run after one thing was changed. It must be
refused before a step is taken, in one line that names the file or the setting and both hashes; the
run must be as it was. Some cases go on nevertheless with accept_changes=True: the ledger must say
so. In others the pairs are replaced while the training reads them, which must change no bit of it.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.torture import forks
from benchmarks.torture.outcome import checkpoint_steps
from benchmarks.torture.victim import Outcome, Result, Workbench

COUNTS = {"full": 30, "slice": 6}
SECONDS = 0.5
TITLE = "changed data, tokenizer or settings"
HASHES = re.compile(r"sha256 [0-9a-f]{12}, here [0-9a-f]{12}")


@dataclass(frozen=True)
class Case:
    """One change; `change` spoils a copy of the data, `settings` come on top of the run's."""

    name: str
    expected: str
    change: Callable[[Path], None] = lambda _data: None
    settings: dict[str, Any] = field(default_factory=dict)
    accepted: bool = False


def _flip(name: str, where: float) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        path = data / name
        content = bytearray(path.read_bytes())
        content[int(where * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return change


def _rewrite(name: str, edit: Callable[[list[Any]], list[Any]]) -> Callable[[Path], None]:
    """Writes a file of pairs again; in a process of its own, for it starts threads."""

    def write(path: Path) -> None:
        from chatlm.corpus import store
        from chatlm.corpus.example import Example

        rows = [row for batch in store.read_pairs(path) for row in batch.to_pylist()]
        part = path.with_suffix(".part")
        with store.PairWriter(part) as writer:
            writer.write(edit([Example(**row) for row in rows]))
        part.replace(path)

    return lambda data: forks.forked(lambda: write(data / name))


def _another_tokenizer(data: Path) -> None:
    def make() -> None:
        from chatlm.tokenizer import Tokenizer

        shutil.rmtree(data / "tokenizer")
        Tokenizer.train(["今天天气很好。", "你好！"] * 3).save(data / "tokenizer")

    forks.forked(make)


def _edited_config(data: Path) -> None:
    """The file that a resumed run takes its settings from, edited by hand."""
    path = data / "config.yaml"
    path.write_text(path.read_text().replace("weight_decay: 0.0", "weight_decay: 0.1"))


SETTINGS: tuple[tuple[str, Any], ...] = (
    ("batch_size", 8),
    ("learning_rate", 1e-3),
    ("seed", 7),
    ("max_steps", 25),
    ("schedule", "wsd"),
    ("warmup_share", 0.1),
    ("final_rate_share", 0.1),
    ("weight_decay", 0.1),
    ("beta2", 0.9),
    ("clip_norm", 0.5),
    ("rms_scaled", False),
    ("optimizer", "muon"),
    ("max_source_tokens", 24),
    ("freeze", "encoder"),
    ("model.dropout_rate", 0.2),
)
PAIRS = "train.parquet holds other training pairs"


def cases() -> Iterator[Case]:
    """Yields the thirty cases."""
    for where in (0.0, 0.5, 1.0):
        yield Case(f"one bit at {where:.0%}", PAIRS, _flip("train.parquet", where))
    edits: dict[str, Callable[[list[Any]], list[Any]]] = {
        "a row added": lambda rows: [*rows, rows[0]],
        "a row removed": lambda rows: rows[1:],
        "rows in another order": lambda rows: rows[::-1],
    }
    for name, edit in edits.items():
        yield Case(name, PAIRS, _rewrite("train.parquet", edit))
    valid = "valid.parquet holds other validation pairs"
    yield Case("valid in another order", valid, _rewrite("valid.parquet", lambda rows: rows[::-1]))
    yield Case("one bit of valid", valid, _flip("valid.parquet", 1.0))
    yield Case("another tokenizer", "tokenizer holds another tokenizer", _another_tokenizer)
    yield Case("config.yaml edited", "weight_decay=0.0, here 0.1", _edited_config)
    for key, value in SETTINGS:
        yield Case(f"{key}={value}", f"{key}=", settings={key: value})
    yield Case(
        "accepted: rows in another order", PAIRS, _rewrite("train.parquet", lambda r: r[::-1]),
        accepted=True,
    )  # fmt: skip
    yield Case(
        "accepted: learning_rate", "learning_rate=", settings={"learning_rate": 1e-3}, accepted=True
    )
    yield Case("accepted: a tokenizer", "another tokenizer", _another_tokenizer, accepted=True)
    for name in ("reordered", "cut"):
        yield Case(f"replaced mid-run: {name}", PAIRS)


def run(count: int, bench: Workbench) -> Result:
    """Makes `count` changes."""
    whole = bench.reference()
    every = list(cases())
    chosen = every if count >= len(every) else bench.random.sample(every, count)
    failures = []
    for case in chosen:
        check = _replaced if case.name.startswith("replaced") else _resumed
        failures += [f"{case.name}: {one}" for one in check(bench, case, whole)]
    accepted = sum(case.accepted for case in chosen)
    figures = {"refused_before_step_1": len(chosen) - accepted, "accepted_and_noted": accepted}
    return Result("R15", TITLE, len(chosen), failures, figures)


def _half_done(bench: Workbench, whole: Outcome) -> Path:
    run = bench.copy_of(whole.run, "r15")
    shutil.rmtree(run / f"step_{checkpoint_steps(run)[-1]:06d}")
    return run


def _resumed(bench: Workbench, case: Case, whole: Outcome) -> Iterator[str]:
    run, data = _half_done(bench, whole), bench.copy_of_data("r15")
    if case.change is _edited_config:
        # Of the settings in the file only those count that the command does not name.
        case.change(run)
    else:
        case.change(data)
    before = _seen(run)
    changes = {**case.settings, **({"accept_changes": True} if case.accepted else {})}
    outcome = bench.start(run, data=data, **changes).outcome()
    if case.accepted:
        notes = [one for one in outcome.ledger if one.get("event") == "resume"]
        if outcome.exit_code or not notes or case.expected not in notes[-1]["why"]:
            yield f"not accepted, or not noted: {outcome.last_line()}, {notes}"
    else:
        yield from _wrong_refusal(outcome, case)
        if _seen(run) != before:
            yield "refused, but the run is not what it was"


def _wrong_refusal(outcome: Outcome, case: Case) -> Iterator[str]:
    line = outcome.last_line()
    if outcome.exit_code != 2 or case.expected not in line:
        yield f"exit code {outcome.exit_code}, expected 2 and {case.expected!r}: {line}"
    # The shape of the model cannot change: there is nothing to compare.
    elif not HASHES.search(line) and "another shape" not in line:
        yield f"without both hashes: {line}"


def _replaced(bench: Workbench, case: Case, whole: Outcome) -> Iterator[str]:
    """Replaces the pairs while a new run reads them."""
    data, run = bench.copy_of_data("r15"), bench.new_run("r15")
    path = data / "train.parquet"
    content = path.read_bytes()
    victim = bench.start(run, data=data, stop_at=8)
    victim.wait_for_operation()
    part = path.with_suffix(".part")
    part.write_bytes(content[::-1] if case.name.endswith("reordered") else content[:99])
    part.replace(path)
    outcome = victim.outcome()
    if difference := outcome.difference(whole):
        yield f"the run that had begun: {difference}"
    shutil.rmtree(run / f"step_{checkpoint_steps(run)[-1]:06d}")
    yield from _wrong_refusal(bench.start(run, data=data).outcome(), case)


def _seen(run: Path) -> dict[str, str]:
    """Returns what a refused start must leave alone."""
    files = ("metrics.jsonl", "samples.jsonl", "ledger.jsonl", "best", "config.yaml")
    found = {name: (run / name).read_text() for name in files if (run / name).exists()}
    return found | {"checkpoints": json.dumps(checkpoint_steps(run))}
