"""What a sweep will cost, before it is started: download, disk, memory and time.

Time follows from what was measured where this run has stored cells of the same explainer, and
otherwise from the operations that `quantxai.footprint` counts. Good to a factor of two at best.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path

from pydantic import Field

from quantxai.devices import Device, this_machine
from quantxai.errors import ModelError
from quantxai.footprint import (
    LIBRARY_BYTES,
    TEXT_TOKENS,
    WIDTH,
    explaining_seconds,
    footprints,
    preparation_seconds,
    prompt_tokens,
    reading_seconds,
)
from quantxai.manifest import CellKey
from quantxai.models import MODELS, ModelSource, read_config
from quantxai.plan import Plan, RowCell
from quantxai.records import Record
from quantxai.shapes import Shape, shape_of
from quantxai.store import Store

__all__ = ["Estimate", "estimate", "parameters"]

START_SECONDS = 4.0
"""Of one variant's process: fork, load, first pass."""
FIXED_SECONDS = 10.0
"""Planning, comparison, report."""
CONVERSION_SECONDS = 30.0
ROW_BYTES = 1_000


class Estimate(Record):
    """What is still to be spent; everything already done is left out."""

    download_bytes: int
    disk_bytes: int = Field(
        description="What stays on the disk: model, checkpoints, twins, the parent's logits, cells."
    )
    memory_bytes: int | None = Field(
        description="Peak of all processes at the same time; null where the model's shape is not known."
    )
    seconds: float | None = Field(description="Without the download; null on a GPU or an unknown shape.")
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
    seconds = memory = None
    disk = _disk(plan, todo, count)
    try:
        shape = shape_of(read_config(plan.model), plan.model.source)
        device = this_machine(plan.parent.dtype) if plan.parent.device == "cpu" else _ANY_GPU
        memory, basis = _memory(plan, todo, shape, device), device.basis
        if not all(v.prepared for v in plan.variants):  # what the parent says on the receipts' text is kept
            disk += TEXT_TOKENS * shape.head // shape.hidden * WIDTH[plan.parent.dtype]
        if device.kind == "cpu":
            measured = _seconds_per_item(plan, store, done)
            seconds = _seconds(plan, todo, done, measured, shape, device)
            basis += ", and the cells this run has stored" if measured else ""
    except ModelError as error:
        basis = f"not estimated: {error}"
    return Estimate(
        download_bytes=plan.model.download_bytes + _foreign(plan),
        disk_bytes=disk,
        memory_bytes=memory,
        seconds=seconds,
        basis=basis,
    )


_ANY_GPU = Device(
    "a GPU", "cuda", 0, 1.0, 1.0, 1.0, "bfloat16", "not estimated on a GPU: see quantxai plan --gpu"
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
    shape: Shape,
    device: Device,
) -> float:
    """What all processes take together, over their number; each has its share of the processor."""
    share = device._replace(
        flops=device.flops / plan.workers, float32_flops=device.float32_flops / plan.workers
    )
    explaining = 0.0
    for cell in todo:
        known = measured.get((cell.key.explainer, cell.key.dataset))
        if known is None:
            whole = explaining_seconds(cell.variant, cell.entry, plan.config.batch_tokens, shape, share)
            known = whole / cell.entry.items
        explaining += known * len(cell.items)
    scoring = sum(
        reading_seconds(
            cell.scorer.reads * prompt_tokens(cell.entry) * cell.entry.items, shape, share, scored=True
        )
        for cell in plan.scores
        if cell.key not in done
    )
    waiting = {c.variant.name for c in todo} | {v.name for v in plan.variants if not v.prepared}
    preparing = sum(preparation_seconds(v, shape, share) for v in plan.variants if not v.prepared)
    conversion = CONVERSION_SECONDS if plan.model.path is None else 0
    shared = preparing + explaining + scoring + START_SECONDS * len(waiting)
    return FIXED_SECONDS + conversion + shared / plan.workers


def _foreign(plan: Plan) -> int:
    """Bytes of checkpoints made elsewhere that have to be fetched, each once."""
    distinct = {v.quantizer.digest(): v.quantizer for v in plan.variants}
    return sum(quantizer.download_bytes for quantizer in distinct.values())


def _disk(plan: Plan, todo: list[RowCell], count: int) -> int:
    dense = count * (4 if plan.parent.dtype == "float32" else 2)
    total = _foreign(plan) + (0 if plan.model.path is not None else 2 * count)
    for variant in plan.variants:
        if variant.twin is not None and not variant.twin.is_dir():
            total += dense
        if variant.checkpoint is not None and not variant.checkpoint.is_dir():
            # Embeddings stay at 16 bit; in small models they are a fifth of the parameters.
            bits = variant.quantizer.bits_per_weight or variant.quantizer.weight_bits or 16
            total += int(count * (0.2 * 2 + 0.8 * bits / 8))
    return total + ROW_BYTES * sum(len(c.items) for c in todo)


def _memory(plan: Plan, todo: list[RowCell], shape: Shape, device: Device) -> int:
    """Processes at a time, each as large as the largest variant; forks share the libraries."""
    ready = {v.name for v in plan.variants if v.prepared}
    waiting = {c.variant.name for c in todo} | ({v.name for v in plan.variants} - ready)
    libraries = LIBRARY_BYTES[device.kind]
    found = [
        f.explaining_bytes if f.variant in ready else f.peak_bytes - libraries
        for f in footprints(plan, shape, device)
        if f.variant in waiting
    ]
    return libraries + min(plan.workers, len(found)) * max(found, default=0)
