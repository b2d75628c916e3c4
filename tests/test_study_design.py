"""Forms: counted cell by cell, whatever the numbers of variants, items and slots."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from study_support import SETTINGS, make_stimuli

from quantxai.errors import ConfigError
from userstudy.attention import attention_checks, fitted
from userstudy.balance import balance, shortcomings
from userstudy.blocks import base_sequences, difference_family, windows
from userstudy.design import draw_design
from userstudy.order import most_repeats, order
from userstudy.records import Design, Form, Planned, Stimulus
from userstudy.settings import StudySettings

PAIRWISE = [{"id": "better", "kind": "pairwise", "text": "Which?"}]


def _settings(**changes: object) -> StudySettings:
    design = {**SETTINGS["design"], **changes}
    questions = PAIRWISE if design.get("show") == "pair" else SETTINGS["questions"]
    return StudySettings.model_validate({**SETTINGS, "design": design, "questions": questions})


def _names(count: int) -> tuple[str, ...]:
    return ("full", *(f"v{n}" for n in range(1, count)))


def _drawn(variants: int, items: int, **design: object) -> tuple[dict[str, Stimulus], Design]:
    stimuli = make_stimuli(items, _names(variants))
    return {s.id: s for s in stimuli}, draw_design(stimuli, _settings(items=items, **design))


def _rated(form: Form) -> list[Planned]:
    return [trial for trial in form.trials if trial.kind == "rating"]


# Blocks


@pytest.mark.parametrize(
    ("v", "k", "blocks"),
    [
        (7, 3, 1),  # the Fano plane
        (13, 4, 1),  # the projective plane of order 3
        (11, 5, 1),  # the quadratic residues modulo 11
        (13, 3, 2),  # Netto's system
        (4, 2, 3),  # all pairs, whole orbits, the short one twice
    ],
)
def test_known_families_are_found(v: int, k: int, blocks: int) -> None:
    family = difference_family(v, k)
    assert family is not None
    assert len(family) == blocks


@pytest.mark.parametrize("v", range(2, 14))
def test_a_familys_rotations_hold_every_pair_equally_often(v: int) -> None:
    for k in range(1, v + 1):
        pairs: Counter[tuple[int, ...]] = Counter()
        for block in difference_family(v, k) or ():
            assert len(set(block)) == k
            for turn in range(v):
                pairs.update(combinations(sorted((entry + turn) % v for entry in block), 2))
        together = {pairs[pair] for pair in combinations(range(v), 2)}
        assert len(together) == 1, (v, k)


def test_where_no_family_exists_none_is_made_up() -> None:
    # b = λ v (v - 1) / (k (k - 1)): (8, 3) needs a multiple of 7 base blocks.
    assert difference_family(8, 3) is None
    assert difference_family(40, 20) is None  # too many blocks to look through
    assert base_sequences(20, 40) == (tuple(range(20)),)


@given(items=st.integers(2, 40), slots=st.integers(1, 40))
def test_windows_hold_every_item_equally_often(items: int, slots: int) -> None:
    assume(slots <= items)
    sets = windows(items, slots)
    counts = Counter(item for window in sets for item in window)
    assert {len(set(window)) for window in sets} == {slots}
    assert set(counts.values()) == {len(sets) * slots // items}
    assert len(counts) == items


# Forms


@settings(deadline=None, max_examples=60)
@given(
    variants=st.integers(2, 8),
    items=st.integers(2, 24),
    slots=st.integers(2, 24),
    show=st.sampled_from(["one", "pair"]),
)
def test_every_form_and_every_cell_is_balanced(variants: int, items: int, slots: int, show: str) -> None:
    slots = min(slots, items)
    stimuli, design = _drawn(
        variants, items, per_participant=slots, repeats=min(1, most_repeats(slots, 1)), show=show
    )
    rotated = _names(variants)[show == "pair" :]
    cells: Counter[tuple[str, str]] = Counter()
    for form in design.forms:
        shown = [stimuli[trial.stimuli[-1]] for trial in _rated(form)]
        for trial in _rated(form):
            assert len({stimuli[one].item for one in trial.stimuli}) == 1
            assert [stimuli[one].variant for one in trial.stimuli[:-1]] == ["full"] * (show == "pair")
        assert len({stimulus.item for stimulus in shown}) == len(shown) == slots
        seen = Counter(stimulus.variant for stimulus in shown)
        counts = [seen[variant] for variant in rotated]
        assert max(counts) - min(counts) <= 1
        cells.update((stimulus.item, stimulus.variant) for stimulus in shown)
    every = {(stimulus.item, variant) for stimulus in stimuli.values() for variant in rotated}
    assert set(cells) == every
    assert len(set(cells.values())) == 1
    assert balance(design, stimuli).cells == (min(cells.values()), max(cells.values()))


@pytest.mark.parametrize(("variants", "slots"), [(7, 3), (4, 2), (5, 3), (7, 5), (9, 4)])
def test_pairs_of_variants_come_together_equally_often(variants: int, slots: int) -> None:
    stimuli, design = _drawn(variants, 2 * slots, per_participant=slots, repeats=0)
    pairs = Counter(
        pair
        for form in design.forms
        for pair in combinations(sorted(stimuli[trial.stimuli[0]].variant for trial in _rated(form)), 2)
    )
    assert len(pairs) == variants * (variants - 1) // 2
    assert len(set(pairs.values())) == 1
    assert design.kind == "balanced-incomplete-blocks"
    found = balance(design, stimuli).pairs
    assert found.low == found.high == min(pairs.values())


def test_blocks_are_called_balanced_only_where_pairs_are() -> None:
    # Five variants come together unequally often in eight slots.
    stimuli, design = _drawn(5, 16, per_participant=8, repeats=0)
    assert design.kind == "cyclic-incomplete-blocks"
    found = balance(design, stimuli).pairs
    assert found.low < found.high


def test_a_latin_square_is_one() -> None:
    stimuli, design = _drawn(3, 6)
    assert design.kind == "latin-square"
    assert len(design.forms) == 3
    assert balance(design, stimuli) == ((1, 1), (2, 2), (12, 12), 6)


@pytest.mark.parametrize("slots", [6, 12, 24])
def test_strata_are_spread_over_forms_and_variants(slots: int) -> None:
    stimuli, design = _drawn(4, 24, per_participant=slots)
    for form in design.forms:
        shown = [stimuli[trial.stimuli[0]] for trial in _rated(form)]
        labels, explainers = Counter(s.label for s in shown), Counter(s.explainer for s in shown)
        assert set(labels.values()) == {slots // 3}
        assert set(explainers.values()) == {slots // 2}
        crossed = Counter((s.explainer, s.variant) for s in shown)
        counts = [crossed[explainer, variant] for explainer in explainers for variant in _names(4)]
        assert max(counts) - min(counts) <= 1


def test_the_first_few_forms_are_nearly_balanced_already() -> None:
    # 20 items, 12 a participant, 7 variants take 35 forms; few studies have so many participants.
    stimuli, design = _drawn(7, 20, per_participant=12)
    assert len(design.forms) == 35
    first = [stimuli[t.stimuli[0]] for form in design.forms[:7] for t in _rated(form)]
    items = Counter(stimulus.item for stimulus in first)
    variants = Counter(stimulus.variant for stimulus in first)
    assert (min(variants.values()), max(variants.values())) == (12, 12)
    assert max(items.values()) - min(items.values()) <= 2


def test_repeats_are_spread_over_variants_and_items() -> None:
    stimuli, design = _drawn(4, 8, per_participant=8, repeats=2)
    repeated = [t for form in design.forms for t in form.trials if t.kind == "repeat"]
    assert len(repeated) == 8
    assert set(Counter(stimuli[t.stimuli[0]].variant for t in repeated).values()) == {2}
    assert set(Counter(stimuli[t.stimuli[0]].item for t in repeated).values()) == {1}
    for form in design.forms:
        again = [t.stimuli for t in form.trials if t.kind == "repeat"]
        assert set(again) <= {t.stimuli for t in _rated(form)}


def test_a_design_is_the_same_for_the_same_seed_only() -> None:
    _, first = _drawn(3, 12, seed=1)
    _, again = _drawn(3, 12, seed=1)
    _, other = _drawn(3, 12, seed=2)
    assert first == again
    assert first.forms != other.forms


def test_what_cannot_be_balanced_is_said() -> None:
    stimuli, design = _drawn(8, 10, per_participant=10, repeats=0)
    said = " ".join(shortcomings(design, stimuli, _settings(items=10)))
    assert (
        "12 participants do not divide by 8 forms: each form is used 1 or 2 times. It is exact with 8 or 16"
        in said
    )
    assert "each variant 1 to 2 times" in said
    stimuli, design = _drawn(3, 6)
    assert shortcomings(design, stimuli, _settings()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": 1, "items": 4}, "at least one other variant"),
        ({"variants": 3, "items": 6, "repeats": 5}, "leaves room for 3 with 6 items"),
        (
            {"variants": 8, "items": 126, "per_participant": 125, "repeats": 0},
            "a multiple of design.per_participant",
        ),
    ],
)
def test_a_design_that_cannot_be_had_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _drawn(**changes)


# Order


def _form(ratings: int, repeats: int, checks: int, pairs: bool = False) -> Form:
    pages = [(f"r{n}", f"v{n}") if pairs else (f"v{n}",) for n in range(ratings)]
    return Form(
        id=1,
        trials=(
            *(Planned(kind="rating", stimuli=page) for page in pages),
            *(Planned(kind="repeat", stimuli=page) for page in pages[:repeats]),
            *(Planned(kind="attention", stimuli=(f"a{n}",)) for n in range(checks)),
        ),
    )


@settings(deadline=None)
@given(
    ratings=st.integers(2, 30),
    repeats=st.integers(0, 10),
    checks=st.integers(0, 4),
    pairs=st.booleans(),
    seed=st.integers(0),
)
def test_order_keeps_every_trial_and_its_distances(
    ratings: int, repeats: int, checks: int, pairs: bool, seed: int
) -> None:
    repeats = min(repeats, most_repeats(ratings, checks))
    checks = min(checks, (ratings + repeats) // 2)
    form = _form(ratings, repeats, checks, pairs)
    ordered = order(form, seed)
    assert ordered == order(form, seed)
    plain = [(t.kind, tuple(sorted(t.stimuli))) for t in ordered]
    assert Counter(plain) == Counter((t.kind, tuple(sorted(t.stimuli))) for t in form.trials)
    assert ordered[0].kind != "attention"
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, trial in enumerate(ordered):
        places[tuple(sorted(trial.stimuli))].append(position)
    apart = [found[1] - found[0] for found in places.values() if len(found) == 2]
    assert len(apart) == repeats
    assert all(3 * distance >= len(ordered) for distance in apart)
    assert all(ordered[found[1]].kind == "repeat" for found in places.values() if len(found) == 2)
    checked = [position for position, trial in enumerate(ordered) if trial.kind == "attention"]
    for part, position in enumerate(checked):
        assert len(ordered) * part // checks <= position <= len(ordered) * (part + 1) // checks


def test_orders_differ_and_no_page_has_its_place() -> None:
    form = _form(6, 1, 1)
    orders = [order(form, seed) for seed in range(300)]
    first = Counter(ordered[0].stimuli for ordered in orders)
    # The repeated page is early: in one of the first two places; the other five share what is left.
    assert first[("v0",)] == pytest.approx(150, abs=45)
    assert all(first[(f"v{n}",)] > 10 for n in range(1, 6))


def test_sides_are_balanced_and_a_repeated_pair_is_turned() -> None:
    for seed in range(20):
        ordered = order(_form(10, 2, 0, pairs=True), seed)
        left = sum(trial.stimuli[0].startswith("r") for trial in ordered if trial.kind == "rating")
        assert left == 5
        by_pair = defaultdict(list)
        for trial in ordered:
            by_pair[tuple(sorted(trial.stimuli))].append(trial.stimuli)
        assert all(found[0] == found[1][::-1] for found in by_pair.values() if len(found) == 2)
    lefts = {order(_form(2, 0, 0, pairs=True), seed)[0].stimuli[0][0] for seed in range(20)}
    assert lefts == {"r", "v"}


def test_most_repeats_is_what_fits() -> None:
    # 6 items and no checks: 3 repeats make 9 pages, zones of 3 at both ends; 4 would make 10 with zones of 3.
    assert most_repeats(6, 0) == 3
    assert most_repeats(2, 0) == 1


# Attention checks


def test_checks_prescribe_answers_in_turn_that_nobody_gives_by_habit() -> None:
    stimuli = make_stimuli()
    checks = attention_checks(stimuli, _settings(attention_checks=4))
    by_id = {stimulus.id: stimulus for stimulus in stimuli}
    assert [check.question for check in checks] == ["understandability", "overall"] * 2
    assert all(check.answer in "123567" for check in checks)
    assert all(by_id[check.stimulus].variant == "full" for check in checks)
    assert len({check.stimulus for check in checks}) == 4
    assert {check.part for check in checks} <= {"edited", "explanation"}


def test_a_label_check_never_asks_for_the_right_label() -> None:
    settings_ = _settings(attention_checks=6).model_copy(
        update={"questions": (StudySettings.model_validate({**SETTINGS, "questions": [
            {"id": "guess", "kind": "label", "text": "Which?"}]}).questions[0],)}
    )  # fmt: skip
    stimuli = make_stimuli()
    answers = {stimulus.id: stimulus.answer for stimulus in stimuli}
    checks = attention_checks(stimuli, settings_)
    assert len(checks) == 6
    assert all(check.answer != answers[check.stimulus] for check in checks)


def test_checks_follow_the_questions_as_they_are_now() -> None:
    stimuli = {stimulus.id: stimulus for stimulus in make_stimuli()}
    before = attention_checks(stimuli.values(), _settings(attention_checks=3))
    assert fitted(before, stimuli, _settings(attention_checks=3)) == before
    other = [{"id": "new", "kind": "likert", "points": 5, "text": "New?"}]
    now = StudySettings.model_validate({**SETTINGS, "design": {"attention_checks": 3}, "questions": other})
    after = fitted(before, stimuli, now)
    assert [check.id for check in after] == [check.id for check in before]
    assert all(check.question == "new" and check.answer in "1245" for check in after)
    free = StudySettings.model_validate({**SETTINGS, "questions": SETTINGS["questions"][2:]})
    with pytest.raises(ConfigError, match="no question is left"):
        fitted(before, stimuli, free)


def test_a_check_whose_text_has_vanished_stays() -> None:
    """A study whose material lacks a text can be opened; the page of the check says what is missing."""
    stimuli = {stimulus.id: stimulus for stimulus in make_stimuli()}
    before = attention_checks(stimuli.values(), _settings(attention_checks=3))
    del stimuli[before[0].stimulus]
    assert fitted(before, stimuli, _settings(attention_checks=3)) == before
