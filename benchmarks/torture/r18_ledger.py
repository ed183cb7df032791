"""R18: every sample exactly once an epoch, over all runs that R1 and R3 killed.

What counts is what reached the model in steps that went into the final weights (`fed`), not what
the trainer writes down about itself. Work that a kill undid and a restart did again is one step.
"""

from benchmarks.torture import fed
from benchmarks.torture.victim import STEPS_PER_EPOCH, Result, Workbench

COUNTS = {"full": 0, "slice": 0}
SECONDS = 0.0
TITLE = "sample ledger over R1 and R3"


def run(_count: int, bench: Workbench) -> Result:
    """Reads the ledgers; the faults are counted where they were injected."""
    rows = bench.rows()
    expected = fed.history(bench.attempts(bench.reference().run))
    failures, runs, applied = [], 0, 0
    for logs in sorted(
        [*bench.folder.glob("logs/r01-[0-9]*"), *bench.folder.glob("logs/r03-[0-9]*")]
    ):
        steps = fed.history(bench.attempts(logs))
        runs += 1
        applied += sum(map(len, steps.values()))
        wrong = fed.wrong_counts(steps, rows, STEPS_PER_EPOCH)
        for step in expected:
            if sorted(expected[step]) != sorted(steps.get(step, [])):
                wrong.append(f"step {step} learnt from other samples than without kills")
        failures += [f"{logs.name}: {one}" for one in wrong]
    figures = {"runs": runs, "samples_applied": applied, "samples_lost_or_repeated": len(failures)}
    skipped = "" if runs else "R1 or R3 has to run in the same call"
    return Result("R18", TITLE, 0, failures, figures, skipped)
