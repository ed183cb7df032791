"""Which questions a model was not trained on, as far as its run can tell.

In: the folder of the model, and what shall be asked. Out: a `Rule`. A tuning on a token folder
keeps the prompts of `chatlm.adapters.data.is_held_out` for the validation. A tuning on pairs splits
them otherwise; there a question counts as held out if it is not among the training pairs. General
pairs of a replay were trained on, too: a file of theirs is judged by their own split.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from chatlm import run_folder
from chatlm.adapters.data import is_held_out
from chatlm.adapters.forms import Asked
from chatlm.checkpoint.paths import MODEL_CONFIG
from chatlm.comparison.notes import Note
from chatlm.corpus import store
from chatlm.corpus.conversation import prompt_for
from chatlm.dataset import prepare, token_store
from chatlm.dataset.prepare import Source
from chatlm.errors import CheckpointError, DataError

UNKNOWN = Note(
    "这个目录没有说它是用什么训练的：这里取的是本项目微调时会留出的行",
    "the folder does not say what it was trained on: these are the rows that a tuning with this "
    "project would have held out",
)


@dataclass(frozen=True)
class Rule:
    """Who tells whether a question is held out.

    Attributes:
        holds: a question and its prompt's ids in, whether it was kept from the training out.
        notes: what a reader has to know about it.
    """

    holds: Callable[[Asked, list[int]], bool]
    notes: tuple[Note, ...] = ()


def rule_of(model: Path, data: Path) -> Rule:
    """Returns the rule for a model and the data that it shall be asked from.

    Args:
        model: a checkpoint folder; the settings of its run lie beside it.
        data: a file, or a token folder.

    Raises:
        DataError: the training pairs are there and cannot be read.
    """
    settings = settings_of(model)
    if "data" not in settings:
        return Rule(_by_prompt, (UNKNOWN,))
    rule = _rule_for(str(settings["data"]), data, finetune=bool(settings.get("finetune")))
    replayed = str(settings.get("replay.data") or "")
    if rule.notes and replayed:
        of_replay = _rule_for(replayed, data, finetune=True)
        return rule if of_replay.notes else of_replay
    return rule


def _rule_for(trained: str, data: Path, *, finetune: bool) -> Rule:
    """Returns the rule of one of the sources that a run was trained on."""
    try:
        source = prepare.locate(trained, finetune=finetune)
    except DataError:
        return Rule(_by_prompt, (_gone(trained, data),))
    if source.kind == "sequences":
        return Rule(_by_prompt, () if _is_of(source.path, data) else (_another(source, data),))
    train = _parts(source) / "train.parquet"
    if (data / token_store.META).is_file() or not train.is_file():
        return Rule(_by_prompt, (_gone(source.name, data),))
    seen = _prompts(train)
    is_same = source.path.resolve() in (data.resolve(), data.resolve().parent)
    notes = () if is_same else (_another(source, data),)
    return Rule(lambda asked, _: _digest(_text(asked)) not in seen, notes)


def settings_of(model: Path) -> dict[str, Any]:
    """Returns the settings of the run of a checkpoint, nothing if it is of no run."""
    try:
        return run_folder.settings(model.parent)
    except CheckpointError:
        return {}


def base_of_run(model: Path) -> str:
    """Returns what a run began with that moved every weight of a model of others; "" otherwise."""
    is_whole = (model / MODEL_CONFIG).is_file()
    return str(settings_of(model).get("base") or "") if is_whole else ""


def _by_prompt(_asked: Asked, ids: list[int]) -> bool:
    return is_held_out(ids)


def _text(asked: Asked) -> str:
    return prompt_for(asked.turns, asked.question)


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def _prompts(path: Path) -> frozenset[bytes]:
    batches = store.read_pairs(path, ("prompt", "response"))
    return frozenset(_digest(text) for batch in batches for text in batch["prompt"].to_pylist())


def _parts(source: Source) -> Path:
    return source.path if source.kind == "folder" else prepare.cached_parts(source)


def _is_of(folder: Path, data: Path) -> bool:
    """Tells whether a token folder was made of a file, or is it.

    `alpaca.json` and the `alpaca.jsonl` beside it, which a command of this project makes of it,
    count as one.
    """
    if folder.resolve() == data.resolve():
        return True
    meta = token_store.open_store(folder).meta
    origin = Path(str(meta.get("data", "")))
    if origin.stem == data.stem and origin.resolve().parent == data.resolve().parent:
        return True
    return data.is_file() and meta.get("data_sha256") == store.file_sha256(data)


def _another(source: Source, data: Path) -> Note:
    return Note(
        f"训练用的是 {source.name}，不是 {data}：在这里“留出”没有意义，这些行本来就不在训练数据里",
        f"the run was trained on {source.name} and not on {data}: held-out means nothing here, its "
        "rows were not what was trained on",
    )


def _gone(trained: str, data: Path) -> Note:
    return Note(
        f"训练用的数据 {trained or '（默认）'} 无法和 {data} 对照：不知道这些行训练时见过没有",
        f"what the run was trained on ({trained or 'the default data'}) cannot be compared with "
        f"{data}: whether these rows were trained on is not known",
    )
