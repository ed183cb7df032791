"""Rows in the published formats of the corpora: JSON Lines, CSV in GB18030 or UTF-8, parquet.

In: (question, answer) rows and random numbers. Out: one bytes object for each record, or the
columns of a parquet table. `spoil` makes a record that no reader can read. It does not write files.
"""

import csv
import io
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import orjson

Pairs: TypeAlias = list[tuple[str, str]]
Numbers: TypeAlias = list[int]
Format: TypeAlias = Callable[[Pairs, Numbers, Numbers], list[bytes]]
"""(rows, numbers of the questions, random numbers) -> records with their line ends."""

_TOPICS = (
    "生活",
    "情感",
    "汽车",
    "法律",
    "编程",
    "历史",
    "医学",
    "美食",
    "旅行",
    "教育",
    "音乐",
    "体育",
    "电影",
    "心理学",
    "职场",
)
_DEPARTMENTS = (
    "心血管科",
    "内分泌科",
    "消化科",
    "神经科",
    "皮肤科",
    "普外科",
    "小儿科",
    "妇科",
    "男科",
    "肿瘤科",
)
_EXTRA = (
    "如题<br>麻烦说得详细一些，谢谢。",
    "在网上查了很久都没有找到答案。&nbsp;&nbsp;<br>求各位指点。",
    "<p>本人新手，</p>不要见笑&hellip;",
)


