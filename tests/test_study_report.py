"""The report of an analysed study: what it says, that it is safe, and that little data is no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from study_results import UNSAFE, automatic, made_up, nothing, people, rating, ratings
from study_support import make_study
from typer.testing import CliRunner

from quantxai.cli import app
from quantxai.errors import InputError
from quantxai.records import Finding
from quantxai.store import rows_to_table
from quantxai.tables import table_to_rows
from userstudy.analysis.results import RatingFinding, StudyAnalysis
from userstudy.export import data_package, read_csv
from userstudy.report import Inputs, make_study_report, rendered, write_analysis
from userstudy.report.against import agreements, glance, relevant
from userstudy.report.bars import bars, steps
from userstudy.report.examples import examples
from userstudy.report.flow import flow
from userstudy.report.inputs import automatic_findings, measured
from userstudy.report.prose import methods
from userstudy.report.spoken import answer, summaries
from userstudy.report.tables import order_sentence
from userstudy.report.view import StudyReport
from userstudy.settings import Question
from userstudy.study import Study
from userstudy.wording import wordings

DATE = "2026-03-02"
METRICS = [automatic("gptq-3", "degraded"), automatic("nf4", "improved", estimate=0.2)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("report") / "study")


@pytest.fixture(scope="module")
def report(study: Study) -> StudyReport:
    return make_study_report(
        study, Inputs(ratings(study), people(screened_out=2), made_up(study), METRICS), DATE
    )


@pytest.fixture(scope="module")
def page(report: StudyReport) -> str:
    return rendered(report)[0].decode()


def text(html: str) -> str:
    """What a reader sees."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.partition("<body>")[2]).split())


def test_the_answer_and_every_verdict(report: StudyReport, page: str) -> None:
    assert report.headline == "Yes: people rated gptq-3 worse than full in at least one question."
    assert report.basis.startswith("480 answers of 12 participants about 6 source items.")
    assert "1 degraded, 1 improved, 1 equivalent and 1 unresolved" in report.basis
    told = {
        summary.name: {line.verdict: line.clauses for line in summary.lines} for summary in report.summaries
    }
    (clause,) = told["gptq-3"]["degraded"]
    assert (
        clause.text
        == "understandability is 0.84\N{NO-BREAK SPACE}points lower (95\N{NO-BREAK SPACE}% CI 0.59 to 1.09)"
    )
    assert told["nf4"]["unresolved"][0].text == "overall (detectable ±0.35)"
    assert told["nf4"]["equivalent"][0].text.startswith("understandability (+0.05")
    for summary in report.summaries:
        for line in summary.lines:
            for one in line.clauses:
                assert page.count(f'id="{one.anchor}"') == 1


def test_who_took_part(report: StudyReport, page: str) -> None:
    assert (report.flow.consented, report.flow.completed, report.flow.seen, report.flow.analysed) == (
        15,
        13,
        13,
        12,
    )
    assert report.flow.left == {"did not pass the comprehension check": 2}
    assert report.flow.excluded == {"failed attention checks": 1}
    assert "15 agreed to take part" in text(page)
    assert "Devices: phone 13." in report.flow.characteristics


def test_what_one_verdict_rests_on(report: StudyReport, page: str) -> None:
    assert [one.differs for one in report.sensitivity] == [True, False, False, False]
    assert "1 verdict of 4 would be another one" in text(page)
    assert any("understandability of gptq-3" in caveat for caveat in report.caveats)


def test_people_beside_metrics(study: Study, report: StudyReport, page: str) -> None:
    assert dict(report.agreements) == {
        "gptq-3": "People and metrics differ: for people it is partly worse, partly better, for the metrics worse.",
        "nf4": "Undecided for people; for the metrics it is better.",
    }
    assert list(report.glance.parts) == [
        "people: what the study is to decide",
        "the run's metrics: what it was to decide",
    ]
    assert "counterfactual flips" in text(page)
    same = made_up(study).model_copy(update={"findings": (rating("overall", "gptq-3", -1.0, "degraded"),)})
    assert dict(agreements(same, METRICS))["gptq-3"] == "People and metrics agree: worse."


def test_only_metrics_of_what_was_rated(study: Study) -> None:
    others = [
        automatic("gptq-3", "degraded", explainer="memorization"), automatic("awq-4", "degraded"),
        automatic("gptq-3", "degraded", reference="nf4"), automatic("gptq-3", "degraded", confirmatory=False),
    ]  # fmt: skip
    analysis, rated = made_up(study), {("counterfactual", "inference")}
    others.append(automatic("gptq-3", "degraded", dataset="news"))
    assert relevant([*METRICS, *others], analysis, rated) == METRICS
    others.pop()
    assert relevant(others, analysis, rated) == others[3:]
    assert "exploratory" in " ".join(glance(analysis, others[3:]).parts)


