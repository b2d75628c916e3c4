"""Quantized checkpoints made elsewhere: every layout is read, and what cannot be trusted is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quantizers.checkpoint import Checkpoint  # noqa: E402
from quantxai import registry  # noqa: E402
from quantxai.checkpoints import load_dense, load_tokenizer, tensor_shapes  # noqa: E402
from quantxai.config import parse_config  # noqa: E402
from quantxai.datasets import calibration_texts  # noqa: E402
from quantxai.errors import ModelError  # noqa: E402
from quantxai.models import resolve  # noqa: E402
from quantxai.preparation import load_variant, prepare  # noqa: E402
from quantxai.variants import Variant, resolve_variants  # noqa: E402


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


FOUR_BITS = {"bits": 4, "group_size": 32}


def gptq(parent: Path, out: Path) -> None:
    quantize("gptq", parent, out, **FOUR_BITS)


def gptq_v2(parent: Path, out: Path) -> None:
    """The second layout stores zero points as they are."""
    from unittest.mock import patch

    from quantizers.gptqmodel_support import import_gptqmodel

    original = import_gptqmodel().QuantizeConfig
    with patch.object(import_gptqmodel(), "QuantizeConfig", lambda **k: original(**k, format="gptq_v2")):
        quantize("gptq", parent, out, **FOUR_BITS)


def awq(parent: Path, out: Path) -> None:
    quantize("awq", parent, out, **FOUR_BITS)


def nf4(parent: Path, out: Path) -> None:
    save("nf4", parent, out)


def int8(parent: Path, out: Path) -> None:
    save("int8", parent, out)


def nvfp4(parent: Path, out: Path) -> None:
    quantize("compressed-tensors", parent, out, scheme="NVFP4A16")


def w8a8(parent: Path, out: Path) -> None:
    quantize("compressed-tensors", parent, out, scheme="W8A8")


def packed(parent: Path, out: Path) -> None:
    """4-bit integers in groups, as llm-compressor publishes most of its checkpoints."""
    from unittest.mock import patch

    from quantizers import compressed

    preset = compressed.preset

    def in_groups_of_32(scheme: str) -> Any:
        made = preset("W4A16")
        made.weights.group_size = 32
        return made

    with patch.object(compressed, "preset", in_groups_of_32):
        quantize("compressed-tensors", parent, out)


def quantize(method: str, parent: Path, out: Path, **options: Any) -> None:
    ids = load_tokenizer(parent)("\n\n".join(calibration_texts(0))).input_ids
    out.mkdir()
    made = registry.method("quantizer", method).model_validate(options)
    made.quantize(
        parent, [ids[i * 64 : (i + 1) * 64] for i in range(8)], out, "cpu", "float32", lambda model: None
    )


def save(format: str, parent: Path, out: Path) -> None:
    registry.method("quantizer", "bnb").model_validate({"format": format}).load(
        parent, "float32", "cpu"
    ).save_pretrained(out)


ROWS, WEIGHTS = 64 + 2 * 32 + 64 + 2 * 128 + 64, 64 * (64 + 2 * 32 + 64 + 2 * 128) + 128 * 64
"""Of one block of the tiny model."""
LAYOUTS: dict[str, tuple[Callable[[Path, Path], None], int, float]] = {
    "gptq": (gptq, 4, 4 + 16 / 32),
    "gptq v2": (gptq_v2, 4, 4 + 16 / 32),
    "awq": (awq, 4, 4 + 20 / 32),
    "nf4": (nf4, 4, 4 + 8 / 64 + 32 / (64 * 256)),
    "int8": (int8, 8, 8 + 32 * ROWS / WEIGHTS),
    "nvfp4": (nvfp4, 4, 4 + 8 / 16),
    "w8a8": (w8a8, 8, 8 + 16 * ROWS / WEIGHTS),
    "packed": (packed, 4, 4 + 16 / 32),
}
"""How each is written, its bits, and its bits per weight with scales and zero points."""


@pytest.fixture(scope="module")
def written(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints by layout, each written when first asked for."""
    base = tmp_path_factory.mktemp("elsewhere")

    def get(layout: str) -> Path:
        out = base / layout.replace(" ", "-")
        if not out.exists():
            LAYOUTS[layout][0](tiny_path, out)
        return out

    return get


