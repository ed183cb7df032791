r"""Pairs as token ids, for tuning a model that others made.

In: JSON Lines of `prompt` and `response` (from `utils.cover_alpaca2jsonl`), of `context` and
`target`, or of conversations; the folder or name of a model. Out: a folder of token ids that only
this model's tokenizer opens; on stdout, what became of the rows. The limit is on the whole
sequence: prompt, answer and the token that ends it. No prompt is cut; a cut answer gets no end.

    python -m utils.tokenize_dataset_rows --jsonl_path data/alpaca_data_zh.jsonl \
        --save_path data/alpaca_zh --max_seq_length 200 --skip_overlength true
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatlm import cli
from chatlm.errors import ConfigError

ALIASES = {"chatglm_path": "base", "model_name_or_path": "base"}
MIN_SEQ_LENGTH = 4


@dataclass(frozen=True)
class TokenizeConfig:
    """Settings of `python -m utils.tokenize_dataset_rows`."""

    jsonl_path: str = field(
        default="data/alpaca_data.jsonl", metadata={"help": "pairs, a line each"}
    )
    save_path: str = field(default="data/alpaca", metadata={"help": "folder to write or replace"})
    max_seq_length: int = field(
        default=384, metadata={"help": "most tokens of prompt, answer and its end together"}
    )
    skip_overlength: bool = field(
        default=False, metadata={"help": "leave longer rows out; false cuts their answers"}
    )
    base: str = field(
        default="THUDM/chatglm-6b", metadata={"help": "model whose tokenizer it is: folder or name"}
    )

    def __post_init__(self) -> None:
        """Refuses a limit that no pair can keep.

        Raises:
            ConfigError: max_seq_length is too small.
        """
        if self.max_seq_length < MIN_SEQ_LENGTH:
            raise ConfigError(
                f"max_seq_length={self.max_seq_length} must be at least {MIN_SEQ_LENGTH}"
            )


def tokenize(config: TokenizeConfig) -> dict[str, object]:
    """Writes the folder; returns what became of the rows.

    Raises:
        DataError: the rows cannot be read, none is left, or the folder cannot be written.
        CheckpointError: the tokenizer cannot be loaded.
    """
    from chatlm.adapters import sequences
    from chatlm.adapters.forms import open_form
    from chatlm.corpus.readers import read
    from chatlm.corpus.store import file_sha256

    source, start = Path(config.jsonl_path), time.monotonic()
    rows = read(source)
    form = open_form(config.base)
    limits = sequences.Limits(config.max_seq_length, config.skip_overlength)
    facts = {"base": config.base, "data": str(source), "data_sha256": file_sha256(source)}
    counts = sequences.write(rows, form, limits, Path(config.save_path), facts)
    return {
        "saved": config.save_path,
        "form": form.name,
        **counts.as_dict(),
        "tokenizer": form.fingerprint,
        "seconds": round(time.monotonic() - start, 1),
    }


def main(argv: Sequence[str]) -> int:
    """Tokenises and reports."""
    if any(token in ("-h", "--help", "help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(TokenizeConfig)}")
        return 0
    config = cli.parse(argv, TokenizeConfig, aliases=ALIASES)
    print(json.dumps(tokenize(config), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    cli.run(main)