def test_correlations_are_shown_with_their_doubt(page: str) -> None:
    row = page[page.index("Metrics and ratings</caption>") :]
    cells = re.findall(r'<td class="([^"]+)" title="([^"]+)">([^<]+)', row)[:2]
    assert cells == [
        ("better-2", "+0.42 [+0.10, +0.60], adjusted p 0.010, 18 stimuli", "+0.42"),
        ("worse-2 unresolved", "−0.35 [+0.10, +0.60], adjusted p 0.400, 18 stimuli", "−0.35"),
    ]


def test_examples_are_those_that_differ_most(study: Study) -> None:
    found = examples(ratings(study), made_up(study), study.stimuli, wordings(study)["en"])
    assert [(one.variant, one.difference, one.worse) for one in found] == [
        ("gptq-3", "−2.00 points", True)
    ] * 3
    assert found[0].ratings == ("rated 6.0 by 12", "rated 4.0 by 12")  # without the excluded one
    (name, before, marked) = found[0].parts[0]
    assert name in ("Changed text", "Explanation")
    assert before in {part.text for s in study.stimuli.values() for part in s.parts}
    assert "<del>" in marked


def test_texts_are_text(study: Study) -> None:
    evil = "<img src=x onerror=alert(1)>"
    changed = {
        name: stimulus.model_copy(
            update={
                "parts": tuple(
                    p.model_copy(update={"text": f"{p.text} {evil} {name}"}) for p in stimulus.parts
                )
            }
        )
        for name, stimulus in study.stimuli.items()
    }
    other = Study(study.path)
    other.__dict__["stimuli"] = changed
    inputs = Inputs(ratings(study), people(), made_up(study), METRICS)
    html, plain = (part.decode() for part in rendered(make_study_report(other, inputs, DATE)))
    assert "<img" not in html
    assert "&lt;img" in html
    assert UNSAFE not in html
    assert "<script" not in html
    assert "<script" not in plain


def test_the_page_loads_nothing(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'sha256-")
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_simulated_participants_are_said_to_be(study: Study) -> None:
    inputs = Inputs(ratings(study), people("simulated"), made_up(study), [])
    report = make_study_report(study, inputs, DATE)
    assert "The participants are simulated" in report.warnings[0]
    assert report.caveats[0] == report.warnings[0]
    assert "simulated participants agreed" in " ".join(report.methods)
    assert report.agreements == []
    told = data_package(study, inputs.ratings, simulated=report.flow.simulated)["README.md"].decode()
    assert "by 13 simulated participants" in " ".join(told.split())


def test_what_changes_from_page_to_page(study: Study, report: StudyReport) -> None:
    assert report.order_sentence == "Of 1 change looked at, 1 beyond chance: times on a page fall."
    assert [row[2].count("a page") for row in report.order] == [1]
    unsure = [one.model_copy(update={"p_adjusted": 0.2}) for one in made_up(study).order_effects]
    assert order_sentence(unsure, 0.05) == "None of 1 change looked at is beyond chance."


def test_a_metric_that_is_the_same_for_all_texts_is_not_told(study: Study) -> None:
    analysis = made_up(study)
    constant = analysis.correlations[0].model_copy(
        update={
            "scorer": "flips",
            "metric": "failure",
            "rho": None,
            "ci_low": None,
            "ci_high": None,
            "p": None,
        }
    )
    told = analysis.model_copy(update={"correlations": (*analysis.correlations, constant)})
    assert "1 automatic metric of the run is held" in " ".join(methods(study, told, flow(people(), told)))
    nothing_held = analysis.model_copy(update={"correlations": (constant,)})
    assert "automatic metric" not in " ".join(methods(study, nothing_held, flow(people(), nothing_held)))


def test_checks_that_were_not_done_are_not_told(study: Study) -> None:
    bare = rating(
        "overall", "gptq-3", 0.1, "unresolved", p_ordinal=None, p_gee=None, p_mixed=None, cliffs_delta=None
    )
    told = " ".join(methods(study, _one(study, bare), flow(people(), _one(study, bare))))
    assert "Wilcoxon 1945" in told
    assert not re.search("McCullagh|Heagerty|Laird|Cliff", told)


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        (0, "Nobody has answered anything so far."),
        (1, "There are answers of 1 participant about 1 source item: too few"),
    ],
)
def test_little_data_is_a_sentence(study: Study, seen: int, sentence: str) -> None:
    inputs = Inputs(ratings(study, seen), people(finished=seen), nothing(study, seen), METRICS)
    report = make_study_report(study, inputs, DATE)
    assert report.headline == "There is no answer yet."
    assert report.basis.startswith(sentence)
    html, plain = (part.decode() for part in rendered(report))
    assert sentence in text(html)
    assert "None" not in text(html)
    assert "nan" not in plain.split()
    assert report.summaries == []
    assert list(report.glance.parts) == ["the run's metrics: what it was to decide"]
    assert "no data" not in text(html).partition("Who took part")[2] or seen


