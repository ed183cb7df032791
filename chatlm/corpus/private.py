"""Private data out of a text: numbers and names by which a person can be reached or found.

In: a text (normalised). Out: the same text with a placeholder in place of each private value. It
does not judge the text and does not mask what is public: service numbers (110, 12345, 95588,
400 and 800 hotlines), loopback, private and documentation addresses, `example.com`, versions,
prices, years, ISBNs, numbers inside of URLs, in sums and after a point.

| kind          | placeholder | what it takes                                                     |
|---------------|-------------|-------------------------------------------------------------------|
| mask_email    | [邮箱]      | a name, `@`, a domain with a letters-only end                     |
| mask_identity | [身份证号]  | 18 places with a right date and check digit; with the word 身份证 |
|               |             | before it also a wrong check digit and the 15 digits of old cards |
| mask_bankcard | [银行卡号]  | 16 to 19 digits, first digit and Luhn sum of a card               |
| mask_mobile   | [手机号]    | 11 digits from 13 to 19, +86 or not, in groups or not             |
| mask_landline | [座机号]    | area code and number; the bare number after a word such as 电话   |
| mask_qq       | [QQ号]      | 5 to 12 digits after the word                                     |
| mask_wechat   | [微信号]    | an identifier or a number after the word                          |
| mask_plate    | [车牌号]    | province, letter, five or (new energy) six places                 |
| mask_address  | [IP地址]    | IPv4 of at least seven digits, IPv6                               |

A placeholder has no digit, so that what was masked once is left alone, and it is never longer, in
characters, than what it stands for.
"""

import re
from collections import Counter
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TypeAlias

MIN_DIGITS = 7
DIGIT_GAPS = " .-_·()（）—–－"
"""No number rule (identity, bankcard, mobile, landline, IPv4) fires in a text without a chain of
`MIN_DIGITS` digits, ASCII or full-width, between which stand at most characters of `DIGIT_GAPS`.
IPv6 needs two ASCII colons between which stand at most four digits and letters. The other rules
need `AT_SIGNS` or one of `TRIGGERS`."""
AT_SIGNS = "@＠"
"""Without one of these characters `mask_email` does not fire."""

_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_PLATE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_QQ_WORDS = ("QQ", "qq", "Qq", "扣扣", "企鹅号", "加Q", "加q")
_WECHAT_WORDS = (
    *("微信", "薇信", "威信", "V信", "v信", "加V", "加v"),
    *("WeChat", "Wechat", "weChat", "wechat", "Weixin", "weixin"),
    *("VX", "Vx", "vX", "vx", "WX", "Wx", "wx"),
)
TRIGGERS: tuple[str, ...] = (
    *_QQ_WORDS,
    *_WECHAT_WORDS,
    *(province + letter for province in _PROVINCES for letter in _PLATE_LETTERS),
)
"""Without one of these strings `mask_qq`, `mask_wechat` and `mask_plate` do not fire. They hold
for a normalised text, and for a raw one from which no invisible character is taken out."""

_D = "[0-9０-９]"
_ALONE = "(?<![0-9０-９])"
_ENDS = "(?![0-9０-９])"
_NARROW = {0xFF10 + digit: 0x30 + digit for digit in range(10)} | {
    ord(wide): narrow for wide, narrow in zip("Ｘｘ＠．", "XX@.", strict=True)
}
_DIGIT_CHAIN = re.compile(f"(?:{_D}[{re.escape(DIGIT_GAPS)}]*){{{MIN_DIGITS - 1}}}{_D}")
_COLONS = re.compile(":[0-9A-Fa-f]{0,4}:")
_PLATE_HEAD = re.compile(f"[{_PROVINCES}][{_PLATE_LETTERS}]")

