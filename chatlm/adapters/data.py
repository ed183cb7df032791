"""What a tuning of a model of others reads: sequences as ids, and a held-out part of them.

In: a folder of `utils.tokenize_dataset_rows`, or parts of pairs; the form of the base; perhaps
general pairs for a replay. Out: a `Prepared`, as for our own models. Which sequences are held out
is decided by their prompts alone, so that anybody can tell it again from the texts, in any order
and with any other rows beside them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from chatlm import log
from chatlm.adapters import replay as replays
from chatlm.adapters import sequences
from chatlm.adapters.forms import Form
from chatlm.adapters.replay import Replay, subset
from chatlm.config import TrainConfig
from chatlm.corpus import store
from chatlm.corpus.records import Record
from chatlm.dataset import prepare, token_store
from chatlm.dataset.prepare import Found, Prepared, Source
from chatlm.dataset.token_store import TokenStore
from chatlm.errors import ConfigError, DataError

HELD_OUT = 100
"""One prompt in so many is not trained on."""


@dataclass(frozen=True)
class FormTokenizer:
    """A form in the place of our own tokenizer, where a run only names, shows and saves it."""

    form: Form

    @property
    def fingerprint(self) -> str:
        """Of all that decides which ids a pair gets."""
        return self.form.fingerprint

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self.form.vocab_size

    def decode(self, ids: Any) -> str:
        """Returns the text of ids without special tokens."""
        return self.form.decode(list(ids))

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files."""
        self.form.tokenizer.save_pretrained(folder)


def is_held_out(prompt_ids: Any) -> bool:
    """Tells whether the answers to a prompt are kept for the validation."""
    return crc32(np.asarray(prompt_ids, "<i8").tobytes()) % HELD_OUT == 0


@dataclass(frozen=True)
class TuningData(Prepared):
    """What a tuning reads; `general_valid` are the held-out pairs of its replay, if there are any.

    `valid` is the task's alone, `found` identifies the pairs of both.
    """

    general_valid: TokenStore | None = None

    def longest(self, *, in_one_row: bool) -> int:
        """Returns the tokens of the longest pair that is read: of both sides, or of the longer."""
        joined = np.add if in_one_row else np.maximum
        stores = filter(None, (self.train, self.valid, self.general_valid))
        return max(int(joined(one.sources.lengths, one.targets.lengths).max()) for one in stores)


def prepare_data(
    config: TrainConfig, source: Source, found: Found, form: Form, replay: Replay | None = None
) -> TuningData:
    """Returns what the run reads.

    Args:
        config: limits, and the share of the replay.
        source: where the pairs of the task are.
        found: their sums.
        form: makes the ids.
        replay: where general pairs are, None for none.

    Raises:
        DataError: there is nothing to train on, or ids of another tokenizer.
        ConfigError: the longest sequence does not fit into a microbatch.
    """
    train, valid = _parts(config, source, found, form)
    if not len(train):
        raise DataError(f"{source.name} holds no sequence to train on")
    log.info(f"{source.name}: {len(train)} sequences, {len(valid) if valid else 0} held out")
    general_valid = None
    if replay:
        general, general_valid = _parts(config, replay.source, replay.found, form)
        train = replays.mixed(train, valid, general, config)
    longest = int((train.sources.lengths + train.targets.lengths).max())
    if longest > config.microbatch_tokens:
        raise ConfigError(
            f"the longest sequence has {longest} tokens: microbatch_tokens={longest} or more"
        )
    tokenizer: Any = FormTokenizer(form)
    whole = replays.joined(found, replay)
    return TuningData(found.folder, tokenizer, train, valid, whole, general_valid)


def _parts(
    config: TrainConfig, source: Source, found: Found, form: Form
) -> tuple[TokenStore, TokenStore | None]:
    """Returns the sequences to train on and those held out; None if there is none."""
    if source.kind == "sequences":
        return parted(sequences.open_sequences(source.path, form.fingerprint))
    train = _sequences(found.folder / "train.parquet", found.train, config, form)
    path = found.folder / "valid.parquet"
    has_valid = found.valid and store.num_rows(path)
    return train, _sequences(path, found.valid, config, form) if has_valid else None


def parted(whole: TokenStore) -> tuple[TokenStore, TokenStore | None]:
    """Returns the sequences to train on and those held out; None if there is none."""
    held = np.fromiter((is_held_out(whole.sources[i]) for i in range(len(whole))), np.bool_)
    rest = subset(whole, np.flatnonzero(~held))
    return rest, subset(whole, np.flatnonzero(held)) if held.any() else None


def _sequences(path: Path, digest: str, config: TrainConfig, form: Form) -> TokenStore:
    """Returns the sequences of a parquet of pairs, from the cache or made now."""
    most = config.max_source_tokens + config.max_target_tokens
    folder = prepare.CACHE / f"sequences-{digest[:16]}-{form.fingerprint[:16]}-{most}"
    if not folder.is_dir():
        log.info(f"tokenising {path}")
        limits = sequences.Limits(most, skip_overlength=False)
        counts = sequences.write(_records(path), form, limits, folder, {"data": str(path)})
        log.info(f"{path}: {counts.kept} sequences, dropped {counts.as_dict()['dropped']}")
    if damage := token_store.damage(folder):
        raise DataError(f"{folder} is damaged ({damage}): delete it, it is made again")
    return sequences.open_sequences(folder, form.fingerprint)


def _records(path: Path) -> Iterator[Record]:
    number = 0
    for batch in store.read_pairs(path, ("prompt", "response")):
        for row in batch.to_pylist():
            number += 1
            yield Record(number, row)
