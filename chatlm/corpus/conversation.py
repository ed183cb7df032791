"""A conversation as one prompt, in the form that training data and chat share.

In: the turns so far and the new question. Out: the text that the model is asked to answer. It
imports nothing, so that chat can use it without the corpus rooms, and it does not cut: how many
turns fit is known only where tokens are counted.
"""

from collections.abc import Sequence

USER = "用户："
ASSISTANT = "助手："


def render(turns: Sequence[tuple[str, str]], question: str) -> str:
    """Returns the prompt for `question` after `turns` of (user, assistant).

    Without a history the prompt is the bare question, so that single questions, which are nearly
    all of the training data, look the same in training and in chat.
    """
    if not turns:
        return question
    past = "".join(f"{USER}{user}\n{ASSISTANT}{answer}\n" for user, answer in turns)
    return f"{past}{USER}{question}\n{ASSISTANT}"


def opening(prompt: str) -> str:
    """Returns the first question of a rendered conversation, or `prompt` itself if it is not one.

    All turns of one conversation repeat its beginning; whoever keeps related prompts together
    (the split) groups them by this text.
    """
    if not (prompt.startswith(USER) and prompt.endswith(f"\n{ASSISTANT}")):
        return prompt
    return prompt[len(USER) :].split(f"\n{ASSISTANT}", 1)[0]
