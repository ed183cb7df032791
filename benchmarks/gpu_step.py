"""Measures training steps on one CUDA card: every attention route and Hugging Face's T5, in a run.

In: a shape (default: the 0.2B model), a token store or mean lengths of random pairs. Out: tables
and one JSON file (`out=`). First the routes are checked on a few pairs: loss and gradients against
the plainest route in fp32. Then every side trains for some steps on the same pairs, each in a
process of its own, so that one that fails or hangs is a row that says so, and the others go on.

    python benchmarks/gpu_step.py                                    # pairs of 24 + 103 tokens
    python benchmarks/gpu_step.py source_tokens=64 target_tokens=180
    python benchmarks/gpu_step.py data=token-store-folder

Sides: `flex`, `sdpa` and `rope` are our model with that attention (`rope`: rotary positions and
flash attention), as they are; with `_layers`, where torch.compile takes one layer of a kind, which
serves all of that kind; with `_compiled`, where it takes the model as a whole. `hf` is
transformers' T5ForConditionalGeneration, bf16 and sdpa too, on random padded batches of the same
pairs, with fused AdamW. Useful tokens are source and target tokens of real pairs. MFU counts their
operations only (`chatlm.plan.flops`), against the best large bf16 matrix product of the same run.
A step is `microbatches` forward and backward passes, clipping, and the optimizer. `recompiled`
counts graphs made after the first step.

The exit status is 1 if a side failed or a check did not hold.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gpu_batches import Settings, make_work
from gpu_checks import check_routes, judge
from gpu_sides import measure_side
from rich.console import Console
from rich.table import Table

from chatlm import cli
from chatlm.corpus.store import replacing
from chatlm.errors import ConfigError

SIDES = (
    "flex", "hf", "flex_layers", "rope", "sdpa", "rope_layers", "sdpa_layers",
    "flex_compiled", "hf_compiled", "rope_compiled", "sdpa_compiled",
)  # fmt: skip
"""In the order of what is lost least if time runs out."""

CHECK = "check"
SIDE_SECONDS = 240
LEAST_SECONDS = 30
KEPT_CHARS = 4000

Row = dict[str, Any]


def run_all(settings: Settings, argv: Sequence[str]) -> dict[str, Any]:
    """Returns the row of the checks and of every side, each measured in a process of its own."""
    end = time.monotonic() + settings.seconds
    rows: dict[str, Row] = {}
    checks = (CHECK,) if settings.checks else ()
    for side in (*checks, *chosen(settings)):
        left = end - time.monotonic()
        if left < min(LEAST_SECONDS, settings.seconds / 2):
            rows[side] = {"left_out": f"the {settings.seconds} seconds are over"}
            continue
        started = time.monotonic()
        rows[side] = in_process([*argv, f"side={side}"], min(left, SIDE_SECONDS))
        rows[side]["process_seconds"] = round(time.monotonic() - started, 1)
        print(f"{side}: {brief(rows[side])}", file=sys.stderr)
    return rows


def chosen(settings: Settings) -> Sequence[str]:
    """Returns the sides that were asked for.

    Raises:
        ConfigError: one is unknown.
    """
    names = settings.sides.split(",") if settings.sides else [*SIDES]
    unknown = sorted(set(names) - set(SIDES))
    if unknown:
        raise ConfigError(f"sides={','.join(unknown)}: expected some of {', '.join(SIDES)}")
    return names


def in_process(argv: Sequence[str], seconds: float) -> Row:
    """Returns what this script prints for one side, or the last line of its error."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, *argv], capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {seconds:.0f} seconds"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit status {done.returncode}"
        return {"error": last[:300], "stderr": done.stderr[-KEPT_CHARS:]}
    return json.loads(done.stdout.splitlines()[-1])


def brief(row: Row) -> str:
    """Returns one line for the screen while the run goes on."""
    if "error" in row:
        return f"failed: {row['error']}"
    if "tokens_per_second" in row:
        return f"{row['tokens_per_second']:,.0f} tokens/s in {row['process_seconds']} s"
    return row.get("left_out", f"{row['process_seconds']} s")


