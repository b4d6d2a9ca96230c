"""The live page: its function is attattr's own, its ONNX file that function, its JavaScript what Python says; in a browser, both ways."""

from __future__ import annotations

import json
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
AWKWARD = [  # accents, Chinese, an emoji, quotes and HTML, what tokenizers split and glue
    "Un café à Zürich: naïve, déjà vu, and lovely.",
    "好看 means that it is good to look at.",
    "A dull 🫠 film, and a good soundtrack 🎉!",
    """<b>"Never" dull</b> &amp; 'always' <script>alert(1)</script>""",
    "a\u200bfilm [SEP] that… doesn't unforgettabletastically-bore",
]
TEXTS: dict[str, list[Any]] = {  # a string, or a pair
    "sst2": attattr.examples("sst2")["sentence"][:20] + AWKWARD,
    "mnli": [(row["sentence1"], row["sentence2"]) for row in attattr.examples("mnli").select(range(4))],
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


def test_what_is_slow_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live_model, "KEPT", tmp_path / "kept")
    made = iter([b"first", b"second"])
    for made_of, wanted in ((["a"], b"first"), (["a"], b"first"), (["b"], b"second"), (["b"], b"second")):
        assert live_model.kept("model", made_of, lambda: next(made)) == wanted
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_the_sentences_computed_before_are_those_of_the_package(expected: dict[str, list[Attribution]]) -> None:
    rows = json.loads(live_model.EXAMPLES.read_text(encoding="utf-8"))
    assert [row["text"] for row in rows] == list(attattr.examples("sst2")["sentence"])
    for row, att in zip(rows[:20], expected["sst2"], strict=False):
        assert (row["label"], tuple(row["tokens"])) == (att.label, att.tokens)
        assert row["probability"] == pytest.approx(att.value, abs=1e-4)
        wanted = [float(att.scores[tuple(place)]) for *place, _ in row["strongest"]]
        largest = float(att.scores.max())
        assert wanted == pytest.approx([score for *_, score in row["strongest"]], abs=TOLERANCE * largest)
        assert [score for *_, score in row["strongest"]] == pytest.approx(list(att.strongest(10).score), abs=TOLERANCE * largest)


@pytest.fixture(scope="module")
def session() -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(live_model.contents()["model"])


