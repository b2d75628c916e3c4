"""The sums inside neuron attribution beside float64's, in torch and in the fused kernel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from explainers import log_sum_exp as module  # noqa: E402
from explainers.log_sum_exp import added_log_sum_exp, log_sum_exp, merged  # noqa: E402

CASES = [(3, 5, 100, 1.0), (8, 17, 257, 0.1), (1, 1, 1, 1.0), (17, 33, 130, 5.0)]
"""Facts, neurons, tokens, size of the changes."""
KERNEL_CASES = [(9, 5, 300, 5.0), (3, 2, 31, 1.0)]
"""None of them whole tiles; few, for Triton's interpreter."""


def inputs(facts, neurons, tokens, size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(facts * neurons)
    base = 5 * torch.randn(facts, tokens, generator=generator, dtype=torch.float64)
    changes = size * torch.randn(neurons, tokens, generator=generator, dtype=torch.float64)
    factors = torch.randn(facts, neurons, generator=generator, dtype=torch.float64)
    return base.to(dtype), changes.to(dtype), factors.to(dtype)


def obvious(base, changes, factors, softcap=None):
    """log sum exp in float64, fact by fact and neuron by neuron."""
    found = torch.empty(factors.shape, dtype=torch.float64)
    for fact in range(len(base)):
        for neuron in range(len(changes)):
            z = base[fact].double() + factors[fact, neuron].double() * changes[neuron].double()
            if softcap is not None:
                z = softcap * torch.tanh(z / softcap)
            found[fact, neuron] = torch.log(torch.exp(z - z.max()).sum()) + z.max()
    return found


def close(found, wanted, tolerance):
    return bool(((found.cpu().double() - wanted).abs() <= tolerance * wanted.abs().clamp(min=1)).all())


@pytest.mark.parametrize("softcap", [None, 30.0, 3.0])
@pytest.mark.parametrize("case", CASES)
def test_sums_are_those_of_float64(case, softcap) -> None:
    wanted = obvious(*inputs(*case), softcap)

    assert close(log_sum_exp(added_log_sum_exp(*inputs(*case), softcap)), wanted, 2e-6)


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_float64_keeps_its_precision(softcap) -> None:
    some = inputs(3, 9, 300, 1.0, torch.float64)

    found = log_sum_exp(added_log_sum_exp(*some, softcap))

    assert found.dtype == torch.float64
    assert close(found, obvious(*some, softcap), 1e-13)


def test_tiles_do_not_change_sums(monkeypatch) -> None:
    some = inputs(3, 50, 64, 20.0)
    whole = log_sum_exp(added_log_sum_exp(*some))
    for tile in (1, 64 * 7, 64 * 50):
        monkeypatch.setattr(module, "TILE", tile)
        torch.testing.assert_close(log_sum_exp(added_log_sum_exp(*some)), whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_that_move_far_do_not_overflow_or_vanish(sign) -> None:
    """Exponentials with one reference per fact would be infinite, or all zero: the second way is needed."""
    base, changes, factors = inputs(2, 6, 50, 1.0)
    changes = changes.abs() * torch.tensor([1.0, 30, 39, 41, 300, 3000])[:, None] * sign + 100 * sign
    naive = (base - base.amax(1, keepdim=True))[:, None] + factors[..., None] * changes

    assert (naive.exp().sum(-1).log().isinf()).any()
    assert close(
        log_sum_exp(added_log_sum_exp(base, changes, factors)), obvious(base, changes, factors), 2e-6
    )


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_blocks_of_vocabulary_are_merged(softcap) -> None:
    base, changes, factors = inputs(4, 7, 90, 3.0)
    base[:, 60:] += 80  # the second block decides, and the first one's reference is far from it
    blocks = [
        added_log_sum_exp(base[:, a:b], changes[:, a:b], factors, softcap) for a, b in ((0, 60), (60, 90))
    ]

    wanted = obvious(base, changes, factors, softcap)
    assert close(log_sum_exp(merged(*blocks)), wanted, 2e-6)
    assert close(log_sum_exp(merged(*blocks[::-1])), wanted, 2e-6)


def test_arguments_are_left_as_they_were() -> None:
    some = inputs(3, 5, 60, 20.0)
    before = [t.clone() for t in some]

    added_log_sum_exp(*some, 30.0)

    assert all(torch.equal(a, b) for a, b in zip(some, before, strict=True))


def kernel_is_right(device: str) -> None:
    """Compare the fused kernel with float64."""
    from explainers.log_sum_exp_kernel import fused

    for case in KERNEL_CASES:
        for softcap in (None, 30.0):
            state = fused(*(t.to(device) for t in inputs(*case)), softcap)
            wanted = obvious(*inputs(*case), softcap)
            assert close(log_sum_exp(state), wanted, 5e-6), (case, softcap)
            assert bool((state[1].cpu() >= 1 - 1e-6).all()), "the reference is not the largest logit"


def python_with_triton() -> str:
    """This Python, or the one of AutoAWQ, which brings Triton: its wheel is large, and other libraries behave
    otherwise where they find it."""
    if importlib.util.find_spec("triton") is not None:
        return sys.executable
    python = os.environ.get("QUANTXAI_AUTOAWQ_PYTHON", "")
    if not Path(python).is_file():
        reason = "no Python with Triton: run tox -e autoawq,e2e"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return python


@pytest.mark.e2e
def test_the_fused_kernel_sums_the_same() -> None:
    python = python_with_triton()
    if torch.cuda.is_available() and python == sys.executable:
        kernel_is_right("cuda")
        return
    # Triton's own functions choose between compiler and interpreter when they are imported: a fresh process.
    paths = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [python, "-c", "import test_log_sum_exp as t; t.kernel_is_right('cpu'); print('compared')"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("compared\n")