_EMAIL = re.compile(
    "(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63} ?[@＠] ?"
    "(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})[.．]){1,4}[A-Za-z]{2,12}(?![A-Za-z0-9(_-])"
)
_PUBLIC_DOMAIN = re.compile(
    r"(?:\A|\.)example\.|\.(?:test|invalid|localhost)\Z|"
    r"\.(?:exe|py|js|png|jpg|html?)\Z",
    re.IGNORECASE,
)
_MAIL_HOST = re.compile(
    r"(?:vip\.)?(?:qq|163|126|139|189|yeah|sina|sohu|foxmail|gmail|hotmail|outlook|yahoo|aliyun)\."
)
_PUBLIC_NAMES = frozenset(("git", "www", "http", "https"))

# The n of an escaped line break in a raw line is no letter.
_NO_LETTER = "(?<!(?<!\\\\)[A-Za-z])"
_PLACE = f"(?<![0-9０-９.]){_NO_LETTER}"
_PLACE_ENDS = "(?![0-9０-９A-Za-z])"
_IDENTITY = re.compile(
    f"{_PLACE}(?:{_D}{{17}}[0-9０-９XxＸｘ]|{_D}{{6}}([ -]){_D}{{8}}\\1{_D}{{3}}[0-9０-９Xx]|"
    f"(?:{_D}{{4}} ){{4}}{_D}[0-9０-９Xx]){_PLACE_ENDS}"
)
_OLD_IDENTITY = re.compile(f"{_PLACE}{_D}{{15}}{_PLACE_ENDS}")
_AREAS = frozenset(
    f"{area}"
    for first, last in ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (81, 83))
    for area in (*range(first, last + 1), 71, 91)
)
_CHECK_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_BANKCARD = re.compile(
    f"{_PLACE}(?:{_D}{{16,19}}|{_D}{{4}}([ -]){_D}{{4}}\\1{_D}{{4}}\\1{_D}{{4}}(?:\\1{_D}{{1,3}})?|"
    f"{_D}{{6}} {_D}{{10,13}}){_PLACE_ENDS}"
)
_CARD_STARTS = ("35", "4", "51", "52", "53", "54", "55", "6", "94", "95")
_MOBILE = re.compile(
    f"{_ALONE}(?:[(（]?(?:[+＋]|００|00)?(?:86|８６)[)）]?[ -]?|[0０])?[1１][3-9３-９]{_D}(?:"
    f"(?P<gap>[ .·_—–－-]?){_D}{{4}}(?P=gap){_D}{{4}}|[ -]{_D}{{8}}|{_D}{{4}}[ -]{_D}{{4}}|"
    f"[ -]{_D}{{3}}[ -]{_D}{{5}}|{_D}{{2}}[ -]{_D}{{3}}[ -]{_D}{{3}}|{_D}[ -]{_D}{{3}}[ -]{_D}{{4}}"
    ")(?![0-9０-９A-Za-z_])"
)
_AREA_CODE = f"(?:[0０](?:[1１][0０]|[2２][0-57-9０-５７-９]|[3-9３-９]{_D}{{2}}))"
_EXTENSION = f"(?:(?: ?转 ?|[-—] ?){_D}{{1,5}}{_ENDS})?"
_LANDLINE = re.compile(
    f"{_ALONE}(?:[(（]{_AREA_CODE}[)）] ?-? ?|{_AREA_CODE}(?: ?(?:-|—{{1,2}}|–|－) ?| )?|"
    f"(?:[+＋]|00)?86[ -]?(?:10|2[0-57-9]|[3-9]{_D}{{2}})[ -])"
    f"[2-8２-８]{_D}{{2,3}}[ -]?{_D}{{4}}{_ENDS}{_EXTENSION}"
)
_LOCAL = re.compile(
    "(?:(?:电话|座机|固话|传真|联系方式|致电|[Tt][Ee][Ll])(?:号码?)?[:：是为]{0,2} ?|"
    "\\[座机号\\][,，、;；/或和 ]{1,2})"
    f"((?![48]00|20[0-9]{{2}}[- ]20)[2-8２-８]{_D}{{2,3}}[ -]?{_D}{{4}}{_ENDS}{_EXTENSION})"
)
_QQ = re.compile(
    f"(?:QQ|[Qq]q|扣扣|企鹅号|(?<=加)[Qq]|(?<![A-Za-z])[Qq](?=号?[:：] ?{_D}{{7}}))"
    "(?:群|账号|帐号|号码?|联系方式|邮箱)*"
    f"[ :：是为,，（(]{{0,3}}([1-9１-９]{_D}{{4,11}})(?![0-9０-９A-Za-z@＠.年月元万亿个人次])"
)
_WECHAT = re.compile(
    "(?P<word>[微薇威]信|[Vv]信|[Ww]e[Cc]hat|[Ww]eixin|(?<![A-Za-z])(?:[Vv][Xx]|W[Xx]|wx)|"
    "(?<=加)[Vv])(?:账号|帐号|号码?| ?[Ii][Dd]|同号)*(?P<sign>[ =:：是为（(]{0,3})"
    f"(?P<id>[A-Za-z][A-Za-z0-9_-]{{5,19}}|[1-9]{_D}{{4,11}})(?![A-Za-z0-9_.@＠年月元万亿个人次])"
)
_NO_IDENTIFIER = re.compile(
    "(?:we|wei|android|windows|iphone|ipad|ios|harmony|python|mac|ver|web|pay|mini|app|http|www)",
    re.IGNORECASE,
)
_PLATE = re.compile(
    f"[{_PROVINCES}][{_PLATE_LETTERS}][·•. -]?(?:[0-9]{{5}}[A-HJK]|[A-HJK][A-HJ-NP-Z0-9][0-9]{{4}}|"
    "(?=(?:[A-Z]*[0-9]){3})(?:[A-HJ-NP-Z0-9]{5}|[A-HJ-NP-Z0-9]{4}[学警挂港澳领]))(?![A-Za-z0-9])"
)
_CAR_SAID = re.compile("[车牌]")
_IPV4 = re.compile(
    rf"(?<![0-9.]){_NO_LETTER}(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}}(?![0-9A-Za-z]|\.[0-9])"
)
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:]{4,34}(?![0-9A-Za-z:.])")
_CLOCK = re.compile("[0-9]{1,2}(?::[0-9]{1,2})*")
_NAME_SERVERS = frozenset(("114.114.114.114", "114.114.115.115", "119.29.29.29", "180.76.76.76"))

