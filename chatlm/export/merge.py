"""Adapters and their base as one plain Hugging Face folder.

In: a folder with adapters. Out: config.json, safetensors, the tokenizer, the base's licence and
README, and merge.json, which says of what it was made. The base stays as it is. Each matrix is
merged in fp32 and rounded once, one after the other, so that the weights as they will be written
and one matrix in fp32 are all that has to fit into memory. peft computes the products (it knows its
own variants); its own loop would add in the precision of the base, and round twice.

Nothing appears unless the written folder, opened again, answers as base and adapters do:
`chatlm.export.likeness`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chatlm import __version__, cli, log, run_folder, untrusted
from chatlm.adapters.base import Hold
from chatlm.adapters.opened import Opened, open_model
from chatlm.checkpoint.kinds import base_of
from chatlm.checkpoint.manifest import entry_of, expected
from chatlm.checkpoint.paths import ADAPTER_FILES
from chatlm.config import TrainConfig
from chatlm.errors import CheckpointError, ConfigError, brief
from chatlm.export import folder, likeness, plain, precision
from chatlm.export.likeness import Likeness

MERGE_FILE = "merge.json"
FORMAT_VERSION = 1
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """What to make, and what it has to be like.

    Attributes:
        adapters: the folder with them.
        out: the folder to write.
        dtype: of the written weights: auto (that of the base's files), or one of
            `precision.DTYPES`.
        max_shard_size: of a file of weights, as "4GB".
        questions: on which base with adapters and the merged model are compared.
        max_new_tokens: of those answers.
        min_identical: least share of them that has to be the same; below 0: any.
    """

    adapters: Path
    out: Path
    dtype: str
    max_shard_size: str
    questions: Sequence[str]
    max_new_tokens: int
    min_identical: float


def export(plan: Plan) -> tuple[str, Likeness]:
    """Writes the folder; returns the precision of its weights, and how like it is.

    Raises:
        CheckpointError: adapters or base are missing or damaged, or do not fit each other.
        ConfigError: `out` is taken, these adapters cannot be merged, or the merged model answers
            otherwise; nothing is written then.
        StorageError: the disk is too small, or failed.
    """
    folder.require_free(plan.out)
    what = _require_whole(plan.adapters)
    base = plain.local_folder(base_of(plan.adapters))
    plain.require_unquantised(base)
    held = precision.of_files(base)
    dtype = held if plan.dtype == "auto" else precision.DTYPES[plan.dtype]
    opened = open_model(plan.adapters, Hold(CPU, held))
    questions = likeness.questions_of(plan.questions, opened, plan.max_new_tokens)
    log.info(f"comparing {len(questions.sources)} answers before and after")
    heard = likeness.hear(opened, questions, dtype)
    inner: Any = opened.model.inner
    size = sum(p.numel() for p in inner.base_model.parameters()) * dtype.itemsize
    with folder.written(plan.out, size) as part:
        _write(part, plan, opened, base, None if plan.dtype == "auto" else dtype)
        del opened, inner
        written = open_model(part, Hold(CPU, dtype)).model
        found = likeness.compare(written, questions, heard)
        likeness.require(found, plan.min_identical)
        if 0 < heard.base_difference < 2 * found.difference:
            log.warning(
                f"rounding to {precision.name(dtype)} changes logits by {found.difference:.2g}, "
                f"the adapters themselves by {heard.base_difference:.2g}: dtype=fp32 keeps more"
            )
        told = {
            **_lineage(plan, what.sha256),
            "dtype": precision.name(dtype),
            "check": found.figures(),
        }
        text = json.dumps(told, ensure_ascii=False, indent=1)
        (part / MERGE_FILE).write_text(f"{text}\n", encoding="utf-8")
        folder.write_manifest(part, plan.adapters)
    return precision.name(dtype), found


def merged(model: Any, dtype: torch.dtype | None) -> Any:
    """Returns the base of a peft model with its adapters merged into its own weights.

    Args:
        model: of peft; it is used up.
        dtype: of all weights afterwards; None: each as it was.

    Raises:
        ConfigError: these adapters have nothing that could be merged, or the result is not finite.
    """
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

    if not isinstance(model.base_model, BaseTuner):
        kind = model.active_peft_config.peft_type
        raise ConfigError(
            f"adapters of the kind {untrusted.shown(str(kind))} cannot be merged: they are no "
            "change of weights"
        )
    _untie(model, BaseTunerLayer)
    for name, layer in model.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        own = list(layer.get_base_layer().parameters())
        before = [parameter.dtype for parameter in own]
        for parameter in own:
            parameter.data = parameter.data.float()
        try:
            layer.merge(safe_merge=True)
        except (ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
            raise ConfigError(
                f"the adapters of {name} cannot be merged: {brief(error)}; keep them as they are"
            ) from error
        for parameter, kind in zip(layer.get_base_layer().parameters(), before, strict=True):
            parameter.data = plain.rounded(parameter.data, dtype or kind, name)
    whole = model.unload()
    if dtype:
        for name, parameter in whole.named_parameters():
            parameter.data = plain.rounded(parameter.data, dtype, name)
    table, head = whole.get_input_embeddings(), whole.get_output_embeddings()
    if head is not None and table.weight is not head.weight:
        whole.config.tie_word_embeddings = False
    return whole


def _untie(model: Any, kind: type) -> None:
    """Gives an output head with adapters weights of its own: its table has to stay as it is."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    layers = [layer for layer in (head, table) if isinstance(layer, kind)]
    if layers and head.weight is table.weight:
        own: Any = layers[0]
        weight = own.get_base_layer().weight
        own.get_base_layer().weight = torch.nn.Parameter(weight.data.clone(), requires_grad=False)


def _write(part: Path, plan: Plan, opened: Opened, base: Path, dtype: torch.dtype | None) -> None:
    """Writes everything but merge.json and the manifest."""
    whole = merged(opened.model.inner, dtype)
    plain.save(whole, opened.form.tokenizer, part, plan.max_shard_size)
    plain.copy_texts(base, part)
    if (plan.adapters / folder.CHAT_FILE).is_file():
        folder.copy_file(plan.adapters, folder.CHAT_FILE, part)


def _require_whole(adapters: Path) -> Any:
    """Returns what the file of adapters is.

    Raises:
        CheckpointError: it is not what its manifest says.
    """
    for name in ADAPTER_FILES:
        what, should_be = entry_of(adapters / name), expected(adapters, name)
        if should_be and what != should_be:
            raise CheckpointError(f"{adapters / name} is damaged: it is not what its manifest says")
    return entry_of(adapters / ADAPTER_FILES[1])


def _lineage(plan: Plan, sha256: str) -> dict[str, Any]:
    """Returns of what the merged model was made."""
    of = folder.source_manifest(plan.adapters)
    try:
        config = cli.build(TrainConfig, run_folder.settings(plan.adapters.parent))
        quantize, data = config.quantize, config.data
    except (ConfigError, CheckpointError):
        quantize, data = None, None  # not trained here
    if quantize not in (None, "none"):
        log.info(
            f"the adapters were trained with the base in 4 bits ({quantize}): they are merged into "
            "its full weights, and answers differ a little from those in the training"
        )
    return {
        "format": FORMAT_VERSION,
        "chatlm": __version__,
        "base": base_of(plan.adapters),
        "adapters": str(plan.adapters),
        "adapter_sha256": sha256,
        "step": of.step if of else None,
        "data": data,
        "quantize": quantize,
    }
