"""What each variant of a model needs, from the model's configuration alone: bytes, and seconds.

Bytes follow from the shapes of what is held. Seconds are operations and bytes read over a device's
rates: on this machine's processor the rate of matrix products is measured, of a GPU it is what its
maker's data sheet states times the efficiencies below, which are assumptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from quantxai import machine
from quantxai.config import load_config, parse_config
from quantxai.devices import Device, gpu, this_machine
from quantxai.errors import ModelError
from quantxai.lm import Architecture
from quantxai.methods import Quantizer
from quantxai.models import described, read_config
from quantxai.plan import Entry, Plan, make_plan
from quantxai.prefixes import LOGIT_BYTES
from quantxai.records import Record
from quantxai.shapes import Shape, shape_of
from quantxai.variants import Variant

__all__ = [
    "Footprint",
    "cost_per_item",
    "explaining_seconds",
    "footprint_of",
    "footprints",
    "preparation_seconds",
    "prompt_tokens",
    "reading_seconds",
]

WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""
LOGIT_COPIES = 3
"""Logits, their logarithms and what is gathered from them, at the same time."""
USABLE = 0.92
"""Share of a GPU's memory that its context and fragmentation leave."""
LIBRARY_BYTES = {"cpu": 650_000_000, "cuda": 0}
"""torch, transformers and a quantizer's package; on a GPU they lie elsewhere."""
LAYER_SECONDS = 0.0007
"""One block takes a GPU at least so long, however small: launching its kernels. An assumption."""
GENERATION_COST = 3.0
"""A generated token against one of a prompt, on a CPU."""
KERNEL_COST = 2.0
"""A quantized kernel against dense matrices, on a CPU."""
PROMPT_TOKENS = 12
"""Wording around an item; demonstrations before it are computed once for all items."""
CHARACTERS_PER_TOKEN = 4
QUANTIZER_SECONDS = 0.7
"""Setting up and tidying up."""
DISK_RATE = 1e9
"""Bytes a second of reading and writing a checkpoint. An assumption."""
TEXT_TOKENS = 2048
"""Of the text that receipts measure on."""


class Footprint(Record):
    """What one variant needs."""

    variant: str
    quantized_bits: float | None = Field(description="Nominal bits per weight; null where not quantized.")
    execution: str
    dtype: str
    weights_bytes: int = Field(description="Of the loaded variant.")
    kv_cache_bytes: int = Field(description="Keys and values of a full batch.")
    activation_bytes: int = Field(description="What a full batch holds beside them: hidden states, logits.")
    calibration_bytes: int | None = Field(
        description="Peak while calibrating and quantizing; null where the method is not calibrated."
    )
    self_test_bytes: int = Field(description="Peak while it is compared with dense matrices and its parent.")
    explaining_bytes: int = Field(description="Weights, cache and activations.")
    peak_bytes: int = Field(description="The largest of all, libraries included.")
    fits: bool | None = Field(description="Null where the device's memory is not known.")
    problem: str | None = Field(description="Why it cannot be made or does not fit.")
    quantization_seconds: float | None = Field(description="Null where nothing is written.")
    explaining_seconds: float = Field(description="Of all explainers, and of the receipt.")


def footprint_of(
    model: str, gpu_name: str | None = None, config: Path | None = None
) -> tuple[Plan, Shape, Device, list[Footprint]]:
    """Return what a sweep of a model needs on a device, its weights left alone.

    Args:
        model: a registered model, a Hub id, a directory with a config.json, or that file.
        gpu_name: a name in GPUS; null for this machine's processor.
        config: a sweep's TOML file; the default sweep where null.

    Returns:
        The plan, the model's shape, the device, and the variants' footprints.

    Raises:
        InputError: one of them cannot be used.
    """
    settings = parse_config({}) if config is None else load_config(config)
    target = None if gpu_name is None else gpu(gpu_name)
    kind = "cpu" if target is None else target.kind
    automatic = machine.default_dtype(kind) if target is None else target.dtype
    dtype = automatic if settings.model.dtype == "auto" else str(settings.model.dtype)
    changes = {"name": model, "device": kind, "dtype": dtype}
    plan = make_plan(
        settings.model_copy(update={"model": settings.model.model_copy(update=changes)}), described(model)
    )
    shape = shape_of(read_config(plan.model), plan.model.source)
    device = target or this_machine(dtype)
    return plan, shape, device, footprints(plan, shape, device)


