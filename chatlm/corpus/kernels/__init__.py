"""Compiled loops over columns of UTF-8 text. The only rooms that import numba."""
