"""What each quantizer did, as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantxai.manifest import Manifest
from quantxai.report.text import significant

__all__ = ["receipts_table"]

_RECEIPT_COLUMNS = {
    "weight_bits": "bits",
    "bits_per_weight": "bits per weight, scales included",
    "group_size": "group size",
    "perplexity": "perplexity",
    "kl": "KL to the parent, nats per token",
    "top1_agreement": "same most likely token",
    "relative_error": "relative weight error",
    "quantized_share": "share of parameters quantized",
    "gradient_cosine": "gradient cosine, kernel",
    "largest_logit_difference_to_kernel": "largest logit difference to the kernel",
    "rtn_same_grid_perplexity": "perplexity of round-to-nearest on the same grid",
    "execution": "execution",
    "dtype": "compute type",
    "kernel": "kernel",
    "quantization_seconds": "quantization, s",
    "checkpoint_bytes": "checkpoint",
    "calibration_digest": "calibration text",
}


def receipts_table(
    manifest: Manifest, receipts: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the table of receipts: the columns any receipt fills, and a line per variant."""
    lines: dict[str, dict[str, Any]] = {}
    for entry in manifest.variants:
        receipt = receipts.get(str(entry["name"]), {})
        options = receipt.get("options") or entry.get("options") or {}
        lines[str(entry["name"])] = {
            "group_size": options.get("group_size"),
            **{key: entry[key] for key in ("execution", "dtype") if key in entry},
            **receipt,
        }
    columns = [key for key in _RECEIPT_COLUMNS if any(line.get(key) is not None for line in lines.values())]
    table = [(name, [_plain(line.get(key), key) for key in columns]) for name, line in lines.items()]
    return [_RECEIPT_COLUMNS[key] for key in columns], table


def _plain(value: Any, key: str) -> str:
    if value is None:
        return "\N{EN DASH}"
    if key.endswith("digest"):
        return str(value)[:8]
    if key == "checkpoint_bytes":
        return f"{value / 1e6:,.0f} MB"
    if isinstance(value, float) and not isinstance(value, bool):
        return significant(value, 4).removesuffix(".000").removesuffix(".00")
    return value if isinstance(value, str) else json.dumps(value)
