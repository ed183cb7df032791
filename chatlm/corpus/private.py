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
from collections.abc import Callable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TypeAlias

from chatlm.corpus import private_patterns as patterns
from chatlm.corpus.private_patterns import AT_SIGNS, DIGIT_GAPS, MIN_DIGITS, TRIGGERS

__all__ = ["AT_SIGNS", "DIGIT_GAPS", "MIN_DIGITS", "TRIGGERS", "mask", "mask_kinds"]

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
        text = _replace(patterns.EMAIL, text, _email, "mask_email", kinds)
    if _may_name_qq(text) and patterns.FIVE_DIGITS.search(text):
        text = _replace(patterns.QQ, text, _named("QQ号"), "mask_qq", kinds)
    if _may_name_wechat(text):
        text = _replace(patterns.WECHAT, text, _wechat, "mask_wechat", kinds)
    if patterns.CAPITAL.search(text) and patterns.PLATE_HEAD.search(text):
        text = _replace(patterns.PLATE, text, _plate, "mask_plate", kinds)
    if patterns.CHAIN.search(text):
        text = _mask_numbers(text, kinds)
    if text.count(":") > 1 and patterns.COLONS.search(text):
        text = _replace(patterns.IPV6, text, _ipv6, "mask_address", kinds)
    return text


def _mask_numbers(text: str, kinds: set[str]) -> str:
    """Applies the rules of numbers; each looks only where enough digits stand in a chain."""
    chains = _chains(text)
    for pattern, least, judge, kind in _NUMBER_RULES:
        if any(chain[2] >= least for chain in chains):
            masked = _replace_near(pattern, text, chains, least, judge, kind, kinds)
            if masked is not text:
                text, chains = masked, _chains(masked)
    if _may_name_telephone(text):
        judge = _named("座机号")
        text = _replace_near(patterns.LOCAL, text, _chains(text), 0, judge, "mask_landline", kinds)
    if text.count(".") > 2:
        text = _replace_near(patterns.IPV4, text, _chains(text), 0, _ipv4, "mask_address", kinds)
    return text


def _chains(text: str) -> list[tuple[int, int, int]]:
    """Returns start, end and number of digits of each chain of `MIN_DIGITS` or more."""
    return [
        (*chain.span(), len(patterns.DIGIT.findall(chain[0])))
        for chain in patterns.CHAIN.finditer(text)
    ]


def _may_name_qq(text: str) -> bool:
    """A cheap test that is true wherever one of the words is."""
    return "Q" in text or "q" in text or "扣扣" in text or "企鹅号" in text


def _may_name_telephone(text: str) -> bool:
    """A cheap test that is true wherever one of the words before a local number is."""
    return (
        any(word in text for word in ("电话", "座机", "固话", "传真", "联系方式", "致电"))
        or "el" in text
        or "EL" in text
        or "eL" in text
        or "El" in text
    )


def _may_name_wechat(text: str) -> bool:
    """A cheap test that is true wherever one of the words is."""
    return (
        ("信" in text and any(word in text for word in ("微信", "薇信", "威信", "V信", "v信")))
        or "加V" in text
        or "加v" in text
        or "eChat" in text
        or "echat" in text
        or (("x" in text or "X" in text) and any(word in text for word in patterns.X_WORDS))
    )


def _replace_near(
    pattern: re.Pattern[str],
    text: str,
    chains: Sequence[tuple[int, int, int]],
    least: int,
    judge: _Judge,
    kind: str,
    kinds: set[str],
) -> str:
    """Returns what `_replace` does, if all matches have a chain of `least` digits or more."""
    parts = list[str]()
    done, copied = 0, 0
    for start, end, num_digits in chains:
        if num_digits < least:
            continue
        done = max(done, start - patterns.REACH)
        while (match := pattern.search(text, done, end + patterns.REACH)) and match.start() < end:
            done = match.end()
            if masked := judge(match):
                kinds.add(kind)
                parts += (text[copied : match.start()], masked)
                copied = done
    return "".join((*parts, text[copied:])) if parts else text


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
    name, _, domain = match[0].translate(patterns.NARROW).replace(" ", "").partition("@")
    if patterns.PUBLIC_DOMAIN.search(domain) or name.lower() in patterns.PUBLIC_NAMES:
        return None
    if " " in match[0] and not patterns.MAIL_HOST.match(domain):
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
        if patterns.NO_IDENTIFIER.match(identifier) or patterns.IN_URL.search(_before(match, 80)):
            return None
    return f"{words}[微信号]"


