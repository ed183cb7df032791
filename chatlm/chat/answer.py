"""The text of an answer while it comes: whole characters, and never a stop string.

In: ids. Out: pieces of text. It does not clean the text; doors do, with `chatlm.sanitize`.
"""

from collections.abc import Iterable, Sequence

from chatlm.inference.engine import Codec


class AnswerText:
    """The pieces of one answer; joined, they are the answer up to the first stop string.

    Attributes:
        is_stopped: a stop string has come; nothing more is said.
        num_tokens: ids pushed so far.
    """

    def __init__(self, tokenizer: Codec, stop: Sequence[str] = ()) -> None:
        self.is_stopped = False
        self.num_tokens = 0
        self._decoder = tokenizer.stream()
        self._stop = tuple(stop)
        self._held = ""  # the end of what was said, which may be the beginning of a stop string

    def push(self, ids: Iterable[int]) -> str:
        """Returns what may be shown after these ids, perhaps nothing yet."""
        said = ""
        for token_id in ids:
            if self.is_stopped:
                break
            self.num_tokens += 1
            said += self._add(self._decoder.push(token_id))
        return said

    def finish(self) -> str:
        """Returns what is left when no more ids come."""
        if self.is_stopped:
            return ""
        said = self._add(self._decoder.flush())
        if not self.is_stopped:
            said += self._held
            self._held = ""
        return said

    def _add(self, text: str) -> str:
        if not self._stop:
            return text
        text = self._held + text
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)]
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
