"""The report of `train.py evaluate`: a checkpoint answers held-out questions.

In: a checkpoint or run, and a parquet of pairs. Out: a text with figures and some answers. It
trains nothing and writes no file.
"""

from collections.abc import Sequence
from pathlib import Path

from chatlm import cli, evaluate, run_folder
from chatlm.checkpoint.paths import resolve_model
from chatlm.checkpoint.weights import load_model
from chatlm.config import TrainConfig
from chatlm.corpus.example import Example
from chatlm.dataset import prepare
from chatlm.errors import CheckpointError, ConfigError, DataError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.open import read_limits
from chatlm.inference.torch_engine import torch_device
from chatlm.sanitize import sanitize
from chatlm.tokenizer import Tokenizer


def make(
    model: str | None, data: str, *, pairs: int, show: int, num_beams: int, device: str
) -> str:
    """Returns the report.

    Args:
        model: checkpoint or run folder; None: the newest run.
        data: parquet of pairs; "": the test part of what the run was trained on.
        pairs: how many of them to ask; 0: all.
        show: how many answers the report quotes.
        num_beams: 1 is greedy.
        device: auto, cpu or cuda.

    Raises:
        ChatLMError: there is no such model or no such data.
    """
    folder = resolve_model(model)
    examples = evaluate.read_examples(Path(data) if data else _test_part(folder), pairs)
    if not examples:
        raise DataError(f"{data or 'the test part'} holds no pairs")
    limits, tokenizer = read_limits(folder), Tokenizer.load(folder)
    net = load_model(folder).to(torch_device(device))
    given = evaluate.answers(
        net,
        evaluate.t5_speech(tokenizer, limits.max_source_tokens),
        [example.prompt for example in examples],
        GenerationConfig(max_new_tokens=limits.max_new_tokens, num_beams=num_beams),
    )
    report = [str(folder), *_figures(examples, given), *_quotes(examples, given, show)]
    return sanitize("\n".join(report))


def _test_part(folder: Path) -> Path:
    """Returns the test.parquet that belongs to the run of a checkpoint."""
    run = folder.parent
    try:
        config = cli.build(TrainConfig, run_folder.settings(run))
    except (ConfigError, CheckpointError) as error:
        raise DataError(f"{run} does not say what it was trained on: name data=") from error
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
