"""Questions and answers recombined from the sentences of real ones, with the noise of scrapes.

In: a parquet file of real pairs; the number of a file and of a chunk of its rows. Out: (question,
answer) rows. A chunk is a pure function of the seed, the file and the chunk, so that any process
may make it. The rows are good for measuring speed and counting what is dropped, not for training.
It does not know the formats of the corpora.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

BLOCK_ROWS = 490
CHUNK_ROWS = 20 * BLOCK_ROWS
# Every 14th row is a copy of another: 3/7 of them exact (3 % of all rows), 4/7 with a few edits.
# BLOCK_ROWS is a multiple of it, so that copies have the same places in every block.
COPY_EVERY = 14
EXACT_SHARE = 3 / 7
SPREAD = 0.7  # of the logarithm of the number of sentences in an answer

_SENTENCE = re.compile(r"[^。！？!?；;\n]*[。！？!?；;\n]+|[^。！？!?；;\n]+\Z")
_CLAUSE_END = re.compile(r"[，。！？!?,；;：:\n]")
_OPEN = "；;：:，,、.·-—*| "
_ENDS = "。！？!?…~”」）)"
_PLACES = (
    "北京",
    "上海",
    "成都",
    "武汉",
    "西安",
    "苏州",
    "青岛",
    "沈阳",
    "昆明",
    "长沙",
    "厦门",
    "合肥",
    "兰州",
    "南宁",
    "哈尔滨",
    "呼和浩特",
    "石家庄",
    "乌鲁木齐",
)
_PEOPLE = (
    "我",
    "我妈妈",
    "我爸爸",
    "我朋友",
    "邻居",
    "同事",
    "我表姐",
    "室友",
    "孩子",
    "我们经理",
    "一个亲戚",
    "老同学",
    "房东",
    "我侄子",
)
_OPENERS = ("请问", "想问一下，", "求助：", "各位，", "急！", "如题，", "", "", "", "")
_CLOSINGS = (
    "希望我的回答能帮到您，祝您身体健康！",
    "以上是我的一点看法，仅供参考。",
    "满意请采纳，谢谢！",
    "如果觉得有用，记得点个赞再走哦~~~",
    "更多内容请关注公众号：每天学一点。",
)
_SHORT = ("不知道", "谢邀", "同上", "。。。", "好", "", " ", "是的。")
_MARKS = ("。。。。", "！！！", "？？", "，，", "……。", "~~~", "？！")


@dataclass(frozen=True)
class Pool:
    """Pieces of real text. `traditional[i]` is `sentences[i]` in traditional characters."""

    sentences: list[str]
    traditional: list[str]
    prompts: list[str]
    clauses: list[str]
    mean_chars: float


@dataclass(frozen=True)
class Shape:
    """What distinguishes the rows of one corpus: lengths, paragraphs, answers to one question."""

    mean_chars: int
    paragraph: str = ""
    answers: int = 1


@dataclass(frozen=True)
class Rows:
    """A chunk of rows and how many of them are planted copies."""

    pairs: list[tuple[str, str]]
    exact: int
    near: int


def load_pool(path: Path) -> Pool:
    """Returns the pieces of the pairs in a parquet file with columns prompt and response.

    Texts with U+FFFD are left out: readers reject them, and only planted rows shall be rejected.
    """
    import opencc

    table = pq.read_table(path, columns=["prompt", "response"])
    asked, said = (
        [text for text in table[name].to_pylist() if text and "\ufffd" not in text]
        for name in ("prompt", "response")
    )
    sentences: dict[str, None] = {}
    for response in said:
        for match in _SENTENCE.findall(response):
            text = match.strip()
            if 6 <= len(text) <= 100:
                # Endings that are cut off are planted, in a known share, and so are odd marks.
                sentences[text if text[-1] in _ENDS else text.rstrip(_OPEN) + "。"] = None
    prompts = dict.fromkeys(text.strip() for text in asked)
    clauses = dict.fromkeys(
        part.strip() for prompt in prompts for part in _CLAUSE_END.split(prompt)
    )
    lines = "\n".join(text.replace("\n", " ") for text in sentences)
    traditional = opencc.OpenCC("s2t").convert(lines).split("\n")
    assert len(traditional) == len(sentences)
    return Pool(
        list(sentences),
        traditional,
        [text for text in prompts if 5 <= len(text) <= 40 and "\n" not in text],
        [text for text in clauses if 4 <= len(text) <= 16],
        sum(map(len, sentences)) / len(sentences),
    )


def generator(seed: int, file_number: int, block: int) -> np.random.Generator:
    """Returns the random numbers of one block; no two blocks share any."""
    return np.random.Generator(np.random.Philox(key=[seed << 16 | file_number, block]))


def chunk_rows(
    pool: Pool, shape: Shape, seed: int, file_number: int, chunk: int, count: int
) -> Rows:
    """Returns `count` rows, copies of earlier rows of the file among them."""
    first_block = chunk * CHUNK_ROWS // BLOCK_ROWS
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        block = first_block + len(pairs) // BLOCK_ROWS
        pairs += _block(pool, shape, generator(seed, file_number, block))
    del pairs[count:]
    rng = generator(seed, file_number, (1 << 40) + chunk)
    elder: list[tuple[str, str]] = []
    if first_block:
        elder = _block(pool, shape, generator(seed, file_number, int(rng.integers(first_block))))
    exact = near = 0
    for place in range(COPY_EVERY - 1, count, COPY_EVERY):
        from_elder = bool(elder) and rng.random() < 0.5
        source = elder[_original(rng, BLOCK_ROWS)] if from_elder else pairs[_original(rng, place)]
        if rng.random() < EXACT_SHARE:
            exact += 1
            pairs[place] = source
        else:
            near += 1
            pairs[place] = (source[0], _edited(source[1], rng))
    return Rows(pairs, exact, near)


def _original(rng: np.random.Generator, stop: int) -> int:
    """Returns a place below `stop` that holds no copy: the planted counts stay true."""
    place = int(rng.integers(stop))
    return place - 1 if place % COPY_EVERY == COPY_EVERY - 1 else place


def _edited(text: str, rng: np.random.Generator) -> str:
    """Returns the text with one to three small edits, as reposts have them."""
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(text) + 1))
        kind = int(rng.integers(4))
        if kind == 0:
            text = text[:place] + text[place + 1 :]
        elif kind == 1:
            text = text[:place] + "的了呢很也"[int(rng.integers(5))] + text[place:]
        elif kind == 2:
            text = text.replace("，", "、", 1)
        else:
            text += ("！", " ", "谢谢。")[int(rng.integers(3))]
    return text


def questions(pool: Pool, rng: np.random.Generator, count: int) -> list[str]:
    """Returns questions that hardly ever share more than a half with each other."""
    kinds = rng.random(count).tolist()
    first, second = (rng.integers(len(pool.clauses), size=count).tolist() for _ in range(2))
    whole = rng.integers(len(pool.prompts), size=count).tolist()
    numbers = rng.integers(1 << 30, size=count).tolist()
    return [
        _question(pool, kind, a, b, p, n)
        for kind, a, b, p, n in zip(kinds, first, second, whole, numbers, strict=True)
    ]


def _question(pool: Pool, kind: float, a: int, b: int, p: int, n: int) -> str:
    place = _PLACES[n % len(_PLACES)]
    person = _PEOPLE[n // 64 % len(_PEOPLE)]
    opener = _OPENERS[n // 1024 % len(_OPENERS)]
    first, second = pool.clauses[a], pool.clauses[b]
    if kind < 0.2 and len(pool.prompts[p]) <= 28:
        return f"{opener}{person}在{place}，{first}，{pool.prompts[p]}"
    if kind < 0.6:
        return f"{opener}{first}，{second}？"
    if kind < 0.9:
        return f"{opener}{person}{n // 16384 % 70 + 12}岁，{first}，{second}，怎么办？"
    return f"{place}{first}和{second}有什么区别？？"


def join_sentences(
    sentences: list[str], counts: list[int], picks: list[int], paragraph: str, breaks: list[float]
) -> list[str]:
    """Returns one text for each count, its sentences chosen by the next `picks`."""
    texts = []
    start = 0
    for count, chance in zip(counts, breaks, strict=True):
        chosen = [sentences[index] for index in picks[start : start + count]]
        start += count
        if paragraph and count > 2 and chance < 0.6:
            middle = 1 + int(chance * count)
            texts.append("".join(chosen[:middle]) + paragraph + "".join(chosen[middle:]))
        else:
            texts.append("".join(chosen))
    return texts


def num_sentences(rng: np.random.Generator, mean: float, size: int) -> list[int]:
    """Returns how many sentences each answer gets: many short ones, a few very long."""
    centre = math.log(mean) - SPREAD * SPREAD / 2
    return np.clip(np.rint(rng.lognormal(centre, SPREAD, size)), 1, 60).astype(int).tolist()


def _block(pool: Pool, shape: Shape, rng: np.random.Generator) -> list[tuple[str, str]]:
    counts = num_sentences(rng, shape.mean_chars / pool.mean_chars, BLOCK_ROWS)
    picks = rng.integers(len(pool.sentences), size=sum(counts)).tolist()
    breaks, chances = (rng.random(BLOCK_ROWS).tolist() for _ in range(2))
    numbers = rng.integers(1 << 30, size=BLOCK_ROWS).tolist()
    answers = join_sentences(pool.sentences, counts, picks, shape.paragraph, breaks)
    answers = [_noisy(*each) for each in zip(answers, chances, numbers, strict=True)]
    prompts = questions(pool, rng, BLOCK_ROWS)
    if shape.answers > 1:
        groups = np.cumsum(rng.random(BLOCK_ROWS) < 1 / shape.answers).tolist()
        prompts = [prompts[group - 1] for group in groups]
    return list(zip(prompts, answers, strict=True))


def _noisy(text: str, chance: float, number: int) -> str:
    """Returns the answer, in about one of six rows with something that scrapes have in it."""
    if chance > 0.17:
        return text
    if chance < 0.03:
        return text[: -(3 + number % 8)]
    if chance < 0.05:
        return "　　" + text
    if chance < 0.09:
        return text.replace("。", _MARKS[number % len(_MARKS)], 1)
    if chance < 0.12:
        return text + _CLOSINGS[number % len(_CLOSINGS)]
    if chance < 0.13:
        return f"{text}有问题加QQ：{10**8 + number}"
    if chance < 0.135:
        return f"{text}电话：1390000{number % 10_000:04d}，微信同号。"
    if chance < 0.145:
        return text.replace("，", " , ", 2)
    if chance < 0.15:
        return _SHORT[number % len(_SHORT)]
    if chance < 0.155:
        return f"{text}http://www.example.com/{number:x}.html"
    if chance < 0.16:
        return text + "😀👍"
    return text.replace("，", "，　", 3)
