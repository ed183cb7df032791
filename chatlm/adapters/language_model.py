"""Any Hugging Face language model as a `Trainee`: flat batches in, a summed loss out.

In: a causal or an encoder-decoder model, with or without adapters. A pair of source and target is
one row for a causal model, source then target; padding is on the right and seen by nobody. The
output head, the largest part of a small model's step, is asked for the places only from which a
target token is predicted.

Shapes: P pairs, M source tokens, N target tokens, L the longest row, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn

from chatlm.errors import ConfigError
from chatlm.model.trainee import IGNORE_INDEX, LossOutput, Trainee


class LanguageModel(Trainee):
    """A model of others in training.

    Attributes:
        inner: the model, or peft's wrapper of it.
        is_causal: whether source and target are one sequence.
        pad_id: fills rows up; never seen.
        start_id: begins a target of an encoder-decoder model.
    """

    def __init__(self, inner: nn.Module, *, pad_id: int) -> None:
        super().__init__()
        self.inner = inner
        config: Any = inner.config
        self.is_causal = not config.is_encoder_decoder
        self.pad_id = pad_id
        self.start_id = pad_id if self.is_causal else config.decoder_start_token_id
        head = _head(inner)
        self.vocab_size = head.weight.shape[0]
        self.has_dropout = any(
            isinstance(module, nn.Dropout) and module.p > 0 for module in inner.modules()
        )

    def saved(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields what moves: the adapters, if there are any."""
        yield from ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def forward(
        self,
        input_ids: Int[Tensor, " M"],
        labels: Int[Tensor, " N"],
        source_offsets: Int[Tensor, " P_and_1"],
        target_offsets: Int[Tensor, " P_and_1"],
    ) -> LossOutput:
        """Return the summed loss of predicting `labels`; ignored labels are never scored."""
        given = labels.masked_fill(labels == IGNORE_INDEX, self.pad_id)
        if self.is_causal:
            inputs, places = self._one_sequence(input_ids, given, source_offsets, target_offsets)
        else:
            inputs, places = self._two_sequences(input_ids, given, source_offsets, target_offsets)
        with self._head_only_at(places):
            logits = self.inner(**inputs, use_cache=False).logits[0]
        loss_sum = F.cross_entropy(
            logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return LossOutput(loss_sum, (labels != IGNORE_INDEX).sum())

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
        inputs = {"input_ids": ids, "attention_mask": _seen(lengths, ids.shape[1]).long()}
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
