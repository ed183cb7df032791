"""Text in, text out: raw corpora become clean question-answer pairs. Never imports torch."""