def test_everybody_excluded(study: Study) -> None:
    analysis = nothing(study).model_copy(
        update={"exclusions": made_up(study).exclusions.model_copy(update={"seen": 3, "kept": 0})}
    )
    assert answer(analysis)[1] == "All 3 participants with answers are excluded: see who took part."


def _one(study: Study, *findings: RatingFinding) -> StudyAnalysis:
    return made_up(study).model_copy(update={"findings": findings, "findings_without_exclusions": ()})


@pytest.mark.parametrize(
    ("verdicts", "beginning"),
    [
        (("improved", "unresolved"), "Yes: people rated gptq-3 better than full"),
        (
            ("equivalent", "equivalent"),
            "No: in every question the change was shown to lie within its margin.",
        ),
        (("unresolved", "equivalent"), "No change could be shown, but not every change"),
    ],
)
def test_headlines(study: Study, verdicts: tuple[Any, Any], beginning: str) -> None:
    found = [rating("overall", name, 0.4, v) for name, v in zip(("gptq-3", "nf4"), verdicts, strict=True)]
    assert answer(_one(study, *found))[0].startswith(beginning)


def test_shares_are_spoken_of_as_shares(study: Study) -> None:
    shares: dict[str, Any] = {"unit": "share", "ci_low": -0.3, "ci_high": -0.1, "margin": 0.1}
    pair = rating("overall", "gptq-3", -0.2, "degraded", scale="pairwise", **shares)
    guess = rating("overall", "nf4", -0.2, "degraded", scale="label", **shares)
    told = {
        s.name: s.lines[0].clauses[0].text.replace("\N{NO-BREAK SPACE}", " ")
        for s in summaries(_one(study, pair, guess))
    }
    assert (
        told["gptq-3"]
        == "overall: the text of full is preferred 20 points more often than its own (95 % CI 10 to 30)"
    )
    assert told["nf4"] == "overall: the answer is guessed right 20 points less often (95 % CI 10 to 30)"
    unsure = rating("overall", "gptq-3", 0.0, "unresolved", **{**shares, "minimum_detectable": 0.21})
    assert "detectable ±21.0 pp" in summaries(_one(study, unsure))[0].lines[0].clauses[0].text.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    hopeless = rating("overall", "gptq-3", 0.0, "unresolved", minimum_detectable=6.5)
    assert "however large" in summaries(_one(study, hopeless))[0].lines[0].clauses[0].text


def test_bars_add_up(study: Study) -> None:
    drawn = bars(made_up(study).descriptives[:1], study.settings.questions[0])
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', drawn)]
    assert len(widths) == 7
    assert sum(widths) == pytest.approx(376, abs=0.5)
    assert re.findall(r'<rect class="([^"]+)"', drawn) == [
        "worse-3", "worse-2", "worse-1", "even", "better-1", "better-2", "better-3",
    ]  # fmt: skip
    turned = study.settings.questions[0].model_copy(update={"higher_is_better": False})
    colours = re.findall(r'<rect class="([^"]+)"', bars(made_up(study).descriptives[:1], turned))
    assert (colours[0], colours[-1]) == ("better-3", "worse-3")
    assert steps(Question(id="q", kind="pairwise", text="?")) == ["reference", "same", "variant"]
    assert bars([], study.settings.questions[0]) == ""


