"""A1: requests made by schemathesis from the server's description, with and without a key."""

import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.serving import clients  # noqa: F401  (lets the helpers below find each other)
from tests.server.fuzzed import NOT_OURS, SHARES, Counts, fuzz

SLICE = 500
"""Cases of one application and one seed."""


def run(*, full: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """Returns figures and promises; half of the cases go to a server with a key."""
    figures: dict[str, Any] = {"checks left out": list(NOT_OURS), "shares": SHARES}
    promises: dict[str, bool] = {}
    num_cases = 10_000 if full else 1_000
    with ProcessPoolExecutor(2) as pool:
        both = [pool.submit(_fuzz, num_cases, has_key=has_key) for has_key in (False, True)]
    for has_key, counts in zip((False, True), [one.result() for one in both], strict=True):
        name = "with a key" if has_key else "without a key"
        figures[name] = {
            "cases": counts.cases,
            "statuses": {str(status): count for status, count in sorted(counts.statuses.items())},
            "answers as streams": counts.streams,
            "failed checks": dict(counts.failures),
        }
        promises[f"{name}: 0 of 5xx"] = counts.server_errors == 0
        promises[f"{name}: 0 failed checks, so 0 undocumented statuses"] = not counts.failures
        if has_key:
            figures[name]["sent with a wrong key"] = counts.without_key
            promises["0 let through without the key"] = counts.bypasses == 0
    return figures, promises


def _fuzz(num_cases: int, *, has_key: bool) -> Counts:
    """Returns the counts of so many cases; what has come so far is said on stderr."""
    counts = Counts()
    seed = 0
    while counts.cases < num_cases:
        seed += 1000
        counts.add(fuzz(min(SLICE, num_cases - counts.cases), has_key=has_key, seed=seed))
        print(f"A1: has_key={has_key}: {counts}", file=sys.stderr, flush=True)
    return counts
