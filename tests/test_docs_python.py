"""The Python of the README, of examples/ and of CONTRIBUTING runs."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from test_docs import ROOT, blocks, run

from quantxai.datasets import load_dataset

pytestmark = pytest.mark.docs


def test_readme_python(tmp_path: Path) -> None:
    for number, code in enumerate(blocks(ROOT / "README.md", "python")):
        script = tmp_path / f"readme_{number}.py"
        script.write_text(code)
        assert "rtn-3 recall" in run(f"python {script.name}", tmp_path)


def test_examples(tmp_path: Path) -> None:
    assert "rtn-3" in run(f"python {ROOT / 'examples/quick_sweep.py'}", tmp_path)
    assert "became" in run(f"python {ROOT / 'examples/query_a_run.py'} runs/quick rtn-3", tmp_path)
    assert "log p(Paris)" in run(f"python {ROOT / 'examples/ask_a_variant.py'}", tmp_path)


def module_of(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    header = re.match(r"# \w+/(\w+)\.py\n", code)
    assert header
    file = folder / f"{header[1]}.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(header[1], file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, header[1], module)
    spec.loader.exec_module(module)
    return module


def test_contributing_adds_a_quantizer(
    tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from quantxai.checkpoints import load_dense

    module = module_of(blocks(ROOT / "CONTRIBUTING.md", "python")[0], tmp_path, monkeypatch)
    variant = module.Float8().load(tiny_path, "float32", "cpu")  # type: ignore[attr-defined]
    parent = load_dense(tiny_path, "float32", "cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        difference = (variant(ids).logits - parent(ids).logits).abs().max().item()
    assert 0 < difference < 2


def test_contributing_adds_an_explainer(
    tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantxai.checkpoints import load_dense, load_tokenizer
    from quantxai.engine import TransformersModel

    module = module_of(blocks(ROOT / "CONTRIBUTING.md", "python")[1], tmp_path, monkeypatch)
    lm = TransformersModel(load_dense(tiny_path, "float32", "cpu"), load_tokenizer(tiny_path))
    news = load_dataset("news")
    found = list(module.Surprise().rows(lm, news, news.items[:3], 0))  # type: ignore[attr-defined]
    assert [r.item for r in found] == [i.id for i in news.items[:3]]
    assert all(r.logprob < 0 for r in found)
