"""The gate: what passes was shown, what is missing never passes, and the exit code says which."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from synthetic import make_run
from typer.testing import CliRunner, Result

from quantxai.cli import app
from quantxai.errors import ConfigError
from quantxai.gate import EXIT_CODES, Outcome, gate, worst
from quantxai.junit import junit_xml
from quantxai.manifest import CellKey, Manifest
from quantxai.policy import Part, Policy, Requirement, load_policy, parse_policy
from quantxai.records import Measurement, Metric

pytestmark = pytest.mark.bare

HIT = Metric(
    name="hit", kind="binary", higher_is_better=True, margin=0.1, unit="proportion", description="Hits."
)
LOSS = Metric(
    name="loss", kind="continuous", higher_is_better=False, margin=0.3, unit="nats", description="Loss."
)
SIZE = Metric(
    name="size", kind="continuous", higher_is_better=None, margin=1, unit="tokens", description="Size."
)
PLACES = [("e", "d"), ("f", "d")]


def manifest(variants: list[str], metrics: list[Metric] | None = None, **analysis: Any) -> Manifest:
    """Of a run whose scorer `s` scores both explainers, and whose scorer `t` only the first."""
    listed = [m.model_dump() for m in metrics or [HIT, LOSS, SIZE]]
    cells = [
        CellKey(kind="scores", variant=v, explainer=e, dataset=d, scorer=s, shard=0, digest="0" * 8)
        for v in ["full", *variants]
        for e, d in PLACES
        for s in ("s", "t")
        if (s, e) != ("t", "f")
    ]
    return Manifest(
        quantxai="0", seed=0, model={}, dtype="float32", device="cpu", cells=cells,
        variants=[{"name": v, "control": v.startswith("noise")} for v in ["full", *variants]],
        explainers=[{"explainer": e, "dataset": d} for e, d in PLACES],
        scorers=[{"scorer": "s", "metrics": listed}, {"scorer": "t", "metrics": [HIT.model_dump()]}],
        analysis={"alpha": 0.05, "resamples": 2000, "seed": 0, **analysis},
    )  # fmt: skip


def measured(
    values: dict[str, Any], metric: str = "loss", explainer: str = "e", scorer: str = "s", size: int = 1
) -> pd.DataFrame:
    rows = [
        (variant, explainer, "d", f"i{i:04d}", f"g{i // size:04d}", scorer, metric, value)
        for variant, column in values.items()
        for i, value in enumerate(column)
    ]
    return pd.DataFrame(rows, columns=list(Measurement.COLUMNS)).astype({"value": float})


def outcomes(
    frame: pd.DataFrame, *required: dict[str, Any], absent: dict[Part, str] | None = None, **options: Any
) -> list[Outcome]:
    policy = {"require": list(required), **options}
    variants = [v for v in dict.fromkeys(frame["variant"]) if v != "full"]
    return gate(parse_policy(policy), manifest(variants), frame, absent or {})


def one(frame: pd.DataFrame, absent: dict[Part, str] | None = None, **required: Any) -> Outcome:
    (found,) = outcomes(frame, {"metric": "loss", "explainer": "e", **required}, absent=absent)
    return found


def centred(n: int, seed: int = 0) -> Any:
    """Normal numbers with a mean of 0 and a standard deviation of 1."""
    noise = np.random.default_rng(seed).standard_normal(n)
    return (noise - noise.mean()) / noise.std(ddof=1)


# What passes


def test_an_outcome_passes_when_the_one_sided_bound_stays_inside() -> None:
    # Student's one-sided 95 % bound of 200 differences, by scipy: 0.1 + 1.653 / sqrt(200).
    bound = 0.1 + stats.t.ppf(0.95, 199) / np.sqrt(200)
    frame = measured({"full": [0.0] * 200, "q": list(centred(200) + 0.1)})
    inside, outside = one(frame, margin=bound + 0.01), one(frame, margin=bound - 0.01)
    assert inside.verdict == "pass"
    assert inside.worst == inside.ci_high == pytest.approx(bound, abs=0.008)
    assert outside.verdict == "unresolved"


def test_a_better_variant_passes_however_far_and_a_worse_one_is_degraded() -> None:
    better = measured({"full": [0.0] * 30, "q": list(centred(30) - 5)})
    worse = measured({"full": [0.0] * 30, "q": list(centred(30) + 5)})
    assert one(better).verdict == "pass"
    assert "better" in one(better).reason
    assert one(worse).verdict == "degraded"


def test_higher_is_better_turns_it_round() -> None:
    frame = measured({"full": [0.0] * 30, "q": [1.0] * 25 + [0.0] * 5}, "hit")
    assert one(frame, metric="s.hit").verdict == "pass"
    assert one(frame.replace({"variant": {"full": "q", "q": "full"}}), metric="s.hit").verdict == "degraded"


def test_a_small_loss_passes_even_when_it_is_significant() -> None:
    found = one(measured({"full": [0.0] * 100, "q": list(0.1 * centred(100) + 0.1)}))
    assert found.p_degraded < 0.01
    assert found.verdict == "pass"


@pytest.mark.parametrize("margin", [0.1, 0.2])
def test_an_outcome_that_is_worse_by_its_margin_seldom_passes(margin: float) -> None:
    """On the edge of its margin an outcome passes with a chance of alpha; without a loss, nearly always."""
    rng, n, reps = np.random.default_rng(0), 200, 300

    def passed(loss: float) -> float:
        values = {f"q{r:03d}": (rng.random(n) >= loss).astype(float) for r in range(reps)}
        found = outcomes(
            measured({"full": [1.0] * n, **values}, "hit"),
            {"metric": "s.hit", "explainer": "e", "margin": margin},
        )
        return float(np.mean([o.verdict == "pass" for o in found]))

    assert passed(margin) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / reps)
    assert passed(0.01) > 0.9


def test_degraded_is_corrected_over_the_policy_and_passing_is_not() -> None:
    rng = np.random.default_rng(3)
    full = rng.random(60) < 0.9
    values = {"full": full.astype(float)}
    for name, lost in (("a", 0.16), ("b", 0.1), ("c", 0.03)):
        values[name] = np.where(rng.random(60) < lost, 0.0, full)
    frame = measured(values, "hit")
    found = {o.variant: o for o in outcomes(frame, {"metric": "s.hit", "explainer": "e"})}
    p = []
    for name in "abc":
        down, up = ((values["full"] > values[name]).sum(), (values["full"] < values[name]).sum())
        p.append(stats.binomtest(int(down), int(down + up)).pvalue)
    order = np.argsort(p)
    holm = np.minimum(np.maximum.accumulate(np.array(p)[order] * [3, 2, 1]), 1)
    assert [found["abc"[i]].p_degraded for i in order] == pytest.approx(holm.tolist())
    alone = one(frame[frame["variant"].isin(["full", "a"])], metric="s.hit", variant="a")
    assert alone.p_degraded == pytest.approx(p[0])
    assert alone.p_degraded < found["a"].p_degraded
    assert (alone.ci_low, alone.worst) == (pytest.approx(found["a"].ci_low), found["a"].worst)


def test_one_of_three_harms_that_chance_could_make_is_not_degraded() -> None:
    # Six of thirty lost: p = 2 / 2^6, which three comparisons raise above 0.05.
    lost = {f"q{k}": [0.0 if k * 6 <= i < k * 6 + 6 else 1.0 for i in range(30)] for k in range(3)}
    frame = measured({"full": [1.0] * 30, **lost}, "hit")
    three = outcomes(frame, {"metric": "s.hit", "explainer": "e"})
    assert [o.verdict for o in three] == ["unresolved"] * 3
    assert one(frame, metric="s.hit", variant="q0").verdict == "degraded"


def test_a_p_too_small_for_a_number_is_small() -> None:
    found = one(measured({"full": [1.0] * 1200, "q": [0.0] * 1200}, "hit"), metric="s.hit")
    assert found.p_degraded == 0
    assert found.verdict == "degraded"


def test_what_the_policy_does_not_ask_for_is_no_member_of_its_family() -> None:
    # Ten items have 1024 sign patterns: all are enumerated, and p is exact.
    values = {"full": [0.0] * 10, "a": list(centred(10) + 0.5), "b": list(centred(10, 1) + 0.5)}
    frame = measured(values)
    both = outcomes(frame, {"metric": "loss", "explainer": "e", "variant": ["a", "b"]})
    (alone,) = outcomes(frame, {"metric": "loss", "explainer": "e", "variant": "a"})
    assert alone.p_degraded == pytest.approx(
        stats.permutation_test(
            (centred(10) + 0.5,), np.mean, permutation_type="samples", n_resamples=9999
        ).pvalue
    )
    assert min(o.p_degraded for o in both) == pytest.approx(2 * alone.p_degraded)


def test_the_number_of_items_that_would_pass_has_the_power_it_says() -> None:
    found = one(measured({"full": [0.0] * 40, "q": list(centred(40) * 1.5 + 0.1)}), margin=0.4)
    assert found.verdict == "unresolved"
    assert f"{found.n_to_pass:,} items" in found.reason
    # One-sided one-sample t test of a distance of 0.3 to the margin, standard deviation 1.5.
    power = TTestPower().power(0.3 / 1.5, found.n_to_pass, 0.05, alternative="larger")
    assert power == pytest.approx(0.8, abs=0.03)
    beyond = one(measured({"full": [0.0] * 20, "q": list(centred(20) * 3 + 0.5)}), margin=0.4)
    assert (beyond.verdict, beyond.n_to_pass) == ("unresolved", None)
    assert "itself beyond the margin" in beyond.reason


# What is missing


def test_missing_values_count_as_bad_as_any_seen() -> None:
    rng = np.random.default_rng(5)
    full, quantized = rng.normal(2, 0.3, 100), rng.normal(2, 0.3, 100)
    lowest, highest = min(full.min(), quantized.min()), max(full.max(), quantized.max())
    full[:2], quantized[2:4] = np.nan, np.nan
    by_hand = measured({"full": np.nan_to_num(full, nan=lowest), "q": np.nan_to_num(quantized, nan=highest)})
    with_gaps = measured({"full": full, "q": quantized})
    found, filled = one(with_gaps), one(by_hand)
    assert (found.n, found.n_missing, filled.n_missing) == (96, 4, 0)
    lowest_seen, highest_seen = np.nanmin([full, quantized]), np.nanmax([full, quantized])
    if (lowest, highest) == (lowest_seen, highest_seen):
        assert found.worst == pytest.approx(filled.ci_high)
    assert found.worst > found.ci_high
    tight = one(with_gaps, margin=(found.ci_high + found.worst) / 2)
    assert tight.verdict == "unresolved"
    assert "4 of 100 items have no value" in tight.reason
    assert one(with_gaps, margin=found.worst + 0.001).verdict == "pass"


def test_a_missing_binary_value_is_a_loss() -> None:
    kept = [1.0] * 200
    gaps = one(measured({"full": kept, "q": [*kept[:-30], *[None] * 30]}, "hit"), metric="s.hit")
    lost = one(measured({"full": kept, "q": [*kept[:-30], *[0.0] * 30]}, "hit"), metric="s.hit")
    assert gaps.worst == pytest.approx(lost.ci_low)
    assert (gaps.verdict, lost.verdict) == ("unresolved", "degraded")
    assert gaps.estimate == 0


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"full": [None] * 9, "q": [0.0] * 9}, ["no item has a value"]),
        ({"full": [0.0] * 9, "q": [None] * 9}, ["no item has a value"]),
    ],
)
def test_no_values_are_no_pass(values: dict[str, Any], parts: list[str]) -> None:
    found = one(measured(values))
    assert found.verdict == "not measured"
    assert found.estimate is None
    assert all(part in found.reason for part in parts)


def test_no_measurements_are_no_pass() -> None:
    other = measured({"full": [0.0] * 20, "q": [0.0] * 20}, explainer="f")
    assert one(other).verdict == "not measured"
    assert one(other.iloc[:0], variant=None).verdict == "not measured"
    assert one(other, metric="t.hit", explainer="f").reason == "the run plans no scores of 't' there"


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_few_equal_values_are_no_pass(n: int) -> None:
    found = one(measured({"full": [0.0] * n, "q": [0.0] * n}))
    assert found.verdict == "unresolved"
    assert f"only {n} independent group" in found.reason


def test_many_items_of_a_few_groups_are_no_pass() -> None:
    frame = measured({"full": [0.0] * 70, "q": list(0.01 * centred(70))}, size=10)
    assert one(frame).verdict == "unresolved"
    assert one(frame.assign(group=frame["item"])).verdict == "pass"


@pytest.mark.parametrize("variant", ["q", "full"])
def test_incomplete_scores_are_no_pass(variant: str) -> None:
    frame = measured({"full": [0.0] * 50, "q": list(0.01 * centred(50))})
    found = one(frame, absent={Part(variant, "e", "d", "s"): "failed: no memory"})
    assert found.verdict == "not measured"
    assert "no memory" in found.reason
    assert one(frame, absent={Part(variant, "f", "d", "s"): "failed"}).verdict == "pass"


# What is asked for


def test_a_requirement_covers_every_quantized_variant_and_place() -> None:
    values = {name: list(0.01 * centred(20)) for name in ("full", "q", "r", "noise")}
    frame = pd.concat([measured(values), measured(values, explainer="f")])
    found = outcomes(frame, {"metric": "loss"}, {"metric": "s.loss", "variant": "noise", "explainer": "f"})
    assert [(o.requirement, o.variant, o.explainer) for o in found] == [
        (1, "q", "e"), (1, "q", "f"), (1, "r", "e"), (1, "r", "f"), (2, "noise", "f")
    ]  # fmt: skip
    assert worst(found) == "pass"


def test_margins_are_the_policys_then_the_analyses_then_the_metrics() -> None:
    frame = measured({"full": [0.0] * 20, "q": [0.0] * 20})
    required = {"metric": "loss", "explainer": "e"}
    policies = [parse_policy({"require": [r]}) for r in (required, {**required, "margin": 0.7})]
    plain, planned = manifest(["q"]), manifest(["q"], margins={"s.loss": 0.5})
    found = [gate(policy, run, frame, {})[0].margin for run in (plain, planned) for policy in policies]
    assert found == [0.3, 0.7, 0.5, 0.7]


def test_alpha_is_the_policys_and_sets_the_interval() -> None:
    frame = measured({"full": [0.0] * 100, "q": list(centred(100))})
    required = {"metric": "loss", "explainer": "e"}
    (strict,), (loose,) = outcomes(frame, required, alpha=0.005), outcomes(frame, required, alpha=0.1)
    assert strict.ci_high == pytest.approx(stats.t.ppf(0.995, 99) / 10, abs=0.02)
    assert loose.ci_high == pytest.approx(stats.t.ppf(0.9, 99) / 10, abs=0.02)


def test_a_run_without_a_quantized_variant_passes_nothing() -> None:
    frame = measured({"full": [0.0] * 20})
    found = outcomes(frame, {"metric": "loss", "explainer": "e"})
    assert [(o.verdict, o.reason) for o in found] == [("not measured", "the run has no quantized variant")]


@pytest.mark.parametrize(
    ("required", "parts"),
    [
        ({"metric": "los"}, ["no metric 'los'. Did you mean 's.loss'?"]),
        ({"metric": "s.los"}, ["Did you mean 's.loss'?"]),
        ({"metric": "hit"}, ["several scorers", "s.hit, t.hit"]),
        ({"metric": "size"}, ["only describes"]),
        ({"metric": "loss", "variant": "r"}, ["no variant 'r'", "It has: q"]),
        ({"metric": "loss", "variant": ["q", "full"]}, ["'full' is the parent"]),
        ({"metric": "loss", "explainer": "g"}, ["no explainer 'g'", "It has: e, f"]),
        ({"metric": "loss", "dataset": "c"}, ["no data set 'c'"]),
    ],
)
def test_a_name_the_run_does_not_have_is_an_error(required: dict[str, Any], parts: list[str]) -> None:
    frame = measured({"full": [0.0] * 20, "q": [0.0] * 20})
    with pytest.raises(ConfigError) as error:
        outcomes(frame, {"metric": "s.loss"}, required)
    assert str(error.value).startswith("[[require]] no. 2: ")
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["nothing is required", "[[require]]"]),
        ("require = []", ["nothing is required"]),
        ("[require]\nmetric = 'a'", ["list of tables", "[[require]]"]),
        ("[[require]]\nmargin = 0.1", ["[[require]] no. 1", "'metric' is missing"]),
        ("[[require]]\nmetric = 'a'\nmargn = 0.1", ["unknown key 'margn'"]),
        ("[[require]]\nmetric = 'a'\nmargin = 0", ["margin = 0: must be greater than 0"]),
        ("[[require]]\nmetric = 'a'\nmargin = inf", ["margin = inf", "finite"]),
        ("[[require]]\nmetric = 'a'\nvariant = []", ["names no variant"]),
        ("[[require]]\nmetric = 'a'\nvariant = 4", ["variant = 4"]),
        ("alph = 0.1\n[[require]]\nmetric = 'a'", ["Did you mean 'alpha'?"]),
        ("alpha = 0.3\n[[require]]\nmetric = 'a'", ["alpha = 0.3: must be less than 0.25"]),
        ("[[require]\nmetric = 'a'", ["not valid TOML"]),
    ],
)
def test_a_policy_is_closed(text: str, parts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_policy(file)
    assert str(error.value).startswith(str(file))
    assert all(part in str(error.value) for part in parts)


def test_a_policy_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path, part in (
        (tmp_path / "none.toml", "no such file"),
        (tmp_path, "cannot be read"),
        (binary, "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=part):
            load_policy(path)


def test_the_page_names_every_key_and_code() -> None:
    page = (Path(__file__).parents[1] / "docs" / "gate.md").read_text(encoding="utf-8")
    for name in (*Requirement.model_fields, *Policy.model_fields, *EXIT_CODES):
        assert name in page
    codes = dict(re.findall(r"^\| ([a-z ]+) \|.*\| (\d+) \|[^|]+\|$", page, re.MULTILINE))
    assert codes == {name: str(code) for name, code in EXIT_CODES.items()}


# What comes out


def test_the_worst_decides() -> None:
    frame = pd.concat(
        [
            measured({"full": [0.0] * 40, "good": list(0.01 * centred(40)), "bad": list(centred(40) + 3),
                      "vague": list(9 * centred(40)), "gone": [None] * 40}),
        ]
    )  # fmt: skip

    def code(*variants: str) -> int:
        found = outcomes(frame, {"metric": "loss", "explainer": "e", "variant": list(variants)})
        return EXIT_CODES[worst(found)]

    assert code("good") == 0
    assert code("good", "vague") == 11
    assert code("vague", "gone", "good") == 12
    assert code("good", "gone", "vague", "bad") == 10


def test_junit_counts_and_escapes() -> None:
    frame = measured({"full": [0.0] * 40, "good": list(0.01 * centred(40)), "b<&'a\"d": list(centred(40) + 3),
                      "vague": list(9 * centred(40)), "gone": [None] * 40})  # fmt: skip
    failing = {Part("gone", "e", "d", "s"): "failed: \x1b[31m\x00]]> <b>\ud800 \U0001f600"}
    found = outcomes(frame, {"metric": "loss", "explainer": "e"}, absent=failing)
    root = ElementTree.fromstring(junit_xml(found, "gate \x07 & run"))
    assert root.tag == "testsuites"
    (suite,) = root
    assert [suite.get(key) for key in ("name", "tests", "failures", "errors")] == [
        "gate \ufffd & run",
        "4",
        "2",
        "1",
    ]
    cases = {case.get("classname"): case for case in suite}
    assert list(cases) == ["good.e.d", "b<&'a\"d.e.d", "vague.e.d", "gone.e.d"]
    assert len(cases["good.e.d"]) == 0
    kinds = [(case[0].tag, case[0].get("type")) for case in suite if len(case)]
    assert kinds == [("failure", "degraded"), ("failure", "unresolved"), ("error", "not measured")]
    assert (
        cases["gone.e.d"][0].get("message")
        == "not measured: failed: \ufffd[31m\ufffd]]> <b>\ufffd \U0001f600"
    )
    assert "estimate: 3" in (cases["b<&'a\"d.e.d"][0].text or "")
    assert len({(case.get("classname"), case.get("name")) for case in suite}) == 4


# The command

POLICY = """
[[require]]
metric = "recall.recall"
variant = "int8"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("gate") / "run", items=60, facts=180, failing=True).path


