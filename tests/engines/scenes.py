"""Steps of real engines on a tiny model, without the training around them.

A script: `python -m tests.engines.scenes scenes.json folder`. Each scene is played by one process,
or by two, which are forks of this one with the environment that accelerate makes of a launch
configuration. What the weights and moments were at each mark is written to `folder/<scene>/`.
"""

import json
import math
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import ranks, tiny_data

STEPS_BEFORE, STEPS_AFTER = 3, 2
MICROBATCHES, PAIRS = 2, 4


@dataclass(frozen=True)
class Scene:
    """One launch. It takes five steps, and marks what it holds after the third and the fifth.

    Then it goes back to the mark of the third in place, meets gradients that are not finite, and
    takes the last two steps again: mark `again`. With `after` it starts from that scene's mark.
    """

    name: str
    config: str = ""
    num_processes: int = 1
    after: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def play(scene: Scene, folder: Path) -> None:
    """Is one process of a scene."""
    from safetensors.torch import load_file

    from chatlm import cli, engines, training
    from chatlm.config import TrainConfig
    from chatlm.launch import launch

    settings = (
        tiny_data.SETTINGS | {"model.vocab_size": 90, "clip_norm": 0.5} | dict(scene.settings)
    )
    config = cli.build(TrainConfig, settings)
    launched = launch(config)
    model = training.build_model(config, None, launched.accelerator)
    start = folder.parent / scene.after
    if scene.after:
        model.load_state_dict(load_file(start / "third-weights.safetensors"))
    engine = engines.make(launched, config, model)
    assert not engine.whole_moments()
    actor = _Actor(engine, config, folder)
    if scene.after:
        engine.put_moments(load_file(start / "third-moments.safetensors"))
        actor.mark("start")
    else:
        actor.take(range(STEPS_BEFORE))
        actor.mark("third")
    ahead = range(STEPS_BEFORE, STEPS_BEFORE + STEPS_AFTER)
    actor.take(ahead)
    actor.mark("fifth")
    if scene.after:
        return
    launched.accelerator.wait_for_everyone()  # for the main process to have written them
    engine.put_weights(load_file(folder / "third-weights.safetensors"))
    engine.put_moments(load_file(folder / "third-moments.safetensors"))
    actor.mark("back")
    actor.meet_infinity()
    actor.mark("discarded")
    actor.take(ahead)
    actor.mark("again")
    engine.put_moments({})
    assert not engine.whole_moments()


class _Actor:
    def __init__(self, engine: Any, config: Any, folder: Path) -> None:
        self.engine, self.config, self.folder = engine, config, folder
        self.rank = engine._accelerator.process_index
        self.count = engine._accelerator.num_processes

    def take(self, steps: Sequence[int]) -> None:
        """Takes steps that depend on their number alone."""
        import torch

        for step in steps:
            loss = self._gradients(step)
            norm = self.engine.clip(self.config.clip_norm or math.inf)
            assert torch.isfinite(loss)
            assert torch.isfinite(norm)
            self.engine.update()
            self._note(step=step, loss=loss.item().hex(), norm=norm.item().hex())

    def meet_infinity(self) -> None:
        """Has the last process meet an infinity in its backward pass, and drops the steps."""
        import torch

        for module in ("embedding", "encoder.norm", "decoder.norm"):
            hook = None
            if self.rank == self.count - 1:
                spoilt = self.engine.model.get_submodule(module)
                hook = spoilt.register_forward_hook(lambda *call: _spoil(call[-1]))
            self._gradients(7)
            norm = self.engine.clip(self.config.clip_norm or math.inf)
            assert not torch.isfinite(norm), norm
            self.engine.discard()
            if hook is not None:
                hook.remove()
        # A step may be dropped for other reasons too, its gradients being finite.
        self._gradients(8)
        assert torch.isfinite(self.engine.clip(self.config.clip_norm or math.inf))
        self.engine.discard()

    def _gradients(self, step: int) -> Any:
        """Computes a step's gradients; returns the loss of all processes."""
        import torch

        from chatlm import optim

        engine = self.engine
        engine.wrapped.train()
        optim.set_rates(engine.optimizer, self.config.learning_rate, engine.rate_scales())
        own = engine.num_shares // self.count
        losses = torch.zeros(own)
        scale = (self.count if engine.averages else 1) / 64
        for place in range(own):
            for index in range(MICROBATCHES):
                share = self.rank * own + place
                batch = _batch(step * MICROBATCHES + index, share, engine.num_shares)
                is_last = (place, index) == (own - 1, MICROBATCHES - 1)
                with engine.microbatch(is_last=is_last):
                    with engine._accelerator.autocast():
                        loss = engine.wrapped(*batch).loss_sum
                    engine.backward(loss * scale)
                losses[place] += loss.detach()
            engine.end_share()
        return engine.exchange(losses)

    def mark(self, name: str) -> None:
        """Writes down what the engine holds."""
        from safetensors.torch import save_file

        weights, moments = self.engine.whole_weights(), self.engine.whole_moments()
        assert bool(weights) == bool(moments) == (self.rank == 0)
        if self.rank == 0:
            save_file(dict(weights), self.folder / f"{name}-weights.safetensors")
            save_file(dict(moments), self.folder / f"{name}-moments.safetensors")

    def _note(self, **what: Any) -> None:
        with (self.folder / f"{self.rank}.jsonl").open("a") as file:
            file.write(json.dumps(what) + "\n")


def _spoil(output: Any) -> None:
    """Makes one number of a gradient infinite: it has to be noticed wherever it lies."""

    def spoilt(gradient: Any) -> Any:
        gradient = gradient.clone()
        gradient.view(-1)[-1] = float("inf")
        return gradient

    output.register_hook(spoilt)


def _batch(number: int, share: int, count: int) -> list[Any]:
    """Returns one share of a microbatch of random pairs."""
    import torch

    draw = torch.Generator().manual_seed(number)
    lengths = torch.randint(3, 9, (2, PAIRS), generator=draw).tolist()
    sides = [[torch.randint(3, 90, (n,), generator=draw) for n in side] for side in lengths]
    own = [side[share * PAIRS // count : (share + 1) * PAIRS // count] for side in sides]
    offsets = [
        torch.tensor([0, *(len(one) for one in side)]).cumsum(0).to(torch.int32) for side in own
    ]
    return [*(torch.cat(side) for side in own), *offsets]


def perform(scene: Scene, folder: Path) -> int:
    """Plays a scene in forked processes; returns how many of them failed."""
    folder.mkdir(parents=True)
    env = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    if scene.config:
        count = str(scene.num_processes)
        env |= ranks.launched_env(scene.config, scene.num_processes)
        env |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port())}
    children = []
    for rank in range(scene.num_processes):
        child = os.fork()
        if not child:
            try:
                os.environ.clear()
                os.environ.update(env)
                if scene.config:
                    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank)})
                log = (folder / f"{rank}.log").open("w", encoding="utf-8")
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                play(scene, folder)
                sys.stdout.flush()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def main(scenes: str, folder: str) -> None:
    """Plays all scenes, one after the other."""
    ranks.warm_up("deepspeed")
    for given in json.loads(Path(scenes).read_text()):
        scene = Scene(**given)
        started = time.monotonic()
        failed = perform(scene, Path(folder) / scene.name)
        print(f"{scene.name}: {time.monotonic() - started:.1f} s, {failed} failed", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
