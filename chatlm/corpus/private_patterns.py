"""What private values look like: the patterns of `private`, and what has to be there for them.

In: nothing. Out: compiled patterns of numbers and names, of the words around them, and of what they
are not. It masks nothing.
"""

import re

MIN_DIGITS = 7
DIGIT_GAPS = " .-_·()（）—–－"
"""No number rule (identity, bankcard, mobile, landline, IPv4) fires in a text without a chain of
`MIN_DIGITS` digits, ASCII or full-width, between which stand at most characters of `DIGIT_GAPS`.
IPv6 needs two ASCII colons between which stand at most four digits and letters. The other rules
need `AT_SIGNS` or one of `TRIGGERS`."""
AT_SIGNS = "@＠"
"""Without one of these characters `mask_email` does not fire."""

PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
PLATE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
QQ_WORDS = ("QQ", "qq", "Qq", "扣扣", "企鹅号", "加Q", "加q")
WECHAT_WORDS = (
    *("微信", "薇信", "威信", "V信", "v信", "加V", "加v"),
    *("WeChat", "Wechat", "weChat", "wechat", "Weixin", "weixin"),
    *("VX", "Vx", "vX", "vx", "WX", "Wx", "wx"),
)
X_WORDS = (*WECHAT_WORDS[-7:], "Weixin", "weixin")
TRIGGERS: tuple[str, ...] = (
    *QQ_WORDS,
    *WECHAT_WORDS,
    *(province + letter for province in PROVINCES for letter in PLATE_LETTERS),
)
"""Without one of these strings `mask_qq`, `mask_wechat` and `mask_plate` do not fire. They hold
for a normalised text, and for a raw one from which no invisible character is taken out."""

D = "[0-9０-９]"
ALONE = "(?<![0-9０-９])"
ENDS = "(?![0-9０-９])"
NARROW = {0xFF10 + digit: 0x30 + digit for digit in range(10)} | {
    ord(wide): narrow for wide, narrow in zip("Ｘｘ＠．", "XX@.", strict=True)
}
CHAIN = re.compile(f"{D}(?:[{re.escape(DIGIT_GAPS)}]*{D}){{{MIN_DIGITS - 1},}}")
DIGIT = re.compile(D)
FIVE_DIGITS = re.compile(f"{D}{{5}}")
NUM_IDENTITY, NUM_OLD_IDENTITY, NUM_BANKCARD, NUM_MOBILE, NUM_LANDLINE = 17, 15, 16, 11, 10
"""The digits of the shortest number of a kind, all of them in one chain."""
REACH = 12
"""A match begins at most so far before its chain, with the word that names the number, and goes on
at most so far behind it, with an extension and what must not follow that."""
COLONS = re.compile(":[0-9A-Fa-f]{0,4}:")
CAPITAL = re.compile("[A-Z]")
PLATE_HEAD = re.compile(f"[{PROVINCES}][{PLATE_LETTERS}]")

EMAIL = re.compile(
    "(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63} ?[@＠] ?"
    "(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})[.．]){1,4}[A-Za-z]{2,12}(?![A-Za-z0-9(_-])"
)
PUBLIC_DOMAIN = re.compile(
    r"(?:\A|\.)example\.|\.(?:test|invalid|localhost)\Z|"
    r"\.(?:exe|py|js|png|jpg|html?)\Z",
    re.IGNORECASE,
)
MAIL_HOST = re.compile(
    r"(?:vip\.)?(?:qq|163|126|139|189|yeah|sina|sohu|foxmail|gmail|hotmail|outlook|yahoo|aliyun)\."
)
PUBLIC_NAMES = frozenset(("git", "www", "http", "https"))

