"""Several processes give what one gives, under every engine that a launch configuration names.

All trainings run on CPUs with gloo, two processes and once four. They start as forks of one Python
process (`tests/ranks.py`), with the environment that accelerate makes of the configuration;
`tests/test_launchers.py` starts real launchers. CHATLM_TORTURE=1 adds the rest of the combinations.
"""

import os
import sys
from itertools import chain

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from chatlm.model import hf
from tests import tiny_data
from tests.launched import MUON, ROOT, SMALL, Trainings, zero3_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and DeepSpeed")
TORTURE = pytest.mark.skipif("CHATLM_TORTURE" not in os.environ, reason="CHATLM_TORTURE=1 runs it")
ENGINES = {
    "ddp": "runs/ddp.yaml",
    "fsdp2": "runs/fsdp2.yaml",
    "zero1": "runs/zero1.yaml",
    "zero2": "accelerate.yaml",
}
NAMES = {
    "fsdp2": "with FSDP2",
    "zero1": "with DeepSpeed ZeRO-1",
    "zero2": "with DeepSpeed ZeRO-2",
    "zero3": "with DeepSpeed ZeRO-3",
}


OWN_SETTINGS = {"gradient_accumulation_steps": "8", "offload_optimizer_device": "cpu"}


def with_setting(folder, line):
    """Returns a launch configuration like accelerate.yaml that sets one thing more."""
    key = line.split(":")[0]
    kept = [one for one in (ROOT / "accelerate.yaml").read_text().splitlines() if key not in one]
    kept.insert(kept.index("deepspeed_config:") + 1, f"  {line}")
    path = folder / f"{key}.yaml"
    path.write_text("\n".join(kept) + "\n")
    return path


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")
    made = Trainings(folder, tiny_data.make(folder / "data"))
    zero3 = zero3_config(folder)
    jobs = [
        made.job("one"),
        made.job("ddp", ENGINES["ddp"], 2),
        made.job("ddp_small", ENGINES["ddp"], 2, **SMALL),
        made.job("four", ENGINES["ddp"], 4),
        made.job("fsdp2", ENGINES["fsdp2"], 2),
        made.job("fsdp2_small", ENGINES["fsdp2"], 2, **SMALL),
        made.job("fsdp2_again", ENGINES["fsdp2"], 2, of="fsdp2"),
        made.job("one_after_fsdp2", of="fsdp2"),
        made.job("one_muon", **MUON),
        made.job("fsdp2_muon", ENGINES["fsdp2"], 2, **MUON),
        made.job("zero2", ENGINES["zero2"], 2),
        made.job("zero3", zero3, 2),
        made.job("one_after_zero3", of="zero3"),
        *(
            made.job(name, with_setting(folder, f"{name}: {value}"), 2)
            for name, value in OWN_SETTINGS.items()
        ),
    ]
    if "CHATLM_TORTURE" in os.environ:
        jobs += [
            made.job("zero1", ENGINES["zero1"], 2),
            *(made.job(f"{name}_small", ENGINES[name], 2, **SMALL) for name in ("zero1", "zero2")),
            made.job("zero3_small", zero3, 2, **SMALL),
            made.job("zero2_again", ENGINES["zero2"], 2, of="zero2"),
            made.job("zero3_again", zero3, 2, of="zero3"),
            made.job("four_fsdp2", ENGINES["fsdp2"], 4),
            made.job("four_after_fsdp2", ENGINES["fsdp2"], 4, of="fsdp2_small", **SMALL),
            made.job("four_zero3", zero3, 4),
            made.job("zero2_after_zero3", ENGINES["zero2"], 2, of="zero3_small", **SMALL),
            made.job("zero3_after_four", zero3, 2, of="four"),
            *(
                made.job(f"{name}_muon", ENGINES[name], 2, **MUON)
                for name in ENGINES
                if name != "fsdp2"
            ),
            made.job("zero3_muon", zero3, 2, **MUON),
            made.job("compiled", compile=True),
            made.job("compiled_ddp", ENGINES["ddp"], 2, compile=True),
            made.job("compiled_fsdp2", ENGINES["fsdp2"], 2, compile=True),
        ]
    made.run(jobs)
    return made


def torture(*names):
    return [pytest.param(name, marks=TORTURE) for name in names]


@pytest.mark.parametrize(
    "name",
    ["ddp", "four", "fsdp2", "zero2", "zero3", *torture("zero1", "four_fsdp2", "four_zero3")],
)
def test_several_processes_give_the_figures_of_one(trainings, name):
    for key in ("loss", "valid_loss", "bleu4", "grad_norm", "learning_rate", "test_bleu4"):
        expected = trainings.figures("one", key)
        assert trainings.figures(name, key) == pytest.approx(expected, rel=1e-4), key
    assert NAMES.get(name, "") in trainings.log(name)


