"""Chinese Wikipedia: dumps, wikitext, language variants."""
