"""The second road from end to end, with the commands that README prints.

They run in a folder in which `THUDM/chatglm-6b` is a tiny model of random weights, so that of what
is printed only the length of the training differs.
"""

import json
from pathlib import Path

import pytest
import torch

import cli_demo
import train
from chatlm.adapters.data import is_held_out
from chatlm.adapters.forms import Asked, Form, open_form
from chatlm.checkpoint.kinds import kind_of
from chatlm.checkpoint.paths import resolve_model
from tests.adapters import small
from tests.page_commands import ROOT, commands, lines, with_values
from tests.trainings import forget_accelerate
from utils import cover_alpaca2jsonl, export_model, tokenize_dataset_rows

ROWS = ROOT / "tests" / "fixtures" / "alpaca_data_zh.json"
HEADINGS = {
    "README.md": ("### 四步", "### 对话、合并"),
    "README.en.md": ("### Four steps", "### Chatting, merging"),
}
AS_ASKED = """
python -m utils.cover_alpaca2jsonl --data_path data/alpaca_data_zh.json --save_path data/alpaca_data_zh.jsonl
python -m utils.tokenize_dataset_rows --jsonl_path data/alpaca_data_zh.jsonl --save_path data/alpaca_zh --max_seq_length 200 --skip_overlength true
accelerate launch train.py finetune=True base=THUDM/chatglm-6b data=data/alpaca_zh lora.rank=8 per_device_batch_size=6 max_steps=52000 save_every_steps=1000 learning_rate=1e-4 out=out/zh
python cli_demo.py compare model=out/zh data=data/alpaca_data_zh.json
""".strip().splitlines()  # noqa: E501
SHORT = {"max_steps": 12, "save_every_steps": 6, "learning_rate": 0.05}
QUICK = ["device=cpu", "threads=1", "eval_every_steps=12", "eval_answers=2", "max_new_tokens=8"]
HELD_OUT = 3


def argv(page: str, place: int, number: int) -> list[str]:
    """Returns the tokens of a command of one of the two sections, without the programs before."""
    (command,) = commands(lines(page, HEADINGS[page][place])[number])
    known = (["accelerate", "launch", "train.py"], ["python", "cli_demo.py"])
    for start in known:
        if command[: len(start)] == start:
            return command[len(start) :]
    assert command[:2] == ["python", "-m"]
    return command[3:]


def held_out_rows(form: Form) -> list[dict[str, str]]:
    """Returns rows whose prompts no tuning learns, whatever the vocabulary."""
    questions = [f"第{n}个问题：{n}后面是几？" for n in range(2000)]
    kept = [
        (n, question)
        for n, question in enumerate(questions)
        if is_held_out(form.prompt_ids([Asked(question)])[0])
    ]
    assert len(kept) >= HELD_OUT
    return [
        {"instruction": question, "input": "", "output": f"{n + 1}。"}
        for n, question in kept[:HELD_OUT]
    ]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A folder in which the four steps and the merge have been done."""
    folder = tmp_path_factory.mktemp("road")
    base = small.chatglm(folder / "THUDM" / "chatglm-6b")
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    rows = json.loads(ROWS.read_text(encoding="utf-8")) + held_out_rows(open_form(str(base)))
    (folder / "data").mkdir()
    text = json.dumps(rows, ensure_ascii=False)
    (folder / "data" / "alpaca_data_zh.json").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        page = "README.md"
        assert cover_alpaca2jsonl.main(argv(page, 0, 0)) == 0
        assert tokenize_dataset_rows.main(argv(page, 0, 1)) == 0
        forget_accelerate()
        assert train.main([*with_values(argv(page, 0, 2), **SHORT), *QUICK]) == 0
        forget_accelerate()
        assert cli_demo.main([*argv(page, 0, 3), "max_new_tokens=8", "device=cpu"]) == 0
        assert export_model.main(argv(page, 1, 1)) == 0
    assert before == {path.name: path.read_bytes() for path in base.iterdir()}
    return folder


@pytest.mark.parametrize("page", HEADINGS)
def test_the_pages_print_the_commands_that_were_asked_for(page):
    assert lines(page, HEADINGS[page][0]) == AS_ASKED


def test_every_row_is_kept_or_counted(road):
    whole = json.loads((road / "data" / "alpaca_data_zh.json").read_text(encoding="utf-8"))
    covered = (road / "data" / "alpaca_data_zh.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(covered) == len(whole) - 1, "one has no answer"
    meta = json.loads((road / "data" / "alpaca_zh" / "meta.json").read_text())
    assert meta["base"] == "THUDM/chatglm-6b"
    assert (meta["form"], meta["max_seq_length"], meta["skip_overlength"]) == ("chatglm", 200, True)
    assert meta["counts"]["rows_in"] == len(covered)
    assert meta["counts"]["dropped"] == {"too_long": 1}


def test_every_checkpoint_has_what_peft_needs(road):
    steps = sorted((road / "out" / "zh").glob("step_*"))
    assert [step.name for step in steps] == ["step_000006", "step_000012"]
    for step in steps:
        assert (step / "adapter_model.safetensors").is_file()
        written = json.loads((step / "adapter_config.json").read_text())
        assert written["base_model_name_or_path"] == "THUDM/chatglm-6b"
        assert written["r"] == 8


def test_the_comparison_shows_three_answers_to_held_out_questions(road):
    (folder,) = (road / "out").glob("compare-*")
    found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    form = open_form(str(road / "THUDM" / "chatglm-6b"))
    assert len(found["rows"]) >= HELD_OUT
    for row in found["rows"]:
        assert is_held_out(form.prompt_ids([Asked(row["question"])])[0])
        assert row["references"]
        assert {"tuned", "base"} <= row.keys()
        assert row["question"] in page
    assert found["contest"]["wins"] + found["contest"]["losses"] + found["contest"]["ties"] == len(
        found["rows"]
    )
    assert isinstance(found["probe"]["forgetting"], float)


def answer(road: Path, model: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(road)
        told = [f"model={model}", "max_new_tokens=8", "device=cpu", *more]
        assert cli_demo.main(["chat", *told, "三原色是什么？"]) == 0
    return capsys.readouterr().out


def test_merged_and_not_merged_give_the_same_answer(road, capsys):
    tuned, merged = (argv("README.md", 1, number)[1].partition("=")[2] for number in (0, 2))
    assert (tuned, merged) == ("out/zh", "out/zh-merged")
    assert kind_of(resolve_model(road / merged)) == "other"
    first = answer(road, tuned, capsys)
    assert first.strip()
    assert answer(road, merged, capsys) == first
    assert answer(road, "THUDM/chatglm-6b", capsys) != first


def test_merged_is_the_tuned_model_for_anybody(road):
    from transformers import AutoModelForCausalLM

    from chatlm.adapters.base import Hold
    from chatlm.adapters.opened import open_model

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(road)
        opened = open_model(resolve_model("out/zh"), Hold(torch.device("cpu")))
        merged = AutoModelForCausalLM.from_pretrained("out/zh-merged").eval()
    (ids,) = opened.form.prompt_ids([Asked("三原色是什么？")])
    tokens = {"input_ids": torch.tensor([ids])}
    tuned = opened.model.inner(**tokens).logits
    torch.testing.assert_close(merged(**tokens).logits, tuned, rtol=1e-5, atol=1e-5)
    with opened.without_adapters():
        assert not torch.allclose(opened.model.inner(**tokens).logits, tuned, atol=1e-3)
    assert not (road / "out" / "zh-merged" / "adapter_config.json").exists()
