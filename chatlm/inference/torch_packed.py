"""Weights laid out once for the few rows that generation multiplies at a time.

In: a T5. Out: the same T5 with transposed weights, and its head. That is for fp32 on a CPU; on
other devices and in other dtypes the layers stay as they are.

Transposed, because of how matrix libraries are made: 8 rows take half the time then, one row takes
no more, and from 2 rows on a row of a product has the same bits whatever rows stand beside it. One
row alone is another kernel with other rounding. Small weights therefore get that row twice, which
costs nothing: answers of small models do not depend on their neighbours in any bit. With large
weights, which have to be read from memory, it would cost a fifth of the speed, and is not done.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from chatlm.model.t5 import T5

Logits = Callable[[Tensor], Tensor]
"""Hidden states (..., D) in, scores (..., V) out."""

SMALL = 1 << 18
"""Values of a weight that a processor's cache holds."""


class TransposedLinear(nn.Linear):
    """A linear layer without bias and gradients; instead of `weight` it has `transposed`."""

    def __init__(self, weight: Tensor) -> None:
        """Copies the weight (outputs, inputs)."""
        nn.Module.__init__(self)
        self.register_parameter("bias", None)
        self.out_features, self.in_features = weight.shape
        self.transposed = weight.detach().t().contiguous()
        self.is_small = weight.numel() <= SMALL

    def forward(self, input: Tensor) -> Tensor:
        """Returns the product with each of the states (..., inputs)."""
        flat = input.reshape(-1, self.in_features)
        if self.is_small and len(flat) == 1:
            product = torch.mm(flat.expand(2, -1), self.transposed)[:1]
        else:
            product = torch.mm(flat, self.transposed)
        return product.view(*input.shape[:-1], self.out_features)


def packed(model: T5) -> tuple[T5, Logits]:
    """Returns the model as it generates fastest, in eval mode, and its head.

    The model that is given stays as it is and may be dropped: what is not laid out anew (the table,
    the norms, the biases) is shared with it.
    """
    model = copy.deepcopy(model, {id(own): own for own in model.parameters()}).eval()
    weight = model.embedding.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return model, model.logits
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, TransposedLinear(child.weight))
            elif type(child) is nn.Dropout:  # idle, but a call each time
                setattr(module, name, nn.Identity())
    head, scale = TransposedLinear(weight), model.config.d_model**-0.5
    return model, lambda hidden: head(hidden * scale)
