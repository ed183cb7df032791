"""Models of others, tiny and of random weights, and adapters on them: folders, as they are opened.

Bases are a GPT-2 ("causal"), a T5 ("seq2seq"), a Llama and a ChatGLM; adapters are as peft itself
writes them, lively enough to matter.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXTS = ["Instruction: 一加二等于？\nAnswer: 三。", "三原色是什么？红绿蓝。"]
KINDS = ("causal", "seq2seq", "chatglm")


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bases(folder: Path, tokenizer: Any, kinds: Sequence[str] = KINDS) -> dict[str, Path]:
    """Writes a base of each kind; a ChatGLM has a tokenizer of its own."""
    made = {"causal": causal, "seq2seq": seq2seq, "llama": llama}
    return {
        kind: made[kind](folder / kind, tokenizer) if kind in made else chatglm(folder / kind)
        for kind in kinds
    }


def gpt2(vocab_size: int, **fields: Any) -> Any:
    """Returns a GPT-2 of two layers."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(**{"vocab_size": vocab_size, **shape, **still, **fields})
    return GPT2LMHeadModel(config).eval()


def causal(folder: Path, tokenizer: Any) -> Path:
    """Writes a GPT-2 whose vocabulary is larger than the tokenizer's."""
    return save(gpt2(len(tokenizer) + 3), tokenizer, folder)


def seq2seq(folder: Path, tokenizer: Any) -> Path:
    """Writes a T5 of one layer on either side."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer) + 3,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
    )
    config.decoder_start_token_id = 0
    return save(T5ForConditionalGeneration(config).eval(), tokenizer, folder)


def llama(folder: Path, tokenizer: Any) -> Path:
    """Writes a Llama with rotary positions and fewer heads for keys than for queries."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return save(LlamaForCausalLM(config).eval(), tokenizer, folder)


def fresh_chatglm(form: Any, **fields: Any) -> Any:
    """Returns a ChatGLM of two layers for a form, its weights as they are made."""
    import torch

    from chatlm.glm.configuration import ChatGLMConfig
    from chatlm.glm.modeling import ChatGLMForConditionalGeneration
    from tests.glm.small import SMALL

    names = [f"{name}_token_id" for name in ("bos", "eos", "mask", "gmask", "pad")]
    ids = {name: getattr(form.tokenizer, name) for name in names}
    size = {"vocab_size": form.vocab_size, "num_used_ids": form.vocab_size, "num_layers": 2}
    torch.manual_seed(0)
    return ChatGLMForConditionalGeneration(ChatGLMConfig(**{**SMALL, **ids, **size, **fields}))


def chatglm(folder: Path) -> Path:
    """Writes a ChatGLM with a trained vocabulary; its table has rows that no token has."""
    import torch

    from chatlm.adapters.forms import open_form
    from tests.glm.small import write_folder

    folder.parent.mkdir(parents=True, exist_ok=True)
    form = open_form(str(write_folder(folder)))
    model = fresh_chatglm(form, vocab_size=form.vocab_size + 6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                # As published, attention is a small part of what goes on; adapters move it alone.
                scale = 0.5 if "attention" in name else 0.3 if name == "lm_head.weight" else 0.15
                parameter.copy_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def tuned(
    base: Path,
    *,
    kl: float = 0.0,
    moved: bool = True,
    dropout: float = 0.0,
    base_dropout: float = 0.0,
    checkpointing: bool = False,
) -> Any:
    """Returns a `LanguageModel` in training whose adapters do something, or nothing yet."""
    import torch

    from chatlm.adapters.base import Hold, open_base
    from chatlm.adapters.language_model import LanguageModel
    from chatlm.adapters.lora import with_adapters
    from chatlm.config import LoraSettings

    inner = open_base(str(base), Hold(torch.device("cpu"), checkpointing=checkpointing))
    for module in inner.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = base_dropout
    torch.manual_seed(1)
    inner = with_adapters(inner, LoraSettings(rank=4, dropout=dropout))
    if checkpointing:
        inner.enable_input_require_grads()
    model = LanguageModel(inner, pad_id=0, kl=kl).train()
    with torch.no_grad():
        for name, parameter in model.saved():
            if moved and "lora_B" in name:
                parameter.normal_(0, 0.3)
    return model


def adapters(folder: Path, base: Path, scale: float = 0.2, **settings: Any) -> Path:
    """Writes adapters on a base: random ones of this standard deviation, none of them zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    from chatlm.adapters.base import Hold, open_base

    model = open_base(str(base), Hold(torch.device("cpu")))
    task = "SEQ_2_SEQ_LM" if model.config.model_type == "t5" else "CAUSAL_LM"
    made = get_peft_model(model, LoraConfig(**{"r": 4, "task_type": task, **settings}))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale)
    made.save_pretrained(str(folder))
    return folder
