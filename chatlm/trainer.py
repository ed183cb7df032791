"""The one training loop.

In: settings. Out: a run folder with checkpoints and figures. Which loss, which weights to start
from and which of them move are three independent settings; there is no second trainer. Every
optimizer step adds up the gradients of its microbatches and divides by the target tokens of the
whole step, so the number of processes and the padding change nothing but speed.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from chatlm import lineage, log, optim, run_folder
from chatlm.agreement import Agreement
from chatlm.checkpoint.paths import saved_steps, step_name
from chatlm.checkpoint.state import State, read_state
from chatlm.config import TrainConfig
from chatlm.course import Course
from chatlm.dataset.batches import Loader, Step
from chatlm.dataset.prepare import Prepared
from chatlm.engines import Engine, TreeSum
from chatlm.errors import NeighbourError
from chatlm.health import inspection
from chatlm.health.care import Care, read_ledger
from chatlm.health.memory import MicrobatchTokens
from chatlm.health.retry import Again, Retry
from chatlm.health.spikes import SpikeDetector
from chatlm.health.verdicts import Health, Verdict
from chatlm.neighbours.lock import Lock
from chatlm.neighbours.signals import StopRequest
from chatlm.neighbours.watchdog import Watchdog
from chatlm.progress import Window
from chatlm.run_log import RunLog
from chatlm.saving import Checkpoints
from chatlm.subject import Seen, Subject, Watch
from chatlm.validation import Validation


@dataclass(frozen=True)
class Place:
    """Where a run lies and who takes part; `lock` is the main process's."""

    run: Path
    lock: Lock | None
    accelerator: Accelerator
    agreement: Agreement


