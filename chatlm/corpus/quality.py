"""Answers that teach nothing: loops, advertisements, refusals, broken text.

In: an `Example` (normalised, private data masked). Out: None, or the reason to drop it. It rewrites
nothing, and which corpus is asked what stands in its recipe.

Every rule prefers to let a bad answer pass: it looks for what can hardly be anything else.
"""

import re

from chatlm.corpus import boilerplate
from chatlm.corpus.example import Example
from chatlm.corpus.normalize import HAN

MIN_LOOP_CHARS = 48
"""A shorter answer is no `repetition`. A longer one is none either if neither the `LOOP_PROBE`
characters before its middle nor those after it occur in it a second time (overlaps count)."""
LOOP_PROBE = 8
"""The length of the two probes, in characters; the middle is `len(text) // 2`."""
LOST_CHAR = "\ufffd"
"""Without this character, without a character of U+00C2 to U+00F4 right before one of U+00A1 to
U+00BF, and without one of `TRIGGERS` no text is `mojibake`. `no_prose` needs an answer without one
letter of any script."""

ADVERTISEMENTS = (
    *("[微信号]", "[QQ号]", "[手机号]", "加我微信", "加我的微信", "加我好友", "加我的好友"),
    *("加我QQ", "加我qq", "加我的QQ", "加我的qq", "加我V", "加我v", "加我的V", "加我的v"),
)
SELVES = (
    *("语言模型", "作为AI", "个AI", "名AI", "款AI", "位AI", "是AI", "AI助手", "AI 助手"),
    *("为人工智能", "我是人工智能", "个人工智能", "名人工智能", "款人工智能", "位人工智能"),
    *("个聊天机器人", "名聊天机器人", "款聊天机器人", "是聊天机器人", "GPT 模型", "GPT模型"),
    *("As an AI", "as an AI", "an AI language", "a language model"),
)
POINTERS = (
    *("http", "www.", "如图", "见图", "看图", "下图", "上图", "附图", "图片", "链接", "附件"),
    *("点击查看", "戳这", "点这"),
)
MOJIBAKE = ("锟斤拷", "烫烫烫烫", "屯屯屯屯", "â€", "ï»¿")
MARKUP = (
    *("<a ", "<img ", "<span ", "<div ", "<p ", "<font ", "<td ", "<table ", "<iframe ", "&nbsp"),
    *("[img", "[/img", "[url", "[/url", "[quote", "[/quote"),
    *("[size", "[/size", "[color", "[/color"),
)
TRIGGERS: tuple[str, ...] = (
    *boilerplate.TRIGGERS,
    *ADVERTISEMENTS,
    *SELVES,
    *POINTERS,
    *MOJIBAKE,
    *MARKUP,
)
"""An example without one of these strings keeps the ends of its answer, and is no advertisement, no
talk of an AI about itself, no mere pointer and no markup. The placeholders in `ADVERTISEMENTS` come
from masking. The strings hold for a normalised text, and for a raw one from which no invisible
character is taken out."""


def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


_HAS_ADVERTISEMENT = _any_of(ADVERTISEMENTS)
_HAS_SELF = _any_of(SELVES)
_HAS_POINTER = _any_of(POINTERS)
_HAS_MARKUP = _any_of(MARKUP)
_HAS_MOJIBAKE = _any_of(MOJIBAKE)

_ASKS_TO_REPEAT = re.compile("重复|遍|反复|次|诗|歌|绕口令|repeat", re.IGNORECASE)
_CODE_SIGN = re.compile(r"[{}<>=|;\\]|\b(?:def|print|return|int)\b")
_HAN = re.compile(f"[{HAN}]")
_WORD = re.compile("[A-Za-z]{2,}")

_CONTACT = "\\[(?:微信号|QQ号|手机号)\\]"
_OFFER = (
    "(?:加我|加微|加[VvQq]|添加|咨询|私信|私聊|联系我|详询|代办|招代理|免费领|优惠|报名|订购|购买|合作|"
    "可加|了解更多)"
)
_SOLICITS = re.compile(
    f"{_OFFER}[^。！？\n]{{0,24}}{_CONTACT}|{_CONTACT}[^。！？\n]{{0,16}}{_OFFER}"
    "|(?:需要|想要|有意|感兴趣|想了解|想学|有兴趣|详细|具体|疑问|问题|资料)[^。！？\n]{0,14}"
    "加我的?(?:微信|QQ|qq|好友|[Vv])"
)

