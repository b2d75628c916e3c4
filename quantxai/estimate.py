"""What a sweep will cost, before it is started: download, disk, memory and time.

Time follows from what was measured where this run has stored cells of the same explainer, and
otherwise from arithmetic: 2 floating-point operations per parameter and token, at a rate that a
tenth of a second of matrix products finds on this machine. Good to a factor of two at best.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
from pydantic import Field

from quantxai.manifest import CellKey
from quantxai.models import MODELS, ModelSource
from quantxai.plan import Entry, Plan, RowCell
from quantxai.records import Record
from quantxai.store import Store
from quantxai.variants import Variant

__all__ = ["Estimate", "estimate", "parameters", "tokens_per_item"]

# Measured with a 135M model on two cores, against numpy's float32 matrix products: reading a prompt
# reaches 0.6 of their rate (bfloat16 instructions: 2.2 times that), generating a third of the prompt's.
EFFICIENCY = 0.6
BFLOAT16_GAIN = 2.2
GENERATION_COST = 3.0
KERNEL_COST = 2.0
"""A quantized kernel on a CPU against dense matrices."""
CALIBRATION_COST = 3.0
"""Passes over the calibration text that GPTQ and AWQ cost, their own arithmetic included."""
PERPLEXITY_TOKENS = 2048
CHARACTERS_PER_TOKEN = 4
PROMPT_TOKENS = 12
"""Wording around an item; demonstrations before it are computed once for all items."""
START_SECONDS = 4.0
"""Of one variant's process: fork, load, first pass."""
FIXED_SECONDS = 10.0
"""Planning, comparison, report."""
CONVERSION_SECONDS = 30.0
LIBRARY_BYTES = 900_000_000
"""torch, transformers and a quantizer's package in memory, once for all processes."""
ROW_BYTES = 1_000


class Estimate(Record):
    """What is still to be spent; everything already done is left out."""

    download_bytes: int
    disk_bytes: int = Field(description="What stays on the disk: model, checkpoints, twins, cells.")
    memory_bytes: int = Field(description="Peak of all processes at the same time.")
    seconds: float | None = Field(
        description="Without the download; null on a GPU, where nothing was measured."
    )
    basis: str = Field(description="How the time was found.")


def estimate(plan: Plan, store: Store, done: Collection[CellKey]) -> Estimate:
    """Return what finishing a plan will cost.

    Args:
        plan: the plan.
        store: its run directory, which need not exist.
        done: keys of the cells that are stored.
    """
    count = parameters(plan.model)
    todo = [c for c in plan.rows if c.key not in done]
    measured = _seconds_per_item(plan, store, done)
    seconds, basis = None, "not estimated on a GPU"
    if plan.parent.device == "cpu":
        rate = _rate(plan.parent.dtype)
        seconds = _seconds(plan, todo, done, measured, 2 * count / rate)
        basis = f"{rate / 1e9:.0f} GFLOP/s measured on this machine just now"
        if measured:
            basis += ", and the cells this run has stored"
    return Estimate(
        download_bytes=plan.model.download_bytes,
        disk_bytes=_disk(plan, todo, count),
        memory_bytes=_memory(plan, todo, count),
        seconds=seconds,
        basis=basis,
    )


def parameters(model: ModelSource) -> int:
    """Return the number of parameters, from headers or the registered number, never from weights."""
    if model.path is None:
        return MODELS[model.name].parameters if model.name in MODELS else model.download_bytes // 2
    files = list(model.path.glob("*.safetensors"))
    if files:
        return sum(map(_numbers_in, files))
    return sum(f.stat().st_size for f in model.path.glob("pytorch_model*.bin")) // 2


