"""Resolving and preparing variants: what identifies them, what is cached, what the receipt says."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quantxai import variants  # noqa: E402
from quantxai.checkpoints import load_dense, load_tokenizer, quantized_layers  # noqa: E402
from quantxai.config import parse_config  # noqa: E402
from quantxai.datasets import load_dataset  # noqa: E402
from quantxai.errors import ConfigError, ModelError  # noqa: E402
from quantxai.models import resolve  # noqa: E402
from quantxai.variants import Variant, calibration_tokens, load_variant, perplexity, prepare  # noqa: E402

CALIBRATION = {"sequences": 8, "length": 64}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    return tmp_path / "cache"


def make(
    parent: Path, *entries: dict[str, Any], dtype: str = "float32", calibration: dict[str, int] = CALIBRATION
) -> list[Variant]:
    """Resolve variants of a model beside its full one, which comes first."""
    table = {
        "model": {"name": str(parent), "dtype": dtype, "device": "cpu"},
        "calibration": calibration,
        "variants": [{"quantizer": "full"}, *entries],
        "explainers": [{"explainer": "memorization", "dataset": "relations"}],
    }
    return variants.resolve_variants(parse_config(table), resolve(str(parent)))


def one(parent: Path, dtype: str = "float32", **entry: Any) -> Variant:
    return make(parent, entry, dtype=dtype)[1]


RTN = {"quantizer": "rtn", "group_size": 32}
GPTQ = {"quantizer": "gptq", "bits": 4, "group_size": 32}


def silent(_: str) -> None:
    """Report nothing."""


# How a variant is run


def test_weight_only_variants_run_dequantized_on_a_cpu(tiny_path: Path) -> None:
    found = make(tiny_path, RTN, {"quantizer": "bnb", "format": "int8"}, {"quantizer": "awq"}, GPTQ)

    assert {v.name: v.execution for v in found} == {
        "full": "kernel",
        "rtn-4": "dequantized",
        "int8": "kernel",
        "awq-4": "dequantized",
        "gptq-4": "dequantized",
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"quantizer": "bnb", "format": "int8", "execution": "dequantized"}, "it also quantizes activations"),
        ({"quantizer": "full", "name": "again", "execution": "dequantized"}, "dense already"),
        ({"quantizer": "awq", "execution": "kernel"}, "bfloat16 or float16, not in float32"),
        ({"quantizer": "awq", "bits": 8, "execution": "kernel"}, "in float16, not in float32"),
    ],
)
def test_an_execution_that_the_method_does_not_have_is_refused(
    tiny_path: Path, entry: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        one(tiny_path, **entry)


def test_awq_with_8_bits_is_not_computed_in_bfloat16(tiny_path: Path) -> None:
    with pytest.raises(ConfigError, match="in float16, not in bfloat16"):
        one(tiny_path, "bfloat16", quantizer="awq", bits=8, execution="kernel")
    assert one(tiny_path, "bfloat16", quantizer="awq", bits=8).execution == "dequantized"


def test_full_can_be_had_in_another_type_beside_the_sweeps(tiny_path: Path) -> None:
    plain, half = make(tiny_path, {"quantizer": "full", "dtype": "bfloat16"})

    assert (plain.dtype, half.dtype) == ("float32", "bfloat16")
    assert half.name == "full-bfloat16"
    assert plain.digest != half.digest


# What identifies it


def test_a_default_written_down_changes_no_digest(tiny_path: Path) -> None:
    short = one(tiny_path, quantizer="rtn")
    long = one(tiny_path, quantizer="rtn", bits=4, group_size=64, symmetric=True, execution="auto", seed=0)

    assert (short.weights_digest, short.digest) == (long.weights_digest, long.digest)


def test_the_calibration_is_part_of_what_it_calibrates(tiny_path: Path) -> None:
    more = {"sequences": 9, "length": 64}
    for entry, depends in ((GPTQ, True), (RTN, False)):
        plain = one(tiny_path, **entry).weights_digest
        assert (one(tiny_path, **entry, seed=1).weights_digest != plain) == depends
        assert (make(tiny_path, entry, calibration=more)[1].weights_digest != plain) == depends


def test_the_parents_weights_are_part_of_every_variant(tiny_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_path, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))

    assert one(other, **RTN).weights_digest != one(tiny_path, **RTN).weights_digest


def test_how_it_is_run_is_part_of_the_outputs_but_not_of_the_weights(tiny_path: Path) -> None:
    runs = [
        one(tiny_path, **RTN),
        one(tiny_path, "bfloat16", **RTN),
        one(tiny_path, **RTN, execution="kernel"),
    ]

    assert len({v.digest for v in runs}) == 3
    assert len({v.weights_digest for v in runs}) == 1


# Calibration


def test_the_seed_decides_the_calibration_tokens(tiny_path: Path) -> None:
    first, again, other = (
        calibration_tokens(one(tiny_path, **GPTQ, seed=seed), tiny_path) for seed in (0, 0, 1)
    )

    assert first == again
    assert first != other
    assert {len(s) for s in first} == {64}
    assert len(first) == len(other) == 8


def test_calibration_takes_what_there_is_and_refuses_what_there_is_not(tiny_path: Path) -> None:
    many = make(tiny_path, GPTQ, calibration={"sequences": 10**6, "length": 256})[1]
    long = make(tiny_path, GPTQ, calibration={"sequences": 1, "length": 10**6})[1]

    assert 50 < len(calibration_tokens(many, tiny_path)) < 10**4
    with pytest.raises(ConfigError, match=r"calibration\.length = 1000000: .* only \d+ tokens"):
        calibration_tokens(long, tiny_path)


@pytest.mark.parametrize("dataset", ["news", "inference", "relations"])
def test_no_evaluated_item_is_calibrated_on(dataset: str, tiny_path: Path) -> None:
    everything = make(tiny_path, GPTQ, calibration={"sequences": 10**6, "length": 16})[1]
    tokens = [t for s in calibration_tokens(everything, tiny_path) for t in s]
    text = load_tokenizer(tiny_path).decode(tokens)
    data = load_dataset(dataset)

    for item in (*data.items, *data.demonstrations):
        fact = item.fields.get("template", "{}").replace("{}", item.text)
        assert (f"{fact} {item.label}" if "template" in item.fields else item.text) not in text


# Preparing


def test_a_prepared_variant_has_a_twin_and_a_receipt(tiny_path: Path) -> None:
    variant, lines = one(tiny_path, **RTN, bits=8), list[str]()
    assert not variant.prepared

    receipt = prepare(variant, tiny_path, lines.append)

    assert variant.prepared
    assert len(lines) == 2
    expected = {
        "variant": "rtn-8",
        "method": "rtn",
        "options": {"bits": 8, "group_size": 32, "symmetric": True},
        "weight_bits": 8,
        "bits_per_weight": 8.5,
        "execution": "dequantized",
        "dtype": "float32",
        "device": "cpu",
        "kernel": "Linear",
        "kernel_dtype": "float32",
        "quantized_layers": 14,
        "weights_digest": variant.weights_digest,
        "warnings": [],
    }
    assert expected.items() <= receipt.items()
    assert 0 <= receipt["largest_logit_difference_to_kernel"] < 1e-4
    assert 0.4 < receipt["quantized_share"] < 0.8
    assert receipt["versions"]["torch"]
    assert not quantized_layers(load_variant(variant, tiny_path))


def test_what_is_prepared_is_not_made_again(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(one(tiny_path, **RTN), tiny_path, silent)

    def refuse(*_: Any) -> None:
        raise AssertionError("made again")

    for work in ("perplexity", "write_twin", "load_dense"):
        monkeypatch.setattr(variants, work, refuse)

    assert prepare(one(tiny_path, **RTN), tiny_path, silent) == first
    renamed = prepare(one(tiny_path, **RTN, name="control"), tiny_path, silent)
    assert renamed == {**first, "variant": "control"}


def test_the_kernel_and_its_twin_are_two_ways_to_run_the_same_weights(tiny_path: Path) -> None:
    twin = one(tiny_path, **RTN)
    kernel = one(tiny_path, **RTN, execution="kernel", name="on its kernel")
    receipts = prepare(twin, tiny_path, silent), prepare(kernel, tiny_path, silent)

    assert twin.folder == kernel.folder
    assert receipts[0]["perplexity"] == pytest.approx(receipts[1]["perplexity"], rel=1e-5)
    assert "largest_logit_difference_to_kernel" not in receipts[1]
    assert len(quantized_layers(load_variant(kernel, tiny_path))) == receipts[1]["quantized_layers"] == 14


@pytest.mark.parametrize("step", ["write_twin", "perplexity"])
def test_a_preparation_that_was_killed_is_finished_by_the_next(
    step: str, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(one(tiny_path, **RTN), tiny_path, silent)
    shutil.rmtree(one(tiny_path, **RTN).folder)
    with monkeypatch.context() as patched:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(variants, step, killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(one(tiny_path, **RTN), tiny_path, silent)
    leftover = one(tiny_path, **RTN).folder / ".making-abc"
    leftover.mkdir()
    assert not one(tiny_path, **RTN).prepared

    finished = prepare(one(tiny_path, **RTN), tiny_path, silent)

    changing = {"peak_memory_mb"}
    assert {k: v for k, v in finished.items() if k not in changing} == {
        k: v for k, v in whole.items() if k not in changing
    }
    assert not leftover.exists()


def test_a_calibrated_variant_says_what_with_and_whether_it_helped(tiny_path: Path) -> None:
    variant = one(tiny_path, **GPTQ)

    receipt = prepare(variant, tiny_path, silent)

    tokens = calibration_tokens(variant, tiny_path)
    assert receipt["calibration_digest"] == variants.digest(tokens)
    assert (receipt["calibration_tokens"], receipt["calibration_seed"]) == (512, 0)
    assert receipt["quantization_seconds"] >= 0
    assert receipt["kernel"] == "TorchLinear"
    rounding = prepare(one(tiny_path, quantizer="rtn", group_size=32), tiny_path, silent)
    assert receipt["rtn_same_grid_perplexity"] == pytest.approx(rounding["perplexity"], rel=1e-4)
    beaten = receipt["perplexity"] < receipt["rtn_same_grid_perplexity"]
    assert bool(receipt["warnings"]) != beaten


def test_a_calibration_that_did_not_help_is_a_warning(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([105.0, 100.0])
    monkeypatch.setattr(variants, "perplexity", lambda *_: next(values))

    receipt = prepare(one(tiny_path, **GPTQ), tiny_path, silent)

    assert len(receipt["warnings"]) == 1
    assert "gptq (perplexity 105.0) does not beat round-to-nearest" in receipt["warnings"][0]


def test_a_broken_variant_says_so(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "perplexity", lambda *_: math.inf)

    receipt = prepare(one(tiny_path, **RTN), tiny_path, silent)

    assert receipt["perplexity"] is None
    assert "the variant is broken" in receipt["warnings"][0]
    json.dumps(receipt, allow_nan=False)


def test_a_damaged_twin_is_a_model_error_that_says_what_to_do(tiny_path: Path) -> None:
    variant = one(tiny_path, **RTN)
    prepare(variant, tiny_path, silent)
    assert variant.twin is not None
    weights = variant.twin / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ModelError, match=r"cannot be loaded: .*remove that folder"):
        load_variant(variant, tiny_path)


# Perplexity


def test_perplexity_is_exp_of_the_mean_loss_in_nats(tiny_path: Path) -> None:
    model, tokenizer = load_dense(tiny_path, "float32", "cpu"), load_tokenizer(tiny_path)
    text = "\n\n".join(item.text for item in load_dataset("news").items)
    ids = tokenizer(text).input_ids[: variants.PERPLEXITY_TOKENS]
    assert len(ids) == variants.PERPLEXITY_TOKENS
    with torch.inference_mode():
        windows = [torch.tensor([ids[i : i + 512]]) for i in range(0, len(ids), 512)]
        losses = [model(w, labels=w).loss.item() for w in windows]

    assert perplexity(model, tokenizer) == pytest.approx(math.exp(sum(losses) / 4), rel=1e-4)
    assert 20 < perplexity(model, tokenizer) < 800  # it has learned: uniform would be the vocabulary's size