# What a number is, as said right before it, when it is nobody's.
_OTHER_NUMBER = re.compile(
    "(?:第|帖子|密码|订单|运单|快递|物流|单|编|流水|准字|证书|学|工|货|型|批|条|条形|案|文|专利|税|信用代码|注册|"
    "许可证|备案|基金|股票|圆周率|时间戳|版本|随机|序列|商品|ISBN|ISSN|isbn|DOI|doi|[Ss]eed|[Ii][Dd])"
    "(?:编号|代码|编码|号码|[号码数])?[ #:：为是（(]{0,4}[A-Z]{0,2}\\Z"
)
_PHONE_SAID = re.compile(
    "(?:电话|手机|座机|固话|传真|热线|[Tt]el|TEL|[Pp]hone|[Mm]obile)(?:号码?)?[^0-9０-９A-Za-z]{0,4}\\Z"
)
_MEASURE_AFTER = re.compile(
    " ?(?:元|块钱|[万亿](?!先生|女士|经理|总|老师|医生)|个|股|吨|克|次|人(?![工事])|公里|字节|美元|"
    "[%％℃*×÷^=]|[+] ?[0-9]|- ?[0-9]{1,9}(?![0-9])|\\.[0-9])"
)
_SUM_BEFORE = re.compile(r"(?:[*×÷^+=<>$￥¥#_&.]|(?<![0-9\]])/|[0-9] ?[+-]) ?\Z")
_VERSION_BEFORE = re.compile(
    "(?:版本|固件|软件|章节|第|[Vv]ersion|[Vv]er|==|[>=<~]=?)[号为是:： .]{0,3}\\Z|[A-Za-z]/\\Z"
)
_VERSION_AFTER = re.compile(" ?(?:版|及以上|以上版本|节|章)")
_IN_URL = re.compile(r"(?:://|www\.|\.(?:com|cn|net|org|html?)/|[?&]\w+=)[^\s\u4e00-\u9fff，。]*\Z")
_AFTER_LETTER = re.compile("(?<!\\\\)[A-Za-z_]-?\\Z")
_AFTER_NAME = re.compile("(?:[Tt]el|TEL|[Pp]hone|[Mm]obile|QQ|qq|[Vv][Xx]|[Ww][Xx]|T)-?\\Z")