_AI = "(?:AI|人工智能|Ai|聊天机器人|(?:大型|自然)?语言模型)"
_SELF = re.compile(
    f"作为(?:一个|一名|一款|一位|一种)?(?:大型|基于|虚拟)?{_AI}[^。！？\n，,“”]{{0,12}}[，,]? ?我"
    "|我(?:只|仅仅?|其实|目前)?(?:是|只是|不过是)(?:由[^。！？\n，,]{1,12})?(?:一个|一名|一款|一位|个)?"
    "[^。！？\n，,“”]{0,6}(?:AI ?(?:语言)?(?:模型|助手|程序|机器人)|语言模型|聊天机器人|"
    "人工智能(?:助手|程序|模型|机器人|语言|[，。,]))"
    "|\\b[Aa]s an AI(?: language model|,| assistant)|"
    "\\bI(?: a|')m (?:just |only )?an? (?:AI |)language model"
)
_ASKS_FOR_ROBOT = re.compile(
    "机器人[^。\n]{0,20}(?:脚本|对话|剧本|故事)|(?:脚本|对话|剧本|故事)[^。\n]{0,20}机器人"
)
_SELF_OF_GPT = re.compile(
    "(?:无法|不能|不适合|不可能)[^。！？\n]{0,14}GPT ?(?:语言)?模型|"
    "GPT ?(?:语言)?模型(?:无法|不能)(?:完成|执行|处理)(?!的)"
)

_URL = re.compile(r"(?:https?://|www\.)[!-~]+")
_POINTING = re.compile(
    "[\\[【(（]?(?:图片|图|链接|附件)[\\]】)）]|"
    "(?:请|可以|你|您|自己|详细|具体|答案|解答|过程|内容|地址)*"
    "(?:如下|如|见|看|详见|参见|参考|点击|点|戳|查看|打开)+(?:这里|此处|上|下|以下|下面|下方|这个|我的)?"
    "(?:图片|图|链接|附件|网页|网址|网站)?(?:所示|查看)?"
)
_ASKS_POINTER = re.compile(
    "网址|链接|网站|官网|网页|地址|URL|url|http|www|哪里|在哪|下载|图|主页|微博|域名|来源|出处|联系"
)
_MAX_POINTER_CHARS = 300
_WORD_CHAR = re.compile(r"\w")

_LETTER = re.compile(r"[^\W\d_]")
_DIGIT = re.compile("[0-9０-９]")
_ASKS_PROSE = re.compile("为什么|为何|怎么办|介绍|说说|谈谈|解释|描述|原因|写一|什么意思|建议")
_ASKS_SIGNS = re.compile(
    "表情|符号|标点|[eE]moji|颜文字|图案|笑脸|ASCII|[0-9０-９]|[几数算时年月日号码级率度评星分]|多少|有多|排名|"
    "程度|战绩|职业生涯|[零一二三四五六七八九十百]"
)

_WRONG_TABLE = re.compile(
    "[\xc2-\xf4][\xa1-\xbf]{1,2}[^\x00-\xa0\u3000-\uffff]?[\xc2-\xf4][\xa1-\xbf]"
)
_ASKS_MOJIBAKE = re.compile("乱码|编码|锟斤拷|烫烫烫|屯屯屯")

_TAG = re.compile(
    "<(?:a|img|span|div|p|font|td|table|iframe) [^<>\n]{0,200}=[^<>\n]{0,300}>|&nbsp;?|"
    "\\[/?(?:img|url|quote|size|color)(?:=[^\\]\n]{0,80})?\\]"
)
_ABOUT_CODE = re.compile(
    "html|css|javascript|\\bjs\\b|xml|代码|网页|标签|编程|程序|函数|前端|爬虫|正则|```|php|java|python",
    re.IGNORECASE,
)


