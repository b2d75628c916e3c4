"""Every method and bit width on the real SmolLM2-135M: quantized, tested, explained, compared.

The default sweep has int8, nf4, gptq-4, gptq-3, awq-4 and rtn-4 (test_e2e.py); here is everything else,
calibrated on 256 tokens, which is enough to see that it works.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REAL_ENVIRONMENT
from test_e2e import VARIANTS as IN_THE_DEFAULT_SWEEP

from quantxai import registry
from quantxai.options import describe

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-m", "quantxai"]
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"quantizer": "full"},
    "fp4": {"quantizer": "bnb", "format": "fp4"},
    "fp8": {"quantizer": "fp8"},
    "nvfp4a16": {"quantizer": "compressed-tensors", "scheme": "NVFP4A16"},
    "mxfp4a16": {"quantizer": "compressed-tensors", "scheme": "MXFP4A16"},
    "fp8-dynamic": {"quantizer": "compressed-tensors", "scheme": "FP8_DYNAMIC"},
    "w8a8": {"quantizer": "compressed-tensors", "scheme": "W8A8"},
    "rtn-2": {"quantizer": "rtn", "bits": 2},
    "rtn-3": {"quantizer": "rtn", "bits": 3},
    "rtn-8": {"quantizer": "rtn", "bits": 8},
    "hqq-2": {"quantizer": "hqq", "bits": 2},
    "hqq-3": {"quantizer": "hqq", "bits": 3},
    "hqq-4": {"quantizer": "hqq"},
    "hqq-8": {"quantizer": "hqq", "bits": 8},
    "gptq-2": {"quantizer": "gptq", "bits": 2},
    "gptq-8": {"quantizer": "gptq", "bits": 8},
    "awq-8": {"quantizer": "awq", "bits": 8, "search_tokens": 256},
    "smollm2-gptq": {"quantizer": "checkpoint", "path": "smollm2-gptq"},
    "smollm2-awq": {"quantizer": "checkpoint", "path": "smollm2-awq"},
    "smollm2-nvfp4": {"quantizer": "checkpoint", "path": "smollm2-nvfp4"},
    "rerun": {"quantizer": "rerun"},
    "dtype": {"quantizer": "dtype"},
    "noise-nvfp4a16": {"quantizer": "noise", "of": "nvfp4a16"},
}
WRITTEN = {
    "smollm2-gptq": ["--method", "gptq"],
    "smollm2-awq": ["--method", "awq"],
    "smollm2-nvfp4": ["--method", "compressed-tensors", "--set", "scheme=NVFP4A16"],
}
"""Checkpoints that `quantxai quantize` writes first; GPTQ and AWQ are those of the default sweep, cached."""
ROUNDS_ACTIVATIONS = {"fp8-dynamic", "w8a8"}
DENSE = {"full", "rerun", "dtype", "noise-nvfp4a16"}
ITEMS = 9


def toml(table: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder in which checkpoints were written and the sweep over everything was run."""
    folder = tmp_path_factory.mktemp("quantizers")
    variants = "\n".join(f"[[variants]]\n{toml(table)}" for table in SETTINGS.values())
    (folder / "all.toml").write_text(
        f"{variants}\n[calibration]\nsequences = 2\nlength = 128\n"
        f'[[explainers]]\nexplainer = "memorization"\ndataset = "relations"\nn = {ITEMS}\n'
    )
    writing = [["quantize", "smollm2-135m", *method, "--out", name] for name, method in WRITTEN.items()]
    for arguments in (*writing, ["sweep", "all.toml", "--out", "run"]):
        found = subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            env=REAL_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode in (0, 3), f"{found.stdout}\n{found.stderr}"
    return folder, found


@pytest.fixture(scope="module")
def receipts(done: tuple[Path, Any]) -> dict[str, dict[str, Any]]:
    root = done[0] / "run" / "variants"
    return {name: json.loads((root / name / "receipt.json").read_text()) for name in SETTINGS}


def broken(receipts: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, receipt in receipts.items() if receipt["fault"]}


def test_every_registered_quantizer_and_bit_width_is_here_or_in_the_default_sweep() -> None:
    assert {table["quantizer"] for table in SETTINGS.values()} | {"bnb"} == set(registry.names("quantizer"))
    covered = {*SETTINGS, *IN_THE_DEFAULT_SWEEP}
    for method in ("gptq", "awq", "rtn", "hqq"):
        options = {
            o["name"]: o for o in next(q for q in describe("quantizer") if q["name"] == method)["options"]
        }
        widths = [int(bits) for bits in options["bits"]["values"].replace(" ", "").strip("()").split(",")]
        assert {f"{method}-{bits}" for bits in widths} <= covered


def test_every_receipt_is_complete(receipts: dict[str, dict[str, Any]]) -> None:
    for name, receipt in receipts.items():
        assert receipt["versions"]["torch"], name
        assert receipt["checkpoint_bytes"] > 5e7, name
        assert receipt["peak_memory_mb"] > 0, name
        if name in DENSE:
            continue
        assert receipt["quantized_layers"] == len(receipt["layers"]) == 210, name
        assert 0.75 < receipt["quantized_share"] < 0.85, name
        assert receipt["left_out"], name
        assert set(receipt["bits_per_weight_by_type"]) == {
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        }, name  # fmt: skip
        assert receipt["bits_per_weight"] >= receipt["weight_bits"], name
        assert 0 < receipt["relative_error"] < 1, name
        assert receipt["largest_logit_difference_to_kernel"] is not None, name
    for name, tokens in (("gptq-2", 256), ("gptq-8", 256), ("awq-8", 256)):
        assert receipts[name]["calibration_tokens"] == tokens
        assert len(receipts[name]["calibration_digest"]) == 64


