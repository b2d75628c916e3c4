"""What a variant really is: measured on its weights and its outputs, not believed of its method."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from quantxai.checkpoints import exact_half_products, quantized_layers
from quantxai.datasets import load_dataset
from quantxai.errors import ModelError
from quantxai.methods import Quantizer
from quantxai.records import Record

__all__ = [
    "KernelReceipt",
    "LayerReceipt",
    "Receipt",
    "TextMeasures",
    "changed_layers",
    "check_same_logits",
    "embedding_gradient",
    "fault",
    "inspect_kernel",
    "inspect_layers",
    "measure_text",
    "only_repeats",
    "text_logits",
    "text_tokens",
    "unlike_parent",
    "weight_error",
]

VERSION = 3
"""Raised when receipts say more or something else, so that cached ones are measured again."""
TEXT_TOKENS = 2048
WINDOW = 512
PIECE = 64
"""Tokens whose distributions are held at the same time."""
PROBE = "The capital of France is Paris, and the capital of Japan is"
LEAST_COSINE = 0.95
"""Below it a kernel's gradient is not the gradient of the function it computes."""
EXPLOSION = 100.0
"""Perplexity over the parent's above which a variant is broken. Round-to-nearest at 3 bit, poor but no
accident, reaches 18 on SmolLM2-135M."""
SAME = 1e-2
"""Largest relative difference of logits computed twice from the same weights, float types apart."""


class LayerReceipt(Record):
    """One quantized layer against the parent's."""

    name: str
    type: str = Field(description="The layer's name without its place: q_proj.")
    shape: tuple[int, int] = Field(description="out_features, in_features.")
    kernel: str = Field(description="Class that multiplies with it.")
    bits_per_weight: float | None = Field(description="Scales and zero points included, where known.")
    relative_error: float = Field(description="Frobenius norm of the error over that of the parent's matrix.")
    error_norm: float = Field(description="Frobenius norm of the error, in the parent's coordinates.")


class KernelReceipt(Record):
    """The kernel against the same weights as dense matrices, on one sentence."""

    kernel: str = Field(description="Classes that multiply with the quantized weights.")
    kernel_dtype: str = Field(description="Float type the kernel was checked in.")
    largest_logit_difference_to_kernel: float | None = Field(description="Null where it is not finite.")
    gradient_cosine: float | None = Field(
        description="Cosine of the loss's gradient at the embeddings with the dense matrices'."
    )


class TextMeasures(Record):
    """A variant beside its parent on TEXT_TOKENS tokens of the built-in news."""

    perplexity: float | None = Field(description="exp(mean negative log-likelihood in nats per token).")
    parent_perplexity: float | None
    kl: float | None = Field(description="Mean KL(parent || variant), nats per token.")
    top1_agreement: float = Field(description="Share of tokens whose most likely successor is the same.")


class Receipt(Record):
    """Everything known about one variant; `receipt.json` in its folder of the run."""

    variant: str
    method: str
    options: dict[str, Any]
    weight_bits: float = Field(description="Nominal bits per quantized weight; the float type's where dense.")
    bits_per_weight: float | None = Field(
        description="Of the quantized layers, scales and zero points included."
    )
    bits_per_weight_by_type: dict[str, float] = Field(
        default_factory=dict, description="The same, by layer type."
    )
    bits_per_parameter: float | None = Field(None, description="Over all parameters, the others at 16 bit.")
    execution: str
    dtype: str
    device: str
    weights_digest: str = Field(description="SHA-256 of everything the weights depend on.")
    files_digest: str = Field(description="SHA-256 of the files it is loaded from; checked at each use.")
    checkpoint_digest: str | None = Field(None, description="SHA-256 of the quantized checkpoint's files.")
    kernel: str = Field("Linear", description="Classes that compute with the quantized weights.")
    kernel_dtype: str | None = None
    kernels: dict[str, int] = Field(default_factory=dict, description="Number of layers by kernel class.")
    quantized_layers: int = 0
    quantized_share: float = Field(0.0, description="Share of the parameters, tied ones once.")
    left_out: list[str] = Field(default_factory=list, description="Parameters that stay as they were.")
    relative_error: float | None = Field(None, description="Over all quantized layers: norms added up.")
    layers: list[LayerReceipt] = Field(default_factory=list)
    largest_logit_difference_to_kernel: float | None = None
    gradient_cosine: float | None = None
    calibration_digest: str | None = None
    calibration_tokens: int | None = None
    calibration_seed: int | None = None
    quantization_seconds: float | None = None
    quantization_peak_memory_mb: int | None = None
    checkpoint_bytes: int
    perplexity: float | None
    perplexity_tokens: int = TEXT_TOKENS
    parent_perplexity: float | None = None
    kl: float | None = Field(None, description="Mean KL(parent || variant), nats per token.")
    top1_agreement: float | None = None
    rtn_same_grid_perplexity: float | None = None
    fault: str | None = Field(None, description="Why the variant is broken; null where it is not.")
    versions: dict[str, str]
    warnings: list[str]
    peak_memory_mb: int = 0


