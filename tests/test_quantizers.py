"""What every registered quantizer promises, and one test for each error that would be silent.

All on the tiny trained model. A quantized checkpoint is made once a session (`Made`).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quantizers.awq import best_clip, best_scale  # noqa: E402
from quantizers.bnb import EXACT_WIDTH, exact_int8_matmul  # noqa: E402
from quantxai import registry  # noqa: E402
from quantxai.checkpoints import load_dense, load_tokenizer, quantized_layers, write_twin  # noqa: E402
from quantxai.datasets import calibration_texts  # noqa: E402
from quantxai.errors import ModelError  # noqa: E402
from quantxai.lm import Architecture  # noqa: E402
from quantxai.methods import Control, Quantizer  # noqa: E402
from quantxai.models import architecture  # noqa: E402

GROUP = {"group_size": 32}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "int8": ("bnb", {"format": "int8"}),
    "nf4": ("bnb", {"format": "nf4"}),
    "nf4-single": ("bnb", {"format": "nf4", "double_quantization": False}),
    "fp4": ("bnb", {"format": "fp4"}),
    "fp8": ("fp8", {}),
    "nvfp4a16": ("compressed-tensors", {}),
    "mxfp4a16": ("compressed-tensors", {"scheme": "MXFP4A16"}),
    "fp8-dynamic": ("compressed-tensors", {"scheme": "FP8_DYNAMIC"}),
    "w8a8": ("compressed-tensors", {"scheme": "W8A8"}),
    **{f"gptq-{bits}": ("gptq", {"bits": bits, **GROUP}) for bits in (2, 3, 4, 8)},
    "gptq-4 asymmetric": ("gptq", {"bits": 4, "symmetric": False, **GROUP}),
    "gptq-4 act-order": ("gptq", {"bits": 4, "act_order": True, **GROUP}),
    **{f"awq-{bits}": ("awq", {"bits": bits, **GROUP}) for bits in (4, 8)},
    **{f"rtn-{bits}": ("rtn", {"bits": bits, **GROUP}) for bits in (2, 3, 4, 8)},
    **{f"hqq-{bits}": ("hqq", {"bits": bits, **GROUP}) for bits in (2, 3, 4, 8)},
    "rtn-4 asymmetric": ("rtn", {"bits": 4, "symmetric": False, **GROUP}),
}
SEQUENCES, LENGTH = 32, 64
"""Calibration sample: enough for the tiny model, seconds for GPTQ and AWQ."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
"""Largest difference of two logits for the same numbers computed twice in this type."""


def quantizer(case: str) -> Quantizer:
    name, options = CASES[case]
    return registry.method("quantizer", name).model_validate(options)


def dtype_of(case: str) -> str:
    """The most precise type the case's kernel computes in."""
    return next(d for d in ("float32", "float16") if d in quantizer(case).kernel_dtypes)


@dataclass
class Made:
    """Quantized models of the tiny model, each made when it is first asked for."""

    parent: Path
    folder: Path
    checkpoints: dict[str, Path] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    twins: dict[str, Path] = field(default_factory=dict)

    def calibration(self) -> list[list[int]]:
        ids = load_tokenizer(self.parent)("\n\n".join(calibration_texts(0))).input_ids
        return [ids[i * LENGTH : (i + 1) * LENGTH] for i in range(SEQUENCES)]

    def source(self, case: str) -> Path:
        """What the case's `load` reads."""
        method = quantizer(case)
        if not method.writes_checkpoint:
            return self.parent
        if case not in self.checkpoints:
            out = self.folder / case
            out.mkdir()
            method.quantize(self.parent, self.calibration(), out, "cpu", "float32", lambda model: None)
            self.checkpoints[case] = out
        return self.checkpoints[case]

    def load(self, case: str) -> Any:
        """The case on its kernel, loaded anew."""
        return quantizer(case).load(self.source(case), dtype_of(case), "cpu")

    def model(self, case: str) -> Any:
        """The case on its kernel, loaded once."""
        if case not in self.models:
            self.models[case] = self.load(case)
        return self.models[case]

    def twin(self, case: str) -> Path:
        """The case's dequantized twin."""
        if case not in self.twins:
            self.twins[case] = self.folder / f"{case} twin"
            write_twin(self.model(case), self.twins[case], dtype_of(case))
        return self.twins[case]


