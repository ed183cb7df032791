"""LoRA on a ChatGLM of random weights, by the one training loop."""

import json
import shutil
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from chatlm import cli
from chatlm.adapters import tuning
from chatlm.adapters.base import Hold, open_base, recompute_activations
from chatlm.adapters.forms import Asked, open_form
from chatlm.adapters.language_model import LanguageModel, flat
from chatlm.adapters.opened import open_model
from chatlm.config import ADAPTERS, TrainConfig
from tests.adapters import small
from tests.adapters.tunings import DEVICE, SETTINGS, adapters, are_equal, losses, tokenized
from tests.trainings import forget_accelerate, train_with

CPU = Hold(DEVICE)
PAIRS = [("三原色是什么？", "红、绿、蓝。"), ("今天天气很好", "我们去公园散步吧。"), ("跑", "走")]
LAYERS = 2
STEADY = {"learning_rate": 0.03, "schedule": "constant", "warmup_share": 0}
NO_OLD_NAMES = pytest.mark.filterwarnings("error::FutureWarning")
LONG = STEADY | {"max_steps": 16, "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.chatglm(tmp_path_factory.mktemp("glm") / "chatglm")


@pytest.fixture(scope="module")
def form(folder):
    return open_form(str(folder))


@pytest.fixture(scope="module")
def pairs(form):
    """The pairs as ids, of three different lengths."""
    prompts = form.prompt_ids([Asked(question) for question, _ in PAIRS])
    answers = form.answer_ids([answer for _, answer in PAIRS])
    found = [(p, [*a, *form.end_ids]) for p, a in zip(prompts, answers, strict=True)]
    assert len({len(source) + len(target) for source, target in found}) == len(PAIRS)
    return found


def plain(folder):
    return LanguageModel(open_base(str(folder), CPU), pad_id=3)


def made(folder, form, **changes):
    """The subject of a training, before its first step."""
    given = {"finetune": True, "base": str(folder), "device": "cpu", **changes}
    forget_accelerate()
    config = cli.build(TrainConfig, ADAPTERS, given)
    return tuning.make(config, form, None, Accelerator(cpu=True))


def trained(place, folder, name, **changes):
    """Trains in `place`; returns the run folder."""
    train_with(**SETTINGS | {"base": folder, "out": place / "out" / name} | changes)
    return place / "out" / name


@pytest.fixture(scope="module")
def data(tmp_path_factory, folder):
    return tokenized(tmp_path_factory.mktemp("data"), folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder, data):
    place = tmp_path_factory.mktemp("runs")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = trained(place, folder, "fp32", data=data, **LONG)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    return found


# ---- the loss -----------------------------------------------------------------------------


def test_the_loss_is_the_models_own(folder, pairs):
    model = plain(folder)
    width = max(len(source) + len(target) for source, target in pairs)
    ids, labels, seen = (torch.full((len(pairs), width), fill) for fill in (3, -100, 0))
    for row, (source, target) in enumerate(pairs):
        start, end = len(source), len(source) + len(target)
        ids[row, :end] = torch.tensor(source + target)
        labels[row, start:end] = torch.tensor(target)
        seen[row, :end] = 1
    own = model.inner(input_ids=ids, attention_mask=seen, labels=labels).loss
    found = model(*flat(pairs, DEVICE))
    assert found.num_tokens == sum(len(target) for _, target in pairs)
    torch.testing.assert_close(found.loss_sum / found.num_tokens, own, rtol=1e-5, atol=1e-5)


def test_each_token_is_predicted_from_the_one_before_it_and_sop_is_not_scored(folder, pairs, form):
    model = plain(folder)
    for source, target in pairs:
        assert form.tokenizer.decode(source[-2:]) == "[gMASK]<sop>"
        logits = model.inner(input_ids=torch.tensor([source + target])).logits[0]
        expected = F.cross_entropy(
            logits[len(source) - 1 : -1], torch.tensor(target), reduction="sum"
        )
        found = model(*flat([(source, target)], DEVICE)).loss_sum
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_padding_on_the_right_changes_nothing_whatever_it_is(folder, pairs):
    alone = sum(plain(folder)(*flat([pair], DEVICE)).loss_sum for pair in pairs)
    for pad_id in (3, 7):
        model = LanguageModel(open_base(str(folder), CPU), pad_id=pad_id)
        torch.testing.assert_close(
            model(*flat(pairs, DEVICE)).loss_sum, alone, rtol=1e-5, atol=1e-5
        )


def test_a_prompt_is_read_in_both_directions_and_an_answer_in_one(folder, pairs):
    model = plain(folder)
    states = []
    model.inner.get_submodule("transformer.layers.0").register_forward_hook(
        lambda *call: states.append(call[-1][0])
    )
    source, target = pairs[0]
    changed = [[*source[:-3], 9, *source[-2:]], [target[0], 9, *target[2:]]]
    for side in (source, target), (changed[0], target), (source, changed[1]):
        model(*flat([side], DEVICE))
    before, other_prompt, other_answer = states
    assert not torch.allclose(other_prompt[0], before[0]), "its first token sees its last one"
    place = len(source) + 1
    assert torch.equal(other_answer[:place], before[:place])
    assert not torch.equal(other_answer[place:], before[place:])


# ---- adapters -----------------------------------------------------------------------------


def test_fresh_adapters_on_query_key_value_change_no_bit(folder, pairs, form):
    expected = plain(folder).eval()(*flat(pairs, DEVICE)).loss_sum
    model = made(folder, form).model.eval()
    moving = dict(model.saved())
    assert len(moving) == 2 * LAYERS
    assert all(".query_key_value.lora_" in name for name in moving)
    assert sum(p.numel() for p in moving.values()) == LAYERS * 8 * (32 + 3 * 32)
    assert torch.equal(model(*flat(pairs, DEVICE)).loss_sum, expected)


@NO_OLD_NAMES
def test_checkpointing_gives_the_same_gradients_and_computes_layers_twice(folder, pairs, form):
    found, calls = [], []
    for is_on in (False, True):
        subject = made(folder, form, gradient_checkpointing=is_on)
        model = subject.model.train()
        with torch.no_grad():
            for number, (_, weight) in enumerate(model.saved()):
                torch.manual_seed(number)
                weight.add_(0.1 * torch.randn_like(weight))
        counted = []
        for name, module in model.named_modules():
            if name.endswith(".mlp"):
                module.register_forward_pre_hook(lambda *_, seen=counted: seen.append(1))
        model(*flat(pairs, DEVICE)).loss_sum.backward()
        found.append({name: weight.grad for name, weight in model.saved()})
        calls.append(len(counted))
    assert calls == [LAYERS, 2 * LAYERS]
    assert all(gradient.abs().max() > 0 for gradient in found[0].values())
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


def test_a_run_learns_and_leaves_what_peft_reads(run, folder, pairs):
    assert sum(losses(run)[-4:]) < 0.8 * sum(losses(run)[:4])
    step = run / "step_000016"
    saved = load_file(step / "adapter_model.safetensors")
    at = "base_model.model.transformer.layers.{}.attention.query_key_value.lora_{}.weight"
    assert saved.keys() == {at.format(n, side) for n in range(LAYERS) for side in "AB"}
    assert all(tensor.abs().max() > 0 for tensor in saved.values())
    written = json.loads((step / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["r"]) == (str(folder), 4)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), step).eval()
    tuned = LanguageModel(theirs, pad_id=3)(*flat(pairs, DEVICE)).loss_sum
    opened = open_model(step, CPU)
    assert torch.equal(opened.model(*flat(pairs, DEVICE)).loss_sum, tuned)
    assert (opened.form.name, opened.base) == ("chatglm", str(folder))
    with opened.without_adapters():
        base = opened.model(*flat(pairs, DEVICE)).loss_sum
    assert torch.equal(base, plain(folder).eval()(*flat(pairs, DEVICE)).loss_sum)
    assert not torch.equal(base, tuned)


