"""The command, from argv to its files, on adapters that were really trained."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

import cli_demo
from chatlm import run_folder
from chatlm.adapters import probe, speech
from chatlm.adapters.base import Hold
from chatlm.adapters.data import is_held_out
from chatlm.adapters.forms import Asked
from chatlm.adapters.opened import open_model
from chatlm.comparison import answers, compare, held_out
from chatlm.comparison.questions import Question
from chatlm.comparison.settings import CompareConfig
from chatlm.errors import ConfigError, DataError
from tests.adapters import small
from tests.comparison.conftest import write_pairs

CPU = Hold(torch.device("cpu"))
META = {"format": "pt"}
SETTINGS = {"data": "sums.json", "max_new_tokens": 16, "device": "cpu", "probe": False}


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    return project


@pytest.fixture(scope="module")
def compared(project):
    """Returns the comparison of the tuned model with its base, probe included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        settings = SETTINGS | {"model": "out/sums", "probe": True}
        return compare.compare(CompareConfig(**settings))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, make_tokenizer):
    """Returns a base of each kind: with a chat template, of two stacks, and a ChatGLM."""
    return small.bases(tmp_path_factory.mktemp("kinds"), make_tokenizer(texts=small.TEXTS))


def made(**changes):
    return compare.compare(CompareConfig(**(SETTINGS | changes)))


def texts(comparison, side):
    return [getattr(row, side).answer.text for row in comparison.rows]


def test_only_questions_that_the_run_held_out_are_asked(project, compared):
    form = open_model(project.base, CPU).form
    assert 3 <= len(compared.rows) == compared.asking.held_out <= 20
    assert all(is_held_out(one.prompt_ids) for one in compared.asking.questions)
    prompts = form.prompt_ids([Asked(row.question) for row in compared.rows])
    assert prompts == [one.prompt_ids for one in compared.asking.questions]
    assert compared.notes == ()


def test_the_loss_is_that_of_the_run_s_own_validation(here, compared):
    last = [one for one in run_folder.metrics(here.run) if "valid_loss" in one][-1]
    tuned, base = compared.figures["tuned"].loss, compared.figures["base"].loss
    assert tuned.nats_per_token == pytest.approx(last["valid_loss"], rel=1e-5)
    assert tuned.nats_per_token < base.nats_per_token - 0.1


def test_the_base_answers_as_its_folder_does_alone(here, compared):
    alone = made(model="base")
    assert texts(alone, "tuned") == texts(compared, "base") != texts(compared, "tuned")
    assert alone.figures["tuned"] == compared.figures["base"]
    assert alone.notes == (compare.NO_BASE, held_out.UNKNOWN)
    assert alone.contest is None
    assert alone.base == ""
    named = made(model="out/sums", base="base", probe=True)
    assert named.rows == compared.rows
    assert named.figures == compared.figures
    # Two models apart drift as far as one does from itself without its adapters.
    assert named.probe == compared.probe


def test_answers_are_cut_where_they_did_not_end(here, compared):
    for row in compared.rows:
        for said in (row.tuned, row.base):
            assert said.answer.is_cut is (said.answer.num_tokens == 16)
    longer = made(model="out/sums", max_new_tokens=40)
    for short, long in zip(compared.rows, longer.rows, strict=True):
        # The limit is on the answer alone, whatever the length of the prompt.
        if not short.tuned.answer.is_cut:
            assert long.tuned.answer == short.tuned.answer
        else:
            assert long.tuned.answer.num_tokens >= 16


def test_an_answer_that_ends_by_itself_is_not_cut(here):
    opened = open_model(here.base, CPU)
    question = Question("?", [5, 6, 7])
    config = CompareConfig(max_new_tokens=6).generation(100)
    (whole,) = answers.ask(opened, [question], config, 1, lambda _: None)
    assert whole.is_cut
    ids = speech.answer(opened.model, [question.prompt_ids], config, opened.form)
    for last in range(1, 6):  # the last of them with the last token that there is
        opened.form.stop_ids = [ids[0][last]]
        (ended,) = answers.ask(opened, [question], config, 1, lambda _: None)
        assert not ended.is_cut
        assert ended.num_tokens == ids[0].index(ids[0][last])


