"""The command that starts a planned run.

In: a choice, and the settings as the user gave them. Out: one line for a shell.
"""

import shlex
from collections.abc import Sequence

from chatlm.plan.choose import Choice

CONFIGS = {
    "zero1": "runs/zero1.yaml",
    "zero2": "accelerate.yaml",
    "zero3": "runs/zero3.yaml",
    "fsdp2": "runs/fsdp2.yaml",
}
DOOR = "./train.py train"


def make(choice: Choice, argv: Sequence[str]) -> str:
    """Returns the launch line: the user's settings, and the chosen microbatch behind them."""
    kept = [one for one in argv if not one.startswith("microbatch_tokens=")]
    settings = shlex.join([*kept, f"microbatch_tokens={choice.microbatch_tokens}"])
    split = choice.split
    if split.processes == 1:
        launcher = "accelerate launch"
    elif split.sharding == "ddp":
        launcher = f"accelerate launch --multi_gpu --num_processes {split.processes}"
    else:
        config = CONFIGS[split.sharding]
        launcher = f"accelerate launch --config_file {config} --num_processes {split.processes}"
    return f"{launcher} {DOOR} {settings}"
