"""The report of `train.py evaluate`: a checkpoint answers held-out questions.

In: a checkpoint or run, of ours or a tuned model of others, and pairs. Out: a text with figures and
some answers. It trains nothing and writes no file; `cli_demo.py compare` holds a tuned model
against its base.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from chatlm import cli, evaluate, run_folder
from chatlm.checkpoint.kinds import kind_of
from chatlm.checkpoint.paths import resolve_model
from chatlm.checkpoint.weights import load_model
from chatlm.config import TrainConfig
from chatlm.corpus.example import Example
from chatlm.dataset import prepare
from chatlm.errors import CheckpointError, ConfigError, DataError
from chatlm.evaluate import Speech
from chatlm.generation_config import GenerationConfig
from chatlm.inference.open import read_limits
from chatlm.inference.torch_engine import torch_device
from chatlm.model.trainee import Trainee
from chatlm.sanitize import sanitize
from chatlm.tokenizer import Tokenizer


def make(
    model: str | None, data: str, *, pairs: int, show: int, num_beams: int, device: str
) -> str:
    """Returns the report.

    Args:
        model: checkpoint or run folder; None: the newest run.
        data: parquet of pairs; for a model of others any file of pairs or a token folder, of which
            it is asked what it was not trained on; "": the held-out part of the run's own data.
        pairs: how many of them to ask; 0: all.
        show: how many answers the report quotes.
        num_beams: 1 is greedy.
        device: auto, cpu or cuda.

    Raises:
        ChatLMError: there is no such model or no such data.
    """
    folder = resolve_model(model)
    kind = kind_of(folder)
    if kind == "ct2":
        raise ConfigError(f"{folder} is an exported model: evaluate what it was made of")
    where = torch_device(device)
    asked = (
        _of_others(folder, data, where) if kind != "own" else _of_ours(folder, data, where, pairs)
    )
    examples = asked.examples[:pairs] if pairs else asked.examples
    if not examples:
        raise DataError(f"{data or 'the test part'} holds no pairs")
    config = GenerationConfig(max_new_tokens=asked.max_new_tokens, num_beams=num_beams)
    prompts = [example.prompt for example in examples]
    given = evaluate.answers(asked.model, asked.speech, prompts, config)
    report = [str(folder), *asked.notes, *_figures(examples, given)]
    return sanitize("\n".join([*report, *_quotes(examples, given, show)]))


@dataclass(frozen=True)
class _Asked:
    """A model, how it is asked and how much it says, and the questions with their references."""

    model: Trainee
    speech: Speech
    max_new_tokens: int
    examples: Sequence[Example]
    notes: Sequence[str] = ()


def _of_ours(folder: Path, data: str, device: torch.device, pairs: int) -> _Asked:
    examples = evaluate.read_examples(Path(data) if data else _test_part(folder), pairs)
    limits, tokenizer = read_limits(folder), Tokenizer.load(folder)
    speech = evaluate.t5_speech(tokenizer, limits.max_source_tokens)
    return _Asked(load_model(folder).to(device), speech, limits.max_new_tokens, examples)


def _of_others(folder: Path, data: str, device: torch.device) -> _Asked:
    """Returns a model of others and what it was not trained on, as `compare` chooses it."""
    from chatlm.adapters.base import Hold
    from chatlm.adapters.opened import open_model
    from chatlm.adapters.tuning import speech_of
    from chatlm.comparison import held_out, questions

    path = Path(data) if data else _held_out_part(folder)
    limits, rule = read_limits(folder), held_out.rule_of(folder, path)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    opened = open_model(folder, Hold(device, dtype))
    asking = questions.held_out(
        path, opened.form, rule.holds, lambda one: len(one.prompt_ids) <= limits.max_source_tokens
    )
    ids = {one.text: one.prompt_ids for one in asking.questions}
    speech = replace(speech_of(opened.form), encode=lambda texts: [ids[text] for text in texts])
    examples = [Example(one.text, one.references[0], "pairs") for one in asking.questions]
    notes = [f"{asking.held_out} held-out questions of {asking.rows_in} rows in {asking.source}"]
    notes += [note.en for note in rule.notes]
    return _Asked(opened.model, speech, limits.max_new_tokens, examples, notes)


def _held_out_part(folder: Path) -> Path:
    """Returns where a tuning's held-out questions lie: its token folder, or its test.parquet."""
    config = _settings(folder.parent)
    source = prepare.locate(config.data, finetune=config.finetune)
    return source.path if source.kind == "sequences" else _test_part(folder)


def _settings(run: Path) -> TrainConfig:
    try:
        return cli.build(TrainConfig, run_folder.settings(run))
    except (ConfigError, CheckpointError) as error:
        raise DataError(f"{run} does not say what it was trained on: name data=") from error


def _test_part(folder: Path) -> Path:
    """Returns the test.parquet that belongs to the run of a checkpoint."""
    config = _settings(folder.parent)
    source = prepare.locate(config.data, finetune=config.finetune)
    path = prepare.parts_folder(source) / "test.parquet"
    if not path.is_file():
        raise DataError(f"{path} does not exist: name a parquet of pairs with data=")
    return path


def _figures(examples: Sequence[Example], given: Sequence[str]) -> list[str]:
    scores = evaluate.score(examples, given)
    return [f"{len(examples)} questions, corpus BLEU-4 {scores.bleu4:.2f}", *scores.lines()]


def _quotes(examples: Sequence[Example], given: Sequence[str], show: int) -> list[str]:
    lines: list[str] = []
    for example, answer in list(zip(examples, given, strict=True))[:show]:
        lines += ["", f"问  {example.prompt}", f"答  {answer}", f"参考 {example.response}"]
    return lines