@NO_OLD_NAMES
def test_bf16_with_checkpointing_learns_as_fp32_does(run, folder, data, tmp_path):
    settings = STEADY | {"precision": "bf16", "gradient_checkpointing": True, "max_steps": 4}
    half = trained(tmp_path, folder, "bf16", data=data, **settings)
    assert losses(half) == pytest.approx(losses(run)[:4], rel=0.02)
    assert losses(half) != losses(run)[:4]
    saved = load_file(half / "step_000004" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_the_base_is_held_in_bf16_but_its_norms_and_the_adapters_are_not(folder, form):
    accelerator = partial(Accelerator, cpu=True, mixed_precision="bf16")
    forget_accelerate()
    config = cli.build(TrainConfig, ADAPTERS, {"finetune": True, "base": str(folder)})
    model = tuning.make(config, form, None, accelerator()).model
    kinds = {
        dtype: {name for name, weight in model.named_parameters() if weight.dtype == dtype}
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert all("lora_" in name or "layernorm" in name for name in kinds[torch.float32])
    assert not any("lora_" in name or "layernorm" in name for name in kinds[torch.bfloat16])
    forget_accelerate()


# ---- the rest of the course -----------------------------------------------------------------


def test_a_resumed_run_has_the_bits_of_one_that_was_never_interrupted(run, folder, data, tmp_path):
    part = tmp_path / "out" / "part"
    shutil.copytree(run, part)
    for step in (12, 16):
        shutil.rmtree(part / f"step_{step:06d}")
    (part / "best").unlink(missing_ok=True)
    trained(tmp_path, folder, "part", data=data, resume=True, **LONG)
    assert are_equal(adapters(run, 16), adapters(part, 16))


def test_a_pair_that_teaches_nothing_costs_nothing_and_moves_nothing(folder, form, pairs):
    """What a process gets that has no pair of a step: an id that is no prompt of ChatGLM's."""
    model = made(folder, form).model.train()
    nothing = torch.tensor([0]), torch.tensor([-100]), torch.tensor([0, 1]), torch.tensor([0, 1])
    found = model(*nothing)
    assert (found.loss_sum.item(), found.num_tokens.item()) == (0, 0)
    found.loss_sum.backward()
    for name, weight in model.saved():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() == 0, name


@NO_OLD_NAMES
def test_hold_is_told_how(folder):
    half = open_base(str(folder), Hold(torch.device("cpu"), torch.bfloat16, checkpointing=True))
    assert all(layer.gradient_checkpointing for layer in half.transformer.layers)
    recompute_activations(half, is_on=False)
    assert not any(layer.gradient_checkpointing for layer in half.transformer.layers)
    assert not any(weight.requires_grad for weight in half.parameters())
