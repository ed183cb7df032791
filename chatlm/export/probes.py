"""Questions on which an export is compared with its checkpoint.

In: a checkpoint, or a file that the user names. Out: texts as a model reads them. They are not
graded: any questions of the kind that the model is asked will do.
"""

from pathlib import Path

from chatlm import cli, evaluate, log, run_folder
from chatlm.config import TrainConfig
from chatlm.dataset import prepare
from chatlm.errors import CheckpointError, ConfigError, DataError

_PARTS = ("test.parquet", "valid.parquet")
"""Where a run's questions are looked for, in this order."""


def find(checkpoint: Path, file: str, limit: int) -> list[str]:
    """Returns questions: of the file, else of the run's own test or validation data.

    A checkpoint that does not tell its data (it was not trained here, or they are gone) gets those
    of the starter corpus.

    Args:
        checkpoint: a checkpoint folder.
        file: .txt with a question a line, or .parquet of pairs; "": none is named.
        limit: the most that are returned.

    Raises:
        DataError: there are none.
    """
    if file:
        questions = _of_file(Path(file), limit)
    else:
        questions = _of_run(checkpoint.parent, limit) or _of_starter(limit)
    if not questions:
        raise DataError(f"{file or 'the data'} holds no questions: name some with probes=file")
    return questions


def of_chat(file: str, limit: int) -> list[str]:
    """Returns questions for a model of others: of the file, else of a general chat.

    Args:
        file: as in `find`.
        limit: the most that are returned; of the chat they are evenly taken.

    Raises:
        DataError: there are none.
    """
    if file:
        questions = _of_file(Path(file), limit)
    else:
        from chatlm.adapters import probe

        every = [pair.question for pair in probe.pairs()]
        questions = every[:: max(1, len(every) // limit)][:limit]
    if not questions:
        raise DataError(f"{file} holds no questions: name others with probes=file")
    return questions


def _of_file(path: Path, limit: int) -> list[str]:
    if path.suffix == ".parquet":
        return _of_parquet(path, limit)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"probes={path} cannot be read ({error}): name a text file") from error
    return [line for line in map(str.strip, lines) if line][:limit]


def _of_run(run: Path, limit: int) -> list[str]:
    try:
        config = cli.build(TrainConfig, run_folder.settings(run))
        folder = prepare.parts_folder(prepare.locate(config.data, finetune=config.finetune))
    except (ConfigError, CheckpointError, DataError) as error:
        log.info(f"{run} does not tell its data ({error}): probing with the starter corpus")
        return []
    found = [folder / name for name in _PARTS if (folder / name).is_file()]
    return _of_parquet(found[0], limit) if found else []


def _of_starter(limit: int) -> list[str]:
    if not prepare.STARTER.is_dir():
        raise DataError(
            f"there are no questions to compare answers on ({prepare.STARTER} is not here): "
            "name a file of them with probes="
        )
    source = prepare.Source("starter", prepare.STARTER, "the starter corpus")
    return _of_parquet(prepare.parts_folder(source) / _PARTS[0], limit)


def _of_parquet(path: Path, limit: int) -> list[str]:
    return [example.prompt for example in evaluate.read_examples(path, limit)]
