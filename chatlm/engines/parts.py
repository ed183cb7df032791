"""Which weights of a T5 are read outside of the module that owns them.

In: a model. Out: the projections that its decoder applies for all its layers at once. It moves and
gathers nothing.
"""

from collections.abc import Iterable
from typing import cast

from torch import nn

from chatlm.model.t5 import T5, DecoderLayer


def cross_projections(model: T5) -> list[nn.Module]:
    """Returns the modules that make the keys and values of all cross-attentions."""
    layers = cast(Iterable[DecoderLayer], model.decoder.layers)
    attentions = [layer.cross_attention for layer in layers]
    return [projection for own in attentions for projection in (own.k, own.v)]
