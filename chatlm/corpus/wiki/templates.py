"""Templates of Chinese Wikipedia that show a text: what they leave in a sentence.

In: the inside of one `{{...}}` without templates in it. Out: the text that a reader sees, "" for
the many that show none (or only a box), `LOST` for those whose text takes a program to make.
"""

import re
from functools import lru_cache

LOST = "formula_1"
"""Stands for what is lost; `variants.clean_text` cuts a text before the sentence that has it."""

_LANGUAGES = {
    "ar": "阿拉伯语",
    "be": "白俄罗斯语",
    "bg": "保加利亚语",
    "bo": "藏语",
    "ca": "加泰罗尼亚语",
    "cs": "捷克语",
    "da": "丹麦语",
    "de": "德语",
    "el": "希腊语",
    "en": "英语",
    "eo": "世界语",
    "es": "西班牙语",
    "fa": "波斯语",
    "fi": "芬兰语",
    "fr": "法语",
    "ga": "爱尔兰语",
    "grc": "古希腊语",
    "he": "希伯来语",
    "hi": "印地语",
    "hr": "克罗地亚语",
    "hu": "匈牙利语",
    "id": "印尼语",
    "is": "冰岛语",
    "it": "意大利语",
    "ja": "日语",
    "kk": "哈萨克语",
    "ko": "韩语",
    "la": "拉丁语",
    "mn": "蒙古语",
    "ms": "马来语",
    "nl": "荷兰语",
    "no": "挪威语",
    "pl": "波兰语",
    "pt": "葡萄牙语",
    "ro": "罗马尼亚语",
    "ru": "俄语",
    "sa": "梵语",
    "sr": "塞尔维亚语",
    "sv": "瑞典语",
    "th": "泰语",
    "tr": "土耳其语",
    "ug": "维吾尔语",
    "uk": "乌克兰语",
    "vi": "越南语",
}

_PLAIN = {"·": "·", "dot": "·", "!": "|", "=": "=", "snd": " – ", "spaced ndash": " – ", "-": ""}
# The number of the parameter that is shown; see `_parameter` for negative ones.
_SHOWN = {
    "lang": 2,
    "color": 2,
    "colour": 2,
    "font color": 2,
    "audio": 2,
    "font": 1,
    "nowrap": 1,
    "nobr": 1,
    "nobold": 1,
    "noitalic": 1,
    "small": 1,
    "smaller": 1,
    "big": 1,
    "larger": 1,
    "abbr": 1,
    "tooltip": 1,
    "linktext": 1,
    "unicode": 1,
    "僻字": 1,
    "ruby": 1,
    "ruby-zh-p": 1,
    "ruby-ja": 1,
    "sub": 1,
    "sup": 1,
    "mvar": 1,
    "flag": 1,
    "flagcountry": 1,
    "專名號": 1,
    "专名号": 1,
    "書名號": 1,
    "书名号": 1,
    "zy": 1,
    "transl": -1,
    "ipa": -1,
    "pinyin": 1,
    "拼音": 1,
    "ill": 1,
    "tsl": -1,
    "translink": -1,
    "le": -2,
    "nihongo": 1,
}
_UNITS = {
    "m": "米",
    "km": "公里",
    "cm": "厘米",
    "mm": "毫米",
    "ft": "英尺",
    "in": "英寸",
    "mi": "英里",
    "kg": "公斤",
    "g": "克",
    "t": "吨",
    "lb": "磅",
    "km2": "平方公里",
    "m2": "平方米",
    "sqmi": "平方英里",
    "ha": "公顷",
    "km/h": "公里每小时",
    "c": "°C",
    "f": "°F",
}
# Without what they show, a sentence would have a hole where its number was.
_LOST_FORMULAS = ("math", "val", "sfrac", "chem", "bigmath", "overline", "radic", "sqrt", "su")
_LOST_SUMS = ("us$", "usd", "nt$", "ntd", "twd", "hk$", "hkd", "jpy", "jpy¥", "¥", "cny", "rmb")
_LOST_NUMBERS = ("cn¥", "eur", "€", "gbp", "£", "krw", "mop", "inflation", "nts", "height", "age")
_LOST = frozenset((*_LOST_FORMULAS, *_LOST_SUMS, *_LOST_NUMBERS))
_DATES = frozenset(("start date", "end date", "birth date", "death date", "date", "startdate"))
_OTHERS = ("langx", "convert", "cvt", "bd", "frac")
_NAMES = frozenset((*_PLAIN, *_SHOWN, *_LOST, *_DATES, *_OTHERS))
_NAMED_PARAMETER = re.compile(r"\s*[\w\-\u4e00-\u9fff]{1,20}\s*=(?!=)")
_SPACES = re.compile(r"[\s_]+")
_LANG = re.compile(r"lang-([a-z]{2,3})(?:-[a-z]+)?\Z")
_LINK = re.compile(
    r"link-[a-z]{2,3}\Z|internal link helper(?:/[a-z\-]+)?\Z|ilh\Z|interlanguage link\Z"
)