def footprints(plan: Plan, shape: Shape, device: Device) -> list[Footprint]:
    """Return what each of a plan's variants needs on a device."""
    return [_footprint(v, plan, shape, device) for v in plan.variants]


def _footprint(variant: Variant, plan: Plan, shape: Shape, device: Device) -> Footprint:
    quantizer, tokens = variant.quantizer, calibration_tokens(variant)
    weights = loaded_bytes(variant, shape)
    cache = kv_cache_bytes(shape, variant.dtype, plan.config.batch_tokens)
    activations = activation_bytes(shape, variant.dtype, plan.config.batch_tokens)
    making = quantizer.making_bytes(shape, tokens, device) if quantizer.writes_checkpoint else 0
    testing = _self_test_bytes(variant, shape)
    explaining = weights + cache + activations
    steps = {"explaining": explaining, "quantizing": making, "the self-tests": testing}
    fits, problem = _fit(quantizer, shape, steps, plan.workers if device.kind == "cpu" else 1, device)
    seconds = sum(
        explaining_seconds(variant, e, plan.config.batch_tokens, shape, device) for e in plan.entries
    )
    return Footprint(
        variant=variant.name,
        quantized_bits=quantizer.weight_bits,
        execution=variant.execution,
        dtype=variant.dtype,
        weights_bytes=weights,
        kv_cache_bytes=cache,
        activation_bytes=activations,
        calibration_bytes=making if quantizer.calibrated else None,
        self_test_bytes=testing,
        explaining_bytes=explaining,
        peak_bytes=LIBRARY_BYTES[device.kind] + max(steps.values()),
        fits=fits,
        problem=problem,
        quantization_seconds=quantization_seconds(variant, shape, device)
        if quantizer.writes_checkpoint
        else None,
        explaining_seconds=seconds + reading_seconds(2 * TEXT_TOKENS, shape, device, scored=True),
    )


def _self_test_bytes(variant: Variant, shape: Shape) -> int:
    """What a receipt is measured with: the variant beside its parent, and beside its own dense matrices."""
    weights = loaded_bytes(variant, shape)
    if variant.quantizer.method == "full" and variant.dtype == variant.parent_dtype:
        return weights
    parent, dense = (shape.parameters * WIDTH[d] for d in (variant.parent_dtype, variant.dtype))
    packed = (
        0 if variant.quantizer.weight_bits is None else weights_bytes(variant.quantizer, shape, variant.dtype)
    )
    return max(weights + parent, dense + max(packed, parent) if packed else 0)


def _fit(
    quantizer: Quantizer, shape: Shape, steps: Mapping[str, int], processes: int, device: Device
) -> tuple[bool | None, str | None]:
    """Whether every step's bytes, in so many processes, fit a device; and which does not."""
    impossible = _problem(quantizer, shape)
    if impossible is not None:
        return False, impossible
    if not device.memory_bytes:
        return None, "this system does not tell how much memory it has"
    step = max(steps, key=lambda name: steps[name])
    needed = LIBRARY_BYTES[device.kind] + processes * steps[step]
    usable = device.memory_bytes * (USABLE if device.kind == "cuda" else 1)
    if needed <= usable:
        return True, None
    at_once = f" in {processes} processes at the same time (workers = 1 needs less)" if processes > 1 else ""
    return False, f"{step} would take {needed / 1e9:.1f} GB{at_once}, and {usable / 1e9:.1f} GB can be used"


def activation_bytes(shape: Shape, dtype: str, tokens: int) -> int:
    """Return what a batch of so many tokens holds beside weights and cache: hidden states and logits."""
    return tokens * (6 * shape.hidden + 3 * shape.inner) * WIDTH[dtype] + LOGIT_COPIES * LOGIT_BYTES


def loaded_bytes(variant: Variant, shape: Shape) -> int:
    """Return the bytes of a variant's weights as it runs: packed, or as a dense matrix."""
    if variant.execution == "kernel":
        return weights_bytes(variant.quantizer, shape, variant.dtype)
    return shape.parameters * WIDTH[variant.dtype]


def weights_bytes(quantizer: Quantizer, shape: Shape, dtype: str) -> int:
    """Return the bytes of a model on the quantizer's kernel; what is not quantized is in `dtype`."""
    width = WIDTH[dtype]
    if quantizer.weight_bits is None:
        return shape.parameters * width
    bits = sum(x.outputs * x.width * quantizer.kernel_bits(x.width, 8 * width) for x in shape.linears)
    return int(shape.layers * bits / 8) + (shape.embeddings + shape.others) * width


