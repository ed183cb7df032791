"""How much a model of others reads and says, from the small files of its folder.

In: a folder with adapters or a whole model, or its config. Out: `Limits`. Imports no torch, so that
a chat knows before the model is there.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatlm import untrusted
from chatlm.checkpoint.kinds import base_of
from chatlm.checkpoint.paths import MODEL_CONFIG, is_adapter
from chatlm.inference.engine import Limits

ANSWER_TOKENS = 512
"""Longest answer of a model whose training does not say, where it has twice as many positions."""
UNKNOWN_POSITIONS = 2048
MOST_POSITIONS = 1 << 20
CHATGLM = "chatglm"
TOKENIZER_CONFIG, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx")
_RELATIVE = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
"""Models that know distances and no positions, by type."""
_RELATIVE_POSITIONS = 512
"""As long were the texts that such models are published for."""


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Returns how many tokens a sequence may have, None where the config does not say.

    Args:
        config: the content of a config.json.
    """
    if config.get("model_type") in _RELATIVE:
        return None
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        for name in _NAMES:
            value = part.get(name)
            if type(value) is int and value > 1:
                return min(value, MOST_POSITIONS)
    return None


def limits_of(folder: Path, trained: Limits | None) -> Limits:
    """Returns the limits of a model of others.

    Where the training does not say, a conversation has as many turns as there is room for. So it
    has with a base that was taught to chat: a tuning on short questions does not unlearn it.

    Args:
        folder: with adapters, or a whole model.
        trained: what its chat.json says; None: it has none.

    Raises:
        CheckpointError: adapter_config.json is damaged.
    """
    base = base_of(folder) if is_adapter(folder) else ""
    config = _config_of(base or str(folder))
    positions, is_free = positions_of(config), trained is None or _chats(folder, config)
    if positions is None:
        is_relative = config.get("model_type") in _RELATIVE
        unsaid = _RELATIVE_POSITIONS if is_relative else UNKNOWN_POSITIONS
        positions = unsaid if is_free else MOST_POSITIONS
    most = trained.max_new_tokens if trained else ANSWER_TOKENS
    # Source and answer of an encoder-decoder model are apart.
    answer = min(most, positions if config.get("is_encoder_decoder") else positions // 2)
    room = positions if config.get("is_encoder_decoder") else positions - answer
    if trained is None or is_free:
        return Limits(room, answer, history_turns=room, base=base)
    source = min(trained.max_source_tokens, room)
    return replace(trained, max_source_tokens=source, max_new_tokens=answer, base=base)


def _chats(folder: Path, config: Mapping[str, Any]) -> bool:
    """Tells whether a model was taught to chat: it is ChatGLM, or its tokenizer has a template."""
    if config.get("model_type") == CHATGLM or (folder / TEMPLATE_FILE).is_file():
        return True
    try:
        return bool(untrusted.read_object(folder / TOKENIZER_CONFIG).get("chat_template"))
    except (OSError, ValueError):
        return False  # who opens the tokenizer says what is wrong with it


def _config_of(base: str) -> Mapping[str, Any]:
    """Returns the config.json of a folder, or of a name that was fetched from the Hub before.

    One that is missing or damaged says nothing here; who opens the model says what is wrong.
    """
    path = Path(base) / MODEL_CONFIG
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(base, MODEL_CONFIG)
        except HFValidationError:  # a path that is gone
            return {}
        if not isinstance(found, str):
            return {}
        path = Path(found)
    try:
        return untrusted.read_object(path)
    except (OSError, ValueError):
        return {}
