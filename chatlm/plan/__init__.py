"""A run before it starts: how much memory, disk, time and money it takes, and how to cut it."""
