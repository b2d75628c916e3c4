"""Tables in docs that a benchmark makes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DOCS", "RESULTS", "with_table"]

ROOT = Path(__file__).parents[1]
DOCS, RESULTS = ROOT / "docs", ROOT / "benchmarks" / "results"


def with_table(page: str, name: str, table: str) -> str:
    """Return the page with the table in its place, which two comments mark.

    Args:
        page: the page's text.
        name: the table's name in the comments.
        table: its Markdown.
    """
    end = f"<!-- end of {name} -->"
    start, rest = page.split(f"<!-- {name}:", 1)
    comment, rest = rest.split("-->", 1)
    return f"{start}<!-- {name}:{comment}-->\n{table}\n{end}{rest.split(end, 1)[1]}"
