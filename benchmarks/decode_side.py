"""One side of `benchmarks/decode.py`, in a process of its own.

In: a side's name and folders as JSON on argv, then lines of JSON with prompts on stdin. Out: a line
of JSON for each with seconds to the first token of each answer, seconds in all, ids, and at last
the peak of resident memory. It measures; the parent compares.

Sides: `hf`, transformers' T5 and its `generate`; `ct2`, `translate_batch` of CTranslate2 with
nothing around it; `torch` and `ours`, a `ChatSession` for each prompt over our engines.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Answer = tuple[float, list[int]]
"""Seconds to the first token, and the answer's ids."""

Side = Callable[[list[str], int], list[Answer]]
"""Prompts and the exact number of tokens of each answer in; the answers out."""


def hf(folder: Path, threads: int) -> Side:
    """Returns transformers' greedy `generate`, prompts padded to the longest."""
    import torch
    from transformers import T5ForConditionalGeneration
    from transformers.generation.streamers import BaseStreamer

    from chatlm.tokenizer import Tokenizer

    torch.set_num_threads(threads)
    model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = Tokenizer.load(folder)

    class First(BaseStreamer):
        """Notes when the first token came (the start token is handed over before it)."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: Any) -> None:  # noqa: ARG002
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def answers(prompts: list[str], num_tokens: int) -> list[Answer]:
        start = time.perf_counter()
        rows = [[*tokenizer.encode(prompt), tokenizer.eos_id] for prompt in prompts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        first = First()
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=(ids != 0).long(),
                do_sample=False,
                num_beams=1,
                min_new_tokens=num_tokens,
                max_new_tokens=num_tokens,
                streamer=first,
            )
        waited = first.times[1] - start
        return [(waited, row[1:]) for row in found.tolist()]

    return answers


def ct2(folder: Path, threads: int) -> Side:
    """Returns CTranslate2's own greedy decoding; the first token's time is that of a 1-token run.

    A callback would cost it time, so the first token is measured in a run of its own.
    """
    import ctranslate2

    from chatlm.tokenizer import Tokenizer

    translator = ctranslate2.Translator(str(folder), intra_threads=threads, inter_threads=1)
    tokenizer = Tokenizer.load(folder)
    words = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
    ids = {word: index for index, word in enumerate(words)}

    def decode(prompts: list[str], num_tokens: int) -> tuple[float, list[list[int]]]:
        start = time.perf_counter()
        rows = [
            [words[one] for one in (*tokenizer.encode(prompt), tokenizer.eos_id)]
            for prompt in prompts
        ]
        found = translator.translate_batch(
            rows, beam_size=1, min_decoding_length=num_tokens, max_decoding_length=num_tokens
        )
        seconds = time.perf_counter() - start
        return seconds, [[ids[word] for word in one.hypotheses[0]] for one in found]

    def answers(prompts: list[str], num_tokens: int) -> list[Answer]:
        if num_tokens == 1:
            seconds, rows = decode(prompts, 1)
            return [(seconds, row) for row in rows]
        return [(0.0, row) for row in decode(prompts, num_tokens)[1]]

    return answers


def session(folder: Path, threads: int) -> Side:
    """Returns our whole stack: prompt, engine, stream, detokenising; a thread for each prompt."""
    from chatlm.chat.session import ChatSession
    from chatlm.chat.settings import ChatSettings
    from chatlm.inference.open import open_engine

    engine = open_engine(folder, "cpu", threads=threads)

    def one(prompt: str, num_tokens: int, found: list[Answer | None], place: int) -> None:
        settings = ChatSettings(min_new_tokens=num_tokens, max_new_tokens=num_tokens)
        chat = ChatSession(engine, settings, clock=time.perf_counter)
        text = "".join(chat.ask(prompt))
        assert chat.last.tokens == num_tokens
        found[place] = (chat.last.first_token_seconds, engine.tokenizer.encode(text))

    def answers(prompts: list[str], num_tokens: int) -> list[Answer]:
        found: list[Answer | None] = [None] * len(prompts)
        if len(prompts) == 1:
            one(prompts[0], num_tokens, found, 0)
        else:
            threads = [
                threading.Thread(target=one, args=(prompt, num_tokens, found, place))
                for place, prompt in enumerate(prompts)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        done = [answer for answer in found if answer is not None]
        assert len(done) == len(prompts), "an answer failed"
        return done

    return answers


SIDES: dict[str, Callable[[Path, int], Side]] = {
    "hf": hf,
    "torch": session,
    "ct2": ct2,
    "ours": session,
}


def peak_bytes() -> int:
    """Returns the most resident memory of this process; getrusage would count its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(argv: Sequence[str]) -> int:
    """Serves the rounds of one side."""
    given = json.loads(argv[0])
    side = SIDES[given["side"]](Path(given["folder"]), given["threads"])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        start, cpu = time.perf_counter(), time.process_time()
        answers = side(asked["prompts"], asked["num_tokens"])
        done = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        done["first"] = [first for first, _ in answers]
        done["tokens"] = asked["num_tokens"] * len(answers)
        print(json.dumps(done), flush=True)
    print(json.dumps({"peak_bytes": peak_bytes()}), flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    sys.exit(main(sys.argv[1:]))
