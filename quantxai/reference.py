"""What a parent says on the receipts' text: computed once for all its variants, and kept in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import filelock

from quantxai import machine, receipts
from quantxai.checkpoints import load_dense, load_tokenizer
from quantxai.errors import ModelError
from quantxai.files import safe_name
from quantxai.models import cache_directory, require_space
from quantxai.records import digest
from quantxai.variants import Variant

__all__ = ["keep_parent_logits", "read_logits"]


def keep_parent_logits(variant: Variant, parent: Path) -> Path:
    """Return the file that holds the parent's logits on the receipts' text, written first where it is missing.

    It takes a number of the compute type per token and entry of the vocabulary: 200 MB for SmolLM2-135M, whose
    pass over the text takes a quarter of the time of a receipt.

    Args:
        variant: any of the parent's.
        parent: the parent checkpoint's directory.

    Raises:
        OutOfSpace: the cache cannot hold it.
    """
    tokenizer = load_tokenizer(parent)
    ids = receipts.text_tokens(tokenizer)
    file = (
        cache_directory()
        / "references"
        / safe_name(f"{variant.model.name}--{_identity(variant, ids)}.safetensors")
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(file.with_suffix(".lock")):
        if _read(file) is None:
            require_space(
                file, 4 * len(ids) * len(tokenizer), f"what '{variant.model.name}' says on the receipts' text"
            )
            _write(receipts.text_logits(load_dense(parent, variant.parent_dtype, variant.device), ids), file)
    return file


def read_logits(file: Path) -> list[Any]:
    """Return the logits that a file holds, on the CPU, as `receipts.text_logits` yields them.

    Raises:
        ModelError: it is gone or damaged.
    """
    found = _read(file)
    if found is None:
        raise ModelError(f"'{file}' was removed or damaged. Give the same command again: it is made anew.")
    return found


def _identity(variant: Variant, ids: list[int]) -> str:
    """Name whatever can move the logits' last bit."""
    import torch

    versions = machine.versions()
    under = [
        versions["torch"],
        versions["transformers"],
        machine.host()["processor"],
        torch.get_num_threads(),
    ]
    return digest([variant.model.digest, variant.parent_dtype, variant.device, ids, receipts.WINDOW, under])[
        :12
    ]


def _write(windows: Any, file: Path) -> None:
    from safetensors.torch import save_file

    found = {str(place): window.cpu().contiguous() for place, window in enumerate(windows)}
    making = file.with_suffix(".making")
    save_file(found, making, {"sha256": _sha256(list(found.values()))})
    making.replace(file)


def _read(file: Path) -> list[Any] | None:
    """Return what a file holds; None where it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as stored:
            windows = [stored.get_tensor(str(place)) for place in range(len(stored.keys()))]
            return windows if stored.metadata()["sha256"] == _sha256(windows) else None
    except (OSError, SafetensorError):
        return None


def _sha256(windows: list[Any]) -> str:
    import torch

    found = hashlib.sha256()
    for window in windows:
        found.update(window.view(torch.uint8).numpy())
    return found.hexdigest()
