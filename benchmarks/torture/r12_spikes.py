"""R12: three batches with permuted labels, and weights that something multiplied.

The wrong labels must be noticed before their gradients are taken, the ledger must say which steps
were skipped, and the loss of the last epoch must be at most 1 % above that of a run that saw the
right ones. Spoiled weights must be noticed at the first step that uses them, and the run must go
back to a checkpoint from before and end with the bits of a run that left out the same steps. Both
again with a kill on the way back.
"""

from typing import Any

from benchmarks.torture import faults, sickness
from benchmarks.torture.r11_not_finite import skipped
from benchmarks.torture.victim import STEPS_PER_EPOCH, Outcome, Result, Workbench

COUNTS = {"full": 16, "slice": 1}
SECONDS = 25.0
TITLE = "labels permuted for 3 batches, weights multiplied"
IN_A_ROW = 3
LONG, SHORT = 320, 96
"""Steps of a run. Three of 96 steps are too many to be left out for less than 1 % of the loss."""
LARGEST_SHARE = 0.01
INTERVAL = 16
SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-2,
    "model__dropout_rate": 0.2,
    "save_every_steps": INTERVAL,
    "eval_every_steps": LONG,
    "observe": False,
}
FEW = 4
FACTOR = 10.0
KINDS = ("weights", "vocabulary", "weights, killed", "vocabulary, killed")


def run(count: int, bench: Workbench) -> Result:
    """Injects `count` times."""
    failures: list[str] = []
    shares: list[float] = []
    delays: list[int] = []
    steps = SHORT if count <= FEW else LONG
    done, number = 0, 0
    while done < count and number < 3 * count:
        kind = KINDS[number % len(KINDS)]
        number += 1
        step = bench.random.randint(2 * INTERVAL + 2, steps - 2 * INTERVAL)
        ranks = bench.random.choice((1, 1, 2))
        how: dict[str, Any] = SETTINGS | {"ranks": ranks, "max_steps": steps}
        problems = _case(bench, kind, step, how, shares, delays)
        if problems is None:
            continue
        done += 1
        failures += [f"{kind} from step {step}, {ranks} ranks: {one}" for one in problems]
    figures = {
        "steps_until_noticed": max(delays, default=0),
        "largest_rise_of_the_final_loss": round(max(shares, default=0.0), 5),
    }
    return Result("R12", TITLE, done, failures, figures)


def _case(
    bench: Workbench,
    kind: str,
    step: int,
    how: dict[str, Any],
    shares: list[float],
    delays: list[int],
) -> list[str] | None:
    """Injects once; returns what was not as promised, None if the kill came before the way back."""
    bad = list(range(step, step + IN_A_ROW))
    folder = bench.new_run("r12")
    spikes = sickness.wrong_labels("vocabulary", bad)
    inject = spikes if kind.startswith("vocabulary") else sickness.scaled_weights(step, FACTOR)
    if kind.endswith("killed"):
        # A save beside the training may still be going on when the bad steps come.
        how = how | {"background_saves": False}
        # In the first save on the way back: what is passed over must be known to the next start.
        kill = faults.die_at(folder, _operations_until(bench, how, step))
        killed = bench.start(folder, inject=faults.together([inject, kill]), **how).outcome()
        if -9 not in killed.exit_codes:
            return [f"it was not killed, exit codes {killed.exit_codes}"]
        if not any(line["event"] == "rewind" for line in killed.ledger):
            return None  # killed before: the next start finds healthy weights, and nothing to skip
        inject = spikes if kind.startswith("vocabulary") else None
    outcome = bench.start(folder, inject=inject, **how).outcome()
    if outcome.exit_code or outcome.hung:
        return [f"exit codes {outcome.exit_codes}: {outcome.last_line()}"]
    found = skipped(outcome)
    if not found or found[:IN_A_ROW] != bad:
        return [f"the ledger has {found} as skipped, bad were {bad}"]
    delays.append(found[0] - step)
    ways = [line for line in outcome.ledger if line["event"] == "rewind"]
    problems = []
    if len(ways) != 1 or ways[0]["skip"] != bad or not step - 2 * INTERVAL < ways[0]["to"] < step:
        problems.append(f"the ledger has the ways back {ways}")
    problems += _wrong_figures(outcome, bench, how, bad, shares)
    return problems


def _wrong_figures(
    outcome: Outcome, bench: Workbench, how: dict[str, Any], bad: list[int], shares: list[float]
) -> list[str]:
    problems = []
    if how["max_steps"] == LONG:
        clean = bench.reference(**how)
        shares.append(_final_loss(outcome) / _final_loss(clean) - 1)
        if shares[-1] > LARGEST_SHARE:
            problems.append(f"the final loss is {shares[-1]:.2%} higher")
    # The same steps left out because of their labels, in a run of one process.
    folder = bench.new_run("r12-same")
    without = bench.finish(
        folder, inject=sickness.wrong_labels("vocabulary", bad), **how | {"ranks": 1}
    )
    difference = outcome.difference(without)
    return problems + ([difference] if difference else [])


def _final_loss(outcome: Outcome) -> float:
    """Returns the mean training loss of the last epoch; nine valid pairs would say less."""
    losses = [float.fromhex(outcome.losses[step]) for step in sorted(outcome.losses)]
    return sum(losses[-STEPS_PER_EPOCH:]) / STEPS_PER_EPOCH


def _operations_until(bench: Workbench, how: dict[str, Any], step: int) -> int:
    """Returns the number of the file operation in the middle of the first save after a way back."""
    every = len(bench.reference(**how).operations) * INTERVAL // how["max_steps"]
    return every * (step // INTERVAL) + every // 2
