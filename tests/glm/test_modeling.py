"""The forward pass: as described, as the official code computed it, and the same by every way."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from chatlm.glm.modeling import CACHE, ChatGLMForConditionalGeneration
from tests.glm import reference
from tests.glm.small import small_config

ROWS = [[5, 6, 7, 58, 60, 9, 8], [11, 58, 60, 4, 4, 9, 12], [58, 60, 1, 2, 3, 4, 5]]


def logits_of(model, ids, mask=None):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("num_layers", [1, 3])
def test_logits_are_those_of_the_description(make_model, num_layers):
    model = make_model(rope_precision="fp32", num_layers=num_layers)
    found = logits_of(model, torch.tensor(ROWS))
    for row, ids in enumerate(ROWS):
        expected = reference.logits(ids, model.state_dict(), 4, sop=60, gmask=58)
        assert torch.allclose(found[row], expected, rtol=1e-6, atol=1e-6 * expected.abs().max())


def golden_tensors(path):
    """Yield the tensors of the file of the official code, in its order."""
    values = path.read_bytes()
    shapes = [(5, 32), (32,), (32,), (96, 32), (96,), (32, 32), (32,), (32,), (32,)]
    shapes += [(128, 32), (128,), (32, 128), (32,), (32,), (32,)]
    kinds = [(shape, torch.float32) for shape in shapes]
    for length in (3, 1, 1):
        kinds += [((length,), torch.int32), ((length, 32), torch.float32)]
    place = 0
    for shape, kind in kinds:
        count = torch.Size(shape).numel()
        yield torch.frombuffer(bytearray(values), dtype=kind, offset=place, count=count).view(shape)
        place += 4 * count
    assert place == len(values)


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CHATLM_REAL_DATA"), reason="CHATLM_REAL_DATA is not set")
def test_golden_tensors_of_the_official_code():
    data = Path(os.environ["CHATLM_REAL_DATA"])
    tensors = list(golden_tensors(data / "golden" / "chatglm6b_layer.bin"))
    config = small_config(
        vocab_size=5, hidden_size=32, inner_hidden_size=128, num_layers=1, num_attention_heads=8,
        num_used_ids=5, bos_token_id=2, gmask_token_id=1, mask_token_id=1, eos_token_id=4,
    )  # fmt: skip
    model = ChatGLMForConditionalGeneration(config).eval()
    parameters = [p for name, p in model.named_parameters() if name != "lm_head.weight"]
    with torch.no_grad():
        for parameter, value in zip(parameters, tensors[:15], strict=True):
            parameter.copy_(value)
        model.lm_head = torch.nn.Identity()  # type: ignore[assignment]
        steps = [
            ([[0, 1, 1], [0, 0, 1]], [[1, 1, 0], [1, 1, 0], [1, 1, 1]]),
            ([[1], [2]], [[1] * 4]),
            ([[1], [3]], [[1] * 5]),
        ]
        cache = None
        for (ids, expected), (places, mask) in zip(
            zip(tensors[15::2], tensors[16::2], strict=True), steps, strict=True
        ):
            output = model(
                input_ids=ids[None].long(),
                position_ids=torch.tensor([places]),
                attention_mask=torch.tensor(mask).bool()[None, None],
                use_cache=True,
                cache=cache,
            )
            cache = output[CACHE]
            assert torch.allclose(output.logits[0], expected, rtol=1e-5, atol=1e-5)
        whole = model(input_ids=torch.arange(5)[None]).logits[0]  # sop=2, gmask=1: the same form
        assert torch.allclose(whole, torch.cat(tensors[16::2]), rtol=1e-5, atol=1e-5)


def test_prefill_equals_decoding_with_a_cache(make_model):
    model = make_model()
    ids = torch.tensor(ROWS)
    whole, cache = logits_of(model, ids), None
    with torch.no_grad():
        for start, end in pairwise([0, 5, 6, 7]):
            inputs = model.prepare_inputs_for_generation(
                ids[:, :end], use_cache=True, **{CACHE: cache}
            )
            assert inputs["input_ids"].shape[1] == end - start
            output = model(**inputs)
            cache = output[CACHE]
            if start:
                assert torch.allclose(output.logits, whole[:, start:end], atol=1e-5)
            # What the context saw while it stood alone is what it sees in the whole.
            assert torch.allclose(output.logits[2], whole[2, start:end], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(make_model, side):
    model = make_model()
    rows = [row[: 7 - i] for i, row in enumerate(ROWS)]
    ids = torch.full((3, 9), 3)
    mask = torch.zeros(3, 9, dtype=torch.long)
    for row, own in enumerate(rows):
        place = slice(9 - len(own), 9) if side == "left" else slice(0, len(own))
        ids[row, place], mask[row, place] = torch.tensor(own), 1
    found = logits_of(model, ids, mask)
    assert found.isfinite().all()
    for row, own in enumerate(rows):
        alone = logits_of(model, torch.tensor([own]))[0]
        assert torch.allclose(found[row, mask[row].bool()], alone, atol=1e-5)


def test_a_context_is_read_in_both_directions_and_an_answer_in_one(make_model):
    model = make_model()
    ids = torch.tensor([[5, 6, 7, 58, 60, 9, 8]])
    before = logits_of(model, ids)[0]
    for column, seen_from in ((1, 0), (4, 4), (5, 5)):
        changed = ids.clone()
        changed[0, column] = 33 if column != 4 else 60
        if column == 4:
            changed[0, 5] = 33
            seen_from = 5
        after = logits_of(model, changed)[0]
        differs = (after - before).abs().amax(-1) > 1e-4
        assert differs.tolist() == [place >= seen_from for place in range(7)]


def test_only_the_wanted_tokens_get_logits(make_model):
    model = make_model()
    ids = torch.tensor(ROWS)
    whole = logits_of(model, ids)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, logits_to_keep=2).logits, whole[:, -2:])
        wanted = torch.tensor([1, 4])
        assert torch.equal(model(input_ids=ids, logits_to_keep=wanted).logits, whole[:, wanted])
        by_rows = model(inputs_embeds=model.get_input_embeddings()(ids), input_ids=ids).logits
        assert torch.equal(by_rows, whole)
        assert torch.equal(model(input_ids=ids, return_dict=False)[0], whole)


def test_what_cannot_be_told_or_done_is_said(make_model):
    model = make_model()
    ids = torch.tensor(ROWS)
    cache = model(input_ids=ids, use_cache=True)[CACHE]
    with pytest.raises(ValueError, match="positions cannot be told from a part of a sequence"):
        model(input_ids=ids[:, -1:], cache=cache)
    with pytest.raises(ValueError, match="position_ids are given without their mask"):
        model(input_ids=ids, position_ids=torch.zeros(3, 2, 7, dtype=torch.long))
    with pytest.raises(ValueError, match="attentions and hidden states"):
        model(input_ids=ids, output_attentions=True)
    with pytest.raises(ValueError, match=r"row 0 of input_ids has no \[gMASK\] <sop> \(58 60\)"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


def test_rounded_angles_change_little_and_exact_ones_nothing(make_model):
    ids = torch.tensor([[*range(4, 50), 58, 60, *range(4, 50)]])
    rounded, exact = (logits_of(make_model(rope_precision=p), ids) for p in ("fp16", "fp32"))
    assert 1e-5 < (rounded - exact).abs().max() < 0.1 * exact.abs().max()


def test_half_precision_stays_near_and_finite(make_model):
    model = make_model()
    expected = logits_of(model, torch.tensor(ROWS))
    for dtype, tolerance in ((torch.float16, 0.01), (torch.bfloat16, 0.06)):
        half = make_model().to(dtype)
        for layer in half.modules():
            if isinstance(layer, torch.nn.LayerNorm):
                layer.float()
        found = logits_of(half, torch.tensor(ROWS))
        assert found.dtype == dtype
        assert (found.float() - expected).abs().max() < tolerance * expected.abs().max()
