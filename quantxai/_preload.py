"""Imported once by the server that worker processes are forked from; touches no GPU."""

import torch  # noqa: F401
import transformers  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import quantxai.engine  # noqa: F401