def kv_cache_bytes(shape: Shape, dtype: str, tokens: int) -> int:
    """Return the bytes of keys and values of so many tokens."""
    return 2 * shape.layers * shape.key_value_width * WIDTH[dtype] * tokens


def calibration_tokens(variant: Variant) -> int:
    """Return the tokens the variant is calibrated on; 0 where it is not."""
    if not variant.quantizer.calibrated:
        return 0
    asked = variant.calibration
    return asked.length * variant.quantizer.calibration_sequences(asked.sequences, asked.length)


def reading_seconds(tokens: float, shape: Shape, device: Device, scored: bool = False) -> float:
    """Return how long so many tokens of prompts take: two operations per matrix entry and token.

    Args:
        tokens: to read.
        shape: the model's.
        device: where it runs.
        scored: whether each token's successor is predicted, which takes the unembedding, too.
    """
    entries = shape.linear_parameters + (shape.head if scored else 0)
    return tokens * 2 * entries / device.flops


def preparation_seconds(variant: Variant, shape: Shape, device: Device) -> float:
    """Return how long a variant takes until it can be explained: quantized, tested, measured."""
    made = quantization_seconds(variant, shape, device) if variant.quantizer.writes_checkpoint else 0.0
    measured = TEXT_TOKENS * (3 if variant.quantizer.calibrated else 2)
    return made + reading_seconds(measured, shape, device, scored=True)


def quantization_seconds(variant: Variant, shape: Shape, device: Device) -> float:
    """Return how long writing the quantized checkpoint takes."""
    moved = 2 * 2 * shape.parameters / DISK_RATE
    computed = variant.quantizer.making_seconds(shape, calibration_tokens(variant), device)
    return QUANTIZER_SECONDS + moved + computed


def explaining_seconds(
    variant: Variant, entry: Entry, batch_tokens: int, shape: Shape, device: Device
) -> float:
    """Return how long one explainer takes over its items.

    Args:
        variant: the variant.
        entry: the explainer on its items.
        batch_tokens: tokens a batch may hold.
        shape: the model's.
        device: where it runs.
    """
    read, generated = tokens_per_item(entry)
    per_token, per_new = (reading_seconds(1, shape, device, scored) for scored in (False, True))
    if device.bandwidth is None:
        slower = KERNEL_COST if variant.execution == "kernel" and variant.quantizer.weight_bits else 1
        return entry.items * cost_per_item(entry) * per_token * slower
    rows = max(1, int(batch_tokens // max(read + generated, 1)))
    batches = -(-entry.items // rows)
    launches, moved = shape.layers * LAYER_SECONDS, loaded_bytes(variant, shape)
    if variant.execution == "kernel" and variant.quantizer.weight_bits and variant.quantizer.has_twin:
        # The kernels with right gradients unpack a layer into 16 bits at each call, and then multiply.
        launches, moved = 2 * launches, moved + 2 * shape.linear_parameters * WIDTH[variant.dtype]
    step = max(moved / device.bandwidth, min(rows, entry.items) * per_new, launches)
    return batches * (generated * step + launches) + entry.items * read * per_token


def tokens_per_item(entry: Entry) -> tuple[float, float]:
    """Return the tokens that are read and that are generated for one item."""
    prompt, work = prompt_tokens(entry), entry.explainer.work
    # Answers end by themselves, about as long as the item.
    longest = float(getattr(entry.explainer, "max_new_tokens", 64))
    return work.read * prompt, work.answered * min(longest, prompt)


def cost_per_item(entry: Entry) -> float:
    """Return what one item costs on a processor, in tokens of a prompt."""
    read, generated = tokens_per_item(entry)
    return read + GENERATION_COST * generated


def prompt_tokens(entry: Entry) -> float:
    """Return the mean length of a prompt; the demonstrations before it are read once for all."""
    characters = sum(len(item.text) for shard in entry.shards for item in shard)
    return PROMPT_TOKENS + characters / max(1, entry.items) / CHARACTERS_PER_TOKEN


def _problem(quantizer: Quantizer, shape: Shape) -> str | None:
    """Why the quantizer cannot work on this shape."""
    widths = {x.name: x.width for x in shape.linears} if shape.quantizable else {}
    try:
        quantizer.check(Architecture(shape.model_type, widths, shape.parameters, shape.context))
    except ModelError as error:
        return str(error)
    return None
