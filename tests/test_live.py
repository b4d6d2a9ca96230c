"""The live page: its function is attattr's own, its ONNX file that function, its JavaScript what Python says; in a browser, both ways."""

from __future__ import annotations

import random
import re
import sys
import threading
import unicodedata
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from conftest import ROOT

import attattr

sys.path.append(str(ROOT / "book" / "_ext"))
import live_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from attattr import Attribution

PAGE = "book/own-sentence.html"
TOLERANCE = 0.02  # of the largest score
TEXTS = {  # a string, or a pair
    task: [
        row[columns[0]] if len(columns) == 1 else tuple(row[column] for column in columns)
        for row in attattr.examples(task).select(range(count))
    ]
    for task, columns, count in (("sst2", ["sentence"], 14), ("mnli", ["sentence1", "sentence2"], 6))
}


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Attribution]]:
    """What Python says of the texts, to its own tolerance."""
    return {task: attattr.attribute(*attattr.load(task), texts) for task, texts in TEXTS.items()}


def farthest(found: Any, att: Attribution) -> float:
    """The largest difference of scores, as a part of the largest score."""
    return float(np.abs(np.asarray(found).reshape(att.scores.shape) - att.scores.numpy()).max() / att.scores.abs().max())


def rows_of(task: str, text: Any) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = attattr.load(task)[1](*([text] if isinstance(text, str) else text), return_tensors="pt")
    return encoded["input_ids"], encoded["token_type_ids"]


def test_the_function_is_that_of_the_package() -> None:
    base, layers, heads = live_model.weights_of_base()
    model, tokenizer = attattr.load("mnli")
    text = TEXTS["mnli"][0]
    att = attattr.attribute(model, tokenizer, text, steps=4)
    found = live_model.explain(base, layers, heads, *rows_of("mnli", text), live_model.weights_of_task("mnli", base), *live_model.gauss(4))
    for part, wanted in zip(found, (att.probabilities, att.attention, att.scores, att.difference), strict=True):
        assert (part.detach() - wanted).abs().max() < 1e-3 * wanted.abs().max()


def test_the_engine_is_the_one_that_was_vendored() -> None:
    words = (live_model.ENGINE / "LICENSE").read_text()
    listed = dict(reversed(line.split()) for line in re.findall(r"^[0-9a-f]{64}  .+$", words, re.MULTILINE))
    assert {path.name: sha256(path.read_bytes()).hexdigest() for path in live_model.ENGINE.iterdir() if path.name != "LICENSE"} == listed


