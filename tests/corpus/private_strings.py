"""Labelled Chinese strings with and without private data, all made up.

In: a seed. Out: `Labelled` strings, about half of them with a private value. Every value is drawn
at random in a format that people write, every sentence around it was written for this file. The
strings without a private value hold numbers and names that look like one.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
WIDE = {0x30 + digit: 0xFF10 + digit for digit in range(10)}


@dataclass(frozen=True)
class Labelled:
    """A string, the kind of private value in it ("" for none), and the value."""

    text: str
    kind: str
    value: str
    family: str


def labelled(seed: int, per_kind: int) -> list[Labelled]:
    """Returns `per_kind` strings of each kind of private value, and as many others in all."""
    rng = random.Random(seed)
    found = list[Labelled]()
    for kind, (value, contexts) in POSITIVE.items():
        for _ in range(per_kind):
            made, context = value(rng), rng.choice(contexts)
            found.append(Labelled(context.replace("{}", made), kind, made, context))
    families = list(NEGATIVE.items())
    for number in range(len(found)):
        family, make = families[number % len(families)]
        found.append(Labelled(make(rng), "", "", family))
    rng.shuffle(found)
    return found


def digits(rng: random.Random, num: int) -> str:
    """Returns `num` random digits."""
    return "".join(rng.choice("0123456789") for _ in range(num))


def mobile(rng: random.Random) -> str:
    """Returns a mobile number in one of the ways to write one."""
    number = "1" + rng.choice("3456789") + digits(rng, 9)
    a, b, c = number[:3], number[3:7], number[7:]
    plain = [number] * 6
    return rng.choice(
        [
            *plain,
            *(f"{a}-{b}-{c}", f"{a} {b} {c}", f"{a}{b} {c}", f"{a} {b}{c}", f"{a}.{b}.{c}"),
            *(f"+86{number}", f"+86 {number}", f"+86-{a}-{b}-{c}", f"86-{number}", f"0086{number}"),
            *(
                f"(+86){number}",
                number.translate(WIDE),
                f"0{number}",
                f"{number[:5]} {number[5:8]} {c[1:]}",
            ),
        ]
    )


def landline(rng: random.Random) -> str:
    """Returns a number with its area code, perhaps with an extension."""
    area, places = rng.choice(
        [("010", 8), ("021", 8), ("0755", 8), ("0571", 8), ("029", 8), ("0931", 7), ("0454", 7)]
    )
    local = rng.choice("2345678") + digits(rng, places - 1)
    split = f"{local[:-4]} {local[-4:]}"
    return rng.choice(
        [
            *(f"{area}-{local}", f"{area}-{local}", f"({area}){local}", f"（{area}）{local}"),
            *(f"{area} {local}", f"{area}{local}", f"{area}-{split}", f"{area}－{local}"),
            *(f"{area}-{local}-{digits(rng, 3)}", f"{area}-{local}转{digits(rng, 3)}"),
            *(f"+86-{area[1:]}-{local}", f"{area}-{local}".translate(WIDE), f"{area}—{local}"),
        ]
    )


def identity(rng: random.Random) -> str:
    """Returns 18 places with a right check digit."""
    area = rng.choice(("110101", "310115", "440305", "510104", "330106", "620102", "230103"))
    year = rng.choice(("19", "20"))
    year += f"{rng.randrange(50, 99)}" if year == "19" else f"{rng.randrange(0, 19):02}"
    birth = f"{year}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}"
    head = f"{area}{birth}{digits(rng, 3)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    check = "10X98765432"[sum(int(d) * w for d, w in zip(head, weights, strict=True)) % 11]
    number = head + check
    return rng.choice(
        [
            *[number] * 5,
            *(number.lower(), number.translate(WIDE), f"{area} {birth} {number[14:]}"),
            f"{area}-{birth}-{number[14:]}",
        ]
    )


def bankcard(rng: random.Random) -> str:
    """Returns 16 to 19 digits with a right Luhn sum."""
    start = rng.choice(("622202", "621700", "622848", "436742", "521899", "356827", "955880"))
    head = start + digits(rng, rng.choice((16, 19, 19, 19, 18, 17)) - 7)
    doubled = sum(int(d) * 2 - 9 * (d > "4") for d in head[::-2])
    number = head + str(-(doubled + sum(map(int, head[-2::-2]))) % 10)
    fours = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
    return rng.choice(
        [number, number, number, fours, fours.replace(" ", "-"), number.translate(WIDE)]
    )


def email(rng: random.Random) -> str:
    """Returns an address of e-mail."""
    first = rng.choice(("zhang.wei", "liming", "wang_fang", "chen-jie", "hello", "xiaoyu", "a"))
    name = rng.choice((first, f"{first}{digits(rng, 3)}", digits(rng, 9), f"{first}+news"))
    host = rng.choice(
        ("qq.com", "163.com", "126.com", "gmail.com", "mail.pku-made-up.edu.cn", "vip.sina.com")
    )
    host = rng.choice((host, f"firma{digits(rng, 2)}.com.cn", host.upper()))
    return f"{name}{rng.choice('@@@@@@＠')}{host}"


def qq(rng: random.Random) -> str:
    """Returns the digits of a QQ number."""
    return rng.choice("123456789") + digits(rng, rng.randrange(4, 10))


def wechat(rng: random.Random) -> str:
    """Returns an identifier of WeChat."""
    name = rng.choice(("lily", "zhangsan", "happy", "feng", "xiaomi", "doctor", "study"))
    ends = (
        f"_{digits(rng, 3)}",
        f"{digits(rng, 4)}",
        f"-{digits(rng, 2)}",
        f"{name}{digits(rng, 2)}",
    )
    return (name + rng.choice(ends))[:20]


def plate(rng: random.Random) -> str:
    """Returns the plate of a car, also of a new-energy car."""
    head = rng.choice(PROVINCES) + rng.choice(LETTERS)
    new_energy = (f"{rng.choice('DF')}{digits(rng, 5)}", f"{digits(rng, 5)}{rng.choice('DF')}")
    tail = rng.choice(
        [
            *[digits(rng, 5)] * 3,
            *(f"{rng.choice(LETTERS)}{digits(rng, 4)}", f"{digits(rng, 4)}{rng.choice(LETTERS)}"),
            *new_energy,
        ]
    )
    return head + rng.choice(("", "", "", "·", " ")) + tail


def address(rng: random.Random) -> str:
    """Returns a public IPv4 or IPv6 address."""
    if rng.random() < 0.3:
        groups = [f"{rng.randrange(0x1000, 0xFFFF):x}" for _ in range(6)]
        return rng.choice((f"2408:8{digits(rng, 3)}:", f"240e:3{digits(rng, 3)}:")) + ":".join(
            groups
        )
    first = rng.choice((36, 39, 58, 61, 101, 111, 116, 121, 183, 202, 218, 222))
    return f"{first}." + ".".join(str(rng.randrange(10, 250)) for _ in range(3))


_PHONE_CONTEXTS = (
    *(
        "{}",
        "我的电话是{}，有事打给我。",
        "联系人：王女士{}",
        "电话:{} 地址在人民路",
        "请拨打{}咨询报名",
    ),
    *("有意者联系{}张先生", "打{}找我就行", "加我{}，备注来意", "手机{}（微信同号）", "Tel:{}"),
    *(
        "预约热线：{}。",
        "您可以打这个号{}问问",
        "【联系方式】{}\n【地址】学府街",
        "客户留的是{}吗？",
    ),
    *("订单有问题请打{}", "他说号码是“{}”，别忘了", "{}是我老婆的号", "电话：{}/值班室"),
)
_NUMBER_CONTEXTS = (
    "{}",
    "我的身份证号是{}。",
    "身份证：{}，请核对",
    "证件号{}已登记",
    "姓名李四，{}，男",
)
POSITIVE: dict[str, tuple[Callable[[random.Random], str], tuple[str, ...]]] = {
    "mask_mobile": (mobile, _PHONE_CONTEXTS),
    "mask_landline": (landline, _PHONE_CONTEXTS),
    "mask_identity": (identity, _NUMBER_CONTEXTS),
    "mask_bankcard": (
        bankcard,
        (
            "{}",
            "卡号{}，户名王五",
            "请打到{}这张卡上。",
            "银行卡：{}",
            "工行 {} 张三",
            "账号是{}，谢谢",
        ),
    ),
    "mask_email": (
        email,
        (
            *(
                "{}",
                "邮箱{}谢谢",
                "请发到{}。",
                "邮箱:{}",
                "我的邮箱是{}，麻烦发一份",
                "求资料{}多谢了",
            ),
            *("简历投{}（注明岗位）", "有的话发我{}好吗", "E-mail：{}\n电话面议", "<{}>"),
        ),
    ),
    "mask_qq": (
        qq,
        (
            *("QQ：{}", "我的QQ是{}", "加qq{}聊", "qq号码：{}，欢迎来问", "QQ群{}等你", "扣扣{}"),
            *("QQ {}", "联系QQ:{}。", "企鹅号：{}", "QQ号为{}", "加Q{}"),
        ),
    ),
    "mask_wechat": (
        wechat,
        (
            *(
                "微信：{}",
                "我的微信号是{}",
                "加微信{}详聊",
                "微信号：{}，备注姓名",
                "薇信:{}",
                "vx：{}",
            ),
            *("VX:{} 非诚勿扰", "加V：{}", "wx号{}", "威信：{}", "微信号{}的朋友", "WeChat ID: {}"),
        ),
    ),
    "mask_plate": (
        plate,
        (
            *("{}", "车牌号{}的车主请挪车", "我的车是{}，停在楼下", "车牌：{}", "看见{}闯了红灯"),
            *("一辆{}的白色轿车", "（{}）已报案", "尾号限行，{}能上路吗"),
        ),
    ),
    "mask_address": (
        address,
        (
            *("{}", "服务器地址是{}，登不上", "IP：{}", "来自{}的访问被拒绝", "ping {} 超时"),
            *("ip地址为{}。", "对方IP {} 在哪里", "http://{}/index"),
        ),
    ),
}


def _number(rng: random.Random, *starts: str, num: int) -> str:
    start = rng.choice(starts)
    return start + digits(rng, num - len(start))


def _ipv4(rng: random.Random, start: str) -> str:
    return start + ".".join(str(rng.randrange(1, 250)) for _ in range(4 - start.count(".")))


NEGATIVE: dict[str, Callable[[random.Random], str]] = {
    "service": lambda r: (
        f"遇到危险请拨打{r.choice(('110', '119', '120', '12315', '12345', '12306', '10086'))}。"
    ),
    "bank hotline": lambda r: f"客服电话{_number(r, '955', num=5)}，全天接听",
    "free call": lambda r: (
        f"全国热线：{r.choice(('400', '800'))}{r.choice(('-', ' ', ''))}{digits(r, 3)}"
        f"{r.choice(('-', ''))}{digits(r, 4)}"
    ),
    "year": lambda r: (
        f"{r.randrange(1900, 2030)}年{r.randrange(1, 13)}月{r.randrange(1, 29)}日出生"
    ),
    "years": lambda r: f"他在{r.randrange(1900, 1990)}-{r.randrange(1990, 2030)}年间住在这里",
    "date": lambda r: f"更新于20{digits(r, 2)}0{r.randrange(1, 10)}1{digits(r, 1)}",
    "price": lambda r: f"总价{_number(r, '13', '15', '18', num=11)}元",
    "amount": lambda r: f"市值{_number(r, '13', '17', num=11)}美元，约合{digits(r, 4)}亿元",
    "isbn": lambda r: f"ISBN {_number(r, '9787', num=13)}，定价{digits(r, 2)}.00元",
    "isbn dashes": lambda r: f"ISBN：978-7-{digits(r, 3)}-{digits(r, 5)}-{digits(r, 1)}",
    "order": lambda r: f"订单号：{_number(r, '13', '15', '19', num=11)}还没有发货",
    "long order": lambda r: f"订单编号{_number(r, '2', '1', num=18)}，请查收",
    "parcel": lambda r: f"快递单号{_number(r, '15', '17', num=11)}到哪了",
    "item": lambda r: f"我要买{_number(r, '5', '6', num=12)}两件",
    "decimal": lambda r: f"π约为3.{_number(r, '14159', num=15)}",
    "fraction": lambda r: f"结果是0.{_number(r, '13', '15', num=11)}左右",
    "sum": lambda r: f"{_number(r, '13', num=11)}*{digits(r, 3)}等于多少",
    "plus": lambda r: f"计算{digits(r, 8)}+{_number(r, '13', '15', num=11)}的结果",
    "version": lambda r: (
        f"请升级到版本{r.randrange(10, 99)}.{digits(r, 2)}.{digits(r, 2)}.{digits(r, 2)}"
    ),
    "small version": lambda r: (
        f"软件{r.randrange(1, 9)}.{r.randrange(9)}.{r.randrange(9)}.{r.randrange(9)}"
    ),
    "section": lambda r: (
        f"见第{r.randrange(1, 9)}.{r.randrange(9)}.{r.randrange(9)}.{r.randrange(9)}节"
    ),
    "loopback": lambda r: f"访问127.0.0.1:{digits(r, 4)}即可",
    "private net": lambda r: f"路由器地址是{_ipv4(r, r.choice(('192.168.', '10.', '172.16.')))}",
    "documentation": lambda r: (
        f"例如{r.choice(('203.0.113', '198.51.100', '192.0.2'))}.{r.randrange(1, 250)}"
    ),
    "mask": lambda r: f"子网掩码255.255.{r.choice(('255', '240', '0'))}.0",
    "not an address": lambda r: (
        f"{r.randrange(256, 999)}.{digits(r, 3)}.{digits(r, 3)}.{digits(r, 3)}无效"
    ),
    "code name": lambda r: f"变量id{_number(r, '13', '18', num=11)}没有定义",
    "url": lambda r: f"https://www.baidu.com/p/{_number(r, '13', '15', num=11)}.html",
    "url query": lambda r: f"见 http://a.com.cn/?id={_number(r, '13', '15', num=11)}",
    "decorator": lambda r: f"@app.route('/user/{digits(r, 3)}')",
    "git": lambda r: f"git clone git@github.com:demo/repo{digits(r, 2)}.git",
    "mention": lambda r: f"感谢@小明{digits(r, 4)} 的邀请",
    "package": lambda r: f"npm install vue@{r.randrange(2, 4)}.{digits(r, 1)}.{digits(r, 2)}",
    "example mail": lambda r: f"邮箱格式如user{digits(r, 2)}@example.com",
    "password": lambda r: f"密码是P@ss{digits(r, 4)}，太弱了",
    "qq word": lambda r: f"QQ{r.randrange(2004, 2020)}年有{r.randrange(1, 9)}亿用户",
    "qq amount": lambda r: f"充值QQ币{digits(r, 2)}个",
    "wechat word": lambda r: (
        f"微信{r.choice(('Android', 'Windows', 'iPhone', 'MacBook'))}版怎么下载"
    ),
    "wechat version": lambda r: f"微信{r.randrange(6, 9)}.0.{digits(r, 2)}更新了",
    "wx": lambda r: f"用wxPython{r.randrange(3, 5)}写界面",
    "stock": lambda r: f"股票代码{_number(r, '600', '000', '300', num=6)}今天涨了",
    "bond": lambda r: f"发行{digits(r, 2)}苏州高新SCP{digits(r, 3)}",
    "province letter": lambda r: f"新A股和新B股，浙E{digits(r, 2)}不是车",
    "train": lambda r: f"坐G{digits(r, 4)}次到京",
    "licence": lambda r: f"国药准字H{_number(r, '1', '2', num=8)}",
    "document": lambda r: f"发文〔20{digits(r, 2)}〕{digits(r, 3)}号",
    "student": lambda r: f"学号：{_number(r, '13', '15', '18', num=11)}",
    "bad identity": lambda r: f"编号为{_number(r, '99', '88', num=18)}的展品",
    "luhn broken": lambda r: f"流水号{_number(r, '62', num=16)}",
    "credit code": lambda r: f"统一社会信用代码9131{digits(r, 5)}MA1K{digits(r, 4)}X",
    "timestamp": lambda r: f"时间戳{_number(r, '15', '16', num=13)}",
    "binary": lambda r: f"二进制{''.join(r.choice('01') for _ in range(16))}",
    "population": lambda r: f"人口{_number(r, '13', '14', num=10)}人",
    "time": lambda r: f"{r.randrange(10, 24)}:{r.randrange(10, 60)}:{r.randrange(10, 60)}开始",
    "mac": lambda r: "MAC " + ":".join(f"{r.randrange(16, 255):02x}" for _ in range(6)),
    "ratio": lambda r: (
        f"猫：鱼：：狗：骨头，{digits(r, 1)}:{digits(r, 1)}::{digits(r, 1)}:{digits(r, 1)}"
    ),
    "poem": lambda r: f"一二三四五，上山打老虎，{'哈' * r.randrange(2, 9)}",
    "score": lambda r: f"考了{digits(r, 3)}分，排名第{digits(r, 2)}",
    "phone year": lambda r: f"电话是{r.randrange(1850, 1900)}年发明的",
}
