"""Training data of a decoder as token ids on disk: one prompt and one answer a row.

In: rows, a form, and the most tokens that a whole sequence may have. Out: a folder in the layout of
`chatlm.dataset.token_store` (prompts are its sources, answers its targets), which carries the
fingerprint of what made its ids and is refused with anything else. Rows go through a few at a time;
each one that is left out has a reason and is counted. A cut answer gets no end; no prompt is cut.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ujson

from chatlm.adapters.forms import Asked, Form
from chatlm.corpus.conversation import turns_of
from chatlm.corpus.convert import pairs
from chatlm.corpus.counts import Counts
from chatlm.corpus.example import Skipped
from chatlm.corpus.records import Fields, Read, Record
from chatlm.corpus.store import file_sha256, sync_folder
from chatlm.dataset import token_store
from chatlm.dataset.token_store import TokenStore
from chatlm.errors import DataError

KIND = "sequences"
BATCH_ROWS = 2048
REASONS = {
    "prompt_too_long": "the prompt leaves no room for an answer",
    "too_long": "the whole sequence is too long, and skip_overlength is on",
    "special_text": "the prompt holds the name of a special token, and the template hides its end",
    "empty_context": "there is no prompt",
    "empty_target": "there is no answer",
}
"""Why a row is left out; further reasons are those of `chatlm.corpus.reasons`."""


@dataclass(frozen=True)
class Limits:
    """How long a sequence may be, prompt, answer and end together, and what becomes of longer ones.

    Attributes:
        max_seq_length: In tokens.
        skip_overlength: Whether longer ones are left out; else their answers are cut.
    """

    max_seq_length: int
    skip_overlength: bool


def asked_of(fields: Fields) -> list[tuple[Asked, str] | Skipped] | str:
    """Returns the questions and answers of one record, or the reason why it has none.

    Understood are `context` and `target`, whose context is the whole prompt already, and all that
    the `pairs` corpus is: prompt and response, instruction, input and output, messages.
    """
    context, target = fields.get("context"), fields.get("target")
    if isinstance(context, str) and isinstance(target, str):
        if not context.strip():
            return "empty_context"
        return [(Asked(context, is_whole=True), target)] if target.strip() else "empty_target"
    found = pairs(fields)
    if isinstance(found, str):
        return found
    rows = list[tuple[Asked, str] | Skipped]()
    for one in found:
        if isinstance(one, Skipped):
            rows.append(one)
        else:
            turns, question = turns_of(one.prompt)
            rows.append((Asked(question, tuple(turns)), one.response))
    return rows


def write(read: Read, form: Form, limits: Limits, folder: Path, facts: Mapping[str, Any]) -> Counts:
    """Writes the rows of a file into `folder`, which a store that lies there makes way for.

    Args:
        read: Records, and what could not be read.
        form: Makes the ids.
        limits: How long a row may be.
        folder: Where the store will lie.
        facts: For the file `meta.json`: where the rows come from.

    Returns:
        What happened to the rows.

    Raises:
        DataError: No row is left, or the folder is something else's, or cannot be written.
    """
    _require_replaceable(folder)
    part = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        counts, meta = _write_rows(read, form, limits, part)
        if not counts.kept:
            raise DataError(f"no row is left to train on: {counts.as_dict()['dropped']}")
        counts.check("tokenize")
        files = {path.name: file_sha256(path) for path in sorted(part.iterdir())}
        whole = {**meta, **facts, "files": files, "fingerprint": form.fingerprint}
        (part / "meta.json").write_text(ujson.dumps(whole, indent=1), encoding="utf-8")
        for path in part.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        _put(part, folder)
    except OSError as error:
        raise DataError(f"cannot write the token store {folder}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return counts


def open_sequences(folder: Path, fingerprint: str) -> TokenStore:
    """Returns the store in a folder, its ids memory-mapped.

    Args:
        folder: From `write`.
        fingerprint: That of the form whose model shall read it.

    Raises:
        DataError: It is missing or damaged, of another kind, or made with another tokenizer.
    """
    store = token_store.open_store(folder)
    if store.meta.get("kind") != KIND:
        raise DataError(
            f"{folder} holds pairs for our own models; make sequences with: python -m "
            "utils.tokenize_dataset_rows"
        )
    if store.meta["tokenizer"] != fingerprint:
        raise DataError(
            f"{folder} was made with the tokenizer of {store.meta.get('base', 'another model')} "
            f"({store.meta['tokenizer'][:12]}), and not with this one ({fingerprint[:12]}); make "
            "it again with: python -m utils.tokenize_dataset_rows base=<this model>"
        )
    return store


def _require_replaceable(folder: Path) -> None:
    """Refuses to write over anything but an older store of this kind.

    Raises:
        DataError: Something else lies there.
    """
    if not folder.exists():
        return
    try:
        is_ours = ujson.loads((folder / "meta.json").read_text(encoding="utf-8"))["kind"] == KIND
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise DataError(f"{folder} exists and is no token store; name another save_path=")


def _put(part: Path, folder: Path) -> None:
    """Gives a finished folder its name."""
    older = folder.with_name(f".old-{folder.name}-{os.getpid()}")
    if folder.exists():
        folder.rename(older)
    part.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(older, ignore_errors=True)


def _write_rows(
    read: Read, form: Form, limits: Limits, part: Path
) -> tuple[Counts, dict[str, Any]]:
    dtype = np.dtype(np.uint16 if form.vocab_size <= 2**16 else np.uint32)
    counts = Counts()
    lengths: tuple[list[int], list[int]] = ([], [])
    chars: list[int] = []
    max_turns = num_histories = 0
    with (part / "sources.bin").open("wb") as sources, (part / "targets.bin").open("wb") as targets:
        rows = _asked(read, counts)
        while batch := list(islice(rows, BATCH_ROWS)):
            prompts = form.prompt_ids([asked for asked, _ in batch])
            answers = form.answer_ids([answer for _, answer in batch])
            for (asked, text), prompt, answer in zip(batch, prompts, answers, strict=True):
                fitted = fit(prompt, answer, form.end_ids, limits)
                if isinstance(fitted, str):
                    counts.dropped[fitted] += 1
                    continue
                assert prompt is not None
                is_cut = len(fitted) < len(answer) + len(form.end_ids)
                counts.kept += 1
                counts.modified["cut_answer"] += is_cut
                max_turns = max(max_turns, len(asked.turns))
                num_histories += bool(asked.turns)
                for side, file, ids in ((0, sources, prompt), (1, targets, fitted)):
                    file.write(np.array(ids, dtype).data)
                    lengths[side].append(len(ids))
                chars.append(len(form.decode(fitted)) if is_cut else len(text))
    for name, side in (("source", 0), ("target", 1)):
        np.save(part / f"{name}_offsets.npy", _offsets(lengths[side]))
    np.save(part / "target_chars.npy", np.array(chars, np.uint32))
    return counts, {
        "format": token_store.FORMAT_VERSION,
        "kind": KIND,
        "dtype": dtype.name,
        "rows": counts.kept,
        "counts": counts.as_dict(),
        "cut_targets": counts.modified["cut_answer"],
        "histories": num_histories,
        "max_turns": max_turns,
        "max_seq_length": limits.max_seq_length,
        "skip_overlength": limits.skip_overlength,
        "form": form.name,
        "pad_id": form.pad_id,
        "tokenizer": form.fingerprint,
    }


def _asked(read: Read, counts: Counts) -> Iterator[tuple[Asked, str]]:
    """Yields questions and answers, and counts what is none."""
    for record in read:
        if not isinstance(record, Record):
            counts.rows_in += 1
            counts.dropped[record.reason] += 1
            continue
        found = asked_of(record.fields)
        counts.rows_in += 1 if isinstance(found, str) else len(found)
        if isinstance(found, str):
            counts.dropped[found] += 1
            continue
        for one in found:
            if isinstance(one, Skipped):
                counts.dropped[one.reason] += 1
            else:
                yield one


def fit(
    prompt: Sequence[int] | None, answer: Sequence[int], end: Sequence[int], limits: Limits
) -> Sequence[int] | str:
    """Returns the answer's ids as they are learnt, or the reason why the row is left out."""
    if prompt is None:
        return "special_text"
    room = limits.max_seq_length - len(prompt)
    if room < 1:
        return "prompt_too_long"
    whole = [*answer, *end]
    if len(whole) <= room:
        return whole
    return "too_long" if limits.skip_overlength else answer[:room]


def _offsets(lengths: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)
