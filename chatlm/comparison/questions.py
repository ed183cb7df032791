"""What both models are asked: held-out rows of a file with their references, or plain questions.

In: a file of pairs in any format that `utils.tokenize_dataset_rows` reads, a folder that it wrote,
a text with a question a line, or nothing. Out: `Asking`. Which rows are taken is decided by their
prompts alone: the order of the file does not matter, and a prompt that stands there often is asked
once, with all its answers as references.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np

from chatlm import untrusted
from chatlm.adapters.data import is_held_out
from chatlm.adapters.forms import Asked, Form
from chatlm.adapters.sequences import BATCH_ROWS, asked_of, open_sequences
from chatlm.corpus.example import Skipped
from chatlm.corpus.readers import read
from chatlm.corpus.records import Record
from chatlm.corpus.store import file_sha256
from chatlm.dataset.token_store import META
from chatlm.errors import DataError

MOST_QUESTION_BYTES = 1 << 20
OWN = (
    "用三句话介绍你最喜欢的季节。",
    "怎样才能养成每天读书的习惯？",
    "把下面的词语按大小排列：村庄、国家、城市。",
    "Describe a walk in the forest in three sentences.",
    "How can I learn to cook with little time?",
    "Sort these animals by size: mouse, elephant, dog.",
)
"""Asked where nothing is named: three instructions in Chinese, three in English."""

Holds: TypeAlias = Callable[[Asked, list[int]], bool]
Fits: TypeAlias = Callable[["Question"], bool]
BUILT_IN = "built-in questions"


@dataclass
class Question:
    """A prompt and what it should be answered with.

    Attributes:
        text: for people, with earlier turns before it.
        prompt_ids: what a model reads.
        references: the answers in the data, in a fixed order; none for a plain question.
        targets: the ids of each of them as it is learnt, with the end of an answer.
    """

    text: str
    prompt_ids: list[int]
    references: list[str] = field(default_factory=list)
    targets: list[list[int]] = field(default_factory=list)

    @property
    def digest(self) -> bytes:
        """Decides which questions are taken, and their order."""
        return blake2b(np.asarray(self.prompt_ids, "<i8").tobytes(), digest_size=16).digest()


@dataclass(frozen=True)
class Asking:
    """The questions, and what became of the other rows.

    Attributes:
        questions: in the order in which they are shown.
        source: the file, the folder, or what else they are from.
        sha256: of the file; "" for the built-in questions.
        rows_in: rows of the file.
        held_out: different held-out prompts that can be asked.
        left_out: numbers of rows by the reason why they cannot be asked.
    """

    questions: list[Question]
    source: str
    sha256: str = ""
    rows_in: int = 0
    held_out: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def has_references(self) -> bool:
        """Whether answers can be scored."""
        return bool(self.questions and self.questions[0].references)


def plain(path: str, form: Form, fits: Fits) -> Asking:
    """Returns the questions of a text file, one a line, or our own.

    Args:
        path: the file; "": our own questions.
        form: makes the ids.
        fits: whether the model has room for a question.

    Raises:
        DataError: the file cannot be read or holds no question that can be asked.
    """
    texts = list(OWN)
    if path:
        try:
            lines = untrusted.read_text(Path(path), MOST_QUESTION_BYTES).splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"questions={path} cannot be read: {error}") from error
        texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    prompts = form.prompt_ids([Asked(text) for text in texts])
    found = list[Question]()
    counts: Counter[str] = Counter()
    for text, ids in zip(texts, prompts, strict=True):
        question = Question(text, ids or [])
        if ids is None:
            counts["special_text"] += 1
        elif not fits(question):
            counts["too_long"] += 1
        else:
            found.append(question)
    source = path or BUILT_IN
    if not found:
        raise DataError(
            f"{source}: no question can be asked ({_reasons(counts)}): write short ones, one a line"
        )
    digest = file_sha256(Path(path)) if path else ""
    return Asking(found, source, digest, len(texts), len(found), dict(sorted(counts.items())))


def held_out(data: Path, form: Form, holds: Holds, fits: Fits) -> Asking:
    """Returns all held-out rows that the model has room for, in an order of no meaning.

    Args:
        data: a file of pairs, or a token folder of this form.
        form: makes the ids.
        holds: whether a question is held out.
        fits: whether the model has room for a question, an answer and the reference.

    Raises:
        DataError: it cannot be read, or there is no such row.
    """
    counts: Counter[str] = Counter()
    is_folder = (data / META).is_file()
    if data.is_dir() and not is_folder:
        raise DataError(
            f"data={data} is a folder, and none of utils.tokenize_dataset_rows: name a file of "
            "pairs in it"
        )
    if not data.exists():
        raise DataError(f"data={data} does not exist: name a file of pairs, or a token folder")
    rows = _stored(data, form, counts) if is_folder else _rows(data, form, counts)
    found: dict[bytes, Question] = {}
    for asked, question in rows:
        if not is_folder and not holds(asked, question.prompt_ids):
            counts["not_held_out"] += 1
        elif not fits(question):
            counts["too_long"] += 1
        elif (known := found.setdefault(question.digest, question)) is not question:
            _add(known, question)
            counts["same_prompt"] += 1
    rows_in = counts.pop("rows_in", 0)
    if not found:
        raise DataError(
            f"{data}: no held-out row can be asked ({rows_in} rows, {_reasons(counts)}); one "
            "prompt in a hundred is held out: name a larger file, or ask what you like with "
            "questions="
        )
    ordered = [found[digest] for digest in sorted(found)]
    digest = file_sha256(data / META if is_folder else data)
    return Asking(ordered, str(data), digest, rows_in, len(ordered), dict(sorted(counts.items())))


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "all empty"


def _add(known: Question, other: Question) -> None:
    """Adds the reference of the same prompt, if it is another one, in alphabetical order."""
    text = other.references[0]
    if text not in known.references:
        place = bisect(known.references, text)
        known.references.insert(place, text)
        known.targets.insert(place, other.targets[0])


def _stored(folder: Path, form: Form, counts: Counter[str]) -> Iterator[tuple[Asked, Question]]:
    store = open_sequences(folder, form.fingerprint)
    counts["rows_in"] = len(store)
    for row in range(len(store)):
        prompt, target = store.sources[row].tolist(), store.targets[row].tolist()
        if is_held_out(prompt):  # only these have to become texts again
            text, reference = form.decode(prompt).strip(), form.decode(target)
            yield Asked(text, is_whole=True), Question(text, prompt, [reference], [target])
        else:
            counts["not_held_out"] += 1


def _rows(path: Path, form: Form, counts: Counter[str]) -> Iterator[tuple[Asked, Question]]:
    pairs = _pairs(path, counts)
    while batch := list(islice(pairs, BATCH_ROWS)):
        prompts = form.prompt_ids([asked for asked, _ in batch])
        answers = form.answer_ids([answer for _, answer in batch])
        for (asked, text), prompt, answer in zip(batch, prompts, answers, strict=True):
            if prompt is None:
                counts["special_text"] += 1
            else:
                target = [*answer, *form.end_ids]
                yield asked, Question(_shown(asked), prompt, [text], [target])


def _pairs(path: Path, counts: Counter[str]) -> Iterator[tuple[Asked, str]]:
    """Yields questions and answers, and counts what is none."""
    for record in read(path):
        if not isinstance(record, Record):
            counts["rows_in"] += 1
            counts[record.reason] += 1
            continue
        found = asked_of(record.fields)
        counts["rows_in"] += 1 if isinstance(found, str) else len(found)
        for one in [found] if isinstance(found, str) else found:
            if isinstance(one, str):
                counts[one] += 1
            elif isinstance(one, Skipped):
                counts[one.reason] += 1
            else:
                yield one


def _shown(asked: Asked) -> str:
    turns: Sequence[str] = [f"{user}\n→ {answer}" for user, answer in asked.turns]
    return "\n".join([*turns, asked.question])


def sample(asking: Asking, rows: int) -> list[Question]:
    """Returns so many of the questions (0: all), the same whenever the same are there."""
    return asking.questions[:rows] if rows else asking.questions
