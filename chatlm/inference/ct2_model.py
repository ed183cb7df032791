"""A model in CTranslate2's hands: its workers, its options, its seeds.

In: an exported folder; then the sources of a cohort. Out: their answers, all in step. Who waits,
and who is told what, is `ct2_engine`'s. It imports no torch.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import ctranslate2

from chatlm.errors import CheckpointError, ConfigError, brief
from chatlm.generation_config import GenerationConfig
from chatlm.inference.ct2_files import HOW_TO_EXPORT, Exported

UNSEEDED = 0xFFFFFFFF
"""Tells CTranslate2 to ask the system for a seed."""
Callback = Callable[[Any], bool]

_sampling = threading.Lock()
"""CTranslate2 has one seed for all models, and a worker reads it when it samples for the first time
in its life. Whoever samples holds this until his first token is there: no worker begins with the
seed of another."""


@dataclass(frozen=True)
class Key:
    """What the answers of a cohort have in common."""

    min_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    num_beams: int
    length_penalty: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    seed: int | None

    @classmethod
    def of(cls, config: GenerationConfig) -> "Key":
        """Returns the part of a config that is not each answer's own."""
        values = {field.name: getattr(config, field.name) for field in fields(cls)}
        if config.temperature == 0:
            values |= {"top_k": 0, "top_p": 1.0, "seed": None}  # without chance they mean nothing
        return cls(**values)

    @property
    def is_sampled(self) -> bool:
        """Whether chance has a part in the answer."""
        return self.temperature > 0

    @property
    def is_alone(self) -> bool:
        """Whether such an answer is made by itself."""
        return self.seed is not None or self.num_beams > 1


class Ct2Model:
    """The weights and their workers; as many threads as there are workers may call `answer`.

    Attributes:
        kind: what computes, for people.
    """

    def __init__(self, exported: Exported, device: str, num_workers: int, threads: int) -> None:
        """Opens an exported model.

        Args:
            exported: the folder.
            device: "auto", "cpu", "cuda" or "cuda:1".
            num_workers: cohorts at the same time; they share the weights.
            threads: that compute on a CPU, for each worker; 0: its share of the cores.

        Raises:
            CheckpointError: CTranslate2 cannot open it.
            ConfigError: there is no such device.
        """
        self._exported = exported
        self._device, self._index = _device(device)
        self._threads = threads or max(1, _num_cores() // num_workers)
        self._problem: CheckpointError | None = None
        self._check = threading.Thread(target=self._require_whole, daemon=True)
        self._check.start()  # reads the file beside CTranslate2, which takes as long
        self._translator: Any = self._open(num_workers)
        self._fresh: Any = None
        self._making_fresh = threading.Lock()
        self.kind = f"ctranslate2 {self._translator.compute_type} {self._device}"

    def answer(
        self, sources: Sequence[Sequence[int]], key: Key, max_new_tokens: int, callback: Callback
    ) -> list[list[int]]:
        """Makes one answer per source, all in step; returns them with beams, without EOS.

        Args:
            sources: ids, EOS included.
            key: how tokens are chosen.
            max_new_tokens: of the longest answer.
            callback: without beams it gets each token when it is chosen, on a thread of
                CTranslate2: `batch_id`, `step`, `token_id`, EOS too. Where it returns True, that
                answer ends.

        Raises:
            CheckpointError: model.bin is damaged.
            RuntimeError, ValueError: CTranslate2 failed.
        """
        self._check.join()
        if self._problem:
            raise self._problem
        names = [[self._exported.vocabulary[token] for token in source] for source in sources]
        options = self._options(key, max_new_tokens)
        if key.num_beams > 1:
            found = self._translator.translate_batch(names, **options)
            return [[self._ids[name] for name in one.hypotheses[0]] for one in found]
        if key.seed is not None:
            self._answer_seeded(names, options, key.seed, callback)
        elif key.is_sampled:
            _sample(self._translator, names, options, UNSEEDED, callback)
        else:
            self._translator.translate_batch(names, callback=callback, **options)
        return []

    def close(self) -> None:
        """Lets the weights go; no answer may be running."""
        self._check.join()
        self._translator = self._fresh = None

    def prepare_seeded(self) -> None:
        """Makes the worker of the next seeded answer, so that nobody waits for it then."""
        with self._making_fresh:
            if self._fresh is None:
                self._fresh = self._open(1)

    def _answer_seeded(self, names: Any, options: Any, seed: int, callback: Callback) -> None:
        """Samples with a worker that has never sampled: it begins where the seed says."""
        with self._making_fresh:
            worker, self._fresh = self._fresh, None
        _sample(worker or self._open(1), names, options, _mixed(seed), callback)

    def _options(self, key: Key, max_new_tokens: int) -> dict[str, Any]:
        """Returns the options of `translate_batch`, which mean what `chatlm.generate` does."""
        vocab_size = len(self._exported.vocabulary)
        sampling = {
            "sampling_topk": key.top_k if key.top_k < vocab_size else 0,
            "sampling_topp": key.top_p,
            "sampling_temperature": key.temperature,
        }
        return {
            "beam_size": key.num_beams,
            "length_penalty": key.length_penalty,
            "repetition_penalty": key.repetition_penalty,
            "no_repeat_ngram_size": key.no_repeat_ngram_size,
            "min_decoding_length": key.min_new_tokens,
            "max_decoding_length": max_new_tokens,
            "max_input_length": 0,
            # Pad and unk are controls, not text.
            "disable_unk": True,
            "suppress_sequences": [[self._exported.pad]],
            **(sampling if key.is_sampled else {"sampling_topk": 1}),
        }

    def _open(self, num_workers: int) -> Any:
        try:
            return ctranslate2.Translator(
                str(self._exported.folder),
                device=self._device,
                device_index=self._index,
                compute_type=_compute_type(self._exported.quantization, self._device, self._index),
                inter_threads=num_workers,
                intra_threads=self._threads,
            )
        except (RuntimeError, ValueError) as error:
            self._check.join()
            raise self._problem or CheckpointError(
                f"{self._exported.folder}: CTranslate2 cannot open it ({brief(error)}); "
                f"{HOW_TO_EXPORT}"
            ) from error

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: token for token, name in enumerate(self._exported.vocabulary)}

    def _require_whole(self) -> None:
        try:
            self._exported.require_whole()
        except CheckpointError as error:
            self._problem = error  # raised by `answer`


