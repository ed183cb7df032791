"""A step computed again in smaller microbatches: the same sums, nothing lost, nothing twice."""

import numpy as np
import pytest
import torch

from chatlm.dataset.batches import Loader, lengths_of
from chatlm.dataset.order import Order
from chatlm.dataset.token_store import Ragged, TokenStore
from chatlm.errors import NeighbourError, SickRunError
from chatlm.health import care
from chatlm.health.memory import MicrobatchTokens
from chatlm.health.retry import Again, Retry
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5

TOKENS, LEAST = 256, 64
BATCH = 32
MODEL = ModelConfig(
    vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=1, num_decoder_layers=1
)


def ragged(lengths, random):
    ids = random.integers(3, 50, int(lengths.sum())).astype(np.uint16)
    return Ragged(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def store(count=40):
    random = np.random.default_rng(1)
    sides = [ragged(random.integers(3, 20, count), random) for _ in range(2)]
    return TokenStore(sides[0], sides[1], np.ones(count, np.uint32), {})


def real_pairs(batch):
    """Returns whether each pair has something to teach."""
    return [int(batch.labels[start]) >= 0 for start in batch.target_offsets[:-1].tolist()]


class Training:
    """A T5 whose memory runs out at chosen calls of its forward pass."""

    def __init__(self, run, again=Again.TOGETHER, fails=(), shares=1):
        torch.manual_seed(0)
        self.model = T5(MODEL)
        self.sizes = MicrobatchTokens(TOKENS)
        self.loader = Loader(
            store(),
            Order(40, BATCH, 0),
            TOKENS,
            num_shares=shares,
            max_tokens_at=lambda index: self.sizes.at(index + 1),
        )
        self.retry = Retry(run, self, self.sizes, LEAST, again, True, bool)
        self._fails, self._calls = set(fails), 0
        self.pairs = []

    def discard(self):
        self.model.zero_grad()
        self.pairs.clear()

    def accumulate(self, step):
        total = torch.zeros(())
        for batch in step.microbatches:
            self._calls += 1
            if self._calls in self._fails:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            output = self.model(*batch.tensors())
            (output.loss_sum / step.num_target_tokens).backward()
            total += output.loss_sum.detach()
            # A microbatch without pairs holds one that teaches nothing.
            self.pairs.append(sum(real_pairs(batch)))
        return total

    def step(self, index):
        return self.retry.gradients(self.loader.step(index), self.loader, self.accumulate)

    def gradient(self):
        gradients = (p.grad for p in self.model.parameters())
        return torch.cat([one.flatten() for one in gradients if one is not None])


@pytest.mark.parametrize("shares", [1, 4])
@pytest.mark.parametrize("fails", [{2}, {1, 2}, {2, 4}])
def test_the_sums_are_the_same_but_for_rounding(tmp_path, fails, shares):
    calm, short = Training(tmp_path, shares=shares), Training(tmp_path, fails=fails, shares=shares)
    (one, expected), (other, found) = calm.step(0), short.step(0)
    assert other.rows.tolist() == one.rows.tolist()
    assert sum(short.pairs) == sum(calm.pairs) == BATCH
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(short.gradient(), calm.gradient(), rtol=1e-4, atol=1e-7)
    ledger = care.read_ledger(tmp_path)
    assert len(ledger) == len(fails)
    assert len(other.microbatches) > len(one.microbatches)
    assert short.retry.was_halved
    assert not calm.retry.was_halved


def test_the_size_stays_small_and_a_resumed_run_has_it_at_the_same_steps(tmp_path):
    short = Training(tmp_path, fails={3})
    short.step(0)
    short.step(1)
    resumed = Training(tmp_path)
    resumed.sizes.halvings |= MicrobatchTokens.of(TOKENS, care.read_ledger(tmp_path)).halvings
    for index in range(3):
        one, other = short.loader.step(index), resumed.loader.step(index)
        assert [len(b.labels) for b in one.microbatches] == [
            len(b.labels) for b in other.microbatches
        ]


def test_it_gives_up_at_one_pair(tmp_path, capfd):
    short = Training(tmp_path, fails=range(1, 1000))
    with pytest.raises(SickRunError, match="step 1 does not fit into memory even with one pair"):
        short.step(0)
    tokens = short.sizes.at(1)
    smallest = short.loader.step(0)
    assert max(sum(real_pairs(batch)) for batch in smallest.microbatches) == 1
    assert f"microbatches of {tokens} tokens" in capfd.readouterr().err


def test_where_nothing_can_be_computed_again_the_ledger_has_the_size_for_the_next_start(tmp_path):
    short = Training(tmp_path, Again.NEVER, fails={2})
    with pytest.raises(NeighbourError, match="start again with resume=True"):
        short.step(0)
    sizes = MicrobatchTokens.of(TOKENS, care.read_ledger(tmp_path))
    assert sizes.at(1) < TOKENS
    sources, targets = lengths_of(short.loader.store, short.loader.step(0).rows)
    assert sizes.at(1) <= int(sources.sum() + targets.sum()) // 2


def test_another_process_that_ran_short_makes_this_one_compute_again_too(tmp_path):
    here = Training(tmp_path)
    flags = iter([True, False])
    here.retry.any_process = lambda _flag: next(flags)
    _, found = here.step(0)
    assert here.sizes.at(1) < TOKENS
    assert found.item() == pytest.approx(Training(tmp_path).step(0)[1].item(), rel=1e-6)
    assert sum(here.pairs) == BATCH


def test_an_error_that_is_not_about_memory_passes(tmp_path):
    here = Training(tmp_path)

    def fails(_step):
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        here.retry.gradients(here.loader.step(0), here.loader, fails)
