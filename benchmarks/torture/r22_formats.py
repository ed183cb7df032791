"""R22: checkpoints of every format version are gone on with; those of a later one are refused.

Runs are taken back to a checkpoint as an older ChatLM wrote it, with what it did not know left out,
and must end with the bits of an undisturbed run. A checkpoint of a later format must be refused by
its name and number, stay where it is, and not be passed over for an older one.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.torture import whole
from benchmarks.torture.victim import SETTINGS, Outcome, Result, Workbench
from chatlm.checkpoint import manifest, verify
from tests.checkpoint.golden import GOLDEN

COUNTS = {"full": 16, "slice": 3}
SECONDS = 1.6
TITLE = "older and later formats of checkpoints"
KNOWN_TO_FORMAT_1 = (
    *("step", "samples", "best_step", "best_loss", "data", "tokenizer", "num_processes"),
    *("run_seconds", "engine"),
)
REFUSED = 2
EVERY = int(SETTINGS["save_every_steps"])


def run(count: int, bench: Workbench) -> Result:
    """Goes on with `count` checkpoints of other formats, golden ones included."""
    golden = sorted(GOLDEN.glob("format_*/step_*"))
    failures = [f"{one}: {why}" for one in golden if (why := verify.problem(one))]
    if len(golden) != manifest.FORMAT_VERSION:
        failures.append(f"{len(golden)} golden checkpoints, not one of each format")
    reference = bench.reference(keep_checkpoints=99)
    for number in range(count - len(golden)):
        folder = bench.copy_of(reference.run, "r22")
        step = EVERY * bench.random.randint(1, reference.steps[-1] // EVERY - 1)
        for later in reference.steps:
            if later > step:
                shutil.rmtree(folder / f"step_{later:06d}")
        checkpoint = folder / f"step_{step:06d}"
        if number % 2:
            _of_later_format(checkpoint)
            found = _wrong_if_not_refused(bench, folder, checkpoint)
        else:
            _of_format_1(checkpoint)
            found = _wrong_at_the_end(bench, folder, checkpoint, reference)
        failures += [f"step {step}: {one}" for one in found]
    return Result("R22", TITLE, count, failures, {"golden": len(golden)})


def _of_format_1(checkpoint: Path) -> None:
    state = _read(checkpoint / "state.json")
    old = {key: state[key] for key in KNOWN_TO_FORMAT_1}
    if old["best_loss"] is None:
        old["best_loss"] = float("inf")
    (checkpoint / "state.json").write_text(json.dumps(old))
    files = _read(checkpoint / "MANIFEST.json")["files"]
    content = (checkpoint / "state.json").read_bytes()
    files["state.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    made = {"format": 1, "step": state["step"], "files": files}
    (checkpoint / "MANIFEST.json").write_text(json.dumps(made, indent=1))


def _of_later_format(checkpoint: Path) -> None:
    content = _read(checkpoint / "MANIFEST.json")
    del content["sha256"]
    content |= {"format": manifest.FORMAT_VERSION + 1, "chatlm": "9.8.7"}
    (checkpoint / "MANIFEST.json").write_text(manifest.summed(content))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _wrong_at_the_end(
    bench: Workbench, folder: Path, checkpoint: Path, reference: Outcome
) -> list[str]:
    outcome = bench.start(folder, resume=True, keep_checkpoints=99).outcome()
    wrong = whole.wrong_at_the_end(folder, outcome, reference)
    if f"going on from {checkpoint}" not in outcome.log:
        wrong.append("it did not go on from the checkpoint of format 1")
    return wrong


def _wrong_if_not_refused(bench: Workbench, folder: Path, checkpoint: Path) -> list[str]:
    before = sorted(path.name for path in folder.iterdir())
    outcome = bench.start(folder, resume=True, keep_checkpoints=99).outcome()
    told = f"{checkpoint}: format {manifest.FORMAT_VERSION + 1}, written by ChatLM 9.8.7"
    wrong = [] if told in outcome.last_line() else [f"it was not named: {outcome.last_line()}"]
    if outcome.exit_code != REFUSED:
        wrong.append(f"exit code {outcome.exit_code}")
    after = sorted(path.name for path in folder.iterdir())
    return wrong if after == before else [*wrong, "the run folder was changed"]
