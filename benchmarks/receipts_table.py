"""The table of receipts in docs/quantizers.md: from a run's receipts, or from those kept in results/.

python benchmarks/receipts_table.py --run runs/default --run runs/all --write   keep them, rewrite the docs
python benchmarks/receipts_table.py                                             print the table of those kept

Of a variant that is in several runs, the first one's receipt is kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from documented import DOCS, RESULTS, with_table

KEPT = RESULTS / "receipts-smollm2-135m.json"
PAGE = DOCS / "quantizers.md"
COLUMNS = {
    "calibration_tokens": ("calibrated on, tokens", "{}"),
    "bits_per_weight": ("bits per weight", "{:.2f}"),
    "relative_error": ("weight error", "{:.3f}"),
    "perplexity": ("perplexity", "{:.1f}"),
    "rtn_same_grid_perplexity": ("rounding, same grid", "{:.1f}"),
    "kl": ("KL, nats per token", "{:.3f}"),
    "top1_agreement": ("same top token", "{:.3f}"),
    "largest_logit_difference_to_kernel": ("kernel, largest logit difference", "{:.2g}"),
    "gradient_cosine": ("kernel, gradient cosine", "{:.4f}"),
    "quantization_seconds": ("quantization, s", "{:.0f}"),
}


def receipts(runs: list[Path]) -> list[dict[str, Any]]:
    """Return the runs' receipts without their layers, in the order of the manifests."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for variant in json.loads((run / "manifest.json").read_text())["variants"]:
            name = variant["name"]
            receipt = json.loads((run / "variants" / name / "receipt.json").read_text())
            found.setdefault(name, {k: v for k, v in receipt.items() if k != "layers"})
    return list(found.values())


def table(found: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = ["| variant | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("|---|" + "---|" * len(COLUMNS))
    for receipt in found:
        cells = [
            "–" if receipt.get(key) is None else form.format(receipt[key])
            for key, (_, form) in COLUMNS.items()
        ]
        lines.append(f"| {receipt['variant']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and keep and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=Path, action="append", help="a run directory; the receipts kept where left out"
    )
    parser.add_argument("--write", action="store_true", help="keep the receipts and rewrite the docs")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    arguments = parser.parse_args()
    found = receipts(arguments.run) if arguments.run else json.loads(KEPT.read_text())
    print(table(found))
    if arguments.write:
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(with_table(PAGE.read_text(), "receipts", table(found)))
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
