"""Imported once by the server that worker processes are forked from; touches no GPU."""

import torch  # noqa: F401
import transformers
import transformers.modeling_utils  # noqa: F401  (else every worker spends seconds on it)
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

import quantxai.engine  # noqa: F401