@pytest.mark.parametrize("task", TEXTS)
def test_the_file_computes_what_the_package_does(session: Any, expected: dict[str, list[Attribution]], task: str) -> None:
    numbers = np.frombuffer(live_model.contents()[task], dtype=np.float16)
    several, together = live_model.RULES[1], live_model.RULES[0]  # in two passes
    nodes, shares = (part.numpy() for part in live_model.gauss(several))
    for text, att in zip(TEXTS[task][:4], expected[task], strict=False):
        ids, types = rows_of(task, text)
        given = {"ids": ids.numpy(), "types": types.numpy(), "task": numbers}
        passes = [
            session.run(None, given | {"nodes": nodes[at : at + together], "shares": shares[at : at + together]})
            for at in range(0, several, together)
        ]
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
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page(chromium: Browser, built_book: Path) -> Iterator[Page]:
    """The page, opened as a file: in all that is done with it here, no host is asked for anything."""
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    page.set_default_timeout(180_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{built_book / PAGE}")
    assert not [url for url in asked if "/_static/live/" in url], "nothing of the model comes before a click"
    yield page
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
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
    for att in expected["sst2"][:2]:
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
    found = page.evaluate(script, [texts, live_model.contents()["vocabulary"].decode()])
    wanted = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    assert [text for text, one, other in zip(texts, found, wanted, strict=True) if one != other] == []


def test_the_form_answers_by_keyboard(page: Page) -> None:
    page.reload()
    place = page.locator(".attattr-live")
    assert re.fullmatch(r"Load the model \(\d+ MB, once\) and decide", place.locator("button").inner_text())
    place.locator("textarea").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("never dull .")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    place.locator(".live-decision").wait_for()
    assert "positive" in place.locator(".live-decision").inner_text()
    assert "The scores are complete" in place.inner_text()
    assert place.locator("tbody tr").count() == 20
    assert place.locator("button").evaluate("button => button === document.activeElement")
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
    place.locator("textarea").fill("a 🫠 <i>film</i>")
    place.locator("button").click()
    page.wait_for_function("() => document.querySelector('.attattr-live').innerText.includes('no token for 1')")
    assert not place.locator("i").count()
    place.locator("textarea").fill("  ")
    place.locator("button").click()
    page.wait_for_function("() => document.querySelector('.attattr-live').innerText.includes('There is no text')")
    assert not place.locator(".live-decision").count()
    place.get_by_role("combobox", name="Task").select_option(index=1)
    assert re.fullmatch(r"Load the model \([1-9] MB, once\) and decide", place.locator("button").inner_text())
    place.locator("button").click()
    place.locator(".live-decision").wait_for()
    assert "contradiction" in place.locator(".live-decision").inner_text()


def test_a_long_text_does_not_freeze_the_page(page: Page) -> None:
    script = """async (text) => {
      let [last, gap] = [performance.now(), 0];
      const clock = setInterval(() => { gap = Math.max(gap, performance.now() - last); last = performance.now(); }, 10);
      const { seconds, tokens } = await attattr.attribute(text);
      clearInterval(clock);
      return [gap / 1000, seconds, tokens.length];
    }"""
    gap, seconds, tokens = page.evaluate(script, "The film is long, but never boring. " * 12)
    assert tokens > 100
    assert gap < seconds / 3


def test_what_was_computed_before_can_be_searched(page: Page) -> None:
    place = page.locator(".live-before")
    place.locator("summary").click()
    place.get_by_label("Search").fill("TOOTHpaste")
    option = place.locator("option")
    page.wait_for_function("() => document.querySelectorAll('.live-before option').length === 1")
    place.locator("select").select_option(label=option.inner_text())
    assert place.locator(".live-decision").inner_text()
    assert place.locator("tbody tr").count() == 10


def test_a_text_is_refused_in_words(page: Page) -> None:
    for text, task, words in (
        ("a", "sst3", "task sst3: expected one of sst2, mnli"),
        ("a", "mnli", "expected an array of two strings"),
        (1, "sst2", "1: expected a string"),
        ("", "sst2", "There is no text: write a sentence"),
        (["a", " "], "mnli", "There is no text: write two sentences, one in each field"),
        ("?! 10/10 🎉", "sst2", "There is no letter in this text: write a sentence"),
        ("\u200b", "sst2", "There is no letter"),
        ("word " * 127, "sst2", "This text has 129 tokens. At most 128 fit here: make it shorter"),
        ("ab" * 400_000 + " c" * 400_000, "sst2", "This text has 400003 tokens"),
    ):
        with pytest.raises(Exception, match=re.escape(words)):
            page.evaluate(ALL, [text, task])


def test_two_texts_at_once_are_answered_in_order(page: Page) -> None:
    script = """async () => {
      const order = [];
      const ask = (text) => attattr.attribute(text).then(({ tokens }) => order.push(tokens[1]), () => order.push("refused"));
      const all = Promise.all([ask("long and slow, and then some more of it"), ask(""), ask("short")]);
      await Promise.race([all, new Promise((resolve) => setTimeout(resolve, 60_000))]);
      return order;
    }"""
    assert page.evaluate(script) == ["long", "refused", "short"]


def test_a_worker_that_falls_is_words_and_another_one_next_time(chromium: Browser, built_book: Path) -> None:
    page = chromium.new_page()
    page.goto(f"file://{built_book / PAGE}")
    script = """() => {
      globalThis.Kept = Worker;
      globalThis.Worker = class { postMessage() { this.onmessage({ data: { error: "RangeError: out of memory" } }); } terminate() {} };
    }"""
    page.evaluate(script)
    place = page.locator(".attattr-live")
    place.locator("button").click()
    page.wait_for_function("() => document.querySelectorAll('.live-before option').length > 300")
    assert "It cannot be computed here: RangeError: out of memory. Sentences" in place.locator("[role=status]").inner_text()
    page.evaluate("() => { globalThis.Worker = Kept; }")
    place.locator("button").click()
    place.locator(".live-decision").wait_for(timeout=180_000)
    page.close()


def test_from_a_server_the_model_comes_once_with_a_bar(chromium: Browser, address: str) -> None:
    context = chromium.new_context()
    asked: list[list[str]] = []
    for name in (PAGE, "book/index.html"):  # what one page has loaded serves the other
        page = context.new_page()
        urls: list[str] = []
        page.on("request", lambda request, urls=urls: urls.append(request.url))
        page.goto(address + name)
        assert page.evaluate("typeof attattr.attribute") == "function"
        assert [url for url in urls if "/_static/live/" in url] == []
        place = page.locator(".attattr-live")
        bar = place.locator("progress")
        watch = "bar => { globalThis.most = 0; setInterval(() => { if (!bar.hidden) most = Math.max(most, bar.value / bar.max); }, 1); }"
        bar.evaluate(watch)
        place.locator("button").click()
        place.locator(".live-decision").wait_for(timeout=180_000)
        assert "positive" in place.locator(".live-decision").inner_text()
        assert bar.is_hidden()
        assert page.evaluate("most") == (1 if name == PAGE else 0)
        asked.append([url for url in urls if "/_static/live/" in url and url.startswith("http")])
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
