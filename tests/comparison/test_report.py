"""What the terminal, the page and the JSON file show of a comparison with known answers."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from chatlm.comparison import columns, files, page, screen
from chatlm.comparison.settings import CompareConfig
from chatlm.errors import DataError
from tests.comparison import scripted

WIDE = """\
out/zh/step_000040 ↔ base

                  微调后    底座       差   参考
 ───────────────────────────────────────────────
 chrF               24.6    42.5    −17.9
 BLEU-4             20.9    15.3     +5.5
 ROUGE-L            38.9    37.3     +1.6
 参考答案的损失    2.250   3.000   −0.750
 每字比特数        3.500   4.750   −1.250
 被截断            33.3%    0.0%   +33.3%
 重复              33.3%    0.0%   +33.3%   0.0%
 重复的 4 元组     29.0%    0.0%   +29.0%   0.0%
 空回答             0.0%   33.3%   −33.3%   0.0%
 平均字数             23      13       +9     14

问题：data/a.json：300 行里留出 3 个不同的问题，问了 3 个；未取：不是留出的 297
胜负：胜 2，平 0，负 1；chrF 平均 +14.45（95% 区间 −53.65 到 +92.85），符号检验
p=1：看不出差别：区间含 0
遗忘：+0.030 nat/token，KL 0.013（日常问答的 900 个 token）；1 个回答和底座相似
chrF 4，相同 0%
注意：训练用的是别的文件

全部 3 行 ──────────────────────────────────────────────────────────────────────
问 三原色是什么？  胜 +92.9

 微调后                      底座                      参考
 ──────────────────────────────────────────────────────────────────────────────
 三原色是红、绿、蓝。        天空是蓝色的。            三原色是红、绿、蓝。
                                                       另有 1 个

问 列出三种水果。  胜 +4.2

 微调后                      底座                      参考
 ──────────────────────────────────────────────────────────────────────────────
 苹果，苹果，苹果，苹果，    （空）                    苹果、香蕉、葡萄。
 苹果，苹果，苹果，苹果，
 苹果  ⟳重复  ✂截断

问 Name a <b>fruit</b> & say why.  负 −53.7

 微调后                      底座                      参考
 ──────────────────────────────────────────────────────────────────────────────
 Banana                      An apple, since it is     An apple, because it is
 <script>alert(1)</script>   sweet.                    sweet.
"""
NARROW = """\
out/zh/step_000040

                 微调后
 ──────────────────────
 被截断           33.3%
 重复             33.3%
 重复的 4 元组    29.0%
 空回答            0.0%
 平均字数            23

问题：data/a.json：问了 3 个；未取：不是留出的 297
注意：训练用的是别的文件

前 2 行 ──────────────────────────────────────────
问 三原色是什么？
微调后  三原色是红、绿、蓝。

问 Name a <b>fruit</b> & say why.
微调后  Banana <script>alert(1)</script>
"""
LOST = """\
<article class="row loss">
<div class="ask"><p class="text" lang="en">Name a &lt;b&gt;fruit&lt;/b&gt; &amp; say why.</p>\
<span class="gain down">负 −53.7</span></div>
<div class="said">
<div class="tuned"><p class="who">微调后 <small>tuned</small></p>\
<p class="text" lang="en">Banana &lt;script&gt;alert(1)&lt;/script&gt;</p>\
<span class="tag">chrF 10.2</span><span class="tag">BLEU 0.0</span>\
<span class="tag">ROUGE-L 0.0</span></div>
<div class="base"><p class="who">底座 <small>base</small></p>\
<p class="text" lang="en">An apple, since it is sweet.</p>\
<span class="tag">chrF 63.9</span><span class="tag">BLEU 50.0</span>\
<span class="tag">ROUGE-L 83.3</span></div>
<div class="reference"><p class="who">参考 <small>reference</small></p>\
<p class="text" lang="en">An apple, because it is sweet.</p></div>
</div>
</article>
"""
ROW = {
    "base": {
        "bleu4": 0.0,
        "chrf": 0.0,
        "is_cut": False,
        "is_repetitive": False,
        "num_tokens": 0,
        "blank_end": 0,
        "repeated": 0.0,
        "rouge_l": 0.0,
        "text": "",
    },
    "gain": 4.15159,
    "language": "zh",
    "outcome": "win",
    "question": "列出三种水果。",
    "references": ["苹果、香蕉、葡萄。"],
    "tuned": {
        "bleu4": 2.88916,
        "chrf": 4.15159,
        "is_cut": True,
        "is_repetitive": True,
        "num_tokens": 24,
        "blank_end": 0,
        "repeated": 0.869565,
        "rouge_l": 16.6667,
        "text": "苹果，苹果，苹果，苹果，苹果，苹果，苹果，苹果，苹果",
    },
}
TUNED = {
    "bits_per_char": 3.5,
    "bleu4": 20.8761,
    "chrf": 24.6059,
    "cut": 0.333333,
    "empty": 0.0,
    "mean_chars": 22.6667,
    "nats_per_token": 2.25,
    "num_tokens": 40,
    "repeated": 0.289855,
    "repetitive": 0.333333,
    "rouge_l": 38.8889,
}
CONTEST = {
    "high": 92.8534,
    "losses": 1,
    "low": -53.6507,
    "mean_gain": 14.4514,
    "p_value": 1.0,
    "ties": 0,
    "verdict": "open",
    "wins": 2,
}


class Outline(HTMLParser):
    """Sees to it that every element is closed, and collects what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.names: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def shown(comparison, rows, width):
    out = io.StringIO()
    screen.show(comparison, rows, Console(file=out, width=width, highlight=False))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().rstrip().splitlines())


