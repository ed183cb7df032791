"""What counts as too little memory, what is left of an attempt that failed, and what comes next."""

import gc
import os
import resource
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from chatlm.dataset.packing import split
from chatlm.health import memory
from chatlm.health.memory import MicrobatchTokens, Shortage

HUGE = 1 << 50


def too_large_for_torch():
    torch.empty(HUGE)


def too_large_for_numpy():
    np.empty(HUGE)


def out_of_memory_on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\n GPU 0 has ...")


@pytest.mark.parametrize("take", [too_large_for_torch, too_large_for_numpy, out_of_memory_on_a_gpu])
def test_what_allocators_raise_is_a_shortage(take):
    found = memory.attempt(take)
    assert isinstance(found, Shortage)
    assert "\n" not in found.reason


def test_other_errors_are_not():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        memory.attempt(lambda: torch.ones(2, 3) @ torch.ones(2, 3))
    assert memory.attempt(lambda: 5) == 5


def test_nothing_of_a_failed_attempt_is_alive_when_the_next_one_starts():
    seen = []

    def compute():
        weight = torch.ones(1000, requires_grad=True)
        activation = weight.exp()
        seen.extend([weakref.ref(activation), weakref.ref(weight)])
        too_large_for_torch()
        return activation.sum()

    assert isinstance(memory.attempt(compute), Shortage)
    assert [one() for one in seen] == [None, None]


def test_a_process_at_its_limit_really_fails_and_really_goes_on():
    read, write = os.pipe()
    child = os.fork()
    if not child:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        found = memory.attempt(lambda: [torch.ones(16 << 20) for _ in range(3)])
        gc.collect()
        after = memory.attempt(lambda: torch.ones(4 << 20).sum().item())
        os.write(write, f"{type(found).__name__} {after}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() == f"Shortage {float(4 << 20)}"


def lengths(count=40, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(3, 30, count), random.integers(3, 30, count)


def most_pairs(sources, targets, tokens, shares):
    return max(len(group.positions) for group in split(sources, targets, tokens, shares))


@pytest.mark.parametrize("shares", [1, 4])
@pytest.mark.parametrize("tokens", [16384, 700, 64])
def test_each_halving_helps_until_a_microbatch_has_one_pair(tokens, shares):
    sources, targets = lengths()
    while (smaller := memory.halved(tokens, sources, targets, shares)) is not None:
        assert smaller <= tokens // 2
        more = len(split(sources, targets, smaller, shares))
        assert more > len(split(sources, targets, tokens, shares))
        tokens = smaller
    assert most_pairs(sources, targets, tokens, shares) == 1


def test_one_pair_cannot_be_halved():
    assert memory.halved(512, np.array([200]), np.array([100])) is None


def test_a_resumed_run_has_the_same_sizes_at_the_same_steps():
    sizes = MicrobatchTokens(256)
    ledger = [{"event": "skip", "step": 2}, sizes.halve(7, 128), sizes.halve(9, 64)]
    again = MicrobatchTokens.of(256, ledger)
    steps = range(1, 13)
    expected = [256] * 6 + [128] * 2 + [64] * 4
    assert [sizes.at(step) for step in steps] == [again.at(step) for step in steps] == expected
    # A setting made for another machine, or by another wish, begins anew.
    assert MicrobatchTokens.of(512, ledger).at(12) == 512
    assert MicrobatchTokens.of(100, ledger).at(12) == 100


def test_a_step_halved_twice_keeps_the_smaller_size():
    sizes = MicrobatchTokens(256)
    ledger = [sizes.halve(7, 128), sizes.halve(7, 64)]
    assert sizes.at(7) == MicrobatchTokens.of(256, ledger).at(7) == 64


def test_the_line_names_the_number_for_the_command():
    text = memory.message(7, 128, 64, "CUDA out of memory")
    assert "put microbatch_tokens=128 into the command" in text
    small = memory.message(7, 32, 64, "CUDA out of memory")
    assert "put microbatch_tokens=64 into the command and lower max_source_tokens" in small
