"""The small parts of a block: the norm and the feed-forward.

In and out: hidden states (B, T, D). No attention, no residual sums.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chatlm.model.config import ModelConfig


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

    def forward(self, states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the transformed states, without the residual."""
        if self.is_gated:
            inner = F.gelu(self.wi_0(states), approximate="tanh") * self.wi_1(states)
        else:
            inner = F.relu(self.wi(states))
        return self.wo(self.dropout(inner))
