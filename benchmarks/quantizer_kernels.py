"""The two places where quantizers' own code is replaced on a CPU, beside what they replace.

AWQ's clipping search: gptqmodel multiplies activations and weights element by element; the floor is the
product over second moments, rows x groups x size x size multiplications a candidate. int8 products:
bitsandbytes calls torch._int_mm; the floor is a float32 matrix product. Results must be the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from gptqmodel.looper.awq_processor import AWQProcessor

from quantizers.awq import best_clip
from quantizers.bnb import exact_int8_matmul


def best_of(call: Callable[[], Any], repeats: int = 3) -> float:
    """Return the shortest of some runs, seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def clipping(rows: int = 576, width: int = 576, tokens: int = 512) -> dict[str, float]:
    torch.manual_seed(0)
    weight, inputs = torch.randn(rows, width), torch.randn(tokens, width)
    processor = SimpleNamespace(qcfg=SimpleNamespace(group_size=64, sym=False, bits=4))
    processor._pseudo_quantize_tensor_into = lambda a, b: AWQProcessor._pseudo_quantize_tensor_into(
        processor, a, b
    )
    theirs = AWQProcessor._compute_best_clip(processor, weight, inputs)
    ours = best_clip(processor, weight, inputs)
    return {
        "gptqmodel_seconds": best_of(lambda: AWQProcessor._compute_best_clip(processor, weight, inputs), 1),
        "quantxai_seconds": best_of(lambda: best_clip(processor, weight, inputs)),
        "same_bounds_share": (theirs.reshape(-1) == ours.reshape(-1)).float().mean().item(),
    }


def int8(rows: int = 1024, inner: int = 1536, columns: int = 576) -> dict[str, float]:
    torch.manual_seed(0)
    a = torch.randint(-128, 128, (rows, inner), dtype=torch.int8)
    b = torch.randint(-128, 128, (columns, inner), dtype=torch.int8)
    x, y = a.float(), b.float()
    return {
        "int_mm_seconds": best_of(lambda: torch._int_mm(a, b.t())),
        "quantxai_seconds": best_of(lambda: exact_int8_matmul(a, b)),
        "float32_floor_seconds": best_of(lambda: x @ y.T),
        "same_products_share": (torch._int_mm(a, b.t()) == exact_int8_matmul(a, b)).float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    clip, product = clipping(), int8()
    clip["times_faster"] = clip["gptqmodel_seconds"] / clip["quantxai_seconds"]
    product["times_faster"] = product["int_mm_seconds"] / product["quantxai_seconds"]
    for title, result in (("AWQ clipping search", clip), ("int8 matrix product", product)):
        print(title)
        for name, value in result.items():
            print(f"  {name:25} {value:10.4f}")
    if options.json:
        print(json.dumps({"benchmark": "quantizer_kernels", "awq_clipping": clip, "int8_product": product}))


if __name__ == "__main__":
    main()
