"""ChatGLM-6B's tokenizer as one of `transformers`.

In: the published folder's `ice_text.model` and tokenizer_config.json. Out: ids with `[gMASK] <sop>`
behind them, padded on the left; texts of ids. Both numberings are read: which one is told by
`num_image_tokens`, or by the table's size in the config.json beside. Runs no remote code.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

from chatlm import untrusted
from chatlm.errors import CheckpointError
from chatlm.glm import numbering
from chatlm.glm.pieces import MODEL_FILE, IceText

MOST_BYTES = 1 << 26
"""Of a vocabulary's file; the published one has 2.7 MB."""


class ChatGLMTokenizer(PreTrainedTokenizer):
    """Text <-> ids. What looks like a special token in a text is text."""

    vocab_files_names = {"vocab_file": MODEL_FILE}  # noqa: RUF012 as `transformers` declares it
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str,
        num_image_tokens: int | None = None,
        bos_token: Any = "<sop>",
        eos_token: Any = "<eop>",
        pad_token: Any = "<pad>",
        unk_token: Any = "<unk>",
        mask_token: Any = "[MASK]",
        gmask_token: Any = "[gMASK]",
        **kwargs: Any,
    ) -> None:
        """Reads a vocabulary.

        Args:
            vocab_file: ice_text.model.
            num_image_tokens: By how much ids are shifted, 0 or 20000; None = as config.json says.
            bos_token: `<sop>`, behind which the answer begins.
            eos_token: `<eop>`, which ends it.
            pad_token: Fills up shorter rows.
            unk_token: Never in a text: what has no piece is spelt in bytes.
            mask_token: Stands for a gap.
            gmask_token: Stands for the answer.
            kwargs: What other tokenizers of `transformers` have.

        Raises:
            CheckpointError: The file is not readable or not ChatGLM-6B's, or a setting of the
                folder cannot be followed.
        """
        for name in ("do_lower_case", "remove_space"):
            if kwargs.get(name):
                raise CheckpointError(f"tokenizer_config.json: {name}=true is not supported")
        self._path = Path(vocab_file or MODEL_FILE)
        try:
            self._pieces = IceText(untrusted.read_bytes(self._path, MOST_BYTES))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self._path}: not readable ({error}); copy it anew") from error
        self.num_image_tokens = _shift(self._path, num_image_tokens)
        images = {f"<image_{i}>": i for i in range(self.num_image_tokens)}
        pieces = {name: i + self.num_image_tokens for name, i in self._pieces.ids.items()}
        self._ids: dict[str, int] = images | pieces
        kwargs.setdefault("split_special_tokens", True)
        super().__init__(
            num_image_tokens=self.num_image_tokens,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            unk_token=unk_token,
            mask_token=mask_token,
            gmask_token=gmask_token,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """The number of ids; the model's table has some more rows."""
        return len(self._ids)

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that decides which ids a text gets."""
        parts = f"{self._pieces.fingerprint} {self.num_image_tokens}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def get_vocab(self) -> dict[str, int]:
        """Returns all tokens and their ids."""
        return self._ids | self._added_tokens_encoder

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without special tokens; quick for many.

        Raises:
            DataError: A text holds a lone surrogate.
        """
        rows = self._pieces.encode_batch(texts)
        if not self.num_image_tokens:
            return rows
        return [[index + self.num_image_tokens for index in row] for row in rows]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Returns `[X] [gMASK] <sop>`, and for two texts `[X] [gMASK] <sop> [Y] <eop>`."""
        ids = [self._ids[name] for name in ("[gMASK]", "<sop>", "<eop>")]
        prompt = [*token_ids_0, *ids[:2]]
        return prompt if token_ids_1 is None else [*prompt, *token_ids_1, ids[2]]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Returns 1 for each special token and 0 for the others."""
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, True)
        mask = [*[0] * len(token_ids_0), 1, 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), 1]

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Copies the vocabulary's file; returns where it lies now."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / f"{prefix}{MODEL_FILE}"
        if path.absolute() != self._path.absolute():
            shutil.copyfile(self._path, path)
        return (str(path),)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [self._pieces.names[index] for index in self._pieces.encode_batch([text])[0]]

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids["<unk>"])

    def _convert_id_to_token(self, index: int) -> str:
        place = index - self.num_image_tokens
        if 0 <= place < len(self._pieces.names):
            return self._pieces.names[place]
        return f"<image_{index}>" if 0 <= index < self.num_image_tokens else "<unk>"

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Returns the text of the tokens."""
        return self._decode([self._ids[token] for token in tokens if token in self._ids])

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,  # noqa: ARG002 texts stay as they are
        **_: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        places = (int(index) - self.num_image_tokens for index in ids)
        return self._pieces.decode(places, with_controls=not skip_special_tokens)


def _shift(path: Path, num_image_tokens: int | None) -> int:
    """Returns by how much the ids are shifted.

    Raises:
        CheckpointError: Neither numbering has such a number, or the folder contradicts itself.
    """
    if num_image_tokens not in (None, 0, numbering.NUM_IMAGE_TOKENS):
        raise CheckpointError(
            f"tokenizer_config.json: num_image_tokens={num_image_tokens} must be 0 or "
            f"{numbering.NUM_IMAGE_TOKENS}"
        )
    config = path.with_name("config.json")
    try:
        vocab_size = untrusted.read_object(config).get("vocab_size")
    except FileNotFoundError:
        return num_image_tokens or 0
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{config}: not readable as JSON ({error}); copy it anew") from error
    if not isinstance(vocab_size, int) or not numbering.is_published(vocab_size):
        return num_image_tokens or 0
    shift = numbering.shift_of(vocab_size)
    if num_image_tokens not in (None, shift):
        raise CheckpointError(
            f"{path.parent}: num_image_tokens={num_image_tokens} of tokenizer_config.json and "
            f"vocab_size={vocab_size} of config.json are of different versions of ChatGLM-6B; copy "
            "all files of one version"
        )
    return shift
