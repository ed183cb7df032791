"""A microbatch that is computed without numbers takes what a real one takes."""

import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chatlm import cli
from chatlm.adapters.untrained import random_batch, untrained
from chatlm.config import ADAPTERS, TrainConfig
from chatlm.glm.configuration import ChatGLMConfig
from chatlm.plan import check, machine
from chatlm.plan.load import filled
from chatlm.plan.rehearsal import Rehearsed, flop_counter, rehearse
from tests.adapters import small

MIB = 2**20
SIDES = [9, 14, 30], [20, 5, 11]
META, CPU = torch.device("meta"), torch.device("cpu")


def config_of(base: Path | str, **changes: Any) -> TrainConfig:
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return cli.build(TrainConfig, ADAPTERS, {"finetune": True, "base": str(base), **given})


def rehearsed(
    config: TrainConfig,
    sides: tuple[Sequence[int], Sequence[int]] = SIDES,
    *,
    half: bool = False,
    accumulates: bool = False,
) -> Rehearsed:
    model = untrained(config, META, 0, half=half)
    return rehearse(model, random_batch(model, *sides), half=half, accumulates=accumulates)


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "llama", "chatglm"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("rank", "kl"), [(0, 0.0), (4, 0.0), (4, 1.0)])
def test_operations_and_gradients_are_those_of_a_real_microbatch(
    bases, kind, checkpointing, rank, kl
):
    changes = {"gradient_checkpointing": checkpointing, "lora__rank": rank, "lora__kl": kl}
    config = config_of(bases[kind], **changes)
    model = untrained(config, CPU, 0, half=False)
    batch = random_batch(model, *SIDES)
    with flop_counter() as counter:
        model(*batch).objective.backward()
    found = rehearsed(config)
    assert found.flops == counter.get_total_flops() > 0
    moving = [p for p in model.parameters() if p.requires_grad]
    assert found.gradients == sum(4 * p.numel() for p in moving if p.grad is not None) > 0


def test_attention_by_a_kernel_is_counted_as_its_products_are(bases):
    """The kernel's backward pass makes the scores again, which the plain way has kept."""
    model = untrained(config_of(bases["llama"], lora__rank=0), CPU, 0, half=False)
    inner: Any = model.inner
    batch = random_batch(model, [9, 9], [20, 20])
    found = []
    for way in ("sdpa", "eager"):
        inner.set_attn_implementation(way)
        with flop_counter() as counter:
            model(*batch).loss_sum.backward()
        found.append(counter.get_total_flops())
    layers, rows, heads, tokens, width = 2, 2, 4, 29, 8
    assert found[0] - found[1] == layers * 2 * rows * heads * tokens**2 * width


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "llama", "chatglm"])
def test_the_forward_pass_keeps_what_a_real_one_keeps(bases, kind):
    """The real one is asked by the hooks through which autograd keeps a tensor."""
    config = config_of(bases[kind])
    model = untrained(config, CPU, 0, half=False)
    given = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in given:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    batch = random_batch(model, *SIDES)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(*batch).loss_sum
    assert loss.requires_grad
    found = rehearsed(config)
    # Beside these only what the frames still hold: ids, masks, the loss.
    assert 0 <= found.kept - sum(kept.values()) < 0.06 * found.kept


def test_checkpointing_trades_memory_for_operations(bases):
    long = [60] * 8, [60] * 8
    keeping = config_of(bases["chatglm"])
    saving = replace(keeping, gradient_checkpointing=True)
    plain, spare = rehearsed(keeping, long), rehearsed(saving, long)
    assert spare.kept < 0.5 * plain.kept
    assert spare.peak < plain.peak
    assert plain.flops < spare.flops < 1.5 * plain.flops


def test_gradients_that_are_there_already_are_no_part_of_the_peak(bases):
    whole = config_of(bases["llama"], lora__rank=0)
    first, second = rehearsed(whole), rehearsed(whole, accumulates=True)
    assert first.gradients == second.gradients
    assert first.peak - first.gradients <= second.peak < first.peak


def test_bf16_halves_what_is_kept(bases):
    config = config_of(bases["llama"])
    ratio = rehearsed(config, half=True).kept / rehearsed(config).kept
    assert 0.5 < ratio < 0.75  # norms and rotations stay in fp32


@pytest.mark.skipif(sys.platform != "linux", reason="the settings of glibc's heap")
def test_the_memory_of_a_process_is_what_was_rehearsed(tmp_path, make_tokenizer, monkeypatch):
    """Resident memory, where freed memory goes back at once, against the sum of the parts."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=300,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=4,
    )
    base = small.save(LlamaForCausalLM(shape), make_tokenizer(template=None), tmp_path / "base")
    config = config_of(base, device="cpu", threads=1)
    load = filled(np.array([40, 90]), np.array([160, 110]), 2400)
    found = rehearsed(config, (load.source_lengths.tolist(), load.target_lengths.tolist()))
    assert found.peak > 250 * MIB
    measured = check.measure(config, load, accumulates=False, clock="cpu")
    growth = measured.memory_bytes - measured.libraries_bytes
    weights = 4 * sum(p.numel() for p in untrained(config, META, 0, half=False).parameters())
    assert growth == pytest.approx(found.peak + weights, rel=0.15)


def test_chatglm_6b_is_rehearsed_in_no_memory(tmp_path):
    """Six billion weights in bf16 and a step of 6 x 200 tokens, as the published run takes it."""
    ChatGLMConfig().save_pretrained(tmp_path)
    config = config_of(tmp_path, gradient_checkpointing=True)
    gc.collect()
    before = machine.resident_memory()
    machine.forget_peak()
    model = untrained(config, META, 3, half=True)
    assert sum(p.numel() for p in model.parameters()) == 6_707_929_088 + 3_670_016
    found = rehearse(model, random_batch(model, [60] * 6, [140] * 6), half=True)
    assert machine.peak_memory() - before < 300 * MIB
    assert found.gradients == 4 * 3_670_016
    base = sum(p.numel() * p.element_size() for p in model.parameters())
    assert base == pytest.approx(2 * 6.708e9, rel=0.01)
    # Of each of 28 layers the input is kept, and the logits of the answers at the end.
    logits = 840 * 130_528
    assert found.kept == pytest.approx(28 * 1200 * 4096 * 2 + 4 * logits, rel=0.05)
    assert found.peak < 2.2e9
