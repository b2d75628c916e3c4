"""Quantized checkpoints for others to load: in the layouts that transformers reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantxai import machine, registry
from quantxai.config import parse_config
from quantxai.errors import ConfigError, InputError
from quantxai.jobs import FetchParent, WriteCheckpoint
from quantxai.methods import Control
from quantxai.models import nearest_existing, resolve
from quantxai.variants import check_packages, resolve_variants
from quantxai.workers import run_job

if TYPE_CHECKING:
    from quantxai.run import Progress

__all__ = ["quantize"]


def quantize(
    model: str,
    method: str,
    options: Mapping[str, Any] | None = None,
    out: str | Path = "quantized",
    *,
    seed: int = 0,
    calibration: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Quantize a model and write a checkpoint that transformers loads as it is.

    Args:
        model: a registered model, a local directory or a Hub id.
        method: a quantizer that writes checkpoints: gptq, awq or compressed-tensors.
        options: its options, such as `{"bits": 4, "group_size": 64}`.
        out: the directory to make; it may not exist, or be empty.
        seed: of the calibration sample.
        calibration: a text file to calibrate on in place of the built-in texts.
        progress: told how it goes.

    Returns:
        The receipt, which is in `out/quantxai-receipt.json` as well.

    Raises:
        InputError: the model, the method or the directory cannot be used; nothing was computed.
        ModelError: quantizing failed or did not pass a self-test.
    """
    out = Path(out)
    entry = {"name": "out", "quantizer": method, "seed": seed, **(options or {})}
    tables = {
        "model": {"name": model},
        "variants": [{"quantizer": "full"}, entry],
        "calibration": {"path": None if calibration is None else str(calibration)},
    }
    config = parse_config(tables, "quantize")
    writers = _writers()
    if method not in writers:
        raise ConfigError(
            f"the quantizer '{method}' quantizes when a model is loaded and writes no checkpoint. "
            f"Those that do: {', '.join(writers)}."
        )
    _check_free(out)
    source = resolve(config.model.name, config.model.revision)
    variants = resolve_variants(config, source)
    check_packages(variants)
    log = out.parent / f".{out.name}.log"
    out.parent.mkdir(parents=True, exist_ok=True)
    report = None if progress is None else progress.line
    try:
        path = run_job(FetchParent("model", machine.cores(), source, variants), log, report)
        job = WriteCheckpoint("quantize", machine.cores(), variants[1], path, out)
        receipt: dict[str, Any] = run_job(job, log, report)
    finally:
        log.unlink(missing_ok=True)
    return receipt


def _writers() -> list[str]:
    """Names of the quantizers that write checkpoints others can use."""
    methods = {name: registry.method("quantizer", name) for name in registry.names("quantizer")}
    return [n for n, found in methods.items() if found.writes_checkpoint and not issubclass(found, Control)]


def _check_free(out: Path) -> None:
    """Raise InputError where `out` is taken or cannot be made."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"'{out}' exists and is not empty; give another directory with --out.")
    if not nearest_existing(out).is_dir():
        raise InputError(f"'{out}' cannot be made: '{nearest_existing(out)}' is a file.")