def one_side(settings: Settings) -> Row:
    """Returns the row of `settings.side`, measured in this process."""
    if settings.device == "cpu":
        torch.set_num_threads(1)
    work = make_work(settings)
    if settings.side == CHECK:
        device = torch.device(settings.device)
        routes = {side.partition("_")[0] for side in chosen(settings)} - {"hf"}
        return {
            "card": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "parameters": settings.model.num_parameters(),
            "pairs": len(work.rows),
            "mean_lengths": [round(float(mean), 1) for mean in work.lengths.mean(0)],
            "microbatch": [len(work.batches[0].input_ids), len(work.batches[0].labels)],
            "filler": work.filler,
            "checks": check_routes(settings, work, sorted(routes), device),
        }
    return measure_side(settings, work)


def add_mfu(rows: dict[str, Row]) -> float:
    """Gives each measured row its share of the best matrix product, which is returned."""
    peak = max((row.get("peak_tflops", 0.0) for row in rows.values()), default=0.0)
    for row in rows.values():
        if "tflops" in row:
            row["mfu"] = row["tflops"] / peak
    return peak


def show(rows: dict[str, Row], checks: list[Row], peak: float) -> None:
    """Prints the tables."""
    console, facts = Console(width=140), rows.get(CHECK, {})
    table = Table(title="checks against the plainest route in fp32")
    for column in ("what", "loss", "gradient", "bias gradient", "holds"):
        table.add_column(column)
    for one in checks:
        errors = (f"{one[key]:.1e}" if key in one else "" for key in ("loss", "gradient", "bias"))
        table.add_row(one["name"], *errors, one.get("error") or ("yes" if one["holds"] else "NO"))
    console.print(table)
    if "card" in facts:
        console.print(
            f"{facts['card']}, torch {facts['torch']}, {facts['parameters'] / 1e6:.1f}M parameters;"
            f" {facts['pairs']} pairs a step, mean {facts['mean_lengths']} tokens, microbatches of"
            f" {facts['microbatch']} positions, {facts['filler']:.1%} filler; best product"
            f" {peak:.1f} TFLOP/s"
        )
    table = Table(title="training steps")
    for column in (
        "side", "useful tokens/s", "MFU", "forward ms", "backward ms", "optimizer ms", "GiB",
        "first step s", "graphs", "recompiled", "breaks",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "side" else "right")
    for side, row in rows.items():
        if side == CHECK and "error" not in row:
            continue
        table.add_row(side, *figures(row))
    console.print(table)
    for side, row in rows.items():
        if "error" in row or "left_out" in row:
            console.print(f"{side}: {row.get('error', row.get('left_out'))}", markup=False)


def figures(row: Row) -> list[str]:
    """Returns the cells of a row."""
    if "tokens_per_second" not in row:
        return ["failed" if "error" in row else "left out"]
    passes, took, memory = row["passes_a_step"], row["milliseconds"], row["memory_gib"]
    return [
        f"{row['tokens_per_second']:,.0f}",
        f"{row['mfu']:.1%}",
        f"{passes} x {took['forward']:.1f}",
        f"{passes} x {took['backward']:.1f}",
        f"{took['optimizer']:.1f}",
        "-" if memory is None else f"{memory:.1f}",
        f"{row['first_step_seconds']:.1f}",
        str(row["graphs"]),
        str(row["recompilations"]),
        str(row["graph_breaks"]),
    ]


def main(argv: Sequence[str]) -> int:
    """Runs all sides, or the one that this process was started for."""
    if any(token in ("-h", "--help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    if settings.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError("no CUDA card is visible; device=cpu with a tiny model= tries the script")
    if settings.side:
        print(json.dumps(one_side(settings)))
        return 0
    rows = run_all(settings, argv)
    peak = add_mfu(rows)
    checks = judge(rows)
    show(rows, checks, peak)
    found = {"settings": asdict(settings), "peak_tflops": peak, "checks": checks, "sides": rows}
    with replacing(Path(settings.out)) as file:
        file.write(json.dumps(found, indent=1).encode())
    for row in rows.values():
        row.pop("stderr", None)
    print(json.dumps({"peak_tflops": peak, "checks": checks, "sides": rows}))
    failed = any("error" in row for row in rows.values())
    return int(failed or not all(one["holds"] for one in checks))


if __name__ == "__main__":
    cli.run(main)
