"""Resolving and preparing variants: what identifies them, what is cached, what the receipt says."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quantxai import preparation, receipts, variants  # noqa: E402
from quantxai.checkpoints import load_dense, load_tokenizer, quantized_layers  # noqa: E402
from quantxai.config import parse_config  # noqa: E402
from quantxai.datasets import calibration_texts, load_dataset  # noqa: E402
from quantxai.errors import ConfigError, ModelError  # noqa: E402
from quantxai.models import resolve  # noqa: E402
from quantxai.preparation import calibration_tokens, load_variant, prepare  # noqa: E402
from quantxai.receipts import TextMeasures, measure_text, text_logits, text_tokens  # noqa: E402
from quantxai.variants import Variant  # noqa: E402

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


@pytest.mark.parametrize(
    ("sequences", "length", "remedy"),
    [(10**6, 256, r"calibration\.sequences = \d+,"), (1, 10**6, r"calibration\.length = \d+ or less")],
)
def test_a_calibration_text_that_is_too_short_is_refused(
    sequences: int, length: int, remedy: str, tiny_path: Path
) -> None:
    variant = make(tiny_path, GPTQ, calibration={"sequences": sequences, "length": length})[1]

    with pytest.raises(ConfigError, match=f"built-in text has only .* tokens. Set {remedy}"):
        calibration_tokens(variant, tiny_path)


def test_ones_own_calibration_text_is_taken(tiny_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("\n\n".join(f"The town of number {i} lies by the sea." for i in range(60)))
    settings = {"sequences": 4, "length": 32}
    variant = make(tiny_path, GPTQ, calibration={**settings, "path": str(file)})[1]
    tokenizer = load_tokenizer(tiny_path)

    tokens = calibration_tokens(variant, tiny_path)

    assert [len(t) for t in tokens] == [32] * 4
    assert "lies by the sea" in tokenizer.decode(tokens[0])
    assert variant.weights_digest != make(tiny_path, GPTQ, calibration=settings)[1].weights_digest
    digest = variant.weights_digest
    moved = file.rename(tmp_path / "moved.txt")
    assert make(tiny_path, GPTQ, calibration={**settings, "path": str(moved)})[1].weights_digest == digest


@pytest.mark.parametrize("dataset", ["news", "inference", "relations"])
def test_no_evaluated_item_is_calibrated_on(dataset: str, tiny_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_path)
    available = len(tokenizer("\n\n".join(calibration_texts(0))).input_ids) // 16
    everything = make(tiny_path, GPTQ, calibration={"sequences": available, "length": 16})[1]
    text = tokenizer.decode([t for s in calibration_tokens(everything, tiny_path) for t in s])
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

    for work in ("dense_copy", "load_dense"):
        monkeypatch.setattr(preparation, work, refuse)

    assert prepare(one(tiny_path, **RTN), tiny_path, silent) == first
    renamed = prepare(one(tiny_path, **RTN, name="control"), tiny_path, silent)
    assert renamed == {**first, "variant": "control"}


def test_the_kernel_and_its_twin_are_two_ways_to_run_the_same_weights(tiny_path: Path) -> None:
    twin = one(tiny_path, **RTN)
    kernel = one(tiny_path, **RTN, execution="kernel", name="on its kernel")
    found = prepare(twin, tiny_path, silent), prepare(kernel, tiny_path, silent)

    assert twin.folder == kernel.folder
    assert found[0]["perplexity"] == pytest.approx(found[1]["perplexity"], rel=1e-5)
    assert found[1]["kernel"] == found[0]["kernel"] == "Linear"
    assert len(quantized_layers(load_variant(kernel, tiny_path))) == found[1]["quantized_layers"] == 14


@pytest.mark.parametrize("step", ["dense_copy", "load_variant"])
def test_a_preparation_that_was_killed_is_finished_by_the_next(
    step: str, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(one(tiny_path, **RTN), tiny_path, silent)
    shutil.rmtree(one(tiny_path, **RTN).folder)
    with monkeypatch.context() as patched:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(preparation, step, killed)
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
    monkeypatch.setattr(receipts, "measure_text", lambda *_: measures(perplexity=next(values)))

    receipt = prepare(one(tiny_path, **GPTQ), tiny_path, silent)

    assert len(receipt["warnings"]) == 1
    assert "gptq (perplexity 105.0) does not beat round-to-nearest" in receipt["warnings"][0]


def test_a_broken_variant_says_so(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "measure_text", lambda *_: measures(perplexity=None))

    receipt = prepare(one(tiny_path, **RTN), tiny_path, silent)

    assert receipt["perplexity"] is None
    assert receipt["fault"] == "its logits are not finite"
    assert receipt["warnings"][0] == "broken: its logits are not finite"
    json.dumps(receipt, allow_nan=False)


def test_a_damaged_twin_is_a_model_error_that_says_what_to_do(tiny_path: Path) -> None:
    variant = one(tiny_path, **RTN)
    prepare(variant, tiny_path, silent)
    assert variant.twin is not None
    weights = variant.twin / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ModelError, match=r"cannot be loaded: .*remove that folder"):
        load_variant(variant, tiny_path)


@pytest.mark.parametrize("which", ["twin", "checkpoint"])
def test_a_tampered_file_in_the_cache_is_refused(which: str, tiny_path: Path) -> None:
    kernel = {"quantizer": "compressed-tensors", "execution": "kernel"}
    variant = one(tiny_path, **(kernel if which == "checkpoint" else RTN))
    prepare(variant, tiny_path, silent)
    folder = variant.twin or variant.checkpoint
    assert folder is not None
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    weights.write_bytes(content)

    with pytest.raises(ModelError, match=r"are not those that were written and tested\. Remove") as caught:
        prepare(variant, tiny_path, silent)
    assert str(variant.folder) in str(caught.value)


# Text measures


def measures(**changes: Any) -> TextMeasures:
    plain = {"perplexity": 70.0, "parent_perplexity": 68.0, "kl": 0.1, "top1_agreement": 0.9}
    return TextMeasures.model_validate({**plain, **changes})


def test_perplexity_is_exp_of_the_mean_loss_in_nats(tiny_path: Path) -> None:
    model, tokenizer = load_dense(tiny_path, "float32", "cpu"), load_tokenizer(tiny_path)
    text = "\n\n".join(item.text for item in load_dataset("news").items)
    ids = tokenizer(text).input_ids[: receipts.TEXT_TOKENS]
    assert text_tokens(tokenizer) == ids
    assert len(ids) == receipts.TEXT_TOKENS
    with torch.inference_mode():
        windows = [torch.tensor([ids[i : i + 512]]) for i in range(0, len(ids), 512)]
        losses = [model(w, labels=w).loss.item() for w in windows]

    found = measure_text(text_logits(model, ids), None, ids)

    assert found.perplexity == pytest.approx(math.exp(sum(losses) / 4), rel=1e-4)
    assert found.perplexity is not None
    assert 20 < found.perplexity < 800  # it has learned: uniform would be the vocabulary's size
    assert (found.kl, found.top1_agreement, found.parent_perplexity) == (0.0, 1.0, found.perplexity)


def test_kl_and_agreement_are_those_of_scipy_and_numpy(tiny_path: Path) -> None:
    import numpy as np
    from scipy.stats import entropy

    parent, tokenizer = load_dense(tiny_path, "float32", "cpu"), load_tokenizer(tiny_path)
    other = one(tiny_path, **RTN, execution="kernel").quantizer.load(tiny_path, "float32", "cpu")
    ids = text_tokens(tokenizer)[:700]
    expected = {"kl": [], "same": []}
    for window in (ids[:512], ids[512:]):
        with torch.inference_mode():
            p, q = (
                m(torch.tensor([window])).logits[0, :-1].softmax(-1).double().numpy() for m in (parent, other)
            )
        expected["kl"] += list(entropy(p, q, axis=1))
        expected["same"] += list(p.argmax(1) == q.argmax(1))

    said = {model: list(text_logits(model, ids)) for model in (other, parent)}
    found = measure_text(said[other], said[parent], ids)

    assert found.kl == pytest.approx(np.mean(expected["kl"]), rel=1e-3)
    assert found.top1_agreement == pytest.approx(np.mean(expected["same"]), abs=1e-9)
    assert found.kl is not None
    assert found.kl > 1e-4
    assert measure_text(said[parent], said[other], ids).kl != pytest.approx(found.kl, rel=1e-3), (
        "it has a direction"
    )


# The sanity gate


@pytest.mark.parametrize(
    ("changes", "texts", "reason"),
    [
        ({}, ["A plain text of more than eight words in all."], None),
        ({}, ["the " * 20, "A plain text."], None),
        ({"perplexity": 6700.0}, [], None),
        ({"perplexity": 6900.0}, [], "more than 100 times the parent's 68"),
        ({"perplexity": None}, [], "not finite"),
        ({"kl": None}, [], "not finite"),
        ({}, ["the " * 20, "of, of, " * 10], "only repeats itself: 'the the"),
        ({}, ["", ""], "only repeats itself: ''"),
        ({}, ["!!!!!!!!!!!!!!!!!!"], "only repeats itself"),
    ],
)
def test_the_sanity_gate(changes: dict[str, Any], texts: list[str], reason: str | None) -> None:
    found = receipts.fault(measures(**changes), texts, ["A parent that writes well."])

    assert (found is None) == (reason is None)
    if reason:
        assert reason in str(found)


def test_a_variant_that_repeats_itself_no_more_than_its_parent_is_not_broken() -> None:
    assert receipts.fault(measures(), ["the " * 20], ["a " * 20]) is None
    assert receipts.fault(measures(), ["the " * 20], ["a " * 20, "A plain text."]) is not None


# Layers


def test_the_receipt_describes_every_quantized_layer(tiny_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    variant = one(tiny_path, **RTN)
    receipt = prepare(variant, tiny_path, silent)

    twin = AutoModelForCausalLM.from_pretrained(variant.twin).state_dict()
    parent = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).state_dict()
    errors = {
        n: (twin[f"{n}.weight"] - parent[f"{n}.weight"]).norm().item()
        for n in (x["name"] for x in receipt["layers"])
    }
    norms = {n: parent[f"{n}.weight"].norm().item() for n in errors}
    assert len(errors) == receipt["quantized_layers"] == sum(receipt["kernels"].values()) == 14
    for layer in receipt["layers"]:
        assert layer["error_norm"] == pytest.approx(errors[layer["name"]], rel=1e-4)
        assert layer["relative_error"] == pytest.approx(
            errors[layer["name"]] / norms[layer["name"]], abs=2e-5
        )
        assert layer["bits_per_weight"] == 4.5
        assert tuple(layer["shape"]) == tuple(parent[f"{layer['name']}.weight"].shape)
    total = math.sqrt(sum(e**2 for e in errors.values()) / sum(n**2 for n in norms.values()))
    assert receipt["relative_error"] == pytest.approx(total, abs=2e-5)
    quantized = sum(parent[f"{n}.weight"].numel() for n in errors)
    everything = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_path).parameters())
    assert receipt["bits_per_parameter"] == pytest.approx(
        (4.5 * quantized + 16 * (everything - quantized)) / everything, abs=1e-3
    )
    assert set(receipt["bits_per_weight_by_type"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert "model.embed_tokens.weight" in receipt["left_out"]
    assert "model.layers.*.input_layernorm.weight" in receipt["left_out"]
    assert not any("q_proj" in name for name in receipt["left_out"])
    assert receipt["gradient_cosine"] > 0.999
    assert 0 < receipt["kl"] < 1
    assert 0.3 < receipt["top1_agreement"] < 1


def test_the_error_of_a_rescaled_layer_is_measured_in_the_parents_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 128, generator=generator)
    error = 0.05 * torch.randn(96, 128, generator=generator)
    rows = torch.rand(96, 1, generator=generator) + 0.5
    columns = torch.rand(1, 128, generator=generator) * 3 + 0.2

    moved = rows * (weight + error) * columns

    assert receipts.weight_error(moved, weight, True) == pytest.approx(error.norm().item(), rel=0.03)
    assert receipts.weight_error(moved, weight, False) > 10 * error.norm().item()
    assert receipts.weight_error(weight + error, weight, False) == pytest.approx(
        error.norm().item(), rel=1e-5
    )


def test_gradients_that_skip_layers_are_noticed(tiny_path: Path) -> None:
    """A kernel that cuts the gradient, as some do silently, has a finite gradient that points elsewhere."""
    from quantxai.checkpoints import dense_copy

    ids = torch.tensor([text_tokens(load_tokenizer(tiny_path))[:24]])
    model = one(tiny_path, **RTN, execution="kernel").quantizer.load(tiny_path, "float32", "cpu")
    dense = dense_copy(model, "float32")
    assert receipts.inspect_kernel(model, dense, ids).gradient_cosine == pytest.approx(1, abs=1e-3)
    for layer in model.model.layers:
        for module in (layer.mlp, layer.self_attn.o_proj):
            forward = module.forward
            module.forward = lambda x, forward=forward: forward(x.detach())

    found = receipts.inspect_kernel(model, dense, ids)

    assert found.largest_logit_difference_to_kernel is not None
    assert found.largest_logit_difference_to_kernel < 1e-3
    assert found.gradient_cosine is not None
    assert found.gradient_cosine < receipts.LEAST_COSINE


def test_a_checkpoint_that_computes_something_else_is_refused(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = one(tiny_path, **GPTQ)
    quantize = type(variant.quantizer).quantize

    def tampering(self: Any, parent: Path, calibration: Any, out: Path, *rest: Any) -> None:
        from safetensors.torch import load_file, save_file

        quantize(self, parent, calibration, out, *rest)
        (file,) = out.glob("*.safetensors")
        tensors = load_file(file)
        name = next(n for n in tensors if n.endswith("mlp.down_proj.scales"))
        save_file({**tensors, name: -3 * tensors[name]}, file, metadata={"format": "pt"})

    monkeypatch.setattr(type(variant.quantizer), "quantize", tampering)
    with pytest.raises(
        ModelError, match="loaded again it gives other logits than the model that was written"
    ):
        prepare(variant, tiny_path, silent)

    assert not variant.prepared
    assert variant.checkpoint is not None
    assert not variant.checkpoint.exists(), "nothing wrong is left in the cache"


# Controls


def test_noise_is_as_large_as_the_error_it_stands_beside(tiny_path: Path) -> None:
    _, rtn, noise = make(tiny_path, RTN, {"quantizer": "noise", "of": "rtn-4"})
    receipt = prepare(noise, tiny_path, silent)

    assert (noise.name, noise.of) == ("noise-rtn-4", rtn)
    made, parent = load_variant(noise, tiny_path), load_dense(tiny_path, "float32", "cpu")
    for layer in prepare(rtn, tiny_path, silent)["layers"]:
        change = (
            made.get_submodule(layer["name"]).weight - parent.get_submodule(layer["name"]).weight
        ).detach()
        assert change.norm().item() == pytest.approx(layer["error_norm"], rel=1e-3)
        assert change.mean().abs().item() < 4 * change.std().item() / math.sqrt(change.numel())
        kurtosis = (change / change.std()).pow(4).mean().item()
        assert kurtosis == pytest.approx(3, abs=0.3), "Gaussian, not rounding's uniform"
    embedding = (made.get_input_embeddings().weight - parent.get_input_embeddings().weight).abs().max().item()
    assert embedding == 0
    assert receipt["kl"] > 0
    assert receipt["quantized_layers"] == 0


def test_noise_depends_on_its_seed_and_on_what_it_is_matched_to(tiny_path: Path) -> None:
    eight = {"quantizer": "rtn", "bits": 8, "group_size": 32}
    entry = {"quantizer": "noise", "of": "rtn-4"}
    found = make(
        tiny_path, RTN, eight, entry, {**entry, "seed": 1, "name": "b"}, {**entry, "of": "rtn-8", "name": "c"}
    )

    assert len({v.weights_digest for v in found}) == 6


def test_a_control_of_nothing_is_refused(tiny_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"of = \"rtn-5\" is no quantized variant.*Did you mean 'rtn-4'\?"):
        make(tiny_path, RTN, {"quantizer": "noise", "of": "rtn-5"})
    with pytest.raises(ConfigError, match="is no quantized variant"):
        make(tiny_path, {"quantizer": "noise", "of": "full"})


def test_a_rerun_changes_nothing_and_another_type_a_little(tiny_path: Path) -> None:
    _, rerun, dtype = make(tiny_path, {"quantizer": "rerun"}, {"quantizer": "dtype"})

    same, other = (prepare(v, tiny_path, silent) for v in (rerun, dtype))

    assert (rerun.dtype, dtype.dtype) == ("float32", "bfloat16")
    assert (same["kl"], same["top1_agreement"]) == (0.0, 1.0)
    assert 0 < other["kl"] < 0.01
    assert make(tiny_path, {"quantizer": "dtype"}, dtype="bfloat16")[1].dtype == "float32"


def test_seeds_make_a_variant_each(tiny_path: Path) -> None:
    found = make(tiny_path, {**GPTQ, "seeds": [3, 1, 2]})[1:]

    assert [(v.name, v.config.seed) for v in found] == [
        ("gptq-4", 3),
        ("gptq-4-seed-1", 1),
        ("gptq-4-seed-2", 2),
    ]
    assert len({v.weights_digest for v in found}) == 3


def test_another_seed_is_another_sample_and_does_as_well(tiny_path: Path) -> None:
    first, second = (prepare(v, tiny_path, silent) for v in make(tiny_path, {**GPTQ, "seeds": [0, 1]})[1:])

    assert first["calibration_digest"] != second["calibration_digest"]
    assert first["files_digest"] != second["files_digest"]
    assert second["perplexity"] == pytest.approx(first["perplexity"], rel=0.1)


def test_weights_that_were_calibrated_in_another_float_type_are_others(tiny_path: Path) -> None:
    for entry, depends in ((GPTQ, True), ({**GPTQ, "bits": 3}, False), (RTN, False)):
        digests = {one(tiny_path, dtype, **entry).weights_digest for dtype in ("float32", "bfloat16")}
        assert (len(digests) == 2) == depends


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**GPTQ, "seeds": []}, "seeds must be a list of different whole numbers"),
        ({**GPTQ, "seeds": [0, 0]}, "seeds must be a list of different whole numbers"),
        ({**GPTQ, "seeds": [0, 1], "seed": 1}, "in place of seed"),
        ({**RTN, "seeds": [0, 1]}, "'rtn' has nothing random"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(tiny_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(tiny_path, entry)
