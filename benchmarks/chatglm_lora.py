"""Measures LoRA on a full-size ChatGLM-6B on one CUDA card: memory, speed, share of the card.

In: nothing but settings; the weights are random, made in bf16 on the card, and no file is read or
written. Out: a table, then one line of JSON. Adapters of rank 8 lie on query_key_value, as train.py
puts them there, and steps of `rows` x `tokens` are taken as its loop takes them: bf16 autocast, the
output head at answers only, clipping, AdamW on the adapters. Twice, with gradient checkpointing and
without; a side for which the memory is too small is a row that says so.

    python benchmarks/chatglm_lora.py
    python benchmarks/chatglm_lora.py rows=1 tokens=2000 steps=20
    python benchmarks/chatglm_lora.py device=cpu layers=2 hidden=64 heads=4 vocab=200 steps=2

MFU counts the operations that this training needs, a multiplication and an addition as two.
Forward: 2 for each weight of the layers and token, 2 for each weight of the head and answer token,
4 x hidden for each pair of tokens that see each other and layer, and the adapters. Backward: as
much again for the weights, whose own gradient nobody needs since they do not move (so 4 for each
weight and token in all, not 6), less what is below the first layer's adapters, where nothing moves;
twice the forward for attention and adapters. Not counted: padding (there is none), what
checkpointing computes again, norms, softmax, lookups, the optimizer. It is divided by the best
large bf16 matrix product of the same run, or by `peak_tflops=`.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from gpu_sides import Marks, autocast, matrix_peak, synchronize
from rich.console import Console
from rich.table import Table
from torch import Tensor

from chatlm import cli, optim
from chatlm.adapters.base import recompute_activations
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.lora import with_adapters
from chatlm.config import ADAPTERS, LoraSettings, TrainConfig
from chatlm.errors import ConfigError
from chatlm.glm.configuration import ChatGLMConfig
from chatlm.glm.modeling import ChatGLMForConditionalGeneration

GIB = 2**30
SIDES = {"checkpointing": True, "no checkpointing": False}
SPECIAL = ("mask", "gmask", "bos", "eos")
"""At the end of a vocabulary that is not the published one."""
PAD_ID = 3

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/chatglm_lora.py`."""

    device: str = field(default="cuda", metadata={"help": "cuda, or cpu to try the script"})
    layers: int = field(default=28, metadata={"help": "of the model"})
    hidden: int = field(default=4096, metadata={"help": "width; the feed-forward has four times"})
    heads: int = field(default=32, metadata={"help": "of the attention"})
    vocab: int = field(default=130528, metadata={"help": "rows of the table"})
    rank: int = field(default=8, metadata={"help": "of the adapters"})
    rows: int = field(default=6, metadata={"help": "sequences a step"})
    tokens: int = field(default=200, metadata={"help": "of a sequence, prompt and answer"})
    prompt: int = field(default=60, metadata={"help": "of these, [gMASK] and <sop> included"})
    steps: int = field(default=50, metadata={"help": "measured, for each side"})
    warm: int = field(default=3, metadata={"help": "steps before those"})
    peak_tflops: float = field(default=0.0, metadata={"help": "of the card; 0: measured here"})
    seed: int = field(default=0, metadata={"help": "decides weights and ids"})

    def __post_init__(self) -> None:
        """Refuses what cannot be measured.

        Raises:
            ConfigError: a number is out of its range, or there is no card.
        """
        if not 3 <= self.prompt < self.tokens:
            raise ConfigError("prompt= must be at least 3, and less than tokens=")
        if min(self.layers, self.rank, self.rows, self.steps) < 1 or self.warm < 0:
            raise ConfigError("layers, rank, rows and steps start at 1, warm at 0")
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(
                "no CUDA card is visible: a full-size model needs one; device=cpu layers=2 "
                "hidden=64 heads=4 vocab=200 steps=2 tries the script"
            )

    def shape(self) -> ChatGLMConfig:
        """Returns the shape of the model, special ids included."""
        ids: dict[str, Any] = {}
        if self.vocab != ChatGLMConfig.vocab_size:
            last = self.vocab - len(SPECIAL)
            ids = {f"{name}_token_id": last + place for place, name in enumerate(SPECIAL)}
            ids["pad_token_id"] = PAD_ID
        return ChatGLMConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            inner_hidden_size=4 * self.hidden,
            num_layers=self.layers,
            num_attention_heads=self.heads,
            **ids,
        )


def make_model(settings: Settings) -> LanguageModel:
    """Returns the model with adapters, made on its device: bf16 there, fp32 on a CPU."""
    device = torch.device(settings.device)
    before = torch.get_default_dtype()
    torch.manual_seed(settings.seed)
    try:
        torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
        with device:
            base = ChatGLMForConditionalGeneration(settings.shape())
    finally:
        torch.set_default_dtype(before)
    for name, module in base.named_modules():
        if name.endswith("layernorm"):
            module.float()
    base.requires_grad_(False)
    inner: Any = with_adapters(base, LoraSettings(rank=settings.rank))
    return LanguageModel(inner, pad_id=PAD_ID).to(device).train()


