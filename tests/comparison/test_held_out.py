"""What a run says about its training data decides which rows are held out."""

import pytest

from chatlm import cli
from chatlm.adapters import sequences
from chatlm.adapters.data import is_held_out
from chatlm.adapters.forms import Asked
from chatlm.comparison import held_out
from chatlm.config import ReplaySettings, TrainConfig
from chatlm.corpus.readers import read
from chatlm.corpus.store import file_sha256
from tests import tiny_data
from tests.comparison.conftest import write_pairs


def run_on(folder, data, replayed=None):
    """Returns a checkpoint folder whose run was trained on `data`, perhaps with a replay."""
    step = folder / "run" / "step_000001"
    step.mkdir(parents=True, exist_ok=True)
    replay = ReplaySettings(data=str(replayed or ""))
    config = TrainConfig(finetune=True, base="base", data=str(data), replay=replay)
    (step.parent / "config.yaml").write_text(cli.to_yaml(config), "utf-8")
    return step


@pytest.fixture
def ids(tmp_path, form):
    """Returns a token folder that was made of sums.jsonl, with the sums.json beside it."""
    path = write_pairs(tmp_path / "sums.jsonl", 40)
    path = path.rename(tmp_path / "sums.json")
    facts = {"data": str(tmp_path / "sums.jsonl"), "data_sha256": file_sha256(path)}
    sequences.write(read(path), form, sequences.Limits(200, True), tmp_path / "ids", facts)
    return tmp_path / "ids"


def english(rule):
    return [note.en for note in rule.notes]


def test_a_run_on_ids_held_out_what_the_rule_says_of_its_file(tmp_path, ids):
    step = run_on(tmp_path, ids)
    (tmp_path / "copies").mkdir()
    copy = tmp_path / "copies" / "copy.json"
    copy.write_bytes((tmp_path / "sums.json").read_bytes())
    for data in (tmp_path / "sums.json", tmp_path / "sums.jsonl", copy, ids):
        rule = held_out.rule_of(step, data)
        assert english(rule) == []
        found = {number for number in range(900) if rule.holds(Asked("?"), [number])}
        assert found == {number for number in range(900) if is_held_out([number])}


def test_with_another_file_held_out_means_nothing_and_a_line_says_so(tmp_path, ids):
    other = write_pairs(tmp_path / "other.json", 50)
    notes = english(held_out.rule_of(run_on(tmp_path, ids), other))
    assert len(notes) == 1
    assert "trained on" in notes[0]
    assert str(ids) in notes[0]
    assert str(other) in notes[0]
    assert "held-out means nothing here" in notes[0]


def test_a_folder_of_no_run_does_not_say_what_it_saw(tmp_path):
    rule = held_out.rule_of(tmp_path / "base", write_pairs(tmp_path / "a.json", 3))
    assert rule.notes == (held_out.UNKNOWN,)


def test_data_that_is_gone_leaves_it_open(tmp_path):
    step = run_on(tmp_path, tmp_path / "gone")
    notes = english(held_out.rule_of(step, write_pairs(tmp_path / "a.json", 3)))
    assert len(notes) == 1
    assert "whether these rows were trained on is not known" in notes[0]


def test_a_run_on_pairs_held_out_what_is_not_among_them(tmp_path):
    data = tiny_data.make(tmp_path / "pairs", pairs=70)
    rule = held_out.rule_of(run_on(tmp_path, data), data / "valid.parquet")
    assert rule.notes == ()
    for one in tiny_data.examples(70):
        assert not rule.holds(Asked(one.prompt), [1])
    for one in tiny_data.examples(9, 100):
        assert rule.holds(Asked(one.prompt), [1])
    other = held_out.rule_of(run_on(tmp_path, data), write_pairs(tmp_path / "a.json", 3))
    assert len(other.notes) == 1


def test_general_pairs_of_a_replay_were_trained_on_too(tmp_path, ids):
    general = tiny_data.make(tmp_path / "general", pairs=70)
    step = run_on(tmp_path, ids, replayed=general)
    rule = held_out.rule_of(step, general / "valid.parquet")
    assert rule.notes == ()
    assert not any(rule.holds(Asked(one.prompt), [1]) for one in tiny_data.examples(70))
    assert all(rule.holds(Asked(one.prompt), [1]) for one in tiny_data.examples(9, 100))
    assert english(held_out.rule_of(step, tmp_path / "sums.json")) == []
    (note,) = english(held_out.rule_of(step, write_pairs(tmp_path / "other.json", 50)))
    assert str(ids) in note


def test_a_run_that_moved_all_weights_knows_its_base(tmp_path):
    step = run_on(tmp_path, tmp_path)
    assert held_out.base_of_run(step) == ""
    (step / "config.json").write_text("{}", "utf-8")
    assert held_out.base_of_run(step) == "base"
