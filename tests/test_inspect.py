"""`quantxai inspect`: what is printed, the page, and variants that are the sweep's own."""

from __future__ import annotations

import base64
import hashlib
import importlib
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from quantxai import inspection, workers
from quantxai.cli import app
from quantxai.config import parse_config
from quantxai.errors import InputError, ModelError
from quantxai.lens import Lens, Token, make_reading
from quantxai.report.lens import headline, lens_page, summary, visible

LAYERS, SIZE = 4, 40
WORDS = [" Paris", " the", "\n", "<script>alert(1)</script>", "\x1b[31m", "\u202eabc", "\\xe2", "東京"]


def text_of(token: int) -> str:
    return WORDS[token] if token < len(WORDS) else f" word{token}"


def log_probs(logits: Any) -> Any:
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def make_lens(*variants: str, broken: bool = False) -> Lens:
    """A made-up reading: the parent ends with token 0; a variant differs at layers 0 and 1, and is less sure."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(LAYERS + 1, SIZE))
    logits[:, 3] += 4
    logits[2:, 0] += 9
    facts = {"digest": "ab" * 32, "dtype": "bfloat16", "device": "cpu", "execution": "kernel"}
    base = log_probs(logits)
    readings = [make_reading(base, 0, text_of, variant="full", warnings=(), **facts)]
    for name in variants:
        moved = logits.copy()
        moved[:2, 4] += 8
        moved[2:, 1] += 8
        scores = log_probs(moved) * (math.nan if broken else 1)
        told = ("broken: it repeats itself",) if broken else ()
        readings.append(make_reading(scores, 0, text_of, parent=base, variant=name, warnings=told, **facts))
    tokens = tuple(Token(token=i, text=t) for i, t in enumerate(["The", " capital", " of", "\t"]))
    return Lens(
        model="tiny",
        prompt="The capital of\t",
        tokens=tokens,
        position=3,
        followed=Token(token=0, text=" Paris"),
        readings=tuple(readings),
        notes=("a note",),
    )


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in this process, in an empty directory, 100 columns wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["inspect", *arguments])

    return invoke


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command asks for, in place of reading a model."""
    found: list[dict[str, Any]] = []

    def inspect(prompt: str, variants: Any, **options: Any) -> Lens:
        found.append({"prompt": prompt, "variants": list(variants), **options})
        return make_lens(*variants)

    monkeypatch.setattr(inspection, "inspect", inspect)
    return found


# The terminal


@pytest.mark.bare
def test_the_table_marks_where_the_top_token_differs(call: Callable[..., Result], asked: list[Any]) -> None:
    done = call("The capital of", "--variant", "nf4")

    rows = {int(m[1]): m[2] for m in re.finditer(r"^ +(\d+)  (.+)$", done.stdout, re.MULTILINE)}
    assert done.exit_code == 0
    assert list(rows) == list(range(LAYERS + 1))
    assert [layer for layer, row in rows.items() if "*" in row] == [0, 1]
    assert all("␣Paris" in rows[layer] for layer in (2, 3, 4))
    assert "\x1b" not in done.stdout
    assert "\\x1b[3" in rows[0]  # the control character, escaped
    assert asked[0]["variants"] == ["nf4"]