def variant_of(parent: Path, path: Path) -> Variant:
    table = {
        "model": {"name": str(parent), "dtype": "float32", "device": "cpu"},
        "variants": [{"quantizer": "full"}, {"quantizer": "checkpoint", "path": str(path)}],
        "explainers": [{"explainer": "memorization", "dataset": "relations"}],
    }
    return resolve_variants(parse_config(table), resolve(str(parent)))[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_a_variant(layout: str, tiny_path: Path, written: Callable[[str], Path]) -> None:
    variant = variant_of(tiny_path, written(layout))
    lines: list[str] = []

    receipt = prepare(variant, tiny_path, lines.append)

    assert receipt["weight_bits"] == LAYOUTS[layout][1]
    assert receipt["quantized_layers"] == 14
    assert receipt["bits_per_weight"] == pytest.approx(LAYOUTS[layout][2], abs=1e-3)
    assert 0.001 < receipt["relative_error"] < 0.2
    assert (receipt["gradient_cosine"] > 0.95) == (layout != "w8a8")
    assert 0 < receipt["kl"] < 0.5
    assert receipt["warnings"] == []
    assert receipt["checkpoint_bytes"] == sum(f.stat().st_size for f in written(layout).glob("*.safetensors"))
    ids = torch.tensor([load_tokenizer(tiny_path)("The capital of France is Paris.").input_ids])
    with torch.inference_mode():
        change = (
            load_variant(variant, tiny_path)(ids).logits - load_dense(tiny_path, "float32", "cpu")(ids).logits
        )
    assert 0 < change.abs().max() < 3


def test_both_gptq_layouts_hold_the_same_weights(tiny_path: Path, written: Callable[[str], Path]) -> None:
    zeros = []
    models = []
    for layout in ("gptq", "gptq v2"):
        from safetensors.torch import load_file

        (file,) = written(layout).glob("*.safetensors")
        zeros.append(next(t for n, t in sorted(load_file(file).items()) if n.endswith("qzeros")))
        variant = variant_of(tiny_path, written(layout))
        prepare(variant, tiny_path, lambda line: None)
        models.append(load_variant(variant, tiny_path))

    assert not torch.equal(*zeros)
    for name, weight in models[0].named_parameters():
        assert torch.equal(weight, models[1].get_parameter(name)), name


def test_a_moved_checkpoint_is_the_same_variant_and_another_is_not(
    tiny_path: Path, tmp_path: Path, written: Callable[[str], Path]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(written("nf4"), moved)

    assert variant_of(tiny_path, moved).weights_digest == variant_of(tiny_path, written("nf4")).weights_digest
    assert (
        variant_of(tiny_path, moved).weights_digest != variant_of(tiny_path, written("int8")).weights_digest
    )


def test_another_parents_checkpoint_is_told(
    tiny_path: Path, tmp_path: Path, written: Callable[[str], Path]
) -> None:
    model = load_dense(tiny_path, "float32", "cpu")
    with torch.no_grad():
        model.get_input_embeddings().weight += 0.05
    model.save_pretrained(tmp_path / "other")
    load_tokenizer(tiny_path).save_pretrained(tmp_path / "other")

    receipt = prepare(variant_of(tmp_path / "other", written("nf4")), tmp_path / "other", lambda line: None)

    assert "not shown to be the parent's weights" in receipt["warnings"][0]
    assert "model.embed_tokens.weight first" in receipt["warnings"][0]


@pytest.mark.parametrize(("form", "bits", "error"), [("Q8_0", 8, 0.01), ("Q4_0", 4, 0.15)])
def test_a_gguf_file_becomes_a_variant(
    form: str, bits: int, error: float, tiny_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    from test_models import write_gguf

    file = tmp_path / f"tiny.{form}.gguf"
    write_gguf(tiny_path, file, form)
    variant = variant_of(tiny_path, file)

    receipt = prepare(variant, tiny_path, lambda line: None)

    assert (variant.name, variant.execution, receipt["weight_bits"]) == (f"tiny.{form}", "kernel", bits)
    assert receipt["quantized_layers"] == 14
    assert error / 20 < receipt["relative_error"] < error
    assert 0 < receipt["kl"] < 0.5
    assert receipt["warnings"] == []
    assert receipt["checkpoint_bytes"] == file.stat().st_size


def test_a_gguf_file_that_is_cut_off_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from test_models import write_gguf

    file = tmp_path / "tiny.gguf"
    write_gguf(tiny_path, file, "Q8_0")
    file.write_bytes(file.read_bytes()[:5000])

    with pytest.raises(ModelError, match="not a readable GGUF file"):
        variant_of(tiny_path, file)


@pytest.mark.e2e
def test_what_autoawq_itself_wrote_is_read(tiny_path: Path, tmp_path: Path) -> None:
    """The published layout, from the project that defined it and not from its successor."""
    python = os.environ.get("QUANTXAI_AUTOAWQ_PYTHON", "")
    if not Path(python).is_file():
        reason = "no Python with AutoAWQ 0.2.9: run tox -e autoawq,e2e"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    script = Path(__file__).parent / "write_autoawq.py"
    done = subprocess.run(
        [python, "-W", "ignore", str(script), str(tiny_path), str(tmp_path / "written")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    receipt = prepare(variant_of(tiny_path, tmp_path / "written"), tiny_path, lambda line: None)

    assert (receipt["kernel"], receipt["quantized_layers"]) == ("AwqTorchLinear", 14)
    assert receipt["bits_per_weight"] == 4 + 20 / 32
    assert 0.01 < receipt["relative_error"] < 0.2
    assert receipt["gradient_cosine"] > 0.999
    assert receipt["kl"] < 0.1
    assert receipt["perplexity"] < 1.2 * receipt["parent_perplexity"]
    assert receipt["warnings"] == []


# What is refused


def test_a_config_that_lies_about_its_bits_is_refused(
    tiny_path: Path, tmp_path: Path, written: Callable[[str], Path]
) -> None:
    for layout in ("gptq", "awq", "packed"):
        lying = tmp_path / layout
        shutil.copytree(written(layout), lying)
        config = json.loads((lying / "config.json").read_text())
        settings = config["quantization_config"]
        if layout == "packed":
            settings["config_groups"]["group_0"]["weights"]["num_bits"] = 8
        else:
            settings["bits"] = 8
        (lying / "config.json").write_text(json.dumps(config))

        with pytest.raises(
            ModelError, match=r"config.json says 8 bits, but the tensor .* holds 4 bits a weight"
        ):
            prepare(variant_of(tiny_path, lying), tiny_path, lambda line: None)


@pytest.mark.parametrize("layout", ["gptq", "nf4", "nvfp4"])
def test_a_truncated_checkpoint_is_refused_and_nothing_half_made_is_kept(
    layout: str, tiny_path: Path, tmp_path: Path, written: Callable[[str], Path]
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(written(layout), cut)
    (file,) = cut.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])
    variant = variant_of(tiny_path, cut)

    with pytest.raises(ModelError, match=r"cut off|cannot be loaded"):
        prepare(variant, tiny_path, lambda line: None)
    assert not variant.prepared
    assert not list(variant.folder.glob("twin*"))


def test_what_is_no_quantized_checkpoint_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="so it is not quantized"):
        variant_of(tiny_path, tiny_path)
    odd = tmp_path / "odd"
    shutil.copytree(tiny_path, odd)
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "aqlm"}}))
    with pytest.raises(ModelError, match='quant_method = "aqlm" cannot be read'):
        variant_of(tiny_path, odd)
    with pytest.raises(ModelError, match="no such file"):
        variant_of(tiny_path, tmp_path / "none.gguf")