@lru_cache(maxsize=4096)
def known_name(raw_name: str) -> str:
    """Returns the name of a template as the tables here have it; "" if it shows no text."""
    name = _SPACES.sub(" ", raw_name).strip().lower()
    if name in _NAMES or name.startswith("formatnum:") or _LANG.match(name) or _LINK.match(name):
        return name
    return ""


def shown(inside: str) -> str:
    """Returns the text that `{{inside}}` shows."""
    raw_name, bar, rest = inside.partition("|")
    name = known_name(raw_name)
    if name.startswith("formatnum:"):
        return raw_name.partition(":")[2].strip()
    if not bar:
        return _PLAIN.get(name, "")
    if name in _SHOWN:
        return _parameter(_positional(rest), _SHOWN[name])
    language = _LANG.match(name)
    if language:
        return _foreign(language[1], _parameter(_positional(rest), 1))
    if name == "langx":
        code, *texts = _positional(rest) or [""]
        return _foreign(code, _parameter(texts, 1))
    if _LINK.match(name):
        return _parameter(_positional(rest), -2)
    if name in ("convert", "cvt"):
        return _measure(_positional(rest))
    if name in _DATES:
        return _date(_positional(rest))
    if name == "bd":
        return _dates(rest.split("|"))
    if name == "frac":
        return "/".join(_positional(rest)[-2:])
    return LOST if name in _LOST else ""


def _foreign(code: str, text: str) -> str:
    """`{{lang-en|text}}` shows the name of the language before the text."""
    label = _LANGUAGES.get(code)
    return f"{label}：{text}" if label and text else text


def _positional(rest: str) -> list[str]:
    """Returns the parameters without a name; `1=` and the like count as such."""
    found = list[str]()
    for parameter in rest.split("|"):
        if _NAMED_PARAMETER.match(parameter):
            name, _, value = parameter.partition("=")
            if not name.strip().isdigit():
                continue
            parameter = value
        found.append(parameter.strip())
    return found


def _parameter(parameters: list[str], number: int) -> str:
    """Returns one parameter, counted from 1.

    -1 is the last one that is not empty. -2 is the label of a link to another language (name here,
    name there, label): the third one, or the first.
    """
    if number == -2:
        label = parameters[2] if len(parameters) > 2 else ""
        return label or (parameters[0] if parameters else "")
    if number == -1:
        return next((one for one in reversed(parameters) if one), "")
    return parameters[number - 1] if len(parameters) >= number else ""


def _measure(parameters: list[str]) -> str:
    """`{{convert|828|m|ft}}` shows 828米 first; a range or a rare unit is lost."""
    unit = _UNITS.get(parameters[1].lower()) if len(parameters) > 1 else None
    return f"{parameters[0]}{unit}" if unit and parameters[0] else LOST


def _dates(parameters: list[str]) -> str:
    """`{{bd|1901年|1月2日|1980年|3月4日}}` shows the years and days of a life."""
    dates = [one.strip() for one in parameters[:4] if "=" not in one]
    born, died = "".join(dates[:2]), "".join(dates[2:4])
    if not born and not died:
        return ""
    return f"{born}—{died}"


def _date(parameters: list[str]) -> str:
    """`{{start date|1950|1|2}}` shows 1950年1月2日."""
    numbers = [one.lstrip("0") for one in parameters[:3] if one.isdigit()]
    return "".join(f"{number}{unit}" for number, unit in zip(numbers, "年月日", strict=False))