def _sample(translator: Any, names: Any, options: Any, seed: int, callback: Callback) -> None:
    """Makes sampled answers; a worker that samples for the first time begins with `seed`."""
    _sampling.acquire()
    ctranslate2.set_random_seed(seed)
    is_held = True

    def let_go() -> None:
        nonlocal is_held
        if is_held:
            is_held = False
            ctranslate2.set_random_seed(UNSEEDED)
            _sampling.release()

    def heard(step: Any) -> bool:
        let_go()
        return callback(step)

    try:
        translator.translate_batch(names, callback=heard, **options)
    finally:
        let_go()


def _mixed(seed: int) -> int:
    """Returns one of the seeds that CTranslate2 takes: 32 bits, and not `UNSEEDED`."""
    return (seed ^ seed >> 32) % UNSEEDED


def _compute_type(quantization: str, device: str, index: int) -> str:
    """Returns what to compute with: as stored, or with fp32 where the device has no such floats."""
    if quantization in ctranslate2.get_supported_compute_types(device, index):
        return quantization
    return "int8_float32" if quantization.startswith("int8") else "float32"


def _num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _device(name: str) -> tuple[str, int]:
    """Returns what CTranslate2 calls a device, and its number.

    Raises:
        ConfigError: there is no such device.
    """
    kind, _, number = name.partition(":")
    num_gpus = ctranslate2.get_cuda_device_count()
    if kind == "auto" and not number:
        return ("cuda", 0) if num_gpus else ("cpu", 0)
    if name == "cpu":
        return "cpu", 0
    index = int(number or 0) if (number or "0").isdecimal() else num_gpus
    if kind == "cuda" and index < num_gpus:
        return "cuda", index
    here = ", ".join(["auto", "cpu", *(f"cuda:{gpu}" for gpu in range(num_gpus))])
    raise ConfigError(f"device={name}: an exported model can use {here} here")
