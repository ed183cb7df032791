"""From settings to a trained run: the steps before and after the loop.

In: resolved settings, where the pairs are, a checkpoint to start from. Out: the run folder. It
builds what the loop needs, in an order in which nothing is written before everything is known to
be usable; the loop itself is in `chatlm.trainer`.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from chatlm import engines, lineage, log, optim, run_folder
from chatlm.agreement import Agreement
from chatlm.checkpoint import storage
from chatlm.checkpoint.state import read_state
from chatlm.checkpoint.verify import newest_whole
from chatlm.checkpoint.weights import load_model
from chatlm.config import TrainConfig
from chatlm.dataset import prepare
from chatlm.dataset.packing import FILLER_TOKENS
from chatlm.dataset.prepare import Found, Prepared, Source
from chatlm.engines.tree_sum import choose_shares
from chatlm.errors import ChatLMError, CheckpointError, ConfigError
from chatlm.evaluate import t5_speech
from chatlm.health import memory
from chatlm.launch import Launch, launch
from chatlm.lineage import Origin
from chatlm.model import hf
from chatlm.model.config import ModelConfig
from chatlm.model.hf import T5Layout
from chatlm.model.t5 import T5
from chatlm.neighbours.lock import Lock
from chatlm.neighbours.signals import StopRequest
from chatlm.neighbours.watchdog import Watchdog
from chatlm.plan.memory import checkpoint_bytes
from chatlm.subject import Subject
from chatlm.tokenizer import Tokenizer
from chatlm.trainer import Place, Trainer


def train(
    config: TrainConfig, source: Source, init_from: Path | None, stop: StopRequest | None = None
) -> Path:
    """Trains; returns the run folder.

    Args:
        config: resolved settings.
        source: where the pairs are.
        init_from: checkpoint folder whose weights and tokenizer the run starts from, or None.
        stop: who knows whether the run is to stop; None: this training alone listens to signals.

    Raises:
        ChatLMError: what the user can mend; nothing that was there before is lost.
    """
    if stop is None:
        with StopRequest() as own:
            return train(config, source, init_from, own)
    launched = launch(config)
    accelerator = launched.accelerator
    with Watchdog(accelerator, hang_seconds=config.hang_seconds) as watchdog:
        agreement = Agreement(accelerator)
        run, start, lock = _agreed_folders(agreement, config, init_from)
        with lock or nullcontext():
            place = Place(run, lock, accelerator, agreement)
            trainer = _trainer(config, source, start, launched, place)
            try:
                trainer.fit(stop, watchdog)
            except (RuntimeError, MemoryError) as error:
                if reason := memory.shortage(error):
                    raise memory.elsewhere(reason) from None
                raise
            finally:
                trainer.close()
    return run


def _trainer(
    config: TrainConfig, source: Source, start: Path | None, launched: Launch, place: Place
) -> Trainer:
    """Returns the trainer of a run at its beginning, or put to where its checkpoint was written."""
    accelerator = place.accelerator
    if problems := config.guard_problems():
        raise ConfigError("; ".join(problems))
    tuning = _Tuning(config) if config.base else None
    tokenizer = Tokenizer.load(start) if start and tuning is None else None
    # On several machines without a common disk the first process of each prepares its own copy.
    with accelerator.main_process_first(), accelerator.local_main_process_first():
        found = prepare.find(source)
        known = tuning.known(found) if tuning else found
        accepted = _accepted(start, config, source, known) if start and config.resume else []
        if tuning:
            data = tuning.data(source, found)
        else:
            data = prepare.prepare(config, source, found, tokenizer)
    config = replace(
        config,
        gradient_shares=config.gradient_shares or choose_shares(data.train, config.batch_size),
    )
    subject = tuning.subject(config, start, accelerator) if tuning else None
    if tuning and subject:
        needed = tuning.checkpoint_bytes(subject)
    else:
        config = replace(config, model=_shape(config, start, data.tokenizer))
        needed = checkpoint_bytes(config)
    place.agreement.decide(lambda: storage.require_space(place.run, needed))
    subject = subject or _own_subject(config, start, data.tokenizer, accelerator)
    trainer = Trainer(config, place, data, subject, engines.make(launched, config, subject.model))
    if start and config.resume:
        trainer.load(start, accepted)
    else:
        trainer.begin()
    return trainer


class _Tuning:
    """A run that tunes a model of others; transformers and peft are imported for it only."""

    def __init__(self, config: TrainConfig) -> None:
        from chatlm.adapters.forms import open_form

        self._config, self._form = config, open_form(config.base)
        self._replay: Any = None
        self._data: Any = None

    def known(self, found: Found) -> Found:
        """Returns what identifies the pairs of the run, those of a replay included."""
        from chatlm.adapters import replay

        self._replay = replay.find(self._config)
        return replay.joined(found, self._replay)

    def data(self, source: Source, found: Found) -> Prepared:
        """Returns what the run reads; `known` has to be called before."""
        from chatlm.adapters.data import prepare_data

        self._data = prepare_data(self._config, source, found, self._form, self._replay)
        return self._data

    def subject(self, config: TrainConfig, start: Path | None, accelerator: Accelerator) -> Subject:
        """Returns the base with adapters; `data` has to be called before."""
        from chatlm.adapters.tuning import make

        return make(config, self._form, start, accelerator, self._data)

    @staticmethod
    def checkpoint_bytes(subject: Subject) -> int:
        """Returns the bytes of one checkpoint: adapters and two moments each, fp32."""
        return 12 * sum(p.numel() for _, p in subject.model.saved())


def _own_subject(
    config: TrainConfig, start: Path | None, tokenizer: Tokenizer, accelerator: Accelerator
) -> Subject:
    """Returns our T5."""
    model = build_model(config, start, accelerator)
    speech = t5_speech(tokenizer, config.max_source_tokens)
    return Subject(model, T5Layout(config.model, load_model), speech)


def _accepted(start: Path, config: TrainConfig, source: Source, found: Found) -> list[str]:
    """Returns what has changed since a checkpoint was written and is accepted."""
    # A fine-tuning has the tokenizer of the model that it began with.
    own = None if config.finetune else prepare.own_tokenizer(config, source, found)
    origin = Origin(
        found.train,
        found.valid,
        Tokenizer.load(own).fingerprint if own else "",
        lineage.settings(config),
        {**found.places, "tokenizer": str(own)},
    )
    state = read_state(start)
    return lineage.accepted_changes(start, state, origin, accept_changes=config.accept_changes)


def _agreed_folders(
    agreement: Agreement, config: TrainConfig, init_from: Path | None
) -> tuple[Path, Path | None, Lock | None]:
    """Returns the run folder, the checkpoint to load and, on the main process, the lock."""
    locks: list[Lock] = []

    def choose() -> tuple[Path, Path | None]:
        lock = run_folder.claim(config)
        try:
            start = newest_whole(lock.run) if config.resume else init_from
        except ChatLMError:
            lock.release()
            raise
        locks.append(lock)
        return lock.run, start

    run, start = agreement.decide(choose)
    return run, start, locks[0] if locks else None


def _shape(config: TrainConfig, start: Path | None, tokenizer: Tokenizer) -> ModelConfig:
    """Returns the model's shape: the checkpoint's, or the settings' with the tokenizer's size."""
    if start is None:
        return replace(config.model, vocab_size=tokenizer.vocab_size)
    shape = hf.load_config(start)
    if shape.vocab_size < tokenizer.vocab_size:
        raise CheckpointError(
            f"{start} has {shape.vocab_size} embeddings but its tokenizer has "
            f"{tokenizer.vocab_size} entries: these files do not belong together"
        )
    return shape


def build_model(config: TrainConfig, start: Path | None, accelerator: Accelerator) -> T5:
    """Returns the model on its device, frozen parts marked."""
    if start:
        model = load_model(start)
    else:
        torch.manual_seed(config.seed)
        model = T5(config.model)
    frozen = optim.freeze(model, config.frozen_parts())
    total = sum(p.numel() for p in model.parameters())
    log.info(f"model: {total / 1e6:.1f}M parameters, {config.model.vocab_size} tokens")
    if frozen:
        tied = "embedding" in config.frozen_parts()
        head = ", the output head too (it is the embedding table)" if tied else ""
        log.info(
            f"freeze={','.join(config.frozen_parts())}: {frozen / 1e6:.1f}M of "
            f"{total / 1e6:.1f}M parameters stay as they are{head}; freeze=none "
            "moves all"
        )
    model.attention = config.attention
    if config.compile or accelerator.device.type == "cuda":
        # Lengths that are known beforehand: nothing has to be read back from a GPU, or compiled in.
        limits = config.max_source_tokens, config.max_target_tokens
        model.longest = max(limits[0], FILLER_TOKENS), max(limits[1], FILLER_TOKENS)
        # The only one of a CPU that can be compiled, and of a GPU that repeats itself.
        if config.attention == "auto" and (
            accelerator.device.type == "cpu" or config.deterministic
        ):
            model.attention = "sdpa"
    return model.to(accelerator.device)
