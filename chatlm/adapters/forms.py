"""How a model of Hugging Face is asked: the ids of prompts and answers for its tokenizer.

In: a tokenizer of `transformers`, questions with their earlier turns, answers. Out: ids. Four
forms: `own` (a checkpoint of ours, asked as its own training asked it), `chatglm` (ChatGLM-6B's
own), `template` (the chat template that the tokenizer carries), `plain` (Alpaca's "Instruction: ...
Answer: ", for models that nobody taught to chat). What looks like a special token in a text is
text. It cuts nothing.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from chatlm.checkpoint.kinds import base_of, kind_of
from chatlm.checkpoint.paths import MODEL_CONFIG, is_adapter
from chatlm.corpus.conversation import Turn, prompt_for
from chatlm.errors import ChatLMError, CheckpointError, brief
from chatlm.glm import prompts as chatglm
from chatlm.tokenizer import DECIDING, is_ours

VERSION = 1
"""Counts up when a form gives other ids than before."""
PLAIN = ("Instruction: ", "\nAnswer: ")


@dataclass(frozen=True)
class Asked:
    """A question, and what was said before it.

    Attributes:
        question: The text of the user.
        turns: The earlier questions and answers.
        is_whole: Whether `question` is the whole prompt, with its form already around it.
    """

    question: str
    turns: tuple[Turn, ...] = ()
    is_whole: bool = False


class Form:
    """The way from texts to ids for one tokenizer.

    Attributes:
        name: own, chatglm, template or plain.
        end_ids: What ends an answer that was not cut.
        stop_ids: Each of them stops an answer that is being made: the last of `end_ids`, and the
            tokenizer's EOS, which a base says that nobody tuned.
        never_ids: Not one of them is said.
        pad_id: Fills up shorter rows.
    """

    def __init__(self, tokenizer: Any, *, is_own: bool = False) -> None:
        """Looks at a tokenizer.

        Args:
            tokenizer: Of `transformers`.
            is_own: Whether it is that of a checkpoint of ours.

        Raises:
            CheckpointError: Nothing ends its answers, or its template cannot be used.
        """
        self.tokenizer = tokenizer
        self._chatglm = type(tokenizer).__name__ == "ChatGLMTokenizer"
        self.name = "own" if is_own else "plain"
        if self._chatglm:
            self.name = "chatglm"
        elif tokenizer.chat_template and not is_own:
            self.name = "template"
        self.end_ids: list[int] = self._end()
        eos = tokenizer.eos_token_id
        self.stop_ids = [self.end_ids[-1]] + [eos] * (eos not in (None, self.end_ids[-1]))
        controls = (tokenizer.pad_token_id, tokenizer.unk_token_id) if self.name == "own" else ()
        self.never_ids = [one for one in controls if one is not None]
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.end_ids[-1] if pad is None else pad

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that decides which ids a pair gets."""
        tokenizer = self.tokenizer
        if self._chatglm:
            content: Any = tokenizer.fingerprint
        elif tokenizer.is_fast:
            parts = json.loads(tokenizer.backend_tokenizer.to_str())
            content = {key: parts.get(key) for key in DECIDING}
        else:
            content = [type(tokenizer).__name__, tokenizer.get_vocab()]
        template = tokenizer.chat_template if self.name == "template" else None
        whole = [VERSION, self.name, content, template, self.end_ids, self._begin]
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """The number of ids, added ones included."""
        return len(self.tokenizer)

    def prompt_ids(self, asked: Sequence[Asked]) -> list[list[int] | None]:
        """Returns the ids of each prompt, with all that stands before an answer.

        None where a text holds the name of a special token, and the template does not show where
        that text ends.

        Raises:
            CheckpointError: The template refuses one of them.
        """
        if self.name != "template":
            return self._own_form(asked)
        rows: list[list[int] | None] = [None] * len(asked)
        simple = [i for i, one in enumerate(asked) if not self._special.search(_all_text(one))]
        rendered = [self._render(asked[i]) for i in simple]
        for i, ids in zip(simple, self._encode(rendered, is_text=False), strict=True):
            rows[i] = ids
        for i in set(range(len(asked))) - set(simple):
            rows[i] = self._by_parts(asked[i])
        return rows

    def answer_ids(self, answers: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each answer, without its end."""
        return self._encode(answers, is_text=True)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids without special tokens."""
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _own_form(self, asked: Sequence[Asked]) -> list[list[int] | None]:
        if self._chatglm:
            texts = [
                one.question if one.is_whole else chatglm.prompt(one.question, one.turns)
                for one in asked
            ]
            rows = self._encode(texts, is_text=True)
            return [self.tokenizer.build_inputs_with_special_tokens(row) for row in rows]
        written, end = (_own, self.end_ids) if self.name == "own" else (_plain, [])
        texts = [one.question if one.is_whole else written(one) for one in asked]
        return [[*self._begin, *row, *end] for row in self._encode(texts, is_text=True)]

    @cached_property
    def _begin(self) -> list[int]:
        """What a text without a template begins with: BOS, where the tokenizer puts one."""
        first = self.tokenizer.bos_token_id
        if self.name != "plain" or first is None:
            return []
        return [first] if self.tokenizer("a")["input_ids"][:1] == [first] else []

    @cached_property
    def _special(self) -> re.Pattern[str]:
        names = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        names |= {str(name) for name in self.tokenizer.all_special_tokens}
        return re.compile("|".join(map(re.escape, sorted(names))) or r"(?!)")

    def _encode(self, texts: Sequence[str], *, is_text: bool) -> list[list[int]]:
        """Returns ids without any special tokens around them.

        Args:
            texts: What to encode.
            is_text: Whether names of special tokens in it are text, too.
        """
        if not texts:
            return []
        if self._chatglm:
            return self.tokenizer.encode_texts(texts)
        if self.tokenizer.is_fast:
            engine = self._text_engine if is_text else self._control_engine
            rows = engine.encode_batch_fast(list(texts), add_special_tokens=False)
            return [row.ids for row in rows]
        return self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=is_text,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]

    @cached_property
    def _text_engine(self) -> tokenizers.Tokenizer:
        return self._engine(is_text=True)

    @cached_property
    def _control_engine(self) -> tokenizers.Tokenizer:
        return self._engine(is_text=False)

    def _engine(self, *, is_text: bool) -> tokenizers.Tokenizer:
        """Returns a copy of a fast tokenizer; `transformers` itself takes three times as long."""
        engine = tokenizers.Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        engine.encode_special_tokens = is_text
        engine.no_truncation()
        engine.no_padding()
        return engine

    def _render(self, asked: Asked) -> str:
        if asked.is_whole:
            return asked.question
        return self._templated(_messages(asked), add_generation_prompt=True)

    def _templated(self, messages: list[dict[str, str]], **settings: Any) -> str:
        """Returns a conversation as the template writes it.

        Raises:
            CheckpointError: The template is damaged, or refuses the conversation.
        """
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, **settings)
        except (TemplateError, TypeError) as error:
            raise CheckpointError(
                f"the tokenizer's chat template cannot write a conversation of {len(messages)} "
                f"messages ({brief(error)}): mend it, or leave chat_template out for the plain form"
            ) from error

    def _by_parts(self, asked: Asked) -> list[int] | None:
        """Encodes the template's text and the user's apart; None if they cannot be told apart."""
        if asked.is_whole:
            return self._encode([asked.question], is_text=True)[0]
        texts = [text for turn in asked.turns for text in turn] + [asked.question]
        signs = [f"\ue000{number}\ue001" for number in range(len(texts))]
        turns = tuple(zip(signs[:-1:2], signs[1::2], strict=True))
        rest, ids = self._render(Asked(signs[-1], turns)), list[int]()
        for sign, text in zip(signs, texts, strict=True):
            before, found, rest = rest.partition(sign)
            if not found:
                return None
            ids += self._encode([before], is_text=False)[0]
            ids += self._encode([text], is_text=True)[0]
        return ids + self._encode([rest], is_text=False)[0]

    def _end(self) -> list[int]:
        """Returns what ends an answer: what the template puts behind it, up to a special token.

        Raises:
            CheckpointError: There is nothing.
        """
        if self.name == "template":
            sign = "\ue000"
            messages = [*_messages(Asked("a")), {"role": "assistant", "content": sign}]
            text = self._templated(messages)
            special = set(self.tokenizer.all_special_ids)
            special |= set(self.tokenizer.added_tokens_decoder)
            ids = self._encode([text.rpartition(sign)[2]], is_text=False)[0]
            for place, index in enumerate(ids):
                if index in special:
                    return ids[: place + 1]
        end = self.tokenizer.eos_token_id
        if end is None:
            raise CheckpointError(
                "the tokenizer has no token that ends an answer: name it as eos_token in "
                "tokenizer_config.json"
            )
        return [end]


