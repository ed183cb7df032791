"""`cli_demo.py serve`: from argv to a server that runs until it is told to stop.

In: settings. Out: an exit code. It finds the model and opens the part of it that the server itself
needs; the weights are opened by the model's own process, so that this one imports no torch (but
with models of others, whose tokenizers may). How the server lives and ends is `lifetime`'s.
"""

import re
import socket
from collections.abc import Sequence
from pathlib import Path

from chatlm import cli
from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import ConfigError
from chatlm.inference.open import read_codec, read_limits
from chatlm.inference.process import engine_command
from chatlm.server.answers import ServedModel
from chatlm.server.config import MODEL_ID, ServeConfig, read_key
from chatlm.server.lifetime import run
from chatlm.server.protocol import listening_socket

USAGE = "用法：python cli_demo.py serve [键=值 ...]    用网页和 HTTP 接口提供模型\n\n键：\n"


def serve(argv: Sequence[str]) -> int:
    """Serves the model that argv names; returns the exit code.

    Raises:
        ChatLMError: a setting, the model or the address cannot be used.
    """
    if any(token in ("-h", "--help") for token in argv):
        print(f"{USAGE}{cli.help_text(ServeConfig)}")
        return 0
    config = cli.parse(argv, ServeConfig)
    key = read_key(config)
    folder = resolve_model(config.model or None)
    listener = listen(config)
    model = open_model(folder, config)
    command = engine_command(folder, config.device, config.threads)
    return run(config, key, model, command, listener)


def listen(config: ServeConfig) -> socket.socket:
    """Returns the socket that clients connect to.

    Raises:
        ConfigError: the address is taken, or is none of this machine.
    """
    try:
        return listening_socket(config.host, config.port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {config.host}:{config.port} ({error.strerror}); "
            "stop what uses it, or choose another with port="
        ) from error


def open_model(folder: Path, config: ServeConfig) -> ServedModel:
    """Returns the part of a model that the server itself needs: all but its weights.

    Raises:
        CheckpointError: the tokenizer or chat.json is damaged.
    """
    limits = read_limits(folder)
    return ServedModel(
        id=config.model_id or model_id(folder),
        created=int(folder.stat().st_mtime),
        tokenizer=read_codec(folder),
        limits=limits,
        max_new_tokens=config.max_new_tokens or limits.max_new_tokens,
    )


def model_id(folder: Path) -> str:
    """Returns the name of a model as clients see it: that of its folder, or of its run."""
    folder = folder.resolve()
    name = folder.parent.name if re.fullmatch(r"step_[0-9]+", folder.name) else folder.name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:64]
    return name if MODEL_ID.fullmatch(name) else "chatlm"
