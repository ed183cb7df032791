"""A ChatGLM of two layers and random weights, in a folder as `base=` takes it."""

from pathlib import Path
from typing import Any

from tests.glm.small import SMALL, write_folder


def write(folder: Path, **fields: Any) -> Path:
    """Writes config, safetensors and a trained vocabulary; the table has rows that no token has."""
    import torch

    from chatlm import glm
    from chatlm.adapters.forms import open_form
    from chatlm.glm.configuration import ChatGLMConfig
    from chatlm.glm.modeling import ChatGLMForConditionalGeneration

    glm.register()
    folder.parent.mkdir(parents=True, exist_ok=True)
    form = open_form(str(write_folder(folder)))
    names = [f"{name}_token_id" for name in ("bos", "eos", "mask", "gmask", "pad")]
    ids = {name: getattr(form.tokenizer, name) for name in names}
    size = {"vocab_size": form.vocab_size + 6, "num_used_ids": form.vocab_size, "num_layers": 2}
    torch.manual_seed(0)
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**{**SMALL, **ids, **size, **fields}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                # As published, attention is a small part of what goes on; adapters move it alone.
                scale = 0.5 if "attention" in name else 0.3 if name == "lm_head.weight" else 0.15
                parameter.copy_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
