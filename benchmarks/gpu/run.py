"""Every quantizer on random Llamas: kernels, gradients, speed and memory on one GPU.

Needs no network and no checkpoint: a Llama of each size is made with random weights. Each method
quantizes it; its kernel is compared with the same weights as dense matrices (logits, gradient at the
embeddings); prefill and generation are timed beside the dense model. For GPTQ and AWQ the kernels that
gptqmodel chooses by itself are checked as well, since those are what users get who do not pin one.

The floor of generation is reading every weight once per step: bytes of the weights / memory bandwidth.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from stored import stored_bytes
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quantxai import machine, receipts, registry
from quantxai.checkpoints import dense_copy, load_dense, quantized_layers
from quantxai.footprint import weights_bytes
from quantxai.shapes import shape_of
from quantxai.workers import quiet

SIZES: dict[str, dict[str, int]] = {
    "toy": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 512},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "int8": ("bnb", {"format": "int8"}),
    "nf4": ("bnb", {"format": "nf4"}),
    "fp4": ("bnb", {"format": "fp4"}),
    "rtn-4": ("rtn", {"bits": 4}),
    "hqq-4": ("hqq", {"bits": 4}),
    "fp8": ("fp8", {}),
    "nvfp4a16": ("compressed-tensors", {"scheme": "NVFP4A16"}),
    "mxfp4a16": ("compressed-tensors", {"scheme": "MXFP4A16"}),
    "fp8-dynamic": ("compressed-tensors", {"scheme": "FP8_DYNAMIC"}),
    "w8a8": ("compressed-tensors", {"scheme": "W8A8"}),
    "gptq-4": ("gptq", {"bits": 4}),
    "awq-4": ("awq", {"bits": 4}),
}
CALIBRATION = (8, 256)
"""Sequences and their length, tokens: enough to quantize; quality is not the point of random weights."""


def make_parent(size: str, out: Path, dtype: str) -> None:
    """Write a Llama with random weights and a tokenizer of single characters."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=4096, tie_word_embeddings=size != "8b")
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(out)
    characters = {chr(i): i for i in range(32, 127)} | {"<unk>": 0, "<s>": 1, "</s>": 2}
    tokenizer = Tokenizer(models.BPE(vocab=characters, merges=[], unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(out)
    release()


def release() -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def seconds(call: Callable[[], Any], device: str, repeats: int = 3) -> float:
    """Shortest of some runs after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def speed(model: Any, device: str, prompt: int, rows: int, new: int) -> dict[str, float]:
    """Tokens per second: reading a prompt, and generating greedily for some rows."""
    ids = torch.randint(3, 90, (1, prompt), device=device)
    batch = torch.randint(3, 90, (rows, 16), device=device)
    with torch.inference_mode():
        prefill = seconds(lambda: model(ids), device)
        generation = seconds(
            lambda: model.generate(
                batch, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=2
            ),
            device,
            repeats=1,
        )
    return {"prefill_tokens_per_s": prompt / prefill, "generation_tokens_per_s": rows * new / generation}


def check(model: Any, dtype: str, device: str) -> dict[str, Any]:
    """The kernel beside dense matrices of the same weights."""
    ids = torch.randint(3, 90, (1, 32), device=device)
    return receipts.inspect_kernel(model, dense_copy(model, dtype), ids).model_dump()


def chosen_kernels(method: str, checkpoint: Path, dtype: str, device: str) -> dict[str, Any]:
    """What gptqmodel takes when it may choose: its class and its gradient."""
    from transformers import AwqConfig, GPTQConfig

    settings = (GPTQConfig if method == "gptq" else AwqConfig)(bits=4, group_size=64, backend="auto")
    model = load_dense(checkpoint, dtype, device, quantization_config=settings)
    return check(model, dtype, device)


def measure(name: str, parent: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Quantize, check and time one method."""
    method, settings = METHODS[name]
    if method in ("rtn", "hqq", "gptq", "awq") and options.size == "toy":
        settings = {**settings, "group_size": 32}
    quantizer = registry.method("quantizer", method).model_validate(settings)
    dtype = options.dtype if options.dtype in quantizer.kernel_dtypes else "float16"
    found: dict[str, Any] = {"method": name, "size": options.size, "dtype": dtype}
    source, start = parent, time.perf_counter()
    if quantizer.writes_checkpoint:
        source = folder / name
        source.mkdir()
        calibration = torch.randint(3, 90, CALIBRATION).tolist()
        read_in = quantizer.calibration_dtype(options.device, dtype)
        quantizer.quantize(parent, calibration, source, options.device, read_in, lambda model: None)
        found["quantization_seconds"] = time.perf_counter() - start
        release()
    model = quantizer.load(source, dtype, options.device)
    found["weight_bytes"] = stored_bytes(model)
    shape = shape_of(json.loads((parent / "config.json").read_text()))
    found["predicted_weight_bytes"] = weights_bytes(quantizer, shape, dtype)
    if quantized_layers(model):
        found |= check(model, dtype, options.device)
        release()
    found |= speed(model, options.device, options.prompt, options.rows, options.new)
    if options.device == "cuda":
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    del model
    release()
    if method in ("gptq", "awq"):
        try:
            found["chosen_by_gptqmodel"] = chosen_kernels(method, source, dtype, options.device)
        except Exception as error:  # a kernel that does not load here is a finding, too
            found["chosen_by_gptqmodel"] = {"error": f"{type(error).__name__}: {error}"[:300]}
        release()
    return found


def results(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure every method on every size; what fails says so and the others go on."""
    for size in options.sizes:
        options.size = size
        with tempfile.TemporaryDirectory() as scratch:
            parent = Path(scratch) / "parent"
            make_parent(size, parent, options.dtype)
            for name in options.methods:
                try:
                    yield measure(name, parent, Path(scratch), options)
                except Exception as error:  # reported in the results
                    traceback.print_exc()
                    yield {"method": name, "size": size, "error": f"{type(error).__name__}: {error}"[:300]}
                release()


def apart_from_chatter() -> TextIO:
    """Return the real standard output; what libraries print goes to a file in the temporary directory."""
    shown = os.fdopen(os.dup(1), "w")
    log = os.open(Path(tempfile.gettempdir()) / "quantxai-gpu.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return shown


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1b", "8b"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the prompt that is read")
    parser.add_argument("--rows", type=int, default=16, help="sequences generated at the same time")
    parser.add_argument("--new", type=int, default=64, help="tokens generated in each")
    parser.add_argument("--out", type=Path, help="file to write the JSON to")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    quiet()
    table = apart_from_chatter()
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "cpu"
    report: dict[str, Any] = {"device": name, "versions": machine.versions(), "results": []}
    columns = ("gradient_cosine", "prefill_tokens_per_s", "generation_tokens_per_s", "weight_bytes")
    print(
        f"{'size':5} {'method':8} {'kernel':24} " + " ".join(f"{c:>24}" for c in columns),
        file=table,
        flush=True,
    )
    for found in results(options):
        report["results"].append(found)
        cells = (f"{found[c]:>24.4g}" if found.get(c) is not None else f"{'-':>24}" for c in columns)
        kernel = found.get("error") or found.get("kernel", "Linear")
        print(
            f"{found['size']:5} {found['method']:8} {kernel[:24]:24} " + " ".join(cells),
            file=table,
            flush=True,
        )
        if options.out:  # after each, so that a run that is cut off keeps what it has
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n")
    if options.json:
        print(json.dumps(report), file=table, flush=True)


if __name__ == "__main__":
    main()
