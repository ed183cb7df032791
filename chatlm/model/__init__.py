"""Tensors in, tensors out: the T5 encoder-decoder in plain PyTorch."""
