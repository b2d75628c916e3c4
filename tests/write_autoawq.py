"""Write a checkpoint with AutoAWQ itself: run by the Python of the tox environment `autoawq`.

Its arguments are the parent's directory and the one to write.
AutoAWQ 0.2.9 is archived and needs an old transformers, which reads neither our tokenizer's class nor
shares an environment with gptqmodel.
"""

import sys

from awq import AutoAWQForCausalLM
from transformers import PreTrainedTokenizerFast

TEXT = "The capital of France is Paris, and the capital of Japan is Tokyo. "


def main(parent: str, out: str) -> None:
    """Quantize `parent` on the CPU, 4 bit in groups of 32, and save it in AutoAWQ's GEMM layout."""
    model = AutoAWQForCausalLM.from_pretrained(parent, device_map="cpu", safetensors=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{parent}/tokenizer.json")
    settings = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}
    # Its clipping wants at least 64 rows in every layer, and texts longer than the limit are dropped.
    model.quantize(
        tokenizer, quant_config=settings, calib_data=[2 * TEXT] * 64, max_calib_seq_len=64, apply_clip=False
    )
    model.save_quantized(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