# Weights


def inspect_layers(
    quantizer: Quantizer, kernels: Mapping[str, str], dense: Any, parent: Any
) -> dict[str, Any]:
    """Return what a receipt says about the quantized layers.

    Args:
        quantizer: the method.
        kernels: class of the kernel of each quantized layer, by name.
        dense: a model whose layers of these names hold the same weights as plain matrices.
        parent: the unquantized model.
    """
    layers, norms = [], []
    for name, kernel in kernels.items():
        weight, reference = (m.get_submodule(name).weight.detach().float() for m in (dense, parent))
        norm = weight_error(weight, reference, quantizer.rescales)
        norms.append(reference.norm().item())
        layers.append(
            LayerReceipt(
                name=name,
                type=name.rpartition(".")[2],
                shape=(weight.shape[0], weight.shape[1]),
                kernel=kernel,
                bits_per_weight=quantizer.layer_bits(weight.shape[1]),
                relative_error=round(norm / max(norms[-1], 1e-30), 5),
                error_norm=norm,
            )
        )
    sizes = {layer.name: layer.shape[0] * layer.shape[1] for layer in layers}
    quantized, total = sum(sizes.values()), sum(p.numel() for p in parent.parameters())
    types = dict.fromkeys(layer.type for layer in layers)
    bits = {t: _mean_bits([x for x in layers if x.type == t]) for t in types}
    overall = _mean_bits(layers)
    names = [layer.kernel for layer in layers]
    return {
        "layers": layers,
        "kernels": {name: names.count(name) for name in sorted(set(names))},
        "quantized_layers": len(layers),
        "quantized_share": round(quantized / total, 4),
        "left_out": _left_out(parent, sizes),
        "bits_per_weight": overall,
        "bits_per_weight_by_type": {t: b for t, b in bits.items() if b is not None},
        "bits_per_parameter": None
        if overall is None
        else round((overall * quantized + 16 * (total - quantized)) / total, 4),
        "relative_error": round(math.hypot(*(x.error_norm for x in layers)) / math.hypot(*norms), 5),
    }


def _mean_bits(layers: Sequence[LayerReceipt]) -> float | None:
    sizes = [layer.shape[0] * layer.shape[1] for layer in layers]
    bits = [layer.bits_per_weight for layer in layers]
    known = [b for b in bits if b is not None]
    if len(known) < len(bits) or not known:
        return None
    return round(sum(b * s for b, s in zip(known, sizes, strict=True)) / sum(sizes), 4)


def _left_out(parent: Any, quantized: Mapping[str, int]) -> list[str]:
    """Names of the parameters that are not quantized, one line for all blocks."""
    names = [n for n, _ in parent.named_parameters() if n.rpartition(".")[0] not in quantized]
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))


def changed_layers(model: Any, parent: Any) -> dict[str, str]:
    """Return the class of every plain linear layer whose matrix is not the parent's, by name."""
    import torch

    return {
        name: type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not torch.equal(module.weight, parent.get_submodule(name).weight)
    }


