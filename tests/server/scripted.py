"""A model that says what it was told, in a process as the server starts one; ids are characters.

python scripted.py [seconds a step] [streams] [seconds to open, or an error] [echo]
With the last word it only repeats what it is asked.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatlm.errors import CheckpointError, ConfigError
from chatlm.generation_config import GenerationConfig
from chatlm.inference import worker
from chatlm.inference.engine import Failed, Finished, Limits, OnEvent, Request, Tokens

FAILURE, DEATH = "\x01", "\x02"
ANSWERS = {
    "你好": "你好！很高兴见到你。",
    "写两行": "第一行\n第二行",
    "攻击": "安\x1b[31m全\x1b]0;标题\x07\u202e的。",
    "慢": "字" * 1000,
    "空": "",
    "错": f"半{FAILURE}",
    "死": f"半{DEATH}",
    "不停": "永" * 1500,
}
LIMITS = Limits(41, 2000, 1)


class Characters:
    """A tokenizer with one id a character."""

    eos_id = 1

    def encode(self, text: str) -> list[int]:
        return [ord(char) + 2 for char in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(one - 2) for one in ids)

    def stream(self) -> "Characters":
        return self

    def push(self, token_id: int) -> str:
        return chr(token_id - 2)

    def flush(self) -> str:
        return ""


@dataclass
class Row:
    """One answer: what is still to be said."""

    left: str
    config: GenerationConfig
    on_event: OnEvent
    said: int = 0
    heeds: bool = True
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        if self.heeds:
            self.is_cancelled.set()

    def step(self) -> bool:
        """Says one character; returns whether there is more to say."""
        if self.is_cancelled.is_set():
            self.on_event(Finished("cancelled"))
        elif self.said == self.config.max_new_tokens:
            self.on_event(Finished("length"))
        elif not self.left:
            self.on_event(Finished("stop"))
        elif self.left[0] == FAILURE:
            self.on_event(Failed("out of memory"))
        elif self.left[0] == DEATH:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            self.on_event(Tokens((ord(self.left[0]) + 2,)))
            self.left = self.left[1:]
            self.said += 1
            return True
        return False


class ScriptedEngine:
    """Says a character of every running answer in each step, as a real engine does."""

    name = kind = "scripted"
    limits = LIMITS

    def __init__(
        self, step_seconds: float = 0.0, max_streams: int = 4, *, only_echoes: bool = False
    ) -> None:
        self.tokenizer = Characters()
        self.max_streams = max_streams
        self.step_seconds = step_seconds
        self.answers = {} if only_echoes else ANSWERS
        self._rows: list[Row] = []
        self._has_work = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def check(self, config: GenerationConfig) -> None:
        if config.top_k == 13:
            raise ConfigError("top_k=13: this engine does not like it")

    def start(self, request: Request, on_event: OnEvent) -> Row:
        assert request.source_ids[-1] == self.tokenizer.eos_id
        prompt = self.tokenizer.decode(request.source_ids[:-1])
        row = Row(self.answer(prompt), request.config, on_event, heeds=prompt != "不停")
        with self._has_work:
            self._rows.append(row)
            self._has_work.notify()
        return row

    def answer(self, prompt: str) -> str:
        if prompt in self.answers:
            return self.answers[prompt]
        if self.answers and prompt.startswith("慢"):
            return self.answers["慢"]
        return f"您问的是「{prompt.translate({ord(FAILURE): '?', ord(DEATH): '?'})}」"

    def close(self) -> None:
        pass

    def _run(self) -> None:
        while True:
            with self._has_work:
                self._has_work.wait_for(lambda: self._rows)
                rows = list(self._rows)
            assert len(rows) <= self.max_streams
            if self.step_seconds:
                time.sleep(self.step_seconds)
            ended = [row for row in rows if not row.step()]
            with self._has_work:
                self._rows = [row for row in self._rows if row not in ended]


def main(argv: Sequence[str]) -> int:
    step, streams, opening, manner = [*argv, *["0", "4", "0", ""][len(argv) :]]

    def open_it() -> ScriptedEngine:
        if not opening.replace(".", "").isdigit():
            raise CheckpointError(opening)
        time.sleep(float(opening))
        return ScriptedEngine(float(step), int(streams), only_echoes=manner == "echo")

    return worker.run(open_it)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
