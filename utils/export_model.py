"""Turns a checkpoint into a folder that is faster to chat with, or simpler to pass on.

In: a checkpoint or run. Out: with format=ct2 a folder for CTranslate2, which needs no torch and,
with int8, a quarter of the memory; with format=hf the plain Hugging Face folder, without what only
the training needs. Answers of format=ct2 are compared with the checkpoint's before anything is
written. `python cli_demo.py chat model=<folder>` chats with either.

    python -m utils.export_model
    python -m utils.export_model model=out/train-001 quantization=float32 out=out/exact
    python -m utils.export_model model=out/train-001 format=hf out=out/train-001-hf
"""

import dataclasses
import difflib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatlm import cli
from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import ConfigError
from chatlm.inference.ct2_files import QUANTIZATIONS

FORMATS = ("ct2", "hf")


@dataclass(frozen=True)
class ExportConfig:
    """Settings of `python -m utils.export_model`."""

    model: str = field(default="", metadata={"help": "checkpoint or run; the newest run if empty"})
    format: str = field(default="ct2", metadata={"help": "ct2, or hf"})
    quantization: str = field(
        default="int8", metadata={"help": f"of format=ct2: {', '.join(QUANTIZATIONS)}"}
    )
    out: str = field(
        default="", metadata={"help": "folder to write; out/<run>-ct2-int8 or the like if empty"}
    )
    probes: str = field(
        default="",
        metadata={
            "help": "questions to compare answers on: .txt, one a line, or .parquet of pairs; the "
            "run's own test questions if empty"
        },
    )
    num_probes: int = field(default=100, metadata={"help": "the most questions that are used"})
    probe_tokens: int = field(default=64, metadata={"help": "longest answer that is compared"})
    min_identical: float = field(
        default=-1.0,
        metadata={"help": "least share of identical answers; -1: fitting the quantization"},
    )
    min_agreeing: float = field(
        default=-1.0,
        metadata={
            "help": "least share of tokens before a difference; -1: fitting the quantization"
        },
    )

    def __post_init__(self) -> None:
        """Refuses values that no export can use.

        Raises:
            ConfigError: an unknown name, or a number out of its range.
        """
        _require_known("format", self.format, FORMATS)
        _require_known("quantization", self.quantization, QUANTIZATIONS)
        for name in ("num_probes", "probe_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected 1 or more")
        for name in ("min_identical", "min_agreeing"):
            value = getattr(self, name)
            if value != -1 and not 0 <= value <= 1:
                raise ConfigError(f"{name}={value}: expected a share, 0 to 1, or -1")
        if self.format == "hf":
            self._refuse_what_hf_ignores()

    def _refuse_what_hf_ignores(self) -> None:
        for key in dataclasses.fields(self):
            is_used = key.name in ("model", "format", "out")
            if not is_used and getattr(self, key.name) != key.default:
                raise ConfigError(f"{key.name}= has no effect with format=hf: leave it out")


def _require_known(key: str, value: str, known: Sequence[str]) -> None:
    if value in known:
        return
    close = difflib.get_close_matches(value, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"{key}={value}: expected {', '.join(known)}{hint}")


def default_out(checkpoint: Path, config: ExportConfig) -> Path:
    """Returns the folder to write where none is named: `out/<run>-ct2-int8`."""
    folder = checkpoint.resolve()
    run = folder.parent.name if folder.name.startswith("step_") else folder.name
    kind = f"ct2-{config.quantization}" if config.format == "ct2" else config.format
    return Path("out") / f"{run}-{kind}"


def export(checkpoint: Path, out: Path, config: ExportConfig) -> dict[str, object]:
    """Writes the folder; returns figures on it.

    Raises:
        ChatLMError: it cannot be written, or answers too differently.
    """
    if config.format == "hf":
        from chatlm.export import hf

        hf.export(checkpoint, out)
        return {}
    from chatlm.export import ct2, drift, probes

    ct2.require_possible(checkpoint)
    usual = drift.least_of(config.quantization)
    least = drift.Least(
        usual.identical if config.min_identical == -1 else config.min_identical,
        usual.agreeing if config.min_agreeing == -1 else config.min_agreeing,
    )
    questions = probes.find(checkpoint, config.probes, config.num_probes)
    tokens = config.probe_tokens
    plan = ct2.Plan(checkpoint, out, config.quantization, questions, tokens, least)
    return {"quantization": config.quantization, **ct2.export(plan).figures()}


def main(argv: Sequence[str]) -> int:
    """Exports and reports."""
    if any(token in ("-h", "--help", "help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(ExportConfig)}")
        return 0
    config = cli.parse(argv, ExportConfig)
    checkpoint = resolve_model(config.model or None)
    out = Path(config.out) if config.out else default_out(checkpoint, config)
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists: name another out=, or remove it first (rm -r {out})")
    start = time.monotonic()
    figures = export(checkpoint, out, config)
    size = sum(path.stat().st_size for path in out.iterdir())
    report = {"exported": str(checkpoint), "out": str(out), "bytes": size, **figures}
    print(json.dumps({**report, "seconds": round(time.monotonic() - start, 1)}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    cli.run(main)
