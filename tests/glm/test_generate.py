"""`generate` on ChatGLM: padding and caches change nothing, unused ids never come."""

import pytest
import torch

from chatlm.glm.modeling import CACHE, UnusedIds

PROMPTS = [[5, 6, 7, 8, 58, 60], [11, 58, 60], [20, 21, 22, 58, 60]]
PAD = 3


def padded(rows):
    """Return the rows padded on the left, and their mask."""
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])


def answers(model, rows, **settings):
    """Return what follows each prompt, all prompts in one batch."""
    ids, mask = padded(rows)
    found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, **settings)
    return found[:, ids.shape[1] :].tolist()


SETTINGS = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3, "do_sample": False},
    "penalised": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
}


@pytest.mark.parametrize("name", ["greedy", "beams"])  # a penalty counts the padding, too
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(make_model, name):
    model, settings = make_model(), SETTINGS[name]
    together = answers(model, PROMPTS, **settings)
    for row, prompt in zip(together, PROMPTS, strict=True):
        (alone,) = answers(model, [prompt], **settings)
        assert row[: len(alone)] == alone
        assert set(row[len(alone) :]) <= {PAD}


@pytest.mark.parametrize(
    "cache", [{"use_cache": False}, {"cache_implementation": "static"}], ids=["none", "static"]
)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_cache_changes_nothing(make_model, settings, cache):
    model = make_model()
    assert answers(model, PROMPTS, **settings) == answers(model, PROMPTS, **settings, **cache)


def test_padding_is_found_without_a_mask(make_model):
    model = make_model()
    ids, _ = padded(PROMPTS)
    found = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)
    assert found[:, 6:].tolist() == answers(model, PROMPTS, do_sample=False)


def test_greedy_follows_the_logits_of_the_whole_sequence(make_model):
    model = make_model()
    (answer,) = answers(model, PROMPTS[:1], do_sample=False)
    ids = torch.tensor([PROMPTS[0] + answer])
    with torch.no_grad():
        best = model(input_ids=ids).logits[0, 5:-1, :62].argmax(-1)
    assert best.tolist() == answer
    assert len(set(answer)) > 2, "a model that repeats itself tests little"


def test_beams_find_nothing_worse_than_greedy(make_model):
    model = make_model()

    def score(prompt, answer):
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        logits[:, 62:] = -torch.inf
        return logits.log_softmax(-1)[range(len(answer)), answer].sum().item()

    for prompt in PROMPTS:
        greedy, beams = (answers(model, [prompt], **SETTINGS[k])[0] for k in ("greedy", "beams"))
        assert len(greedy) == len(beams)
        assert score(prompt, beams) >= score(prompt, greedy) - 1e-4


def test_sampling_repeats_with_its_seed_and_never_gives_unused_ids(make_model):
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[62:] = 0
        model.lm_head.weight[62:, :] = model.lm_head.weight[:62].sum(0) * 3
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(answers(model, PROMPTS * 4, do_sample=True, temperature=5.0, top_k=0))
    assert draws[0] == draws[1] != draws[2]
    assert max(token for draw in draws for row in draw for token in row) < 62


def test_images_of_the_older_numbering_are_not_generated():
    scores = torch.zeros(1, 8)
    kept = UnusedIds(2, 6)(torch.zeros(1, 1), scores)
    assert kept.isfinite().tolist() == [[False, False, True, True, True, True, False, False]]
    assert scores.isfinite().all()


def test_an_answer_ends_with_eop(make_model):
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[61] = 0
        model.transformer.final_layernorm.bias += model.lm_head.weight[9]
    (answer,) = answers(model, PROMPTS[:1], do_sample=False)
    assert 61 not in answer
    model.config.eos_token_id = model.generation_config.eos_token_id = answer[2]
    (cut,) = answers(model, PROMPTS[:1], do_sample=False)
    assert cut == answer[: answer.index(answer[2]) + 1]


def test_a_cache_of_an_earlier_turn_is_continued_with_all_ids(make_model):
    model = make_model()
    ids = torch.tensor([[5, 58, 60]])
    settings = {"do_sample": False, "max_new_tokens": 3}
    first = model.generate(input_ids=ids, return_dict_in_generate=True, **settings)
    cache = first[CACHE]
    whole = torch.cat([first.sequences, torch.tensor([[9]])], dim=-1)
    going_on = model.generate(input_ids=whole, **{CACHE: cache}, **settings)
    assert going_on.tolist() == model.generate(input_ids=whole, **settings).tolist()
    with pytest.raises(ValueError, match="needs the ids of the whole sequences"):
        model.prepare_inputs_for_generation(ids, **{CACHE: cache})


def test_prompts_without_the_form_and_foreign_positions_are_refused(make_model):
    model = make_model()
    with pytest.raises(ValueError, match=r"row 1 of input_ids has no \[gMASK\] <sop>"):
        model.generate(input_ids=torch.tensor([[5, 58, 60], [5, 6, 7]]), max_new_tokens=2)
    with pytest.raises(ValueError, match="leave position_ids away"):
        model.generate(
            input_ids=torch.tensor([[5, 58, 60]]),
            position_ids=torch.tensor([[0, 1, 2]]),
            max_new_tokens=2,
        )
