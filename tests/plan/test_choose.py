"""A step is cut so that it fits, and its batch stays the same."""

from dataclasses import replace

import numpy as np
import pytest

from chatlm import cli
from chatlm.config import TrainConfig
from chatlm.errors import ConfigError
from chatlm.plan import launch_line, memory
from chatlm.plan.cards import CARDS, card
from chatlm.plan.choose import MARGIN, Question, choose, settled
from chatlm.plan.lengths import Pairs
from chatlm.plan.machine import Machine
from chatlm.plan.options import PlanOptions
from chatlm.plan.planned import OwnModel

GIB = 2**30
LENGTHS = np.arange(5, 105), np.arange(20, 220, 2)


def question(memory_gib, processes=1, *, is_cuda=True, **changes):
    config = cli.build(TrainConfig, {"optimizer": "adamw", **changes})
    there = Machine("here", is_cuda, False, processes, int(memory_gib * GIB), 10**12)
    pairs = Pairs(10_000, *LENGTHS, config.model.vocab_size, "drawn")
    return Question(config, there, pairs, processes, is_cuda, 100 << 20, OwnModel(config))


def test_what_is_asked_for_is_kept_where_there_is_room():
    choice = choose(question(1000, is_cuda=False))
    assert (choice.split.sharding, choice.microbatch_tokens) == ("single", 16384)
    assert choice.fits


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("memory_gib", [3, 5, 8, 80])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_choice_fits_with_its_margin_and_covers_the_batch(processes, memory_gib, optimizer):
    asked = question(memory_gib, processes, optimizer=optimizer)
    choice = choose(asked)
    assert choice.fits == (choice.memory.total <= (1 - MARGIN) * memory_gib * GIB)
    assert choice.fits or memory_gib == 3
    tokens = choice.typical.num_tokens * choice.microbatches * processes
    mean = asked.config.batch_size * float(sum(side.mean() for side in LENGTHS))
    assert tokens == pytest.approx(mean, rel=0.01)
    assert choice.largest.num_tokens <= choice.microbatch_tokens
    assert settled(asked.config, choice).batch_size == asked.config.batch_size


def test_less_memory_gives_smaller_microbatches_and_then_shards():
    sizes = [choose(question(gib)).microbatch_tokens for gib in (80, 12, 6)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    shardings = [choose(question(gib, 8)).split.sharding for gib in (80, 5, 4, 3.5)]
    assert shardings == ["ddp", "zero1", "zero2", "fsdp2"]


def test_muon_is_never_given_to_fsdp():
    shardings = {choose(question(gib, 8, optimizer="muon")).split.sharding for gib in (1, 2, 3, 4)}
    assert "fsdp2" not in shardings


def test_nothing_that_fits_is_said():
    assert not choose(question(1)).fits


def test_short_steps_are_not_planned_for_microbatches_that_never_come():
    choice = choose(question(80, batch_size=8))
    assert choice.microbatches == 1
    assert choice.largest.num_tokens < 8 * (104 + 218)


@pytest.mark.parametrize(
    ("processes", "pairs", "shares"), [(1, 256, 4), (2, 256, 2), (1, 16, 2), (1, 4, 1), (3, 256, 1)]
)
def test_on_a_cpu_a_step_is_planned_in_the_shares_that_training_cuts(processes, pairs, shares):
    asked = question(80, processes, is_cuda=False, batch_size=pairs, microbatch_tokens=10**6)
    choice = choose(asked)
    assert choice.microbatches == shares
    mean = pairs * float(sum(side.mean() for side in LENGTHS)) / processes
    assert choice.typical.num_tokens == pytest.approx(mean / shares, rel=0.01)


def test_sums_of_shares_and_the_copy_that_is_saved_are_counted_on_a_cpu():
    def parts(**changes):
        asked = question(80, batch_size=256, microbatch_tokens=4096, **changes)
        return choose(asked).memory.parts

    config = cli.build(TrainConfig, {"optimizer": "adamw"})
    on_cpu = parts(is_cuda=False)
    assert on_cpu[memory.SNAPSHOT] == memory.checkpoint_bytes(config)
    gradients = 4 * config.model.num_parameters()
    assert on_cpu["gradients"] == 3 * gradients
    assert memory.SNAPSHOT not in parts(is_cuda=False, background_saves=False)
    assert memory.SNAPSHOT not in parts(is_cuda=True)


def test_the_launch_line_starts_what_was_chosen():
    one, two, shards = (choose(question(gib, n)) for gib, n in ((80.0, 1), (80.0, 2), (3.5, 8)))
    argv = ["epochs=2", "microbatch_tokens=7", "data=my pairs"]
    assert launch_line.make(one, argv) == (
        "accelerate launch ./train.py train epochs=2 'data=my pairs' "
        f"microbatch_tokens={one.microbatch_tokens}"
    )
    assert "--multi_gpu --num_processes 2 ./train.py" in launch_line.make(two, [])
    config = launch_line.CONFIGS[shards.split.sharding]
    assert f"--config_file {config} --num_processes 8 ./train.py" in launch_line.make(shards, [])


def test_the_configurations_of_launch_lines_exist():
    from pathlib import Path

    root = Path(__file__).parents[2]
    assert all((root / path).is_file() for path in launch_line.CONFIGS.values())


def test_a_mistyped_card_is_named():
    with pytest.raises(ConfigError, match="gpu=h10 is not in the table: did you mean 'h100'"):
        card("h10")
    assert card("RTX 4090") is CARDS["4090"]
    assert card("NVIDIA-H100") is CARDS["h100"]


def test_half_a_card_is_refused():
    with pytest.raises(ConfigError, match="device_memory_gib= and tflops= both"):
        PlanOptions(tflops=300)
    own = PlanOptions(tflops=300, device_memory_gib=24).card()
    assert own is not None
    assert (own.tflops, own.memory_gib) == (300, 24)
    other = PlanOptions(gpu="a100", device_memory_gib=20).card()
    assert other == replace(CARDS["a100"], memory_gib=20)
    assert PlanOptions().card() is None
