"""Clean pairs in, batches of token ids out; the order of samples is a pure function of the seed."""
