"""Weights that others published as pickles (pytorch_model*.bin), as safetensors, once.

In: a folder of Hugging Face's layout. Out: a folder with the same tensors in model*.safetensors,
each in the precision it had, its other files but programs, and `import.json` with the sha256 of all
that was read and written. The pickles are opened in a process of their own and with
`weights_only=True`: one that holds more than tensors is refused, and never opened in another way.
One file is in work at a time, mapped into memory, not read into it. A folder with adapters
(adapter_config.json, adapter_model.bin) becomes one with adapter_model.safetensors.

    python -m utils.import_weights source=chatglm-6b out=chatglm-6b-safetensors
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm import cli, log, untrusted
from chatlm.errors import CheckpointError

INDEX = "pytorch_model.bin.index.json"
SINGLE = "pytorch_model.bin"
OUT_INDEX = "model.safetensors.index.json"
OUT_SINGLE = "model.safetensors"
ADAPTER_CONFIG, ADAPTER_SINGLE = "adapter_config.json", "adapter_model.bin"
ADAPTER_OUT = "adapter_model.safetensors"
MANIFEST = "import.json"
KEPT_SUFFIXES = (".json", ".model", ".txt", ".jinja", ".md")
CONFIGS = ("config.json", "tokenizer_config.json")
METADATA = {"format": "pt"}
"""As `chatlm.model.hf` has it, whose import takes longer than a small file does."""


@dataclass(frozen=True)
class ImportConfig:
    """Settings of `python -m utils.import_weights`."""

    source: str = field(metadata={"help": "folder with pytorch_model*.bin, or adapter_model.bin"})
    out: str = field(metadata={"help": "folder to write; must not exist"})


def import_weights(config: ImportConfig) -> dict[str, Any]:
    """Writes the folder; returns what its import.json says.

    Raises:
        CheckpointError: the source is not such a folder, a file of it is refused, or the other
            exists or cannot be written.
    """
    source, out = Path(config.source), Path(config.out)
    if out.exists():
        raise CheckpointError(f"{out} exists, and is never written over; name another out=")
    _require_known(source)
    shards = _shards(source)
    part = out.with_name(f".tmp-{out.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        report = _convert_all(source, shards, part)
        report["files"] |= _copy_others(source, part)
        _write_json(part / MANIFEST, report)
        part.rename(out)
    except OSError as error:
        raise CheckpointError(
            f"{out}: cannot be written ({error.strerror or error}); it needs as much space as the "
            "source has"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def _require_known(source: Path) -> None:
    """Refuses what a model of ours could not load anyway, before gigabytes are read.

    Raises:
        CheckpointError: the folder has no readable config, or one that is refused.
    """
    path = source / (ADAPTER_CONFIG if _has_adapters(source) else "config.json")
    try:
        fields = untrusted.read_object(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; expected the folder of a model") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); copy it anew") from error
    if fields.get("model_type") == "chatglm":
        from chatlm.glm.configuration import ChatGLMConfig

        ChatGLMConfig(**fields)


def _has_adapters(source: Path) -> bool:
    """Tells whether a folder holds adapters on a model, and not a model."""
    return (source / ADAPTER_SINGLE).is_file()


def _shards(source: Path) -> dict[str, set[str] | None]:
    """Returns the pickles of a folder and the tensors that its index says are in each.

    Raises:
        CheckpointError: there are none, or the index cannot be followed.
    """
    index = source / INDEX
    if _has_adapters(source):
        return {ADAPTER_SINGLE: None}
    if not index.is_file():
        if not (source / SINGLE).is_file():
            raise CheckpointError(f"{source}: has neither {INDEX} nor {SINGLE}; nothing to import")
        return {SINGLE: None}
    try:
        weight_map = untrusted.read_object(index).get("weight_map")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index}: not readable as JSON ({error}); copy it anew") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map; copy it anew")
    shards: dict[str, set[str] | None] = {}
    for tensor, name in sorted(weight_map.items(), key=lambda item: str(item[1])):
        if not untrusted.is_name(name) or not name.endswith(".bin"):
            raise CheckpointError(
                f"{index}: {untrusted.shown(name)} is no name of a .bin file beside it"
            )
        if not (source / name).is_file():
            raise CheckpointError(f"{source / name}: no such file, but {INDEX} names it; copy it")
        names = shards.setdefault(name, set())
        assert names is not None
        names.add(tensor)
    return shards


def _convert_all(source: Path, shards: Mapping[str, set[str] | None], part: Path) -> dict[str, Any]:
    """Converts file by file; returns what became of them."""
    files: dict[str, Any] = {}
    weight_map: dict[str, str] = {}
    kinds: dict[str, int] = {}
    total, count = 0, len(shards)
    outs = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    outs = [ADAPTER_OUT if _has_adapters(source) else OUT_SINGLE] if count == 1 else outs
    reports = _in_own_process(
        [(source / name, part / out) for name, out in zip(shards, outs, strict=True)]
    )
    for (name, expected), out, report in zip(shards.items(), outs, reports, strict=True):
        _require_expected(source / name, set(report["tensors"]), expected, weight_map)
        weight_map |= dict.fromkeys(report["tensors"], out)
        total += report["tensor_bytes"]
        for kind, amount in report["kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + amount
        files[out] = {
            "sha256": report["sha256"],
            "bytes": report["bytes"],
            "from": name,
            "from_sha256": report["from_sha256"],
        }
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(part / OUT_INDEX, index)
    return {"source": str(source), "tensors": len(weight_map), "kinds": kinds, "files": files}


def _require_expected(
    path: Path, found: set[str], expected: set[str] | None, elsewhere: Mapping[str, str]
) -> None:
    """Sees to it that a file holds what the index says, and nothing that another one holds, too.

    Raises:
        CheckpointError: it does not.
    """
    if expected is not None and found != expected:
        odd = untrusted.shown(min(found ^ expected))
        raise CheckpointError(
            f"{path}: holds other tensors than {INDEX} says ({odd}); copy both anew"
        )
    if twice := found & elsewhere.keys():
        raise CheckpointError(f"{path}: {untrusted.shown(min(twice))} is in another file, too")


def _in_own_process(jobs: Sequence[tuple[Path, Path]]) -> list[dict[str, Any]]:
    """Converts files one after the other in another process; returns a report of each.

    Raises:
        CheckpointError: one was refused, or the process died.
    """
    command = [sys.executable, "-m", "utils.import_weights", "convert"]
    command += [str(path.absolute()) for job in jobs for path in job]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=root, check=False)
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    if reports and "error" in reports[-1]:
        raise CheckpointError(reports[-1]["error"])
    if done.returncode or len(reports) < len(jobs):
        raise CheckpointError(
            f"{jobs[len(reports)][0]}: the process that read it died (exit code "
            f"{done.returncode}); give it more memory or disk and run again"
        )
    return reports


def _convert_here(jobs: Sequence[str]) -> int:
    """Converts files, and prints a report of each, or why one is refused."""
    for source, out in zip(jobs[::2], jobs[1::2], strict=True):
        log.info(f"{Path(source).name} -> {Path(out).name}")
        try:
            report = convert(Path(source), Path(out))
        except (CheckpointError, OSError) as error:
            print(json.dumps({"error": str(error)}))
            return 2
        print(json.dumps(report), flush=True)
    return 0


def convert(source: Path, out: Path) -> dict[str, Any]:
    """Converts one pickle; returns the names, kinds and sums.

    Raises:
        CheckpointError: it holds more than plain tensors, or is damaged.
    """
    import torch

    from chatlm.checkpoint import tensors
    from chatlm.corpus.store import file_sha256

    is_zip = untrusted.format_of(source).startswith("a zip")
    try:
        state = torch.load(source, weights_only=True, mmap=is_zip or None, map_location="cpu")
    except Exception as error:  # whatever the library says: the file is refused
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{source}: refused, it is damaged or holds more than tensors ({first[:200]}); it is "
            "not opened in any other way"
        ) from error
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{source}: holds no tensors by name; it is no file of weights")
    kinds: dict[str, int] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{source}: {untrusted.shown(name)} is no tensor; refused")
        if not tensor.is_floating_point() and tensor.dtype not in (torch.int64, torch.bool):
            raise CheckpointError(
                f"{source}: {untrusted.shown(name)} holds {tensor.dtype}: these weights are "
                "quantised, which is not read; take the full ones"
            )
        kind = str(tensor.dtype).removeprefix("torch.")
        kinds[kind] = kinds.get(kind, 0) + 1
    entry = tensors.write(
        out, {name: tensor.contiguous() for name, tensor in state.items()}, METADATA
    )
    with out.open("rb") as file:
        os.fsync(file.fileno())
    return {
        "tensors": sorted(state),
        "kinds": kinds,
        "tensor_bytes": sum(tensor.nbytes for tensor in state.values()),
        "sha256": entry.sha256,
        "bytes": entry.bytes,
        "from_sha256": file_sha256(source),
    }


def _copy_others(source: Path, part: Path) -> dict[str, Any]:
    """Copies the tokenizer and the texts, and no programs; returns their sums."""
    from chatlm.corpus.store import file_sha256

    copied: dict[str, Any] = {}
    for path in sorted(source.iterdir()):
        if path.suffix not in KEPT_SUFFIXES or path.name == INDEX or not path.is_file():
            continue
        if path.name in CONFIGS:  # what would point to programs that are not copied
            fields = untrusted.read_object(path)
            fields.pop("auto_map", None)
            _write_json(part / path.name, fields)
        else:
            shutil.copyfile(path, part / path.name)
        sha256 = file_sha256(part / path.name)
        copied[path.name] = {"sha256": sha256, "bytes": (part / path.name).stat().st_size}
    return copied


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """Imports and reports; `convert` is what this program calls itself with."""
    if any(token in ("-h", "--help", "help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(ImportConfig)}")
        return 0
    if argv[:1] == ["convert"]:
        return _convert_here(argv[1:])
    report = import_weights(cli.parse(argv, ImportConfig))
    names = ("tensors", "kinds", "source")
    print(json.dumps({name: report[name] for name in names}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    cli.run(main)
