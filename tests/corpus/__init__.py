"""Tests of the corpus rooms."""
