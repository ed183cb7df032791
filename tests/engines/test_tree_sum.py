"""Gradients of shares are added in one order, whoever computes them.

Processes are forks that speak over gloo; what they add up is made of bits that show every other
order of addition.
"""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from chatlm.dataset.token_store import Ragged, TokenStore
from chatlm.engines.tree_sum import choose_shares

ROOT = Path(__file__).parents[2]
SHARES = 4
SCRIPT = """
import json, os, sys, traceback
import torch
from accelerate import Accelerator
from chatlm.config import TrainConfig
from chatlm.engines import TreeSum, tree_sum
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5

tree_sum.CHUNK = 1000  # several of them, and a last one that is shorter
torch.set_num_threads(1)
shape = ModelConfig(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=1,
                    num_decoder_layers=1, feed_forward_proj="gated-gelu")
config = TrainConfig(model=shape, optimizer="adamw", gradient_shares=4, device="cpu")


def gradients(share, parameters):
    generator = torch.Generator().manual_seed(share)
    return [torch.randn(p.shape, generator=generator) * 10.0 ** (3 * share) for p in parameters]


def one(rank, world, port, path):
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    engine = TreeSum(accelerator, config, T5(shape))
    parameters = list(engine.named.values())
    each = 4 // world
    losses = []
    for share in range(rank * each, (rank + 1) * each):
        for parameter, gradient in zip(parameters, gradients(share, parameters)):
            parameter.grad = gradient
        engine.end_share()
        losses.append(torch.tensor([0.1 + 1e-8 * 3.0**share, 0.7 - 1e-8 * 5.0**share]))
    sums = engine.exchange(torch.stack(losses))
    norm = engine.clip(float("inf"))
    found = torch.cat([p.grad.flatten() for p in parameters])
    bits = found.numpy().tobytes().hex()
    sums = [one.hex() for one in sums.tolist()]
    record = {"sums": sums, "norm": float(norm).hex(), "bits": bits}
    json.dump(record, open(f"{path}/{world}-{rank}.json", "w"))


def play(path, ports):
    for world in (1, 2, 4):
        children = []
        for rank in range(world):
            if child := os.fork():
                children.append(child)
                continue
            try:
                one(rank, world, ports.get(world), path)
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(0)
        for child in children:
            os.waitpid(child, 0)
    parameters = list(T5(shape).parameters())
    sums = [gradients(share, parameters) for share in range(4)]
    tree = [(a + b) + (c + d) for a, b, c, d in zip(*sums)]
    flat = torch.cat([one.flatten() for one in tree])
    json.dump({"bits": flat.numpy().tobytes().hex()}, open(f"{path}/expected.json", "w"))


play(sys.argv[1], {2: int(sys.argv[2]), 4: int(sys.argv[3])})
"""


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """What each process found, by `<processes>-<rank>`."""
    from tests.ranks import free_port

    folder = tmp_path_factory.mktemp("sums")
    argv = [sys.executable, "-c", SCRIPT, str(folder), str(free_port()), str(free_port())]
    env = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE")}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_all_processes_of_all_launches_find_the_same_bits(sums):
    expected = sums.pop("expected")
    assert len(sums) == 7
    assert {one["bits"] for one in sums.values()} == {expected["bits"]}
    assert len({tuple(one["sums"]) for one in sums.values()}) == 1
    assert len({one["norm"] for one in sums.values()}) == 1
    # Eight digits more than fp32 holds.
    loss, kl = map(float.fromhex, sums["1-0"]["sums"])
    exact = sum(float(np.float32(0.1 + 1e-8 * 3.0**share)) for share in range(SHARES))
    assert loss == pytest.approx(exact, rel=1e-15)
    exact = sum(float(np.float32(0.7 - 1e-8 * 5.0**share)) for share in range(SHARES))
    assert kl == pytest.approx(exact, rel=1e-15)


def store(tokens, rows):
    offsets = np.linspace(0, tokens, rows + 1).astype(np.int64)
    side = Ragged(np.zeros(tokens, np.uint16), offsets)
    return TokenStore(side, side, np.ones(rows, np.uint32), {})


@pytest.mark.parametrize(
    ("tokens", "shares"), [(1023, 1), (1024, 2), (2047, 2), (2048, 4), (99999, 4)]
)
def test_a_step_is_shared_out_if_its_shares_are_large_enough(tokens, shares):
    # Sixteen rows of each side; a step has them all.
    assert choose_shares(store(tokens, 16), 16) == shares
    assert choose_shares(store(10 * tokens, 160), 16) == shares


def test_shares_grow_with_the_step():
    found = [choose_shares(store(16000, 160), size) for size in (1, 8, 16, 32, 64)]
    assert all(one <= other for one, other in pairwise(found))
    assert found[-1] == 4
