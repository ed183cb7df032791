"""The laws of reading Wikipedia hold for the seeds of the fuzzer and for hostile texts."""

from pathlib import Path

import pytest

from .laws import check

SEEDS = sorted((Path(__file__).parent.parent.parent / "fuzz" / "corpus" / "wiki").iterdir())


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_the_laws_hold_for_the_seeds_of_the_fuzzer(path, tmp_path):
    check(path.read_bytes(), tmp_path)


HOSTILE = {
    "templates": "{{" * 100_000,
    "closed_templates": "{{" * 100_000 + "}}" * 100_000,
    "closing": "}}" * 100_000,
    "single_braces": "{{a{b}" * 50_000,
    "triple_braces": "{{{a|" * 50_000 + "}}}" * 50_000,
    "links": "[[" * 100_000,
    "closed_links": "[[a|" * 50_000 + "]]" * 50_000,
    "brackets": "[" * 200_000,
    "external": "[//a" * 50_000,
    "external_spaces": "[//" + "a" * 100_000 + " " * 100_000,
    "tables": "{|" * 100_000,
    "closed_tables": "{|" * 50_000 + "|}" * 50_000,
    "variants": "-{" * 100_000,
    "closed_variants": "-{" * 50_000 + "}-" * 50_000,
    "variant_spaces": "-{" + " " * 200_000 + "}-",
    "variant_semicolons": "-{" + "; " * 100_000 + "zh-cn:}-",
    "refs": "<ref>" * 50_000,
    "refs_half_open": "<ref " * 50_000,
    "closing_refs": "<ref></ref" * 20_000,
    "comments": "<!--" * 50_000,
    "tags": "<span " * 40_000,
    "angles": "<" * 200_000,
    "quotes": "'" * 200_000,
    "equals": "=" * 200_000,
    "equal_lines": "\n=" * 100_000,
    "underscores": "_" * 200_000,
    "lists": "*#:;" * 50_000,
    "lines": "\n" * 200_000,
    "spaces": " " * 200_000,
    "wide_brackets": "（" * 100_000,
    "commas": "（" + "，" * 200_000,
    "commas_no_bracket": "，" * 200_000,
    "entities": "&#" * 100_000,
    "formulas": "<math>a</math>甲" * 15_000,
    "parameters": "{{lang-en" + "|a=" * 60_000 + "}}",
    "named": "{{lang|" + "a" * 200_000 + "}}",
    "nested_named": "{{lang|en|" * 20_000 + "a" * 1000 + "}}" * 20_000,
    "nowiki": "<nowiki>" + "[[" * 90_000 + "</nowiki>",
    "pipes": "[[File:" + "|" * 200_000 + "]]",
    "colons": "[[" + "a:" * 100_000 + "]]",
    "particle": "著" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_laws_hold_for_hostile_texts(name, tmp_path):
    """None may take long, either: a pass that is not linear would need minutes for these."""
    check(f"w{HOSTILE[name]}".encode(), tmp_path)
