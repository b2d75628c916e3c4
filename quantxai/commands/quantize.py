"""`quantxai quantize`: a checkpoint for others to load."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from quantxai.commands.present import presented, print_json

__all__ = ["quantize"]


@presented
def quantize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A registered model, a local directory or a Hub id.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The directory to make.")],
    method: Annotated[
        str, typer.Option(metavar="NAME", help="A quantizer that writes checkpoints.")
    ] = "gptq",
    bits: Annotated[int | None, typer.Option(metavar="N", help="Bits per weight.")] = None,
    group_size: Annotated[int | None, typer.Option(metavar="N", help="Weights that share a scale.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the calibration sample.")] = 0,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own calibration text; see calibration.path.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other option of the quantizer; may be repeated."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipt as JSON.")] = False,
) -> None:
    """Quantize a model and write the tested checkpoint.

    What is written loads with transformers as it is: GPTQ in the AutoGPTQ layout, AWQ in the AutoAWQ
    layout, compressed-tensors in its own. Its receipt lies beside it. It is cached, so a sweep of the
    same model uses it, too.

    Example: quantxai quantize smollm2-135m --method gptq --bits 4 --out smollm2-gptq-4
    """
    from quantxai import interchange
    from quantxai.progress import for_stream

    chosen = dict(map(_option, options or []))
    chosen |= {k: v for k, v in (("bits", bits), ("group_size", group_size)) if v is not None}
    with for_stream() as progress:
        receipt = interchange.quantize(
            model, method, chosen, out, seed=seed, calibration=calibration, progress=progress
        )
    if as_json:
        print_json(receipt)
        return
    typer.echo(f"wrote {out}")
    rows = (
        ("perplexity", receipt["perplexity"], f"parent {receipt['parent_perplexity']:.1f}"),
        ("KL to the parent", receipt["kl"], "nats per token"),
        ("relative weight error", receipt["relative_error"], ""),
        ("bits per weight", receipt["bits_per_weight"], "scales included"),
    )
    for name, value, note in rows:
        shown = "not finite" if value is None else f"{value:.4g}"
        typer.echo(f"{name + ':':24}{shown:>8}  {note}".rstrip())
    for warning in receipt["warnings"]:
        typer.echo(f"warning: {warning}")


def _option(text: str) -> tuple[str, Any]:
    from quantxai.errors import ConfigError

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: expected KEY=VALUE, such as --set symmetric=false")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