def _line(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def webtext(pairs: Pairs, questions: Numbers, numbers: Numbers) -> list[bytes]:
    """webtext2019zh: several answers to a question, HTML in `desc`."""
    return [
        _line(
            {
                "qid": 20_000_000 + question,
                "title": prompt,
                "desc": _EXTRA[number % 3] if question % 5 == 0 else "",
                "topic": _TOPICS[question % len(_TOPICS)],
                "star": min(number % 21, number // 32 % 21),
                "content": answer,
                "answer_id": 10_000_000 + number,
                "answerer_tags": "人工智能@游戏业" if number % 4 == 0 else "",
            }
        )
        for (prompt, answer), question, number in zip(pairs, questions, numbers, strict=True)
    ]


def baike(pairs: Pairs, questions: Numbers, numbers: Numbers) -> list[bytes]:
    """baike_qa2019: `qid` is text, titles end in spaces, paragraphs in two CRs."""
    return [
        _line(
            {
                "qid": f"qid_{10**18 + number * 1_000_003 + question}",
                "category": f"{_TOPICS[number % len(_TOPICS)]}-{_TOPICS[number // 16 % 7]}",
                "title": prompt + (" " if number % 3 else ""),
                "desc": (prompt if number % 7 == 0 else "就是想知道这个，谢谢！")
                if number % 3 == 0
                else "",
                "answer": answer,
            }
        )
        for (prompt, answer), question, number in zip(pairs, questions, numbers, strict=True)
    ]


def medical(pairs: Pairs, _questions: Numbers, numbers: Numbers) -> list[bytes]:
    """Toyhom's CSV: `department,title,ask,answer` in GB18030."""
    return _csv("gb18030", (_medical(*pair, n) for pair, n in zip(pairs, numbers, strict=True)))


def _medical(prompt: str, answer: str, number: int) -> list[str]:
    title = prompt[: 12 + number % 20]
    ask = "无" if number % 1000 == 0 else prompt
    if number % 40 == 0:
        answer = f'"{answer}'.replace("，", '",\n', 1)
    return [_DEPARTMENTS[number % len(_DEPARTMENTS)], title, ask, answer]


def finance(pairs: Pairs, _questions: Numbers, numbers: Numbers) -> list[bytes]:
    """financezhidao: `title,question,reply,is_best` in UTF-8."""
    return _csv(
        "utf-8",
        (
            [prompt, "补充一下，急！" if n % 6 == 0 else "", answer, str(int(n % 3 > 0))]
            for (prompt, answer), n in zip(pairs, numbers, strict=True)
        ),
    )


def _csv(encoding: str, rows: Any) -> list[bytes]:
    buffer = io.StringIO()
    write = csv.writer(buffer, lineterminator="\n").writerow
    records = []
    for row in rows:
        write(row)
        records.append(buffer.getvalue().encode(encoding))
        buffer.seek(0)
        buffer.truncate()
    return records


def instruction(pairs: Pairs, _questions: Numbers, numbers: Numbers) -> list[bytes]:
    """BELLE's instruction sets; an instruction often ends in a line break."""
    return [
        _line(
            {
                "instruction": prompt + ("\n" if number % 3 == 0 else ""),
                "input": "",
                "output": _listed(answer) if number % 10 == 0 else answer,
            }
        )
        for (prompt, answer), number in zip(pairs, numbers, strict=True)
    ]


def _listed(answer: str) -> str:
    """Returns the answer as a numbered list, as chat models like to answer."""
    parts = [part for part in answer.split("。") if part]
    return "\n".join(f"{place}. {part}。" for place, part in enumerate(parts, start=1))


def conversations(pairs: Pairs, _questions: Numbers, numbers: Numbers) -> list[bytes]:
    """BELLE's train_3.5M_CN: one to four turns."""
    records = []
    for place, number in enumerate(numbers):
        turns = (1, 1, 1, 2, 3, 4)[number % 6]
        chosen = [pairs[(place + 7 * turn) % len(pairs)] for turn in range(1, turns)]
        said = [
            {"from": speaker, "value": text}
            for pair in (pairs[place], *chosen)
            for speaker, text in zip(("human", "assistant"), pair, strict=True)
        ]
        records.append(_line({"id": str(10_000_000 + number), "conversations": said}))
    return records


def multiturn(pairs: Pairs, _questions: Numbers, numbers: Numbers) -> list[bytes]:
    """BELLE's multiturn_chat: the turns so far as one script in `instruction`."""
    records = []
    for place, number in enumerate(numbers):
        before = [pairs[(place + 7 * turn) % len(pairs)] for turn in range(1, 2 + number % 3)]
        script = "".join(f"Human:{asked}\nAssistant:{said}\n" for asked, said in before)
        prompt, answer = pairs[place]
        text = f"{script}Human:{prompt}\nAssistant:"
        records.append(_line({"instruction": text, "input": "", "output": answer}))
    return records


def math(pairs: Pairs, _questions: Numbers, numbers: Numbers) -> list[bytes]:
    """BELLE's school_math."""
    return [
        _line(
            {
                "instruction": f"题目：{prompt}{number % 900 + 3}个和{number % 37 + 2}个一共多少？",
                "input": "",
                "output": f"\n{answer}\n{number % 900 + 3}+{number % 37 + 2}="
                f"{number % 900 + number % 37 + 5}，所以答案是{number % 900 + number % 37 + 5}个。",
            }
        )
        for (prompt, answer), number in zip(pairs, numbers, strict=True)
    ]


def generated_chat(pairs: Pairs, _questions: Numbers, _numbers: Numbers) -> list[bytes]:
    """BELLE's generated_chat: a role setting and the script of a whole dialogue."""
    return [
        _line(
            {
                "instruction": f"Alice和Bob是同事，他们在谈论：{prompt}\n",
                "input": "",
                "output": f"Alice: {prompt}\nBob: {answer}\nAlice: 原来如此，谢谢。",
            }
        )
        for prompt, answer in pairs
    ]


def zhihu_columns(
    pairs: Pairs, questions: Numbers, numbers: Numbers
) -> dict[str, list[str | None]]:
    """Zhihu-KOL: METADATA is JSON as text, votes are the label of a button, some nulls."""
    metadata: list[str | None] = []
    for question, number in zip(questions, numbers, strict=True):
        answer_id, votes = float(100_000_000 + number), _label(number)
        question_id = float(20_000_000 + question)
        metadata.append(
            f'{{"question_id": {question_id}, "answer_id": {answer_id}, "url": "https://www.zhihu.'
            f'com/question/{20_000_000 + question}/answer/{100_000_000 + number}", "upvotes": '
            f'"{votes}", "answer_creation_time": "2019-{number % 12 + 1:02d}-28T12:01:22.000Z"}}'
        )
    return {
        "INSTRUCTION": [
            None if n % 1999 == 0 else p for (p, _), n in zip(pairs, numbers, strict=True)
        ],
        "RESPONSE": [None if n % 499 == 0 else a for (_, a), n in zip(pairs, numbers, strict=True)],
        "SOURCE": ["Zhihu"] * len(pairs),
        "METADATA": metadata,
    }


def _label(number: int) -> str:
    if number % 3 == 0:
        return "赞同"
    if number % 50 == 1:
        return f"赞同 {number % 90 / 10 + 1:.1f} 万"
    return f"赞同 {min(number % 997, number // 1000 % 997)}"


def spoil(record: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Returns a record that must be rejected, in the place of `record`, with its line end."""
    if kind == "csv":
        return b"cut,off\n"
    body = record.rstrip(b"\n")
    return (
        body[: len(body) // 2].decode("utf-8", "ignore").encode() + b"\n",
        body[:-1] + b'\xff"}\n',
        body + body + b"\n",
        b"[1, 2]\n",
    )[int(rng.integers(4))]
