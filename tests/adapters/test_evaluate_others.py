"""`train.py evaluate` and the last lines of a training, for models of others."""

import json

import pytest

import train
from chatlm import evaluate
from chatlm.adapters.base import Hold
from chatlm.adapters.data import is_held_out
from chatlm.adapters.forms import Asked, open_form
from chatlm.adapters.opened import open_model
from chatlm.adapters.tuning import speech_of
from chatlm.corpus.example import Example
from chatlm.errors import ConfigError, DataError
from chatlm.generation_config import GenerationConfig
from chatlm.sanitize import sanitize
from tests.adapters.tunings import DEVICE, SETTINGS, tokenized
from tests.trainings import train_with


@pytest.fixture(scope="module")
def made(tmp_path_factory, base):
    """A base, a file of pairs, and what the file becomes as a token folder."""
    ids = tokenized(tmp_path_factory.mktemp("made"), base, 500)
    return base, ids.with_name("sums.jsonl"), ids


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """An adapter run on the token folder."""
    folder = tmp_path_factory.mktemp("run") / "zh"
    base, _, ids = made
    few = {"max_steps": 4, "learning_rate": 0.1}
    train_with(**SETTINGS | few, base=base, data=ids, out=folder)
    return folder


def evaluated(capsys, *argv):
    capsys.readouterr()
    assert train.main(["evaluate", "device=cpu", *argv]) == 0
    return capsys.readouterr().out.splitlines()


def held_out(base, file):
    """The rows of a file, by prompt, that a tuning of the base keeps for itself."""
    form = open_form(str(base))
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    ids = form.prompt_ids([Asked(row["prompt"]) for row in rows])
    held = [row for row, one in zip(rows, ids, strict=True) if is_held_out(one)]
    return {row["prompt"]: row["response"] for row in held}


@pytest.mark.parametrize("names_data", [False, True])
def test_a_tuned_model_answers_what_its_run_held_out(made, run, capsys, names_data):
    base, file, _ = made
    expected = held_out(base, file)
    assert len(expected) > 1
    lines = evaluated(capsys, f"model={run}", *[f"data={file}"] * names_data)
    assert lines[0] == str(run / "step_000004")
    assert lines[1].startswith(f"{len(expected)} held-out questions of ")
    assert f"{len(expected)} questions, corpus BLEU-4 " in "\n".join(lines)
    asked = {line.removeprefix("问  ").strip() for line in lines if line.startswith("问  ")}
    # A token folder gives the text back with its form around it.
    assert len(asked) == min(10, len(expected))
    for question in asked:
        assert any(prompt in question for prompt in expected)


def test_the_figures_are_those_of_the_tuned_model(made, run, capsys):
    base, file, _ = made
    expected = held_out(base, file)
    opened = open_model(run / "step_000004", Hold(DEVICE))
    examples = [Example(prompt, answer, "pairs") for prompt, answer in expected.items()]
    config = GenerationConfig(max_new_tokens=SETTINGS["max_new_tokens"])
    given = evaluate.answers(opened.model, speech_of(opened.form), list(expected), config)
    bleu = evaluate.score(examples, given).bleu4
    capsys.readouterr()
    assert train.main(["evaluate", "device=cpu", f"model={run}", f"data={file}", "show=100"]) == 0
    report = capsys.readouterr().out
    assert f"{len(expected)} questions, corpus BLEU-4 {bleu:.2f}" in report
    assert all(f"答  {sanitize(answer)}\n" in report for answer in given)
    with opened.without_adapters():
        of_base = evaluate.answers(opened.model, speech_of(opened.form), list(expected), config)
    assert not any(f"答  {sanitize(answer)}\n" in report for answer in of_base if answer)


def test_a_model_without_a_run_needs_data(made, capsys):
    base, file, _ = made
    with pytest.raises(DataError, match="does not say what it was trained on: name data="):
        evaluated(capsys, f"model={base}")
    lines = evaluated(capsys, f"model={base}", f"data={file}", "pairs=2", "show=0")
    assert any(line.startswith("2 questions, corpus BLEU-4") for line in lines)
    assert any("the folder does not say what it was trained on" in line for line in lines)


def test_an_exported_model_is_not_evaluated(tmp_path, capsys):
    (tmp_path / "ct2.json").write_text("{}")
    with pytest.raises(ConfigError, match="is an exported model: evaluate what it was made of"):
        evaluated(capsys, f"model={tmp_path}")


def test_a_tuning_ends_with_the_next_commands(made, tmp_path, caplog):
    base, _, ids = made
    train_with(**SETTINGS | {"max_steps": 1}, base=base, data=ids, out=tmp_path / "zh")
    run = tmp_path / "zh"
    assert f"python cli_demo.py compare model={run} data={ids}" in caplog.text
    assert f"python cli_demo.py chat model={run}" in caplog.text
