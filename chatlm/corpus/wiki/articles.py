"""Pages of a dump into the clean beginnings of their articles, many at once.

In: records with the fields `title` and `raw` (wikitext, still escaped as XML). Out: records with
`title` and `article` in the same order, both as `variants.clean_text` gives them for one page
alone. One call of the converter for many texts takes less time than one for each.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice

from chatlm.corpus.records import Read, Record, Rejected, excerpt_of
from chatlm.corpus.wiki.escapes import unescaped, unescaped_beginning
from chatlm.corpus.wiki.variants import clean_texts
from chatlm.corpus.wiki.wikitext import PREFIX_CHARS, lead_before_heading, lead_of

_BATCH = 256


def cleaned(pages: Iterable[Record | Rejected], path: str) -> Read:
    """Yields `pages` with their articles clean; those with nothing left are lost_formula."""
    # Of a page in a batch no more than its lead is kept: a text can have 16 MiB.
    short = map(_with_lead, pages)
    while batch := list(islice(short, _BATCH)):
        yield from _cleaned(batch, path)


def _with_lead(page: Record | Rejected) -> Record | Rejected:
    if isinstance(page, Rejected):
        return page
    lead = _lead(str(page.fields["raw"]))
    return Record(page.position, {"title": page.fields["title"], "lead": lead})


def _lead(raw: str) -> str:
    """Returns the lead of an escaped wikitext; decodes no more than stands before a heading."""
    heading = raw.find("\n==", 0, PREFIX_CHARS[0])
    if heading > 0 and not raw.startswith("==") and "&#" not in raw[:heading]:
        lead = lead_before_heading(unescaped(raw[:heading]))
        if lead is not None:
            return lead
    return lead_of(partial(unescaped_beginning, raw))


def _cleaned(batch: list[Record | Rejected], path: str) -> Iterator[Record | Rejected]:
    found = [one for one in batch if isinstance(one, Record)]
    pages = [(str(one.fields["title"]), str(one.fields["lead"])) for one in found]
    texts = iter(clean_texts(pages))
    for page in batch:
        if isinstance(page, Rejected):
            yield page
            continue
        title, article = next(texts)
        if not article and page.fields["lead"]:
            excerpt = excerpt_of(f"{title}\n{page.fields['lead']}")
            yield Rejected(path, page.position, "lost_formula", excerpt)
        else:
            yield Record(page.position, {"title": title, "article": article})
