"""The tokenizer: text <-> ids, without loss, in the same way here and in Hugging Face's library.

In: texts, or a folder that holds a tokenizer. Out: ids, texts, a streaming decoder, and a folder
that `transformers.AutoTokenizer` (versions 4 and 5) loads with identical ids. It never adds an EOS;
that belongs to whoever builds a sequence. It imports neither torch nor transformers.

Our own tokenizers are SentencePiece unigram models. A folder with only a tokenizer.json, such as a
published BPE, is read through the `tokenizers` library and has the same interface.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers import decoders, models, processors

from chatlm import untrusted
from chatlm.errors import CheckpointError, brief
from chatlm.tokenizer_engines import (
    Engine,
    FlatIds,
    LibraryEngine,
    SentencePieceEngine,
    StreamDecoder,
    model_bytes,
)
from chatlm.tokenizer_training import (
    EOS,
    NUM_THREADS,
    PAD,
    UNK,
    Kind,
    Piece,
    require_utf8,
    train_pieces,
)

__all__ = ["StreamDecoder", "Tokenizer"]

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
NAMES_FILE = "special_tokens_map.json"
MODEL_FILE = "spiece.model"
HOW_TO_MAKE = "make one with: python -m utils.train_tokenizer data=data/train.parquet"
# In Hugging Face's library a control, unknown or byte piece matches text that looks like it; with
# this score it loses to the same text spelt in single characters.
NEVER = -1e6
# The parts of a tokenizer.json that decide which ids a text gets.
DECIDING = ("normalizer", "pre_tokenizer", "model", "added_tokens")
MOST_BYTES = 1 << 27
"""Of a tokenizer's file; the largest published ones have some 30 MB."""
_TRIAL = "你好, world 1+1=2？\n\t</s><0x41> 👩🏽‍💻\u0000\u202e"
USUAL_NAMES = {"pad": (PAD, "[PAD]"), "eos": (EOS, "[EOS]"), "unk": (UNK, "[UNK]")}


