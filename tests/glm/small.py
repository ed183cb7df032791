"""Small models of ChatGLM's form, and folders as they are published."""

import json

import torch

from chatlm.glm.configuration import ChatGLMConfig
from chatlm.glm.modeling import ChatGLMForConditionalGeneration
from tests.glm.vocabulary import trained

PUBLISHED_CONFIG = {
    "_name_or_path": "THUDM/chatglm-6b",
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "pad_token_id": 3,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048,
    "model_type": "chatglm",
    "num_attention_heads": 32,
    "num_layers": 28,
    "position_encoding_2d": True,
    "torch_dtype": "float16",
    "transformers_version": "4.23.1",
    "use_cache": True,
    "vocab_size": 130528,
}
TOKENIZER_CONFIG = {
    "name_or_path": "THUDM/chatglm-6b",
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "end_token": "</s>",
    "gmask_token": "[gMASK]",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "num_image_tokens": 0,
    "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
}
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "inner_hidden_size": 48,
    "num_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 3,
    "mask_token_id": 57,
    "gmask_token_id": 58,
    "bos_token_id": 60,
    "eos_token_id": 61,
    "num_used_ids": 62,
}


def small_config(**fields):
    """Return a small config, with any field overridden."""
    return ChatGLMConfig(**{**SMALL, **fields})


def small_model(seed=0, **fields):
    """Return a small model whose every weight matters, in eval mode."""
    torch.manual_seed(seed)
    model = ChatGLMForConditionalGeneration(small_config(**fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1
            parameter.copy_(torch.randn_like(parameter) * (0.1 if is_norm else 0.15))
            if "layernorm.weight" in name:
                parameter.add_(1)
    return model.eval()


def write_folder(folder, config=None, tokenizer=None, model=None):
    """Write the files of a folder as it is published, without weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or PUBLISHED_CONFIG))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer or TOKENIZER_CONFIG))
    (folder / "ice_text.model").write_bytes(model or trained())
    return folder
