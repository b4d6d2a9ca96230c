import re
from html.parser import HTMLParser

import pytest
import torch

import attattr
from attattr import svg
from attattr.widgets import MAX_TOKENS, head_browser, steps_explorer

TEXT = "there is not a dull moment in this film ."


@pytest.fixture(scope="module")
def sst2():
    return attattr.load("sst2")


def parts(box):
    """The controls by name, and the widgets that hold the words and the picture."""
    *controls, words, picture = box.children
    return {control.description: control for control in controls}, words, picture


def assert_balanced(markup):
    """Every element of the picture is closed, and none is a script."""
    stack = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag != "script"
            stack.append(tag)

        def handle_endtag(self, tag):
            assert stack.pop() == tag

    Balance().feed(markup)
    assert not stack


def test_every_control_of_the_head_browser_changes_the_picture(sst2):
    controls, words, picture = parts(head_browser(*sst2, text=TEXT))
    assert "Decision: positive" in words.value
    assert_balanced(picture.value)
    for name, value in (("Show", "attribution"), ("Layer", 0), ("Head", 11), ("Text", "a cold , dull and deeply boring film .")):
        before = picture.value
        controls[name].value = value
        assert picture.value != before, name
        assert "Not drawn" not in words.value
        assert_balanced(picture.value)
    assert "layer 0, head 11" in picture.value and "boring" in picture.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty text"),
        ("   ", "empty text"),
        ("a || ", "empty text"),
        ("|| b", "empty text"),
        ("word " * 60, f"room for {MAX_TOKENS}"),
    ],
)
def test_bad_text_is_answered_in_words_and_the_picture_stays(sst2, text, expected):
    controls, words, picture = parts(head_browser(*sst2, text=TEXT))
    before = picture.value
    controls["Text"].value = text
    assert "Not drawn" in words.value and expected in words.value
    assert picture.value == before
    controls["Text"].value = "a dull film ."
    assert "Not drawn" not in words.value and picture.value != before


def test_text_that_looks_like_markup_is_shown_not_obeyed(sst2):
    controls, _, picture = parts(head_browser(*sst2, text=TEXT))
    controls["Text"].value = "<script>alert(1)</script> & a film"
    assert_balanced(picture.value)
    assert "&lt;" in picture.value


def test_head_browser_takes_pairs(sst2):
    _, words, picture = parts(head_browser(*sst2, text=("a warm film .", "a dull film .")))
    assert "Decision" in words.value and picture.value.count("[SEP]") > 1


def test_steps_explorer_shows_the_error_fall(sst2):
    controls, words, picture = parts(steps_explorer(*sst2, text=TEXT))

    def error():
        return float(re.search(r"true (\S+)", words.value)[1])

    coarse, before = error(), picture.value
    controls["Steps"].value = 40
    assert error() < coarse and picture.value != before
    controls["Rule"].value = "gauss-legendre"
    assert error() < 1e-3
    before = picture.value
    controls["Layer"].value = (controls["Layer"].value + 1) % 6
    assert picture.value != before


def test_colours_of_the_svg_are_those_of_the_figures():
    ((low, middle, high),) = svg.colors(torch.tensor([[-2.0, 0.0, 2.0]]).numpy(), 1.0, diverging=True)
    red, white, blue = ([int(float(v)) for v in re.findall(r"[\d.]+", color)] for color in (low, middle, high))
    assert red[0] > red[2] and blue[2] > blue[0] and min(white) > 240


def test_svg_names_every_connection():
    drawn = svg.heatmap(torch.eye(2), ["a", "b"], ["a", "b"], "attention", 1.0, "{:.0%}".format)
    assert "<title>a attends to b: 0%</title>" in drawn and "<title>b attends to b: 100%</title>" in drawn
    assert_balanced(drawn)
