"""Works that are cited are listed, once each, and BibTeX reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from synthetic import make_run

from quantxai.bibliography import Work, cited, quantxai_bibtex, works
from quantxai.datasets import dataset_names
from quantxai.latex import latex_text
from quantxai.manifest import Manifest
from quantxai.report import prose
from quantxai.report import sources as module
from quantxai.report.sources import sources

pytestmark = pytest.mark.bare

ROOT = Path(__file__).parents[1]
CITATION = re.compile(r"[A-Z]\w+(?:-\w+)?(?: et al\.| and [A-Z]\w+)? (?:19|20)\d\d")


def test_one_two_and_many_authors() -> None:
    def of(*authors: str) -> str:
        return Work(key="x2000", authors=authors, year=2000, title="T").citation

    assert of("Efron, Bradley") == "Efron 2000"
    assert of("Yu, Zeping", "Ananiadou, Sophia") == "Yu and Ananiadou 2000"
    assert of("A, B", "C, D", "E, F") == of("A, B", "others") == "A et al. 2000"


def test_keys_follow_from_authors_and_citations_are_unique() -> None:
    for key, work in works().items():
        assert latex_text(work.authors[0].partition(",")[0]).lower().split()[0] + str(work.year) == key
    assert len({work.citation for work in works().values()}) == len(works())


def test_a_line_says_what_is_known() -> None:
    assert works()["efron1987"].line == (
        "Efron 1987: Better Bootstrap Confidence Intervals. Journal of the American Statistical Association 82(397), "
        "171–185."
    )
    assert works()["bhattacharjee2023"].line.endswith("Text Classifiers (FLARE). arXiv 2309.13340.")
    assert "Multi-Hop Reasoning? Annual Meeting" in works()["yang2024"].line


def test_a_citation_inside_another_is_none() -> None:
    assert [work.key for work in cited(["as McLin 2004 has it"])] == []
    assert [work.key for work in cited(["(Lin\n  2004; Lin et al. 2024; Efron 1987; Lin 2004)"])] == [
        "efron1987",
        "lin2004",
        "lin2024",
    ]


def test_everything_the_methods_cite_is_listed_and_nothing_else(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run")
    manifest = store.manifest
    everything = manifest.model_copy(
        update={"explainers": [{"method": name, "dataset": "esnli"} for name in prose._METHODS]}
    )
    for chosen in (manifest, everything):
        methods = prose.methods(chosen, store.findings())
        listed = {line.partition(":")[0] for line in prose.references(methods)}
        assert listed == set(CITATION.findall(" ".join(methods)))
        assert "Wang et al. 2025" in listed
    assert {"Frantar et al. 2023", "Lin 2004"} <= listed
    assert "Camburu et al. 2018" in listed
    assert "Yang et al. 2024" not in " ".join(prose.methods(manifest, store.findings()))


def test_sources_are_those_of_what_ran() -> None:
    manifest = Manifest(
        quantxai="0.1.0", seed=0, model={}, dtype="float32", device="cpu",
        variants=[
            {"name": "full", "method": "full"}, {"name": "q8", "method": "bnb", "options": {"format": "int8"}},
            {"name": "r", "method": "rtn"}, {"name": "noise", "method": "awq", "control": True},
        ],
        explainers=[{"dataset": "esnli"}, {"dataset": "news"}, {"dataset": "esnli"}],
    )  # fmt: skip
    assert sources(manifest, []) == (
        "Quantizers: bnb int8 (Dettmers et al. 2022). Published data sets: esnli (Camburu et al. 2018)."
    )
    assert sources(manifest.model_copy(update={"variants": [], "explainers": []}), []) == ""


def test_every_source_is_known() -> None:
    keys = {*module._QUANTIZERS.values(), *module._DATASETS.values(), *module._SCORERS.values()}
    assert keys <= works().keys()
    assert set(module._DATASETS) <= dataset_names().keys()
    assert {name.partition(" ")[0] for name in module._QUANTIZERS} <= _entry_points("quantizers")
    assert module._SCORERS.keys() <= _entry_points("scorers")


def _entry_points(group: str) -> set[str]:
    return {point.name for point in entry_points(group=f"quantxai.{group}")}


def test_special_and_accented_characters() -> None:
    assert latex_text(r"50 % of a_b & \x{y} $1 #2 ~^") == (
        r"50 \% of a\_b \& \textbackslash{}x\{y\} \$1 \#2 \textasciitilde{}\textasciicircum{}"
    )
    assert latex_text("Möller, Lukošiūtė") == r"M{\"o}ller, Luko{\v s}i{\=u}t{\.e}"
    assert latex_text("−1 ± 2") == r"$-$1 $\pm$ 2"
    assert latex_text("a\x00b\nc") == "a b c"


def test_bibtex_of_an_article() -> None:
    assert works()["clopper1934"].bibtex == (
        "@article{clopper1934,\n"
        "  author = {Clopper, C. J. and Pearson, E. S.},\n"
        "  title = {{The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial}},\n"
        "  year = {1934},\n"
        "  journal = {Biometrika},\n"
        "  volume = {26},\n"
        "  number = {4},\n"
        "  pages = {404--413},\n"
        "}\n"
    )


def test_entries_are_balanced_ascii() -> None:
    for work in works().values():
        assert work.bibtex.isascii(), work.key
        assert work.bibtex.count("{") == work.bibtex.count("}")


def test_quantxai_is_cited_as_its_citation_file_says() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    entry = quantxai_bibtex("0.1.0")
    for name in ("title", "version", "license"):
        (value,) = re.findall(rf'^{name}: "?(.+?)"?$', citation, re.MULTILINE)
        assert value in entry
    (author,) = re.findall(r'^  - name: "(.+)"$', citation, re.MULTILINE)
    assert f"{{{author}}}" in entry
    (title,) = re.findall(r'^    title: "(.+)"$', citation, re.MULTILINE)
    assert works()["wang2025"].title == title
    assert works()["wang2025"].arxiv in citation


def test_bibtex_reads_every_entry(tmp_path: Path) -> None:
    bibtex = shutil.which("bibtex")
    if bibtex is None:
        pytest.skip("bibtex is not installed")
    (tmp_path / "all.bib").write_text(
        "".join(work.bibtex for work in works().values()) + quantxai_bibtex("1")
    )
    (tmp_path / "x.aux").write_text("\\citation{*}\n\\bibdata{all}\n\\bibstyle{plain}\n")
    done = subprocess.run([bibtex, "x"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    read = (tmp_path / "x.bbl").read_text()
    assert read.count("\\bibitem") == len(works()) + 1
