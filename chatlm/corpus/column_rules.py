"""What a recipe asks of the compiled pass over columns.

In: the shape of a corpus, a recipe. Out: the limits and strings that the pass looks for, and the
filters that are asked where it finds one. The pass itself stands in `kernels.clean`.
"""

from collections.abc import Iterable

from chatlm.corpus import boilerplate, filters, private, quality
from chatlm.corpus.filters import Filter
from chatlm.corpus.kernels import clean, triggers
from chatlm.corpus.kernels.screens import Limits
from chatlm.corpus.recipe import QUALITY, Recipe
from chatlm.corpus.shapes import Shape

_NEVER = 1 << 62
_MIN_NUMBER_DIGITS = 10
_NUMBER_WORDS = ("电话", "座机", "固话", "传真", "联系方式", "致电", "tel", "q:", "q：", "q号")
"""With fewer digits in a chain, `private` masks only IPv4 addresses (three points) and local
numbers after one of these words. Both are facts about its patterns, held by a test."""
_ANSWER_STRINGS = {
    "advertisement": quality.ADVERTISEMENTS,
    "as_an_ai": quality.SELVES,
    "points_elsewhere": quality.POINTERS,
}
_STRINGS = {"mojibake": quality.MOJIBAKE, "markup": quality.MARKUP}
"""The strings without which a filter does not fire, in answers only and in both texts."""


def asked_of(shape: Shape, recipe: Recipe) -> clean.Asked:
    """Returns what is asked of the rows of a corpus, as the pass wants it."""
    unended = -1 if recipe.min_unended_chars is None else recipe.min_unended_chars
    most = 1 if "table" in recipe.drop else _NEVER
    return clean.Asked(
        join=shape.join,
        prompt_is_html=shape.is_html,
        answer_is_html=shape.is_html,
        answer_has_joined_paragraphs=shape.has_joined_paragraphs,
        min_prompt_chars=recipe.min_prompt_chars,
        max_prompt_chars=recipe.max_prompt_chars,
        min_response_chars=recipe.min_response_chars,
        max_response_chars=recipe.max_response_chars,
        min_unended_chars=unended,
        min_han_share=float(recipe.min_han_share),
        not_identical="identical" in recipe.drop,
        limits=Limits(
            digits=_MIN_NUMBER_DIGITS if recipe.mask else _NEVER,
            few_digits=private.MIN_DIGITS,
            tabs=most,
            bars=most,
            loop_chars=quality.MIN_LOOP_CHARS,
            loop_probe=quality.LOOP_PROBE,
            filters=sum(map(triggers.asks, judges_of(recipe))),
        ),
    )


def judges_of(recipe: Recipe) -> dict[str, Filter]:
    """Returns the filters of a recipe that may have to be asked, in the order of judging."""
    dropped = {"table": filters.table, "translation_task": filters.translation_task}
    judges: dict[str, Filter] = {name: dropped[name] for name in recipe.drop if name in dropped}
    return judges | {name: judge for name, judge in QUALITY.items() if name in recipe.quality}


def strings_of(shape: Shape, recipe: Recipe) -> dict[str, int]:
    """Returns the strings on which a rule may fire, and where they matter."""
    places = dict[str, int]()

    def add(strings: Iterable[str], where: int) -> None:
        for text in strings:
            places[text] = places.get(text, 0) | where

    everywhere = triggers.IN_PROMPT | triggers.IN_ANSWER
    add(shape.triggers, everywhere | triggers.CONVERT)
    if recipe.mask:
        add((*private.TRIGGERS, *private.AT_SIGNS), everywhere | triggers.PRIVATE)
        add(_NUMBER_WORDS, everywhere | triggers.NUMBER_WORD)
    if recipe.boilerplate:
        add(boilerplate.OPENINGS, triggers.AT_START)
        add((*boilerplate.CLOSINGS, *boilerplate.WISHES), triggers.AT_END)
    for name, strings in _ANSWER_STRINGS.items():
        if name in recipe.quality:
            add(strings, triggers.IN_ANSWER | triggers.asks(name))
    for name, strings in _STRINGS.items():
        if name in recipe.quality:
            add(strings, everywhere | triggers.asks(name))
    if "translation_task" in recipe.drop:
        add(filters.TRIGGERS, triggers.IN_PROMPT | triggers.asks("translation_task"))
    return places
