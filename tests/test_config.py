"""Configurations: the example is the default, and every mistake is named where it is made."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from quantxai.analysis import Analysis
from quantxai.config import Calibration, ModelConfig, SweepConfig, load_config, parse_config
from quantxai.errors import ConfigError
from quantxai.example import example_config
from quantxai.options import options

pytestmark = pytest.mark.bare

FULL = '[[variants]]\nquantizer = "full"\n'

MISTAKES = {
    "unknown quantizer": (
        FULL + '[[variants]]\nquantizer = "gptqq"',
        [
            "[[variants]] no. 2",
            "unknown quantizer 'gptqq'",
            "Did you mean 'gptq'?",
            "awq, bnb, checkpoint, compressed-tensors, dtype, fp8, full, gptq, hqq, noise, rerun, rtn",
        ],
    ),
    "unknown explainer": (
        '[[explainers]]\nexplainer = "memorisation"\ndataset = "relations"',
        ["[[explainers]] no. 1", "'memorisation'", "Did you mean 'memorization'?", "counterfactual"],
    ),
    "unknown scorer": (
        '[[scorers]]\nscorer = "flip"',
        ["[[scorers]] no. 1", "'flip'", "Did you mean 'flips'?", "similarity"],
    ),
    "bits = 5": (
        FULL + '[[variants]]\nquantizer = "gptq"\nbits = 5',
        ["[[variants]] no. 2", "bits = 5 is not allowed", "Did you mean 4?", "Allowed: 2, 3, 4, 8."],
    ),
    "misspelt value": (
        FULL + '[[variants]]\nquantizer = "bnb"\nformat = "nf5"',
        ["[[variants]] no. 2", 'format = "nf5"', "Did you mean 'nf4'?", '"int8", "nf4", "fp4"'],
    ),
    "value of the wrong kind": (
        '[calibration]\nlength = "many"',
        ['calibration.length = "many"', "valid integer"],
    ),
    "value out of bounds": ("workers = 0", ["workers = 0", "greater than or equal to 1"]),
    "bound in an entry": (
        '[[explainers]]\nexplainer = "memorization"\ndataset = "relations"\nn = 0',
        ["[[explainers]] no. 1", "n = 0", "greater than or equal to 1"],
    ),
    "misspelt key at the top": ("sed = 1", ["unknown key 'sed'", "Did you mean 'seed'?", "batch_tokens"]),
    "misspelt key in [model]": (
        '[model]\nnam = "x"',
        ["'model.nam'", "Did you mean 'name'?", "device, dtype"],
    ),
    "misspelt key in [calibration]": (
        "[calibration]\nlenght = 64",
        ["'calibration.lenght'", "Did you mean 'length'?", "sequences"],
    ),
    "misspelt key in [analysis]": (
        "[analysis]\nalfa = 0.1",
        ["'analysis.alfa'", "Did you mean 'alpha'?", "margins, pool, resamples"],
    ),
    "misspelt key of a variant": (
        '[[variants]]\nquantizer = "full"\nexecuton = "kernel"',
        ["[[variants]] no. 1", "'executon'", "Did you mean 'execution'?", "quantizer, seed"],
    ),
    "misspelt option of a quantizer": (
        FULL + '[[variants]]\nquantizer = "gptq"\ngroupsize = 64',
        ["[[variants]] no. 2", "'groupsize'", "Did you mean 'group_size'?", "act_order"],
    ),
    "misspelt option of an explainer": (
        '[[explainers]]\nexplainer = "memorization"\ndataset = "relations"\nshot = 2',
        ["[[explainers]] no. 1", "'shot'", "Did you mean 'shots'?", "max_new_tokens"],
    ),
    "misspelt option of a scorer": (
        '[[scorers]]\nscorer = "recall"\nfoo = 1',
        ["[[scorers]] no. 1", "unknown key 'foo'", "Allowed: scorer."],
    ),
    "unknown metric in margins": (
        '[analysis.margins]\n"recal.recall" = 0.05',
        ["analysis.margins", "'recal.recall'", "Did you mean 'recall.recall'?", "flips.failure"],
    ),
    "margin that is none": ('[analysis.margins]\n"recall.recall" = 0', ["recall.recall", "greater than 0"]),
    "key left out": (
        '[[explainers]]\nexplainer = "memorization"',
        ["[[explainers]] no. 1", "the key 'dataset' is missing"],
    ),
    "quantizer left out": (
        FULL + "[[variants]]\nbits = 4",
        ["[[variants]] no. 2", "'quantizer' is missing", "gptq"],
    ),
    "no table": ("variants = 3", ["variants must be a list of tables", "[[variants]]"]),
    "duplicate variants": (
        FULL + FULL,
        ["variants", "two entries have the name 'full'", "a name of its own"],
    ),
    "duplicate explainers": (
        2 * '[[explainers]]\nexplainer = "memorization"\ndataset = "relations"\n',
        ["explainers", "'memorization on relations'"],
    ),
    "no full variant": ('[[variants]]\nquantizer = "rtn"', ['no variant has quantizer = "full"', "parent"]),
    "not TOML": ("[[variants]]\nquantizer =\nseed = 1", ["not valid TOML", "line 2"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_where_it_is_made(mistake: str, tmp_path: Path) -> None:
    text, parts = MISTAKES[mistake]
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    for part in parts:
        assert part in message
    assert caught.value.exit_code == 2


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('sed = 1\n[model]\ndtype = "bf16"\n[analysis]\nalfa = 2')
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{file}: ") for line in lines)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: no such file.*quantxai init"):
        load_config(tmp_path / "no.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"seed = 1\x00"])
def test_a_file_that_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"sweep\.toml: (cannot be read|not valid TOML)"):
        load_config(file)


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_the_example_is_the_default_sweep() -> None:
    assert parse_config(tomllib.loads(example_config())) == parse_config({})


def test_the_example_explains_every_key() -> None:
    text = example_config()
    for record in (SweepConfig, ModelConfig, Calibration, Analysis):
        for option in options(record):
            assert option.name in text
    default = parse_config({})
    methods = [*(v.method() for v in default.variants), *(e.method() for e in default.explainers)]
    for option in (o for method in methods for o in options(type(method))):
        assert option.help
        assert f"#   {option.name} (" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_default_sweep_compares_the_variants_the_readme_names() -> None:
    assert [v.name for v in parse_config({}).variants] == [
        "full", "int8", "nf4", "gptq-4", "gptq-3", "awq-4", "rtn-4",
    ]  # fmt: skip


def test_a_default_left_out_and_written_down_are_one_configuration() -> None:
    short = parse_config({"variants": [{"quantizer": "full"}, {"quantizer": "gptq"}]})
    long = parse_config(
        {
            "seed": 0,
            "model": {"name": "smollm2-135m", "dtype": "auto"},
            "variants": [
                {"quantizer": "full", "name": "full", "dtype": "auto", "seed": 0},
                {"quantizer": "gptq", "bits": 4, "group_size": 64, "act_order": False, "execution": "auto"},
            ],
        }
    )
    assert short.digest() == long.digest()
    assert parse_config({"seed": 1}).digest() != parse_config({}).digest()
