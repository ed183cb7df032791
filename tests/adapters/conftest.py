"""Tokenizers and small models of others, made for the tests."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.adapters import small

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["Instruction: 三原色是什么？\nAnswer: 红、绿、蓝。", "user assistant system hello world"]


@pytest.fixture(scope="session")
def make_tokenizer():
    """Return a function that makes a byte-level BPE, with a chat template or without."""
    from transformers import PreTrainedTokenizerFast

    def make(template=CHATML, eos_token="<|end|>", bos_token=None, texts=TEXTS):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        special = ["<|end|>", "<|im_start|>", "<|im_end|>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(texts * 5, trainer)
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token=eos_token,
            bos_token=bos_token,
            extra_special_tokens=special[1:],
            chat_template=template,
        )

    return make


@pytest.fixture(scope="session")
def bases(tmp_path_factory, make_tokenizer):
    """Return a GPT-2 and a T5 without a chat template, which no test changes, by kind."""
    tokenizer = make_tokenizer(template=None, texts=small.TEXTS)
    return small.bases(tmp_path_factory.mktemp("bases"), tokenizer, ("causal", "seq2seq"))


@pytest.fixture(scope="session")
def base(bases):
    """Return the GPT-2 of them."""
    return bases["causal"]
