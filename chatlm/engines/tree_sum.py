"""Gradients added in an order that does not depend on how many processes share the work.

In: the gradients of a step's shares, computed here. Out: an engine whose step has the same bits on
1, 2, 4, ... processes. Shares are added in a binary tree over their numbers: first those of a
process, then, pair by pair, those of processes that are 1, 2, 4, ... apart. Both of a pair add the
same two numbers, and a sum of two does not depend on their order. With as many threads each,
nothing else that processes compute differs. Summed losses travel with the gradients.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, distributed

from chatlm.config import TrainConfig
from chatlm.dataset.token_store import TokenStore
from chatlm.engines.whole import Engine
from chatlm.model.trainee import Trainee

CHUNK = 1 << 22
"""Numbers that are sent at a time, so that what is received takes 16 MiB at most."""
MOST_SHARES = 4
SHARE_TOKENS = 1024
"""Tokens of a mean share below which cutting a step up costs more than 5 % of it on a CPU."""
DOUBLE = 2
"""Places of fp32 that a number in double precision takes: summed losses, before the gradients."""


def choose_shares(store: TokenStore, batch_size: int) -> int:
    """Returns the shares for steps of so many pairs of a store."""
    tokens = int(store.sources.offsets[-1] + store.targets.offsets[-1])
    return shares_of(tokens * batch_size / len(store))


def shares_of(step_tokens: float) -> int:
    """Returns the shares for steps of this size: 4, or fewer where they would be too small."""
    return next((n for n in (MOST_SHARES, 2) if step_tokens >= n * SHARE_TOKENS), 1)


def can_share(accelerator: Accelerator, config: TrainConfig) -> bool:
    """Says whether each process can take as many of the shares, on CPUs."""
    shares = config.gradient_shares
    return accelerator.device.type == "cpu" and shares % accelerator.num_processes == 0 < shares


class TreeSum(Engine):
    """Every process holds everything; gradients are added in a fixed tree, without DDP.

    One process keeps up to log2(shares) gradients beside the one that it computes; several have one
    more, flat, to send.
    """

    averages = False

    def __init__(self, accelerator: Accelerator, config: TrainConfig, model: Trainee) -> None:
        super().__init__(accelerator, config, model)
        self._moving = list(self.named.values())
        self._sums: list[tuple[int, list[Tensor]]] = []

    @property
    def num_shares(self) -> int:
        """Parts of a step whose gradients are added in a tree, on all processes together."""
        return self._config.gradient_shares

    def _prepare(self, model: Trainee, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        self._compile_if_wanted(model)
        return model, self._accelerator.prepare(optimizer)

    @contextmanager
    def microbatch(self, *, is_last: bool) -> Iterator[None]:  # noqa: ARG002
        """Gives a context for one microbatch; nothing is exchanged in it."""
        yield

    def end_share(self) -> None:
        """Adds the gradients of a share to those of the shares beside it."""
        own = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._moving]
        for parameter in self._moving:
            parameter.grad = None
        size = 1
        while self._sums and self._sums[-1][0] == size:
            _, before = self._sums.pop()
            torch._foreach_add_(before, own)  # pyright: ignore[reportPrivateImportUsage]
            size, own = 2 * size, before
        self._sums.append((size, own))

    def exchange(self, sums: Float[Tensor, "shares *figures"]) -> Float[Tensor, "*figures"]:
        """Adds up the gradients and losses of all processes, after the last share. Collective.

        Args:
            sums: The summed loss of each share of this process, and what else is summed.

        Returns:
            The sums over the whole step, the same bits on every process.
        """
        whole = _in_pairs(sums.detach().double())
        ((_, gradients),) = self._sums
        self._sums.clear()
        if self._accelerator.num_processes > 1:
            gradients, whole = self._exchanged(gradients, whole)
        for parameter, gradient in zip(self._moving, gradients, strict=True):
            parameter.grad = gradient
        return whole

    def _exchanged(self, gradients: list[Tensor], whole: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns the sums over all processes; the gradients are views of one flat tensor."""
        sizes = [DOUBLE * whole.numel(), *(one.numel() for one in gradients)]
        flat = torch.empty(sum(sizes), dtype=torch.float32)
        parts = flat.split(sizes)[1:]
        views = [part.view_as(one) for part, one in zip(parts, gradients, strict=True)]
        torch._foreach_copy_(views, gradients)  # pyright: ignore[reportPrivateImportUsage]
        gradients.clear()
        header = flat[: sizes[0]].view(torch.float64)
        header.copy_(whole.reshape(-1))
        distance = 1
        while distance < self._accelerator.num_processes:
            _add_from(self._accelerator.process_index ^ distance, flat, header)
            distance *= 2
        return views, header.view_as(whole).clone()

    def discard(self) -> None:
        """Drops the gradients, those of shares too; nothing else changes."""
        self._sums.clear()
        super().discard()


def _in_pairs(numbers: Float[Tensor, "n *figures"]) -> Float[Tensor, "*figures"]:
    """Returns the sum of 1, 2, 4, ... rows in the order of the tree."""
    while len(numbers) > 1:
        numbers = numbers[::2] + numbers[1::2]
    return numbers[0]


def _add_from(peer: int, flat: Float[Tensor, " n"], header: Tensor) -> None:
    """Sends everything to a process and adds what it sends; the header in double precision."""
    own_header = header.clone()
    received = torch.empty(min(CHUNK, len(flat)), dtype=torch.float32)
    for index, chunk in enumerate(flat.split(CHUNK)):
        own = received[: len(chunk)]
        _wait([distributed.isend(chunk, peer), distributed.irecv(own, peer)])
        chunk += own
        if not index:
            received_header = own[: DOUBLE * len(header)].view(torch.float64)
            header.copy_(own_header + received_header)


def _wait(works: Sequence[distributed.Work | None]) -> None:
    for work in works:
        assert work is not None  # this process takes part
        work.wait()
