"""S3: text that drives a terminal, split at every byte, through a real pseudo-terminal.

Every attack comes as bytes of a model's answer: byte by byte, and in two pieces for every place to
cut it. What arrives at the other end of the terminal must hold no byte that changes its state, in
the eyes of an independent emulator too, and the texts around the attack. Harmless texts, 汉字 and
emoji, must arrive unchanged. Random attacks, made of parts of the others, follow.
"""

import json
import os
import pty
import random
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Result
from benchmarks.security import escapes, referee
from benchmarks.security.bench import Bench
from benchmarks.security.escapes import AFTER, BEFORE, Attack
from chatlm.tokenizer import Tokenizer

TITLE = "escape sequences in answers, at a terminal"
COUNTS = {"full": 20_000, "slice": 200}
SECONDS = 0.002
END = "=#end#="
PATIENCE_SECONDS = 60
ROOT = Path(__file__).parents[2]
Answer = tuple[str, list[bytes]]


def run(count: int, bench: Bench) -> Result:
    """Shows attacks and harmless texts: all of them, and as many random ones as make `count`.

    With fewer than there are ways to cut them, a sample of the ways.
    """
    folder = bench.folder / "tokenizer"
    Tokenizer.train(["三加四等于七。", "七加四等于十一。"] * 3, 370).save(folder)
    attacks = escapes.attacks()
    result = Result("S3", TITLE)
    shown: list[tuple[Attack, Answer]] = []
    for attack in attacks:
        ways = cuts(attack.whole)
        shown += [(attack, ("answer", way)) for way in bench.random.sample(ways, len(ways))]
        shown.append((attack, ("line", [attack.whole])))
    fixed = len(shown)
    if count < fixed:
        shown = bench.random.sample(shown, count)
    for _ in range(max(0, count - fixed)):
        attack = made_up(attacks, bench.random)
        shown.append((attack, ("answer", random_cut(attack.whole, bench.random))))
    harmless = [
        (text, ("answer", way))
        for text in escapes.HARMLESS
        for way in (cuts(text.encode()) if count >= fixed else cuts(text.encode())[:3])
    ]
    answers = [answer for _, answer in [*shown, *harmless]]
    sent = through_a_terminal(folder, answers)
    for (attack, (kind, _)), arrived in zip(shown, sent, strict=False):
        result.failures += [f"{attack.name} ({kind}): {why}" for why in wrong(attack, arrived)]
    for (text, _), arrived in zip(harmless, sent[len(shown) :], strict=True):
        got = arrived.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n")
        if got != text and got + "\n" != text:
            result.failures.append(f"{text!r} arrived as {got!r}")
    result.faults = len(shown)
    result.figures = {
        "attacks": len(attacks),
        "ways_to_cut": min(fixed, count),
        "made_up": max(0, count - fixed),
        "harmless_texts": len(escapes.HARMLESS),
        "harmless_ways": len(harmless),
        "bytes_judged": sum(map(len, sent)),
    }
    return result


def cuts(content: bytes) -> list[list[bytes]]:
    """Returns the ways to send bytes: one by one, and in two pieces, cut at each place."""
    if len(content) > 300:  # what is long is long by repetition
        places = [*range(1, 60), *range(len(content) - 60, len(content))]
    else:
        places = list(range(1, len(content)))
    halves = [[content[:at], content[at:]] for at in places]
    return [[content], [content[at : at + 1] for at in range(len(content))], *halves]


def random_cut(content: bytes, rng: random.Random) -> list[bytes]:
    """Returns bytes in pieces of random sizes."""
    pieces = []
    while content:
        size = rng.choice((1, 1, 2, 3, 7))
        pieces.append(content[:size])
        content = content[size:]
    return pieces


def made_up(attacks: Sequence[Attack], rng: random.Random) -> Attack:
    """Returns an attack of parts of others, text and emoji."""
    texts = [text.encode() for text in escapes.HARMLESS]
    parts = []
    for _ in range(rng.randint(2, 6)):
        one = rng.choice(attacks).content if rng.random() < 0.7 else rng.choice(texts)
        start = rng.randrange(len(one) + 1)
        parts.append(one[start : start + rng.randint(1, 12)] if rng.random() < 0.6 else one[:200])
    return Attack("made up", b"".join(parts), swallows=True)


def wrong(attack: Attack, arrived: bytes) -> list[str]:
    """Returns what an attack did, or took away, that it must not."""
    found = []
    if bad := referee.forbidden(arrived):
        found.append(f"{', '.join(bad[:5])} came through")
    if hidden := referee.hidden(arrived):
        found.append(f"{hidden.encode('ascii', 'backslashreplace')} hides in it")
    judged = referee.judge(arrived)
    found += [f"changed {name}" for name in judged.changed]
    # Bytes that are no whole character before it may take the first one with them.
    if BEFORE not in judged.text.replace("\n", ""):
        found.append(f"{BEFORE} is not seen: {judged.text[:60]!r}")
    if not attack.swallows and AFTER not in judged.text.replace("\n", ""):
        found.append(f"{AFTER} is not seen: {judged.text[-60:]!r}")
    plain = referee.without_controls(arrived)
    if plain != arrived and referee.judge(plain) != judged:
        found.append("left the terminal otherwise than plain text does")
    return found


def through_a_terminal(folder: Path, answers: Sequence[Answer]) -> list[bytes]:
    """Returns what arrives at the other end of a terminal for each answer, the last line's end cut.

    The terminal is raw but for the newlines that every terminal gets, so all bytes arrive.
    """
    reader, writer = os.pipe()
    pid, terminal = pty.fork()
    if not pid:
        os.dup2(reader, 3)
        os.set_inheritable(3, True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        argv = [sys.executable, "-m", "benchmarks.security.terminal_child", str(folder), END]
        os.execve(sys.executable, argv, environment)
    os.close(reader)
    text = b"".join(
        json.dumps([kind, [list(piece) for piece in pieces]]).encode() + b"\n"
        for kind, pieces in answers
    )
    got = _exchange(text, writer, terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    *parts, rest = got.split(f"{END}\r\n".encode())
    assert code == 0, f"the program ended with {code}: {rest[-2000:].decode(errors='replace')}"
    assert len(parts) == len(answers), f"{len(parts)} of {len(answers)} answers arrived"
    return parts


def _exchange(text: bytes, writer: int, terminal: int) -> bytes:
    """Writes what the program reads, and reads what it shows, until it ends."""
    os.set_blocking(writer, False)
    got, deadline = bytearray(), time.monotonic() + PATIENCE_SECONDS
    is_open = True
    while True:
        ready, free, _ = select.select([terminal], [writer] if is_open else [], [], 1.0)
        if free and text:
            try:
                text = text[os.write(writer, text[:65536]) :]
            except BrokenPipeError:  # it has ended, and has said why
                text = b""
        if is_open and not text:
            os.close(writer)
            is_open = False
        if ready:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # how Linux reports the end of a terminal
                data = b""
            if not data:
                os.close(terminal)
                return bytes(got)
            got += data
            deadline = time.monotonic() + PATIENCE_SECONDS
        assert time.monotonic() < deadline, f"the terminal fell silent after {bytes(got[-200:])!r}"
