"""The works that reports cite: found in a text by their citations, listed for reading and as BibTeX.

A text cites a work as its `Work.citation` reads: `Efron 1987`, `Yu and Ananiadou 2024`, `Wang et al. 2025`.
What is cited and what is listed can then not differ.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pydantic import Field

from quantxai.latex import latex_text
from quantxai.records import Record

__all__ = ["Work", "cited", "quantxai_bibtex", "works"]

_FILE = Path(__file__).parent / "data" / "bibliography.toml"
_DASH = "\N{EN DASH}"


class Work(Record):
    """A published work."""

    key: str = Field(pattern="^[a-z]+[0-9]{4}$", description="First author and year; its name in BibTeX.")
    authors: tuple[str, ...] = Field(
        min_length=1, description='"Family, Given" each; a last "others" stands for those left out.'
    )
    year: int
    title: str
    known_as: str = Field("", description="Name of its method, where the title does not say it.")
    journal: str = Field("", description="Where it appeared, if in a journal.")
    booktitle: str = Field("", description="Where it appeared, if at a conference.")
    volume: str = ""
    number: str = ""
    pages: str = Field("", description="First and last page: 171-185.")
    arxiv: str = Field("", description="Number on arXiv.")
    url: str = ""

    @property
    def citation(self) -> str:
        """How texts cite it: all of at most two authors, or the first `et al.`, and the year."""
        families = [author.partition(",")[0] for author in self.authors]
        if len(families) > 2 or "others" in families:
            return f"{families[0]} et al. {self.year}"
        return f"{' and '.join(families)} {self.year}"

    @property
    def line(self) -> str:
        """The work in one line of a list of references."""
        name = f" ({self.known_as})" if self.known_as else ""
        volume = self.volume + (f"({self.number})" if self.number else "")
        venue = " ".join(filter(None, [self.journal or self.booktitle, volume]))
        pages = self.pages.replace("-", _DASH)
        number = f"arXiv {self.arxiv}" if self.arxiv else ""
        parts = [", ".join(filter(None, [venue, pages])), number, self.url]
        end = "" if self.title.endswith("?") else "."
        found = [f"{self.citation}: {self.title}{name}{'.' if name else end}", *filter(None, parts)]
        return found[0] + "".join(f" {part}." for part in found[1:])

    @property
    def bibtex(self) -> str:
        """The work as an entry of BibTeX, in ASCII where its letters are Latin ones."""
        journal = self.journal
        if self.arxiv and not self.booktitle:  # styles without a notion of preprints show it like this
            journal = journal or f"arXiv preprint arXiv:{self.arxiv}"
        kind = "article" if journal else "inproceedings" if self.booktitle else "misc"
        fields = {
            "author": " and ".join(map(latex_text, self.authors)),
            "title": f"{{{latex_text(self.title)}}}",
            "year": str(self.year),
            "journal": latex_text(journal),
            "booktitle": latex_text(self.booktitle),
            "volume": self.volume,
            "number": self.number,
            "pages": self.pages.replace("-", "--"),
            "eprint": self.arxiv,
            "archiveprefix": "arXiv" if self.arxiv else "",
            "url": self.url or (f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""),
        }
        return _entry(kind, self.key, fields)


@cache
def works() -> dict[str, Work]:
    """Return every known work by its key."""
    listed = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {key: Work(key=key, **fields) for key, fields in listed.items()}


def cited(texts: Iterable[str]) -> list[Work]:
    """Return the works that texts cite, sorted by author and year.

    Example:
        >>> [work.key for work in cited(["Intervals are bootstraps (Efron 1987; Hesterberg 2015)."])]
        ['efron1987', 'hesterberg2015']
    """
    whole = " ".join(" ".join(texts).split())
    found = [work for work in works().values() if re.search(rf"(?<!\w){re.escape(work.citation)}", whole)]
    return sorted(found, key=lambda work: (_plain(work.citation), work.title))


def quantxai_bibtex(version: str) -> str:
    """Return the entry of quantxai itself, as CITATION.cff has it.

    Args:
        version: the version that made the run.
    """
    fields = {
        "author": "{The quantxai authors}",
        "title": "{quantxai: what quantization does to a language model's transparency}",
        "howpublished": f"Software, version {latex_text(version)}, Apache-2.0",
    }
    return _entry("misc", "quantxai", fields)


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
    return f"@{kind}{{{key},\n{lines}}}\n"


def _plain(text: str) -> str:
    """Return a text without accents and in lower case, to sort by."""
    return unicodedata.normalize("NFD", text).encode("ascii", "ignore").decode().lower()