def test_each_token_of_each_reference_counts_alike(here):
    opened = open_model(here.base, CPU)
    form, texts = opened.form, [["三"], ["二加三等于五。", "五", "不知道"]]
    prompts = form.prompt_ids([Asked("一加二"), Asked("二加三")])
    targets = [[[*ids, *form.end_ids] for ids in form.answer_ids(some)] for some in texts]
    asked = [
        Question("?", prompt or [], some, ids)
        for prompt, some, ids in zip(prompts, texts, targets, strict=True)
    ]
    nats, tokens = 0.0, 0
    for one in asked:
        for target in one.targets:
            with torch.no_grad():
                logits = opened.model.inner(torch.tensor([one.prompt_ids + target])).logits[0]
            at = logits[len(one.prompt_ids) - 1 : -1]
            nats += cross_entropy(at, torch.tensor(target), reduction="sum").item()
            tokens += len(target)
    for at_once in (1, 3):
        found = answers.reference_loss(opened, asked, at_once)
        assert found.num_tokens == tokens
        assert found.nats_per_token == pytest.approx(nats / tokens, rel=1e-5)
        chars = sum(len(text) for some in texts for text in some)
        assert found.bits_per_char == pytest.approx(nats / math.log(2) / chars, rel=1e-5)


def test_what_a_form_never_says_is_not_said(here):
    opened = open_model(here.base, CPU)
    config = CompareConfig(max_new_tokens=6).generation(100)
    (free,) = speech.answer(opened.model, [[5, 6, 7]], config, opened.form)
    opened.form.never_ids = sorted(set(free))
    (found,) = speech.answer(opened.model, [[5, 6, 7]], config, opened.form)
    assert found
    assert not set(found) & set(free)


def test_a_question_has_room_in_both_models(here):
    """The base has fewer positions: longer rows would be out of its table."""
    short = shutil.copytree(here.base, here.folder / "short")
    weights = load_file(short / "model.safetensors")
    name = "transformer.wpe.weight"
    save_file(weights | {name: weights[name][:40].clone()}, short / "model.safetensors", META)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"n_positions": 40}))
    found = made(model="out/sums", base="short", probe=True, max_new_tokens=8)
    assert found.asking.left_out["too_long"] > 0
    assert all(len(one.prompt_ids) + 8 <= 40 for one in found.asking.questions)
    assert found.probe
    assert found.probe.num_tokens > 0
    with pytest.raises(ConfigError, match="the model holds 40 tokens"):
        made(model="out/sums", base="short", max_new_tokens=40)