def unlike_parent(model: Any, parent: Any, rescales: bool) -> list[str]:
    """Return the warning that a checkpoint made elsewhere cannot be shown to hold the parent's weights.

    Quantization leaves embeddings and norms alone (a method that rescales only the embeddings and the
    last norm), so in a checkpoint of the same weights they are the parent's, up to a float type's
    rounding.

    Args:
        model: the checkpoint's model.
        parent: the unquantized model.
        rescales: whether norms inside the blocks may be scaled.
    """
    others = dict(model.named_parameters())
    different, compared = [], 0
    for name, expected in parent.named_parameters():
        embedding, norm = "embed" in name, expected.dim() == 1 and "norm" in name
        if not (embedding or (norm and not (rescales and ".layers." in name))):
            continue
        compared += 1
        found = others.get(name)
        if (
            found is None
            or found.shape != expected.shape
            or (found.float() - expected.float()).norm() > 0.01 * expected.float().norm()
        ):
            different.append(name)
    if compared and not different:
        return []
    what = (
        f"{len(different)} of {compared} parameters that quantization leaves alone differ"
        if compared
        else "none"
    )
    first = f" ({different[0]} first)" if different else ""
    return [
        f"not shown to be the parent's weights: {what}{first}. Differences to the parent need not come from "
        "quantization."
    ]


def weight_error(weight: Any, reference: Any, rescales: bool) -> float:
    """Return the Frobenius norm of weight - reference, in the reference's coordinates.

    Where a method rescales, weight is about diag(r) @ reference @ diag(c), and what precedes and
    follows the layer undoes both. r and c are found by alternating least squares and divided out. The
    fit has a number per row and column, so it takes next to nothing of an error that has one per entry.

    Args:
        weight: quantized matrix [out_features, in_features].
        reference: the parent's.
        rescales: whether rows and columns may be scaled.
    """
    import torch

    if not rescales:
        return float((weight - reference).norm())
    rows, columns = torch.ones(weight.shape[0], 1), torch.ones(1, weight.shape[1])
    rows, columns = rows.to(weight), columns.to(weight)
    for _ in range(8):
        scaled = rows * reference
        columns = (weight * scaled).sum(0, keepdim=True) / scaled.pow(2).sum(0, keepdim=True).clamp(min=1e-30)
        scaled = reference * columns
        rows = (weight * scaled).sum(1, keepdim=True) / scaled.pow(2).sum(1, keepdim=True).clamp(min=1e-30)
    scale = rows * columns
    scale = torch.where(scale.abs() < 1e-12, torch.ones_like(scale), scale)
    return float((weight / scale - reference).norm())


# The kernel


def inspect_kernel(model: Any, dense: Any, ids: Any) -> KernelReceipt:
    """Compare a quantized model on its kernel with the same weights as dense matrices.

    Args:
        model: the quantized model.
        dense: the dense one.
        ids: token ids [1, length].
    """
    import torch

    logits, gradient = embedding_gradient(model, ids)
    expected_logits, expected = embedding_gradient(dense, ids)
    difference = (logits - expected_logits).abs().max().item()
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0).item()
    return KernelReceipt(
        kernel=", ".join(sorted({type(m).__name__ for m in quantized_layers(model).values()})),
        kernel_dtype=str(model.dtype).removeprefix("torch."),
        largest_logit_difference_to_kernel=difference if math.isfinite(difference) else None,
        gradient_cosine=round(cosine, 4) if math.isfinite(cosine) else None,
    )


def embedding_gradient(model: Any, ids: Any) -> tuple[Any, Any]:
    """Return logits [length, vocabulary] and the gradient [length, width] at the input embeddings.

    The gradient is that of the text's negative log-likelihood, summed over tokens, in nats.
    """
    import torch

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.enable_grad(), exact_half_products():
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = model(inputs_embeds=embeddings).logits[0].float()
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, embeddings)
    return logits.detach(), gradient[0].float()


def check_same_logits(written: Any, read: Any, what: str) -> None:
    """Raise ModelError unless what was read computes what was written: logits [length, vocabulary]."""
    scale = written.float().abs().max().item()
    difference = (written.float() - read.float()).abs().max().item()
    if not difference <= SAME * max(scale, 1.0):
        raise ModelError(
            f"{what}: loaded again it gives other logits than the model that was written (largest difference "
            f"{difference:.3g}, logits up to {scale:.3g}). The files are damaged or the writer is; remove the "
            "folder and give the same command again, and report it if it comes back."
        )


# Outputs


def text_tokens(tokenizer: Any) -> list[int]:
    """Return the first TEXT_TOKENS tokens of the built-in news texts."""
    text = "\n\n".join(item.text for item in load_dataset("news").items)
    return list(tokenizer(text).input_ids[:TEXT_TOKENS])