_Judge: TypeAlias = Callable[[re.Match[str]], str | None]


def mask(text: str, found: Counter[str] | None = None) -> str:
    """Returns `text` with placeholders for private values; idempotent.

    `found` counts the kinds that were masked, each once a text.
    """
    kinds = set[str]()
    text = mask_kinds(text, kinds)
    if kinds and found is not None:
        found.update(kinds)
    return text


def mask_kinds(text: str, kinds: set[str]) -> str:
    """Returns what `mask` returns; adds the kinds that were masked to `kinds`."""
    while (masked := _mask_once(text, kinds)) != text:
        text = masked
    return text


def _mask_once(text: str, kinds: set[str]) -> str:
    """One walk over the rules; what one placeholder uncovers, the next walk sees."""
    if "@" in text or "＠" in text:
        text = _replace(_EMAIL, text, _email, "mask_email", kinds)
    if "Q" in text or "q" in text or "扣扣" in text or "企鹅号" in text:
        text = _replace(_QQ, text, _named("QQ号"), "mask_qq", kinds)
    if _may_name_wechat(text):
        text = _replace(_WECHAT, text, _wechat, "mask_wechat", kinds)
    if _PLATE_HEAD.search(text):
        text = _replace(_PLATE, text, _plate, "mask_plate", kinds)
    if _DIGIT_CHAIN.search(text):
        text = _replace(_IDENTITY, text, _identity, "mask_identity", kinds)
        text = _replace(_OLD_IDENTITY, text, _old_identity, "mask_identity", kinds)
        text = _replace(_BANKCARD, text, _bankcard, "mask_bankcard", kinds)
        text = _replace(_MOBILE, text, _phone("手机号"), "mask_mobile", kinds)
        text = _replace(_LANDLINE, text, _phone("座机号"), "mask_landline", kinds)
        text = _replace(_LOCAL, text, _named("座机号"), "mask_landline", kinds)
        text = _replace(_IPV4, text, _ipv4, "mask_address", kinds)
    if _COLONS.search(text):
        text = _replace(_IPV6, text, _ipv6, "mask_address", kinds)
    return text


def _may_name_wechat(text: str) -> bool:
    """A cheap test that is true wherever one of the words is."""
    return (
        ("信" in text and any(word in text for word in ("微信", "薇信", "威信", "V信", "v信")))
        or "加V" in text
        or "加v" in text
        or "x" in text
        or "X" in text
        or "hat" in text
    )


def _replace(pattern: re.Pattern[str], text: str, judge: _Judge, kind: str, kinds: set[str]) -> str:
    """Returns `text` with those matches replaced for which `judge` has a replacement."""

    def replacement(match: re.Match[str]) -> str:
        masked = judge(match)
        if masked is None:
            return match[0]
        kinds.add(kind)
        return masked

    return pattern.sub(replacement, text)


def _before(match: re.Match[str], num_chars: int) -> str:
    return match.string[max(0, match.start() - num_chars) : match.start()]


def _named(name: str) -> _Judge:
    """Returns a judge that replaces the one group of a match and keeps the words before it."""

    def judge(match: re.Match[str]) -> str:
        return f"{match[0][: match.start(1) - match.start()]}[{name}]"

    return judge


def _email(match: re.Match[str]) -> str | None:
    name, _, domain = match[0].translate(_NARROW).replace(" ", "").partition("@")
    if _PUBLIC_DOMAIN.search(domain) or name.lower() in _PUBLIC_NAMES:
        return None
    if " " in match[0] and not _MAIL_HOST.match(domain):
        return None
    return "[邮箱]"


