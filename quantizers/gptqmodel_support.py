"""What GPTQ and AWQ share: importing gptqmodel so that it behaves as part of a program."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

__all__ = ["import_gptqmodel", "logs_discarded"]


@cache
def import_gptqmodel() -> Any:
    """Import gptqmodel with a worker pool that fits this machine and without its progress display."""
    # Its CPU pool refuses to start with more workers than cores allow; read at import.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(min(2, os.cpu_count() or 1)))
    import gptqmodel
    import torch

    # Its torch kernels compile themselves at the first call, a minute for what is then run once.
    torch._dynamo.config.disable = True
    logging.getLogger("gptqmodel").setLevel(logging.ERROR)
    return gptqmodel


@contextmanager
def logs_discarded() -> Iterator[None]:
    """Keep gptqmodel from leaving a `logs` directory wherever the user happens to be."""
    from gptqmodel.looper import loop_processor

    with (
        tempfile.TemporaryDirectory() as scratch,
        patch.object(loop_processor, "_PROJECT_LOG_DIR", Path(scratch)),
    ):
        yield
