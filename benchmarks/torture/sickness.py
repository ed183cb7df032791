"""What makes a training sick: values that are not finite, wrong labels, spoiled weights, no memory.

In: which steps of which rank. Out: functions of a rank that `Workbench.start(inject=...)` runs in
the forked process. They hook into the model through PyTorch's own hooks; which step is computed
they see where a step's gradients are asked for. Steps are counted from 1.
"""

import json
import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.torture import fed
from benchmarks.torture.faults import Inject

if TYPE_CHECKING:
    import torch


@dataclass
class Place:
    """Where a process is: the step, which attempt at it, and the microbatch of this attempt."""

    step: int = 0
    attempt: int = 0
    microbatch: int = 0


def watched(
    begin: Callable[[Place], None] | None = None, end: Callable[[Place], None] | None = None
) -> Place:
    """Returns where this process is, kept up to date from now on.

    Args:
        begin: called when an attempt at a step begins.
        end: called when it ends, whichever way.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    from chatlm.health.retry import Retry
    from chatlm.model.t5 import T5

    place = Place()
    original = Retry.gradients

    def gradients(self: Any, step: Any, loader: Any, compute: Callable[[Any], Any]) -> Any:
        place.step, place.attempt = step.index + 1, 0

        def attempt(part: Any) -> Any:
            place.attempt, place.microbatch = place.attempt + 1, 0
            if begin:
                begin(place)
            try:
                return compute(part)
            finally:
                if end:
                    end(place)

        return original(self, step, loader, attempt)

    def count(module: Any, _arguments: Any) -> None:
        if isinstance(module, T5) and module.training:
            place.microbatch += 1

    Retry.gradients = gradients
    register_module_forward_pre_hook(count)
    return place


def not_finite(kind: str, value: float, steps: Collection[int], on_rank: int) -> Inject:
    """Puts a value that is not finite into the first microbatch of some steps.

    Args:
        kind: "data" (what the embedding gives for one token), "logits" (what the head gets for one
            token), or "gradient" (of what the encoder gives; the loss stays finite).
        value: NaN or an infinity.
        steps: which ones.
        on_rank: of this rank alone.
    """

    def inject(rank: int) -> None:
        if rank != on_rank:
            return
        from torch.nn.modules.module import register_module_forward_hook

        place = watched()
        names = {"data": "Embedding", "logits": "Decoder", "gradient": "Encoder"}

        def spoil(module: Any, _arguments: Any, output: "torch.Tensor") -> Any:
            wanted = place.step in steps and place.microbatch == 1 and module.training
            if type(module).__name__ != names[kind] or not wanted:
                return None
            if kind == "gradient":
                output.register_hook(lambda gradient: _spoiled(gradient, value))
                return None
            return _spoiled(output, value)

        register_module_forward_hook(spoil)

    return inject


def _spoiled(tensor: "torch.Tensor", value: float) -> "torch.Tensor":
    changed = tensor.clone()
    changed.view(-1, changed.shape[-1])[0, 0] = value
    return changed


def wrong_labels(kind: str, steps: Collection[int]) -> Inject:
    """Permutes the labels of some steps, on all ranks.

    Args:
        kind: "vocabulary" (each token stands for another), "tokens" (those of a microbatch change
            places), or "answers" (each question gets the answer of the next).
        steps: which ones.
    """

    def inject(_rank: int) -> None:
        from torch.nn.modules.module import register_module_forward_pre_hook

        from chatlm.model.t5 import T5

        place = watched()

        def permute(module: Any, arguments: tuple[Any, ...]) -> Any:
            if isinstance(module, T5) and module.training and place.step in steps:
                return _permuted(kind, module.config.vocab_size, arguments, place.step)
            return None

        register_module_forward_pre_hook(permute)

    return inject


def _permuted(kind: str, entries: int, arguments: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
    import torch

    sources, labels, starts, offsets = arguments
    generator = torch.Generator().manual_seed(seed)
    if kind == "vocabulary":
        labels = torch.randperm(entries, generator=generator)[labels.clamp_min(0)]
    elif kind == "tokens":
        labels = labels[torch.randperm(len(labels), generator=generator)]
    else:
        sizes = offsets.diff().tolist()
        answers = labels.split(sizes)
        labels = torch.cat([*answers[1:], answers[0]])
        sizes = [*sizes[1:], sizes[0]]
        offsets = torch.tensor([0, *sizes]).cumsum(0).to(offsets.dtype)
    return sources, labels, starts, offsets


def scaled_weights(step: int, factor: float) -> Inject:
    """Multiplies all weights of all ranks once, before a step is computed for the first time."""

    def inject(_rank: int) -> None:
        import torch
        from torch.nn.modules.module import register_module_forward_pre_hook

        from chatlm.model.t5 import T5

        place, done = watched(), []

        def scale(module: Any, _arguments: Any) -> None:
            if isinstance(module, T5) and module.training and place.step == step and not done:
                done.append(True)
                with torch.no_grad():
                    for parameter in module.parameters():
                        parameter.mul_(factor)

        register_module_forward_pre_hook(scale)

    return inject


def out_of_memory(where: str, step: int, microbatch: int, attempts: int, on_rank: int) -> Inject:
    """Makes a microbatch fail as if memory had run out.

    Args:
        where: "forward", "backward" (half of its gradients exist), or "cpu" (forward, with what the
            allocator of a CPU says).
        step: of this step.
        microbatch: this one, or the last if there are fewer.
        attempts: in as many attempts at the step.
        on_rank: of this rank alone.
    """

    def inject(rank: int) -> None:
        if rank != on_rank:
            return
        from torch.nn.modules.module import register_module_forward_hook

        place = watched()

        def fail(module: Any, _arguments: Any, output: "torch.Tensor") -> None:
            here = place.step == step and place.microbatch == microbatch
            if type(module).__name__ != "Encoder" or not here or place.attempt > attempts:
                return
            if module.training and where == "backward":
                output.register_hook(lambda _gradient: _no_memory(where))
            elif module.training:
                _no_memory(where)

        register_module_forward_hook(fail)

    return inject


def _no_memory(where: str) -> None:
    import torch

    if where == "cpu":
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)"
        )
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.")


def limited_memory(step: int, headroom_bytes: int) -> Inject:
    """Lets the kernel refuse memory while the gradients of a step, or a later one, are computed.

    Args:
        step: the first one.
        headroom_bytes: what a process gets beyond what it had at the beginning of that step.
    """

    def inject(_rank: int) -> None:
        import resource

        most: list[int] = []

        def limit(place: Place) -> None:
            if place.step < step:
                return
            if not most:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                most.append(pages * resource.getpagesize() + headroom_bytes)
            resource.setrlimit(resource.RLIMIT_AS, (most[0], resource.RLIM_INFINITY))

        def lift(_place: Place) -> None:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_AS, unlimited)

        watched(limit, lift)

    return inject


def fed_once(path: Path) -> Inject:
    """Notes `[step, digests]` of what the last attempt at each step was given, in `path`-<rank>."""

    def inject(rank: int) -> None:
        from itertools import pairwise

        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from chatlm.model.t5 import T5

        seen: list[str] = []
        place = watched(lambda _place: seen.clear())
        file = os.open(f"{path}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def note(module: Any, arguments: tuple[Any, ...]) -> None:
            if isinstance(module, T5) and module.training:
                sources, labels, starts, targets = (tensor.tolist() for tensor in arguments)
                for (one, other), (start, end) in zip(
                    pairwise(starts), pairwise(targets), strict=True
                ):
                    if end > start and labels[start] >= 0:
                        seen.append(fed.digest(sources[one:other], labels[start:end]))

        def applied(*_: object) -> None:
            os.write(file, json.dumps([place.step, seen]).encode() + b"\n")

        register_module_forward_pre_hook(note)
        register_optimizer_step_post_hook(applied)

    return inject


def sick_loader(kind: str, step: int, on_rank: int, mark: Path) -> Inject:
    """Makes the loader of one rank fail when it prepares a step.

    Args:
        kind: "raises" (the disk cannot be read), "defect" (any other error), "dies" (its thread
            ends), or "hangs".
        step: this one.
        on_rank: of this rank alone.
        mark: a file that is made at that moment.
    """

    def inject(rank: int) -> None:
        if rank != on_rank:
            return
        from chatlm.dataset.batches import Loader

        original = Loader.step

        def prepared(self: Any, index: int) -> Any:
            if index + 1 == step:
                mark.touch()
                if kind == "raises":
                    raise OSError(5, "Input/output error")
                if kind == "defect":
                    raise ValueError("a row that cannot be")
                if kind == "dies":
                    raise SystemExit
                threading.Event().wait()
            return original(self, index)

        Loader.step = prepared

    return inject
