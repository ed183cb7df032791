"""The course of the learning rate: a pure function of how much of the run is done.

In: samples seen over samples of the whole run. Out: a share of the peak rate. It depends neither on
the number of processes nor on resuming.
"""

import math


def rate_share(done: float, *, warmup: float, final: float, schedule: str, decay: float) -> float:
    """Returns the share of the peak rate, in [0, 1].

    Args:
        done: samples seen over samples of the whole run, in [0, 1].
        warmup: share of the run over which the rate rises linearly from 0.
        final: share of the peak that is left at the end (cosine, wsd).
        schedule: "cosine", "wsd" (warm up, stay, decay) or "constant".
        decay: share of the run at its end over which the rate falls (wsd).
    """
    if done < warmup:
        return done / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        left = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (done - warmup) / (1.0 - warmup))))
    else:
        left = min(1.0, max(0.0, 1.0 - done) / min(decay, 1.0 - warmup))
    return final + (1.0 - final) * left
