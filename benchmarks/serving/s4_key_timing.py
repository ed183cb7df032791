"""S4: the time of a refusal says nothing about how much of a wrong key is right."""

import http.client
import math
import random
import time
from typing import Any

import numpy as np

from benchmarks.serving.clients import Server

KEY = "0123456789abcdef0123456789abcdef0123456789abcdef"
WRONG = {
    "nothing right": "z" * len(KEY),
    "all but the last letter": KEY[:-1] + "z",
}
MIN_P = 0.01


def run(*, full: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """Returns figures and promises."""
    count = 10_000 if full else 1_000
    with Server(environment={"CHATLM_API_KEY": KEY}, wait=True) as server:
        times = _times(server.port, count)
    first, second = (np.array(times[name]) for name in WRONG)
    p = mann_whitney(first, second)
    figures = {
        "samples of each": count,
        "median, us": {name: round(float(np.median(times[name])) * 1e6, 1) for name in WRONG},
        "p (Mann-Whitney, two-sided)": round(p, 4),
    }
    return figures, {f"no difference at p < {MIN_P}": p >= MIN_P}


def _times(port: int, count: int) -> dict[str, list[float]]:
    """Returns the seconds of each refusal, in random order on one connection."""
    times: dict[str, list[float]] = {name: [] for name in WRONG}
    order = [name for name in WRONG for _ in range(count)]
    random.Random(4).shuffle(order)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for name in order:
        began = time.perf_counter()
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {WRONG[name]}"})
        response = connection.getresponse()
        response.read()
        times[name].append(time.perf_counter() - began)
        assert response.status == 401
    return times


def mann_whitney(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the two-sided p that both samples are of one distribution (normal approximation)."""
    both = np.concatenate([first, second])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = len(first), len(second)
    u = ranks[:n].sum() - n * (n + 1) / 2
    ties = ((counts**3 - counts).sum()) / ((n + m) * (n + m - 1))
    sigma = math.sqrt(n * m / 12 * (n + m + 1 - ties))
    return math.erfc(abs(u - n * m / 2) / sigma / math.sqrt(2))