def test_layers_quantized_in_different_ways_are_refused(
    tiny_path: Path, tmp_path: Path, written: Callable[[str], Path]
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(written("packed"), mixed)
    config = json.loads((mixed / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"]
    (first,) = groups.values()
    groups["more"] = {**first, "weights": {**first["weights"], "num_bits": 8}}
    (mixed / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match="quantizes layers in different ways"):
        variant_of(tiny_path, mixed)
    groups.clear()
    (mixed / "config.json").write_text(json.dumps({**config, "a": 1}))
    with pytest.raises(ModelError, match="names no group with quantized weights"):
        _ = Checkpoint(path=str(mixed), revision="another").described


def test_a_quantized_parent_is_refused_with_the_remedy(written: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r'is quantized already \(gptq\).*quantizer = "checkpoint"'):
        resolve(str(written("gptq")))


def test_shapes_are_read_from_headers(tiny_path: Path) -> None:
    expected = {n: list(t.shape) for n, t in load_dense(tiny_path, "float32", "cpu").state_dict().items()}

    found = tensor_shapes(tiny_path)

    assert found.items() <= expected.items()
    assert set(expected) - set(found) <= {"lm_head.weight"}  # tied


def test_the_label_is_the_folders_name() -> None:
    assert Checkpoint(path="a/b/Model-GPTQ-4bit").label == "Model-GPTQ-4bit"
    assert Checkpoint(path="b/model.Q4_K_M.gguf").label == "model.Q4_K_M"


# quantxai quantize


@pytest.mark.e2e
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_written_checkpoint_loads_with_transformers_unchanged(
    method: str, tiny_path: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from typer.testing import CliRunner

    from quantxai.cli import app

    out = tmp_path / "out"
    arguments = ["--method", method, "--group-size", "32", "--out", str(out), "--json"]

    done = CliRunner().invoke(app, ["quantize", str(tiny_path), *arguments])

    assert done.exit_code == 0, done.output
    receipt = json.loads(done.stdout)
    assert receipt == json.loads((out / "quantxai-receipt.json").read_text())
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["bits"], config["group_size"]) == (method, 4, 32)
    tensors = tensor_shapes(out)
    stem = "model.layers.0.mlp.down_proj"
    assert {f"{stem}.{leaf}" for leaf in ("qweight", "qzeros", "scales")} <= set(tensors)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float16, device_map="cpu")
    ids = AutoTokenizer.from_pretrained(out)("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        change = model(ids).logits.float() - load_dense(tiny_path, "float32", "cpu")(ids).logits
    assert 0 < change.abs().max() < 3
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "rtn"], "writes no checkpoint. Those that do: awq, compressed-tensors, gptq."),
        (["--bits", "5"], "bits"),
        (["--set", "symmetric"], "expected KEY=VALUE"),
        (["--set", "act_ordr=true"], "Did you mean 'act_order'?"),
        (["--group-size", "48"], "group_size = 48 does not divide"),
        (["--calibration", "none.txt"], 'calibration.path = "none.txt": no such file'),
    ],
)
def test_what_cannot_be_written_is_told(
    arguments: list[str], message: str, tiny_path: Path, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from quantxai.cli import app

    done = CliRunner().invoke(app, ["quantize", str(tiny_path), "--out", str(tmp_path / "out"), *arguments])

    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_a_directory_in_use_is_left_alone(tiny_path: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from quantxai.cli import app

    (tmp_path / "mine.txt").write_text("mine")

    done = CliRunner().invoke(app, ["quantize", str(tiny_path), "--out", str(tmp_path)])

    assert done.exit_code == 2
    assert "exists and is not empty" in " ".join(done.output.split())
    assert (tmp_path / "mine.txt").read_text() == "mine"
