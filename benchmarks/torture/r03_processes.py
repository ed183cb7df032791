"""R3: kill -9, and start again with 1, 2 or 4 processes, drawn anew each time.

At its end weights, moments and every line of metrics.jsonl must have the bits of a run that one
process made without a break.
"""

import json

from benchmarks.torture import restarts
from benchmarks.torture.victim import Result, Workbench

COUNTS = {"full": 100, "slice": 4}
SECONDS = 2.0
TITLE = "kill -9, processes redrawn from 1, 2, 4 at every restart"
PROCESSES = (1, 2, 4)


def run(count: int, bench: Workbench) -> Result:
    """Kills `count` times."""
    whole = bench.reference()
    runs = restarts.killed_runs(bench, "r03", count, PROCESSES, whole)
    failures = [one for run in runs if (one := restarts.wrong(run, whole))]
    levels: dict[str, int] = {}
    for one in runs:
        path = one.outcome.run / "ledger.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            level = json.loads(line).get("level", "")
            levels[level] = levels.get(level, 0) + 1
    if levels.keys() - {"E1", "E2"}:
        failures.append(f"resumes at other levels than E1 and E2: {levels}")
    figures = {
        "runs": len(runs),
        "starts": sum(len(one.processes) for one in runs),
        "changes_of_processes": sum(one.changes for one in runs),
        "resume_levels": levels,
    }
    return Result("R3", TITLE, sum(one.kills for one in runs), failures, figures)