@pytest.fixture
def held(tmp_path: Path) -> Callable[..., Result]:
    """Holds a run against a policy given as text."""

    def invoke(run: Path, policy: str, *options: str | Path) -> Result:
        (tmp_path / "policy.toml").write_text(policy)
        arguments = ["gate", run, "--policy", tmp_path / "policy.toml", *options]
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return invoke


def test_a_run_that_passes(run: Path, held: Callable[..., Result]) -> None:
    done = held(run, POLICY)
    assert done.exit_code == 0
    assert "+ pass" in done.stdout
    assert done.stdout.endswith("PASSED (1 pass)\n")


def test_a_run_that_does_not_pass_says_why(run: Path, held: Callable[..., Result], tmp_path: Path) -> None:
    every = '[[require]]\nmetric = "recall.recall"'
    done = held(run, every, "--junit", tmp_path / "sub" / "gate.xml")
    assert done.exit_code == 10
    assert "? not measured" in done.stdout
    assert "out of memory" in done.stdout
    assert "NOT PASSED: degraded" in done.stdout
    suite = ElementTree.parse(tmp_path / "sub" / "gate.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("errors")) == ("3", "1")
    failed = held(run, every + '\nvariant = "gptq-3"')
    assert failed.exit_code == 12


def test_json_says_the_same(run: Path, held: Callable[..., Result]) -> None:
    done = held(run, "alpha = 0.025\n" + POLICY, "--json")
    found = json.loads(done.stdout)
    assert (found["verdict"], found["exit_code"], found["confidence"]) == ("pass", 0, 0.95)
    assert [(o["variant"], o["n"]) for o in found["outcomes"]] == [("int8", 180)]


@pytest.mark.parametrize(
    ("policy", "part"),
    [
        (POLICY.replace("recall.recall", "recall.recal"), "Did you mean 'recall.recall'?"),
        (POLICY.replace("int8", "int9"), "no variant 'int9'"),
        (POLICY + "margn = 1", "unknown key 'margn'"),
    ],
)
def test_a_mistake_in_the_policy_names_the_file(
    policy: str, part: str, run: Path, held: Callable[..., Result], tmp_path: Path
) -> None:
    done = held(run, policy, "--junit", tmp_path / "gate.xml")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"quantxai: error: {tmp_path / 'policy.toml'}: ")
    assert part in done.stderr
    assert not (tmp_path / "gate.xml").exists()


