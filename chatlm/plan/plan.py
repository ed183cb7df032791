"""A run before it starts: what it needs, how long it takes, how to launch it.

In: the settings of a training and what `plan` was asked. Out: a `Plan`, printed by
`chatlm.plan.report`. It puts together what the other modules of this package predict, and holds it
against one microbatch computed on the real device. It writes nothing.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from chatlm import run_folder
from chatlm.config import TrainConfig
from chatlm.dataset.order import Order
from chatlm.dataset.prepare import Source
from chatlm.errors import ConfigError
from chatlm.model import hf
from chatlm.plan import check, disk, launch_line, lengths, machine, memory, memory_now, timing
from chatlm.plan.calibrate import Bench, Clock
from chatlm.plan.check import Measured
from chatlm.plan.choose import Choice, Question, choose, settled
from chatlm.plan.lengths import Pairs
from chatlm.plan.load import Load, filled
from chatlm.plan.machine import Machine
from chatlm.plan.memory import Memory, Setup, Split
from chatlm.plan.options import PlanOptions
from chatlm.plan.planned import OwnModel, Planned
from chatlm.plan.timing import Times

MEMORY_TOLERANCE, TIME_TOLERANCE = 0.10, 0.25
CHECK_SECONDS = 20.0
"""Longest microbatch of the check; a slower machine checks a smaller one."""


@dataclass(frozen=True)
class Check:
    """A prediction for one microbatch, and what was measured."""

    load: Load
    memory: Memory
    times: Times
    measured: Measured

    @property
    def memory_error(self) -> float:
        """Predicted over measured memory, minus 1."""
        return self.memory.total / self.measured.memory_bytes - 1

    @property
    def microbatch_error(self) -> float:
        """Predicted over measured seconds of the microbatch, minus 1."""
        return self.times.of_microbatch / self.measured.microbatch_seconds - 1

    @property
    def step_error(self) -> float:
        """The same of the microbatch and the optimizer's step together."""
        return self.times.of_step(1) / self._measured_step() - 1

    def _measured_step(self) -> float:
        return self.measured.microbatch_seconds + self.measured.optimizer_seconds

    @property
    def memory_holds(self) -> bool:
        """Whether the predicted memory may be used."""
        return abs(self.memory_error) <= MEMORY_TOLERANCE

    @property
    def time_holds(self) -> bool:
        """Whether the predicted time may be used."""
        return abs(self.step_error) <= TIME_TOLERANCE


@dataclass(frozen=True)
class Plan:
    """Everything that is known before a run starts.

    Attributes:
        config: The settings, resolved, with what was chosen.
        options: What was asked.
        planned: The model.
        machine: Where it would run.
        pairs: What it would train on.
        choice: How a step is cut.
        times: Of a mean microbatch and of the optimizer.
        check: What one microbatch really took, or None.
        total_steps: Optimizer steps of the run.
        steps_an_epoch: Optimizer steps of one epoch.
        disk: Bytes that the run writes, by part.
        launch: The command to run.
    """

    config: TrainConfig
    options: PlanOptions
    planned: Planned
    machine: Machine
    pairs: Pairs
    choice: Choice
    times: Times
    check: Check | None
    total_steps: int
    steps_an_epoch: int
    disk: Mapping[str, float]
    launch: str

    @property
    def memory_bytes(self) -> float:
        """Bytes of a process: predicted, corrected by the check where that differs too much."""
        if self.check is None or self.check.memory_holds:
            return self.choice.memory.total
        return self.choice.memory.total / (1 + self.check.memory_error)

    @property
    def memory_left(self) -> float:
        """Bytes that stay free beside it; negative if it does not fit."""
        free = self.machine.memory_of_one_process(self.choice.split.processes)
        own = 0 if self.machine.is_cuda else self.choice.memory.parts[memory.LIBRARIES]
        return free + own - self.memory_bytes

    @property
    def step_seconds(self) -> float:
        """Seconds of a mean optimizer step, corrected likewise."""
        microbatches = self.choice.microbatches
        if self.check is None or self.check.time_holds:
            return self.times.of_step(microbatches)
        ratio = 1 / (1 + self.check.microbatch_error)
        seconds = microbatches * self.times.of_microbatch * ratio
        return seconds + self.check.measured.optimizer_seconds

    @property
    def step_tokens(self) -> float:
        """Source and target tokens of a mean step, all processes together."""
        size = min(self.config.batch_size, self.pairs.num_pairs)
        return size * sum(self.pairs.tokens_an_epoch()) / self.pairs.num_pairs

    @property
    def hours(self) -> float:
        """Hours of the whole run, evaluation and checkpoints left out."""
        return self.total_steps * self.step_seconds / 3600

    @property
    def hours_an_epoch(self) -> float:
        """Hours of one pass over the pairs."""
        return self.steps_an_epoch * self.step_seconds / 3600

    @property
    def why_unchecked(self) -> str:
        """Why there is no check; "" if there is one, or none was wanted."""
        if self.check or not self.options.check:
            return ""
        if not self.machine.is_here:
            return "that machine is not here"
        return _why_unchecked(self.config, self.choice)

    def step_flops(self) -> float:
        """Returns the operations that a mean step needs, all processes together."""
        of_microbatch = self.planned.flops(self.choice.typical).useful
        return of_microbatch * self.choice.microbatches * self.choice.split.processes


