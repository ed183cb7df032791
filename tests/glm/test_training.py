"""Loss and gradients as the reference has them, whatever saves memory; LoRA; published sizes."""

import pytest
import torch
from torch.nn import functional as F

from chatlm.adapters.base import recompute_activations
from chatlm.glm import modeling
from chatlm.glm.configuration import ChatGLMConfig
from chatlm.glm.modeling import ChatGLMForConditionalGeneration
from tests.glm import reference

ROWS = [[5, 6, 7, 58, 60, 9, 8, 61], [11, 58, 60, 4, 61]]
SOP = 60


@pytest.fixture
def batch():
    """Return a batch padded on the right, labels behind <sop>."""
    length = max(map(len, ROWS))
    ids = torch.tensor([row + [3] * (length - len(row)) for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ROWS])
    labels = ids.masked_fill(mask == 0, -100)
    for row, own in enumerate(ROWS):
        labels[row, : own.index(SOP) + 1] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def expected_losses(model):
    """Return the losses of all labelled tokens, by the reference."""
    for ids in ROWS:
        logits = reference.logits(ids, dict(model.named_parameters()), 4, sop=SOP, gmask=58)
        start = ids.index(SOP)
        targets = torch.tensor(ids[start + 1 :])
        yield F.cross_entropy(logits[start:-1], targets, reduction="none")


def test_loss_and_gradients_are_those_of_the_reference(make_model, batch):
    model = make_model(rope_precision="fp32", num_layers=2).train()
    losses = torch.cat(list(expected_losses(model)))
    assert len(losses) == 5
    losses.mean().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    output = model(**batch)
    assert output.logits is None
    assert torch.allclose(output.loss, losses.mean(), rtol=1e-5)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        largest = expected[name].abs().max()
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-4, atol=1e-5 * largest), name


def gradients(model, batch, **settings):
    model.zero_grad()
    model(**batch, **settings).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_checkpointing_changes_no_gradient_and_keeps_no_inner_states(make_model, batch):
    model = make_model().train()
    expected = gradients(model, batch)
    calls = []
    for layer in model.transformer.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    recompute_activations(model)
    found = gradients(model, batch)
    assert len(calls) == 2 * len(model.transformer.layers), "each layer is computed twice"
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    layer = model.transformer.layers[0]
    assert layer._gradient_checkpointing_func.keywords == {"use_reentrant": False}


def test_chunks_change_nothing_and_only_labelled_tokens_get_logits(make_model, batch, monkeypatch):
    model = make_model().train()
    rows = []
    model.lm_head.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    expected = gradients(model, batch)
    assert rows == [5, 5], "once forward, once backward"
    monkeypatch.setattr(modeling, "CHUNK_ROWS", 2)
    rows.clear()
    found = gradients(model, batch)
    assert sorted(rows) == [1, 1, 2, 2, 2, 2]
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-7), name


def test_the_sum_is_divided_by_what_the_trainer_counted(make_model, batch):
    model = make_model().train()
    mean = model(**batch).loss
    assert torch.allclose(model(**batch, num_items_in_batch=10).loss, mean / 2)
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    loss = model(**nothing).loss
    loss.backward()
    assert loss.item() == 0


def test_logits_come_with_the_loss_where_they_are_asked_for(make_model, batch):
    model = make_model()
    output = model(**batch, logits_to_keep=0)
    assert output.logits.shape == (2, 8, 64)
    assert torch.allclose(output.loss, model(**batch).loss)


def test_the_loss_is_fp32_in_half_models(make_model, batch):
    model = make_model().to(torch.bfloat16)
    loss = model(**batch).loss
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, make_model()(**batch).loss, rtol=0.05)


def test_the_published_sizes():
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(ChatGLMConfig())
    assert sum(p.numel() for p in model.parameters()) == 6_707_929_088
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    expected = {"transformer.word_embeddings.weight": [130528, 4096]}
    expected["lm_head.weight"] = [130528, 4096]
    norms = ["transformer.final_layernorm"]
    for layer in range(28):
        at = f"transformer.layers.{layer}"
        norms += [f"{at}.input_layernorm", f"{at}.post_attention_layernorm"]
        for name, shape in (
            ("attention.query_key_value", [12288, 4096]),
            ("attention.dense", [4096, 4096]),
            ("mlp.dense_h_to_4h", [16384, 4096]),
            ("mlp.dense_4h_to_h", [4096, 16384]),
        ):
            expected[f"{at}.{name}.weight"], expected[f"{at}.{name}.bias"] = shape, shape[:1]
    for name in norms:
        expected[f"{name}.weight"] = expected[f"{name}.bias"] = [4096]
    assert shapes == expected
    assert len(shapes) + 28 == 368, "the index has 28 tables of frequencies more"
    norm_names = {name for name in shapes if "layernorm" in name}
    stored = sum(
        p.numel() * (4 if name in norm_names else 2) for name, p in model.named_parameters()
    )
    assert stored + 28 * 32 * 2 == 13_416_793_856
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8))
    trainable = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trainable.values()) == 3_670_016
    assert all("query_key_value.lora_" in name for name in trainable)


def test_lora_begins_as_the_base_and_learns(make_model, batch):
    from peft import LoraConfig, get_peft_model

    model = make_model()
    before = model(**batch).loss.item()
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8)).train()
    recompute_activations(model)
    optimizer = torch.optim.AdamW((p for p in adapted.parameters() if p.requires_grad), lr=0.02)
    losses = []
    for _ in range(12):
        loss = adapted(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(before, rel=1e-5)
    assert losses[-1] < 0.7 * losses[0]
    adapted.eval()
    ids = torch.tensor([ROWS[0][:5]])
    tuned = adapted.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    assert tuned.shape[1] <= 8
    with adapted.disable_adapter():
        assert adapted(**batch).loss.item() == pytest.approx(before, rel=1e-5)