def repetition(example: Example) -> str | None:
    """Drops answers of which at least half is one phrase over and over, or that stand there twice.

    A phrase counts if it is prose: two Chinese characters or three words, and four different
    characters. Laughter, rows of numbers, drawn lines and code may repeat.
    """
    text = example.response
    if len(text) < MIN_LOOP_CHARS:
        return None
    middle = len(text) // 2
    for start in (middle - LOOP_PROBE, middle):
        probe = text[start : start + LOOP_PROBE]
        before = text.rfind(probe, 0, start + LOOP_PROBE - 1)
        after = text.find(probe, start + 1)
        periods = ([start - before] if before >= 0 else []) + [after - start] * (after >= 0)
        if any(_loops(text, middle, period) for period in periods):
            return None if _ASKS_TO_REPEAT.search(example.prompt) else "repetition"
    return None


def _loops(text: str, middle: int, period: int) -> bool:
    """Says whether the text around `middle` repeats itself every `period` characters."""
    start, end = middle, middle
    while 0 < start <= len(text) - period and text[start - 1] == text[start - 1 + period]:
        start -= 1
    while end + period < len(text) and text[end] == text[end + period]:
        end += 1
    num_chars = end - start + period
    # Half of the text in three rounds, or nearly all of it in two.
    rounds = num_chars * 2 >= len(text) and num_chars >= 3 * period
    twice = num_chars >= 2 * period - 2 and num_chars * 10 >= len(text) * 9
    if num_chars < MIN_LOOP_CHARS or not (rounds or twice):
        return False
    phrase = text[start : start + period]
    if len(set(phrase)) < 4 or _CODE_SIGN.search(phrase):
        return False
    return len(_HAN.findall(phrase)) >= 2 or len(_WORD.findall(phrase)) >= 3


def advertisement(example: Example) -> str | None:
    """Drops answers that ask the reader to get in touch elsewhere."""
    text = example.response
    if not _HAS_ADVERTISEMENT.search(text):
        return None
    return "advertisement" if _SOLICITS.search(text) else None


def as_an_ai(example: Example) -> str | None:
    """Drops answers in which another assistant speaks of itself or of what it cannot do."""
    if not _HAS_SELF.search(example.response):
        return None
    if _SELF.search(example.response):
        return None if _ASKS_FOR_ROBOT.search(example.prompt) else "as_an_ai"
    told = "GPT" not in example.prompt and _SELF_OF_GPT.search(example.response)
    return "as_an_ai" if told else None


def points_elsewhere(example: Example) -> str | None:
    """Drops answers that are only an address or name a picture, unless one was asked for."""
    text = example.response
    if len(text) > _MAX_POINTER_CHARS or not _HAS_POINTER.search(text):
        return None
    rest = _POINTING.sub("", _URL.sub("", text))
    if _WORD_CHAR.search(rest) or _ASKS_POINTER.search(example.prompt):
        return None
    return "points_elsewhere"


def no_prose(example: Example) -> str | None:
    """Drops answers of only marks, or of only digits and marks where prose was asked for."""
    if _LETTER.search(example.response) or _ASKS_SIGNS.search(example.prompt):
        return None
    if _DIGIT.search(example.response) and not _ASKS_PROSE.search(example.prompt):
        return None
    return "no_prose"


def mojibake(example: Example) -> str | None:
    """Drops texts that were decoded with the wrong table or lost characters."""
    for text in (example.response, example.prompt):
        if text.isascii():
            continue
        if LOST_CHAR in text or _HAS_MOJIBAKE.search(text) or _WRONG_TABLE.search(text):
            return None if _ASKS_MOJIBAKE.search(example.prompt) else "mojibake"
    return None


def markup(example: Example) -> str | None:
    """Drops texts with leftover HTML or forum tags, unless the text is about code."""
    for text in (example.response, example.prompt):
        if _HAS_MARKUP.search(text) and _TAG.search(text):
            about = _ABOUT_CODE.search(example.prompt) or _ABOUT_CODE.search(example.response)
            return None if about else "markup"
    return None
