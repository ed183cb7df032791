"""A conversation as one prompt, in the form that training data and chat share.

In: the turns so far and the new question. Out: the text that the model is asked to answer, the way
back from such a text to its turns, and the rule that makes it fit. Texts cannot forge turns: a line
that looks like the beginning of one is set off by a space. It knows neither files nor a tokenizer;
tokens are counted by whoever calls.

    chat      prompt_for(turns, question) -> fit -> encode, cut at the end, EOS
    training  convert: prompt_for -> parquet -> token store: fit -> encode, cut at the end, EOS
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from chatlm.corpus.normalize import normalize

USER = "用户："
ASSISTANT = "助手："

Turn: TypeAlias = tuple[str, str]
"""What the user said, and what was answered."""
CountTokens: TypeAlias = Callable[[list[str]], Sequence[int]]
"""Returns how many tokens each text has, without EOS."""

_MARK = re.compile(f"\n({USER}|{ASSISTANT})")
_LOOKS_LIKE_MARK = re.compile(f"\n(?= *(?:{USER}|{ASSISTANT}))")
_SET_OFF = re.compile(f"\n (?= *(?:{USER}|{ASSISTANT}))")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that fits, or is a single question.

    Attributes:
        text: What to encode. If it is too long it is one question, to be cut at its end.
        num_turns: The earlier turns in it.
        num_dropped: The older ones that had to go.
    """

    text: str
    num_turns: int
    num_dropped: int


def render(turns: Sequence[Turn], question: str) -> str:
    """Returns the prompt for `question` after `turns`.

    Without a history the prompt is the bare question, so that single questions look the same in
    training and in chat. In a conversation, and in a question that would pass for one, a line that
    begins like a turn gets a space in front, and so does one that begins with spaces and then like
    a turn: `turns_of` finds the turns that went in, whatever their texts are.
    """
    if not turns:
        return _set_off(question) if _passes_for_rendered(question) else question
    return "".join(parts_of(turns, question))


def prompt_for(turns: Sequence[Turn], question: str) -> str:
    """Returns the prompt for `question` after `turns` as the training data has it: normalised.

    The texts are normalised before they are rendered, because removing an invisible character can
    make the beginning of a turn, and the whole afterwards, as the pipeline does with every prompt.
    """
    clean = [(normalize(user), normalize(answer)) for user, answer in turns]
    return normalize(render(clean, normalize(question)))


def turns_of(prompt: str) -> tuple[list[Turn], str]:
    """Returns the turns and the question of a rendered prompt.

    A prompt that is no conversation, with at least one turn before the question, is itself the
    question.
    """
    if not _passes_for_rendered(prompt):
        return [], prompt
    marks_and_texts = _MARK.split(f"\n{prompt}")[1:]
    marks, texts = marks_and_texts[::2], marks_and_texts[1::2]
    if len(marks) < 4 or marks != [USER, ASSISTANT] * (len(marks) // 2):
        return [], prompt
    *said, question, _ = (_SET_OFF.sub("\n", text) for text in texts)
    return list(zip(said[::2], said[1::2], strict=True)), question


def fit(prompt: str, count_tokens: CountTokens, max_tokens: int) -> Fitted:
    """Returns `prompt` without its oldest turns, as few as possible, so that the rest fits.

    Turns go as a whole. With a tokenizer of ours no token crosses a line end, so that the tokens of
    the turns add up and the most turns that fit are kept; with another one it may be a turn less.

    Args:
        prompt: From `prompt_for`, or of the training data.
        count_tokens: Counts texts.
        max_tokens: The most that fit, without EOS: `max_source_tokens - 1`.
    """
    turns, question = turns_of(prompt)
    if not turns or count_tokens([prompt])[0] <= max_tokens:
        return Fitted(prompt, len(turns), 0)
    num_kept = num_fitting(count_tokens(parts_of(turns, question)), max_tokens)
    # A foreign tokenizer may need more tokens for the whole than for its parts.
    while num_kept:
        text = render(turns[-num_kept:], question)
        if count_tokens([text])[0] <= max_tokens:
            return Fitted(text, num_kept, len(turns) - num_kept)
        num_kept -= 1
    return Fitted(render([], question), 0, len(turns))


def parts_of(turns: Sequence[Turn], question: str) -> list[str]:
    """Returns the texts that `render` puts together: one for each turn, and the question's."""
    past = [f"{USER}{_set_off(user)}\n{ASSISTANT}{_set_off(said)}\n" for user, said in turns]
    return [*past, f"{USER}{_set_off(question)}\n{ASSISTANT}"]


def num_fitting(part_tokens: Sequence[int], max_tokens: int) -> int:
    """Returns how many of the latest turns fit before the question if the tokens of parts add up.

    Args:
        part_tokens: Of the parts of `parts_of`.
        max_tokens: See `fit`.
    """
    used, num_kept = 0, -1
    for tokens in reversed(part_tokens):
        used += tokens
        if used > max_tokens:
            break
        num_kept += 1
    return max(0, num_kept)


def opening(prompt: str) -> str:
    """Returns the first question of a rendered conversation, or `prompt` itself if it is not one.

    All turns of one conversation repeat its beginning; whoever keeps related prompts together
    (the split) groups them by this text.
    """
    if not _passes_for_rendered(prompt):
        return prompt
    return prompt[len(USER) :].split(f"\n{ASSISTANT}", 1)[0]


def _passes_for_rendered(text: str) -> bool:
    return text.startswith(USER) and text.endswith(f"\n{ASSISTANT}")


def _set_off(text: str) -> str:
    return _LOOKS_LIKE_MARK.sub("\n ", text)
