"""How many processes there are, on which device, at which precision.

In: the settings and the environment that `accelerate launch` or `torchrun` made. Out: a `Launch`
that is what was asked for, or an error. Some launch lines start fewer processes than they say, or
start several that do not know of each other, and some configurations bring an arithmetic of their
own; those are refused here.
"""

import contextlib
import os
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
)

from chatlm import log
from chatlm.config import TrainConfig
from chatlm.errors import ConfigError, NeighbourError, brief

_OWN_ACCUMULATION = (
    "accelerate's yaml sets gradient_accumulation_steps: {}; remove it, batch_size= and "
    "microbatch_tokens= decide the accumulation"
)
_TRUE = ("1", "true", "yes", "y", "on", "t")
# The main process prepares the data while the others wait for it. Ranks that died or hang are not
# waited for so long: `chatlm.neighbours.watchdog` ends the others within seconds, or a minute.
LONGEST_WAIT = timedelta(hours=2)


@dataclass(frozen=True)
class Launch:
    """The processes of a run, and how they share its weights.

    With `fsdp2` every process holds a slice of each tensor; `reshard_after_forward` says whether a
    layer's weights are gathered anew for the backward pass, or kept.
    """

    accelerator: Accelerator
    fsdp2: bool = False
    reshard_after_forward: bool = True


def launch(config: TrainConfig) -> Launch:
    """Returns what the launch line made, gradient accumulation left to the trainer.

    Raises:
        ConfigError: the launcher or the machine cannot give what was asked for.
    """
    fsdp2 = _takes_over_fsdp()
    reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() in _TRUE
    accelerator = _make_accelerator(config)
    if fsdp2 and accelerator.num_processes == 1:
        raise ConfigError("FSDP2 shares the weights out among processes: launch two or more")
    return Launch(accelerator, fsdp2, reshard)


def _takes_over_fsdp() -> bool:
    """Says whether the launch line asks for FSDP2, which is then ours to apply.

    accelerate would ignore the wish on a CPU; what is done on a GPU must be what tests see.
    """
    if not _flag("ACCELERATE_USE_FSDP"):
        return False
    wrong = [
        f"{key}: {value}"
        for key, value in (
            ("fsdp_version", os.environ.get("FSDP_VERSION", "1") != "2"),
            ("fsdp_offload_params", _flag("FSDP_OFFLOAD_PARAMS")),
            ("fsdp_activation_checkpointing", _flag("FSDP_ACTIVATION_CHECKPOINTING")),
        )
        if value
    ]
    if wrong:
        raise ConfigError(
            f"the launch configuration asks for what ChatLM's FSDP2 does not do ({', '.join(wrong)}"
            "): take runs/fsdp2.yaml, or DeepSpeed with runs/zero3.yaml"
        )
    del os.environ["ACCELERATE_USE_FSDP"]
    return True


def _make_accelerator(config: TrainConfig) -> Accelerator:
    _refuse_single_process_in_disguise()
    _allow_tf32()
    use_cuda = _wants_cuda(config)
    if use_cuda and config.deterministic:
        _make_repeatable()
    kwargs: dict[str, Any] = {"mixed_precision": _precision(config, use_cuda)}
    use_deepspeed = _flag("ACCELERATE_USE_DEEPSPEED")
    if use_deepspeed:
        _require_compiler()
        if os.environ.get("LOCAL_RANK", "0") == "0":
            drop_abandoned_locks(_kernels())
    if not use_cuda and not use_deepspeed:
        kwargs["cpu"] = True
    if "LOCAL_RANK" in os.environ:
        group = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
        if not use_cuda and use_deepspeed:
            # accelerate would count one process; only DeepSpeed needs the backend named.
            group.backend = "gloo"
        kwargs["kwargs_handlers"] = [
            group,
            # Gradients that lie in the buckets which are sent need no copy, and half the memory.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ]
    accelerator = _meet(kwargs)
    _check(accelerator, config, use_deepspeed)
    if not use_cuda:
        _use_all_cores(config, accelerator.num_processes)
    return accelerator


def _meet(kwargs: dict[str, Any]) -> Accelerator:
    """Returns the accelerator, which waits until all processes are there."""
    try:
        return Accelerator(gradient_accumulation_steps=1, **kwargs)
    except RuntimeError as error:
        if os.environ.get("WORLD_SIZE", "1") == "1" or torch.distributed.is_initialized():
            raise
        raise NeighbourError(
            f"the processes of the training did not come together ({brief(error)}): "
            "if one was killed, start again; otherwise check the launch command"
        ) from error


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in _TRUE


def _refuse_single_process_in_disguise() -> None:
    """Refuses `accelerate launch --cpu --num_processes 2`: it starts one process, silently."""
    from_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if from_accelerate and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate was asked for several processes but started one (it does so on CPU): use "
            "`accelerate launch --multi_gpu --num_processes N train.py ...`, which runs N "
            "processes here without a GPU too"
        )