class Tokenizer:
    """Text <-> ids. Made by `train` or `load`.

    For our own tokenizers `decode(encode(s)) == s` for every string that UTF-8 can encode. Text
    that looks like a special token ("</s>", "<0x41>") is text, never a control id.

    Attributes:
        pad_id: the id that pads a batch; it also starts the decoder.
        eos_id: the id that ends a sequence.
        unk_id: the id of unknown text, which our own tokenizers never use; None if there is none.
    """

    def __init__(self, definition: str, config: Mapping[str, Any], model: bytes | None) -> None:
        """Wraps the content of the files; users call `train` or `load`.

        Args:
            definition: the text of a tokenizer.json.
            config: the content of a tokenizer_config.json.
            model: a SentencePiece model that gives the same ids, where there is one.

        Raises:
            CheckpointError: `definition` and `config` name no EOS or no padding token.
        """
        self._definition = definition
        self._config = dict(config)
        self._model = model
        self._engine: Engine = (
            LibraryEngine(definition) if model is None else SentencePieceEngine(model, definition)
        )
        ids = _special_ids(definition, self._config)
        for role in ("pad", "eos"):
            if role not in ids:
                raise CheckpointError(
                    f"the tokenizer has no {role} token: name it as '{role}_token' in {CONFIG_FILE}"
                )
        self.pad_id: int = ids["pad"]
        self.eos_id: int = ids["eos"]
        self.unk_id: int | None = ids.get("unk")

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int = 29298,
        *,
        max_chars: int = 60_000_000,
        seed: int = 0,
        num_threads: int = NUM_THREADS,
    ) -> Self:
        """Trains a unigram vocabulary with byte fallback on a sample of the texts.

        The result is a pure function of the arguments, `num_threads` included. A corpus that is too
        small for `vocab_size` gives the largest vocabulary that it can, with a warning.

        Args:
            texts: the corpus, read once.
            vocab_size: ids, the 356 fixed ones included.
            max_chars: size of the sample, which bounds time and memory.
            seed: of the sample.
            num_threads: of the training.

        Raises:
            ConfigError: `vocab_size` is too small for the characters of the corpus.
            DataError: there is no text, or a text holds a lone surrogate.
        """
        pieces = train_pieces(
            texts, vocab_size, max_chars=max_chars, seed=seed, num_threads=num_threads
        )
        return cls(_definition(pieces), _config(), model_bytes(pieces))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Loads a folder written by `save`, or any folder with a tokenizer.json.

        Raises:
            CheckpointError: the folder is missing, incomplete, damaged, or mixes two tokenizers.
        """
        folder = Path(folder)
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            what = f"has no {TOKENIZER_FILE}" if folder.is_dir() else "does not exist"
            raise CheckpointError(f"tokenizer folder {folder} {what}; {HOW_TO_MAKE}")
        definition, parts = _read_json(path)
        config: dict[str, Any] = {}
        for name in (NAMES_FILE, CONFIG_FILE):
            if (folder / name).is_file():
                config |= _read_json(folder / name)[1]
        model_path = folder / MODEL_FILE
        model = None
        if _is_plain_unigram(parts) and model_path.is_file():
            model = _model_of(folder, parts["model"].get("vocab"))
        # The libraries raise bare exceptions for content that is JSON, or bytes, but no tokenizer,
        # and `tokenizers` one that is not even an Exception. Some come only when it is used.
        try:
            tokenizer = cls(definition, config, model)
            tokenizer.decode(tokenizer.encode(_TRIAL))
        except CheckpointError:
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise _damaged(folder, f"{TOKENIZER_FILE}: {brief(error)}") from error
        return tokenizer

    @classmethod
    def of_ours(cls, definition: str) -> Self:
        """Returns a tokenizer that `train` made.

        Args:
            definition: the text of its tokenizer.json, of which `is_ours` holds.
        """
        vocabulary = json.loads(definition)["model"]["vocab"]
        return cls(definition, _config(), model_bytes(_pieces_of(vocabulary)))

    def save(self, folder: str | Path) -> None:
        """Writes the files of a tokenizer folder, each of them whole or not at all.

        tokenizer.json comes last: a folder that has it has everything.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self._model is not None:
            _write(folder / MODEL_FILE, self._model)
        # transformers 5 writes a class name that 4 does not know; both know this one. Without the
        # list of inputs, 4 would produce token_type_ids, which T5 refuses.
        config = {key: value for key, value in self._config.items() if key != "backend"}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config["model_input_names"] = ["input_ids", "attention_mask"]
        text = json.dumps(config, ensure_ascii=False, indent=2)
        _write(folder / CONFIG_FILE, f"{text}\n".encode())
        _write(folder / TOKENIZER_FILE, self._definition.encode())

    @property
    def vocab_size(self) -> int:
        """The number of ids; a model may pad its embedding beyond it."""
        return self._engine.vocab_size

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of everything that decides which ids a text gets."""
        parts = json.loads(self._definition)
        deciding = {key: parts.get(key) for key in DECIDING}
        canonical = json.dumps(deciding, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without EOS.

        Raises:
            DataError: the text holds a lone surrogate, which UTF-8 cannot encode.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of every text, without EOS.

        Raises:
            DataError: a text holds a lone surrogate, which UTF-8 cannot encode.
        """
        texts = list(texts)
        try:
            return self._engine.encode_batch(texts)
        except (RuntimeError, TypeError):
            for text in texts:
                require_utf8(text)
            raise

    def encode_flat(self, texts: list[bytes]) -> FlatIds:
        """Returns the ids that `encode_batch` gives, in one array, and the number of each text's.

        Threads may call it at the same time and gain by it.

        Args:
            texts: valid UTF-8, which is not checked.
        """
        return self._engine.encode_flat(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of the ids; control ids, and ids beyond the vocabulary, add nothing."""
        return self._engine.decode(ids)

    def stream(self) -> StreamDecoder:
        """Returns a new decoder for one answer."""
        return self._engine.stream()


def _vocabulary(pieces: Iterable[Piece]) -> list[list[str | float]]:
    """Returns the pieces as the vocabulary of a tokenizer.json."""
    return [[piece.text, piece.score if piece.kind is Kind.NORMAL else NEVER] for piece in pieces]


def _model_of(folder: Path, vocabulary: Any) -> bytes:
    """Returns a folder's SentencePiece model, which must be the one of its tokenizer.json.

    It is compared with what we would write, byte for byte: SentencePiece, which is careless with
    damaged files, never sees another one.

    Raises:
        CheckpointError: it is another one.
    """
    try:
        model = untrusted.read_bytes(folder / MODEL_FILE, MOST_BYTES)
        is_same = model == model_bytes(_pieces_of(vocabulary))
    except (OSError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise _damaged(folder, f"{MODEL_FILE} or {TOKENIZER_FILE}: {error}") from error
    if not is_same:
        raise _damaged(folder, f"{MODEL_FILE} and {TOKENIZER_FILE} are of different tokenizers")
    return model


def _pieces_of(vocabulary: Any) -> list[Piece]:
    """Returns the pieces of a tokenizer.json's vocabulary: the reverse of `_vocabulary`."""
    kinds = {PAD: Kind.CONTROL, EOS: Kind.CONTROL, UNK: Kind.UNKNOWN}
    pieces = []
    for text, score in vocabulary:
        if not isinstance(text, str) or type(score) not in (int, float) or not isfinite(score):
            raise ValueError("an entry of the vocabulary is no text with a score")
        is_fixed = score == NEVER
        kind = kinds.get(text, Kind.BYTE) if is_fixed else Kind.NORMAL
        pieces.append(Piece(text, 0.0 if is_fixed else float(score), kind))
    if len(pieces) < len(kinds):
        raise ValueError("the vocabulary is empty")
    return pieces


def _definition(pieces: Sequence[Piece]) -> str:
    """Returns the tokenizer.json of the pieces.

    No normalizer and no pre-tokenizer: a space is a space in our pieces, so there is nothing to map
    and nothing that could be lost.
    """
    vocabulary = [(str(text), float(score)) for text, score in _vocabulary(pieces)]
    backend = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([PAD, EOS, UNK])
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
    )
    return backend.to_str()