def _wechat(match: re.Match[str]) -> str | None:
    identifier, words = match["id"], match[0][: match.start("id") - match.start()]
    if identifier[0].isalpha():
        # "微信Android" and "wxPython4" name programs.
        sign = words.rstrip(" ")[-1]
        plain = identifier.isalpha() and sign not in ":：=号Dd"
        if plain or (match["word"].isascii() and sign not in ":：=号是为Dd"):
            return None
        if _NO_IDENTIFIER.match(identifier) or _IN_URL.search(_before(match, 80)):
            return None
    return f"{words}[微信号]"


def _plate(match: re.Match[str]) -> str | None:
    # 高新SCP003 is a bond; 京N8P8F8 is a car if it is called one.
    if sum(map(str.isdigit, match[0])) > 3 or _CAR_SAID.search(_before(match, 10)):
        return "[车牌号]"
    return None


def _digits_of(text: str) -> str:
    """Returns the digits (and a closing X) of a number without its separators, narrow."""
    return re.sub("[^0-9X]", "", text.translate(_NARROW).replace("x", "X"))


def _is_somebodys(match: re.Match[str]) -> bool:
    """Says whether the words and signs around a number leave open that it is somebody's."""
    if _IN_URL.search(_before(match, 80)) or _MEASURE_AFTER.match(match.string, match.end()):
        return False
    before = _before(match, 24)
    if _PHONE_SAID.search(before):
        return True
    return not (_OTHER_NUMBER.search(before) or _SUM_BEFORE.search(before))


def _said_identity(match: re.Match[str]) -> bool:
    return "身份证" in _before(match, 16)


def _has_date(digits: str, year: str) -> bool:
    month, day = int(digits[:2]), int(digits[2:4])
    return "1900" <= year <= "2030" and 1 <= month <= 12 and 1 <= day <= 31


def _identity(match: re.Match[str]) -> str | None:
    digits = _digits_of(match[0])
    if digits[:2] not in _AREAS or not _has_date(digits[10:14], digits[6:10]):
        return None
    total = sum(int(d) * weight for d, weight in zip(digits[:17], _CHECK_WEIGHTS, strict=True))
    right = "10X98765432"[total % 11] == digits[17]
    return "[身份证号]" if right or _said_identity(match) else None


def _old_identity(match: re.Match[str]) -> str | None:
    digits = _digits_of(match[0])
    known = digits[:2] in _AREAS and _has_date(digits[8:12], f"19{digits[6:8]}")
    return "[身份证号]" if known and _said_identity(match) else None


def _bankcard(match: re.Match[str]) -> str | None:
    digits = _digits_of(match[0])
    if not digits.startswith(_CARD_STARTS) or len(set(digits)) < 4:
        return None
    doubled = (int(d) * 2 - 9 * (d > "4") for d in digits[-2::-2])
    total = sum(map(int, digits[::-2])) + sum(doubled)
    return "[银行卡号]" if total % 10 == 0 and _is_somebodys(match) else None


def _phone(name: str) -> _Judge:
    """Returns a judge of telephone numbers; x13812345678 is a name of code, Tel13812345678 not."""

    def judge(match: re.Match[str]) -> str | None:
        before = _before(match, 8)
        if _AFTER_LETTER.search(before) and not _AFTER_NAME.search(before):
            return None
        return f"[{name}]" if _is_somebodys(match) else None

    return judge


def _ipv4(match: re.Match[str]) -> str | None:
    if sum(map(str.isdigit, match[0])) < MIN_DIGITS or match[0] in _NAME_SERVERS:
        return None  # 1.2.3.4 is a version or a section.
    if _VERSION_BEFORE.search(_before(match, 12)) or _VERSION_AFTER.match(
        match.string, match.end()
    ):
        return None
    return _global(match[0], IPv4Address)


def _ipv6(match: re.Match[str]) -> str | None:
    address = match[0]
    if sum(map(str.isdigit, address)) < MIN_DIGITS or _CLOCK.fullmatch(address):
        return None
    return _global(address, IPv6Address)


def _global(text: str, kind: type[IPv4Address] | type[IPv6Address]) -> str | None:
    try:
        address = kind(text)
    except AddressValueError:
        return None
    return "[IP地址]" if address.is_global and not address.is_multicast else None
