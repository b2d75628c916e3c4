"""A run's results for other programs and for papers: CSV, JSON, LaTeX, BibTeX and sections of model cards.

`write_exports` writes into `RUN/exports`:

```
findings.csv            every finding, a row each
findings.json           findings, trends and replicated findings, with what they rest on
results.tex             tables for a paper, confirmatory outcomes first
references.bib          everything the methods section cites, the paper and quantxai among it
model-cards/VARIANT.md  a section for the variant's model card, with the Hub's metadata
```
"""

from __future__ import annotations

from pathlib import Path

from quantxai.bibliography import cited, quantxai_bibtex
from quantxai.exports.latex import to_latex
from quantxai.exports.modelcard import to_model_card
from quantxai.exports.results import Results, read_results
from quantxai.exports.tables import to_csv, to_json
from quantxai.files import safe_name, write_atomically
from quantxai.store import Store

__all__ = [
    "Results",
    "read_results",
    "to_bibtex",
    "to_csv",
    "to_json",
    "to_latex",
    "to_model_card",
    "write_exports",
]

_FOLDER = "exports"


def to_bibtex(results: Results) -> str:
    """Return quantxai and what the methods section cites, as BibTeX."""
    entries = [quantxai_bibtex(results.manifest.quantxai), *(work.bibtex for work in cited(results.methods))]
    return "\n".join(entries)


def write_exports(store: Store) -> list[Path]:
    """Write everything into the run's folder of exports, replacing what an earlier call wrote.

    Returns:
        The files written, `RUN/exports/findings.csv` first.
    """
    results = read_results(store)
    contents = {
        "findings.csv": to_csv(results.findings),
        "findings.json": to_json(results),
        "results.tex": to_latex(results),
        "references.bib": to_bibtex(results),
        **{f"model-cards/{safe_name(name)}.md": to_model_card(results, name) for name in results.variants},
    }
    folder = store.path / _FOLDER
    for earlier in (folder / "model-cards").glob("*.md"):
        if f"model-cards/{earlier.name}" not in contents:
            earlier.unlink()
    for name, content in contents.items():
        write_atomically(folder / name, content.encode("utf-8", "replace"))
    return [folder / name for name in contents]
