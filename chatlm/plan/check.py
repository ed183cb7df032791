"""One microbatch of a run on the real device, to hold a prediction against.

In: settings and the lengths of the pairs. Out: measured memory and seconds. The work is done in a
process of its own, whose memory begins small: `python -m chatlm.plan.check` reads JSON from stdin
and prints one line of JSON. It reads no data and writes nothing; ids are random, weights untrained.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from chatlm import cli
from chatlm.config import TrainConfig
from chatlm.errors import ChatLMError
from chatlm.plan.load import Load

ROUNDS = 5
"""Microbatches that are computed, unless two of them last LONG_SECONDS."""
LONG_SECONDS = 2.0
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class CheckError(ChatLMError):
    """The microbatch could not be computed: most likely memory was too small."""


@dataclass(frozen=True)
class Measured:
    """What a microbatch really took.

    Attributes:
        memory_bytes: At the worst moment: resident (CPU), or allocated on the GPU.
        libraries_bytes: Of these, what was there before the model.
        microbatch_seconds: Forward and backward.
        optimizer_seconds: Clipping and the optimizer's step.
    """

    memory_bytes: int
    libraries_bytes: int
    microbatch_seconds: float
    optimizer_seconds: float


def measure(config: TrainConfig, load: Load, *, accumulates: bool, clock: str = "wall") -> Measured:
    """Returns what such a microbatch and an optimizer step take, measured.

    Args:
        config: the settings; the model's vocabulary is the tokenizer's.
        load: the pairs.
        accumulates: keep the first microbatch's gradients while the second one is computed.
        clock: `wall`, or `cpu` seconds of the process.

    Raises:
        CheckError: the process ended without an answer.
    """
    asked = {
        "config": _flat(config),
        "source_lengths": load.source_lengths.tolist(),
        "target_lengths": load.target_lengths.tolist(),
        "accumulates": accumulates,
        "clock": clock,
    }
    done = subprocess.run(
        [sys.executable, "-m", "chatlm.plan.check"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        told = done.stderr.strip().splitlines() or ["nothing was said"]
        raise CheckError(
            f"the test microbatch of {load.num_tokens} tokens failed (exit code {done.returncode}: "
            f"{told[-1]}): lower microbatch_tokens, or plan with check=False"
        )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _flat(config: TrainConfig) -> dict[str, Any]:
    """Returns the settings as dotted keys."""
    found: dict[str, Any] = {}
    for name, _ in cli.keys(TrainConfig):
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value
    return found


def main(asked: Mapping[str, Any]) -> Measured:
    """Computes in this process what `measure` was asked for."""
    # Everything that a run has loaded is to be there before memory is counted.
    from chatlm import engines, optim, training
    from chatlm.launch import launch
    from chatlm.plan.memory_now import Gauge

    config = cli.build(TrainConfig, asked["config"])
    if config.base:
        from chatlm.adapters import untrained  # noqa: F401
    launched = launch(config)
    device = launched.accelerator.device
    clock = CLOCKS[asked["clock"]]
    gauge = Gauge(device)
    sides = asked["source_lengths"], asked["target_lengths"]
    if config.base:
        model, ids = _tuned(config, launched.accelerator, *sides)
    else:
        model = training.build_model(config, None, launched.accelerator)
        ids = _batch(config, *sides)
    engine = engines.make(launched, config, model)
    batch = [tensor.to(device) for tensor in ids]
    microbatches: list[float] = []
    steps: list[float] = []
    while len(microbatches) < (ROUNDS if sum(microbatches) < LONG_SECONDS else 2):
        engine.wrapped.train()
        if not asked["accumulates"]:
            engine.optimizer.zero_grad()
        start = gauge.finished(clock)
        with launched.accelerator.autocast():
            loss = engine.wrapped(*batch).objective
        engine.backward(loss)
        middle = gauge.finished(clock)
        optim.set_rates(engine.optimizer, config.learning_rate, engine.rate_scales())
        engine.clip(config.clip_norm or math.inf)
        engine.optimizer.step()  # and not `update`: gradients may have to stay where they are
        microbatches.append(middle - start)
        steps.append(gauge.finished(clock) - middle)
    # The first one warms up: it compiles, and takes memory that later ones find.
    return Measured(
        gauge.peak(),
        gauge.before,
        statistics.median(microbatches[1:]),
        statistics.median(steps[1:]),
    )


def _tuned(
    config: TrainConfig, accelerator: Any, sources: list[int], targets: list[int]
) -> tuple[Any, Sequence[Any]]:
    """Returns a model of others with random weights, and pairs of random ids."""
    from chatlm.adapters.untrained import random_batch, untrained

    half = accelerator.mixed_precision == "bf16"
    model = untrained(config, accelerator.device, pad_id=0, half=half)
    return model, random_batch(model, sources, targets)


def _batch(config: TrainConfig, sources: list[int], targets: list[int]) -> list[Any]:
    """Returns the flat tensors of a batch of random ids."""
    import torch

    offsets = [
        torch.from_numpy(np.concatenate([[0], np.cumsum(side)]).astype(np.int32))
        for side in (sources, targets)
    ]
    first, last = 3, config.model.vocab_size
    ids = [torch.randint(first, last, (int(one[-1]),)) for one in offsets]
    assert all(end > start for one in offsets for start, end in pairwise(one.tolist()))
    return [*ids, *offsets]


if __name__ == "__main__":
    print(json.dumps(vars(main(json.load(sys.stdin)))))
