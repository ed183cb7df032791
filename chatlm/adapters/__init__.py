"""Tuning models that others made: how they are asked, and their training data as token ids."""
