"""The one training loop.

In: settings. Out: a run folder with checkpoints and figures. Which loss, which weights to start
from and which of them move are three independent settings; there is no second trainer. Every
optimizer step adds up the gradients of its microbatches and divides by the target tokens of the
whole step, so the number of processes and the padding change nothing but speed.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from chatlm import checkpoint, log, optim, plot, run_folder
from chatlm.checkpoint import State
from chatlm.checkpoint_paths import whole_steps
from chatlm.config import TrainConfig
from chatlm.dataset.batches import Loader, Step
from chatlm.dataset.order import Order
from chatlm.dataset.prepare import Prepared
from chatlm.engines import Engine
from chatlm.errors import CheckpointError, ConfigError
from chatlm.model import hf
from chatlm.progress import TrainingProgress, Window, peak_gib
from chatlm.signals import StopRequest
from chatlm.validation import Validation


@dataclass(frozen=True)
class Plan:
    """How long the run is, counted in optimizer steps and in training pairs."""

    order: Order
    total_steps: int

    @property
    def total_samples(self) -> int:
        """Pairs seen when the run ends."""
        return self.order.samples_before(self.total_steps)


class Trainer:
    """One run: the objects that live as long as it does, and its progress."""

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        accelerator: Accelerator,
        data: Prepared,
        engine: Engine,
    ) -> None:
        self.config, self.run, self.accelerator, self.data = config, run, accelerator, data
        self.engine = engine
        order = Order(len(data.train), config.batch_size, config.seed)
        steps = config.max_steps or math.ceil(config.epochs * order.steps_per_epoch)
        self.plan = Plan(order, steps)
        self.step = 0
        self.best_step, self.best_loss = 0, math.inf
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._validation = Validation(config, accelerator, data)
        # Whether to stop is agreed upon by the CPUs alone: a GPU would have to be waited for.
        self._cpus: Any = None
        if accelerator.num_processes > 1:
            self._cpus = torch.distributed.new_group(backend="gloo")

    # ---- the loop -------------------------------------------------------------------------

    def fit(self) -> None:
        """Runs to the end, or until a signal asks to stop, and saves."""
        main = self.accelerator.is_main_process
        self._announce()
        with (
            StopRequest() as stop,
            TrainingProgress(self.plan.total_steps, self.step, visible=main) as progress,
        ):
            self._progress = progress
            window = Window()
            for step in self._loader().steps(self.step, self.plan.total_steps):
                window.add(self._train_step(step), step)
                self.step = step.index + 1
                progress.advance(self.step)
                if self.step % self.config.log_every_steps == 0 or self._is_last():
                    self._log(window)
                    window = Window()
                self._evaluate_and_save()
                if self._any_process_stops(stop.signal):
                    self._stop(stop)
        self._finish()

    def _loader(self) -> Loader:
        return Loader(
            self.data.train,
            self.plan.order,
            self.config.microbatch_tokens,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            fixed_shapes=self.engine.compiled,
        )

    def _train_step(self, step: Step) -> tuple[Tensor, Tensor | float]:
        """Returns this process's summed loss in nats, and the gradient norm before clipping."""
        engine = self.engine
        engine.wrapped.train()
        optim.set_rates(engine.optimizer, self._rate(step.index), engine.rate_scales())
        total = torch.zeros((), device=self.accelerator.device)
        last = len(step.microbatches) - 1
        # Gradients are averaged over processes; the step's loss is a mean over all its tokens.
        scale = self.accelerator.num_processes / step.num_target_tokens
        for index, batch in enumerate(step.microbatches):
            self._seed_dropout(step.index, index)
            with engine.microbatch(is_last=index == last):
                with self.accelerator.autocast():
                    output = engine.wrapped(*batch.to(self.accelerator.device).tensors())
                self.accelerator.backward(output.loss_sum * scale)
            total += output.loss_sum.detach()
        norm = engine.clip(self.config.clip_norm or math.inf)
        engine.optimizer.step()
        engine.optimizer.zero_grad()
        return total, norm if norm is not None else math.nan

    def _rate(self, step: int) -> float:
        done = self.plan.order.samples_before(step + 1) / self.plan.total_samples
        share = optim.rate_share(
            min(1.0, done),
            warmup=self.config.warmup_share,
            final=self.config.final_rate_share,
            schedule=self.config.schedule,
            decay=self.config.decay_share,
        )
        return self.config.learning_rate * share

    def _seed_dropout(self, step: int, microbatch: int) -> None:
        """Makes dropout a function of the place in the run, so that resuming needs no state."""
        if self.config.model.dropout_rate:
            place = (self.config.seed * 1_000_003 + step) * 4096 + microbatch
            torch.manual_seed((place * 1024 + self.accelerator.process_index) % 2**63)

    def _is_last(self) -> bool:
        return self.step == self.plan.total_steps

    # ---- figures --------------------------------------------------------------------------

    def _announce(self) -> None:
        order, plan = self.plan.order, self.plan
        precision = self.accelerator.mixed_precision.replace("no", "fp32")
        engine = f" with {self.engine.name}" if self.engine.name else ""
        log.info(
            f"{order.num_rows} pairs, {plan.total_steps} steps of {order.batch_size} pairs "
            f"({plan.total_samples / order.num_rows:.1f} epochs) on "
            f"{self.accelerator.num_processes} x {self.accelerator.device.type} in "
            f"{precision}{engine}; run folder {self.run}"
        )

    def _log(self, window: "Window") -> None:
        nats = self._sum(window.loss_sum)
        if not math.isfinite(nats):
            raise ConfigError(
                f"the loss of step {self.step} is not finite: lower learning_rate "
                f"({self.config.learning_rate}), or resume from the last checkpoint in {self.run}"
            )
        record = {
            "step": self.step,
            "samples": self.plan.order.samples_before(self.step),
            "epoch": self.step / self.plan.order.steps_per_epoch,
            "loss": nats / window.target_tokens,
            "learning_rate": self._rate(self.step - 1),
            "grad_norm": float(window.norm),
            "tokens_per_second": window.tokens / window.seconds(),
            "peak_gib": peak_gib(self.accelerator.device),
            "seconds": self._run_seconds(),
        }
        self._record(record)
        left = (self.plan.total_steps - self.step) * window.seconds() / window.steps
        self._progress.show(self.step, record, left)

    def _record(self, record: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            run_folder.append(self.run, run_folder.METRICS, record)

    def _sum(self, value: Tensor) -> float:
        summed = self.accelerator.reduce(value.double(), "sum")
        assert isinstance(summed, Tensor)
        return summed.item()

    def _run_seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    # ---- evaluation and checkpoints ---------------------------------------------------------

    def _evaluate_and_save(self) -> None:
        is_last = self._is_last()
        if self.step % self.config.eval_every_steps == 0 or is_last:
            self._evaluate()
        if self.step % self.config.save_every_steps == 0 or is_last:
            self.save()

    def _evaluate(self) -> None:
        with self.engine.whole_model() as model:
            found = self._validation.figures(model)
        if found is None:
            return
        self._record({"step": self.step, **found.record()})
        self._save_samples(found.samples)
        self._progress.note(f"step {self.step}: {found}")
        if found.loss.nats_per_token < self.best_loss:
            self.best_step, self.best_loss = self.step, found.loss.nats_per_token

    def _save_samples(self, samples: Sequence[Mapping[str, str]]) -> None:
        if self.accelerator.is_main_process:
            for sample in samples:
                run_folder.append(self.run, "samples.jsonl", {"step": self.step, **sample})

    def save(self) -> None:
        """Writes a checkpoint of the current step. Collective."""
        accelerator, main = self.accelerator, self.accelerator.is_main_process
        accelerator.wait_for_everyone()
        with checkpoint.writing(self.run, self.step, main_process=main) as part:
            accelerator.wait_for_everyone()
            weights = self.engine.whole_weights()
            if main:
                hf.save_pretrained(weights, self.config.model, part)
                self._write(part)
            del weights
            self.engine.write_moments(part)
            accelerator.wait_for_everyone()
        if main:
            best = self.best_step if self.best_step in whole_steps(self.run) else self.step
            checkpoint.point_to_best(self.run, best)
            checkpoint.prune(self.run, self.config.keep_checkpoints, best)
        accelerator.wait_for_everyone()

    def _write(self, folder: Path) -> None:
        self.data.tokenizer.save(folder)
        chat_keys = ("max_source_tokens", "max_new_tokens", "history_turns")
        checkpoint.write_chat_settings(folder, {k: asdict(self.config)[k] for k in chat_keys})
        checkpoint.write_state(
            folder,
            State(
                step=self.step,
                samples=self.plan.order.samples_before(self.step),
                best_step=self.best_step,
                best_loss=self.best_loss,
                data=self.data.sha256,
                tokenizer=self.data.tokenizer.fingerprint,
                num_processes=self.accelerator.num_processes,
                run_seconds=self._run_seconds(),
                engine=self.engine.name,
            ),
        )

    def load(self, folder: Path) -> None:
        """Puts the run back to where a checkpoint was written; the weights are loaded already.

        Raises:
            CheckpointError: the checkpoint belongs to other data or another tokenizer.
        """
        state = checkpoint.read_state(folder)
        for what, saved, here in (
            ("training data", state.data, self.data.sha256),
            ("tokenizer", state.tokenizer, self.data.tokenizer.fingerprint),
        ):
            if saved != here:
                raise CheckpointError(
                    f"{folder} was trained with another {what} (sha256 {saved[:12]}, here "
                    f"{here[:12]}): bring it back, or start a run with finetune=True init_from="
                )
        if self.plan.order.samples_before(state.step) != state.samples:
            raise CheckpointError(
                f"{folder} had seen {state.samples} pairs at step {state.step}, which does not "
                f"fit batch_size={self.config.batch_size}: resume with the batch_size of the run"
            )
        self.engine.read_moments(folder)
        self.step = state.step
        self.best_step, self.best_loss = state.best_step, state.best_loss
        self._seconds_before = state.run_seconds
        if self.accelerator.is_main_process:
            run_folder.rewind(self.run, self.step)
        log.info(f"going on from {folder}")

    # ---- the end --------------------------------------------------------------------------

    def _any_process_stops(self, signal: int | None) -> bool:
        flag = torch.tensor(int(signal is not None))
        if self._cpus is not None:
            torch.distributed.all_reduce(flag, group=self._cpus)
        return bool(flag)

    def _stop(self, stop: StopRequest) -> None:
        if self.step not in whole_steps(self.run):
            self.save()
        self._draw()
        log.info(f"stopped at step {self.step}; go on with resume=True out={self.run}")
        stop.exit()

    def _finish(self) -> None:
        self._draw()
        with self.engine.whole_model() as model:
            lines, record = self._validation.test(model)
        if record:
            self._record({"step": self.step, **record})
        for line in lines:
            log.info(f"test: {line}")
        minutes = self._run_seconds() / 60
        log.info(f"finished {self.step} steps in {minutes:.1f} minutes: {self.run}")

    def _draw(self) -> None:
        if self.accelerator.is_main_process:
            plot.save_loss_curve(run_folder.metrics(self.run), self.run / "loss.png")

    def close(self) -> None:
        """Ends the process groups."""
        if self._cpus is not None:
            torch.distributed.destroy_process_group(self._cpus)
            self._cpus = None
        self.accelerator.end_training()
