"""Turns a checkpoint into a folder that is faster to chat with, or simpler to pass on.

In: a checkpoint or run. Out: with format=ct2 a folder for CTranslate2, which needs no torch and,
with int8, a quarter of the memory; with format=hf the plain Hugging Face folder, without what only
the training needs. Adapters (trained with base=) are merged into their base, in fp32, matrix by
matrix; a model of others is copied; both are format=hf. Answers of format=ct2, and those of a
merged model, are compared with the checkpoint's before anything is written: a merged model's logits
may be away by rounding only (`chatlm.export.likeness` says how much that is).
`python cli_demo.py chat model=<folder>` chats with any of them.

    python -m utils.export_model
    python -m utils.export_model model=out/train-001 quantization=float32 out=out/exact
    python -m utils.export_model model=out/train-001 format=hf out=out/train-001-hf
    python -m utils.export_model model=out/zh format=hf out=out/zh-merged
"""

import dataclasses
import difflib
import json
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chatlm import cli, log
from chatlm.checkpoint.kinds import Kind, kind_of
from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import ConfigError
from chatlm.inference.ct2_files import QUANTIZATIONS

FORMATS = ("ct2", "hf")
DTYPES = ("auto", "fp32", "bf16", "fp16")
ALWAYS_USED = ("model", "format", "out")
PROBING = ("probes", "num_probes", "probe_tokens", "min_identical")
WEIGHTS = ("dtype", "max_shard_size")
USED = {
    ("ct2", "own"): ("quantization", "min_agreeing", *PROBING),
    ("hf", "own"): (),
    ("hf", "adapter"): (*WEIGHTS, *PROBING),
    ("hf", "other"): WEIGHTS,
}
"""Which further keys have an effect, by the format and the kind of the model."""
NAMES = {"own": "a model of ChatLM", "adapter": "adapters", "other": "a model of others"}
PROBES = {"own": (100, 64), "adapter": (8, 32)}
"""How many questions are answered, and with how many tokens, where the user does not say."""


