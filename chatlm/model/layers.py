"""The small parts of a block: the norm, projections that share their input, the feed-forward.

In and out: hidden states (..., D). No attention, no residual sums.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chatlm.model.config import ModelConfig

FEW_ROWS = 64
"""Up to so many rows a product is bound by reading the weights; joining them would double that."""


def joint_linear(
    states: Float[Tensor, "*B D"], layers: Sequence[nn.Linear]
) -> Float[Tensor, "*B sum_of_outputs"]:
    """Return the outputs of several linear layers without bias, side by side, as one product.

    The layers stay separate parameters, as optimizers, adapters and Hugging Face want them; joining
    copies weights, which costs little beside a product with many rows. Layers of another class (an
    adapter around a linear layer) are called one by one.
    """
    is_plain = all(type(layer) is nn.Linear for layer in layers)
    if not is_plain or states.shape[:-1].numel() <= FEW_ROWS:
        return torch.cat([layer(states) for layer in layers], dim=-1)
    return F.linear(states, torch.cat([layer.weight for layer in layers]))


class RMSNorm(nn.Module):
    """Scales each vector to root mean square 1, then by a learned weight.

    T5's oddity: no mean is subtracted and no bias added.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, d_model: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Return the normed states; half precision is squared and summed in fp32."""
        return F.rms_norm(states, self.weight.shape, self.weight, self.epsilon)


class FeedForward(nn.Module):
    """ReLU between `wi` and `wo`, or (gated) GELU(`wi_0`) times `wi_1`, then `wo`.

    Source: the gated form is GEGLU of Shazeer 2020, arXiv:2002.05202, with the tanh form of GELU.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.is_gated = config.is_gated
        if config.is_gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Return the transformed states, without the residual."""
        if self.is_gated:
            gate, up = joint_linear(states, (self.wi_0, self.wi_1)).chunk(2, dim=-1)
            inner = F.gelu(gate, approximate="tanh") * up
        else:
            inner = F.relu(self.wi(states))
        return self.wo(self.dropout(inner))
