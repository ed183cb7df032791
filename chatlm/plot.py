"""The picture of a run: training and validation loss over steps.

In: the lines of metrics.jsonl. Out: a PNG. Labels are English, because a plain machine has no
Chinese font.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def save_loss_curve(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes the loss curve; nothing to draw writes nothing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train = [(record["step"], record["loss"]) for record in records if "loss" in record]
    valid = [(record["step"], record["valid_loss"]) for record in records if "valid_loss" in record]
    if not train:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*train, strict=True), label="train", linewidth=1)
    if valid:
        axes.plot(*zip(*valid, strict=True), label="validation", marker="o", markersize=3)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    part = path.with_name(f".tmp-{path.name}")
    figure.savefig(part, dpi=120, format="png")
    part.replace(path)
