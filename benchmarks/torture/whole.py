"""What must be true of a run folder whatever happened to the run.

In: a run folder. Out: one line for each thing that is not so.
"""

from pathlib import Path

from benchmarks.torture.victim import Outcome
from chatlm.checkpoint import verify


def damaged(run: Path) -> list[str]:
    """Returns what is wrong with folders that have the name of a checkpoint."""
    found = [(folder.name, verify.problem(folder)) for folder in sorted(run.glob("step_*"))]
    return [f"{name}: {wrong}" for name, wrong in found if wrong]


def leftovers(run: Path) -> list[str]:
    """Returns half written and half deleted things, of which an ended run must have none."""
    return [f"{path.name} was left" for path in run.iterdir() if path.name.startswith((".t", ".o"))]


def wrong_at_the_end(run: Path, outcome: Outcome, reference: Outcome) -> list[str]:
    """Returns in what a run that came to its end is not as one that nothing happened to."""
    if outcome.hung:
        return ["it hangs"]
    difference = outcome.difference(reference)
    return [*([difference] if difference else []), *damaged(run), *leftovers(run)]
