"""Relative positions: buckets and biases as literal matrices, and the same ids as transformers."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.models.t5.modeling_t5 import T5Attention

from chatlm.model.position import RelativeBias, bias_matrix, relative_buckets


def matrix(length):
    """Return key position minus query position."""
    return torch.arange(length)[None, :] - torch.arange(length)[:, None]


def test_encoder_buckets_as_a_picture():
    buckets = relative_buckets(matrix(7), bidirectional=True, num_buckets=8, max_distance=6)
    assert buckets.tolist() == [
        [0, 5, 6, 6, 7, 7, 7],
        [1, 0, 5, 6, 6, 7, 7],
        [2, 1, 0, 5, 6, 6, 7],
        [2, 2, 1, 0, 5, 6, 6],
        [3, 2, 2, 1, 0, 5, 6],
        [3, 3, 2, 2, 1, 0, 5],
        [3, 3, 3, 2, 2, 1, 0],
    ]


def test_decoder_buckets_as_a_picture():
    buckets = relative_buckets(matrix(8), bidirectional=False, num_buckets=6, max_distance=7)
    assert buckets.tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [2, 1, 0, 0, 0, 0, 0, 0],
        [3, 2, 1, 0, 0, 0, 0, 0],
        [4, 3, 2, 1, 0, 0, 0, 0],
        [4, 4, 3, 2, 1, 0, 0, 0],
        [5, 4, 4, 3, 2, 1, 0, 0],
        [5, 5, 4, 4, 3, 2, 1, 0],
    ]


@given(
    st.booleans(),
    st.sampled_from([4, 8, 16, 32, 64]),
    st.integers(33, 600),
    st.lists(st.integers(-2000, 2000), min_size=1, max_size=50),
)
def test_buckets_are_those_of_transformers(bidirectional, num_buckets, max_distance, distances):
    distance = torch.tensor(distances)
    theirs = T5Attention._relative_position_bucket(
        distance, bidirectional, num_buckets, max_distance
    )
    ours = relative_buckets(distance, bidirectional, num_buckets, max_distance)
    assert torch.equal(ours, theirs)


def relative_bias(small_config, weight, *, bidirectional, max_distance):
    config = small_config(
        relative_attention_num_buckets=len(weight),
        num_heads=weight.shape[1],
        relative_attention_max_distance=max_distance,
    )
    bias = RelativeBias(config, bidirectional=bidirectional)
    bias.weight.data = weight
    return bias


def test_bias_as_a_picture(small_config):
    weight = torch.arange(8.0)[:, None]
    bias = relative_bias(small_config, weight, bidirectional=True, max_distance=6)
    assert bias_matrix(bias, 3, 3).tolist() == [[[0.0, 5.0, 6.0], [1.0, 0.0, 5.0], [2.0, 1.0, 0.0]]]
    assert bias(2, 1).tolist() == [[2.0, 1.0, 0.0, 5.0]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(0, 40), st.booleans())
def test_bias_is_the_table_at_the_bucket_of_each_pair(
    small_config, query_length, past, bidirectional
):
    weight = torch.randn(8, 3)
    key_length = query_length + past
    distance = torch.arange(key_length)[None, :] - torch.arange(past, key_length)[:, None]
    looked_up = weight[relative_buckets(distance, bidirectional, 8, 12)].permute(2, 0, 1)
    bias = relative_bias(small_config, weight, bidirectional=bidirectional, max_distance=12)
    assert torch.equal(bias_matrix(bias, query_length, key_length), looked_up)


def test_bias_gives_each_bucket_one_gradient_per_pair_in_it(small_config):
    bias = relative_bias(small_config, torch.zeros(8, 1), bidirectional=True, max_distance=6)
    bias_matrix(bias, 9, 9).sum().backward()
    counts = relative_buckets(matrix(9), True, 8, 6).flatten().bincount(minlength=8)
    assert bias.weight.grad is not None
    assert bias.weight.grad.flatten().tolist() == counts.tolist()
