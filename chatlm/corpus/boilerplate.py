"""Stock phrases at both ends of an answer.

In: a question and its answer (normalised). Out: the answer without thanks for being asked, hopes to
have helped, requests to be chosen, followed or called. It removes whole sentences only, touches
nothing between them and does not judge what is left.
"""

import re

OPENINGS = (
    *("谢邀", "泻邀", "谢妖", "蟹妖", "泻药", "感谢邀", "多谢邀", "谢谢邀"),
    *("不请自来", "先问是不"),
)
CLOSINGS = (
    *("帮到", "帮助到", "协助到", "有帮助", "有所帮助", "些帮助", "点帮助", "带来帮助"),
    *("您帮助", "你帮助", "有启发", "些启发", "帮助您", "帮助你", "采纳", "以上就是"),
    *("为参考", "供参考", "击关注", "迎关注", "关注我", "公众号", "点个赞", "点赞"),
    *("私信我", "私聊我", "咨询我", "联系我"),
)
WISHES = ("身体健康", "早日康复", "恢复健康", "您健康", "你健康", "祝健康", "生活愉快")
TRIGGERS: tuple[str, ...] = (*OPENINGS, *CLOSINGS, *WISHES)
"""An answer without one of these strings is left as it is."""

_HAS_OPENING = re.compile("|".join(OPENINGS))
_HAS_CLOSING = re.compile("|".join(CLOSINGS))
_HAS_WISH = re.compile("|".join(WISHES))

_OPENING = re.compile(
    "(?:[谢泻]谢?邀请?|谢妖|蟹妖|感谢邀请?|多谢邀请?|不请自来|泻药(?=[。！~～… \n，]))"
    "(?:[了啦哈哦者])*(?: ?[@＠]\\S{1,20}(?=[ ，。\n]))?[，,。.！!、…~～：: \n]+"
    "|先问是不是[，, ]*(?:再问为什么)?[，,。.！!、…~～： \n]+"
)
_LAXATIVE = re.compile("泻|便秘|药")

