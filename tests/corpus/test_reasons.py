"""The list of reasons is complete, and says nothing about reasons that nobody gives."""

import re
from pathlib import Path

from chatlm.corpus import reasons

CORPUS = Path(reasons.__file__).parent


def sources() -> dict[str, str]:
    found = {path.name: path.read_text(encoding="utf-8") for path in CORPUS.rglob("*.py")}
    del found["reasons.py"]
    return found


def test_every_reason_that_a_function_returns_is_in_the_list():
    given = set[str]()
    for name in ("convert.py", "filters.py", "quality.py", "variants.py"):
        text = sources()[name]
        returned = re.findall(r'^ +return "([a-z_]{4,})"(?: if .*)?$', text, re.MULTILINE)
        given.update(returned)
        given.update(re.findall(r'return None if .* else "([a-z_]{4,})"', text))
    assert given
    assert given <= set(reasons.REASONS)


def test_every_reason_of_a_reject_is_in_the_list():
    given = set[str]()
    for text in sources().values():
        given.update(re.findall(r'Rejected\([^"()]*(?:\([^()]*\))?[^"()]*"([a-z_0-9]+)"', text))
        given.update(re.findall(r'_reject\("([a-z_0-9]+)"', text))
        given.update(re.findall(r'\breason = "([a-z_0-9]+)"', text))
        given.update(re.findall(r'dropped\["([a-z_0-9]+)"\]', text))
        given.update(re.findall(r'(?:return|yield) number, .*"([a-z_0-9]+)"$', text, re.MULTILINE))
    assert {"unclosed_quote", "line_too_long", "text_outside_article", "redirect"} <= given
    assert given <= set(reasons.REASONS)


def test_every_reason_of_the_list_is_given_somewhere():
    code = "\n".join(sources().values())
    assert [name for name in reasons.REASONS if f'"{name}"' not in code] == []


def test_reasons_are_names_with_one_line_and_belong_to_one_stage():
    names = [name for stage in reasons.STAGES.values() for name in stage]
    assert len(set(names)) == len(names) == len(reasons.REASONS)
    for name, line in reasons.REASONS.items():
        assert re.fullmatch(r"[a-z0-9_]+", name)
        assert line == line.strip().rstrip(".")
        assert "\n" not in line
    assert reasons.DAMAGED <= reasons.UNREADABLE == set(reasons.READ)
