"""Why rows are dropped: every reason that there is, with one line that explains it.

In: nothing. Out: tables by stage, and the sets that a report needs. A reason is a name of lower
case letters and underscores. No stage may give another; a test compares these tables with the code.
"""

READ: dict[str, str] = {
    "invalid_utf8": "the bytes are not UTF-8",
    "lone_surrogate": "an escape names half a character",
    "malformed_json": "the line is not JSON",
    "not_an_object": "the JSON value is no object with fields",
    "line_too_long": "the line does not fit into the memory that one line may take",
    "too_deep": "the JSON value nests too deeply",
    "ragged_row": "the record has more or fewer fields than the header",
    "unclosed_quote": "a quoted field does not end before a comma or a line end",
    "undecodable_bytes": "the bytes stand for no characters in the encoding of the file",
    "mixed_encoding": "the bytes could be UTF-8 and GB18030, and the file holds both",
    "nul_byte": "a NUL byte stands where text should be",
    "repeated_header": "the header line occurs again among the rows",
    "article_not_closed": "an article of a WikiExtractor has no end mark",
    "text_outside_article": "text stands before, between or behind articles of a WikiExtractor",
    "damaged_stream": "a part of a dump cannot be decompressed, or the dump ends too early",
    "page_not_closed": "a page of a dump has no end tag",
    "text_outside_page": "text stands between the pages of a dump",
    "malformed_page": "a page of a dump lacks its title, namespace, id or text",
    "text_too_long": "the text of a page is longer than any article",
}
"""The file is at fault, not the text."""

CONVERT: dict[str, str] = {
    "missing_field": "a field of the published schema is missing or is no text",
    "empty_prompt": "there is no question",
    "empty_response": "there is no answer",
    "no_output": "the answer says that there is none",
    "not_best_answer": "the asker chose another answer",
    "scripted_dialogue": "the answer is a script of several speakers",
    "malformed_conversation": "the conversation is no list of messages with a role and a text",
    "unknown_role": "a message is of nobody known: user or human, assistant or gpt, system",
    "conversation_too_long": "the conversation is longer than anyone talks",
    "system_message": "the message tells the assistant how to be, for which a prompt has no place",
    "empty_message": "the message has no text",
    "unasked_answer": "the conversation begins with an answer",
    "unanswered_question": "the conversation ends with a question",
    "empty_article": "the article has no text",
    "list_article": "the article is a list",
    "lost_formula": "the text lost a formula when it was extracted",
    "markup_left": "wiki markup is left in the text",
    "redirect": "the page redirects to another one",
    "disambiguation": "the page lists the meanings of its title",
    "other_namespace": "the page is no article",
}
"""The record gives no question with an answer."""

CLEAN: dict[str, str] = {
    "low_votes": "readers gave the answer too few votes",
    "cut_off": "the answer breaks off, and too little of it is whole sentences",
    "too_short_prompt": "the question is too short",
    "too_short_response": "the answer is too short",
    "too_long_prompt": "the question is too long",
    "too_long_response": "the answer is too long",
    "not_chinese": "neither the question nor the answer is Chinese",
    "identical": "the answer repeats the question",
    "table": "the text holds a drawn table",
    "translation_task": "the question asks for a translation",
    "repetition": "the answer repeats itself",
    "boilerplate": "the answer is nothing but stock phrases",
    "advertisement": "the answer solicits customers",
    "as_an_ai": "the answer talks of itself as a language model",
    "points_elsewhere": "the answer only says where to look",
    "no_prose": "the answer has no words",
    "markup": "the text is full of markup",
    "mojibake": "the text was decoded with the wrong encoding",
    "rejected_by_policy": "the recipe leaves this corpus out",
}
"""The text is not good enough."""

DUPLICATES: dict[str, str] = {
    "exact_duplicate": "an earlier row has the same question and answer",
    "near_duplicate": "an earlier row has nearly the same question and answer",
    "in_evaluation_set": "a row held out for evaluation asks the same",
}
"""The text is good, but was there before."""

STAGES: dict[str, dict[str, str]] = {
    "read": READ,
    "convert": CONVERT,
    "clean": CLEAN,
    "duplicates": DUPLICATES,
}
REASONS: dict[str, str] = READ | CONVERT | CLEAN | DUPLICATES

UNREADABLE = frozenset(READ)
"""Reasons that a reader gives: the file is at fault, not the text."""

DAMAGED = frozenset({"damaged_stream"})
"""A part of the file is lost: what was read is kept, but is not all."""
