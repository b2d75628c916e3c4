"""Imported once by the server that worker processes are forked from; touches no GPU."""

import gc
import os
import sys

# What is imported stays. Looking through it for garbage again and again took 2.4 of 6.1 processor seconds.
gc.disable()
# torchao reports every optional kernel it does not find to the terminal, which the user can do nothing about.
sys.stderr.flush()
_terminal, _nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 2)
try:
    import torch  # noqa: F401
    import transformers
    import transformers.modeling_utils  # noqa: F401  (without it every worker spends three seconds on it)
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

    import quantxai.engine
    import quantxai.jobs  # noqa: F401
finally:
    os.dup2(_terminal, 2)
    os.close(_terminal)
    os.close(_nowhere)
    gc.freeze()  # in the forked processes, too: each full collection of theirs would go through it
    gc.enable()
