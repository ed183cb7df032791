"""The trainings of `tests/test_distributed.py` and `tests/test_launchers.py`, and what they left.

One process and several, under every engine, on the same pairs with the same settings.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chatlm import run_folder
from tests import tiny_data
from tests.ranks import Job, Seen

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 2e-2, "keep_checkpoints": 9}
MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 1e-2, "clip_norm": 0}
SMALL: dict[str, Any] = {"microbatch_tokens": 64}
"""Twice as many microbatches a step and process, or more."""


@dataclass(frozen=True)
class Trainings:
    """A folder of trainings; each is known by its job's name."""

    folder: Path
    data: Path

    def job(
        self, name: str, config: str | Path = "", count: int = 1, *, of: str = "", **changes: Any
    ) -> Job:
        """Returns a job of its own run folder, or one that goes on with the run `of`.

        The one that goes on finds that run without its last checkpoint.
        """
        run = self.run_folder(of or name)
        settings = SETTINGS | {"data": self.data, "out": run} | changes
        if of:
            settings["resume"] = True
        return Job(
            name,
            ["train", *tiny_data.argv(**settings)],
            str(ROOT / config) if config else "",
            count,
            forget=[str(run / "step_000008" / "MANIFEST.json")] if of else [],
        )

    def run(self, jobs: list[Job]) -> None:
        """Runs the jobs, one after the other."""
        path = self.folder / "jobs.json"
        path.write_text(json.dumps([asdict(job) for job in jobs]))
        argv = [sys.executable, "-m", "tests.ranks", str(path), str(self.folder / "seen")]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    def run_folder(self, name: str) -> Path:
        """Returns the run folder of a job."""
        return self.folder / "out" / name

    def log(self, name: str, rank: int = 0) -> str:
        """Returns what a process printed."""
        return (self.folder / "seen" / name / f"{rank}.log").read_text(encoding="utf-8")

    def seen(self, name: str, rank: int = 0) -> Seen:
        """Returns what a process did, which must have come to its end."""
        path = self.folder / "seen" / name / f"{rank}.json"
        assert path.is_file(), self.log(name, rank)[-3000:]
        return Seen(**json.loads(path.read_text()))

    def figures(self, name: str, key: str) -> list[float]:
        """Returns a figure of every step that has it, after the job ended well."""
        assert self.seen(name).code == 0, self.log(name)[-3000:]
        records = run_folder.metrics(self.run_folder(name))
        return [record[key] for record in records if record.get(key) is not None]


def zero3_config(folder: Path) -> Path:
    """Returns a launch configuration like runs/zero3.yaml that cuts up the smallest tensors too.

    DeepSpeed leaves tensors of up to 100,000 values whole, which would be all of a tiny model.
    """
    settings = {
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
    }
    (folder / "zero3.json").write_text(json.dumps(settings))
    lines = (ROOT / "runs" / "zero3.yaml").read_text().splitlines()
    start = lines.index("deepspeed_config:") + 1
    end = next(i for i, line in enumerate(lines[start:], start) if not line.startswith("  "))
    lines[start:end] = [f"  deepspeed_config_file: {folder / 'zero3.json'}"]
    path = folder / "zero3.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