def test_drawn_answers_come_again_with_the_seed(here):
    drawn = [
        texts(made(model="out/sums", rows=2, temperature=1.0, seed=seed), "tuned")
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_probe_reports_what_was_forgotten(here, compared):
    opened = open_model(here.run / "step_000024", CPU)
    drift = probe.measure(opened.model, opened.form)
    found = compared.probe
    assert (found.nats_tuned, found.nats_base) == (drift.nats_tuned, drift.nats_base)
    assert found.forgetting == drift.forgetting
    assert found.kl == drift.kl > 0
    assert found.rows
    assert {row.question for row in found.rows} <= {pair.question for pair in probe.pairs()}
    assert any(row.tuned != row.base for row in found.rows)
    assert 0 <= found.alike < 100


def test_the_command_shows_and_writes_the_same_twice(here, capsys):
    argv = ["compare", "--model", "out/sums", "--data", "sums.json", "--out", "cmp"]
    argv += ["rows=3", "max_new_tokens=8", "device=cpu", "probe=false", "show=2"]
    contents = []
    for _ in range(2):
        assert cli_demo.main(argv) == 0
        shown = capsys.readouterr().out
        assert shown.splitlines()[-1] == "写到了 cmp/comparison.html 和 cmp/comparison.json"
        assert "微调后" in shown
        contents.append((here.folder / "cmp" / "comparison.json").read_bytes())
    assert contents[0] == contents[1]
    content = json.loads(contents[0])
    assert (content["model"], content["base"]) == ("out/sums/step_000024", "base")
    assert len(content["rows"]) == content["data"]["asked"] == 3
    assert content["settings"]["max_new_tokens"] == 8
    assert "comparison.html" in {path.name for path in (here.folder / "cmp").iterdir()}


def test_without_data_six_questions_are_asked_and_nothing_is_scored(here, capsys):
    assert cli_demo.main(["compare", "model=out/sums", "max_new_tokens=8", "device=cpu"]) == 0
    shown = capsys.readouterr().out
    content = json.loads((here.folder / "out/compare-sums-questions/comparison.json").read_bytes())
    assert len(content["rows"]) == 6
    assert content["contest"] is None
    assert "chrf" not in content["figures"]["tuned"]
    assert content["rows"][0]["tuned"]["text"] != content["rows"][0]["base"]["text"]
    assert "chrF " not in shown.split("遗忘")[0]
    assert content["probe"]["num_tokens"] > 100


def test_where_nothing_is_held_out_one_line_says_so(here):
    few = write_pairs(here.folder / "few.json", 3)
    with pytest.raises(DataError, match="no held-out row can be asked") as error:
        cli_demo.main(["compare", "model=out/sums", f"data={few}", "device=cpu"])
    assert "\n" not in str(error.value)


def test_another_file_is_named_in_a_note(here):
    other = write_pairs(here.folder / "other.json", 890)
    found = made(model="out/sums", data=str(other), max_new_tokens=1, rows=1)
    assert len(found.notes) == 1
    assert "other.json" in found.notes[0].zh


def test_long_answers_are_refused_or_made_to_fit(here):
    with pytest.raises(ConfigError, match="max_new_tokens=128 leaves no room"):
        made(model="out/sums", max_new_tokens=128)
    # Its 128 positions hold no 256 new tokens.
    assert made(model="out/sums", max_new_tokens=0, rows=1).settings["max_new_tokens"] == 64


def test_models_that_read_other_ids_are_not_compared(here, make_tokenizer):
    other = small.causal(here.folder / "foreign", make_tokenizer(template=None, texts=["abc abd"]))
    with pytest.raises(ConfigError, match="has another tokenizer"):
        made(model="out/sums", base=str(other))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["compare", "rows=-1"], "rows=-1: expected 0"),
        (["compare", "data=a", "questions=b"], "leave one of them out"),
        (["compare", "quantize=int3"], "quantize=int3: expected none or nf4"),
        (["compare", "num_beams=0"], "num_beams=0: expected 1 or more"),
        (["compare", "dta=x"], "unknown setting 'dta': did you mean 'data'"),
        (["comprae"], "unknown command 'comprae': did you mean 'compare'"),
    ],
)
def test_mistakes_are_one_line(argv, message):
    with pytest.raises(ConfigError, match=message):
        cli_demo.main(argv)


def test_its_help_names_every_setting(capsys):
    assert cli_demo.main(["compare", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("用法：")
    for key in CompareConfig.__dataclass_fields__:
        lines = [line for line in shown.splitlines() if line.startswith(f"  {key}=")]
        assert len(lines) == 1
        assert len(lines[0].split()) >= 2
    assert cli_demo.main(["help"]) == 0
    assert "cli_demo.py compare" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "chatglm"])
def test_every_kind_of_model_is_compared_with_its_base(kind, kinds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.adapters(tmp_path / "tuned", kinds[kind])
    path = write_pairs(tmp_path / "sums.json", 700)
    settings = SETTINGS | {"data": str(path), "rows": 3, "batch_size": 2}
    found = compare.compare(CompareConfig(**settings, model="tuned"))
    alone = compare.compare(CompareConfig(**settings, model=str(kinds[kind])))
    assert texts(alone, "tuned") == texts(found, "base") != texts(found, "tuned")
    assert alone.figures["tuned"] == found.figures["base"]
    assert len(found.rows) == 3


def test_a_run_that_moved_all_weights_is_compared_with_what_it_began_with(here):
    step = here.folder / "out" / "whole" / "step_000001"
    shutil.copytree(here.base, step)
    (step / "MANIFEST.json").write_text("{}", "utf-8")
    lines = [f"base: {here.base}", f"data: {here.ids}", "finetune: true"]
    (step.parent / "config.yaml").write_text("\n".join(lines), "utf-8")
    found = made(model="out/whole", rows=2)
    assert found.base == str(here.base)
    assert found.notes == ()
    assert texts(found, "tuned") == texts(found, "base")
    assert [row.outcome for row in found.rows] == ["tie", "tie"]


def test_an_exported_model_is_refused(here):
    folder = here.folder / "exported"
    folder.mkdir()
    (folder / "ct2.json").write_text("{}", "utf-8")
    with pytest.raises(ConfigError, match="is exported for CTranslate2: name the checkpoint"):
        made(model="exported")