def make(
    config: TrainConfig,
    source: Source,
    start: Path | None,
    options: PlanOptions,
    argv: Sequence[str] = (),
    clock: Clock = time.perf_counter,
) -> Plan:
    """Returns the plan of a run.

    Args:
        config: resolved settings.
        source: where the pairs are.
        start: checkpoint that the run starts from, or None.
        options: what the plan was asked.
        argv: settings as the user gave them, for the launch line.
        clock: which seconds are measured.

    Raises:
        ChatLMError: what the run itself would refuse, or a check that failed.
    """
    if start:
        config = replace(config, tokenizer=str(start))
    out = Path(config.out) if config.out else run_folder.OUT_ROOT
    card = options.card()
    there = (
        machine.elsewhere(card, options.processes, out)
        if card
        else machine.here(config, options.processes, out)
    )
    if there.is_cuda and options.processes > there.num_devices:
        raise ConfigError(
            f"processes={options.processes}, but there are {there.num_devices} GPUs here: name "
            "gpu= to plan for another machine"
        )
    # Before anything large is read: what is there now is what every process begins with.
    libraries = libraries_of(there, config.base)
    half = config.precision == "bf16" or (config.precision == "auto" and there.is_cuda)
    if config.base:
        planned, pairs = _tuning(config, source, half=half)
    else:
        pairs = lengths.find(config, source)
        shape = replace(config.model, vocab_size=pairs.vocab_size)
        config = replace(config, model=hf.load_config(start) if start else shape)
        planned = OwnModel(config)
    question = Question(config, there, pairs, options.processes, half, libraries, planned)
    choice = choose(question)
    config = settled(config, choice)
    if there.is_here:
        torch.set_num_threads(there.threads)
        torch.set_flush_denormal(True)
        clockwork = planned.clockwork(bench(there, half, clock))
        times = clockwork(choice.typical)
        checked = _checked(question, choice, config, clockwork, clock) if options.check else None
    else:
        assert card is not None
        rate = card.tflops * 1e12 * options.mfu
        times, checked = timing.assumed(planned.flops(choice.typical).computed, rate), None
    order = Order(pairs.num_pairs, config.batch_size, config.seed)
    steps = config.max_steps or math.ceil(config.epochs * order.steps_per_epoch)
    return Plan(
        config,
        options,
        planned,
        there,
        pairs,
        choice,
        times,
        checked,
        steps,
        order.steps_per_epoch,
        disk.predict(config, pairs, steps, planned.checkpoint_bytes),
        launch_line.make(choice, argv),
    )


def _tuning(config: TrainConfig, source: Source, *, half: bool) -> tuple[Planned, Pairs]:
    """Returns the model of others that is to be tuned, and its pairs; imports transformers."""
    from chatlm.adapters.forms import open_form
    from chatlm.plan import tuned_lengths
    from chatlm.plan.tuned import TunedModel

    form = open_form(config.base)
    return TunedModel(config, form.pad_id, half=half), tuned_lengths.find(config, source, form)


def libraries_of(there: Machine, base: str = "") -> int:
    """Returns what a process takes before it has a model, or the base that it tunes."""
    if there.is_cuda:
        return memory.CUDA_CONTEXT
    from chatlm import training  # noqa: F401  a run has it loaded

    if base:
        from chatlm.adapters import tuning  # noqa: F401

    return memory_now.libraries()


def bench(there: Machine, half: bool, clock: Clock) -> Bench:
    """Returns where the parts of a step are measured."""
    device = torch.device("cuda" if there.is_cuda else "cpu")
    return Bench(device, torch.bfloat16 if half else torch.float32, clock)


def _why_unchecked(config: TrainConfig, choice: Choice) -> str:
    """Returns why no microbatch can be computed to hold the plan against; "" if one can."""
    if choice.split.sharding.startswith(("zero", "fsdp")):
        return "a shard needs all processes"  # what is measured here is one whole process
    if config.base and not choice.fits:
        return "it does not fit"
    return "4-bit matrices need the weights" if config.quantize != "none" else ""


def _checked(
    question: Question,
    choice: Choice,
    config: TrainConfig,
    clockwork: Callable[[Load], Times],
    clock: Clock,
) -> Check | None:
    """Computes the largest microbatch, or as much of it as takes CHECK_SECONDS."""
    if _why_unchecked(config, choice):
        return None
    load = choice.largest
    times = clockwork(load)
    if times.of_microbatch > CHECK_SECONDS:
        share = CHECK_SECONDS / times.of_microbatch
        longest = sum(load.longest())
        tokens = max(longest, int(load.num_tokens * share))
        load = filled(load.source_lengths, load.target_lengths, tokens)
        times = clockwork(load)
    return hold(question, config, load, choice.accumulates, times, clock)


def hold(
    question: Question,
    config: TrainConfig,
    load: Load,
    accumulates: bool,
    times: Times,
    clock: Clock,
) -> Check:
    """Returns what a microbatch takes by prediction and by measurement.

    Args:
        question: the machine.
        config: the settings.
        load: the microbatch.
        accumulates: whether gradients of another microbatch are there already.
        times: the predicted ones.
        clock: which seconds are measured.

    Raises:
        CheckError: it could not be computed.
    """
    there = question.machine
    setup = Setup(config, Split(), there.is_cuda, question.half, accumulates, question.libraries)
    needs = question.planned.memory(setup, load)
    if there.is_cuda:  # PyTorch counts neither the context nor what its allocator keeps unused
        needs = needs.without(memory.CONTEXT, memory.SLACK)
    name = "cpu" if clock is time.process_time else "wall"
    measured = check.measure(
        replace(config, threads=there.threads), load, accumulates=accumulates, clock=name
    )
    return Check(load, needs, times, measured)