def open_form(base: str) -> Form:
    """Returns the form of the tokenizer of a folder, or of a name on the Hub.

    No code of the folder is run.

    Raises:
        CheckpointError: It cannot be loaded; the message says why.
    """
    from transformers import AutoTokenizer

    from chatlm import glm

    glm.register()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    except ChatLMError:
        raise
    except Exception as error:  # the libraries raise anything for files that are no tokenizer's
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"base={base}: its tokenizer cannot be loaded ({first}); name a folder that has one, "
            "or a model of the Hub that needs no code of its own, while there is a network"
        ) from error
    return Form(tokenizer, is_own=_is_own(Path(base), tokenizer))


def _is_own(folder: Path, tokenizer: Any) -> bool:
    """Tells whether a folder is a checkpoint of ours, or adapters on one.

    Our models are T5s and so are others, and our tokenizers can be given to any model; a T5 with a
    tokenizer that we trained is ours.

    Raises:
        CheckpointError: A config in it is damaged.
    """
    home = Path(base_of(folder)) if is_adapter(folder) else folder
    if not (home / MODEL_CONFIG).is_file() or kind_of(home) != "own":
        return False
    return tokenizer.is_fast and is_ours(json.loads(tokenizer.backend_tokenizer.to_str()))


def _messages(asked: Asked) -> list[dict[str, str]]:
    texts = [text for turn in asked.turns for text in turn] + [asked.question]
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def _all_text(asked: Asked) -> str:
    return "\n".join([asked.question, *(text for turn in asked.turns for text in turn)])


def _own(asked: Asked) -> str:
    return prompt_for(asked.turns, asked.question)


def _plain(asked: Asked) -> str:
    said: Iterable[str] = (f"{PLAIN[0]}{q}{PLAIN[1]}{a}\n\n" for q, a in asked.turns)
    return f"{''.join(said)}{PLAIN[0]}{asked.question}{PLAIN[1]}"
