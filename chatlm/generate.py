"""From source ids to answer ids: greedy, sampling and beam search over a `T5`.

In: a model, padded source ids, a `GenerationConfig`. Out: lists of ids without the start and
without EOS, or an iterator of ids; and the steps of choosing a token, for the engine that answers
many at once (`chatlm.inference.torch_engine`). Knows no text and no tokenizer. The source is
encoded once, its cross-attention keys are made once, then each token costs one token.

Shapes: B batch (rows: examples times beams), S source length, T answer so far, V vocabulary.
"""

import contextlib
import dataclasses
import math
from collections.abc import Generator, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chatlm.errors import ConfigError
from chatlm.generation_config import GenerationConfig
from chatlm.model.cache import Cache
from chatlm.model.config import ModelConfig
from chatlm.model.masks import TokenMask
from chatlm.model.t5 import T5


def generate(
    model: T5, input_ids: Int[Tensor, "B S"], attention_mask: TokenMask, config: GenerationConfig
) -> list[list[int]]:
    """Return one answer per row, without the pad start and without EOS.

    The model is put into eval mode for the while. Rows that have ended wait for the others.
    """
    if not len(input_ids):
        return []
    if config.num_beams > 1:
        return _last(beam_search(model, input_ids, attention_mask, config))
    answers: list[list[int]] = [[] for _ in range(len(input_ids))]
    running = set(range(len(answers)))
    for tokens in _tokens(model, input_ids, attention_mask, config):
        for row in sorted(running):
            if tokens[row] == model.config.eos_token_id:
                running.discard(row)
            else:
                answers[row].append(tokens[row])
        if not running:
            break
    return answers


def stream(
    model: T5, input_ids: Int[Tensor, "1 S"], config: GenerationConfig
) -> Generator[int, None, None]:
    """Return an iterator of the answer's ids, each as soon as it is chosen, without EOS.

    A token is computed when it is asked for: who stops asking, or closes the iterator, stops the
    work. Until its end or `close()` the model stays in eval mode.

    Raises:
        ConfigError: `num_beams` is above 1; beams settle on their first token at the end only.
    """
    if config.num_beams > 1:
        raise ConfigError(
            f"num_beams={config.num_beams}: an answer can be streamed with num_beams=1 only; "
            "set num_beams=1, or wait for the whole answer"
        )
    return _stream(model, input_ids, config)


def _stream(model: T5, input_ids: Tensor, config: GenerationConfig) -> Generator[int, None, None]:
    for tokens in _tokens(model, input_ids, torch.ones_like(input_ids), config):
        if tokens[0] == model.config.eos_token_id:
            return
        yield tokens[0]