class Trainer:
    """One run: the objects that live as long as it does, and its progress."""

    def __init__(
        self, config: TrainConfig, place: Place, data: Prepared, subject: Subject, engine: Engine
    ) -> None:
        self.config, self.run, self.data, self.engine = config, place.run, data, engine
        self.accelerator, self.agreement = place.accelerator, place.agreement
        self.course = Course.of(config, len(data.train))
        self.step, self._has_ended = 0, False
        self._best_step, self._best_loss = 0, math.inf
        self._chain, self._window = lineage.START, Window()
        self._log = RunLog(self.run, self.course, self.accelerator)
        shares = engine.num_shares
        self._watch = subject.watch
        self._validation = Validation(
            config, self.accelerator, data, subject.speech, shares, subject.watch
        )
        self._checkpoints = Checkpoints(
            config, self.run, place.lock, data, engine, place.agreement, subject.layout
        )
        self._model = subject.model
        ledger = self._ledger()
        self._care = self._taken_care_of(
            Health(config.max_bad_steps, SpikeDetector(self._model.vocab_size))
        )
        self._retry = self._retrying(MicrobatchTokens.of(config.microbatch_tokens, ledger))
        self._loader = Loader(
            data.train,
            self.course.order,
            config.microbatch_tokens,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            fixed_shapes=engine.compiled,
            num_shares=engine.num_shares,
            max_tokens_at=lambda index: self._retry.sizes.at(index + 1),
        )

    def _taken_care_of(self, health: Health) -> Care:
        main, decide = self.agreement.is_main, self.agreement.decide
        return Care(self.run, self.data, main, decide, self._pair_losses, health)

    def _retrying(self, sizes: MicrobatchTokens) -> Retry:
        alone = self.accelerator.num_processes == 1 and not self.engine.is_deepspeed
        again = Again.TOGETHER if alone or isinstance(self.engine, TreeSum) else Again.NEVER
        least = self.config.max_source_tokens + self.config.max_target_tokens
        main, any_process = self.agreement.is_main, self.agreement.any_process
        return Retry(self.run, self.engine, sizes, least, again, main, any_process)

    def _ledger(self) -> list[dict[str, Any]]:
        return self.agreement.decide(lambda: read_ledger(self.run))

    # ---- the loop -------------------------------------------------------------------------

    def fit(self, stop: StopRequest, watchdog: Watchdog) -> None:
        """Runs to the end, or to where a limit is passed or a signal asks to stop, and saves."""
        self._log.announce(self.engine.name)
        self._look_first()
        with stop.finishing_steps(), self._log.progress(self.step):
            while not self._is_last():
                self._take_steps(stop, watchdog)
            self._checkpoints.wait()
        self._log.draw()
        with self.engine.whole_model() as model:
            lines, record = self._validation.test(model)
        self._log.tested(self.step, lines, record)

    def _take_steps(self, stop: StopRequest, watchdog: Watchdog) -> None:
        """Takes steps to the end, or until those prepared ahead are no longer the right ones."""
        total, planned = self.course.total_steps, self._care.health.planned
        prepared = self._loader.steps(self.step, total, {number - 1 for number in planned})
        while not self._is_last():
            self.step += 1
            if self.step in planned:
                self._care.health.pass_over(self.step)
            else:
                with watchdog.step():
                    self._train_step(next(prepared))
            if self._care.health.wants_rewind():
                self._checkpoints.wait()  # one that is being written may have to be set aside
            back = self._care.way_back()
            if back is None:
                self._end_step()
            else:
                self._go_back(back)
            if code := self.agreement.highest(stop.code):
                self._stop(stop, code)
            if back is not None or self._retry.was_halved:
                self._retry.was_halved = False
                break

    def _train_step(self, step: Step) -> None:
        """Takes one step, unless its loss or gradient says that it would do harm."""
        engine, rate = self.engine, self.course.rate(step.index)
        engine.wrapped.train()
        optim.set_rates(engine.optimizer, rate, engine.rate_scales())
        step, sums = self._retry.gradients(step, self._loader, self._accumulate)
        sums = engine.exchange(sums)
        norm = engine.clip(self.config.clip_norm or math.inf)
        # The one time a step that a GPU is waited for.
        nats, kl, norm = torch.stack([*sums, norm.double()]).tolist()
        tokens = self._retry.sizes.at(step.index + 1)
        mean = nats / step.num_target_tokens
        if self._care.examine(step, mean, norm, rate, tokens) is Verdict.GOOD:
            self._checkpoints.before_update()
            engine.update()
            self._window.add(nats, norm, step, kl if self.config.lora.kl else None)
            self._chain = lineage.extended(self._chain, step.rows)
        else:
            engine.discard()

    def _accumulate(self, step: Step) -> Tensor:
        """Computes this process's shares of the gradient; returns summed loss and KL of each."""
        engine, device = self.engine, self.accelerator.device
        sums = torch.zeros(len(step.shares), 2, device=device)
        # Some engines average over processes; the step's loss is a mean over all its tokens.
        scale = (self.accelerator.num_processes if engine.averages else 1) / step.num_target_tokens
        for place, share in enumerate(step.shares):
            last = len(share.microbatches) - 1 if share is step.shares[-1] else None
            for index, batch in enumerate(share.microbatches):
                if self._model.has_dropout:
                    torch.manual_seed(self.course.dropout_seed(step.index, share.number, index))
                with engine.microbatch(is_last=index == last):
                    with self.accelerator.autocast():
                        output = engine.wrapped(*batch.to(device).tensors())
                    engine.backward(output.objective * scale)
                sums[place] += output.sums
            engine.end_share()
        return sums

    def _end_step(self) -> None:
        """Logs, judges and saves where it is time to."""
        config, is_last = self.config, self._is_last()
        self._log.bar.advance(self.step)
        if self.step % config.log_every_steps == 0 or is_last:
            self._log.window(self.step, self._window)
            self._window = Window()
        if self._is_judged():
            self._evaluate()
        # In a row of bad steps nobody knows yet whether the weights are good.
        is_time = self.step % config.save_every_steps == 0 and self._care.health.is_quiet
        if is_time or self._is_last():
            self._save()

    def _is_last(self) -> bool:
        return self._has_ended or self.step >= self.course.total_steps

    def _is_judged(self) -> bool:
        return self.step % self.config.eval_every_steps == 0 or self._is_last()

    def _evaluate(self) -> None:
        with self.engine.whole_model() as model:
            found = self._validation.figures(model)
        if found is None:
            return
        self._log.evaluated(self.step, found)
        if self._watch and found.seen and self._watch.has_limit:
            self._best_step, self._best_loss = self._best_within(self._watch)
            self._end_if_passed(found.seen, self._watch)
        elif found.loss and found.loss.nats_per_token < self._best_loss:
            self._best_step, self._best_loss = self.step, found.loss.nats_per_token

    # ---- a limit beside the loss --------------------------------------------------------------

    def _look_first(self) -> None:
        """Looks at the model before the first step; a run that a limit has ended ends again."""
        if self._watch is None:
            return
        with self.engine.whole_model() as model:
            seen = self._watch.look(model)
        log.info(f"step {self.step}: {seen.text}")
        if self.step and self._watch.has_limit:
            before = self._best_step
            self._best_step, self._best_loss = self._best_within(self._watch)
            if self._is_judged():
                self._end_if_passed(seen, self._watch)
            if self._is_last() and self._best_step != before:  # the limit is not what it was
                self._save()

    def _end_if_passed(self, seen: Seen, watch: Watch) -> None:
        """Ends the run, on all processes, if the main one has seen a limit passed."""
        passed = self.agreement.decide(lambda: seen.passed)
        if not passed:
            return
        self._has_ended = True
        self.agreement.decide(lambda: self._tell_of_end(passed, watch))

    def _tell_of_end(self, passed: str, watch: Watch) -> None:
        ended = f"step {self.step}: {passed}: the run ends here; "
        if within := self._lines_within(watch):
            newest = self.run / step_name(within[-1]["step"])
            log.info(f"{ended}of the checkpoints below it {newest} is the newest")
        else:
            log.warning(
                f"{ended}no checkpoint that was judged is below it, only the base is: go on with "
                f"the base, or start anew with {watch.advice}"
            )

    def _best_within(self, watch: Watch) -> tuple[int, float]:
        """Returns the best step within the limit as it is set now, and its loss; 0 if none is.

        Without validation pairs it is the newest one.
        """
        self._checkpoints.wait()  # one that is being written is looked for

        def best() -> tuple[int, float]:
            lines = self._lines_within(watch)
            if not lines:
                return 0, math.inf
            found = min(lines, key=lambda line: line.get("valid_loss", -line["step"]))
            return found["step"], found.get("valid_loss", math.inf)

        return self.agreement.decide(best)

    def _lines_within(self, watch: Watch) -> list[dict[str, Any]]:
        """Returns what was seen of steps within the limit: those that are saved, and this one."""
        there = {*saved_steps(self.run), self.step}
        lines = run_folder.metrics(self.run)
        return [line for line in lines if line["step"] in there and watch.is_within(line)]

    def _pair_losses(self, step: Step) -> list[float | None]:
        with self.engine.whole_model() as model:
            if not self.agreement.is_main:
                return []
            return inspection.pair_losses(model, self.data.train, step.rows)

    def _stop(self, stop: StopRequest, code: int) -> None:
        if self._checkpoints.newest != self.step:
            self._save()
        self._checkpoints.wait()
        if code != NeighbourError.exit_code:  # without a launcher there is no time for it
            self._log.draw()
        log.info(f"stopped at step {self.step}; go on with resume=True out={self.run}")
        stop.exit(code)

    # ---- from checkpoint to checkpoint ------------------------------------------------------

    def _save(self) -> None:
        # A run that a limit has ended may have no checkpoint within it.
        self._checkpoints.save(self._state(), has_best=self._best_step > 0 or not self._has_ended)

    def _state(self) -> State:
        config, data, health = self.config, self.data, self._care.health
        settings = lineage.settings(config)
        return State(
            step=self.step,
            samples=self.course.order.samples_before(self.step),
            best_step=self._best_step,
            best_loss=self._best_loss,
            data=data.found.train,
            tokenizer=data.tokenizer.fingerprint,
            num_processes=self.accelerator.num_processes,
            run_seconds=self._log.seconds(),
            engine=self.engine.name,
            config=lineage.sha256(settings),
            ledger=self._chain,
            skipped_steps=list(health.skipped),
            window=self._window.as_state(),
            microbatch_tokens=self._retry.sizes.at(self.step),
            bad_steps=len(health.streak),
            losses=health.detector.as_hex(),
            environment=lineage.environment(config, self.engine, self.accelerator),
            valid=data.found.valid,
            settings=settings,
        )

    def begin(self) -> None:
        """Makes the run folder of a run that takes its first step, and says what can be expected.

        Raises:
            StorageError: the folder cannot be written.
        """
        if self.agreement.is_main:
            run_folder.create(self.run, self.config)
        here = lineage.environment(self.config, self.engine, self.accelerator)
        log.info(lineage.promise(here))

    def load(self, folder: Path, accepted: list[str]) -> None:
        """Puts the run to where a checkpoint was written; the weights are loaded already.

        Args:
            folder: the checkpoint.
            accepted: what is not as it was then, and was accepted.

        Raises:
            CheckpointError: its pairs came in another order, or its moments are of other weights.
        """
        state, order = read_state(folder), self.course.order
        lineage.require_reachable(folder, state, self.course.total_steps)
        here = lineage.environment(self.config, self.engine, self.accelerator)
        chain = lineage.chain_of(order, state.step, set(state.skipped_steps))
        why = lineage.other_order(state, order, chain, here["numpy"])
        if why and not accepted:
            accepted = lineage.accept(folder, [why], accept_changes=self.config.accept_changes)
        self._checkpoints.put_back_moments(folder)
        self._go_on_from(replace(state, ledger=chain))
        self._log.seconds_before = state.run_seconds
        level = lineage.level(state.environment, here, accepted)
        log.info(f"going on from {folder}")
        log.info(str(level))
        if self.agreement.is_main:
            line = {"event": "resume", "step": state.step, "level": level.name, "why": level.why}
            run_folder.append(self.run, run_folder.LEDGER, line)

    def _go_on_from(self, state: State) -> None:
        self.step, self._chain = state.step, state.ledger
        self._checkpoints.newest = state.step
        self._best_step, self._best_loss = state.best_step, state.best_loss
        self._window = Window(state.window)
        self._retry.sizes = self._sizes(state)
        own = self.config.max_bad_steps, self._model.vocab_size
        known = state.losses, state.skipped_steps, state.bad_steps
        health = Health.of(*own, *known, self._ledger())
        self._care = self._taken_care_of(health)
        if self.agreement.is_main:
            run_folder.rewind(self.run, self.step)

    def _sizes(self, state: State) -> MicrobatchTokens:
        """Returns the microbatches of the ledger, and of the checkpoint if the ledger is lost."""
        own = self.config.microbatch_tokens
        sizes = MicrobatchTokens.of(own, self._ledger())
        of_this_setting = state.environment.get("microbatch_tokens") == own
        if of_this_setting and state.microbatch_tokens < sizes.at(state.step):
            sizes.halvings[state.step] = state.microbatch_tokens
        return sizes

    def _go_back(self, step: int) -> None:
        """Puts the run back to a checkpoint of its own."""
        self._go_on_from(read_state(self._checkpoints.put_back(step)))

    def close(self) -> None:
        """Lets a save that has begun come to its end, and ends the process groups."""
        self._checkpoints.close()
        self.agreement.close()
        self.accelerator.end_training()