_YOU = "(?:(?:你|您|大家|楼主|题主|各位|患者|朋友|提问者|咨询者|求助者)们?)"
_ANSWER = (
    "(?:回答|答案|解答|解释|回复|建议|分析|意见|内容|信息|见解|观点|看法|分享|介绍|说明|方法|经验|"
    "文字|话|指导|讲解|资料)"
)
_HELP = (
    f"(?:(?:对|给|为){_YOU}(?:的(?:问题|情况|困惑|生活|病情))?"
    "(?:能|会|可以|都)?(?:有|有所|有些|有着|起到|带来|提供)?(?:所|点|些|一点|一些|一定的?)?"
    "(?:帮助|启发)|"
    f"(?:帮助|帮|协助|帮得|帮的)(?:到|得到|上)?了?{_YOU}?|"
    "(?:有|有所|有些|带来)(?:一点|一些|一定的?)?(?:帮助|启发))"
)
_SOFT = "[哦哈啊呀吧呢了喔噢呦哟]"
_HOPE = (
    f"(?:最后|总之|真诚|真心|衷心|也|我|只|，)*(?:希望|期望|但愿|愿|盼|望)"
    f"(?:我们?|本人|这些|这|这个|以上|上述|上面|述|下面)?(?:的|一|个|条|份|些|几点|对{_YOU}的|浅见|个人)*"
    f"(?:{_ANSWER}(?:和|与|及)?){{0,2}}(?:能|能够|可以|会|或许|也|够)*{_HELP}"
    f"(?:解决问题|解惑|到|的|！|，|{_SOFT})*"
)
_WISH_TAIL = (
    f"(?:[，,。！! ]*(?:谢谢|多谢|感谢)(?:{_YOU}|支持|的|提问|咨询|阅读)*|"
    f"[，,。！! ]*祝(?:福|愿)?{_YOU}?[^，。！？\n]{{0,10}})?"
)
_ADOPT = (
    "(?:(?:如果|若|如|要是|觉得|认为|您|你|满意|有用)[^。！？\n]{0,20}[，,]?)?(?:也|还|敬|恳)*"
    f"(?:望|求|请|谢谢|记得|给个|麻烦|希望|谢){_YOU}?(?:能|可以|给予|及时|帮忙|点击|点|给)*个?采纳"
    f"(?:一下|我的|回答|答案|为|最佳|满意|支持|谢谢|感谢|[，,！!]|{_SOFT})*"
)
_THIS_IS = (
    "(?:好了|好啦|所以|那么|[，,])*(?:以上|上面|上述)(?:就|便|仅|只|都)?是[^。！？\n]{0,30}?"
    f"(?:全部内容|全部{_ANSWER}|{_ANSWER})(?:了|啦)?[，,]?(?:仅供参考|供参考)?[，,]?"
    f"(?:{_HOPE})?{_WISH_TAIL}"
)
_REFERENCE = (
    f"(?:建议)?(?:以上|上述)?(?:个人)?(?:{_ANSWER})?[，,]?(?:可以|仅|只|可|以)*"
    f"(?:供|做为|作为|当作)(?:{_YOU})?参考"
)
_FOLLOW = (
    "(?:更多[^。！？\n]{0,16}[，,])?(?:请|欢迎|可以|记得|麻烦)?(?:大家|您|你)?(?:点击|搜索|扫码|长按)?"
    "关注(?:一下|下)?(?:我|本人|微信|公众号|专栏|账号|头像|本号|官方|的)[^。！？\n]{0,24}"
    "|(?:如果|觉得|喜欢|要是)[^。！？\n]{0,20}(?:点个?赞|点个关注|双击)[^。！？\n]{0,12}|求点?赞[^。！？\n]{0,6}"
)
_CALL = (
    "(?:如果?|若|要是|有)[^。！？\n]{0,30}(?:疑问|疑惑|困惑|问题|需要|帮助|兴趣|意向|需求|困扰|愿意)"
    "[^。！？\n]{0,20}(?:可以|欢迎|请|随时|再)[^。！？\n]{0,8}(?:私信|私聊|咨询|联系)我(?!们)[^。！？\n]{0,14}"
)
_END = "[。！!？?…~～；;.、，,\\s]*\\Z"
_CLOSING = re.compile(
    f"(?:{_HOPE}{_WISH_TAIL}|{_ADOPT}|{_THIS_IS}|{_REFERENCE}|{_FOLLOW}|{_CALL}){_END}"
)
_WISH = re.compile(
    f"(?:最后|也|再次|衷心|在此)?祝(?:福|愿)?(?:{_YOU}|宝宝|孩子|老人|家人|[的和及])*"
    "(?:身体|早日|早点|尽快|尽早|一切|生活|天天|恢复|永远|能|家庭|工作)*"
    "(?:健康|康复|愉快|幸福|顺利|开心|快乐|好运|安康)(?:健康|快乐|愉快|幸福|顺利|[，,、！!])*"
    f"{_END}"
)
_LAST_STOP = re.compile("[。！？!?…~～\n](?=[^。！？!?…~～\n]*\\Z)")
_STOPS = "。！？!?…~～；;.，, \n"
_MAX_CLOSING_CHARS = 70


def strip_boilerplate(prompt: str, response: str, *, wishes: bool = False) -> str:
    """Returns `response` without stock openings and closings; empty if it was nothing else.

    With `wishes`, so goes the good wish at the end of a medical answer; letters and speeches end
    in wishes that belong to them.
    """
    text = response
    while (shorter := _closing(_opening(prompt, text), wishes)) != text:
        text = shorter
    return text


def _opening(prompt: str, text: str) -> str:
    if not _HAS_OPENING.search(text, 0, 8):
        return text
    opening = _OPENING.match(text)
    if opening is None or (text.startswith("泻药") and _LAXATIVE.search(prompt)):
        return text
    return text[opening.end() :].lstrip(" \n")


def _closing(text: str, wishes: bool) -> str:
    tail = max(0, len(text) - _MAX_CLOSING_CHARS - 8)
    closes = _HAS_CLOSING.search(text, tail)
    if not closes and not (wishes and _HAS_WISH.search(text, tail)):
        return text
    body = text.rstrip(_STOPS)
    stop = _LAST_STOP.search(body, max(0, len(body) - _MAX_CLOSING_CHARS - 1))
    start = stop.end() if stop else 0
    if len(body) - start > _MAX_CLOSING_CHARS:
        return text
    last = text[start:].lstrip(" \n")
    if (closes and _CLOSING.match(last)) or (
        wishes and _HAS_WISH.search(last) and _WISH.match(last)
    ):
        return text[:start].rstrip(" \n")
    return text
