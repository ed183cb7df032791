"""How many tokens the pairs of a tuning have, as the tokenizer of its base counts them.

In: settings with `base=`, where the pairs are, the form of the base. Out: `Pairs`. Sequences on
disk are counted as they are; of other data a sample is made into ids, as a run would make all.
"""

import numpy as np

from chatlm.adapters import data, replay, sequences
from chatlm.adapters.forms import Form
from chatlm.adapters.sequences import Limits, fit
from chatlm.config import TrainConfig
from chatlm.corpus.example import Skipped
from chatlm.dataset.prepare import Source
from chatlm.errors import DataError
from chatlm.plan import lengths
from chatlm.plan.lengths import Lengths, Pairs


def find(config: TrainConfig, source: Source, form: Form) -> Pairs:
    """Returns the lengths of a run's training pairs, those of a replay among them.

    Raises:
        DataError: the pairs cannot be read, or none is left.
    """
    pairs = _of(config, source, form)
    general = replay.find(config)
    if general is None:
        return pairs
    return _mixed(pairs, _of(config, general.source, form), config.replay.share)


def _of(config: TrainConfig, source: Source, form: Form) -> Pairs:
    if source.kind == "sequences":
        train, _ = data.parted(sequences.open_sequences(source.path, form.fingerprint))
        sides = train.sources.lengths, train.targets.lengths
        return Pairs(len(train), *sides, form.vocab_size, f"{source.path} (exact)", True)
    num_pairs, texts = lengths.sample(source)
    limits = Limits(config.max_source_tokens + config.max_target_tokens, skip_overlength=False)
    sides = _tokenised(texts, form, limits)
    every = "all" if len(texts) >= num_pairs else f"a sample of {len(texts):,} of"
    kept = round(num_pairs * len(sides[0]) / len(texts))
    return Pairs(kept, *sides, form.vocab_size, f"{every} {num_pairs:,} pairs, tokenised")


def _tokenised(texts: list[tuple[str, str]], form: Form, limits: Limits) -> tuple[Lengths, Lengths]:
    """Returns the tokens of prompts and answers, left out what a run would leave out."""
    found = [sequences.asked_of({"prompt": text, "response": said}) for text, said in texts]
    some = [one for row in found if not isinstance(row, str) for one in row]
    rows = [one for one in some if not isinstance(one, Skipped)]
    prompts = form.prompt_ids([asked for asked, _ in rows])
    answers = form.answer_ids([answer for _, answer in rows])
    sides: tuple[list[int], list[int]] = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        fitted = fit(prompt, answer, form.end_ids, limits)
        if prompt is not None and not isinstance(fitted, str):
            sides[0].append(len(prompt))
            sides[1].append(len(fitted))
    if not sides[0]:
        raise DataError("there is no pair to plan for: none has a prompt and an answer that fit")
    return np.array(sides[0], np.int64), np.array(sides[1], np.int64)


def _mixed(task: Pairs, general: Pairs, share: float) -> Pairs:
    """Returns the pairs of a task with so many general ones that they have that share of all."""
    wanted = min(general.num_pairs, max(1, round(share / (1 - share) * task.num_pairs)))
    of_sample = max(1, round(wanted / task.num_pairs * len(task.source_lengths)))
    places = np.linspace(0, len(general.source_lengths) - 1, of_sample).round().astype(int)
    return Pairs(
        task.num_pairs + wanted,
        np.concatenate([task.source_lengths, general.source_lengths[places]]),
        np.concatenate([task.target_lengths, general.target_lengths[places]]),
        task.vocab_size,
        f"{task.basis}; {wanted:,} general ones: {general.basis}",
        task.is_prepared and general.is_prepared,
    )
