"""The table of margins in docs/statistics.md: what the scorers' own metrics say; nothing is measured.

python benchmarks/margins_table.py           print the table
python benchmarks/margins_table.py --write   rewrite the docs
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from documented import DOCS, with_table

from quantxai import registry
from quantxai.methods import Scorer
from quantxai.records import Metric

PAGE = DOCS / "statistics.md"
TITLES = ("scorer", "metric", "unit", "direction", "margin", "confirmatory", "why this margin")
_DIRECTIONS = {True: "higher is better", False: "lower is better", None: "describes only"}


def built_in() -> dict[str, type[Scorer]]:
    """Return the scorers that come with quantxai by name, and not those of other packages."""
    names = [n for n in registry.names("scorer") if registry.distribution("scorer", n) == "quantxai"]
    return {name: registry.method("scorer", name) for name in names}


def table(scorers: Mapping[str, type[Scorer]]) -> str:
    """Return the Markdown table, a line for every metric."""
    lines = ["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|"]
    return "\n".join(
        [*lines, *(_line(name, metric) for name in sorted(scorers) for metric in scorers[name].metrics)]
    )


def _line(scorer: str, metric: Metric) -> str:
    cells = [
        f"`{scorer}`",
        f"`{metric.name}`",
        metric.unit,
        _DIRECTIONS[metric.higher_is_better],
        f"{metric.margin:g}",
        "**yes**" if metric.confirmatory else "no",
        metric.margin_reason,
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the docs")
    found = table(built_in())
    if parser.parse_args().write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), "margins", found), encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