@pytest.mark.parametrize("name", ["fsdp2", *torture("ddp", "zero1", "zero2", "zero3")])
def test_muon_takes_the_same_steps_on_every_engine(trainings, name):
    expected = trainings.figures("one_muon", "loss")
    assert trainings.figures(f"{name}_muon", "loss") == pytest.approx(expected, rel=1e-4)


def steps(trainings, name, count):
    """Returns, for each optimizer step, the labels that each process was given."""
    ranks = [trainings.seen(name, rank).pairs for rank in range(count)]
    return list(zip(*ranks, strict=True))


@pytest.mark.parametrize(("name", "count"), [("ddp", 2), ("four", 4), ("fsdp2", 2)])
def test_every_step_learns_from_the_same_pairs_on_any_number_of_processes(trainings, name, count):
    alone = [sorted(pairs) for (pairs,) in steps(trainings, "one", 1)]
    together = steps(trainings, name, count)
    assert [sorted(chain.from_iterable(shares)) for shares in together] == alone
    assert all(all(shares) for shares, pairs in zip(together, alone, strict=True) if pairs)
    assert [len(pairs) for pairs in alone] == [16, 16, 16, 16, 6, 16, 16, 16, 0]


REDUCING = {
    "ddp": "c10d::allreduce_",
    "zero1": "c10d::allreduce_",
    "fsdp2": "c10d::_reduce_scatter_base_",
}


@pytest.mark.parametrize("name", ["ddp", "fsdp2", *torture("zero1")])
def test_gradients_are_exchanged_once_a_step_however_many_microbatches_it_has(trainings, name):
    # The two trainings differ in their microbatches only: so would what they send for each.
    few, many = (trainings.seen(f"{name}{end}").collectives for end in ("", "_small"))
    assert few[REDUCING[name]] == many[REDUCING[name]] > 8
    if name != "fsdp2":  # it gathers the weights for every microbatch
        assert few == many


def test_fsdp2_has_one_unit_for_each_layer_the_table_and_the_keys_of_the_source(trainings):
    # 8 steps, one encoder layer and one decoder layer.
    assert trainings.seen("fsdp2").collectives["c10d::_reduce_scatter_base_"] == 8 * 4


@TORTURE
@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_zero_2_and_3_exchange_gradients_for_every_microbatch(trainings, name):
    few, many = (trainings.seen(f"{name}{end}").collectives for end in ("", "_small"))
    assert sum(many.values()) > sum(few.values())


MORE_RESUMED = [
    ("zero2", "zero2_again"),
    ("zero3", "zero3_again"),
    ("four", "zero3_after_four"),
    ("zero3_small", "zero2_after_zero3"),
    ("fsdp2_small", "four_after_fsdp2"),
]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("fsdp2", "fsdp2_again"),
        ("fsdp2", "one_after_fsdp2"),
        ("zero3", "one_after_zero3"),
        *(pytest.param(*pair, marks=TORTURE) for pair in MORE_RESUMED),
    ],
)
def test_a_resumed_training_goes_on_as_if_nothing_had_been(trainings, first, then):
    assert trainings.seen(then).code == 0, trainings.log(then)[-3000:]
    assert "going on from" in trainings.log(then)
    assert "step 5/8" in trainings.log(then)
    expected = trainings.figures("one", "loss")
    assert trainings.figures(first, "loss") == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_every_engine_leaves_whole_weights_that_hugging_face_opens(trainings, name):
    expected = hf.load_pretrained(trainings.run_folder("one") / "step_000008")
    folder = trainings.run_folder(name) / "step_000008"
    found = dict(hf.load_pretrained(folder).named_parameters())
    for key, weight in expected.named_parameters():
        torch.testing.assert_close(found[key], weight, rtol=1e-3, atol=1e-4)
    AutoModelForSeq2SeqLM.from_pretrained(folder)


def refusal(trainings, name):
    assert trainings.seen(name).code == 2
    return trainings.log(name)


@pytest.mark.parametrize("setting", OWN_SETTINGS)
def test_a_configuration_with_an_arithmetic_of_its_own_is_refused(trainings, setting):
    assert f"error: accelerate's yaml sets {setting}" in refusal(trainings, setting)
    assert not trainings.run_folder(setting).exists()


@TORTURE
@pytest.mark.parametrize("name", ["compiled", "compiled_ddp"])
def test_compiling_and_filling_up_change_no_loss(trainings, name):
    for key in ("loss", "valid_loss"):
        expected = trainings.figures("one", key)
        assert trainings.figures(name, key) == pytest.approx(expected, rel=1e-4), key


@TORTURE
def test_compiling_weights_that_come_and_go_is_refused(trainings):
    assert "compile=True does not work under FSDP2" in refusal(trainings, "compiled_fsdp2")


def test_the_configurations_say_topology_only():
    for path in [ROOT / "accelerate.yaml", *(ROOT / "runs").glob("*.yaml")]:
        lines = path.read_text().splitlines()
        text = "\n".join(line for line in lines if not line.startswith("#"))
        for word in ("gradient_", "clipping", "precision", "dynamo", "batch_size:"):
            assert word not in text, path