class _Window(NamedTuple):
    """Sums over one window's predicted tokens."""

    loss: float
    parent_loss: float
    kl: float
    agreeing: int
    tokens: int


def text_logits(model: Any, ids: Sequence[int]) -> Iterator[Any]:
    """Yield a model's logits on a text, window by window.

    Args:
        model: a transformers model.
        ids: token ids; the first of each window of WINDOW tokens is not predicted.

    Yields:
        Logits [tokens - 1, vocabulary] in the model's type, on its device.
    """
    import torch

    for window in _windows(ids):
        with torch.inference_mode():
            part = torch.tensor(window, device=next(model.parameters()).device)
            logits = model(part[None]).logits[0, :-1]
        yield logits


def measure_text(found: Iterable[Any], expected: Iterable[Any] | None, ids: Sequence[int]) -> TextMeasures:
    """Measure a variant beside its parent on a text.

    KL is that of Dutta et al. 2024 (arXiv 2407.09141), from the parent to the variant.

    Args:
        found: the variant's logits, as `text_logits` yields them.
        expected: its parent's; None where the variant is the parent.
        ids: token ids.
    """
    parts = list(_windows(ids))
    beside = [None] * len(parts) if expected is None else expected
    windows = [_window(q, p, part) for q, p, part in zip(found, beside, parts, strict=True)]
    tokens = sum(w.tokens for w in windows)
    kl = sum(w.kl for w in windows) / tokens
    return TextMeasures(
        perplexity=_exp(sum(w.loss for w in windows) / tokens),
        parent_perplexity=_exp(sum(w.parent_loss for w in windows) / tokens),
        # Rounding of the logarithms can make a divergence of nothing negative.
        kl=max(kl, 0.0) if math.isfinite(kl) else None,
        top1_agreement=sum(w.agreeing for w in windows) / tokens,
    )


def _windows(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), WINDOW):
        if len(ids) - start > 1:
            yield ids[start : start + WINDOW]


def _window(found: Any, expected: Any, ids: Sequence[int]) -> _Window:
    import torch

    with torch.inference_mode():
        golds = torch.tensor(ids[1:], device=found.device)[:, None]
        expected = found if expected is None else expected.to(found.device)
        sums = [0.0, 0.0, 0.0, 0.0]
        # Piece by piece: a window's log-probabilities over a large vocabulary are a tenth of a gigabyte.
        for p, q, gold in zip(*(t.split(PIECE) for t in (expected, found, golds)), strict=True):
            p, q = p.float().log_softmax(-1), q.float().log_softmax(-1)
            sums[0] -= q.gather(1, gold).sum().item()
            sums[1] -= p.gather(1, gold).sum().item()
            sums[2] += (p.exp() * (p - q)).sum().item()
            sums[3] += (p.argmax(-1) == q.argmax(-1)).sum().item()
        return _Window(sums[0], sums[1], sums[2], int(sums[3]), len(ids) - 1)


def _exp(nats: float) -> float | None:
    return math.exp(nats) if nats < 700 else None


def fault(measures: TextMeasures, generated: Sequence[str], by_parent: Sequence[str]) -> str | None:
    """Return why a variant is broken, or None.

    Args:
        measures: on the fixed text.
        generated: its greedy continuations of a few prompts.
        by_parent: the parent's.
    """
    if measures.perplexity is None or measures.kl is None:
        return "its logits are not finite"
    if measures.parent_perplexity and measures.perplexity > EXPLOSION * measures.parent_perplexity:
        return (
            f"its perplexity is {measures.perplexity:.3g}, more than {EXPLOSION:g} times the parent's "
            f"{measures.parent_perplexity:.3g}"
        )
    if only_repeats(generated) and not only_repeats(by_parent):
        return f"it only repeats itself: {generated[0][:40]!r}"
    return None


def only_repeats(texts: Sequence[str]) -> bool:
    """Return whether every one of some generated texts is degenerate."""
    return bool(texts) and all(_degenerate(text) for text in texts)


def _degenerate(text: str) -> bool:
    """Whether a text is empty, or many times the same one or two words or characters."""
    words = text.split()
    if len(words) >= 8:
        return len(set(words)) <= 2
    return len(set(text.replace(" ", ""))) <= 2
