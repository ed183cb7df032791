"""What a run was made of and where, and how exactly another start can go on with it.

In: settings, data, the machine, a checkpoint's State. Out: hashes and names that are kept in
checkpoints; whether the run may be gone on with; and the level at which it is:

E1: nothing has changed that bits depend on: equal bits.
E2: another number of processes takes the same shares of each gradient: equal bits.
E3: the same pairs in the same order; losses within 1e-3 over 100 steps.

It writes nothing.
"""

import hashlib
import json
import platform
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from chatlm.checkpoint.state import State
from chatlm.config import TrainConfig
from chatlm.dataset.order import Order, Rows
from chatlm.engines import DeepSpeed, Engine, FullyShard, TreeSum
from chatlm.errors import CheckpointError

# What a run may change while it goes on. Everything else alters the result.
CHANGEABLE = frozenset(
    {
        *("preset", "data", "tokenizer", "out", "resume", "accept_changes", "finetune"),
        *("init_from", "freeze"),  # as it was resolved is compared
        *("microbatch_tokens", "gradient_shares", "precision", "device", "attention", "compile"),
        *("threads", "deterministic"),  # is part of the environment
        *("log_every_steps", "eval_every_steps", "eval_pairs", "eval_answers", "max_new_tokens"),
        *("save_every_steps", "background_saves", "keep_checkpoints", "history_turns"),
        *("max_bad_steps", "hang_seconds"),
        *("gradient_checkpointing", "per_device_batch_size"),
        *("max_forgetting", "replay"),  # its share is compared, its pairs are part of the data
    }
)
START = hashlib.sha256(b"").hexdigest()
"""The chain of a run that has taken no step."""
LEVELS = {
    "E1": "equal bits",
    "E2": "equal bits",
    "E3": "the same pairs in the same order, losses near the same",
}


def settings(config: TrainConfig) -> dict[str, Any]:
    """Returns the settings that alter the result, as dotted keys."""
    own: dict[str, Any] = asdict(config)
    model, lora = own.pop("model"), own.pop("lora")
    found = {key: value for key, value in own.items() if key not in CHANGEABLE}
    found["freeze"] = ",".join(config.frozen_parts())
    found |= {f"lora.{key}": value for key, value in lora.items()}
    found["replay.share"] = config.replay.share
    return found | {f"model.{key}": value for key, value in model.items()}


def sha256(values: Mapping[str, Any]) -> str:
    """Returns the hash of named values, in any order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def extended(chain: str, rows: Rows) -> str:
    """Returns the chain of a run that has learned from the rows of one more step."""
    return hashlib.sha256(bytes.fromhex(chain) + rows.astype("<i8").tobytes()).hexdigest()


def chain_of(order: Order, steps: int, skipped: Collection[int]) -> str:
    """Returns the chain of a run that has taken so many steps, all but the skipped ones.

    It takes some microseconds a step: see `require_reachable` where a file says how many.
    """
    chain = START
    for index in range(steps):
        if index + 1 not in skipped:
            chain = extended(chain, order.rows(index))
    return chain


def require_reachable(folder: Path, state: State, total_steps: int) -> None:
    """Refuses a checkpoint of a step that the run does not come to.

    Its file can claim any step, and the chain up to it would be computed without end.

    Args:
        folder: the checkpoint.
        state: its State.
        total_steps: of this start.

    Raises:
        CheckpointError: the run ends before.
    """
    if state.step > total_steps:
        raise CheckpointError(
            f"{folder} says that it is of step {state.step}, but the run ends at step "
            f"{total_steps}: set max_steps= or epochs= to what the run had, or delete the folder "
            "if its state.json is damaged"
        )


def environment(config: TrainConfig, engine: Engine, accelerator: Accelerator) -> dict[str, Any]:
    """Returns what the bits of a result depend on beside settings and data."""
    device, num_processes = accelerator.device, accelerator.num_processes
    on_cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if on_cuda else "cpu",
        "cpu": f"{_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": torch.get_num_threads(),
        "engine": engine.name or type(engine).__name__,
        "processes": num_processes,
        "gradient_shares": engine.num_shares,
        "microbatch_tokens": config.microbatch_tokens,
        "precision": accelerator.mixed_precision.replace("no", "fp32"),
        "attention": config.attention,
        "compiled": engine.compiled,
        "repeatable": _is_repeatable(config, engine, num_processes, on_cuda=on_cuda),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _is_repeatable(
    config: TrainConfig, engine: Engine, num_processes: int, *, on_cuda: bool
) -> bool:
    """Says whether a second run of the same steps gives the same bits.

    DDP cuts gradients up otherwise after its first step, so a sum over three processes or more is
    not added in the same order after a restart. On CPUs the other engines have been seen to repeat
    themselves on two and on four processes.
    """
    if on_cuda:
        return config.deterministic and num_processes == 1
    return num_processes <= 2 or isinstance(engine, TreeSum | DeepSpeed | FullyShard)


@dataclass(frozen=True)
class Level:
    """How exactly a run is gone on with, and why not more exactly."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"resume level {self.name} ({LEVELS[self.name]}): {self.why}"


