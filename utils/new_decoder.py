"""Makes a small Llama of random weights, as a folder that `train.py finetune=True base=` takes.

In: a tokenizer of `utils.train_tokenizer` (or any other folder that transformers reads), a shape.
Out: config.json, model.safetensors and the tokenizer. With `lora.rank=0` all its weights are
trained from scratch on pairs; afterwards adapters can be put on it, as on any other model.

    python -m utils.new_decoder tokenizer=data/tokenizer out=out/decoder
    accelerate launch train.py finetune=True base=out/decoder lora.rank=0 learning_rate=1e-3
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatlm import cli
from chatlm.errors import ConfigError


@dataclass(frozen=True)
class DecoderConfig:
    """Settings of `python -m utils.new_decoder`."""

    tokenizer: str = field(default="data/tokenizer", metadata={"help": "folder of the tokenizer"})
    out: str = field(default="out/decoder", metadata={"help": "folder to write"})
    hidden_size: int = field(default=320, metadata={"help": "width"})
    num_layers: int = field(default=6, metadata={"help": "depth"})
    num_heads: int = field(default=5, metadata={"help": "of the attention"})
    intermediate_size: int = field(
        default=0, metadata={"help": "of the feed-forward; 0: 8/3 of hidden_size"}
    )
    max_tokens: int = field(default=2048, metadata={"help": "longest sequence"})
    seed: int = field(default=42, metadata={"help": "of the weights"})

    def __post_init__(self) -> None:
        """Refuses shapes that cannot be.

        Raises:
            ConfigError: with what is allowed.
        """
        numbers = (self.hidden_size, self.num_layers, self.num_heads, self.max_tokens)
        if min(numbers) < 1 or self.intermediate_size < 0:
            raise ConfigError("hidden_size, num_layers, num_heads and max_tokens start at 1")
        if self.hidden_size % (2 * self.num_heads):
            raise ConfigError(
                f"hidden_size={self.hidden_size} must be an even multiple of num_heads="
                f"{self.num_heads}"
            )


def make(config: DecoderConfig) -> dict[str, object]:
    """Writes the folder; returns figures on it.

    Raises:
        CheckpointError: the tokenizer cannot be loaded.
        ConfigError: `out` is taken.
    """
    from chatlm.adapters.forms import open_form
    from chatlm.export import folder

    out = Path(config.out)
    folder.require_free(out)
    form = open_form(config.tokenizer)

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=form.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size or _gated(config.hidden_size),
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=config.max_tokens,
        tie_word_embeddings=True,
        pad_token_id=form.pad_id,
        bos_token_id=None,
        eos_token_id=form.end_ids[-1],
    )
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(shape)
    size = sum(p.numel() for p in model.parameters())
    with folder.written(out, 4 * size) as part:
        model.save_pretrained(part)
        form.tokenizer.save_pretrained(part)
    return {"saved": config.out, "weights": size, "vocab_size": form.vocab_size}


def _gated(hidden_size: int) -> int:
    """Returns 8/3 of a width, rounded up to a multiple of 16."""
    return -(-hidden_size * 8 // 3 // 16) * 16


def main(argv: Sequence[str]) -> int:
    """Makes the folder and reports."""
    if any(token in ("-h", "--help", "help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(DecoderConfig)}")
        return 0
    print(json.dumps(make(cli.parse(argv, DecoderConfig)), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    cli.run(main)