def _wants_cuda(config: TrainConfig) -> bool:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device=cuda, but PyTorch sees no GPU: check the driver and that torch is a CUDA "
            "build (torch.version.cuda is not None), or train with device=cpu"
        )
    if config.device == "cpu" or _flag("ACCELERATE_USE_CPU"):
        return False
    return torch.cuda.is_available()


def _precision(config: TrainConfig, use_cuda: bool) -> str:
    """Returns accelerate's name of the precision; fp16 is not offered, T5 overflows in it."""
    if config.precision == "auto":
        return "bf16" if use_cuda and torch.cuda.is_bf16_supported() else "no"
    return "bf16" if config.precision == "bf16" else "no"


def _allow_tf32() -> None:
    torch.set_float32_matmul_precision("high")
    # Denormals slow CPU kernels by an order of magnitude and change no result that matters.
    torch.set_flush_denormal(True)


def _make_repeatable() -> None:
    """Has CUDA take only kernels that give the same bits each time, before it takes any."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Memory that nothing has been written to is read by nothing; filling it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def _require_compiler() -> None:
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        raise ConfigError(
            f"DeepSpeed compiles its kernels when it starts and needs {' and '.join(missing)} on "
            "PATH: install it (Debian: apt-get install g++ ninja-build), or launch without "
            "DeepSpeed: accelerate launch --multi_gpu --num_processes 2 train.py ..."
        )


def _kernels() -> Path:
    """Returns the folder in which torch keeps the kernels that DeepSpeed has it compile."""
    from torch.utils.cpp_extension import get_default_build_root  # brings setuptools with it

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def drop_abandoned_locks(root: Path) -> None:
    """Removes what a start that was killed while torch loaded a compiled kernel has left behind.

    Others wait for such a lock, for ever. Whoever really holds one has its file open.
    """
    locks = {path.resolve() for path in root.glob("**/lock")}
    if not locks or not Path("/proc/self/fd").is_dir():
        return
    held = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # processes of others, and those that have ended
            held.add(descriptor.readlink())
    for lock in locks - held:
        log.warning(f"removing {lock}, which a start that was killed left behind")
        lock.unlink(missing_ok=True)


def _check(accelerator: Accelerator, config: TrainConfig, use_deepspeed: bool) -> None:
    """Compares what accelerate resolved with what was asked for."""
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != asked:
        raise ConfigError(
            f"the launcher started {asked} processes but they do not see each other "
            f"(accelerate counts {accelerator.num_processes}): check the launch command"
        )
    if use_deepspeed != (accelerator.distributed_type == DistributedType.DEEPSPEED):
        raise ConfigError(
            "DeepSpeed was asked for but accelerate did not start it: remove use_cpu and "
            "ACCELERATE_USE_CPU, ChatLM runs DeepSpeed on CPU by itself"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(_OWN_ACCUMULATION.format(accelerator.gradient_accumulation_steps))
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO":
        raise ConfigError(
            "the launch configuration asks accelerate to compile the model (dynamo_backend); "
            "remove it, compile= decides that"
        )
    if config.batch_size < accelerator.num_processes:
        raise ConfigError(
            f"batch_size={config.batch_size} is smaller than the number of processes "
            f"({accelerator.num_processes})"
        )
    if use_deepspeed:
        _configure_deepspeed(accelerator, config)


def _configure_deepspeed(accelerator: Accelerator, config: TrainConfig) -> None:
    """Gives DeepSpeed our arithmetic, and refuses a yaml that brings its own."""
    plugin = accelerator.state.deepspeed_plugin
    assert plugin is not None  # accelerate made it, the type of the run says so
    settings = plugin.deepspeed_config
    steps = settings.get("gradient_accumulation_steps", 1)
    if steps not in (1, "auto"):
        raise ConfigError(_OWN_ACCUMULATION.format(steps))
    # The trainer marks the last microbatch of a step itself, because their number varies.
    settings["gradient_accumulation_steps"] = 1
    settings["train_micro_batch_size_per_gpu"] = 1
    settings["gradient_clipping"] = config.clip_norm
    if config.optimizer == "muon":
        # DeepSpeed would measure and clip Muon's steps, whose size says nothing, not the gradients.
        settings["gradient_clipping"] = 0.0
        if config.clip_norm:
            log.warning("optimizer=muon under DeepSpeed does not clip: clip_norm has no effect")
        # Stage 3 makes Muon's steps of whole gradients, so it cannot reduce them in pieces.
        settings["zero_optimization"]["reduce_scatter"] = False
    offload = settings.get("zero_optimization", {}).get("offload_optimizer", {})
    if offload.get("device", "none") != "none":
        raise ConfigError(
            "accelerate's yaml sets offload_optimizer_device, but ChatLM's optimizers stay beside "
            "the weights: set it to none; ZeRO-3 over more processes needs less memory too"
        )


def _use_all_cores(config: TrainConfig, num_processes: int) -> None:
    """Launchers set OMP_NUM_THREADS to 1; a laptop trains with all its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))
    threads = config.threads or max(1, (cores or 1) // local)
    torch.set_num_threads(threads)
    log.info(f"{num_processes} process(es) on CPU with {threads} thread(s) each")