def _numbers_in(file: Path) -> int:
    """Numbers in a safetensors file: 8 bytes with the header's length, then the header as JSON."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _rate(dtype: str) -> float:
    """Floating-point operations per second that reading a prompt reaches here."""
    matrix = np.ones((768, 768), dtype=np.float32)
    matrix @ matrix
    start, products = time.perf_counter(), 0
    while time.perf_counter() - start < 0.1:
        matrix @ matrix
        products += 1
    plain = products * 2 * matrix.shape[0] ** 3 / (time.perf_counter() - start)
    return plain * EFFICIENCY * (BFLOAT16_GAIN if dtype == "bfloat16" else 1)


def _seconds_per_item(plan: Plan, store: Store, done: Collection[CellKey]) -> dict[tuple[str, str], float]:
    """Mean seconds per item of the stored cells, by explainer and data set."""
    spent: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for cell in plan.rows:
        if cell.key in done:
            seconds = float(store.meta(cell.key).get("seconds", 0))
            spent.setdefault((cell.key.explainer, cell.key.dataset), []).append((seconds, len(cell.items)))
    return {key: sum(s for s, _ in found) / sum(n for _, n in found) for key, found in spent.items()}


def _seconds(
    plan: Plan,
    todo: list[RowCell],
    done: Collection[CellKey],
    measured: dict[tuple[str, str], float],
    per_token: float,
) -> float:
    explaining = 0.0
    for cell in todo:
        known = measured.get((cell.key.explainer, cell.key.dataset))
        if known is not None:
            explaining += known * len(cell.items)
        else:
            quantized = cell.variant.quantizer.weight_bits is not None
            slower = KERNEL_COST if quantized and cell.variant.execution == "kernel" else 1
            explaining += len(cell.items) * tokens_per_item(cell.entry) * per_token * slower
    scoring = sum(
        cell.entry.items * _item_tokens(cell.entry) * per_token
        for cell in plan.scores
        if cell.key not in done
    )
    waiting = {c.variant.name for c in todo} | {v.name for v in plan.variants if not v.prepared}
    preparing = sum(_tokens_to_prepare(v) * per_token for v in plan.variants if not v.prepared)
    conversion = CONVERSION_SECONDS if plan.model.path is None else 0
    return FIXED_SECONDS + conversion + preparing + explaining + scoring + START_SECONDS * len(waiting)


def _tokens_to_prepare(variant: Variant) -> float:
    if not variant.quantizer.calibrated:
        return PERPLEXITY_TOKENS
    calibration = variant.calibration.sequences * variant.calibration.length
    return CALIBRATION_COST * calibration + 2 * PERPLEXITY_TOKENS


def _item_tokens(entry: Entry) -> float:
    characters = sum(len(item.text) for shard in entry.shards for item in shard)
    return characters / max(1, entry.items) / CHARACTERS_PER_TOKEN


def tokens_per_item(entry: Entry) -> float:
    """Return the tokens one item costs, a generated one counted as GENERATION_COST tokens of a prompt."""
    prompt = PROMPT_TOKENS + _item_tokens(entry)
    tokens = 0.0
    if "generate" in entry.explainer.needs:
        # Answers end by themselves, about as long as the item.
        longest = float(getattr(entry.explainer, "max_new_tokens", 64))
        tokens += prompt + GENERATION_COST * min(longest, prompt)
    if entry.explainer.needs - {"generate"}:
        tokens += 2 * prompt
    return tokens


def _disk(plan: Plan, todo: list[RowCell], count: int) -> int:
    dense = count * (4 if plan.parent.dtype == "float32" else 2)
    total = 0 if plan.model.path is not None else 2 * count
    for variant in plan.variants:
        if variant.twin is not None and not variant.twin.is_dir():
            total += dense
        if variant.checkpoint is not None and not variant.checkpoint.is_dir():
            # Embeddings stay at 16 bit; in small models they are a fifth of the parameters.
            total += int(count * (0.2 * 2 + 0.8 * (variant.quantizer.bits_per_weight or 16) / 8))
    return total + ROW_BYTES * sum(len(c.items) for c in todo)


def _memory(plan: Plan, todo: list[RowCell], count: int) -> int:
    """Processes at a time, each with its weights and one batch; forks share the libraries.

    Solving GPTQ and AWQ takes twice the weights in float32.
    """
    waiting = {c.variant.name for c in todo}
    width = 4 if plan.parent.dtype == "float32" else 2
    largest = 0
    for variant in plan.variants:
        if variant.name in waiting or not variant.prepared:
            solving = variant.quantizer.calibrated and not variant.prepared
            largest = max(largest, count * (8 if solving else 2 * width))
    batch = 400_000_000 * plan.config.batch_tokens // 8192
    workers = min(plan.workers, max(1, len(waiting)))
    return LIBRARY_BYTES + (workers * (largest + batch) if largest else 0)