def test_everything_is_written(study: Study, tmp_path: Path) -> None:
    inputs = Inputs(ratings(study), people(), made_up(study), METRICS)
    written = write_analysis(make_study_report(study, inputs, DATE), inputs.ratings, tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in written] == [
        "report.html", "report.md", "findings.csv", "findings.parquet", "findings.json", "methods.md",
        "references.bib", "heds.json", "heds.md", "data-package/README.md", "data-package/ratings.csv",
        "data-package/stimuli.csv", "data-package/codebook.json", "data-package/codebook.md",
    ]  # fmt: skip
    analysis = StudyAnalysis.model_validate_json((tmp_path / "findings.json").read_text())
    assert analysis == made_up(study)
    assert table_to_rows(pq.read_table(tmp_path / "findings.parquet"), RatingFinding) == list(
        analysis.findings
    )
    table = read_csv((tmp_path / "findings.csv").read_bytes())
    assert table.estimate.tolist() == [f.estimate for f in analysis.findings]
    assert UNSAFE not in (tmp_path / "data-package" / "ratings.csv").read_text()
    everything = "".join(file.read_text() for file in tmp_path.rglob("*.*") if file.suffix != ".parquet")
    assert study.secret.decode() not in everything


def test_methods_have_the_numbers_and_their_sources(study: Study, report: StudyReport) -> None:
    told = " ".join(report.methods)
    for said in (
        "3 variants of smollm2-135m (full, gptq-3 and nf4)", "6 source items", "from 7 for which",
        "a Latin square of 3",
        "1 page was shown a second time and 1 attention check was mixed in", "15 people agreed to take part; of these "
        "2 did not pass the comprehension check; 13 finished", "1 of the 13 with answers were left out",
        "480 answers of 12 participants about 6 source items", "within ±0.5 points", "4 confirmatory comparisons",
        "understandability 0.31 [0.20, 0.40]", "1 automatic metric of the run is held against", "statsmodels 0.",
    ):  # fmt: skip
        assert said in told, said
    # study.toml can be changed after the first answer: nothing here knows when its rules were set.
    assert "beforehand" not in told
    assert "how full fared" in told
    listed = {line.partition(":")[0] for line in report.references}
    cited = set(re.findall(r"[A-Z]\w+(?:-\w+)?(?: et al\.| and [A-Z]\w+)? (?:19|20)\d\d", told))
    assert cited == listed
    assert "Holm 1979" in listed


@pytest.mark.parametrize(
    ("shown", "said"), [(8, "cyclic incomplete blocks"), (3, "balanced incomplete blocks")]
)
def test_methods_call_only_balanced_blocks_so(
    report: StudyReport, tmp_path: Path, shown: int, said: str
) -> None:
    # Five variants come together unequally often in eight slots, equally often in three.
    names = ("full", "a", "b", "c", "d")
    design = {"items": 2 * shown, "per_participant": shown, "repeats": 0, "attention_checks": 0}
    own = make_study(tmp_path / "study", variants=names, items=2 * shown, design=design)
    told = methods(own, report.analysis, report.flow)[0]
    assert said in told


def test_the_runs_results_are_read_with_their_direction(study: Study, tmp_path: Path) -> None:
    other = make_study(tmp_path / "study")
    assert automatic_findings(other) == []
    assert measured(other, []) is None
    pq.write_table(rows_to_table(METRICS, Finding), other.path / "findings.parquet")
    row = {"variant": "full", "explainer": "e", "dataset": "d", "item": "i", "group": "g", "scorer": "flips"}
    table = pd.DataFrame([row | {"metric": name, "value": 1.0} for name in ("parent_soft_flip", "unknown")])
    table.to_parquet(other.path / "measurements.parquet")
    found = measured(other, automatic_findings(other))
    assert found is not None
    assert found.higher_is_better.tolist() == [True, None]
    (other.path / "findings.parquet").write_bytes(b"none")
    with pytest.raises(InputError, match="cannot be read"):
        automatic_findings(other)


def test_command_on_a_study_nobody_took_part_in(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    result = CliRunner().invoke(app, ["study", "analyze", str(study.path)])
    assert result.exit_code == 0, result.output
    assert "There is no answer yet. Nobody has answered anything so far." in result.stdout
    assert (study.path / "analysis" / "report.html").is_file()
    result = CliRunner().invoke(
        app, ["study", "analyze", str(study.path), "--json", "--out", str(tmp_path / "out")]
    )
    told = json.loads(result.stdout)
    assert told["participants"] == 0
    assert len(told["written"]) == len(list((tmp_path / "out").rglob("*.*")))


def test_flow_without_anybody(study: Study) -> None:
    empty = pd.DataFrame(columns=list(people()))
    found = flow(empty, nothing(study))
    assert (found.consented, found.analysed, found.characteristics, found.simulated) == (0, 0, [], False)
