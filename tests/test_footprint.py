"""What a variant needs, from a configuration alone: by hand, and against what is really held."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import benchmark
from typer.testing import CliRunner

from quantxai import registry
from quantxai.cli import app
from quantxai.devices import GPUS, gpu, this_machine
from quantxai.footprint import (
    footprint_of,
    kv_cache_bytes,
    weights_bytes,
)
from quantxai.shapes import Shape, shape_of

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_70B = {
    **LLAMA_8B, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64,
}  # fmt: skip


def config(folder: Path, settings: dict[str, Any]) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(settings))
    return file


def needs(file: Path, name: str | None) -> dict[str, Any]:
    return {f.variant: f for f in footprint_of(str(file), name)[3]}


@pytest.mark.bare
def test_bytes_of_an_8b_model_by_hand() -> None:
    shape = shape_of(LLAMA_8B)
    gptq = registry.method("quantizer", "gptq").model_validate({"bits": 4, "group_size": 128})
    nf4 = registry.method("quantizer", "bnb").model_validate({"double_quantization": False})
    linear = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
    others = 2 * 128256 * 4096 + 65 * 4096

    assert kv_cache_bytes(shape, "bfloat16", 4096) == 2 * 32 * 8 * 128 * 2 * 4096
    assert weights_bytes(gptq, shape, "bfloat16") == pytest.approx(linear * 4.125 / 8 + others * 2, rel=1e-6)
    assert weights_bytes(nf4, shape, "bfloat16") == pytest.approx(linear * 4.5 / 8 + others * 2, rel=1e-6)


@pytest.mark.bare
def test_what_fits_where(tmp_path: Path) -> None:
    small, large = (tmp_path / name for name in ("8b", "70b"))
    small.mkdir()
    large.mkdir()
    h100 = needs(config(small, LLAMA_8B), "h100")
    t4 = needs(config(small, LLAMA_8B), "t4")
    seventy = needs(config(large, LLAMA_70B), "h100")

    assert all(f.fits for f in h100.values())
    assert h100["full"].weights_bytes == 2 * 8_030_261_248
    assert not t4["full"].fits
    # 16.06 of weights, 0.54 of cache, 0.55 of hidden states, 0.81 of logits
    assert t4["full"].problem == "explaining would take 18.0 GB, and 14.7 GB can be used"
    assert t4["full"].dtype == "float16"
    assert needs(small / "config.json", "rtx4090")["full"].fits  # alone: it is its own parent
    assert not seventy["full"].fits
    assert seventy["nf4"].weights_bytes < 45e9 < 140e9 < seventy["full"].weights_bytes


@pytest.mark.bare
def test_less_is_never_more(tmp_path: Path) -> None:
    found = needs(config(tmp_path, LLAMA_8B), "h100")
    older = needs(tmp_path / "config.json", "a100")

    assert found["gptq-3"].weights_bytes < found["gptq-4"].weights_bytes < found["int8"].weights_bytes
    assert found["full"].calibration_bytes is found["nf4"].calibration_bytes is None
    assert found["full"].quantization_seconds is None
    for name, f in found.items():
        assert f.peak_bytes >= max(
            f.weights_bytes + f.kv_cache_bytes, f.calibration_bytes or 0, f.self_test_bytes
        )
        assert 0 < f.explaining_seconds < older[name].explaining_seconds


@pytest.mark.bare
def test_a_method_that_cannot_work_on_the_shape_is_told(tmp_path: Path) -> None:
    found = needs(config(tmp_path, {**LLAMA_8B, "intermediate_size": 14352}), "h100")

    assert found["full"].fits
    assert not found["gptq-4"].fits
    assert "group_size = 64 does not divide the width 14352 of layer 'down_proj'" in found["gptq-4"].problem


@pytest.mark.bare
def test_a_model_without_linear_layers_can_only_be_run_as_it_is(tmp_path: Path) -> None:
    gpt2 = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12}

    found = needs(config(tmp_path, gpt2), "h100")

    assert found["full"].fits
    assert "no torch.nn.Linear layers" in found["gptq-4"].problem


@pytest.mark.bare
def test_kernels_that_unpack_generate_slower_than_dense_matrices(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.toml"
    variants = ['quantizer = "full"', 'quantizer = "gptq"\nexecution = "kernel"',
                'quantizer = "gptq"\nname = "dense"\nexecution = "dequantized"']  # fmt: skip
    explainer = '[[explainers]]\nexplainer = "counterfactual"\ndataset = "news"\n'
    sweep.write_text("".join(f"[[variants]]\n{v}\n" for v in variants) + explainer)

    found = {f.variant: f for f in footprint_of(str(config(tmp_path, LLAMA_8B)), "h100", sweep)[3]}

    assert found["gptq-4"].weights_bytes < found["dense"].weights_bytes
    assert found["gptq-4"].explaining_seconds > 1.2 * found["dense"].explaining_seconds


@pytest.mark.bare
def test_gptq_takes_longer_on_more_text_and_more_columns(tmp_path: Path) -> None:
    small, large = (tmp_path / name for name in ("8b", "70b"))
    small.mkdir()
    large.mkdir()
    times = [needs(config(f, s), "h100")["gptq-4"] for f, s in ((small, LLAMA_8B), (large, LLAMA_70B))]

    # AutoGPTQ and its successors take ten minutes and an hour.
    assert 200 < times[0].quantization_seconds < 2000 < times[1].quantization_seconds < 2 * 3600


@pytest.mark.bare
def test_what_runs_at_the_same_time_must_fit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config(tmp_path, LLAMA_8B)
    one = needs(file, None)["full"].peak_bytes
    monkeypatch.setattr("quantxai.machine.cores", lambda: 2)
    monkeypatch.setattr("quantxai.machine.memory_bytes", lambda: int(1.5 * one))
    crowded = needs(file, None)["full"]
    monkeypatch.setattr("quantxai.machine.memory_bytes", lambda: None)
    unknown = needs(file, None)["full"]

    assert crowded.fits is False
    assert "in 2 processes at the same time" in crowded.problem
    assert unknown.fits is None


@pytest.mark.bare
def test_rates_are_the_devices() -> None:
    assert gpu("H100") == gpu("h100")
    assert gpu("h200").bandwidth > gpu("h100").bandwidth
    assert {gpu(name).name for name in GPUS} == set(GPUS)
    here = this_machine("float32")
    assert 1e9 < here.flops < 1e14
    assert here.memory_bytes > 1e9


@pytest.mark.bare
def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    file = config(tmp_path, LLAMA_8B)

    told = CliRunner().invoke(app, ["plan", str(file), "--gpu", "h100"])
    data = CliRunner().invoke(app, ["plan", str(tmp_path), "--gpu", "h100", "--json"])

    assert told.exit_code == data.exit_code == 0, told.output
    assert "8,030 M parameters, bfloat16" in told.stdout
    assert "h100, 80 GB" in told.stdout
    found = json.loads(data.stdout)
    assert [v["variant"] for v in found["variants"]] == [
        "full", "int8", "nf4", "gptq-4", "gptq-3", "awq-4", "rtn-4",
    ]  # fmt: skip
    assert found["parameters"] == 8_030_261_248
    for variant in found["variants"]:
        assert variant["variant"] in told.stdout


@pytest.mark.bare
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smollm2-135m", "--gpu", "h101"], "unknown GPU 'h101'. Did you mean 'h100'?"),
        (["smollm-135m"], "smollm2-135m"),
        (["."], "expected config.json"),
        (["other.json"], "expected a file called config.json"),
        (["quantized"], "is quantized already (gptq)"),
        (["smollm2-135m", "--config", "none.toml"], "none.toml"),
    ],
)
def test_what_cannot_be_planned_is_told(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config(tmp_path, LLAMA_8B).rename(tmp_path / "other.json")
    (tmp_path / "quantized").mkdir()
    config(tmp_path / "quantized", {**LLAMA_8B, "quantization_config": {"quant_method": "gptq"}})

    done = CliRunner().invoke(app, ["plan", *arguments])

    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


# Against what is really held


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("full", {}),
        ("bnb", {"format": "int8"}),
        ("bnb", {"format": "nf4"}),
        ("bnb", {"format": "fp4", "double_quantization": False}),
        ("rtn", {"bits": 4, "group_size": 32}),
        ("fp8", {}),
    ],
)
def test_the_bytes_held_are_the_bytes_predicted(
    method: str, options: dict[str, Any], tiny_path: Path
) -> None:
    pytest.importorskip("torch")
    quantizer = registry.method("quantizer", method).model_validate(options)
    shape: Shape = shape_of(json.loads((tiny_path / "config.json").read_text()))

    held = benchmark("stored").stored_bytes(quantizer.load(tiny_path, "float32", "cpu"))

    assert weights_bytes(quantizer, shape, "float32") == pytest.approx(held, rel=0.05)


@pytest.mark.e2e
def test_memory_is_predicted_within_15_percent(tmp_path: Path) -> None:
    """Two synthetic sizes; GPTQ and AWQ, which take minutes there, are in benchmarks/results."""
    import subprocess

    script = Path(__file__).parents[1] / "benchmarks" / "footprint.py"
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["largest_memory_error"] < 0.15, done.stdout
    assert len(found["rows"]) == 20