def _config() -> dict[str, Any]:
    """Returns the tokenizer_config.json of our own tokenizers."""
    return {
        "pad_token": PAD,
        "eos_token": EOS,
        "unk_token": UNK,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }


def is_ours(parts: Mapping[str, Any]) -> bool:
    """Tells whether a tokenizer.json is one that `Tokenizer.train` made.

    Its control pieces have a score that no other trainer gives.

    Args:
        parts: the content of the file.
    """
    vocabulary = parts["model"].get("vocab") if _is_plain_unigram(parts) else None
    return bool(vocabulary) and list(vocabulary[0]) == [PAD, NEVER]


def _is_plain_unigram(parts: Mapping[str, Any]) -> bool:
    """Tells whether a tokenizer.json is of the form that `_definition` writes."""
    model = parts.get("model")
    return (
        isinstance(model, Mapping)
        and model.get("type") == "Unigram"
        and parts.get("normalizer") is None
        and parts.get("pre_tokenizer") is None
    )


def _special_ids(definition: str, config: Mapping[str, Any]) -> dict[str, int]:
    """Returns role -> id of the special tokens, by the config's name or a usual one."""
    added = {token["content"]: token["id"] for token in json.loads(definition)["added_tokens"]}
    found: dict[str, int] = {}
    for role, usual in USUAL_NAMES.items():
        named = config.get(f"{role}_token")
        name = named.get("content") if isinstance(named, Mapping) else named
        for candidate in (name, *usual):
            if candidate in added:
                found.setdefault(role, added[candidate])
    return found


def _read_json(path: Path) -> tuple[str, dict[str, Any]]:
    """Returns a JSON file's text and content."""
    try:
        text = untrusted.read_text(path, MOST_BYTES)
        return text, untrusted.parsed(text)
    except (OSError, ValueError) as error:
        kind = untrusted.format_of(path)
        why = f"it is {kind}, which is not opened" if kind else error
        raise _damaged(path.parent, f"{path.name}: {why}") from error


def _damaged(folder: Path, reason: str) -> CheckpointError:
    reason = untrusted.reason(ValueError(reason))
    return CheckpointError(f"tokenizer folder {folder} is damaged ({reason}); {HOW_TO_MAKE}")


def _write(path: Path, content: bytes) -> None:
    """Writes a file so that, after a crash, it is either the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
