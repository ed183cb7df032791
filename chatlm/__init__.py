"""ChatLM: train a small Chinese chat model from scratch, or tune an existing one with LoRA.

Importing this package imports nothing heavy: `--help` and a mistyped key answer in under a second.
"""

__version__ = "0.1.0"