def _plate(match: re.Match[str]) -> str | None:
    # 高新SCP003 is a bond; 京N8P8F8 is a car if it is called one.
    if sum(map(str.isdigit, match[0])) > 3 or patterns.CAR_SAID.search(_before(match, 10)):
        return "[车牌号]"
    return None


def _digits_of(text: str) -> str:
    """Returns the digits (and a closing X) of a number without its separators, narrow."""
    return re.sub("[^0-9X]", "", text.translate(patterns.NARROW).replace("x", "X"))


def _is_somebodys(match: re.Match[str]) -> bool:
    """Says whether the words and signs around a number leave open that it is somebody's."""
    if patterns.IN_URL.search(_before(match, 80)) or patterns.MEASURE_AFTER.match(
        match.string, match.end()
    ):
        return False
    before = _before(match, 24)
    if patterns.PHONE_SAID.search(before):
        return True
    return not (patterns.OTHER_NUMBER.search(before) or patterns.SUM_BEFORE.search(before))


def _said_identity(match: re.Match[str]) -> bool:
    return "身份证" in _before(match, 16)


def _has_date(digits: str, year: str) -> bool:
    month, day = int(digits[:2]), int(digits[2:4])
    return "1900" <= year <= "2030" and 1 <= month <= 12 and 1 <= day <= 31


def _identity(match: re.Match[str]) -> str | None:
    digits = _digits_of(match[0])
    if digits[:2] not in patterns.AREAS or not _has_date(digits[10:14], digits[6:10]):
        return None
    total = sum(
        int(d) * weight for d, weight in zip(digits[:17], patterns.CHECK_WEIGHTS, strict=True)
    )
    right = "10X98765432"[total % 11] == digits[17]
    return "[身份证号]" if right or _said_identity(match) else None


def _old_identity(match: re.Match[str]) -> str | None:
    digits = _digits_of(match[0])
    known = digits[:2] in patterns.AREAS and _has_date(digits[8:12], f"19{digits[6:8]}")
    return "[身份证号]" if known and _said_identity(match) else None


def _bankcard(match: re.Match[str]) -> str | None:
    digits = _digits_of(match[0])
    if not digits.startswith(patterns.CARD_STARTS) or len(set(digits)) < 4:
        return None
    doubled = (int(d) * 2 - 9 * (d > "4") for d in digits[-2::-2])
    total = sum(map(int, digits[::-2])) + sum(doubled)
    return "[银行卡号]" if total % 10 == 0 and _is_somebodys(match) else None


def _phone(name: str) -> _Judge:
    """Returns a judge of telephone numbers; x13812345678 is a name of code, Tel13812345678 not."""

    def judge(match: re.Match[str]) -> str | None:
        before = _before(match, 8)
        if patterns.AFTER_LETTER.search(before) and not patterns.AFTER_NAME.search(before):
            return None
        return f"[{name}]" if _is_somebodys(match) else None

    return judge


_NUMBER_RULES: tuple[tuple[re.Pattern[str], int, _Judge, str], ...] = (
    (patterns.IDENTITY, patterns.NUM_IDENTITY, _identity, "mask_identity"),
    (patterns.OLD_IDENTITY, patterns.NUM_OLD_IDENTITY, _old_identity, "mask_identity"),
    (patterns.BANKCARD, patterns.NUM_BANKCARD, _bankcard, "mask_bankcard"),
    (patterns.MOBILE, patterns.NUM_MOBILE, _phone("手机号"), "mask_mobile"),
    (patterns.LANDLINE, patterns.NUM_LANDLINE, _phone("座机号"), "mask_landline"),
)


def _ipv4(match: re.Match[str]) -> str | None:
    if sum(map(str.isdigit, match[0])) < MIN_DIGITS or match[0] in patterns.NAME_SERVERS:
        return None  # 1.2.3.4 is a version or a section.
    if patterns.VERSION_BEFORE.search(_before(match, 12)) or patterns.VERSION_AFTER.match(
        match.string, match.end()
    ):
        return None
    return _global(match[0], IPv4Address)


def _ipv6(match: re.Match[str]) -> str | None:
    address = match[0]
    if sum(map(str.isdigit, address)) < MIN_DIGITS or patterns.CLOCK.fullmatch(address):
        return None
    return _global(address, IPv6Address)


def _global(text: str, kind: type[IPv4Address] | type[IPv6Address]) -> str | None:
    try:
        address = kind(text)
    except AddressValueError:
        return None
    return "[IP地址]" if address.is_global and not address.is_multicast else None
