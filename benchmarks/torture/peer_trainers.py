"""The same tiny training by others' means, used as their documentation recommends.

In: a run folder and the pairs. Out: a trained model, checkpoints in their own form, and beside the
log what each step learnt from (`fed`) and its loss. The model is transformers' T5 of the same
size; pairs, batch size, number of steps, save interval and dropout are those of `victim`.

A script too, for torchrun: `-m benchmarks.torture.peer_trainers NAME RUN PAIRS LOG STEPS`.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from torch.utils.data import DataLoader, Dataset
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)
from transformers.trainer_utils import get_last_checkpoint

from benchmarks.torture import fed
from tests import tiny_data

BATCH, STEPS, INTERVAL, KEEP, SEED, RATE = 16, 24, 4, 2, 42, 2e-2
FINAL = "final-weights.sha256"
Pair = tuple[list[int], list[int]]


class Pairs(Dataset[dict[str, list[int]]]):
    """Source ids and labels of each pair."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> dict[str, list[int]]:
        source, labels = self.pairs[row]
        return {"input_ids": source, "labels": labels}


def collate(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Returns padded tensors, as DataCollatorForSeq2Seq makes them."""

    def padded(key: str, filler: int) -> torch.Tensor:
        longest = max(len(row[key]) for row in rows)
        return torch.tensor([row[key] + [filler] * (longest - len(row[key])) for row in rows])

    ids = padded("input_ids", 0)
    mask = (ids != 0).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": padded("labels", -100)}


def _model(log: Path) -> T5ForConditionalGeneration:
    """Returns a fresh T5 that notes what it learns from, and its losses."""
    torch.manual_seed(SEED)
    shape: dict[str, Any] = {
        key.removeprefix("model."): size for key, size in tiny_data.MODEL.items()
    }
    config = T5Config(vocab_size=512, dropout_rate=0.1, **shape)
    config.decoder_start_token_id = 0
    model = T5ForConditionalGeneration(config)
    seen: list[str] = []
    losses: list[str] = []

    def note(_module: object, _arguments: object, given: dict[str, Any]) -> None:
        if model.training:
            for source, labels in zip(given["input_ids"], given["labels"], strict=True):
                pair = (source[source != 0].tolist(), labels[labels != -100].tolist())
                seen.append(fed.digest(*pair))

    def note_loss(_module: object, _arguments: object, output: Any) -> None:
        losses.append(float(output.loss.detach()).hex())

    model.register_forward_pre_hook(note, with_kwargs=True)
    model.register_forward_hook(note_loss)
    fed.write_when_applied(log.with_suffix(".fed"), fed.taker(seen))
    fed.write_when_applied(log.with_suffix(".losses"), fed.taker(losses))
    return model


def _finish(model: Any, run: Path) -> None:
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.removeprefix("module.").encode() + tensor.numpy().tobytes())
    (run / FINAL).write_text(found.hexdigest())


class _Progress:
    """The step, as a custom object of accelerate's checkpoints."""

    step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.step = state["step"]


def _with_accelerate(run: Path, pairs: Sequence[Pair], log: Path, steps: int, named: bool) -> None:
    naming = ProjectConfiguration(
        str(run), automatic_checkpoint_naming=named, total_limit=KEEP if named else 99
    )
    accelerator = Accelerator(
        cpu=True,
        project_config=naming,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    set_seed(SEED)
    model: Any = _model(log)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, STEPS)
    loader: Any = DataLoader(Pairs(pairs), BATCH, shuffle=True, collate_fn=collate)
    prepared: Any = accelerator.prepare(model, optimizer, loader, schedule)
    model, optimizer, loader, schedule = prepared
    progress = _Progress()
    accelerator.register_for_checkpointing(progress)
    folder = run / "state"
    if named:
        numbers = [int(path.name.rpartition("_")[2]) for path in run.glob("checkpoints/*")]
        if numbers:
            accelerator.load_state()
            accelerator.project_configuration.iteration = max(numbers) + 1
    elif folder.is_dir():
        accelerator.load_state(str(folder))
    done = progress.step % len(loader)
    for epoch in range(progress.step // len(loader), steps):
        loader.set_epoch(epoch)
        batches = accelerator.skip_first_batches(loader, done) if done else loader
        done = 0
        for batch in batches:
            if progress.step == steps:
                return _finish(accelerator.unwrap_model(model), run)
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.step += 1
            if progress.step % INTERVAL == 0:
                accelerator.save_state(None if named else str(folder))
    return _finish(accelerator.unwrap_model(model), run)


def accelerate_folder(run: Path, pairs: Sequence[Pair], log: Path, steps: int) -> None:
    """Trains with accelerate's `save_state` into one folder."""
    _with_accelerate(run, pairs, log, steps, named=False)


def accelerate_named(run: Path, pairs: Sequence[Pair], log: Path, steps: int) -> None:
    """Trains with accelerate's `save_state`, automatic_checkpoint_naming and total_limit."""
    _with_accelerate(run, pairs, log, steps, named=True)


def hf_trainer(run: Path, pairs: Sequence[Pair], log: Path, steps: int) -> None:
    """Trains with transformers' Trainer and `resume_from_checkpoint`."""

    class Stop(TrainerCallback):
        def on_step_end(self, *given: Any, **_: Any) -> None:
            _, state, control = given[:3]
            control.should_training_stop |= state.global_step >= steps

    arguments = TrainingArguments(
        output_dir=str(run),
        max_steps=max(STEPS, steps),
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        save_steps=INTERVAL,
        save_total_limit=KEEP,
        logging_steps=1,
        seed=SEED,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        _model(log),
        arguments,
        data_collator=collate,
        train_dataset=Pairs(pairs),
        callbacks=[Stop()],
    )
    newest = get_last_checkpoint(str(run)) if run.is_dir() else None
    trainer.train(resume_from_checkpoint=newest)
    _finish(trainer.model, run)


def lightning_trainer(run: Path, pairs: Sequence[Pair], log: Path, steps: int) -> None:
    """Trains with Lightning's Trainer, ModelCheckpoint(save_last=True) and ckpt_path="last"."""
    lightning: Any = importlib.import_module("lightning")
    callbacks: Any = importlib.import_module("lightning.pytorch.callbacks")
    lightning.seed_everything(SEED)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = _model(log)

        def training_step(self, batch: Any, _index: int) -> Any:
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=RATE)
            schedule = get_cosine_schedule_with_warmup(optimizer, 0, STEPS)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        max_epochs=-1,
        max_steps=steps,
        default_root_dir=run,
        callbacks=[
            callbacks.ModelCheckpoint(run, every_n_train_steps=INTERVAL, save_last=True),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: Any = DataLoader(Pairs(pairs), BATCH, shuffle=True, collate_fn=collate)
    module = Module()
    trainer.fit(module, loader, ckpt_path="last")
    _finish(module.model, run)


TRAINERS: dict[str, Callable[[Path, Sequence[Pair], Path, int], None]] = {
    "accelerate, one folder": accelerate_folder,
    "accelerate, named": accelerate_named,
    "HF Trainer": hf_trainer,
}
if importlib.util.find_spec("lightning"):
    importlib.import_module("lightning.pytorch")
    TRAINERS["Lightning"] = lightning_trainer
PACKAGES = {"HF Trainer": "transformers", "Lightning": "lightning"}
"""Whose trainer it is; the others are accelerate's."""


def saving(name: str) -> tuple[type, str]:
    """Returns the class and the name of its method that writes a checkpoint."""
    if name == "Lightning":
        return importlib.import_module("lightning").Trainer, "save_checkpoint"
    return (Trainer, "_save_checkpoint") if name == "HF Trainer" else (Accelerator, "save_state")


def checkpoints(name: str, run: Path) -> list[Path]:
    """Returns the checkpoints of a run, oldest first; Lightning's are files, others folders."""
    if name == "accelerate, one folder":
        return [run / "state"] if (run / "state").is_dir() else []
    if name == "Lightning":
        return sorted(run.glob("last.ckpt"))
    found = run.glob("checkpoint-*" if name == "HF Trainer" else "checkpoints/checkpoint_*")
    return sorted(found, key=lambda path: int(path.name.replace("_", "-").rpartition("-")[2]))


def files_of(checkpoint: Path) -> list[Path]:
    """Returns the files of a checkpoint."""
    if checkpoint.is_file():
        return [checkpoint]
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def train(name: str, run: Path, pairs: Path, log: Path, steps: int = STEPS) -> int:
    """Trains by one of `TRAINERS`; 0."""
    TRAINERS[name](run, json.loads(pairs.read_text()), log, steps)
    return 0


def main(name: str, run: str, pairs: str, log: str, steps: str) -> None:
    """Is one rank under torchrun."""
    torch.set_num_threads(1)
    own = Path(log) / f"{os.environ['RANK']}.log"
    train(name, Path(run), Path(pairs), own, int(steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
