"""The last step of a model, in every family, against its own modules and against autograd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import families  # noqa: E402
from families import FAMILIES  # noqa: E402

from quantxai import readout as module  # noqa: E402
from quantxai.norms import Norm, read_norm  # noqa: E402
from quantxai.readout import Readout  # noqa: E402

NAMES = sorted(FAMILIES)
CENTRED = {
    *("cohere", "falcon", "falcon-multi-query", "gpt-neox-parallel", "gpt-neox-sequential", "gpt2", "olmo"),
    *("opt", "phi", "stablelm", "starcoder2"),
}
"""Families with LayerNorm; the others have RMSNorm."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def readout(name: str, dtype: Any = torch.float64) -> Readout:
    return families.engine(name, dtype).internals().readout


def residuals(of: Readout) -> Any:
    """Three residuals [3, hidden], whose mean is not 0."""
    return torch.randn(3, of.hidden, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 + 1


def last_step(name: str, h: Any, scale: Any = None) -> Any:
    """Log-probabilities by the family's own modules and what its configuration says of logits.

    Args:
        name: the family's.
        h: residuals.
        scale: what the norm divides by, where it is held.
    """
    model = families.model(name, torch.float64)
    z = model.get_output_embeddings()(_final_norm(name)(h) if scale is None else _held(name, h, scale))
    config = model.config
    z = z * (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)
    cap = getattr(config, "final_logit_softcapping", None)
    return (cap * torch.tanh(z / cap) if cap else z).log_softmax(-1)


def _final_norm(name: str) -> Any:
    return families.engine(name, torch.float64).internals().anatomy.final_norm


def _held(name: str, h: Any, scale: Any) -> Any:
    """What the final norm makes of residuals with its scale held, from the numbers it stores."""
    gain, shift = (getattr(_final_norm(name), n, None) for n in ("weight", "bias"))
    if name in CENTRED:
        h = h - h.mean(-1, keepdim=True)
    normed = h / scale[:, None] * (1 if gain is None else gain + ("gemma" in name))
    return normed if shift is None else normed + shift


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_the_models_own_log_probabilities(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = readout(name)
    h = residuals(of)
    assert of.centred == (name in CENTRED)
    with torch.no_grad():
        expected = last_step(name, h)
    # Some families compute their norms in float32 whatever the model's type is.
    assert torch.allclose(of.log_probs(h), expected, atol=1e-5)

    monkeypatch.setattr(module, "BLOCK_BYTES", 100 * of.hidden * 8)
    assert len(list(of.blocks())) == 3
    assert torch.allclose(of.log_probs(h), expected, atol=1e-5)
    assert torch.allclose(of.log_probs(h.reshape(3, 1, -1))[:, 0], expected, atol=1e-5)
    assert torch.allclose(of.log_probs(h, of.scale(h)), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_its_gradient_is_that_of_autograd(name: str) -> None:
    of = readout(name)
    tokens = torch.tensor([3, 200, 77])
    scale = torch.tensor([0.7, 1.0, 3.0], dtype=torch.float64)
    for fixed in (None, scale):
        h = residuals(of).requires_grad_()
        last_step(name, h, fixed).gather(1, tokens[:, None]).sum().backward()

        found = of.gradient(h.detach(), tokens, fixed)

        assert torch.allclose(found, h.grad, rtol=1e-4, atol=1e-6)
        assert found.abs().max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_agrees_with_full(name: str) -> None:
    half, full = readout(name, torch.bfloat16), readout(name)
    h = residuals(full)

    assert half.dtype == torch.float32
    assert half.unembedding.dtype == torch.bfloat16
    assert (half.log_probs(h) - full.log_probs(h)).abs().max() < 0.05


def test_one_number_by_hand() -> None:
    """h = (3, 4), no gain, one row of ones: 7 / sqrt(12.5), doubled, then capped at 1."""
    of = Readout(
        gain=torch.ones(2),
        unembedding=torch.ones(1, 2),
        multiplier=2.0,
        softcap=1.0,
        bias=torch.tensor([0.5]),
    )

    found = of.logits(torch.tensor([[3.0, 4.0]]))

    assert found.item() == pytest.approx(torch.tensor(2 * (7 / 12.5**0.5 + 0.5)).tanh().item())


# Norms


class Stored(torch.nn.Module):
    """A norm that stores its gain less `less`, in some type, and says its eps or not."""

    def __init__(self, norm: Norm, less: float, *, says: bool) -> None:
        super().__init__()
        self.norm = norm
        self.weight = torch.nn.Parameter(norm.gain - less)
        self.bias = None if norm.shift is None else torch.nn.Parameter(norm.shift)
        if says:
            self.eps = norm.eps

    def forward(self, h: Any) -> Any:
        return self.norm.normed(h).to(self.weight.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("less", [0.0, 1.0])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("eps", "says"), [(1e-5, False), (1e-6, False), (1e-3, True)])
def test_a_norm_is_read_as_it_is(
    dtype: Any, centred: bool, less: float, shifted: bool, eps: float, says: bool
) -> None:
    gain, shift = torch.randn(2, 33, generator=torch.Generator().manual_seed(2)).to(dtype)
    gain = gain + 1
    made = Norm(gain=gain, shift=shift * 0.01 if shifted else None, centred=centred, eps=eps)
    model = SimpleNamespace(dtype=dtype, parameters=lambda: iter([gain]))

    found = read_norm(Stored(made, less, says=says), 33, model)

    assert found is not None
    assert (found.centred, found.eps, found.shift is None) == (centred, eps, not shifted)
    assert torch.allclose(found.gain, gain.to(found.dtype), atol=1e-6 if dtype != torch.bfloat16 else 0.02)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("less", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_few_large_gains_hide_no_other(seed: int, less: float, dtype: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    gain = torch.randn(1152, generator=generator) + 3
    gain[torch.randperm(1152, generator=generator)[:3]] = torch.tensor([80.0, 240.0, 1000.0])
    stored = Stored(Norm(gain=gain, eps=1e-6), less, says=True)
    stored.weight.data = stored.weight.data.to(dtype)
    stored.norm = Norm(gain=stored.weight.detach().float() + less, eps=1e-6)
    model = SimpleNamespace(dtype=dtype, parameters=stored.parameters)

    found = read_norm(stored, 1152, model)

    assert found is not None
    assert torch.equal(found.gain, stored.norm.gain)


def test_a_norm_with_one_element_off_is_refused() -> None:
    """The nearest of what it may be is not near: a small element is a fifth larger."""

    class Off(Stored):
        def forward(self, h: Any) -> Any:
            made = self.norm.normed(h)
            made[..., 5] *= 1.2
            return made.to(self.weight.dtype)

    gain = torch.full((64,), 3.0, dtype=torch.bfloat16)
    gain[0] = 1000
    model = SimpleNamespace(dtype=torch.bfloat16, parameters=lambda: iter([gain]))

    assert read_norm(Stored(Norm(gain=gain, eps=1e-6), 0.0, says=True), 64, model) is not None
    assert read_norm(Off(Norm(gain=gain, eps=1e-6), 0.0, says=True), 64, model) is None


@pytest.mark.parametrize("other", [torch.nn.Identity(), torch.nn.Tanh(), torch.nn.GroupNorm(3, 33)])
def test_something_else_is_no_norm(other: Any) -> None:
    model = SimpleNamespace(dtype=torch.float32, parameters=lambda: iter([torch.ones(1)]))
    run = (
        torch.nn.Sequential(torch.nn.Flatten(0, 1), other) if isinstance(other, torch.nn.GroupNorm) else other
    )

    assert read_norm(run, 33, model) is None