@dataclass(frozen=True)
class ExportConfig:
    """Settings of `python -m utils.export_model`."""

    model: str = field(default="", metadata={"help": "checkpoint or run; the newest run if empty"})
    format: str = field(
        default="", metadata={"help": "ct2 or hf; ct2 if empty, hf for a model of others"}
    )
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
            "run's own test questions if empty, for merged adapters those of a general chat"
        },
    )
    num_probes: int = field(
        default=-1, metadata={"help": "the most questions that are used; -1: 100, merging 8"}
    )
    probe_tokens: int = field(
        default=-1, metadata={"help": "longest answer that is compared; -1: 64, merging 32"}
    )
    min_identical: float = field(
        default=-1.0,
        metadata={
            "help": "least share of identical answers; -1: fitting the quantization, merging any"
        },
    )
    min_agreeing: float = field(
        default=-1.0,
        metadata={
            "help": "least share of tokens before a difference; -1: fitting the quantization"
        },
    )
    dtype: str = field(
        default="auto",
        metadata={
            "help": f"of a model of others, merged or not: {', '.join(DTYPES)}; auto: as the "
            "base's files have it"
        },
    )
    max_shard_size: str = field(
        default="4GB", metadata={"help": "of its files of weights, in MB or GB"}
    )

    def __post_init__(self) -> None:
        """Refuses values that no export can use.

        Raises:
            ConfigError: an unknown name, or a number out of its range.
        """
        if self.format:
            _require_known("format", self.format, FORMATS)
        _require_known("quantization", self.quantization, QUANTIZATIONS)
        _require_known("dtype", self.dtype, DTYPES)
        for name in ("num_probes", "probe_tokens"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected 1 or more")
        for name in ("min_identical", "min_agreeing"):
            value = getattr(self, name)
            if value != -1 and not 0 <= value <= 1:
                raise ConfigError(f"{name}={value}: expected a share, 0 to 1, or -1")
        if not re.fullmatch(r"[1-9][0-9]{0,5}(MB|GB)", self.max_shard_size):
            raise ConfigError(f"max_shard_size={self.max_shard_size}: expected 4GB or the like")
        if self.format:
            # Before the model is looked at: what no kind of model uses with this format.
            used = {key for (form, _), keys in USED.items() if form == self.format for key in keys}
            self.refuse_but(used, f"format={self.format}")

    def refuse_but(self, used: Collection[str], why: str) -> None:
        """Refuses keys that would be ignored.

        Raises:
            ConfigError: one is given.
        """
        for key in dataclasses.fields(self):
            is_used = key.name in ALWAYS_USED or key.name in used
            if not is_used and getattr(self, key.name) != key.default:
                raise ConfigError(f"{key.name}= has no effect with {why}: leave it out")


def _require_known(key: str, value: str, known: Sequence[str]) -> None:
    if value in known:
        return
    close = difflib.get_close_matches(value, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"{key}={value}: expected {', '.join(known)}{hint}")


def fitted(config: ExportConfig, kind: Kind, checkpoint: Path) -> ExportConfig:
    """Returns the settings with all that depends on the kind of the model.

    Raises:
        ConfigError: such a model has no such format, or a key would be ignored.
    """
    if kind == "ct2":
        raise ConfigError(
            f"{checkpoint} is an exported model: export the checkpoint that it was made of"
        )
    others = kind != "own"
    if others and config.format == "ct2":
        raise ConfigError(
            f"format=ct2 is for ChatLM's own T5, and {checkpoint} holds {NAMES[kind]}: leave out "
            "format= for a plain Hugging Face folder (which CTranslate2's own converter takes, if "
            "it knows the architecture)"
        )
    made = replace(config, format=config.format or ("hf" if others else "ct2"))
    made.refuse_but(USED[made.format, kind], f"format={made.format} and {NAMES[kind]}")
    num, tokens = PROBES.get(kind, (1, 1))
    return replace(
        made,
        num_probes=num if made.num_probes == -1 else made.num_probes,
        probe_tokens=tokens if made.probe_tokens == -1 else made.probe_tokens,
    )


def default_out(checkpoint: Path, config: ExportConfig, kind: Kind = "own") -> Path:
    """Returns the folder to write where none is named: `out/<run>-ct2-int8`, or `-hf`, `-merged`.

    Args:
        checkpoint: what is exported.
        config: as given, or `fitted`.
        kind: of the checkpoint.
    """
    folder = checkpoint.resolve()
    run = folder.parent.name if folder.name.startswith("step_") else folder.name
    if kind == "adapter":
        return Path("out") / f"{run}-merged"
    suffix = "hf" if config.format == "hf" else f"ct2-{config.quantization}"
    return Path("out") / f"{run}-{suffix}"


def export(
    checkpoint: Path, out: Path, config: ExportConfig, kind: Kind = "own"
) -> dict[str, object]:
    """Writes the folder; returns figures on it.

    Args:
        checkpoint: what is exported.
        out: the folder to write.
        config: from `fitted`.
        kind: of the checkpoint.

    Raises:
        ChatLMError: it cannot be written, or answers too differently.
    """
    if kind == "adapter":
        return _merge(checkpoint, out, config)
    if kind == "other":
        from chatlm.export import plain

        return {"dtype": plain.export(checkpoint, out, config.dtype, config.max_shard_size)}
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


def _merge(checkpoint: Path, out: Path, config: ExportConfig) -> dict[str, object]:
    from chatlm.export import merge, probes

    questions = probes.of_chat(config.probes, config.num_probes)
    sizes = config.dtype, config.max_shard_size
    plan = merge.Plan(checkpoint, out, *sizes, questions, config.probe_tokens, config.min_identical)
    dtype, found = merge.export(plan)
    return {"merged": True, "dtype": dtype, **found.figures()}


def main(argv: Sequence[str]) -> int:
    """Exports and reports."""
    if any(token in ("-h", "--help", "help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(ExportConfig)}")
        return 0
    config = cli.parse(argv, ExportConfig)
    checkpoint = resolve_model(config.model or None)
    kind = kind_of(checkpoint)
    given, config = config.format, fitted(config, kind, checkpoint)
    if not given and kind != "own":
        log.info(f"{checkpoint} holds {NAMES[kind]}: format=hf, a plain Hugging Face folder")
    out = Path(config.out) if config.out else default_out(checkpoint, config, kind)
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists: name another out=, or remove it first (rm -r {out})")
    start = time.monotonic()
    figures = export(checkpoint, out, config, kind)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    report = {"exported": str(checkpoint), "out": str(out), "bytes": size, **figures}
    print(json.dumps({**report, "seconds": round(time.monotonic() - start, 1)}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    cli.run(main)
