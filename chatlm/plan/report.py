"""A plan for people, as one table, and for programs, as one JSON object.

In: a `Plan`. Out: text. It computes nothing that is not a sum or a unit.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from chatlm.plan.check import Measured
from chatlm.plan.plan import MEMORY_TOLERANCE, TIME_TOLERANCE, Check, Plan

GIB, GB = 2**30, 1e9
WIDTH = 100
Row = tuple[str, str, str]


def show(plan: Plan, console: Console | None = None) -> None:
    """Prints the table, what the check found, and the launch line."""
    console = console or Console(width=WIDTH, highlight=False)
    table = Table(title=_title(plan), title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("", overflow="fold")
    sections = (_run(plan), _memory(plan), _disk(plan), _time(plan))
    for section in sections:
        for row in section:
            table.add_row(*row)
        table.add_section()
    if plan.check:
        for row in _check(plan.check):
            table.add_row(*row)
    console.print(table)
    for line in remarks(plan):
        console.print(line, markup=False)
    console.print(plan.launch, markup=False, soft_wrap=True)


def _title(plan: Plan) -> str:
    return f"plan of {plan.config.base or plan.config.preset} on {plan.machine.name}"


def _run(plan: Plan) -> Iterator[Row]:
    config, choice = plan.config, plan.choice
    yield "parameters", f"{plan.planned.num_parameters / 1e6:,.1f}M", plan.planned.shape
    source, target = plan.pairs.tokens_an_epoch()
    yield "pairs", f"{plan.pairs.num_pairs:,}", plan.pairs.basis
    yield (
        "tokens an epoch",
        _count(source + target),
        f"{_count(source)} source, {_count(target)} target",
    )
    yield "steps", f"{plan.total_steps:,}", f"{plan.steps_an_epoch:,} an epoch"
    processes = choice.split.processes
    each = f"{processes} process{'es' if processes > 1 else ''}"
    yield (
        "batch",
        f"{config.batch_size} pairs",
        f"{each} x {choice.microbatches:.0f} microbatches of at most {choice.microbatch_tokens:,} "
        f"tokens; {choice.split.sharding}, {config.optimizer}",
    )


def _memory(plan: Plan) -> Iterator[Row]:
    for name, size in plan.choice.memory.parts.items():
        if size:
            yield name, _gib(size), ""
    note = "a process, at its worst moment"
    if plan.check and not plan.check.memory_holds:
        note = f"{note}; {_gib(plan.memory_bytes)} by the check"
    yield "memory", _gib(plan.choice.memory.total), note
    left = plan.memory_left
    yield "left free", _gib(left), "" if plan.choice.fits else "too little: see below"


def _disk(plan: Plan) -> Iterator[Row]:
    for name, size in plan.disk.items():
        yield name, f"{size / GB:.2f} GB", ""
    needed = sum(plan.disk.values())
    free = f"of {plan.machine.disk_bytes / GB:.0f} GB free"
    yield "disk", f"{needed / GB:.2f} GB", free


def _time(plan: Plan) -> Iterator[Row]:
    parts = "; ".join(f"{name} {seconds:.3g} s" for name, seconds in plan.times.microbatch.items())
    optimizer = f"optimizer {plan.times.optimizer:.3g} s"
    yield "microbatch", f"{plan.times.of_microbatch:.3g} s", f"{parts}; {optimizer}"
    rate = plan.step_flops() / plan.step_seconds / plan.choice.split.processes
    yield "step", f"{plan.step_seconds:.3g} s", f"{rate / 1e12:.3g} useful TFLOP/s a process"
    yield "speed", f"{plan.step_tokens / plan.step_seconds:,.0f} tok/s", _basis(plan)
    yield "an epoch", _hours(plan.hours_an_epoch), ""
    yield "the run", _hours(plan.hours), "training alone, without evaluation and checkpoints"
    if plan.options.price_per_hour:
        price = plan.options.price_per_hour
        yield "cost", f"{plan.hours * price:.2f}", f"{price:g} an hour"


def _basis(plan: Plan) -> str:
    card = plan.options.card()
    if card is None:
        corrected = plan.check is not None and not plan.check.time_holds
        return "as the check measured" if corrected else "from parts measured on this machine"
    return f"assumed: {plan.options.mfu:.0%} of {card.tflops:g} TFLOP/s in bf16 ({card.source})"


def _check(check: Check) -> Iterator[Row]:
    measured: Measured = check.measured
    yield (
        "check",
        f"{check.load.num_tokens:,} tokens",
        f"{check.load.num_pairs} pairs, the longest {' + '.join(map(str, check.load.longest()))}",
    )
    yield (
        "its memory",
        _gib(measured.memory_bytes),
        f"predicted {_gib(check.memory.total)}, {check.memory_error:+.1%}",
    )
    yield (
        "its time",
        f"{measured.microbatch_seconds:.3g} s",
        f"predicted {check.times.of_microbatch:.3g} s, {check.microbatch_error:+.1%}",
    )
    yield (
        "its optimizer step",
        f"{measured.optimizer_seconds:.3g} s",
        f"predicted {check.times.optimizer:.3g} s; with the microbatch {check.step_error:+.1%}",
    )


def remarks(plan: Plan) -> Iterator[str]:
    """Yields what a reader should know before he launches."""
    check = plan.check
    if check and not check.memory_holds:
        yield (
            f"memory was predicted {check.memory_error:+.0%} off (more than "
            f"{MEMORY_TOLERANCE:.0%}): the measured figure is used"
        )
    if check and not check.time_holds:
        yield (
            f"time was predicted {check.step_error:+.0%} off (more than {TIME_TOLERANCE:.0%}): the "
            "measured figure is used"
        )
    if not plan.choice.fits:
        yield (
            f"this does not fit: {_gib(plan.memory_bytes)} a process; take a smaller model, "
            "shorter max_source_tokens and max_target_tokens, more processes, or a larger device"
        )
    if sum(plan.disk.values()) > plan.machine.disk_bytes:
        yield "the disk is too small: lower keep_checkpoints, or write elsewhere with out="
    if plan.options.check and plan.check is None:
        yield f"not checked: {plan.why_unchecked}"


def record(plan: Plan) -> Mapping[str, Any]:
    """Returns the plan's figures, in bytes and seconds."""
    check = plan.check
    source, target = plan.pairs.tokens_an_epoch()
    return {
        "machine": plan.machine.name,
        "preset": plan.config.preset,
        "base": plan.config.base,
        "optimizer": plan.config.optimizer,
        "parameters": plan.planned.num_parameters,
        "pairs": plan.pairs.num_pairs,
        "source_tokens": round(source),
        "target_tokens": round(target),
        "tokens_basis": plan.pairs.basis,
        "steps": plan.total_steps,
        "batch_size": plan.config.batch_size,
        "processes": plan.choice.split.processes,
        "sharding": plan.choice.split.sharding,
        "microbatch_tokens": plan.choice.microbatch_tokens,
        "microbatches": plan.choice.microbatches,
        "fits": plan.choice.fits,
        "memory_parts": {name: round(size) for name, size in plan.choice.memory.parts.items()},
        "memory_predicted": round(plan.choice.memory.total),
        "memory": round(plan.memory_bytes),
        "memory_left": round(plan.memory_left),
        "disk": round(sum(plan.disk.values())),
        "disk_free": plan.machine.disk_bytes,
        "microbatch_parts": plan.times.microbatch,
        "optimizer_seconds": plan.times.optimizer,
        "step_seconds": plan.step_seconds,
        "step_flops": plan.step_flops(),
        "tokens_per_second": plan.step_tokens / plan.step_seconds,
        "hours_an_epoch": plan.hours_an_epoch,
        "hours": plan.hours,
        "cost": plan.hours * plan.options.price_per_hour,
        "check": check and checked(check),
        "remarks": list(remarks(plan)),
        "launch": plan.launch,
    }


def checked(check: Check) -> Mapping[str, float]:
    """Returns predicted and measured figures of a check."""
    return {
        "tokens": check.load.num_tokens,
        "memory_predicted": round(check.memory.total),
        "memory_measured": check.measured.memory_bytes,
        "memory_error": check.memory_error,
        "microbatch_predicted": check.times.of_microbatch,
        "microbatch_measured": check.measured.microbatch_seconds,
        "microbatch_error": check.microbatch_error,
        "optimizer_predicted": check.times.optimizer,
        "optimizer_measured": check.measured.optimizer_seconds,
        "step_error": check.step_error,
    }


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _count(number: float) -> str:
    if number < 1e6:
        return f"{number / 1e3:.1f}k"
    return f"{number / 1e6:.1f}M" if number < 1e9 else f"{number / 1e9:.2f}B"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{math.ceil(hours * 60)} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"