def content(name: str) -> bytes:
    """What a script of the live page hands over."""
    text = (live_model.build() / f"{name}.js").read_bytes().removeprefix(b'attattr.take("%s", "' % name.encode()).removesuffix(b'");\n')
    return re.sub(rb"\\(.)", lambda found: {b"n": b"\n", b"r": b"\r"}.get(found[1], found[1]), text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def session() -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(content("model"))


@pytest.mark.parametrize("task", TEXTS)
def test_the_file_computes_what_the_package_does(session: Any, expected: dict[str, list[Attribution]], task: str) -> None:
    numbers = np.frombuffer(content(task), dtype=np.float16)
    for text, att in zip(TEXTS[task], expected[task], strict=True):
        ids, types = rows_of(task, text)
        nodes, shares = (part.numpy() for part in live_model.gauss(8))  # in two passes
        given = {"ids": ids.numpy(), "types": types.numpy(), "task": numbers}
        passes = [session.run(None, given | {"nodes": nodes[half], "shares": shares[half]}) for half in (slice(4), slice(4, 8))]
        probabilities, attention, scores, difference = passes[0]
        scores = scores + passes[1][2]
        assert att.probabilities is not None
        assert probabilities.argmax() == att.target
        assert np.abs(probabilities[: len(att.probabilities)] - att.probabilities.numpy()).max() < 0.01
        assert np.abs(attention - att.attention.numpy()).max() < 0.01
        assert farthest(scores, att) < TOLERANCE
        assert np.abs(difference - att.difference.numpy()).max() < 0.01


@pytest.fixture(scope="module")
def address(built_book: Path) -> Iterator[str]:
    """The built book on a server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built_book))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{PAGE}"
        server.shutdown()


@pytest.fixture(scope="module")
def page(chromium: Browser, built_book: Path) -> Iterator[Page]:
    """The page, opened as a file."""
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    page.set_default_timeout(180_000)
    page.goto(f"file://{built_book / PAGE}")
    yield page
    page.close()


ALL = "async ([text, task]) => { const found = await attattr.attribute(text, { task }); return { ...found, scores: [...found.scores] }; }"


@pytest.mark.parametrize("task", TEXTS)
def test_the_page_computes_what_python_does(page: Page, expected: dict[str, list[Attribution]], task: str) -> None:
    for text, att in zip(TEXTS[task], expected[task], strict=True):
        found = page.evaluate(ALL, [text, task])
        assert found["label"] == att.label
        assert tuple(found["tokens"]) == att.tokens
        assert att.value is not None
        assert found["probability"] == pytest.approx(att.value, abs=0.01)
        assert farthest(found["scores"], att) < TOLERANCE
        assert len(found["completeness"]) == len(att.scores)
        assert max(found["completeness"]) < 0.02
        largest = float(att.scores.max())
        for row in found["strongest"]:
            there = float(att.scores[row["layer"], row["head"], row["query"], row["key"]])
            assert row["score"] == pytest.approx(there, abs=TOLERANCE * largest)
        wanted = att.strongest(20).score.to_numpy()
        assert np.abs(np.array([row["score"] for row in found["strongest"]]) - wanted).max() < TOLERANCE * largest


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.4, 0.9])
def test_the_graph_of_the_page_is_that_of_the_package(page: Page, expected: dict[str, list[Attribution]], tau: float) -> None:
    script = "([scores, tokens, layers, heads, tau]) => attattr.graph({ scores, tokens, layers, heads }, tau)"
    for att in expected["sst2"][:4]:
        layers, heads = att.scores.shape[:2]
        found = page.evaluate(script, [att.scores.flatten().tolist(), att.tokens, layers, heads, tau])
        wanted = attattr.attribution_graph(att, tau=tau)
        assert {((edge["layer"] + 1, edge["query"]), (edge["layer"], edge["key"])) for edge in found} == set(wanted.edges)
        for edge in found:
            there = wanted.edges[(edge["layer"] + 1, edge["query"]), (edge["layer"], edge["key"])]
            assert edge["score"] == pytest.approx(there["score"], abs=1e-6)
            assert edge.get("head") == there.get("head")


def odd_texts(count: int) -> list[str]:
    """Our own sentences, and mixtures of their words with letters of all alphabets, emoji, blanks, special tokens and long words."""
    draw = random.Random(0)
    own = [text for task in ("sst2", "mnli") for row in attattr.examples(task) for text in row.values() if isinstance(text, str)]
    words = [word for text in own for word in text.split()]
    old = unicodedata.ucd_3_2_0  # what was as it is in an old Unicode is alike in every library
    letters = [
        chr(n) for n in range(0x20000) if (kind := old.category(chr(n))) not in ("Cn", "Cs") and kind == unicodedata.category(chr(n))
    ]
    special = ["[SEP]", "[CLS]", "ΣΑΣ", "İstanbul", "\u00a0", "\u200b", "\t", "x" * 100, "x" * 101, "😀", "👍🏽", "🎉"]

    def part() -> str:
        pool = draw.choice([letters, letters[:1200]])
        return draw.choice([draw.choice(words), draw.choice(special), "".join(draw.choices(pool, k=draw.randint(1, 6)))])

    return own + [draw.choice(["", " "]).join(part() for _ in range(draw.randint(1, 12))) for _ in range(count - len(own))]


def test_the_tokenizer_of_the_page_is_that_of_the_model(page: Page) -> None:
    tokenizer = attattr.load("sst2")[1]
    texts = odd_texts(5000)
    script = """([texts, words]) => {
      const vocabulary = attattr.vocabularyOf(words);
      return texts.map((text) => attattr.tokenize([text], vocabulary).ids);
    }"""
    found = page.evaluate(script, [texts, content("vocabulary").decode()])
    wanted = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    assert [text for text, one, other in zip(texts, found, wanted, strict=True) if one != other] == []


def test_the_form_answers_and_says_what_it_cannot_read(page: Page) -> None:
    page.reload()
    assert re.fullmatch(r"Load the model \(\d+ MB, once\) and decide", page.inner_text(".attattr-live button"))
    place = page.locator(".attattr-live")
    place.locator("textarea").fill("never dull .")
    place.locator("button").click()
    place.locator(".live-decision").wait_for()
    assert "positive" in place.locator(".live-decision").inner_text()
    assert "complete" in place.inner_text()
    drawings = []
    for key in ("Home", "End"):
        place.get_by_label("Threshold").press(key)
        drawings.append(place.locator(".live-picture").first.inner_html())
    assert drawings[0].count("live-up") > drawings[1].count("live-up") > 0
    heads = place.locator(".live-picture").nth(1)
    before = heads.inner_html()
    place.get_by_role("combobox", name="Head").select_option("7")
    place.get_by_role("combobox", name="Show").select_option("attention")
    assert heads.inner_html() != before
    said = place.locator("[role=status]")
    for text, words in (
        ("  ", "nothing to read"),
        ("word " * 200, "This text has 202 tokens"),
        ("?! 12", "no letter"),
        ("a 🫠 film", "no token for 1"),
    ):
        place.locator("textarea").fill(text)
        place.locator("button").click()
        page.wait_for_function("words => document.querySelector('.attattr-live').innerText.includes(words)", arg=words)
    assert "Computed" in said.inner_text()
    place.get_by_role("combobox", name="Task").select_option(index=1)
    place.locator("button").click()
    place.locator(".live-decision").wait_for()
    assert "contradiction" in place.locator(".live-decision").inner_text()


def test_what_was_computed_before_can_be_searched(page: Page) -> None:
    place = page.locator(".live-before")
    place.locator("summary").click()
    place.get_by_label("Search").fill("toothpaste")
    option = place.locator("option")
    page.wait_for_function("() => document.querySelectorAll('.live-before option').length === 1")
    place.locator("select").select_option(label=option.inner_text())
    assert place.locator(".live-decision").inner_text()
    assert place.locator("tbody tr").count() == 10


def test_a_text_is_refused_in_words(page: Page) -> None:
    for text, task, words in (
        ("a", "sst3", "expected one of"),
        ("a", "mnli", "two strings"),
        (["a", " "], "mnli", "in each field"),
        (1, "sst2", "a string"),
    ):
        with pytest.raises(Exception, match=words):
            page.evaluate(ALL, [text, task])


def test_from_a_server_the_model_comes_once(chromium: Browser, address: str) -> None:
    context = chromium.new_context()
    asked: list[list[str]] = []
    for _ in range(2):
        page = context.new_page()
        page.set_default_timeout(180_000)
        urls: list[str] = []
        page.on("request", lambda request, urls=urls: urls.append(request.url))
        page.goto(address)
        found = page.evaluate(ALL, ["never dull .", "sst2"])
        assert found["label"] == "positive"
        asked.append([url for url in urls if "/live/" in url and url.startswith("http")])
        page.close()
    context.close()
    assert len(asked[0]) == 5
    assert asked[1] == []


def test_without_webassembly_there_are_words_and_sentences(chromium: Browser, built_book: Path) -> None:
    page = chromium.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(f"file://{built_book / PAGE}")
    page.locator(".attattr-live button").click()
    page.wait_for_function("() => document.querySelectorAll('.live-before option').length > 300")
    assert "no WebAssembly" in page.get_by_role("status").inner_text()
    page.close()
