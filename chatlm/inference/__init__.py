"""One model that answers many requests at once; token ids only, no text."""