@contextlib.contextmanager
def _eval_mode(model: T5) -> Iterator[None]:
    """Keep a model in eval mode for the while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def _tokens(
    model: T5, input_ids: Tensor, attention_mask: Tensor, config: GenerationConfig
) -> Iterator[list[int]]:
    """Yield the next token of every row, `max_new_tokens` times; the caller watches for EOS."""
    generator = sampling_generator(config, input_ids.device)
    controls = Controls.of(model.config)
    with _eval_mode(model):
        step = _Stepper(model, input_ids, attention_mask)
        history = input_ids.new_zeros(len(input_ids), 0)
        tokens = step.start
        for _ in range(config.max_new_tokens):
            scores = adjust(step(tokens), history, config, controls)
            tokens = choose(scores, config, generator)
            history = torch.cat([history, tokens], dim=1)
            yield tokens.flatten().tolist()


def sampling_generator(config: GenerationConfig, device: torch.device) -> torch.Generator | None:
    """Return a generator of our own, so that sampling neither reads nor moves the global one."""
    if config.temperature == 0:
        return None
    generator = torch.Generator(device)
    if config.seed is None:
        generator.seed()
    else:
        generator.manual_seed(config.seed)
    return generator


class _Stepper:
    """The model with its memory and cache: the last token in, the next token's logits out."""

    @torch.inference_mode()
    def __init__(
        self, model: T5, input_ids: Tensor, attention_mask: Tensor, copies: int = 1
    ) -> None:
        self.model, self.cache = model, Cache()
        self.memory = model.encode(input_ids, attention_mask).repeat_interleave(copies, dim=0)
        self.attention_mask = attention_mask.repeat_interleave(copies, dim=0)
        self.start = input_ids.new_full((len(self.memory), 1), model.config.pad_token_id)

    @torch.inference_mode()
    def __call__(self, tokens: Int[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
        hidden = self.model.decode(tokens, self.memory, self.attention_mask, self.cache)
        return self.model.logits(hidden[:, -1]).float()

    @torch.inference_mode()
    def reorder(self, rows: Int[Tensor, " B"]) -> None:
        self.cache.reorder(rows)


@dataclasses.dataclass(frozen=True)
class Controls:
    """Ids that are no text.

    Attributes:
        never: not one of them is generated.
        ends: each of them ends an answer.
    """

    never: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, config: ModelConfig) -> "Controls":
        """Return those of a model of ours: pad and unk are controls, not text."""
        return cls((config.pad_token_id, config.unk_token_id), (config.eos_token_id,))


@torch.inference_mode()
def adjust(
    scores: Float[Tensor, "B V"],
    history: Int[Tensor, "B T"],
    config: GenerationConfig,
    controls: Controls,
) -> Float[Tensor, "B V"]:
    """Return the scores (logits or log-probabilities) after penalties and bans."""
    if config.repetition_penalty != 1.0:
        seen = scores.gather(1, history)
        penalised = torch.where(
            seen < 0, seen * config.repetition_penalty, seen / config.repetition_penalty
        )
        scores = scores.scatter(1, history, penalised)
    scores = scores.clone()
    scores[:, list(controls.never)] = -math.inf
    if history.shape[1] < config.min_new_tokens:
        scores[:, list(controls.ends)] = -math.inf
    if config.no_repeat_ngram_size:
        for row, tokens in enumerate(history.tolist()):
            scores[row, _repeating(tokens, config.no_repeat_ngram_size)] = -math.inf
    return scores


def _repeating(tokens: list[int], n: int) -> list[int]:
    """Return the tokens that would complete an n-gram that `tokens` already contains."""
    prefix = tokens[len(tokens) - n + 1 :] if n > 1 else []
    if len(prefix) < n - 1:
        return []
    starts = range(len(tokens) - n + 1)
    return [tokens[i + n - 1] for i in starts if tokens[i : i + n - 1] == prefix]


@torch.inference_mode()
def choose(
    scores: Float[Tensor, "B V"], config: GenerationConfig, generator: torch.Generator | None
) -> Int[Tensor, "B 1"]:
    """Return the next token of each row: the best one, or a draw."""
    if generator is None:
        return scores.argmax(dim=-1, keepdim=True)
    return torch.multinomial(sampling_probabilities(scores, config), 1, generator=generator)


def sampling_probabilities(
    scores: Float[Tensor, "B V"], config: GenerationConfig
) -> Float[Tensor, "B V"]:
    """Return what is sampled from, up to a factor: temperature, then top_k, then top_p."""
    scores = scores / config.temperature
    if 0 < config.top_k < scores.shape[1]:
        worst_kept = scores.topk(config.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < worst_kept, -math.inf)
    probabilities = scores.softmax(dim=-1)
    if config.top_p < 1.0:
        ranked, order = probabilities.sort(dim=-1, descending=True)
        # A token stays if those before it have not reached top_p; so the best one always stays.
        ranked = ranked.masked_fill(ranked.cumsum(dim=-1) - ranked >= config.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ranked)
    return probabilities


@dataclasses.dataclass
class _Finished:
    """The best finished answers of one example, best first, and whether more can come."""

    size: int
    answers: list[tuple[float, list[int]]] = dataclasses.field(default_factory=list)
    is_closed: bool = False

    def add(self, score: float, tokens: list[int]) -> None:
        """Keep the answer if it is among the best `size`."""
        self.answers.append((score, tokens))
        self.answers.sort(key=lambda answer: -answer[0])
        del self.answers[self.size :]

    def close_if_beaten(self, best_running_score: float) -> None:
        """Close when `size` answers have ended and none still running beats the worst of them."""
        is_full = len(self.answers) == self.size
        self.is_closed = self.is_closed or (is_full and best_running_score <= self.answers[-1][0])


def _last(steps: Generator[None, None, list[list[int]]]) -> list[list[int]]:
    """Return what a generator returns in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def beam_search(
    model: T5, input_ids: Int[Tensor, "B S"], attention_mask: TokenMask, config: GenerationConfig
) -> Generator[None, None, list[list[int]]]:
    """Return an iterator that makes one token step each time it is asked, and returns the answers.

    Each step keeps the `num_beams` best unfinished continuations. One that ends is an answer if it
    is among the best `num_beams` of the step, with log-probability / length ** length_penalty as
    its score; an answer that reaches `max_new_tokens` ends without EOS. An example is closed as
    `_Finished` says, comparing at the present length. Until the end or `close()` the model stays in
    eval mode.
    """
    with _eval_mode(model):
        return (yield from _beam_steps(model, input_ids, attention_mask, config))


def _beam_steps(
    model: T5, input_ids: Tensor, attention_mask: Tensor, config: GenerationConfig
) -> Generator[None, None, list[list[int]]]:
    num_beams, eos = config.num_beams, model.config.eos_token_id
    controls = Controls.of(model.config)
    step = _Stepper(model, input_ids, attention_mask, copies=num_beams)
    examples = [_Finished(num_beams) for _ in range(len(input_ids))]
    history = input_ids.new_zeros(len(step.start), 0)
    # All beams of an example start alike; only the first may count, or all would stay alike.
    totals = torch.full((len(examples), num_beams), -1e9, device=input_ids.device)
    totals[:, 0] = 0.0
    tokens = step.start
    for length in range(1, config.max_new_tokens + 1):
        scores = adjust(step(tokens).log_softmax(dim=-1), history, config, controls)
        top_totals, top_rows, top_tokens = _best_continuations(scores, totals, num_beams)
        is_last = length == config.max_new_tokens
        _collect(examples, history, top_totals, top_rows, top_tokens, eos, is_last, config)
        totals, chosen = (top_totals.masked_fill(top_tokens == eos, -1e9)).topk(num_beams)
        for example, best in zip(examples, totals[:, 0].tolist(), strict=True):
            example.close_if_beaten(best / length**config.length_penalty)
        if is_last or all(example.is_closed for example in examples):
            break
        rows = top_rows.gather(1, chosen).flatten()
        tokens = top_tokens.gather(1, chosen).flatten()[:, None]
        history = torch.cat([history[rows], tokens], dim=1)
        step.reorder(rows)
        yield
    return [example.answers[0][1] for example in examples]


@torch.inference_mode()
def _best_continuations(
    scores: Float[Tensor, "B V"], totals: Float[Tensor, "examples beams"], num_beams: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return totals, row and token of the best 2 * num_beams continuations of each example.

    Twice as many as beams, so that enough are left when as many as possible end with EOS.
    """
    num_examples, vocabulary = len(totals), scores.shape[1]
    totals = (scores + totals.flatten()[:, None]).view(num_examples, -1)
    best, index = totals.topk(2 * num_beams)
    first_row = torch.arange(num_examples, device=scores.device)[:, None] * num_beams
    return best, first_row + index // vocabulary, index % vocabulary


def _collect(
    examples: list[_Finished],
    history: Int[Tensor, "B T"],
    totals: Float[Tensor, "examples twice_beams"],
    rows: Int[Tensor, "examples twice_beams"],
    tokens: Int[Tensor, "examples twice_beams"],
    eos: int,
    is_last: bool,
    config: GenerationConfig,
) -> None:
    """Hand the continuations that end at this step to their examples."""
    told = history.tolist()
    penalty = (history.shape[1] + 1) ** config.length_penalty
    for i, example in enumerate(examples):
        if example.is_closed:
            continue
        candidates = zip(totals[i].tolist(), rows[i].tolist(), tokens[i].tolist(), strict=True)
        for _, (total, row, token) in zip(range(config.num_beams), candidates, strict=False):
            if token == eos:
                example.add(total / penalty, told[row])
            elif is_last:
                example.add(total / penalty, [*told[row], token])