@pytest.mark.bare
@pytest.mark.parametrize("columns", [60, 80, 100, 140])
@pytest.mark.parametrize("variants", [(), ("nf4",)])
def test_nothing_is_wider_than_the_terminal_or_cut(
    columns: int, variants: tuple[str, ...], call: Callable[..., Result], asked: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = call("a", *(part for name in variants for part in ("--variant", name))).stdout

    assert max(map(len, text.splitlines())) <= columns
    assert ".…" not in text
    assert re.search(r"^layer .*rank", text, re.MULTILINE)


@pytest.mark.bare
def test_the_sentences_say_what_the_table_shows() -> None:
    lens = make_lens("nf4")
    ours, theirs = (math.exp(r.last.logprob or 0) for r in reversed(lens.readings))

    assert (
        headline(lens)
        == f"After the prompt, the most likely token is ' Paris' for full ({theirs:.2f}) and nf4 ({ours:.2f})."
    )
    assert summary(lens, lens.variants[0]).startswith(
        f"nf4 gives the same top token as full from layer 2 on; at the last layer its probability of ' Paris' is "
        f"{ours:.2f} against {theirs:.2f}, and its KL divergence from full is "
    )


@pytest.mark.bare
def test_a_broken_variant_is_said_to_be_broken(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "inspect", lambda *_, **__: make_lens("gptq-3", broken=True))
    done = call("a", "--variant", "gptq-3", "--html", "page.html")

    assert done.exit_code == 0
    assert "not finite" in done.stdout
    assert "gptq-3 is broken: its numbers are not finite at the last layer." in done.stdout
    assert "! gptq-3: broken: it repeats itself" in done.stdout
    assert "not finite" in Path("page.html").read_text()


@pytest.mark.bare
def test_a_terminal_without_unicode_gets_ascii(
    call: Callable[..., Result], asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    importlib.import_module("quantxai.commands.inspect")._print(make_lens("nf4"))
    sys.stdout.flush()
    text = sys.stdout.buffer.getvalue().decode("ascii")

    assert "_Paris" in text


@pytest.mark.bare
def test_json_is_the_whole_reading(call: Callable[..., Result], asked: Any) -> None:
    found = json.loads(call("The capital of", "--variant", "nf4", "--json").stdout)

    assert Lens.model_validate(found) == make_lens("nf4")


@pytest.mark.bare
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a b", "␣a␣b"),
        ("\n\t", "\\n\\t"),
        ("\x00", "\\x00"),
        ("\xa0", "\\xa0"),
        ("\u200b", "\\u200b"),
        ("\u0301", "◌\u0301"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("é東", "é東"),
    ],
)
def test_every_character_can_be_seen(text: str, shown: str) -> None:
    assert visible(text) == shown


# Arguments


@pytest.mark.bare
def test_help_ends_with_an_example_and_names_the_default_variants(call: Callable[..., Result]) -> None:
    text = " ".join(call("--help").stdout.split())

    assert 'Example: quantxai inspect smollm2-135m "The capital of France is" --variant gptq-4' in text
    names = [v.name for v in parse_config({}).variants if v.quantizer != "full"]
    assert f"({', '.join(names)})" in text


@pytest.mark.bare
def test_one_argument_is_the_prompt_and_two_are_model_and_prompt(
    call: Callable[..., Result], asked: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text('[model]\nname = "org/other"')
    call("hello")
    call("org/model", "hello")
    call("hello", "--config", "mine.toml")
    call("org/model", "hello", "--config", "mine.toml", "--token", " x", "--position", "2", "--top", "5")

    names = [options["config"].model.name for options in asked]
    assert names == ["smollm2-135m", "org/model", "org/other", "org/model"]
    assert {options["prompt"] for options in asked} == {"hello"}
    assert (asked[0]["token"], asked[0]["position"], asked[0]["top"]) == (None, -1, 3)
    assert (asked[3]["token"], asked[3]["position"], asked[3]["top"]) == (" x", 2, 5)


@pytest.mark.bare
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["give a prompt"]),
        (["smollm2-135m"], ["'smollm2-135m' is a model", "give a prompt"]),
        ([""], ["the prompt is empty"]),
        (["smollm2-135m", ""], ["the prompt is empty"]),
        (["smollm2-135", "a"], ["Did you mean 'smollm2-135m'?"]),
        (["a", "--variant", "gptq4"], ["unknown variant 'gptq4'", "Did you mean 'gptq-4'?", "rtn-4"]),
        (["a", "--config", "no.toml"], ["no.toml: no such file"]),
        (["a", "--html", "."], ["is a directory", "lens.html"]),
    ],
)
def test_a_mistake_ends_with_one_message(
    arguments: list[str], parts: list[str], call: Callable[..., Result], tmp_path: Path
) -> None:
    done = call(*arguments)

    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("quantxai: error: ")
    for part in parts:
        assert part in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.bare