def level(saved: Mapping[str, Any], here: Mapping[str, Any], accepted: Collection[str]) -> Level:
    """Returns how exactly a run can be gone on with.

    Args:
        saved: the environment in the checkpoint, {} if it is of format 1.
        here: that of this start.
        accepted: what else has changed and was accepted by the user.
    """
    if accepted:
        return Level("E3", "accepted: " + "; ".join(accepted))
    if not saved:
        return Level("E3", "the checkpoint does not say where it was made (format 1)")
    changed = [key for key in here if saved.get(key) != here[key] and key != "repeatable"]
    told = ", ".join(f"{key} {saved.get(key)} -> {here[key]}" for key in changed)
    if "gradient_shares" in changed:
        told += " (dropout, if any, draws other masks)"
    if not here["repeatable"]:
        found = f"{here['engine']} on {here['processes']} x {here['device']} does not repeat itself"
        return Level("E3", f"{found}{', and ' + told if told else ''}")
    if not changed:
        return Level("E1", "nothing has changed that bits depend on")
    if changed == ["processes"] and here["engine"] == TreeSum.__name__:
        return Level("E2", f"{told}, the same {here['gradient_shares']} shares of each gradient")
    if set(changed) == {"processes", "threads"}:
        told += f" (with threads={saved['threads']} the bits would be equal)"
    return Level("E3", told)


def promise(here: Mapping[str, Any]) -> str:
    """Returns what a run that begins here can be told of its restarts."""
    if not here["repeatable"]:
        device = "a GPU; deterministic=True changes that" if here["device"] != "cpu" else "DDP"
        return (
            f"a restart will be at level E3 ({LEVELS['E3']}): sums depend on the moment on {device}"
        )
    shares = here["gradient_shares"] if here["engine"] == TreeSum.__name__ else 1
    if shares == 1:
        return f"a restart here will be at level E1 ({LEVELS['E1']})"
    others = ", ".join(str(2**power) for power in range(shares.bit_length()))
    return f"a restart here will be at level E1, with any of {others} processes at E2: equal bits"


@dataclass(frozen=True)
class Origin:
    """What a start of a run would be made of.

    Attributes:
        data: sha256 of the training pairs.
        valid: sha256 of the validation pairs, "" without any.
        tokenizer: fingerprint of the tokenizer that the settings name, "" if it is not there.
        settings: those that alter the result.
        places: where people find `data`, `valid` and `tokenizer`.
    """

    data: str
    valid: str
    tokenizer: str
    settings: Mapping[str, Any]
    places: Mapping[str, str]


def accepted_changes(
    folder: Path, state: State, origin: Origin, *, accept_changes: bool
) -> list[str]:
    """Returns what is not as it was when a checkpoint was written, one sentence each.

    Args:
        folder: the checkpoint.
        state: its State.
        origin: of this start.
        accept_changes: whether the user wants to go on nevertheless.

    Raises:
        CheckpointError: something has changed, and that is not accepted, or cannot take effect.
    """
    changed = _changed_settings(state, origin)
    if fixed := [one for one in changed if one.startswith("model.")]:
        raise CheckpointError(
            f"{folder} has a model of another shape ({', '.join(fixed)}): leave these settings out"
        )
    found = list(_changed_files(state, origin))
    if changed:
        sums = f"sha256 {state.config[:12]}, here {sha256(origin.settings)[:12]}"
        found.append(f"other settings: {', '.join(changed)} ({sums})")
    return accept(folder, found, accept_changes=accept_changes)


def accept(folder: Path, found: list[str], *, accept_changes: bool) -> list[str]:
    """Returns what was found if it is accepted.

    Raises:
        CheckpointError: it is not.
    """
    if found and not accept_changes:
        raise CheckpointError(
            f"{folder} cannot be gone on with: {'; '.join(found)}; bring back what it was trained "
            "with, start a run with finetune=True init_from=, or go on with accept_changes=True"
        )
    return found


def _changed_files(state: State, origin: Origin) -> Iterator[str]:
    for key, what in (
        ("data", "other training pairs"),
        ("valid", "other validation pairs"),
        ("tokenizer", "another tokenizer"),
    ):
        saved, now = getattr(state, key), getattr(origin, key)
        # Format 1 does not know the validation pairs.
        if now != saved and (now if key == "tokenizer" else saved):
            place = origin.places.get(key, origin.places["data"])
            yield f"{place} holds {what} (sha256 {saved[:12]}, here {now[:12] or 'none'})"


def _changed_settings(state: State, origin: Origin) -> list[str]:
    """Returns `key=before, here now` for each setting that has changed.

    One that is younger than the checkpoint was at its default then.
    """
    if not state.settings:
        return []
    before = settings(TrainConfig()) | state.settings
    return [
        f"{key}={before[key]}, here {value}"
        for key, value in origin.settings.items()
        if before[key] != value
    ]


def other_order(state: State, order: Order, chain: str, numpy: str) -> str | None:
    """Returns why the pairs would not come in the order that they came in, or None.

    Args:
        state: of the checkpoint.
        order: of this start.
        chain: of this start, up to the checkpoint's step.
        numpy: its version here.
    """
    samples = order.samples_before(state.step)
    if not state.ledger and samples != state.samples:
        return (
            f"it had seen {state.samples} pairs at step {state.step}, with batch_size="
            f"{order.batch_size} it would be {samples}"
        )
    if state.ledger in ("", chain):
        return None
    before = state.environment.get("numpy", "?")
    return (
        f"NumPy {numpy} shuffles the pairs otherwise than NumPy {before} did (sha256 of the order "
        f"{state.ledger[:12]}, here {chain[:12]})"
    )