def test_the_terminal_shows_figures_and_answers_side_by_side():
    assert shown(scripted.comparison(), 10, 80) == WIDE


def test_on_a_narrow_terminal_answers_stand_one_under_the_other():
    alone = scripted.comparison(has_references=False, has_base=False)
    assert shown(alone, 2, 50) == NARROW


def test_the_page_escapes_what_models_and_files_say():
    text = page.render(scripted.comparison())
    assert LOST in text
    assert "<script" not in text
    assert "\x1b" not in text
    assert "[31m" not in text
    assert "天空是蓝色的。" in text
    assert "每个参考答案的每个 token（连同结尾）同样计入" in text
    assert "count each token of each reference alike" in text
    hostile = replace(scripted.comparison(), model='"><img src=x onerror=alert(1)>')
    assert "<img" not in page.render(hostile)


@pytest.mark.parametrize("has_base", [True, False])
@pytest.mark.parametrize("has_references", [True, False])
def test_the_page_is_well_formed_and_needs_nothing_from_outside(has_base, has_references):
    comparison = scripted.comparison(has_references=has_references, has_base=has_base)
    text = page.render(comparison)
    outline = Outline()
    outline.feed(text)
    outline.close()
    assert outline.open == []
    assert not outline.tags & {"script", "link", "img", "iframe", "object"}
    assert not {name for name in outline.names if name.startswith("on")} | (
        outline.names & {"src", "href"}
    )
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?:", text)
    assert ("底座 <small>base" in text) is has_base
    assert ("An apple, because it is sweet." in text) is has_references
    assert ('for="loss"' in text) is (has_base and has_references)


def test_every_choice_of_rows_has_its_rule():
    text = page.render(scripted.comparison())
    for name in ("win", "tie", "loss"):
        assert f'id="{name}"' in text
        assert f"#{name}:checked ~ .row:not(.{name})" in text


def test_the_json_has_all_figures_without_rounding_them_away():
    content = scripted.comparison().as_dict()
    assert content["rows"][2] == ROW
    assert content["figures"]["tuned"] == TUNED
    assert content["contest"] == CONTEST
    assert content["probe"]["forgetting"] == 0.03
    assert content["data"] == {
        "asked": 3,
        "held_out": 3,
        "left_out": {"not_held_out": 297},
        "rows_in": 300,
        "sha256": "ab" * 32,
        "source": "data/a.json",
    }
    alone = scripted.comparison(has_references=False, has_base=False).as_dict()
    assert alone["contest"] is alone["probe"] is None
    assert alone["figures"].keys() == {"tuned"}
    assert "chrf" not in alone["figures"]["tuned"]
    assert alone["rows"][0].keys() == {"question", "language", "references", "tuned", "outcome"}


def test_the_files_are_the_same_for_the_same_comparison(tmp_path):
    first = files.write(scripted.comparison(), tmp_path / "a")
    second = files.write(scripted.comparison(), tmp_path / "b")
    assert [path.name for path in first] == ["comparison.json", "comparison.html"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert json.loads(first[0].read_text("utf-8")) == scripted.comparison().as_dict()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        files.write(scripted.comparison(), tmp_path / "file")


@pytest.mark.parametrize(
    ("settings", "model", "expected"),
    [
        (
            {"data": "data/alpaca_data_zh.json"},
            "out/zh/step_000024",
            "out/compare-zh-alpaca_data_zh",
        ),
        ({"questions": "q.txt"}, "models/glm", "out/compare-glm-q"),
        ({}, "out/zh/step_000024", "out/compare-zh-questions"),
        ({"out": "x/y"}, "out/zh/step_000024", "x/y"),
    ],
)
def test_files_lie_in_a_folder_of_the_run_and_the_data(settings, model, expected, tmp_path):
    found = files.folder_of(CompareConfig(**settings), tmp_path / model)
    assert str(found) == expected


def test_shown_are_the_largest_gains_the_largest_losses_and_some_between():
    rows = scripted.with_gains([3.0, -9.0, 0.5, 8.0, -2.0, 7.0, 1.5, 2.0, -0.5])

    def gains(show):
        found = columns.picked(rows, show)
        return [(name, [row.gain for row in some]) for name, some in found]

    assert gains(5) == [
        ("进步最大的", [8.0, 7.0]),
        ("退步最大的", [-9.0]),
        ("居中的", [1.5, 0.5]),
    ]
    assert gains(0) == []
    assert gains(9) == [("全部", [8.0, 7.0, 3.0, 2.0, 1.5, 0.5, -0.5, -2.0, -9.0])]
    only_gains = columns.picked(scripted.with_gains([5.0, 4.0, 3.0, 2.0]), 3)
    assert [name for name, _ in only_gains] == ["进步最大的", "进步最小的", "居中的"]
    assert columns.signed(-0.004, ".2f") == "0.00"