def test_a_run_with_one_item_is_unresolved(tmp_path: Path, held: Callable[..., Result]) -> None:
    store = make_run(tmp_path / "one", items=1, facts=1, pairs=1)
    assert held(store.path, POLICY).exit_code == 11


def test_an_empty_run_and_a_half_finished_one_are_not_measured(
    tmp_path: Path, held: Callable[..., Result]
) -> None:
    store = make_run(tmp_path / "half", items=20, facts=180)
    scores = [key for key in store.manifest.cells if key.kind == "scores"]
    for key in scores:
        if (key.variant, key.scorer) == ("full", "recall"):
            store.discard(key)
    half = held(store.path, POLICY)
    assert half.exit_code == 12
    assert "the parent's are incomplete: not computed yet" in " ".join(half.stdout.split())
    for key in scores:
        store.discard(key)
    assert held(store.path, POLICY).exit_code == 12


def test_variants_computed_under_other_conditions_are_refused(
    tmp_path: Path, held: Callable[..., Result]
) -> None:
    store = make_run(tmp_path / "run", items=20, facts=90)
    for key in store.manifest.cells:
        if key.kind == "rows" and key.dataset == "relations":
            engine = "new" if key.variant == "int8" else "old"
            store.write(key, store.read(key), {"conditions": {"engine": engine}})
    assert held(store.path, POLICY.replace("int8", "nf4")).exit_code in (10, 11)
    done = held(store.path, POLICY)
    assert done.exit_code == 2
    assert "engine" in done.stderr


def test_a_corrupt_cell_is_no_pass(tmp_path: Path, held: Callable[..., Result]) -> None:
    store = make_run(tmp_path / "run", items=20, facts=90)
    key = next(k for k in store.manifest.cells if k.kind == "scores")
    (store.path / f"{key.id}.parquet").write_bytes(b"other")
    assert held(store.path, POLICY).exit_code == 1
