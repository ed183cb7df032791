"""Both models are asked, and what they said is measured.

In: settings. Out: a `Comparison`. The two models are one where the tuned one has adapters: they are
switched off for the base, there is no second copy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from chatlm.adapters import probe as general
from chatlm.adapters.base import Hold
from chatlm.adapters.forms import Asked
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.opened import Opened, open_model
from chatlm.checkpoint.kinds import kind_of
from chatlm.checkpoint.paths import resolve_model
from chatlm.comparison import held_out, questions, scoring
from chatlm.comparison.answers import Advance, Answer, ReferenceLoss, ask, reference_loss
from chatlm.comparison.bar import counted
from chatlm.comparison.notes import Note
from chatlm.comparison.questions import Asking, Question
from chatlm.comparison.result import Comparison, Probe
from chatlm.comparison.settings import CompareConfig
from chatlm.errors import ConfigError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.torch_engine import torch_device, torch_dtype

NO_BASE = Note(
    "这个模型没有适配器，也没有说底座是什么：只有它自己的回答（要比较就写 base=）",
    "the model has no adapters and does not say what its base is: it answers alone (name base= to "
    "compare)",
)


@dataclass(frozen=True)
class Pair:
    """The two models.

    Attributes:
        tuned: the model that is judged.
        other: the base as a model of its own; None: `tuned` without adapters, or there is none.
        base: the name of the base, "" if there is none.
    """

    tuned: Opened
    other: Opened | None
    base: str

    @property
    def models(self) -> list[LanguageModel]:
        """Returns the models that are held: one where the base is the tuned one."""
        return [one.model for one in (self.tuned, self.other) if one]

    @contextmanager
    def as_base(self) -> Iterator[Opened]:
        """Gives the base."""
        if self.other:
            yield self.other
            return
        with self.tuned.without_adapters():
            yield self.tuned


@dataclass(frozen=True)
class Heard:
    """What one model gave."""

    answers: list[Answer]
    loss: ReferenceLoss | None
    general: list[Answer]


def compare(config: CompareConfig) -> Comparison:
    """Returns the comparison.

    Raises:
        ChatLMError: there is no such model or data, or a setting cannot work with it.
    """
    folder = resolve_model(config.model or None)
    pair = open_pair(folder, config)
    most = min(map(general.most_positions, pair.models))
    generation = _generation(config, most)
    fits = _room(pair, most, generation)
    asking, notes = _asking(folder, config, pair.tuned, fits)
    asked = questions.sample(asking, config.rows if config.data else 0)
    asking = replace(asking, questions=asked)
    usual = _general(pair.tuned, config, fits) if pair.base else []
    with counted((len(asked) + len(usual)) * (2 if pair.base else 1)) as advance:
        ours = _hear(pair.tuned, asked, usual, generation, config, advance)
        theirs = None
        if pair.base:
            with pair.as_base() as base:
                theirs = _hear(base, asked, usual, generation, config, advance)
    rows = scoring.rows_of(asked, ours.answers, theirs and theirs.answers)
    figures = {"tuned": scoring.figures_of(ours.answers, asked, ours.loss)}
    if theirs:
        figures["base"] = scoring.figures_of(theirs.answers, asked, theirs.loss)
    if asking.has_references:
        figures["reference"] = scoring.reference_figures(asked)
    return Comparison(
        str(folder),
        pair.base,
        pair.tuned.form.name,
        asking,
        _settings(config, generation),
        figures,
        scoring.contest_of(rows),
        _probe(pair, usual, ours, theirs) if theirs and config.probe else None,
        notes if pair.base else (NO_BASE, *notes),
        rows,
    )


def open_pair(folder: Path, config: CompareConfig) -> Pair:
    """Returns the tuned model and its base.

    Raises:
        CheckpointError: a file is missing or damaged.
        ConfigError: the folder is of a kind that cannot be compared, or the two read other ids.
    """
    if kind_of(folder) == "ct2":
        raise ConfigError(
            f"{folder} is exported for CTranslate2: name the checkpoint that it was made of"
        )
    device = torch_device(config.device)
    hold = Hold(device, torch_dtype(config.dtype, device), config.quantize)
    tuned = open_model(folder, hold)
    name = config.base or ("" if tuned.has_adapters else held_out.base_of_run(folder))
    if not name:
        return Pair(tuned, None, tuned.base if tuned.has_adapters else "")
    base = resolve_model(name) if Path(name).is_dir() else Path(name)
    other = open_model(base, hold)
    if other.form.fingerprint != tuned.form.fingerprint:
        raise ConfigError(
            f"base={name} has another tokenizer or chat template than {folder}: only models that "
            "read the same ids are compared"
        )
    return Pair(tuned, other, name)


def _generation(config: CompareConfig, most: int) -> GenerationConfig:
    """Returns how both models answer.

    Raises:
        ConfigError: no prompt would have room beside such a long answer.
    """
    generation = config.generation(most)
    if generation.max_new_tokens >= most:
        raise ConfigError(
            f"max_new_tokens={generation.max_new_tokens} leaves no room for a question: the model "
            f"holds {most} tokens"
        )
    return generation


def _room(pair: Pair, most: int, generation: GenerationConfig) -> questions.Fits:
    """Returns whether both have room for a question, with a full answer and with its references."""
    is_one_row = any(model.is_causal for model in pair.models)

    def fits(question: Question) -> bool:
        answer = max(generation.max_new_tokens, *map(len, question.targets), 0)
        if is_one_row:
            return len(question.prompt_ids) + answer <= most
        return max(len(question.prompt_ids), answer) <= most

    return fits


def _asking(
    folder: Path, config: CompareConfig, opened: Opened, fits: questions.Fits
) -> tuple[Asking, Sequence[Note]]:
    """Returns all that can be asked, and what has to be known about it.

    Raises:
        DataError: there is nothing to ask.
    """
    if not config.data:
        return questions.plain(config.questions, opened.form, fits), ()
    data = Path(config.data)
    rule = held_out.rule_of(folder, data)
    return questions.held_out(data, opened.form, rule.holds, fits), rule.notes


def _general(opened: Opened, config: CompareConfig, fits: questions.Fits) -> list[Question]:
    """Returns the questions of the fixed general chat that the model has room for."""
    if not config.probe:
        return []
    pairs = general.pairs()
    prompts = opened.form.prompt_ids([Asked(pair.question) for pair in pairs])
    found = [
        Question(pair.question, ids, [pair.answer])
        for pair, ids in zip(pairs, prompts, strict=True)
        if ids
    ]
    return list(filter(fits, found))


def _hear(
    opened: Opened,
    asked: Sequence[Question],
    usual: Sequence[Question],
    generation: GenerationConfig,
    config: CompareConfig,
    advance: Advance,
) -> Heard:
    """Returns what a model says to everything, and the loss of the references."""
    given = ask(opened, asked, generation, config.batch_size, advance)
    loss = None
    if asked[0].references:
        loss = reference_loss(opened, asked, config.batch_size)
    chat = ask(opened, usual, generation, config.batch_size, advance)
    return Heard(given, loss, chat)


def _probe(pair: Pair, usual: Sequence[Question], ours: Heard, theirs: Heard) -> Probe:
    drift = general.measure(pair.tuned.model, pair.tuned.form, pair.other and pair.other.model)
    rows = scoring.probe_rows(
        [question.text for question in usual],
        [question.references[0] for question in usual],
        ours.general,
        theirs.general,
    )
    return Probe(
        **vars(drift),
        alike=sum(row.alike for row in rows) / len(rows) if rows else None,
        same=sum(row.tuned == row.base for row in rows) / len(rows) if rows else None,
        rows=rows,
    )


def _settings(config: CompareConfig, generation: GenerationConfig) -> dict[str, object]:
    """Returns what decides the answers."""
    return {
        "max_new_tokens": generation.max_new_tokens,
        "num_beams": generation.num_beams,
        "temperature": generation.temperature,
        "repetition_penalty": generation.repetition_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "rows": config.rows,
        "dtype": config.dtype,
        "quantize": config.quantize,
    }
