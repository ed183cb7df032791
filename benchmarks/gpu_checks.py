"""Are the routes of `gpu_step.py` right? Their losses and gradients beside the plainest route's.

In: a few pairs, filler and an empty pair among them; later the first step of every side. Out: rows
of relative errors and whether they are within the tolerances, which stand here.
"""

import sys
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from gpu_batches import Settings, Work, few
from gpu_sides import ROUTES, Route, our_model
from torch import Tensor

from chatlm.dataset.batches import Batch

CHECK_PAIRS = 12
PLAINEST = "math"

TOLERANCES = {"fp32": (1e-5, 1e-3, 1e-3), "bf16": (5e-3, 0.1, 0.2)}
"""Of the loss, of the whole gradient, and of that of T5's bias tables, relative to their size."""

SAME_LOSS, SAME_NORM = 5e-3, 5e-2
"""Of the first step's loss and gradient norm: compiled and not, one route and another."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What one forward and backward pass gives."""

    loss: float
    gradients: dict[str, Tensor]


def check_routes(
    settings: Settings, work: Work, sides: list[str], device: torch.device
) -> list[Row]:
    """Returns for every side and precision its errors; an exception is an error like any other."""
    batch = few(work, CHECK_PAIRS).to(device)
    rows = []
    for position in sorted({ROUTES[side][0] for side in sides}):
        expected = _result(settings, work, (position, PLAINEST), batch, "fp32")
        for side in (side for side in sides if ROUTES[side][0] == position):
            for precision in TOLERANCES:
                row: Row = {"name": f"{side} {precision}"}
                try:
                    found = _result(settings, work, ROUTES[side], batch, precision)
                    row |= _errors(found, expected, precision)
                except Exception as error:
                    traceback.print_exc(file=sys.stderr)
                    lines = str(error).strip().splitlines() or [""]
                    row |= {"error": f"{type(error).__name__}: {lines[0][:200]}", "holds": False}
                rows.append(row)
    return rows


def _result(settings: Settings, work: Work, route: Route, batch: Batch, precision: str) -> Result:
    model = our_model(settings, work, route, batch.labels.device)
    kind = batch.labels.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
        output = model(*batch.tensors())
        loss = output.loss_sum / output.num_tokens
    loss.backward()
    gradients = {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }
    return Result(float(loss.detach()), gradients)


def _errors(found: Result, expected: Result, precision: str) -> Row:
    """Returns relative errors: of the loss, of all gradients as one vector, of the bias tables'."""
    names = list(expected.gradients)
    biases = [name for name in names if "bias" in name]
    errors = {
        "loss": _relative(found.loss, expected.loss),
        "gradient": _distance(found, expected, names),
        "bias": _distance(found, expected, biases) if biases else 0.0,
    }
    limits = TOLERANCES[precision]
    holds = all(error <= limit for error, limit in zip(errors.values(), limits, strict=True))
    return errors | {"holds": holds}


def _distance(found: Result, expected: Result, names: list[str]) -> float:
    """Returns |found - expected| / |expected| over some tensors; infinite where one is missing."""
    if not set(names) <= set(found.gradients):
        return float("inf")
    pairs = [(found.gradients[name].double(), expected.gradients[name].double()) for name in names]
    missed = sum(float((ours - theirs).square().sum()) for ours, theirs in pairs)
    size = sum(float(theirs.square().sum()) for _, theirs in pairs)
    return (missed / size) ** 0.5 if size else float("inf")


def _relative(found: float, expected: float) -> float:
    return abs(found - expected) / abs(expected) if expected else float("inf")


def judge(rows: dict[str, Row]) -> list[Row]:
    """Returns the checks of the routes, and whether all sides began alike.

    Every side of one kind of position starts from the same weights and pairs, so its first loss and
    gradient norm have to be those of the others, compiled or not.
    """
    checks: list[Row] = list(rows.get("check", {}).get("checks", []))
    for position in ("t5", "rope"):
        began = [
            (side, row)
            for side, row in rows.items()
            if "first_loss" in row and ROUTES.get(side.partition("_")[0], ("",))[0] == position
        ]
        for side, row in began[1:]:
            first, other = began[0]
            loss, norm = (_relative(row[key], other[key]) for key in ("first_loss", "first_norm"))
            checks.append(
                {
                    "name": f"{side} begins as {first}",
                    "loss": loss,
                    "gradient": norm,
                    "holds": loss <= SAME_LOSS and norm <= SAME_NORM,
                }
            )
    return checks