# The n of an escaped line break in a raw line is no letter.
NO_LETTER = "(?<!(?<!\\\\)[A-Za-z])"
PLACE = f"(?<![0-9０-９.]){NO_LETTER}"
PLACE_ENDS = "(?![0-9０-９A-Za-z])"
IDENTITY = re.compile(
    f"{PLACE}(?:{D}{{17}}[0-9０-９XxＸｘ]|{D}{{6}}([ -]){D}{{8}}\\1{D}{{3}}[0-9０-９Xx]|"
    f"(?:{D}{{4}} ){{4}}{D}[0-9０-９Xx]){PLACE_ENDS}"
)
OLD_IDENTITY = re.compile(f"{PLACE}{D}{{15}}{PLACE_ENDS}")
AREAS = frozenset(
    f"{area}"
    for first, last in ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (81, 83))
    for area in (*range(first, last + 1), 71, 91)
)
CHECK_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
BANKCARD = re.compile(
    f"{PLACE}(?:{D}{{16,19}}|{D}{{4}}([ -]){D}{{4}}\\1{D}{{4}}\\1{D}{{4}}(?:\\1{D}{{1,3}})?|"
    f"{D}{{6}} {D}{{10,13}}){PLACE_ENDS}"
)
CARD_STARTS = ("35", "4", "51", "52", "53", "54", "55", "6", "94", "95")
MOBILE = re.compile(
    f"{ALONE}(?:[(（]?(?:[+＋]|００|00)?(?:86|８６)[)）]?[ -]?|[0０])?[1１][3-9３-９]{D}(?:"
    f"(?P<gap>[ .·_—–－-]?){D}{{4}}(?P=gap){D}{{4}}|[ -]{D}{{8}}|{D}{{4}}[ -]{D}{{4}}|"
    f"[ -]{D}{{3}}[ -]{D}{{5}}|{D}{{2}}[ -]{D}{{3}}[ -]{D}{{3}}|{D}[ -]{D}{{3}}[ -]{D}{{4}}"
    ")(?![0-9０-９A-Za-z_])"
)
AREA_CODE = f"(?:[0０](?:[1１][0０]|[2２][0-57-9０-５７-９]|[3-9３-９]{D}{{2}}))"
EXTENSION = f"(?:(?: ?转 ?|[-—] ?){D}{{1,5}}{ENDS})?"
LANDLINE = re.compile(
    f"{ALONE}(?:[(（]{AREA_CODE}[)）] ?-? ?|{AREA_CODE}(?: ?(?:-|—{{1,2}}|–|－) ?| )?|"
    f"(?:[+＋]|00)?86[ -]?(?:10|2[0-57-9]|[3-9]{D}{{2}})[ -])"
    f"[2-8２-８]{D}{{2,3}}[ -]?{D}{{4}}{ENDS}{EXTENSION}"
)
LOCAL = re.compile(
    "(?:(?:电话|座机|固话|传真|联系方式|致电|[Tt][Ee][Ll])(?:号码?)?[:：是为]{0,2} ?|"
    "\\[座机号\\][,，、;；/或和 ]{1,2})"
    f"((?![48]00|20[0-9]{{2}}[- ]20)[2-8２-８]{D}{{2,3}}[ -]?{D}{{4}}{ENDS}{EXTENSION})"
)
QQ = re.compile(
    f"(?:QQ|[Qq]q|扣扣|企鹅号|(?<=加)[Qq]|(?<![A-Za-z])[Qq](?=号?[:：] ?{D}{{7}}))"
    "(?:群|账号|帐号|号码?|联系方式|邮箱)*"
    f"[ :：是为,，（(]{{0,3}}([1-9１-９]{D}{{4,11}})(?![0-9０-９A-Za-z@＠.年月元万亿个人次])"
)
WECHAT = re.compile(
    "(?P<word>[微薇威]信|[Vv]信|[Ww]e[Cc]hat|[Ww]eixin|(?<![A-Za-z])(?:[Vv][Xx]|W[Xx]|wx)|"
    "(?<=加)[Vv])(?:账号|帐号|号码?| ?[Ii][Dd]|同号)*(?P<sign>[ =:：是为（(]{0,3})"
    f"(?P<id>[A-Za-z][A-Za-z0-9_-]{{5,19}}|[1-9]{D}{{4,11}})(?![A-Za-z0-9_.@＠年月元万亿个人次])"
)
NO_IDENTIFIER = re.compile(
    "(?:we|wei|android|windows|iphone|ipad|ios|harmony|python|mac|ver|web|pay|mini|app|http|www)",
    re.IGNORECASE,
)
PLATE = re.compile(
    f"[{PROVINCES}][{PLATE_LETTERS}][·•. -]?(?:[0-9]{{5}}[A-HJK]|[A-HJK][A-HJ-NP-Z0-9][0-9]{{4}}|"
    "(?=(?:[A-Z]*[0-9]){3})(?:[A-HJ-NP-Z0-9]{5}|[A-HJ-NP-Z0-9]{4}[学警挂港澳领]))(?![A-Za-z0-9])"
)
CAR_SAID = re.compile("[车牌]")
IPV4 = re.compile(
    rf"(?<![0-9.]){NO_LETTER}(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}}(?![0-9A-Za-z]|\.[0-9])"
)
IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:]{4,34}(?![0-9A-Za-z:.])")
CLOCK = re.compile("[0-9]{1,2}(?::[0-9]{1,2})*")
NAME_SERVERS = frozenset(("114.114.114.114", "114.114.115.115", "119.29.29.29", "180.76.76.76"))

# What a number is, as said right before it, when it is nobody's.
OTHER_NUMBER = re.compile(
    "(?:第|帖子|密码|订单|运单|快递|物流|单|编|流水|准字|证书|学|工|货|型|批|条|条形|案|文|专利|税|信用代码|注册|"
    "许可证|备案|基金|股票|圆周率|时间戳|版本|随机|序列|商品|ISBN|ISSN|isbn|DOI|doi|[Ss]eed|[Ii][Dd])"
    "(?:编号|代码|编码|号码|[号码数])?[ #:：为是（(]{0,4}[A-Z]{0,2}\\Z"
)
PHONE_SAID = re.compile(
    "(?:电话|手机|座机|固话|传真|热线|[Tt]el|TEL|[Pp]hone|[Mm]obile)(?:号码?)?[^0-9０-９A-Za-z]{0,4}\\Z"
)
MEASURE_AFTER = re.compile(
    " ?(?:元|块钱|[万亿](?!先生|女士|经理|总|老师|医生)|个|股|吨|克|次|人(?![工事])|公里|字节|美元|"
    "[%％℃*×÷^=]|[+] ?[0-9]|- ?[0-9]{1,9}(?![0-9])|\\.[0-9])"
)
SUM_BEFORE = re.compile(r"(?:[*×÷^+=<>$￥¥#_&.]|(?<![0-9\]])/|[0-9] ?[+-]) ?\Z")
VERSION_BEFORE = re.compile(
    "(?:版本|固件|软件|章节|第|[Vv]ersion|[Vv]er|==|[>=<~]=?)[号为是:： .]{0,3}\\Z|[A-Za-z]/\\Z"
)
VERSION_AFTER = re.compile(" ?(?:版|及以上|以上版本|节|章)")
IN_URL = re.compile(r"(?:://|www\.|\.(?:com|cn|net|org|html?)/|[?&]\w+=)[^\s\u4e00-\u9fff，。]*\Z")
AFTER_LETTER = re.compile("(?<!\\\\)[A-Za-z_]-?\\Z")
AFTER_NAME = re.compile("(?:[Tt]el|TEL|[Pp]hone|[Mm]obile|QQ|qq|[Vv][Xx]|[Ww][Xx]|T)-?\\Z")