def make_batch(settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns flat ids, labels and offsets of one step."""
    shape, device = settings.shape(), torch.device(settings.device)
    num_answer = settings.tokens - settings.prompt
    draw = torch.Generator().manual_seed(settings.seed)
    most = min(130_000, settings.vocab - len(SPECIAL))
    sources, targets = (
        torch.randint(PAD_ID + 1, most, (settings.rows, size), generator=draw)
        for size in (settings.prompt, num_answer)
    )
    assert isinstance(shape.eos_token_id, int)
    sources[:, -2], sources[:, -1] = shape.gmask_token_id or 0, shape.bos_token_id or 0
    targets[:, -1] = shape.eos_token_id
    ends = torch.arange(settings.rows + 1)
    found = sources.flatten(), targets.flatten(), ends * settings.prompt, ends * num_answer
    ids, labels, source_ends, target_ends = (one.to(device) for one in found)
    return ids, labels, source_ends, target_ends


def step_flops(settings: Settings) -> float:
    """Returns the operations that one step needs: see the module's docstring."""
    width, tokens = settings.hidden, settings.rows * settings.tokens
    answers = settings.rows * (settings.tokens - settings.prompt)
    context = settings.prompt - 1  # <sop> is the first token that sees backwards only
    seen = context**2 + sum(range(context + 1, settings.tokens + 1))
    weights = settings.layers * 12 * width**2 * 2.0 * tokens
    below = (3 * width + settings.rank) * width * 2.0 * tokens
    head = 2.0 * settings.vocab * width * answers
    attention = 4.0 * width * seen * settings.rows * settings.layers
    adapters = settings.layers * settings.rank * 4 * width * 2.0 * tokens
    forward = weights + head + attention + adapters
    return forward + weights - below + head + 2 * (attention + adapters)


def measure(settings: Settings, model: LanguageModel, *, checkpointing: bool) -> Row:
    """Returns the figures of one side; the adapters go on from where they are."""
    inner: Any = model.inner
    recompute_activations(inner, is_on=checkpointing)
    if checkpointing:
        inner.enable_input_require_grads()
    else:
        inner.disable_input_require_grads()
    config = cli.build(TrainConfig, ADAPTERS, {"finetune": True, "base": "ChatGLM"})
    moving = dict(model.saved())
    optimizer = optim.make_optimizer(moving.items(), config)
    optim.set_rates(optimizer, config.learning_rate, optim.tensor_scales(moving, rms_scaled=False))
    batch, device = make_batch(settings), torch.device(settings.device)
    losses: list[Tensor] = []

    def step() -> None:
        with autocast(device):
            output = model(*batch)
            loss = output.loss_sum / output.num_tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving.values(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())

    for _ in range(settings.warm):
        step()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    marks = Marks(device)
    for _ in range(settings.steps):
        with marks.part("step"):
            step()
    seconds = statistics.median(marks.seconds()["step"])
    memory = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else None
    return {
        "steps": settings.steps,
        "seconds_a_step": seconds,
        "tokens_per_second": settings.rows * settings.tokens / seconds,
        "tflops": step_flops(settings) / seconds * 1e-12,
        "memory_gib": memory,
        "first_loss": losses[0].item(),
        "last_loss": losses[-1].item(),
    }


def measure_all(settings: Settings) -> dict[str, Any]:
    """Returns the figures of both sides, and what they were measured on."""
    device = torch.device(settings.device)
    peak = settings.peak_tflops or matrix_peak(device)
    model = make_model(settings)
    sides: dict[str, Row] = {}
    for name, is_on in SIDES.items():
        try:
            sides[name] = measure(settings, model, checkpointing=is_on)
            sides[name]["mfu"] = sides[name]["tflops"] / peak
        except torch.cuda.OutOfMemoryError:
            sides[name] = {"error": "the memory is too small"}
            model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {
        "card": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.inner.parameters()),
        "moving": sum(p.numel() for _, p in model.saved()),
        "peak_tflops": peak,
        "flops_a_step": step_flops(settings),
        "settings": asdict(settings),
        "sides": sides,
    }


def show(found: dict[str, Any]) -> None:
    """Prints the table."""
    console, settings = Console(width=120), found["settings"]
    console.print(
        f"{found['card']}, torch {found['torch']}; {found['parameters']:,} weights, "
        f"{found['moving']:,} of them move; {settings['rows']} x {settings['tokens']} tokens a "
        f"step; peak {found['peak_tflops']:.1f} TFLOP/s",
        highlight=False,
    )
    table = Table(title="LoRA on ChatGLM-6B")
    columns = ("side", "peak GiB", "ms a step", "tokens/s", "MFU", "loss, first", "last")
    for column in columns:
        table.add_column(column, justify="left" if column == "side" else "right")
    for name, row in found["sides"].items():
        if "error" in row:
            table.add_row(name, row["error"])
            continue
        memory = "-" if row["memory_gib"] is None else f"{row['memory_gib']:.2f}"
        table.add_row(
            name,
            memory,
            f"{1000 * row['seconds_a_step']:.1f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['mfu']:.1%}",
            f"{row['first_loss']:.3f}",
            f"{row['last_loss']:.3f}",
        )
    console.print(table)


def main(argv: Sequence[str]) -> int:
    """Measures both sides; the exit status is 1 if one of them found too little memory."""
    if any(token in ("-h", "--help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(Settings)}")
        return 0
    found = measure_all(cli.parse(argv, Settings))
    show(found)
    print(json.dumps(found))
    return int(any("error" in row for row in found["sides"].values()))


if __name__ == "__main__":
    cli.run(main)