@pytest.fixture(scope="session")
def made(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.set_num_threads(1)
    return Made(tiny_path, tmp_path_factory.mktemp("quantized"))


@pytest.fixture(scope="session")
def probe(tiny_path: Path) -> Any:
    """Token ids [1, length] of text the model was not calibrated on."""
    ids = load_tokenizer(tiny_path)("\n\n".join(calibration_texts(1))).input_ids
    return torch.tensor([ids[:160]])


def logits(model: Any, ids: Any) -> Any:
    with torch.inference_mode():
        return model(ids).logits[0].float()


@pytest.fixture(scope="session")
def error(made: Made, probe: Any) -> Callable[[str], float]:
    """Root mean squared difference of a case's logits to the parent's."""
    reference = logits(load_dense(made.parent, "float32", "cpu"), probe)
    known: dict[str, float] = {}

    def measure(case: str) -> float:
        if case not in known:
            known[case] = (logits(made.model(case), probe) - reference).pow(2).mean().sqrt().item()
        return known[case]

    return measure


# The contract


def test_every_registered_quantizer_is_tested_here() -> None:
    controls = {name for name, found in registry.methods("quantizer").items() if issubclass(found, Control)}

    elsewhere = {"checkpoint"}  # test_checkpoint has it
    assert {name for name, _ in CASES.values()} | controls | elsewhere == set(registry.names("quantizer"))
    assert controls == {"rerun", "dtype", "noise"}  # test_variants has them


@pytest.mark.parametrize("case", CASES)
def test_the_label_names_method_and_bits(case: str) -> None:
    assert quantizer(case).label == case.split()[0]


@pytest.mark.parametrize("name", registry.names("quantizer"))
def test_a_default_written_down_is_the_default_left_out(name: str) -> None:
    method = registry.method("quantizer", name)
    required = {key: "rtn-4" for key, option in method.model_fields.items() if option.is_required()}
    defaults = {key: o.default for key, o in method.model_fields.items() if key not in required} | required

    short, long = (method.model_validate(options) for options in (required, defaults))
    assert short == long
    if name != "checkpoint":  # whose digest is that of files
        assert short.digest() == long.digest()
    assert all(option.description for option in method.model_fields.values())


def test_different_options_have_different_digests() -> None:
    assert len({quantizer(case).digest() for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES)
def test_stored_bits_include_scales_and_zero_points(case: str) -> None:
    expected = {
        "full": None,
        "int8": None,
        "fp8": None,  # depends on the layer: one scale a row
        "fp8-dynamic": None,
        "w8a8": None,
        "nvfp4a16": 4 + 8 / 16,
        "mxfp4a16": 4 + 8 / 32,
        "nf4": 4 + 8 / 64 + 32 / (64 * 256),
        "fp4": 4 + 8 / 64 + 32 / (64 * 256),
        "nf4-single": 4.5,
        "gptq-4 asymmetric": 4 + 20 / 32,
        "rtn-4 asymmetric": 4 + 20 / 32,
        "awq-4": 4 + 20 / 32,
        "awq-8": 8 + 24 / 32,
    }
    method = quantizer(case)

    found = method.bits_per_weight

    assert found == expected.get(case, (method.weight_bits or 0) + 16 / 32)
    assert found is None or found > (method.weight_bits or 0)


@pytest.mark.parametrize(
    "name", [n for n in registry.names("quantizer") if n in ("gptq", "awq", "rtn", "hqq")]
)
def test_a_group_size_that_does_not_divide_is_refused_with_those_that_do(name: str, tiny_path: Path) -> None:
    shape = architecture(tiny_path)
    method = registry.method("quantizer", name)

    with pytest.raises(ModelError, match=r"group_size = 48 .* width 64 .*: 16, 32, 64\.$"):
        method.model_validate({"group_size": 48}).check(shape)
    method.model_validate({"group_size": 64}).check(shape)


def test_every_width_counts_for_the_group_size() -> None:
    shape = Architecture("made-up", {"a": 96, "b": 64}, 0, 0)

    with pytest.raises(ModelError, match=r"width 96 of layer 'a'\. .*: 16, 32\.$"):
        registry.method("quantizer", "rtn").model_validate({"group_size": 64}).check(shape)


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no torch\.nn\.Linear layers"):
        registry.method("quantizer", "gptq").model_validate({}).check(Architecture("gpt2", {}, 0, 0))


@pytest.mark.parametrize("case", CASES)
def test_it_loads_in_evaluation_mode_and_gives_finite_logits(case: str, made: Made, probe: Any) -> None:
    model = made.model(case)

    assert not model.training
    assert torch.isfinite(logits(model, probe)).all()


@pytest.mark.parametrize("case", [c for c in CASES if c != "full"])
def test_every_linear_layer_but_the_head_is_quantized(case: str, made: Made) -> None:
    model = made.model(case)

    assert set(quantized_layers(model)) == set(architecture(made.parent).linear_widths)
    assert type(model.get_output_embeddings()) is torch.nn.Linear


def test_full_quantizes_nothing(made: Made) -> None:
    assert quantized_layers(made.model("full")) == {}


WITH_TWIN = [c for c in CASES if quantizer(c).has_twin]


@pytest.mark.parametrize("case", WITH_TWIN)
def test_the_twin_is_the_same_model_with_dense_weights(case: str, made: Made, probe: Any) -> None:
    dtype = dtype_of(case)
    twin = load_dense(made.twin(case), dtype, "cpu")

    difference = (logits(twin, probe) - logits(made.model(case), probe)).abs().max().item()

    assert difference < TOLERANCE[dtype]
    assert quantized_layers(twin) == {}
    config = json.loads((made.twin(case) / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["model_type"] == "llama"
    assert set(twin.state_dict()) == set(load_dense(made.parent, dtype, "cpu").state_dict())


def test_only_what_also_rounds_activations_has_no_twin() -> None:
    assert set(CASES) - set(WITH_TWIN) == {"full", "int8", "fp8-dynamic", "w8a8"}


@pytest.mark.parametrize(
    "cases",
    [
        ("nf4", "int8"),
        ("gptq-2", "gptq-3", "gptq-4", "gptq-8"),
        ("awq-4", "awq-8"),
        ("rtn-2", "rtn-3", "rtn-4", "rtn-8"),
        ("hqq-2", "hqq-3", "hqq-4", "hqq-8"),
    ],
    ids=lambda cases: cases[0].split("-")[0],
)
def test_more_bits_bring_it_closer_to_the_parent(
    cases: tuple[str, ...], error: Callable[[str], float]
) -> None:
    errors = [error(case) for case in cases]

    assert all(more < fewer / 1.5 for fewer, more in pairwise(errors)), errors
    assert errors[-1] > 0


def test_every_option_changes_the_model(error: Callable[[str], float]) -> None:
    errors = {case: error(case) for case in CASES if case != "full"}

    assert len(set(errors.values())) == len(errors), errors


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_beats_round_to_nearest_on_the_same_grid(bits: int, error: Callable[[str], float]) -> None:
    assert error(f"gptq-{bits}") < 0.8 * error(f"rtn-{bits}")


@pytest.mark.parametrize("bits", [3, 4])
def test_fitted_scales_beat_those_of_the_largest_weight(bits: int, error: Callable[[str], float]) -> None:
    assert error(f"hqq-{bits}") < error(f"rtn-{bits}")


def test_awq_beats_round_to_nearest_on_the_same_grid(error: Callable[[str], float]) -> None:
    assert error("awq-4") < error("rtn-4 asymmetric")


# compressed-tensors: the grids, from their definitions

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def nearest(values: Any, grid: Any) -> Any:
    """Each value's nearest point of a grid that is symmetric around zero."""
    points = torch.cat([-grid.flip(0), grid])
    return points[(values.unsqueeze(-1) - points).abs().argmin(-1)]


@pytest.mark.parametrize("case", ["nvfp4a16", "mxfp4a16"])
def test_block_floating_point_is_the_nearest_point_under_the_blocks_scale(case: str, made: Made) -> None:
    name = "model.layers.0.mlp.up_proj"
    weight = load_dense(made.parent, "float32", "cpu").get_submodule(name).weight
    found = made.model(case).get_submodule(name).weight
    blocks = weight.reshape(weight.shape[0], -1, 16 if case == "nvfp4a16" else 32)
    largest = blocks.abs().amax(-1, keepdim=True)
    if case == "nvfp4a16":
        overall = 448 * 6 / weight.abs().max()
        scale = (overall * largest / 6).to(torch.float8_e4m3fn).float() / overall
    else:
        # The next power of two from 7/4 on, where the format's definition would clip to 6.
        scale = 2.0 ** ((largest * 8 / 7).log2().floor() - 2)

    rounded = (nearest(blocks / scale, E2M1) * scale).reshape(weight.shape)

    difference = (found - rounded).reshape(blocks.shape) / scale
    assert difference.abs().max() < 2.1  # a neighbour, never more: quotients near a midpoint
    assert (difference.abs() < 0.05).float().mean() > 0.99


@pytest.mark.parametrize("case", ["fp8-dynamic", "w8a8"])
def test_schemes_with_activations_round_them(case: str, made: Made, probe: Any) -> None:
    """What transformers' own `dequantize` leaves out without a word."""
    model = made.load(case)
    rounding = logits(model, probe)
    for module in model.modules():
        module.quantization_enabled = False

    assert (rounding - logits(model, probe)).abs().max() > 1e-3


@pytest.mark.parametrize("case", ["fp8-dynamic", "w8a8"])
def test_gradients_that_stop_at_rounded_activations_are_found(case: str, made: Made, probe: Any) -> None:
    from quantxai.checkpoints import dense_copy
    from quantxai.receipts import LEAST_COSINE, inspect_kernel

    model = made.load(case)

    assert inspect_kernel(model, dense_copy(model, "float32"), probe).gradient_cosine < LEAST_COSINE


# Silent error 1: gradients that skip the quantized layers


def embedding_gradient(model: Any, ids: Any) -> Any:
    """Gradient of the text's loss with respect to the input embeddings, float32."""
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    model(inputs_embeds=embeddings, labels=ids).loss.backward()
    return embeddings.grad.float().flatten()


@pytest.mark.parametrize("case", ["nf4", "fp4", "gptq-4", "gptq-8", "awq-4", "awq-8", "rtn-4", "nvfp4a16"])
def test_gradients_of_the_kernel_are_the_twins(case: str, made: Made, probe: Any) -> None:
    kernel, twin = made.model(case), load_dense(made.twin(case), dtype_of(case), "cpu")
    logits(kernel, probe)  # the first pass without gradients is what breaks them

    found, expected = embedding_gradient(kernel, probe), embedding_gradient(twin, probe)

    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) >= 0.95
    assert found.norm() == pytest.approx(expected.norm().item(), rel=0.1)


# Silent errors 1 and 2: bitsandbytes repacks its weights at the first pass


@pytest.mark.parametrize("case", ["nf4", "nf4-single", "fp4"])
def test_bitsandbytes_weights_are_packed_once(
    case: str, made: Made, probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.nn import Linear4bit

    # As on a processor that has these instructions, whatever this one has.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = made.load(case)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Linear4bit)}
    packed = {name: layer.weight.data.clone() for name, layer in layers.items()}

    logits(model, probe)

    assert len(layers) == len(architecture(made.parent).linear_widths)
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers.values())
    assert all(torch.equal(layer.weight.data, packed[name]) for name, layer in layers.items())


# Silent error 3: a loaded GPTQ checkpoint that is saved again is corrupt


def contents(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


@pytest.mark.parametrize("case", ["gptq-4", "gptq-4 asymmetric", "gptq-3", "awq-4"])
def test_a_checkpoint_is_written_once_and_reloads_to_the_same_logits(
    case: str, made: Made, probe: Any
) -> None:
    before = contents(made.source(case))

    first, second = logits(made.model(case), probe), logits(made.load(case), probe)
    made.twin(case)

    assert torch.equal(first, second)
    assert contents(made.source(case)) == before


@pytest.mark.parametrize("case", ["gptq-4", "awq-4"])
def test_the_same_calibration_gives_the_same_checkpoint(case: str, made: Made, tmp_path: Path) -> None:
    """Else a run that was killed while it quantized would not end as an undisturbed one."""
    quantizer(case).quantize(made.parent, made.calibration(), tmp_path, "cpu", "float32", lambda model: None)

    weights = [(d / "model.safetensors").read_bytes() for d in (made.source(case), tmp_path)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("case", ["gptq-4", "awq-4", "nf4"])
def test_no_quantized_model_is_ever_saved_by_transformers(
    case: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    made.source(case)
    saved: list[Any] = []
    save = PreTrainedModel.save_pretrained

    def watch(self: Any, *args: Any, **options: Any) -> None:
        saved.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", watch)
    write_twin(made.model(case), tmp_path / "twin", "float32")

    assert len(saved) == 1
    assert quantized_layers(saved[0]) == {}
    assert getattr(saved[0].config, "quantization_config", None) is None


# Silent error 4: AWQ with 8 bits in bfloat16 is worse than with 4


def test_awq_with_8_bits_is_far_better_than_with_4(error: Callable[[str], float]) -> None:
    # In bfloat16, which gptqmodel takes on its own, it is worse: 0.041 against 0.033.
    assert error("awq-8") < error("awq-4") / 4


@pytest.mark.parametrize("case", ["gptq-4", "gptq-8", "awq-4", "awq-8"])
def test_calibrated_in_a_bfloat16_sweep_it_is_as_near_to_the_parent(
    case: str, made: Made, probe: Any, error: Callable[[str], float], tmp_path: Path
) -> None:
    """What is rounded passes through the type it is calibrated in, and a grid of 256 points needs a finer one."""
    method = quantizer(case)
    read_in = method.calibration_dtype("cpu", "bfloat16")
    method.quantize(made.parent, made.calibration(), tmp_path, "cpu", read_in, lambda model: None)
    difference = logits(method.load(tmp_path, dtype_of(case), "cpu"), probe) - logits(
        made.model("full"), probe
    )

    assert difference.pow(2).mean().sqrt().item() < 1.25 * error(case)


def test_awq_with_8_bits_is_dequantized_in_float16() -> None:
    assert quantizer("awq-8").kernel_dtypes == ("float16",)
    assert "bfloat16" in quantizer("awq-4").kernel_dtypes


# Not wrong, but half a minute: gptqmodel's kernels compile themselves at the first pass


def test_gptqmodel_compiles_nothing(made: Made, probe: Any) -> None:
    from torch._dynamo.utils import counters

    counters.clear()

    logits(made.load("gptq-4"), probe)

    assert not counters["frames"]


# AWQ's replaced functions against gptqmodel's own


def awq_processor(bits: int = 4, symmetric: bool = False) -> Any:
    """gptqmodel's AWQProcessor with just what its searches read."""
    from gptqmodel.looper.awq_processor import AWQProcessor

    processor = AWQProcessor.__new__(AWQProcessor)
    processor.qcfg = SimpleNamespace(group_size=32, bits=bits, sym=symmetric)
    processor.duo_scaling = True
    processor._quant_batch_size = None
    processor.gptq_model, processor.model = SimpleNamespace(rotary_embedding=None), SimpleNamespace()
    processor._scale_context = SimpleNamespace(prev_scale=None)
    return processor


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [3, 4])
def test_the_clipping_search_is_gptqmodels(bits: int, symmetric: bool) -> None:
    torch.manual_seed(bits)
    weight = torch.randn(64, 96) * torch.rand(64, 1) ** 3
    weight[:, ::17] *= 6  # outliers, so that clipping pays
    inputs = torch.randn(3, 200, 96) * torch.linspace(0.1, 3, 96)
    processor = awq_processor(bits, symmetric)

    expected = processor._compute_best_clip(weight, inputs)
    found = best_clip(processor, weight, inputs)

    assert found.shape == expected.shape
    same = torch.isclose(found, expected, rtol=1e-5)
    assert same.float().mean() > 0.99
    # Where they differ, two bounds are as good as each other.
    assert loss_of_clip(processor, weight, inputs, found) == pytest.approx(
        loss_of_clip(processor, weight, inputs, expected), rel=1e-4
    )
    assert (expected < weight.reshape(64, -1, 32).abs().amax(-1, keepdim=True)).float().mean() > 0.1


def loss_of_clip(processor: Any, weight: Any, inputs: Any, bound: Any) -> float:
    rows = weight.reshape(weight.shape[0], -1, 32)
    clipped = rows.clamp(-bound, bound).reshape(weight.shape).contiguous()
    rounded = torch.empty_like(clipped)
    processor._pseudo_quantize_tensor_into(clipped, rounded)
    change = (rounded - weight).reshape(weight.shape[0], -1, 32)
    grouped = inputs.reshape(-1, weight.shape[1])[::1].reshape(-1, rows.shape[1], 32)
    return torch.einsum("tgi,rgi->trg", grouped, change).pow(2).mean().item()


class SideBySide(torch.nn.ModuleList):
    """Layers that read the same input, as query, key and value do."""

    def forward(self, x: Any) -> Any:
        return torch.cat([layer(x) for layer in self], -1)


def scale_problem() -> tuple[Any, ...]:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(96, 64, bias=False), torch.nn.Linear(96, 32, bias=False)]
    inputs = torch.randn(2, 50, 96) * torch.linspace(0.01, 4, 96) ** 2
    block = SideBySide(layers)
    w_mean = torch.stack([layer.weight.abs().mean(0) for layer in layers]).mean(0).detach()
    return inputs, w_mean, inputs.abs().mean((0, 1)), block, layers, block(inputs).detach()


class TrueCopies(torch.nn.Parameter):
    """A weight whose copy is one: gptqmodel's `.to(float32).cpu().contiguous()` copies nothing on a CPU."""

    def detach(self) -> Any:
        return super().detach().clone()


@pytest.mark.parametrize("previous", [None, 0.5])
def test_the_scale_search_is_gptqmodels_with_a_true_copy(previous: float | None) -> None:
    processor = awq_processor()
    processor._scale_context = SimpleNamespace(prev_scale=previous)
    inputs, w_mean, x_mean, block, layers, output = scale_problem()
    original = [layer.weight.detach().clone() for layer in layers]

    found, loss = best_scale(processor, inputs, w_mean, x_mean, block, layers, output)
    assert all(torch.equal(layer.weight, w) for layer, w in zip(layers, original, strict=True))
    for layer in layers:
        layer.weight = TrueCopies(layer.weight.data)
    with torch.no_grad():
        expected, expected_loss = processor._compute_best_scale(inputs, w_mean, x_mean, block, layers, output)

    torch.testing.assert_close(found, expected)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert found.std() > 0.01


def test_gptqmodels_own_scale_search_ruins_float32_weights_on_a_cpu() -> None:
    """The day this fails, `best_scale` is no longer needed."""
    inputs, w_mean, x_mean, block, layers, output = scale_problem()
    original = layers[0].weight.detach().clone()

    with torch.no_grad():
        awq_processor()._compute_best_scale(inputs, w_mean, x_mean, block, layers, output)

    assert not torch.equal(layers[0].weight, original)


def test_a_parent_that_is_not_finite_has_no_scale() -> None:
    inputs, w_mean, x_mean, block, layers, output = scale_problem()

    with pytest.raises(ValueError, match="not finite"):
        best_scale(awq_processor(), inputs, w_mean, x_mean, block, layers, output * torch.nan)


# int8 products in float32


@pytest.mark.parametrize("width", [1, 64, 1024, 1025, 3112])
@pytest.mark.parametrize("values", ["random", "extreme"])
def test_int8_products_are_exact(width: int, values: str) -> None:
    generator = torch.Generator().manual_seed(width)
    choices = torch.arange(-128, 128) if values == "random" else torch.tensor([-128, 127])
    a, b = (
        choices[torch.randint(len(choices), (rows, width), generator=generator)].to(torch.int8)
        for rows in (24, 16)
    )
    if values == "extreme":
        a[0], b[0] = -128, -128  # the largest sum there is
        a[1], b[1] = 127, 127  # odd products: float32 loses the last bit of long sums

    expected = a.to(torch.int64) @ b.to(torch.int64).T

    assert EXACT_WIDTH * 128 * 128 <= 2**24
    assert torch.equal(exact_int8_matmul(a, b).to(torch.int64), expected)
    if width > 1:  # with a single column, torch 2.13's own is wrong on processors with VNNI
        assert torch.equal(exact_int8_matmul(a, b), torch._int_mm(a, b.T.contiguous()))
    assert torch.equal(
        exact_int8_matmul(a.reshape(2, 12, width), b), exact_int8_matmul(a, b).reshape(2, 12, 16)
    )


def test_int8_runs_with_outlier_columns(tiny_path: Path, probe: Any) -> None:
    method = registry.method("quantizer", "bnb")
    models = [
        method.model_validate({"format": "int8", "outlier_threshold": t}).load(tiny_path, "float32", "cpu")
        for t in (0.0, 1.0)
    ]

    plain, mixed = (logits(m, probe) for m in models)

    assert torch.isfinite(mixed).all()
    assert not torch.equal(plain, mixed)


@pytest.mark.e2e
def test_the_gpu_benchmark_runs_on_a_cpu_at_toy_size(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "gpu" / "run.sh"
    tiny = [
        "--device",
        "cpu",
        "--sizes",
        "toy",
        "--dtype",
        "float32",
        "--prompt",
        "64",
        "--rows",
        "2",
        "--new",
        "4",
    ]
    done = subprocess.run(
        ["bash", str(script), *tiny, "--methods", "full", "nf4", "rtn-4", "hqq-4", "nvfp4a16", "w8a8", "--json"],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == report
    found = {r["method"]: r for r in report["results"]}
    assert not any("error" in r for r in found.values()), found
    assert found["nf4"]["gradient_cosine"] > 0.999
    assert found["rtn-4"]["gradient_cosine"] > 0.999
    assert found["nf4"]["weight_bytes"] < found["full"]["weight_bytes"]
    assert found["w8a8"]["gradient_cosine"] < 0.95
    for name, result in found.items():
        assert result["predicted_weight_bytes"] == pytest.approx(result["weight_bytes"], rel=0.15), name
    assert all(r["prefill_tokens_per_s"] > 0 and r["generation_tokens_per_s"] > 0 for r in found.values())
