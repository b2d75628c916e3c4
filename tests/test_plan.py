"""Planning: pure, deterministic, and a cell's digest depends on exactly what its content depends on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantxai.config import parse_config
from quantxai.errors import ConfigError, DataError, ModelError, RunError, UnknownName
from quantxai.estimate import estimate, parameters
from quantxai.manifest import CellKey
from quantxai.plan import Plan, check_place, deal, done, make_plan
from quantxai.records import Item
from quantxai.replicates import families
from quantxai.store import Store

pytestmark = pytest.mark.bare

VARIANTS: list[dict[str, Any]] = [
    {"quantizer": "full"},
    {"quantizer": "rtn", "bits": 4},
    {"quantizer": "gptq", "bits": 4},
]
EXPLAINERS: list[dict[str, Any]] = [
    {"explainer": "counterfactual", "dataset": "news", "n": 12, "cell_items": 6},
    {"explainer": "memorization", "dataset": "relations", "n": 36, "cell_items": 18},
]

SHAPE = {
    "model_type": "llama",
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of 12 numbers: planning reads no weights."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SHAPE))
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}).encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(48))
    return directory


def plan_of(directory: Path, /, **tables: Any) -> Plan:
    return make_plan(
        parse_config(
            {
                "model": {"name": str(directory), "dtype": "float32"},
                "variants": VARIANTS,
                "explainers": EXPLAINERS,
                **tables,
            }
        )
    )


def digests(plan: Plan) -> dict[tuple[str, ...], str]:
    return {
        (
            c.key.kind,
            c.key.variant,
            c.key.explainer,
            c.key.dataset,
            c.key.scorer,
            str(c.key.shard),
        ): c.key.digest
        for c in plan.cells
    }


def changed(before: dict[Any, str], after: dict[Any, str]) -> set[str]:
    return {key[1] for key in before.keys() & after.keys() if before[key] != after[key]}


def test_the_same_configuration_gives_the_same_plan(model: Path) -> None:
    assert digests(plan_of(model)) == digests(plan_of(model))


def test_a_plan_depends_on_nothing_it_is_not_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(plan_of(model))
    monkeypatch.chdir(model)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert digests(plan_of(model, workers=2, threads=1)) == before


def test_defaults_written_out_give_the_same_cells(model: Path) -> None:
    written = [
        {"quantizer": "full", "dtype": "auto"},
        {"quantizer": "rtn", "bits": 4, "group_size": 64, "symmetric": True, "seed": 0},
        {"quantizer": "gptq", "bits": 4, "damping": 0.05, "execution": "auto"},
    ]
    assert digests(plan_of(model, variants=written)) == digests(plan_of(model))


def test_another_variant_leaves_all_other_cells_as_they_are(model: Path) -> None:
    before, after = (
        digests(plan_of(model)),
        digests(plan_of(model, variants=[*VARIANTS, {"quantizer": "bnb"}])),
    )
    assert before.items() <= after.items()
    assert {key[1] for key in after.keys() - before.keys()} == {"nf4"}


def test_an_option_changes_the_cells_of_its_own_variant_only(model: Path) -> None:
    other = [VARIANTS[0], {**VARIANTS[1], "symmetric": False}, VARIANTS[2]]
    assert changed(digests(plan_of(model)), digests(plan_of(model, variants=other))) == {"rtn-4"}


def test_a_calibration_seed_changes_calibrated_variants_only(model: Path) -> None:
    other = [{**v, "seed": 1} for v in VARIANTS]
    assert changed(digests(plan_of(model)), digests(plan_of(model, variants=other))) == {"gptq-4"}


def test_the_parent_changes_every_score_because_it_judges(model: Path) -> None:
    other = [{"quantizer": "full", "dtype": "bfloat16", "name": "full"}, *VARIANTS[1:]]
    before, after = digests(plan_of(model)), digests(plan_of(model, variants=other))
    different = {key for key in before if before[key] != after[key]}
    assert {key for key in before if key[0] == "scores"} <= different
    assert {key[1] for key in different if key[0] == "rows"} == {"full"}


def test_an_option_of_an_explainer_changes_its_cells_only(model: Path) -> None:
    other = [EXPLAINERS[0], {**EXPLAINERS[1], "shots": 2}]
    before, after = digests(plan_of(model)), digests(plan_of(model, explainers=other))
    assert {key[2] for key in before if before[key] != after[key]} == {"memorization"}


def test_a_scorer_scores_the_explainers_it_reads(model: Path) -> None:
    plan = plan_of(model)
    assert {c.key.explainer for c in plan.scores if c.key.scorer == "recall"} == {"memorization"}
    assert {c.key.explainer for c in plan.scores if c.key.scorer == "flips"} == {"counterfactual"}


def test_a_scorer_of_both_reads_the_parents_rows_beside_the_variants(model: Path) -> None:
    asked = [{"explainer": "neuron_attribution", "dataset": "relations", "n": 36, "cell_items": 18}]
    plan = plan_of(model, explainers=asked)
    rows = {v.name: tuple(c.key for c in plan.rows if c.variant is v) for v in plan.variants}
    cells = [c for c in plan.scores if c.key.scorer == "neuron_attribution"]
    assert [(c.key.variant, c.rows, c.parent_rows) for c in cells] == [
        (name, keys, rows["full"]) for name, keys in rows.items()
    ]
    assert len(rows["full"]) == 2
    assert all(c.judge is None for c in cells)
    assert not any(c.parent_rows for c in plan_of(model).scores)


def test_shards_hold_every_item_once_and_keep_groups_together(model: Path) -> None:
    plan = plan_of(model)
    for entry in plan.entries:
        ids = [item.id for shard in entry.shards for item in shard]
        assert len(ids) == len(set(ids)) == entry.config.n
        homes: dict[str, set[int]] = {}
        for number, shard in enumerate(entry.shards):
            for item in shard:
                homes.setdefault(item.group, set()).add(number)
        assert all(len(shards) == 1 for shards in homes.values())


def test_dealing_is_even_and_ignores_the_order_of_items() -> None:
    items = [Item(id=f"{g}{i}", text="", group=f"g{g}") for g in range(30) for i in range(3)]
    shards = deal(items, 4)
    assert sorted(map(len, shards)) == [21, 21, 24, 24]
    again = deal(items[::-1], 4)
    assert [{i.group for i in s} for s in shards] == [{i.group for i in s} for s in again]


def test_there_are_no_empty_shards() -> None:
    items = [Item(id=str(i), text="", group="one") for i in range(5)]
    assert [len(s) for s in deal(items, 3)] == [5]


@pytest.mark.parametrize(
    ("tables", "error", "parts"),
    [
        (
            {"explainers": [{"explainer": "counterfactual", "dataset": "relations"}]},
            ConfigError,
            ["'counterfactual'", 'dataset = "relations"', "recall", "Allowed: news, inference"],
        ),
        (
            {"explainers": [{"explainer": "memorization", "dataset": "relation"}]},
            UnknownName,
            ["unknown dataset 'relation'", "Did you mean 'relations'?", "news"],
        ),
        (
            {"explainers": [{"explainer": "memorization", "dataset": "lre", "path": "nowhere.json"}]},
            DataError,
            ["nowhere.json", "no such file"],
        ),
        (
            {"variants": [{"quantizer": "full", "execution": "dequantized"}]},
            ConfigError,
            ["variant 'full'", 'execution = "dequantized" is not possible', "dense already"],
        ),
        (
            {"variants": [VARIANTS[0], {"quantizer": "bnb", "format": "int8", "execution": "dequantized"}]},
            ConfigError,
            ["variant 'int8'", "quantizes activations", '"kernel"'],
        ),
        (
            {"variants": [VARIANTS[0], {"quantizer": "awq", "execution": "kernel"}]},
            ConfigError,
            ["variant 'awq-4'", "bfloat16 or float16", "float32", "model.dtype"],
        ),
        ({"model": {"name": "smollm2-135"}}, ModelError, ["'smollm2-135'", "Did you mean 'smollm2-135m'?"]),
        ({"model": {"name": "./nowhere"}}, ModelError, ["'./nowhere'", "no such directory"]),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_computed(
    tables: dict[str, Any], error: type[Exception], parts: list[str], model: Path
) -> None:
    with pytest.raises(error) as caught:
        plan_of(model, **tables)
    for part in parts:
        assert part in str(caught.value)


def test_a_directory_without_a_checkpoint_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected config\.json"):
        plan_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or directory. Give a UTF-8 text file"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b" \n\n", "holds no text"),
    ],
)
def test_a_calibration_file_that_cannot_be_used_is_refused(
    content: bytes | None, message: str, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        plan_of(model, calibration={"path": str(file)})
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("dataset", ["news", "inference", "relations"])
def test_a_calibration_file_that_holds_evaluated_texts_is_refused(
    dataset: str, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.txt"
    explainer = "memorization" if dataset == "relations" else "counterfactual"
    asked = [{"explainer": explainer, "dataset": dataset, "n": 54}]
    item = plan_of(model, explainers=asked).entries[0].shards[0][0]
    evaluated = {
        "news": item.text,
        "inference": item.fields.get("premise", ""),
        "relations": f"{item.fields.get('template', '').replace('{}', item.text)} {item.label}.",
    }[dataset]
    file.write_text("Something else altogether.\n\n" + evaluated.replace(" ", "\n", 1).upper())
    with pytest.raises(ConfigError, match=r"holds \d+ of the texts that will be evaluated, such as"):
        plan_of(model, explainers=asked, calibration={"path": str(file)})
    file.write_text(f"Something else altogether, say {item.fields.get('subject', '')}.")
    plan_of(model, explainers=asked, calibration={"path": str(file)})


def test_planning_and_estimating_write_nothing(model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    plan = plan_of(model)
    cost = estimate(plan, store, done(plan, store))
    assert not store.path.exists()
    assert cost.download_bytes == 0
    assert parameters(plan.model) == 12
    assert cost.seconds is not None
    assert cost.seconds > 0


def test_what_is_prepared_needs_no_memory_for_preparing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {**SHAPE, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    (model / "config.json").write_text(json.dumps(large))
    plan, store = plan_of(model), Store(tmp_path / "run")
    before = estimate(plan, store, set()).memory_bytes
    monkeypatch.setattr("quantxai.variants.Variant.prepared", True)
    after = estimate(plan, store, set()).memory_bytes
    assert before is not None
    assert after is not None
    assert after < 0.7 * before


def test_an_estimate_uses_what_was_measured(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = plan_of(model), Store(tmp_path / "run")
    finished = {c.key for c in plan.rows if c.key.variant == "full"}
    monkeypatch.setattr(Store, "meta", lambda _, key: {"seconds": 1000.0 * (key.explainer == "memorization")})
    cost = estimate(plan, store, finished)
    # 36 facts in two cells of 1000 s each, for the two variants still to do, shared by the workers.
    assert cost.seconds is not None
    assert 4000 / plan.workers < cost.seconds < 4000 / plan.workers + 100
    assert "stored" in cost.basis


def test_a_registered_model_is_estimated_without_being_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    plan = make_plan(parse_config({}))
    assert plan.model.path is None
    cost = estimate(plan, Store(tmp_path / "run"), set())
    assert not any(tmp_path.iterdir())
    assert cost.download_bytes > 90_000_000
    assert 1e9 < cost.disk_bytes < 5e9
    assert 1e9 < cost.memory_bytes < 4 * 2**30


def test_a_run_of_another_model_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    plan, store = plan_of(model), Store(tmp_path / "run")
    check_place(plan, store)
    store.write_manifest(plan.manifest(["quantxai sweep"]))
    check_place(plan, store)
    (model / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(RunError, match=r"run of another model.*--out"):
        check_place(plan_of(model), store)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_place_that_holds_something_else_is_refused(kind: str, model: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("")
    else:
        place.mkdir()
        (place / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"--out|Give an empty"):
        check_place(plan_of(model), Store(place))


def test_the_manifest_names_every_cell(model: Path) -> None:
    plan = plan_of(model)
    cells = plan.manifest(["quantxai sweep"]).cells
    assert cells == [c.key for c in plan.cells]
    assert all(isinstance(key, CellKey) for key in cells)
    assert len({key.id for key in cells}) == len(cells)


def test_a_hub_that_cannot_be_reached_is_no_defect(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_: Any, **__: Any) -> None:
        raise RuntimeError("name or service not known")  # the client's HTTP library has errors of its own

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    with pytest.raises(ModelError, match=r"'nobody/nothing'.*cannot be reached"):
        plan_of(model, model={"name": "nobody/nothing"})


def test_seeds_of_one_entry_are_replicates_of_a_method(model: Path) -> None:
    plan = plan_of(
        model,
        variants=[
            {"quantizer": "full"},
            {"quantizer": "gptq", "bits": 4, "seeds": [0, 1, 2]},
            {"quantizer": "gptq", "bits": 3, "seeds": [5, 6]},
            {"quantizer": "gptq", "bits": 4, "name": "exact", "execution": "dequantized"},
            {"quantizer": "noise", "of": "gptq-4", "seeds": [0, 1]},
        ],
    )
    assert families(plan.manifest([]).variants) == {
        "gptq-4": ["gptq-4", "gptq-4-seed-1", "gptq-4-seed-2"],
        "gptq-3": ["gptq-3", "gptq-3-seed-6"],
    }
