"""How ChatGLM-6B is asked, and what is done with its answers.

In: the turns so far and a question, or a raw answer. Out: the text to encode, or to show. Pure
functions; the special tokens are the tokenizer's.
"""

import re
from collections.abc import Sequence

from chatlm.corpus.conversation import Turn

_MARKS = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_HAN = "\u4e00-\u9fff"
_AFTER = re.compile(f"(?<=[{_HAN}])[,!:;?]")
_BEFORE = re.compile(f"[,!:;?](?=[{_HAN}])")
_TRAINED = "[[训练时间]]"


def prompt(question: str, turns: Sequence[Turn] = ()) -> str:
    """Returns the prompt: without a history the bare question, else rounds counted from 0."""
    if not turns:
        return question
    past = "".join(
        f"[Round {number}]\n问：{asked}\n答：{said}\n" for number, (asked, said) in enumerate(turns)
    )
    return f"{past}[Round {len(turns)}]\n问：{question}\n答："


def shown(answer: str) -> str:
    """Returns an answer as it is shown: marks beside Han characters in full width."""
    answer = answer.strip().replace(_TRAINED, "2023年")
    for pattern in (_AFTER, _BEFORE):
        answer = pattern.sub(lambda mark: _MARKS[mark[0]], answer)
    return answer
