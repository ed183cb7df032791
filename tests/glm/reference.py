"""ChatGLM-6B once more, written down from its description alone: one row, no cache, no padding."""

import math

import torch


def norm(x, weight, bias):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def turned(vector, place):
    """Return one half of a head turned by a place, its pairs taken as complex numbers."""
    n = len(vector) // 2
    angle = torch.tensor([place / 10000 ** (i / n) for i in range(n)])
    turned = torch.complex(vector[:n], vector[n:]) * torch.polar(torch.ones(n), angle)
    return torch.cat([turned.real, turned.imag])


def attention(x, state, prefix, num_heads, places, num_context):
    mixed = (
        x @ state[f"{prefix}.query_key_value.weight"].T + state[f"{prefix}.query_key_value.bias"]
    )
    width = x.shape[-1] // num_heads
    heads = []
    for head in range(num_heads):
        own = mixed[:, 3 * width * head : 3 * width * (head + 1)]
        query, key, value = own.split(width, dim=-1)
        query, key = (
            torch.stack(
                [
                    torch.cat([turned(row[: width // 2], a), turned(row[width // 2 :], b)])
                    for row, (a, b) in zip(rows, places, strict=True)
                ]
            )
            for rows in (query, key)
        )
        scores = query @ key.T / math.sqrt(width)
        for i in range(len(x)):
            for j in range(len(x)):
                if j >= num_context and j > i:
                    scores[i, j] = -math.inf
        heads.append(scores.softmax(-1) @ value)
    return torch.cat(heads, -1) @ state[f"{prefix}.dense.weight"].T + state[f"{prefix}.dense.bias"]


def mlp(x, state, prefix):
    up = x @ state[f"{prefix}.dense_h_to_4h.weight"].T + state[f"{prefix}.dense_h_to_4h.bias"]
    act = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
    return act @ state[f"{prefix}.dense_4h_to_h.weight"].T + state[f"{prefix}.dense_4h_to_h.bias"]


def hidden_states(ids, state, num_heads, sop, gmask):
    """Return the states behind the last norm for one row of ids."""
    num_context = ids.index(sop)
    places = [
        (i, 0) if i < num_context else (ids.index(gmask), i - num_context + 1)
        for i in range(len(ids))
    ]
    x = state["transformer.word_embeddings.weight"][torch.tensor(ids)]
    alpha = math.sqrt(56)
    layer = 0
    while f"transformer.layers.{layer}.mlp.dense_h_to_4h.bias" in state:
        at = f"transformer.layers.{layer}"
        a = norm(x, state[f"{at}.input_layernorm.weight"], state[f"{at}.input_layernorm.bias"])
        x = a * alpha + attention(a, state, f"{at}.attention", num_heads, places, num_context)
        at_norm = f"{at}.post_attention_layernorm"
        b = norm(x, state[f"{at_norm}.weight"], state[f"{at_norm}.bias"])
        x = b * alpha + mlp(b, state, f"{at}.mlp")
        layer += 1
    last = "transformer.final_layernorm"
    return norm(x, state[f"{last}.weight"], state[f"{last}.bias"])


def logits(ids, state, num_heads, sop, gmask):
    """Return the logits of one row of ids."""
    states = hidden_states(ids, state, num_heads, sop, gmask)
    return states @ state["lm_head.weight"].T
