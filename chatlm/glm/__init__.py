"""ChatGLM-6B without its remote code: a model and a tokenizer that `transformers` finds by itself.

In: nothing. Out: `register()`, after which `AutoConfig`, `AutoModel`, `AutoModelForCausalLM` and
`AutoTokenizer` open a folder of ChatGLM-6B with the classes of this room. The Python files of such
a folder are never run, whatever `trust_remote_code` says. Of the family only the first model is
here: ChatGLM2 and 3 are other architectures, and are refused.
"""


def register() -> None:
    """Makes the Auto classes of `transformers` use this room; calling it again changes nothing."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.models.auto import tokenization_auto

    from chatlm.glm.configuration import ChatGLMConfig
    from chatlm.glm.modeling import ChatGLMForConditionalGeneration
    from chatlm.glm.tokenization import ChatGLMTokenizer

    AutoConfig.register(ChatGLMConfig.model_type, ChatGLMConfig, exist_ok=True)
    # The published folder names its one class under all of these.
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        auto.register(ChatGLMConfig, ChatGLMForConditionalGeneration, exist_ok=True)
    # By its name alone, and not with `AutoTokenizer.register(ChatGLMConfig, ...)`: a class that is
    # known by its config loses to a folder's own code when trust_remote_code is True.
    tokenization_auto.REGISTERED_TOKENIZER_CLASSES["ChatGLMTokenizer"] = ChatGLMTokenizer