def test_only_two_bits_are_broken_and_they_are_not_dropped(
    done: tuple[Path, subprocess.CompletedProcess[str]], receipts: dict[str, dict[str, Any]]
) -> None:
    assert broken(receipts) <= {"rtn-2", "hqq-2", "gptq-2"}
    assert "rtn-2" in broken(receipts)
    assert done[1].returncode == 3
    page = (done[0] / "run" / "report.md").read_text()
    for name in broken(receipts):
        assert name in page
        assert "broken" in " ".join(receipts[name]["warnings"])


def test_more_bits_are_nearer_to_the_parent(receipts: dict[str, dict[str, Any]]) -> None:
    for names in (
        ("rtn-2", "rtn-3", "rtn-8"),
        ("hqq-2", "hqq-3", "hqq-4", "hqq-8"),
        ("gptq-2", "gptq-8"),
        ("nvfp4a16", "fp8"),
    ):
        errors = [receipts[name]["relative_error"] for name in names]
        assert errors == sorted(errors, reverse=True), names
    assert receipts["hqq-3"]["perplexity"] < receipts["rtn-3"]["perplexity"]
    for name in ("fp8", "rtn-8", "hqq-8", "gptq-8", "awq-8", "w8a8", "fp8-dynamic"):
        assert receipts[name]["perplexity"] < 1.1 * receipts[name]["parent_perplexity"], name
        assert receipts[name]["kl"] < 0.1, name


def test_gradients_are_those_of_the_weights_or_refused(receipts: dict[str, dict[str, Any]]) -> None:
    # A broken model turns the rounding of bfloat16 into other gradients; its cosine may be anything.
    working = {name for name in SETTINGS if not receipts[name].get("fault")}
    assert len(working - DENSE) > 15
    for name in working - DENSE:
        right = receipts[name]["gradient_cosine"] >= 0.95
        assert right == (name not in ROUNDS_ACTIVATIONS), (name, receipts[name]["gradient_cosine"])


def test_a_written_checkpoint_is_the_variant_it_came_from(
    done: tuple[Path, Any], receipts: dict[str, dict[str, Any]]
) -> None:
    for name in WRITTEN:
        made = json.loads((done[0] / name / "quantxai-receipt.json").read_text())
        assert receipts[name]["warnings"] == []
        assert receipts[name]["perplexity"] == pytest.approx(made["perplexity"], rel=1e-3), name
        assert receipts[name]["weight_bits"] == made["weight_bits"] == 4
        assert receipts[name]["bits_per_weight"] == pytest.approx(made["bits_per_weight"]), name


@pytest.fixture(scope="module")
def said(done: tuple[Path, Any]) -> dict[str, str]:
    """What transformers, without quantxai, finds likeliest after a prompt with each written checkpoint."""
    code = (
        "import json, sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "said = {}\n"
        "for name in sys.argv[1:]:\n"
        "    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16, device_map='cpu')\n"
        "    tokenizer = AutoTokenizer.from_pretrained(name)\n"
        "    ids = tokenizer('The capital of France is', return_tensors='pt')\n"
        "    said[name] = tokenizer.decode(model(**ids).logits[0, -1].topk(3).indices)\n"
        "print('SAID', json.dumps(said))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *WRITTEN],
        cwd=done[0], env=REAL_ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "SAID" in found.stdout, found.stderr
    answers: dict[str, str] = json.loads(found.stdout.split("SAID")[1])
    return answers


@pytest.mark.parametrize("name", WRITTEN)
def test_transformers_loads_a_written_checkpoint_unchanged(name: str, said: dict[str, str]) -> None:
    # To GPTQ's 4 bits " Paris" and " the" are as likely up to a rounding; to another model neither is.
    assert "Paris" in said[name]


def test_controls_are_what_they_say(done: tuple[Path, Any], receipts: dict[str, dict[str, Any]]) -> None:
    assert receipts["rerun"]["kl"] == pytest.approx(0, abs=1e-6)
    assert receipts["dtype"]["dtype"] != receipts["full"]["dtype"]
    assert 0 < receipts["dtype"]["kl"] < 0.02
    assert receipts["noise-nvfp4a16"]["kl"] > receipts["nvfp4a16"]["kl"]
    page = (done[0] / "run" / "report.md").read_text()
    assert all(name in page for name in ("rerun", "dtype", "noise-nvfp4a16"))


def test_cells_of_another_engine_are_not_compared(done: tuple[Path, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(done[0] / "run", run)
    sidecar = next((run / "rows" / "fp8").rglob("*.json"))
    sidecar.write_text(sidecar.read_text().replace('"engine": "', '"engine": "another, '))

    found = subprocess.run(
        [*COMMAND, "report", str(run)], env=REAL_ENVIRONMENT, capture_output=True, text=True, check=False
    )

    assert found.returncode == 2
    assert "engine: full:" in found.stderr
    assert "--pool engine" in found.stderr


def test_all_that_works_is_explained_and_compared(
    done: tuple[Path, subprocess.CompletedProcess[str]], receipts: dict[str, dict[str, Any]]
) -> None:
    sql = "select variant, count(*) as n from measurements where metric = 'recall' group by all"
    found = subprocess.run(
        [*COMMAND, "query", "run", sql, "--json"],
        cwd=done[0], env=REAL_ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    counts = {row["variant"]: row["n"] for row in json.loads(found.stdout)}
    assert counts == dict.fromkeys(set(SETTINGS) - broken(receipts), ITEMS)
