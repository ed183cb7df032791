"""The rows of a batch that answers join and leave between two tokens.

In: sources that join, the latest token of each row, rows that leave. Out: the scores of each row's
next token. Each row has places, a source and a length of its own. Does not choose tokens and knows
no requests.

Rows lie side by side without a gap: the last one moves into the place of one that leaves. The law:
a row's scores depend neither on its neighbours nor on what its memory held before, up to the
rounding that `torch_packed` speaks of. Therefore windows are multiples of `BLOCK`, for which a
CPU's fused attention sums in the same order however long the window is.

Shapes: n rows, S source length, W window of places, H heads, K d_kv, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chatlm.inference.torch_packed import Logits
from chatlm.model import rows
from chatlm.model.attention import AttendSelf
from chatlm.model.masks import additive_bias, padding_mask
from chatlm.model.position import RelativeBias
from chatlm.model.rope import Rotation, rotate_projected, rotation
from chatlm.model.t5 import T5, KeysValues

BLOCK = 16
FIRST_PLACES = 64
"""Places that the first allocation holds for each row; a full one doubles."""


class Slots:
    """Keys and values of all rows, and the step that makes their next scores.

    Attributes:
        lengths: tokens that each row has seen.
    """

    def __init__(self, model: T5, logits: Logits) -> None:
        """Wraps a model in eval mode and its head."""
        self.model, self.logits = model, logits
        self.device = model.embedding.weight.device
        self.lengths: list[int] = []
        self.clear()

    def clear(self) -> None:
        """Lets all rows leave and gives their memory back."""
        self.lengths.clear()
        self._sources: list[int] = []
        self._own: list[Tensor] = []
        self._cross: list[Tensor] = []
        self._source_bias = torch.empty(0)

    @property
    def num_places(self) -> int:
        """Tokens that a row can see without an allocation."""
        return self._own[0].shape[1] if self._own else 0

    @torch.inference_mode()
    def join(self, sources: Sequence[Sequence[int]]) -> None:
        """Encodes sources together and adds a row for each; when it fails, nothing has changed."""
        longest = _blocks(max(map(len, sources)))
        pad = self.model.config.pad_token_id
        ids = torch.tensor(
            [[*source, *[pad] * (longest - len(source))] for source in sources], device=self.device
        )
        lengths = torch.tensor([len(source) for source in sources], device=self.device)
        mask = torch.arange(longest, device=self.device) < lengths[:, None]
        made = self.model.decoder.keys_values(self.model.encode(ids, mask))
        start, end = len(self.lengths), len(self.lengths) + len(sources)
        self._allocate(end, FIRST_PLACES, longest)
        for own, cross, new in zip(self._own, self._cross, made, strict=True):
            own[start:end] = 0
            cross[start:end, :longest] = new
            cross[start:end, longest:] = 0
        dtype = self._source_bias.dtype
        self._source_bias[start:end] = torch.finfo(dtype).min
        self._source_bias[start:end, ..., :longest] = additive_bias(padding_mask(mask), dtype=dtype)
        self.lengths += [0] * len(sources)
        self._sources += [_blocks(len(source)) for source in sources]

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Frees a row; the last one takes its number."""
        last = len(self.lengths) - 1
        if row != last:
            for own, cross in zip(self._own, self._cross, strict=True):
                own[row, : self.lengths[last]] = own[last, : self.lengths[last]]
                cross[row] = cross[last]
            self._source_bias[row] = self._source_bias[last]
        self.lengths[row] = self.lengths[last]
        self._sources[row] = self._sources[last]
        self.lengths.pop()
        self._sources.pop()
        if not self.lengths:
            self.clear()

    @torch.inference_mode()
    def reserve(self) -> None:
        """Makes room for the next token; when it fails, only rows of `num_places` lack room."""
        if max(self.lengths) == self.num_places:
            self._allocate(len(self.lengths), 2 * self.num_places, 0)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Returns the scores (n, V) of what follows the latest token of each row, fp32."""
        num_rows = len(self.lengths)
        window = _blocks(max(self.lengths) + 1)
        ids, places = torch.tensor([tokens, self.lengths], device=self.device)
        source_bias = self._source_bias[:num_rows, ..., : max(self._sources)]
        hidden = self.model.decoder(
            self.model.embedding(ids[:, None]),
            None,
            self._attends(places, window),
            rows.attend_cross(source_bias),
            self,
        )
        for row in range(num_rows):
            self.lengths[row] += 1
        return self.logits(hidden[:, 0]).float()

    def cross(self, make: Callable[[], Sequence[KeysValues]]) -> Sequence[KeysValues]:
        """Returns what each layer takes from the sources; it was made when they joined."""
        del make
        longest = max(self._sources)
        return [rows.by_head(layer[: len(self.lengths), :longest]) for layer in self._cross]

    def _attends(
        self, places: Tensor, window: int
    ) -> Callable[[RelativeBias | None], list[AttendSelf]]:
        back = places[:, None] - torch.arange(window, device=self.device)
        back.masked_fill_(back < 0, self.num_places)
        bias = self._by_back[:, back].transpose(0, 1)[:, :, None]
        turn = None
        if self._turns is not None:
            turn = Rotation(*(part[places, None] for part in self._turns))
        at = torch.arange(len(places), device=self.device), places

        def attend_layer(buffer: Tensor) -> AttendSelf:
            def attended(projected: Tensor) -> Tensor:
                if turn is not None:
                    projected = rotate_projected(projected, turn)
                buffer[at] = projected[:, 0, 1:]
                key, value = rows.by_head(buffer[: len(places), :window])
                return rows.attend(projected[:, :, 0], key, value, bias)

            return attended

        return lambda _: [attend_layer(buffer) for buffer in self._own]

    def _allocate(self, num_rows: int, num_places: int, num_sources: int) -> None:
        """Grows the buffers to hold at least so much; what grows doubles."""
        config, weight = self.model.config, self.model.embedding.weight
        has = (0, 0, 0)
        if self._own:
            has = (*self._own[0].shape[:2], self._cross[0].shape[1])
        needs = (num_rows, num_places, num_sources)
        wanted = tuple(
            old if new <= old else max(new, 2 * old) for new, old in zip(needs, has, strict=True)
        )
        if wanted == has:
            return
        shape = (2, config.num_heads, config.d_kv)
        layers = range(config.num_decoder_layers)
        own = [weight.new_zeros(wanted[0], wanted[1], *shape) for _ in layers]
        cross = [weight.new_zeros(wanted[0], wanted[2], *shape) for _ in layers]
        source_bias = weight.new_zeros(wanted[0], 1, 1, wanted[2])
        if used := len(self.lengths):
            for new, old in zip([*own, *cross], [*self._own, *self._cross], strict=True):
                new[:used, : old.shape[1]] = old[:used]
            source_bias[:used] = torch.finfo(weight.dtype).min
            source_bias[:used, ..., : has[2]] = self._source_bias[:used]
        self._own, self._cross, self._source_bias = own, cross, source_bias
        self._place(wanted[1])

    def _place(self, num_places: int) -> None:
        """Makes the tables of places: the bias, and what turns queries and keys."""
        bias = self.model.decoder.relative_attention_bias
        weight, width = self.model.embedding.weight, self.model.config.d_kv
        if bias is None:
            seen = weight.new_zeros(1, num_places)
            self._turns = rotation(torch.arange(num_places, device=self.device), width)
        else:
            seen = bias(num_places - 1, 0).flip(1).to(weight.dtype)
            self._turns = None
        unseen = seen.new_full((len(seen), 1), torch.finfo(seen.dtype).min)
        self._by_back = torch.cat([seen, unseen], dim=1)


def _blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
