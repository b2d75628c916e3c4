"""What the parent says on the receipts' text: computed once, and the same as if computed each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quantxai import receipts, reference  # noqa: E402
from quantxai.checkpoints import load_dense, load_tokenizer  # noqa: E402
from quantxai.config import parse_config  # noqa: E402
from quantxai.errors import ModelError  # noqa: E402
from quantxai.models import resolve  # noqa: E402
from quantxai.preparation import prepare  # noqa: E402
from quantxai.reference import keep_parent_logits, read_logits  # noqa: E402
from quantxai.variants import Variant, resolve_variants  # noqa: E402


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def variants(parent: Path, dtype: str = "float32") -> list[Variant]:
    table = {
        "model": {"name": str(parent), "dtype": dtype, "device": "cpu"},
        "variants": [{"quantizer": "full"}, {"quantizer": "rtn", "group_size": 32}, {"quantizer": "rerun"}],
        "explainers": [{"explainer": "memorization", "dataset": "relations"}],
    }
    return resolve_variants(parse_config(table), resolve(str(parent)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_the_parents_to_the_last_bit(tiny_path: Path, dtype: str) -> None:
    full = variants(tiny_path, dtype)[0]
    model, ids = load_dense(tiny_path, dtype, "cpu"), receipts.text_tokens(load_tokenizer(tiny_path))
    with torch.inference_mode():
        expected = [model(torch.tensor([ids[i : i + 512]])).logits[0, :-1] for i in range(0, len(ids), 512)]

    kept = read_logits(keep_parent_logits(full, tiny_path))

    assert [w.dtype for w in kept] == [getattr(torch, dtype)] * 4
    assert all(torch.equal(one, other) for one, other in zip(kept, expected, strict=True))


def test_variants_of_one_parent_share_them(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(reference, "load_dense", lambda *a: made.append(a) or load_dense(*a))
    full, rounded, rerun = variants(tiny_path)
    found = {v.name: prepare(v, tiny_path, lambda _: None) for v in (rounded, full, rerun)}

    assert len(made) == 1
    assert found["rtn-4"]["parent_perplexity"] == found["rerun"]["perplexity"] == found["full"]["perplexity"]
    assert found["rerun"]["kl"] == 0 < found["rtn-4"]["kl"]
    half = variants(tiny_path, "bfloat16")[0]
    assert keep_parent_logits(half, tiny_path) != keep_parent_logits(full, tiny_path)
    assert len(made) == 2


def test_what_was_damaged_is_made_anew(tiny_path: Path) -> None:
    full = variants(tiny_path)[0]
    file = keep_parent_logits(full, tiny_path)
    right = file.read_bytes()
    for content in (right[:-9] + bytes([right[-9] ^ 1]) + right[-8:], right[:1000], b""):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=r"was removed or damaged\. Give the same command again"):
            read_logits(file)
        assert keep_parent_logits(full, tiny_path) == file
        assert file.read_bytes() == right