def test_a_variant_that_a_configuration_lacks_names_the_file(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text('[[variants]]\nquantizer = "full"\n[[variants]]\nquantizer = "rtn"')
    done = call("a", "--config", "mine.toml", "--variant", "rtn4")

    assert done.exit_code == 2
    assert done.stderr.startswith("quantxai: error: mine.toml: unknown variant 'rtn4'. Did you mean 'rtn-4'?")


# The page


class Page(HTMLParser):
    """Tags that are open in the wrong place, and what a page names."""

    VOID = {"meta", "input", "line", "circle", "polygon", "polyline", "br"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.bare
@pytest.mark.parametrize("variants", [(), ("nf4",), ("int8", "nf4", "gptq-3")])
def test_the_page_is_complete_and_asks_for_nothing(variants: tuple[str, ...]) -> None:
    html = lens_page(make_lens(*variants)).decode()
    page = Page(html)
    names = {name for name, _ in page.attributes}

    assert page.open == []
    assert page.tags.count("tbody") == 1
    assert html.count('<th scope="row">') == LAYERS + 1
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "style"} & names
    assert not any(name.startswith("on") for name in names)
    assert all((value or "").startswith("#") for name, value in page.attributes if name == "href")
    assert ("tabindex", "0") in page.attributes
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src &#39;none&#39;; style-src &#39;sha256-{digest}&#39;" in html.replace("'", "&#39;")
    assert "url(" not in style[1]
    assert "prefers-color-scheme: dark" in style[1]


@pytest.mark.bare
def test_tokens_stay_text_on_the_page() -> None:
    html = lens_page(make_lens("nf4")).decode()

    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "\x1b" not in html
    assert "\u202e" not in html


@pytest.mark.bare
def test_the_page_marks_what_differs() -> None:
    html = lens_page(make_lens("nf4")).decode()

    assert html.count('<span class="aloud"> differs</span>') == 2
    assert html.count('<tr class="same">') == LAYERS - 1
    assert html.count('aria-current="true"') == 1
    assert 'id="only"' in html
    assert 'id="only"' not in lens_page(make_lens()).decode()


# Real variants of the tiny model


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs jobs in this process; returns the lines they tell."""
    pytest.importorskip("torch")
    told: list[str] = []

    def run_jobs(jobs: Any, workers: int, handle: Any, log: Path) -> None:
        def send(job: Any) -> Callable[[str, Any], None]:
            return lambda kind, value: handle(job, (kind, value))

        for job in jobs:
            try:
                job(send(job))
            except InputError as error:  # as a process of its own tells it
                handle(job, ("failed", (job.name, str(error))))

    monkeypatch.setattr(workers, "run_jobs", run_jobs)
    monkeypatch.setattr(inspection, "in_own_process", lambda function, *given: function(*given))
    return told


class Told:
    """A progress that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def tiny_config(tiny_path: Path, **tables: Any) -> Any:
    variants = [{"quantizer": "full"}, {"quantizer": "rtn", "bits": 3}]
    model = {"name": str(tiny_path), "dtype": "float32"}
    return parse_config({"model": model, "variants": variants, **tables})


PROMPT = "The capital city of France is"


def test_a_sweeps_checkpoint_is_used_as_it_is(here: Any, tiny_path: Path) -> None:
    from quantxai.plan import make_plan
    from quantxai.preparation import prepare

    config = tiny_config(tiny_path)
    planned = make_plan(config).variants[1]
    prepare(planned, tiny_path, print)
    before = {f: f.stat().st_mtime_ns for f in planned.folder.rglob("*")}
    assert any(f.suffix == ".safetensors" for f in before)
    progress: Any = Told()

    lens = inspection.inspect(PROMPT, ["rtn-3"], config=config, progress=progress)

    assert progress.lines == [f"{name}: reading the prompt layer by layer" for name in ("full", "rtn-3")]
    assert {f: f.stat().st_mtime_ns for f in planned.folder.rglob("*")} == before
    assert [r.digest for r in lens.readings] == [v.digest for v in make_plan(config).variants]


def test_the_readings_are_those_of_the_models(here: Any, tiny_path: Path) -> None:
    import torch

    from quantxai.checkpoints import load_dense, load_tokenizer
    from quantxai.models import resolve
    from quantxai.preparation import load_variant
    from quantxai.variants import resolve_variants

    config = tiny_config(tiny_path)
    lens = inspection.inspect(PROMPT, ["rtn-3"], config=config, top=2)
    variant = resolve_variants(config, resolve(str(tiny_path)))[1]
    ids = torch.tensor([load_tokenizer(tiny_path)(PROMPT).input_ids])
    models = [load_dense(tiny_path, "float32", "cpu"), load_variant(variant, tiny_path)]

    with torch.inference_mode():
        own, other = (model(ids).logits[0, -1].double().log_softmax(-1) for model in models)
    last = lens.variants[0].last
    assert lens.followed.token == lens.parent.last.top[0].token == own.argmax()
    assert " Paris".startswith(lens.followed.text)  # the tiny tokenizer's first token of it
    assert last.logprob == pytest.approx(other[own.argmax()].item(), abs=1e-5)
    assert last.kl == pytest.approx((own.exp() * (own - other)).sum().item(), abs=1e-5)
    assert last.kl > 1e-4
    assert len(last.top) == 2
    assert [t.text for t in lens.tokens] == ["The", " capital", " city", " of", " France", " is"]
    assert lens.parent.layers[0].kl is None


def test_a_followed_token_and_a_position(here: Any, tiny_path: Path) -> None:
    lens = inspection.inspect(PROMPT, config=tiny_config(tiny_path), token=" Tokyo tower", position=1)

    assert lens.followed.text in " Tokyo"
    assert "the first of them is followed" in lens.notes[0]
    assert lens.position == 1
    assert "After token 1, ' capital'" in headline(lens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "word " * 1100}, "more than the model's context of 1024"),
        ({"position": 6}, "the prompt has 6 tokens"),
        ({"token": ""}, "at least one character"),
    ],
)
def test_what_cannot_be_read_is_told_before_anything_is_quantized(
    here: Any, tiny_path: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "prepare", lambda *_: pytest.fail("quantized"))
    config = tiny_config(tiny_path)

    with pytest.raises(ModelError, match=message):
        inspection.inspect(**{"prompt": PROMPT, "variants": ["rtn-3"], "config": config, **options})


def test_a_model_that_cannot_be_looked_into_is_named(
    here: Any, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantxai.engine import TransformersModel

    def refuse(self: Any) -> None:
        raise ModelError("architecture 'odd' cannot be looked into: not found: the final norm")

    monkeypatch.setattr(TransformersModel, "internals", refuse)
    with pytest.raises(ModelError, match="not found: the final norm"):
        inspection.inspect(PROMPT, config=tiny_config(tiny_path))


@pytest.mark.e2e
def test_the_commands_own_process_never_imports_torch(tiny_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from quantxai.cli import app\n"
        f"sys.argv = ['quantxai', 'inspect', {str(tiny_path)!r}, 'The capital city of France is',\n"
        "            '--variant', 'rtn-4', '--html', 'page.html']\n"
        "try: app()\n"
        "finally: print('torch' in sys.modules)"
    )
    file = tmp_path / "run.py"
    file.write_text(
        f"if __name__ == '__main__':\n{''.join(f'    {line}{chr(10)}' for line in code.splitlines())}"
    )
    done = subprocess.run(
        [sys.executable, file], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False\n")
    assert "rtn-4" in done.stdout
    assert (tmp_path / "page.html").is_file()
