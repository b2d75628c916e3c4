"""`quantxai plan`: what each variant of a model would need, before anything is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantxai.commands.present import columns, presented, print_json, size, wrapped

if TYPE_CHECKING:
    from quantxai.devices import Device
    from quantxai.footprint import Footprint
    from quantxai.plan import Plan
    from quantxai.shapes import Shape

__all__ = ["plan"]


@presented
def plan(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A registered model, a Hub id, or a directory or config.json."),
    ],
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="h100, a100, rtx4090, ...; this machine's processor where left out."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG.toml", help="Variants and items; the default sweep's where left out."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what each variant needs, and whether it fits.

    Memory and time from the model's config.json alone: no weights are fetched, and no GPU is needed.

    Example: quantxai plan smollm2-135m --gpu h100
    """
    from quantxai.footprint import footprint_of

    found, shape, device, needed = footprint_of(model, gpu, config)
    if as_json:
        print_json(
            {
                "model": found.model.name,
                "parameters": shape.parameters,
                "device": device._asdict(),
                "batch_tokens": found.config.batch_tokens,
                "variants": [f.model_dump() for f in needed],
            }
        )
        return
    typer.echo(_text(found, shape, device, needed))


def _text(plan: Plan, shape: Shape, device: Device, needed: list[Footprint]) -> str:
    from quantxai.progress import duration

    rows = [["variant", "runs", "weights", "KV cache", "calibration", "peak", "fits", "quantize", "explain"]]
    for f in needed:
        rows.append(
            [
                f.variant,
                "as it is" if f.quantized_bits is None else f.execution,
                size(f.weights_bytes),
                size(f.kv_cache_bytes),
                "-" if f.calibration_bytes is None else size(f.calibration_bytes),
                size(f.peak_bytes),
                {True: "yes", False: "NO", None: "?"}[f.fits],
                "-" if f.quantization_seconds is None else duration(f.quantization_seconds),
                duration(f.explaining_seconds),
            ]
        )
    items = sum(e.items for e in plan.entries)
    lines = [
        f"model   {plan.model.name}: {shape.model_type}, {shape.parameters / 1e6:,.0f} M parameters, {device.dtype}",
        f"device  {device.name}, {device.memory_bytes / 1e9:.0f} GB",
        "",
        columns(rows, right=range(2, 9)),
        "",
        *(wrapped(f"{f.variant}: {f.problem}", 2, "! ") for f in needed if f.problem),
        wrapped(
            f"KV cache: of {plan.config.batch_tokens} tokens, a full batch. Calibration: peak while quantizing. Peak: "
            "the largest of quantizing, explaining, and the self-tests, which hold a variant beside its parent. "
            f"Explain: {items} items.",
            0,
        ),
        wrapped(f"Times: {device.basis}.", 0),
    ]
    return "\n".join(lines)
