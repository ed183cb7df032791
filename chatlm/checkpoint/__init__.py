"""Checkpoints: everything a run needs to go on, in one folder that Hugging Face opens too."""
