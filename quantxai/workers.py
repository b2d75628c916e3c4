"""The processes that compute: one per variant, forked from a server that has torch imported.

The server imports the heavy libraries once and never touches a GPU, so a fork costs milliseconds and
whatever a variant allocated is freed for certain when its process ends.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from quantxai.errors import ModelError, OutOfSpace, QuantxaiError

__all__ = ["Job", "Message", "Send", "describe", "in_own_process", "quiet", "run_job", "run_jobs"]

Message = tuple[str, Any]
"""(kind, value): line text; done (CellKey, items, seconds); failed or died (CellKey or job name, reason);
value anything."""
Send = Callable[[str, Any], None]


@dataclass(frozen=True)
class Job:
    """What one process does. Subclasses add their inputs and `__call__`."""

    name: str
    threads: int

    def __call__(self, send: Send) -> None:
        """Do the work, telling the parent process through `send(kind, value)`."""
        raise TypeError("a job has to say what it does")

    def failed(self, reason: str, trace: str) -> None:
        """Keep what is to be kept of an exception that ended the job: one line, and the traceback."""


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return function(*arguments), computed in a fork: what it leaves in memory is gone with it.

    Raises:
        ModelError: the process died.
        Exception: what the function raised; only its message where it cannot be handed over.
    """
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(send, function, arguments))
    process.start()
    send.close()
    try:
        kind, value = receive.recv()
    except EOFError:
        process.join()
        raise ModelError(_death(multiprocessing.current_process().name, process.exitcode or 0)) from None
    process.join()
    if kind == "raised":
        raise value
    return value


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    _die_with_parent()
    # torch makes its thread pool anew at the first call after a fork, and two threads that call first break it.
    torch.set_num_threads(torch.get_num_threads())
    message: tuple[str, Any]
    try:
        message = ("value", function(*arguments))
    except Exception as error:  # raised again in the process that asked
        traceback.print_exc()
        message = ("raised", _portable(error))
    connection.send(message)
    connection.close()


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever pickling an unknown exception may raise
        return ModelError(describe(error))
    return error


def describe(error: BaseException) -> str:
    """Return one line a reader can use: quantxai's own message, or the exception with its kind."""
    return str(error) if isinstance(error, QuantxaiError) else f"{type(error).__name__}: {error}"


def quiet() -> None:
    """Keep libraries' chatter out of the sweep's own output."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("transformers", "torchao", "bitsandbytes", "optimum", "torch", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import transformers

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def run_job(job: Job, log: Path, report: Callable[[str], None] | None = None) -> Any:
    """Run one job in a process of its own and return the value it tells.

    Args:
        job: what is run.
        log: file that receives whatever libraries print.
        report: called with every line of text that the job tells.

    Raises:
        ModelError: the job failed, or its process died.
        OutOfSpace: the disk is full.
    """
    told: list[Any] = []

    def handle(job: Job, message: Message) -> None:
        kind, value = message
        if kind == "line" and report is not None:
            report(value)
        elif kind == "value":
            told.append(value)
        elif kind == "full":
            raise OutOfSpace(value)
        elif kind in ("failed", "died"):
            raise ModelError(value[1])

    run_jobs([job], 1, handle, log)
    return told[-1]


def run_jobs(jobs: Sequence[Job], workers: int, handle: Callable[[Job, Message], None], log: Path) -> None:
    """Run jobs in processes of their own, at most `workers` at a time, and hand on what they tell.

    A job that raises ends in a message ("failed", (job name, reason)), one whose process dies in
    ("died", (job name, reason)).

    Args:
        jobs: in the order they start.
        workers: processes at a time.
        handle: called in this process with every message.
        log: file that receives whatever libraries print.
    """
    context = _server()
    waiting, running = list(jobs), dict[Connection, tuple[Job, Any]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                receive, send = context.Pipe(duplex=False)
                arguments = (job, send, str(log), dict(os.environ))
                process = context.Process(target=_main, args=arguments, name=job.name)
                process.start()
                send.close()
                running[receive] = (job, process)
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                job, process = running[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):  # the second where it died in the middle of a message
                    process.join()
                    del running[connection]
                    if process.exitcode:
                        handle(job, ("died", (job.name, _death(job.name, process.exitcode))))
                else:
                    handle(job, message)
    finally:
        for _, process in running.values():
            process.terminate()
            process.join(5)


def _server() -> Any:
    # Read by OpenMP when torch is imported: without it two busy processes slow each other threefold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Lets libraries ask whether there is a GPU without starting one, which a forked process could not use.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if shutil.which("ninja") is None:
        # gptqmodel's packer is compiled with the ninja on PATH; where the environment is not activated, the
        # one its package brought lies beside the interpreter.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["quantxai._preload"])
    return context


def _death(name: str, code: int) -> str:
    if code < 0:
        return (
            f"the process of '{name}' was ended by signal {-code}; if that was the system running out of memory, "
            "lower batch_tokens or workers, then give the same command again"
        )
    return f"the process of '{name}' ended with code {code}"


def _main(job: Job, connection: Connection, log: str, environment: dict[str, str]) -> None:
    """Run one job in a forked process."""
    _die_with_parent()
    os.environ.clear()
    os.environ.update(environment)  # the server still has that of its start
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    torch.set_num_threads(job.threads)
    quiet()

    def send(kind: str, value: Any) -> None:
        connection.send((kind, value))

    try:
        job(send)
    except Exception as error:  # the parent process reports it and goes on with other jobs
        traceback.print_exc()
        job.failed(describe(error), traceback.format_exc())
        if isinstance(error, OutOfSpace):
            send("full", describe(error))
        send("failed", (job.name, describe(error)))
    finally:
        gc.collect()
        connection.close()


def _die_with_parent() -> None:
    """End this process when the one that asked for it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
