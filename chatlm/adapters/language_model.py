"""Any Hugging Face language model as a `Trainee`: flat batches in, a summed loss out.

In: a causal or an encoder-decoder model, with or without adapters. A pair of source and target is
one row for a causal model, source then target; padding is on the right, where a causal model does
not look, so that it needs no mask. A batch whose pairs differ much in length is computed as several
of like ones, or most of it would be padding. The output head, the largest part of a small model's
step, is asked for the places only from which a target token is predicted. With a weight for it a
training gets the distance to the base as well, which is the same model without its adapters.

Shapes: P pairs, M source tokens, N target tokens, L the longest row, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chatlm.errors import ConfigError
from chatlm.model.trainee import IGNORE_INDEX, LossOutput, Trainee

READ_AHEAD = ("chatglm",)
"""Decoders that see the whole prompt from each of its tokens, by model type."""
LEAST_SHARE, LEAST_TOKENS = 0.8, 512
"""Rows that are computed together have this share of the longest one's tokens, unless they are too
few to keep the processor busy."""
LOGITS_AT_ONCE = 1 << 24
"""So many are compared with the base's in fp32 at a time: 64 MiB of them."""


class LanguageModel(Trainee):
    """A model of others in training.

    Attributes:
        inner: the model, or peft's wrapper of it.
        is_causal: whether source and target are one sequence.
        pad_id: fills rows up; never seen.
        start_id: begins a target of an encoder-decoder model.
        has_adapters: whether they can be switched off.
    """

    def __init__(self, inner: nn.Module, *, pad_id: int, kl: float = 0.0) -> None:
        """Takes the model.

        Args:
            inner: on its device, or not yet.
            pad_id: fills rows up.
            kl: how much the distance to the base counts beside the loss while it trains.
        """
        super().__init__()
        self.inner = inner
        self.has_adapters = hasattr(inner, "disable_adapter")
        self._kl = kl
        config: Any = inner.config
        self.is_causal = not config.is_encoder_decoder
        self._reads_ahead = config.model_type in READ_AHEAD
        self.pad_id = pad_id
        self.start_id = pad_id if self.is_causal else config.decoder_start_token_id
        head = _head(inner)
        self.vocab_size = head.weight.shape[0]
        self._moving = frozenset(name for name, p in self.named_parameters() if p.requires_grad)
        self.has_dropout = any(
            isinstance(module, nn.Dropout) and module.p > 0 for module in inner.modules()
        )

    def saved(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields what moves: the adapters, if there are any; at any moment the same.

        A checkpoint is taken by a thread of its own, perhaps while the model is its base, and peft
        marks adapters that are switched off as ones that do not move.
        """
        yield from ((name, p) for name, p in self.named_parameters() if name in self._moving)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        inner: Any = self.inner
        return inner.get_input_embeddings().weight.device

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Lets it be its base for a while: without adapters, dropout and gradients."""
        was_training, inner = self.training, cast(Any, self.inner)
        self.eval()
        try:
            with torch.no_grad(), inner.disable_adapter() if self.has_adapters else nullcontext():
                yield
        finally:
            self.train(was_training)

    def forward(
        self,
        input_ids: Int[Tensor, " M"],
        labels: Int[Tensor, " N"],
        source_offsets: Int[Tensor, " P_and_1"],
        target_offsets: Int[Tensor, " P_and_1"],
    ) -> LossOutput:
        """Return the summed loss of predicting `labels`; ignored labels are never scored.

        In training, with a weight for it, the summed KL to the base, too.
        """
        num_tokens = (labels != IGNORE_INDEX).sum()
        if not num_tokens:
            return LossOutput(self._nothing(), num_tokens)
        source_lengths = source_offsets.diff().tolist()
        target_lengths = target_offsets.diff().tolist()
        sources, targets = input_ids.split(source_lengths), labels.split(target_lengths)
        sums = torch.zeros(2, device=labels.device)
        whole = [
            source + target for source, target in zip(source_lengths, target_lengths, strict=True)
        ]
        for rows in alike(whole):
            sums = sums + self._sums_of(
                torch.cat([sources[row] for row in rows]),
                torch.cat([targets[row] for row in rows]),
                _offsets([source_lengths[row] for row in rows], labels.device),
                _offsets([target_lengths[row] for row in rows], labels.device),
            )
        loss_sum, kl_sum = sums
        has_kl = self._wants_kl()
        return LossOutput(loss_sum, num_tokens, kl_sum if has_kl else None, self._kl)

    def _wants_kl(self) -> bool:
        return self._kl > 0 and self.training

    def _nothing(self) -> Float[Tensor, ""]:
        """Returns a loss of 0 that gives all that moves a gradient of 0.

        A process whose share of a step holds no pair gets ids that are no prompt of any model's.
        """
        zero = torch.zeros((), device=self.device)
        return sum((0.0 * p.sum() for _, p in self.saved()), zero)

    def _sums_of(
        self, sources: Tensor, labels: Tensor, source_offsets: Tensor, target_offsets: Tensor
    ) -> Float[Tensor, "2"]:
        """Returns the summed loss of pairs that are computed together, and their summed KL."""
        is_learned = labels != IGNORE_INDEX
        given = labels.masked_fill(~is_learned, self.pad_id)
        base = None
        if self._wants_kl():
            with self.as_base():
                base = self.logits(sources, given, source_offsets, target_offsets)
        logits = self.logits(sources, given, source_offsets, target_offsets)
        loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
        kl = torch.zeros_like(loss)
        if base is not None:  # without choosing places by number, for which a GPU is waited for
            kl = divergence(base, logits).masked_fill(~is_learned, 0.0).sum()
        return torch.stack([loss, kl])

    def logits(
        self,
        sources: Int[Tensor, " M"],
        targets: Int[Tensor, " N"],
        source_offsets: Int[Tensor, " P_and_1"],
        target_offsets: Int[Tensor, " P_and_1"],
    ) -> Float[Tensor, "N V"]:
        """Returns what each target token is predicted with; all pairs are computed together."""
        shaped = self._one_sequence if self.is_causal else self._two_sequences
        inputs, places = shaped(sources, targets, source_offsets, target_offsets)
        with self._head_only_at(places):
            return self.inner(**inputs, use_cache=False).logits[0]

    def _one_sequence(
        self, sources: Tensor, targets: Tensor, source_offsets: Tensor, target_offsets: Tensor
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Returns the rows, and for each target token the place before it."""
        source_lengths, target_lengths = source_offsets.diff(), target_offsets.diff()
        lengths = source_lengths + target_lengths
        ids = sources.new_full((len(lengths), int(lengths.max())), self.pad_id)
        ids[_places(source_offsets)] = sources
        rows, columns = _places(target_offsets)
        columns = columns + source_lengths[rows]
        ids[rows, columns] = targets
        inputs = {"input_ids": ids}
        if self._reads_ahead:
            inputs["attention_mask"] = _seen(lengths, ids.shape[1]).long()
        return inputs, (rows, columns - 1)

    def _two_sequences(
        self, sources: Tensor, targets: Tensor, source_offsets: Tensor, target_offsets: Tensor
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Returns the rows of both sides, and the place of each target token."""
        source_lengths, target_lengths = source_offsets.diff(), target_offsets.diff()
        ids = sources.new_full((len(source_lengths), int(source_lengths.max())), self.pad_id)
        ids[_places(source_offsets)] = sources
        rows, columns = _places(target_offsets)
        width = int(target_lengths.max())
        shifted = targets.new_full((len(target_lengths), width + 1), self.pad_id)
        shifted[:, 0] = self.start_id
        shifted[rows, columns + 1] = targets
        inputs = {
            "input_ids": ids,
            "attention_mask": _seen(source_lengths, ids.shape[1]).long(),
            "decoder_input_ids": shifted[:, :width],
            "decoder_attention_mask": _seen(target_lengths, width).long(),
        }
        return inputs, (rows, columns)

    @contextmanager
    def _head_only_at(self, places: tuple[Tensor, Tensor]) -> Iterator[None]:
        """Lets the output head see the states of these (row, column) only, as one row of N."""

        def pick(_head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (inputs[0][places].unsqueeze(0), *inputs[1:])

        hook = _head(self.inner).register_forward_pre_hook(pick)
        try:
            yield
        finally:
            hook.remove()


def divergence(base: Float[Tensor, "N V"], tuned: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Returns KL(base || tuned) over the vocabulary, in nats at each place, computed in fp32.

    What was computed on the way is computed again for the gradient instead of being kept.
    """
    size = max(1, LOGITS_AT_ONCE // base.shape[1])
    parts = [
        cast(Tensor, checkpoint(_divergence, *part, use_reentrant=False))
        for part in zip(base.split(size), tuned.split(size), strict=True)
    ]
    return torch.cat(parts)


def _divergence(base: Tensor, tuned: Tensor) -> Tensor:
    of_base, of_tuned = (F.log_softmax(logits.float(), dim=-1) for logits in (base, tuned))
    return (of_base.exp() * (of_base - of_tuned)).sum(-1)


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Returns the numbers of rows in groups of similar length, the longest first.

    A group ends at a row shorter than `LEAST_SHARE` of its longest one, if it has `LEAST_TOKENS`.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    for row in order:
        longest = lengths[groups[-1][0]] if groups else 0
        is_full = groups and longest * len(groups[-1]) >= LEAST_TOKENS
        if not groups or (is_full and lengths[row] < LEAST_SHARE * longest):
            groups.append([])
        groups[-1].append(row)
    return groups


def flat(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device
) -> tuple[Int[Tensor, " M"], Int[Tensor, " N"], Int[Tensor, " P_and_1"], Int[Tensor, " P_and_1"]]:
    """Returns sources and targets, each end to end, and their offsets, as `forward` takes them."""
    sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
    return (
        torch.tensor([token for row in sources for token in row], device=device),
        torch.tensor([token for row in targets for token in row], device=device),
        _offsets([len(row) for row in sources], device),
        _offsets([len(row) for row in targets], device),
    )


def _offsets(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], device=device)


def _head(inner: Any) -> Any:
    """Returns the module that makes logits of states.

    Raises:
        ConfigError: there is none: this is no language model.
    """
    head = inner.get_output_embeddings()
    if head is None:
        raise ConfigError(
            f"{type(inner).__name__} has no output head: base= must be a causal or "
            "encoder-decoder language model"
        )
    return head


def _places(offsets: Int[Tensor, " P_and_1"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Returns row and column of each token of a flat sequence, one pair a row."""
    lengths = offsets.diff()
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=offsets.device), lengths)
    columns = torch.arange(int(offsets[-1]), device=offsets.device) - offsets[:-1][rows]
    return rows, columns


def _seen(lengths: Int[Tensor, " P"], width: int) -> Bool[Tensor, "P L"]:
    """Returns where the rows have tokens."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]
