"""From settings to a trained run: the steps before and after the loop.

In: resolved settings, where the pairs are, a checkpoint to start from. Out: the run folder. It
builds what the loop needs, in an order in which nothing is written before everything is known to
be usable; the loop itself is in `chatlm.trainer`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from chatlm import checkpoint, engines, log, optim, run_folder
from chatlm.config import TrainConfig
from chatlm.dataset import prepare
from chatlm.dataset.packing import FILLER_TOKENS
from chatlm.dataset.prepare import Source
from chatlm.errors import ChatLMError, CheckpointError
from chatlm.launch import launch
from chatlm.model import hf
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5
from chatlm.tokenizer import Tokenizer
from chatlm.trainer import Trainer


def train(config: TrainConfig, source: Source, init_from: Path | None) -> Path:
    """Trains; returns the run folder.

    Args:
        config: resolved settings.
        source: where the pairs are.
        init_from: checkpoint folder whose weights and tokenizer the run starts from, or None.

    Raises:
        ChatLMError: what the user can mend; nothing that was there before is lost.
    """
    launched = launch(config)
    accelerator = launched.accelerator
    run, start = _agreed_folders(accelerator, config, init_from)
    tokenizer = Tokenizer.load(start) if start else None
    # On several machines without a common disk the first process of each prepares its own copy.
    with accelerator.main_process_first(), accelerator.local_main_process_first():
        data = prepare.prepare(config, source, tokenizer)
    config = replace(config, model=_shape(config, start, data.tokenizer))
    engine = engines.make(launched, config, build_model(config, start, accelerator))
    trainer = Trainer(config, run, accelerator, data, engine)
    if config.resume and start:
        trainer.load(start)
    elif accelerator.is_main_process:
        run_folder.create(run, config)
    try:
        trainer.fit()
    finally:
        trainer.close()
    return run


def _agreed_folders(
    accelerator: Accelerator, config: TrainConfig, init_from: Path | None
) -> tuple[Path, Path | None]:
    """Returns the run folder and the checkpoint to load; the main process decides for all."""
    decided: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            run = run_folder.choose(config)
            decided = [(run, checkpoint.newest_whole(run) if config.resume else init_from)]
        except ChatLMError as error:
            decided = [error]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(decided)
    if isinstance(decided[0], ChatLMError):
        raise decided[0]
    return decided[0]


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
        model = hf.load_pretrained(start)
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
    if config.compile == "True" or accelerator.device.type == "cuda":
        # Lengths that are known beforehand: nothing has to be read back from a GPU, or compiled in.
        limits = config.max_source_tokens, config.max_target_tokens
        model.longest = max(limits[0], FILLER_TOKENS), max(limits[1], FILLER_TOKENS)
        if config.attention == "auto" and accelerator.device.type == "cpu":
            model.attention = "sdpa"  # the only one of a CPU that can be compiled
    return model.to(accelerator.device)
