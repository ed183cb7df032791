"""The settings of a training run, and the presets that fill them in.

In: nothing. Out: `TrainConfig` and `PRESETS`. Everything is decided here and frozen before the
first step; the resolved settings are written into the run folder, and nothing reads argv after
that. Imports no torch, so that `--help` and a typo answer at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm.errors import ConfigError
from chatlm.model.config import ModelConfig

FREEZABLE = ("embedding", "encoder", "decoder")
OPTIMIZERS = ("muon", "adamw")
ATTENTIONS = ("auto", "math", "sdpa", "flex")
SCHEDULES = ("cosine", "wsd", "constant")


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class LoraSettings:
    """The adapters of a run with `base=`."""

    rank: int = _setting(8, "base=: rank of the adapters; 0: none, all weights of the base move")
    alpha: int = _setting(0, "base=: adapters are scaled by alpha / rank; 0: twice the rank")
    dropout: float = _setting(0.0, "base=: of the adapters' inputs")
    targets: list[str] = field(
        default_factory=list,
        metadata={"help": "base=: modules with adapters, or all-linear; empty: by architecture"},
    )
    kl: float = _setting(
        0.0, "base=: weight of KL(base || tuned) beside the training loss; costs a forward pass"
    )


@dataclass(frozen=True)
class ReplaySettings:
    """General pairs among those of a run with `base=`, so that it does not forget."""

    data: str = _setting("", "base=: general pairs to mix in, as data= names them; none: no replay")
    share: float = _setting(0.2, "base=: of all training pairs, those from replay.data")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. Units stand at the end of a name."""

    preset: str = _setting("auto", "starter (1.5M), small (10M), base (0.2B); auto fits the data")
    data: str = _setting("", "folder with train.parquet, or one pairs file; default data/")
    tokenizer: str = _setting("", "tokenizer folder; default <data folder>/tokenizer")
    out: str = _setting("", "run folder; default the next out/train-001")
    resume: bool = _setting(False, "go on from the newest checkpoint of out= (or the newest run)")
    accept_changes: bool = _setting(False, "resume although data, tokenizer or settings changed")
    finetune: bool = _setting(False, "start from a checkpoint instead of random weights")
    init_from: str = _setting("", "checkpoint or run folder to start from; default the newest run")
    base: str = _setting("", "tune this Hugging Face model with adapters: folder or name")
    lora: LoraSettings = field(default_factory=LoraSettings)
    replay: ReplaySettings = field(default_factory=ReplaySettings)
    max_forgetting: float = _setting(
        0.0, "base=: end when general chat has lost so many nats a token to the base; 0: never"
    )
    quantize: str = _setting("none", "base=: none, or nf4: its matrices in 4 bits (CUDA)")
    gradient_checkpointing: bool = _setting(False, "base=: less memory, a third slower")
    freeze: str = _setting("auto", "none, or of embedding,encoder,decoder; auto: see finetune")
    seed: int = _setting(42, "decides initial weights, sample order and dropout")
    epochs: float = _setting(8.0, "passes over the training pairs")
    max_steps: int = _setting(0, "optimizer steps; 0: as many as the epochs need")
    batch_size: int = _setting(256, "pairs an optimizer step, over all processes")
    per_device_batch_size: int = _setting(0, "pairs a step and process; sets batch_size")
    microbatch_tokens: int = _setting(16384, "source + target tokens a process computes at once")
    gradient_shares: int = _setting(
        0, "CPU: as many processes, or 1/2, 1/4, ..., give equal bits; 0: 4, 1 if steps are small"
    )
    max_source_tokens: int = _setting(
        256,
        "longer conversations lose their oldest turns, longer questions their end; EOS included",
    )
    max_target_tokens: int = _setting(256, "longer answers are cut and then get no EOS")
    optimizer: str = _setting("muon", "muon (matrices of layers; AdamW for the rest) or adamw")
    learning_rate: float = _setting(1e-2, "peak; adamw: of each tensor's RMS, if rms_scaled")
    embedding_learning_rate: float = _setting(0.2, "muon: peak for the embedding table")
    rms_scaled: bool = _setting(True, "adamw: multiply the rate by each tensor's RMS")
    schedule: str = _setting(
        "cosine", "after the warm-up: cosine, wsd (stay, then decay), constant"
    )
    decay_share: float = _setting(0.2, "wsd: share of all samples over which the rate falls")
    warmup_share: float = _setting(0.03, "share of all samples over which the rate rises")
    final_rate_share: float = _setting(0.01, "share of the peak rate that is left at the end")
    weight_decay: float = _setting(0.0, "decoupled, on matrices")
    beta1: float = _setting(0.9, "AdamW")
    beta2: float = _setting(0.98, "AdamW")
    clip_norm: float = _setting(1.0, "largest global gradient norm; 0: no clipping")
    precision: str = _setting("auto", "fp32 or bf16; auto: bf16 where the GPU has it")
    device: str = _setting("auto", "auto, cpu or cuda")
    attention: str = _setting("auto", "math, sdpa or flex; auto: flex on a GPU, on a CPU by length")
    compile: bool = _setting(False, "torch.compile of the layers; minutes before the first step")
    threads: int = _setting(0, "CPU threads a process; 0: all cores shared among the processes")
    deterministic: bool = _setting(False, "GPU: the same bits each time, slower; a CPU always does")
    log_every_steps: int = _setting(10, "a line in metrics.jsonl and on the screen")
    eval_every_steps: int = _setting(500, "validation loss, and answers to eval_answers pairs")
    save_every_steps: int = _setting(500, "a checkpoint; one is always saved at the end")
    keep_checkpoints: int = _setting(2, "newest checkpoints kept, besides the best one")
    background_saves: bool = _setting(True, "write checkpoints while training goes on, from a copy")
    max_bad_steps: int = _setting(5, "as many bad steps in a row (not finite, spikes) end the run")
    hang_seconds: float = _setting(60.0, "a process that is stopped for so long is given up")
    eval_pairs: int = _setting(4096, "validation pairs for the loss; 0: all")
    eval_answers: int = _setting(256, "validation pairs answered for BLEU; 0: none")
    max_new_tokens: int = _setting(256, "longest answer in evaluation")
    history_turns: int = _setting(
        -1, "earlier turns that chat puts before a question; -1: as many as the training pairs have"
    )
    vocab_size: int = _setting(29298, "entries of a tokenizer that has to be trained first")
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: every contradiction, in one message.
        """
        checks = [
            (self.preset in ("auto", *PRESETS), f"preset={self.preset}: {', '.join(PRESETS)}"),
            (self.optimizer in OPTIMIZERS, f"optimizer must be one of {', '.join(OPTIMIZERS)}"),
            (self.schedule in SCHEDULES, f"schedule must be one of {', '.join(SCHEDULES)}"),
            (self.precision in ("auto", "fp32", "bf16"), "precision must be auto, fp32 or bf16"),
            (self.device in ("auto", "cpu", "cuda"), "device must be auto, cpu or cuda"),
            (
                self.attention in ATTENTIONS,
                f"attention must be one of {', '.join(ATTENTIONS)}",
            ),
            (self.epochs > 0 or self.max_steps > 0, "epochs or max_steps must be above 0"),
            (self.batch_size > 0, "batch_size must be above 0"),
            (
                min(self.learning_rate, self.embedding_learning_rate) > 0,
                "learning_rate and embedding_learning_rate must be above 0",
            ),
            (0 < self.decay_share <= 1, "decay_share must be in (0, 1]"),
            (0 <= self.warmup_share < 1, "warmup_share must be in [0, 1)"),
            (0 <= self.final_rate_share <= 1, "final_rate_share must be in [0, 1]"),
            (self.clip_norm >= 0, "clip_norm must not be negative"),
            (min(self.max_source_tokens, self.max_target_tokens) >= 2, "token limits start at 2"),
            (
                self.microbatch_tokens >= self.max_source_tokens + self.max_target_tokens,
                "microbatch_tokens must hold one longest pair "
                f"({self.max_source_tokens + self.max_target_tokens} positions)",
            ),
            (
                self.gradient_shares in (0, 1, 2, 4, 8, 16, 32, 64),
                "gradient_shares must be 0 or a power of two up to 64",
            ),
            (
                self.keep_checkpoints >= 2,
                "keep_checkpoints must be at least 2: one may get damaged",
            ),
            (self.history_turns >= -1, "history_turns must be at least -1"),
            (self.max_bad_steps >= 1, "max_bad_steps must be at least 1"),
            (self.hang_seconds >= 5, "hang_seconds must be at least 5"),
            (
                self.resume or not self.accept_changes,
                "accept_changes=True needs resume=True: a new run has nothing to compare with",
            ),
            (
                not (self.deterministic and self.attention == "flex"),
                "deterministic=True does not go with attention=flex: leave out attention",
            ),
            (
                min(self.log_every_steps, self.eval_every_steps, self.save_every_steps) >= 1,
                "log_every_steps, eval_every_steps and save_every_steps must be at least 1",
            ),
            (
                self.freeze in ("auto", "none")
                or all(part in FREEZABLE for part in self.freeze.split(",")),
                f"freeze={self.freeze}: none, or a comma-separated choice of {','.join(FREEZABLE)}",
            ),
            (self.lora.rank >= 0, "lora.rank must not be negative"),
            (
                self.lora.rank > 0 or self.quantize == "none",
                "quantize= needs adapters (lora.rank above 0): weights in 4 bits cannot move",
            ),
            (self.lora.alpha >= 0, "lora.alpha must not be negative"),
            (0 <= self.lora.dropout < 1, "lora.dropout must be in [0, 1)"),
            (self.lora.kl >= 0, "lora.kl must not be negative"),
            (
                0 < self.replay.share < 1,
                "replay.share must be between 0 and 1; for no replay leave out replay.data",
            ),
            (self.max_forgetting >= 0, "max_forgetting must not be negative"),
            (self.quantize in ("none", "nf4"), "quantize must be none or nf4"),
            (self.per_device_batch_size >= 0, "per_device_batch_size must not be negative"),
            (
                self.finetune or not self.base,
                "base= needs finetune=True: it goes on from weights that are there",
            ),
            (
                not (self.base and self.init_from),
                "base= and init_from= name two models to start from: leave out one",
            ),
            (
                bool(self.base) or not (self.quantize != "none" or self.gradient_checkpointing),
                "quantize= and gradient_checkpointing= have an effect with base= only",
            ),
            (
                self.finetune or not self.init_from,
                "init_from= needs finetune=True: training starts from random weights",
            ),
        ]
        problems = [message for holds, message in checks if not holds]
        # What a run is resumed with alone is not all: the rest stands in its own settings.
        problems += [] if self.resume and not self.base else self.guard_problems()
        if problems:
            raise ConfigError("; ".join(problems))

    def guard_problems(self) -> list[str]:
        """Returns why the settings against forgetting cannot take effect."""
        has_adapters = bool(self.base) and self.lora.rank > 0
        missing = "needs base= and adapters (lora.rank above 0): without them there is no base"
        found = []
        if self.lora.kl and not has_adapters:
            found.append(f"lora.kl= {missing} beside the model")
        if self.max_forgetting and not has_adapters:
            found.append(f"max_forgetting= {missing} to compare with")
        if self.replay.data and not self.base:
            found.append("replay.data= has an effect with base= only")
        if self.max_forgetting and self.eval_every_steps % max(1, self.save_every_steps):
            found.append(
                "max_forgetting= needs a checkpoint of every step that is judged, or there is none "
                "to go back to: make eval_every_steps a multiple of save_every_steps"
            )
        return found

    @property
    def scales_rates(self) -> bool:
        """Whether the rate of a tensor follows its root mean square."""
        return self.optimizer == "adamw" and self.rms_scaled

    def frozen_parts(self) -> tuple[str, ...]:
        """Returns the parts of the model whose weights do not move."""
        if self.base:
            return ()  # the whole base stays as it is
        if self.freeze == "auto":
            return ("embedding", "encoder") if self.finetune else ()
        return () if self.freeze == "none" else tuple(self.freeze.split(","))


# What each preset sets; a key given by the user always wins. The table's rate was best at 0.4 for a
# width of 128 and is taken to fall with the square root of the width, as nanochat does.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "starter": {
        "vocab_size": 4000,
        "model.d_model": 128,
        "model.d_kv": 32,
        "model.d_ff": 384,
        "model.num_heads": 4,
        "model.num_layers": 2,
        "model.num_decoder_layers": 2,
        "model.feed_forward_proj": "gated-gelu",
        # Facts to be learned by heart from few phrasings: Muon answers new ones worse (LOG.md).
        "optimizer": "adamw",
        "learning_rate": 2e-2,
        "max_steps": 1800,
        "batch_size": 128,
        "max_source_tokens": 64,
        "max_target_tokens": 96,
        "max_new_tokens": 96,
        "eval_every_steps": 600,
        "save_every_steps": 600,
        "log_every_steps": 20,
    },
    "small": {
        "vocab_size": 12000,
        "model.d_model": 256,
        "model.d_kv": 64,
        "model.d_ff": 1024,
        "model.num_heads": 4,
        "model.num_layers": 3,
        "model.num_decoder_layers": 3,
        "model.feed_forward_proj": "gated-gelu",
        "embedding_learning_rate": 0.3,
        "epochs": 2.0,
        "batch_size": 64,
        "microbatch_tokens": 8192,
    },
    "base": {},
}

# A fine-tuning takes smaller steps than a training from random weights, and fewer of them.
_GENTLE: Mapping[str, Any] = {"optimizer": "adamw", "learning_rate": 5e-3}
FINETUNE: Mapping[str, Mapping[str, Any]] = {
    "starter": {**_GENTLE, "max_steps": 0, "epochs": 4.0, "batch_size": 32},
    "small": {**_GENTLE, "epochs": 2.0},
    "base": {**_GENTLE, "epochs": 2.0},
}

# Adapters begin at zero and are few: a fixed small rate, as everybody takes it.
ADAPTERS: Mapping[str, Any] = {
    "optimizer": "adamw",
    "rms_scaled": False,
    "learning_rate": 1e-4,
    "epochs": 2.0,
    "batch_size": 32,
    "eval_answers": 64,
}
