"""What the hostile files of all corpora share: good rows, texts that hurt, and `Item`."""

from dataclasses import dataclass

GOOD_PROMPTS = ("怎样把米饭煮得松软一些？", "为什么树叶到了秋天会变黄？")
"""The first row of each file and its last one."""


def good_answer(prompt: str) -> str:
    """Returns an answer that no filter minds."""
    return f"{prompt[:-1]}，答案其实很简单，看一看再想一想就知道了。"


@dataclass(frozen=True, slots=True)
class Item:
    """One hostile file.

    Attributes:
        name: What is wrong with it.
        source: The corpus.
        file_name: The published name.
        content: The bytes.
        num_rows: How many rows the fault must leave in the counts, at least.
        is_file: The file as a whole is bad: one `DataError` instead of rows is as good an end.
    """

    name: str
    source: str
    file_name: str
    content: bytes
    num_rows: int = 1
    is_file: bool = False


TEXTS = (
    "",
    " ",
    "　\u3000\t ",
    "\n\n\n",
    "\r\r",
    "无",
    "None",
    "nan",
    "\x00",
    "好\x00好",
    "\x1b[2J\x1b]52;c;aGk=\x07",
    "\x7f\x80\x9f",
    "\u202e好\u202c\u2066",
    "\u200b\u200d\ufeff",
    "\ufffd" * 30,
    "\ufffe\uffff\ufdd0",
    "\ue000\uf8ff",
    "\U0010ffff\U000e0001",
    "e\u0301" * 500,
    "好" + "\u0301" * 5_000,
    "👩‍👩‍👧‍👦🏳️‍🌈" * 30,
    "𠮷𡃁" * 40,
    "。" * 10_000,
    "！？" * 5_000,
    "(" * 10_000,
    "“" * 3_000,
    " " * 100_000,
    "a" * 100_000,
    "a " * 50_000,
    "好" * 200_000,
    "1" * 50_000,
    "|" * 5_000,
    "| 一 | 二 |\n" * 2_000,
    "---\n" * 5_000,
    "\n" * 50_000,
    "\t" * 20_000,
    "<br>" * 5_000,
    "<" * 20_000,
    "&#x110000;",
    "&#99999999999999999999;",
    "&#xd800;&#0;&#128;",
    "&amp;" * 5_000,
    "&" * 20_000,
    "&amp;amp;lt;br&amp;gt;",
    "\\n" * 5_000,
    "\\" * 20_000,
    "-{zh-hans:" * 500,
    "{{" * 2_000 + "}}" * 2_000,
    "[[" * 5_000,
    "Human:好\nAssistant:" * 400,
    "Alice: 好\nBob: 好\n" * 400,
    "用户：好\n助手：" * 400,
    "翻译" * 5_000,
    "=cmd|' /C calc'!A0",
    "'; DROP TABLE pairs; --",
    "../../etc/passwd",
    "1.2.3.4.5" * 2_000,
    "谢邀。" * 2_000,
    "锟斤拷" * 100,
    "浣犲ソ" * 50,
    "ä½ å¥½" * 50,
    "13800138000 " * 500,
)
"""Valid Unicode that is trouble where a question or an answer should be."""
