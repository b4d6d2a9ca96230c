import html
import re
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest

import attattr
from attattr.figures import graph_sentences
from attattr.figures.grammar import heat, page, token_labels
from attattr.figures.graphs import edges_of
from attattr.figures.tokens import TRIGGER
from attattr.graph import attribution_graph
from attattr.svg import picture as as_svg
from attattr.triggers import Trigger, attribute_attacked
from attattr.widgets import MAX_TOKENS, graph_explorer, head_browser, steps_explorer, trigger_explorer

TEXT = "there is not a dull moment in this film ."


@pytest.fixture(scope="module")
def sst2():
    return attattr.load("sst2")


@pytest.fixture(scope="module")
def browser(sst2):
    return head_browser(*sst2, text=TEXT)


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
def test_bad_text_is_answered_in_words_and_the_picture_stays(browser, text, expected):
    controls, words, picture = parts(browser)
    controls["Text"].value = TEXT
    before = picture.value
    controls["Text"].value = text
    assert "Not drawn" in words.value and expected in words.value
    assert picture.value == before
    controls["Text"].value = "a dull film ."
    assert "Not drawn" not in words.value and picture.value != before


def test_text_that_looks_like_markup_is_shown_not_obeyed(browser):
    controls, _, picture = parts(browser)
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


PAIR = ("hardly anybody on our street locks their door", "Most people on our street do not lock their door.")


@pytest.fixture(scope="module")
def mnli():
    return attattr.load("mnli")


def graph_parts(box):
    """The text, the τ for all layers, the box to tick, the τ of each layer; words and picture."""
    sentence, tau, several, drawer, words, picture = box.children
    return sentence, tau, several, drawer, words, picture


def told(picture):
    """What the curves of a graph say under the pointer: layer, reader, read."""
    return sorted(re.findall(r"<title>layer (\d+), head \d+: (\S+(?: ·\d+)?) reads (\S+(?: ·\d+)?), score", picture.value))


def expected(att, tau):
    labels = token_labels(att.tokens)
    return sorted((str(v[0]), labels[u[1]], labels[v[1]]) for u, v in edges_of(attribution_graph(att, tau), "attention"))


def test_the_graph_explorer_draws_the_graph_of_its_tau_and_says_it(mnli):
    att = attattr.attribute(*mnli, PAIR)
    _, tau, several, drawer, words, picture = graph_parts(graph_explorer(*mnli, text=PAIR))
    assert drawer.layout.display == "none" and not tau.disabled
    assert told(picture) == expected(att, 0.4)
    assert_balanced(picture.value)
    sentences = html.unescape(re.search(r"<details>.*<p>(.*)</p></details>", picture.value)[1])
    assert sentences == graph_sentences(attribution_graph(att, 0.4))
    tau.value = 0.7
    assert told(picture) == expected(att, 0.7) != expected(att, 0.4)
    before = picture.value
    several.value = True
    assert drawer.layout.display == "flex" and tau.disabled
    assert [slider.description for slider in drawer.children] == [f"layer {n}" for n in range(6)]
    assert picture.value == before  # each layer starts where all were
    drawer.children[4].value = 0.0
    drawer.children[5].value = 0.9
    assert told(picture) == expected(att, [0.7, 0.7, 0.7, 0.7, 0.0, 0.9])
    assert f"{len(told(picture))} of them are drawn" in words.value
    assert_balanced(picture.value)
    several.value = False
    assert picture.value == before
    several.value = True
    assert picture.value == before  # also when it is opened again
    several.value = False
    assert picture.value == before and drawer.layout.display == "none" and not tau.disabled


def test_the_graph_explorer_tells_premise_and_hypothesis_apart(mnli):
    *_, picture = graph_parts(graph_explorer(*mnli, text=PAIR))
    color = {word: color for color, word in re.findall(r'fill="(#\w+)"[^>]*>(?:<tspan>)?(hardly|not|premise|hypothesis)<', picture.value)}
    assert color["hardly"] == color["premise"] != color["not"] == color["hypothesis"]
    sentence, *_ = box = graph_parts(graph_explorer(*mnli, text="a single text"))
    assert "<rect" not in box[-1].value
    sentence.value = "now a pair || of two texts"
    assert box[-1].value.count("<rect") == 2


def test_a_single_text_with_bars_in_it_is_no_pair(sst2):
    code = "if this || that , a warm film ."
    sentence, *_, words, picture = graph_parts(graph_explorer(*sst2, text=code))
    assert attattr.attribute(*sst2, code).amount in words.value and "<rect" not in picture.value
    sentence.value = "if that || this , a dull film ."
    assert attattr.attribute(*sst2, sentence.value).amount in words.value


@pytest.mark.parametrize(("text", "expected"), [("", "empty text"), ("word " * 60, f"room for {MAX_TOKENS}")])
def test_a_bad_text_leaves_the_graph_as_it_was(sst2, text, expected):
    sentence, *_, words, picture = graph_parts(graph_explorer(*sst2, text=TEXT))
    before = picture.value
    sentence.value = text
    assert "Not drawn" in words.value and expected in words.value and picture.value == before


def test_a_tau_that_keeps_no_edge_is_answered_in_words(sst2):
    _, _, several, drawer, words, picture = graph_parts(graph_explorer(*sst2, text=TEXT))
    several.value = True
    for slider in drawer.children:
        before, slider.value = picture.value, 1.0
    assert "Not drawn" in words.value and "lower τ" in words.value and picture.value == before
    drawer.children[3].value = 0.5
    assert "Not drawn" not in words.value and {layer for layer, *_ in told(picture)} == {"3"}


def test_a_graph_shows_text_that_looks_like_markup(sst2):
    sentence, *_, picture = graph_parts(graph_explorer(*sst2, text=TEXT))
    sentence.value = "<script>alert(1)</script> & a film"
    assert_balanced(picture.value)
    assert "&lt;" in picture.value


NEVER, ODD = (Trigger(tokens, (0.4,) * len(tokens), (0,) * len(tokens), 0.1, "negative") for tokens in (("fails",), ("never", "<")))
TEXTS = [TEXT, "a cold , dull and deeply boring film ."]


def arcs(picture):
    """Width, colour and words of every arc, in the order of drawing."""
    pattern = r'stroke="(#\w+)" stroke-width="([\d.]+)" opacity="[\d.]+"><title>([^<]*)</title>'
    return [(float(width), color, html.unescape(told)) for color, width, told in re.findall(pattern, picture.value)]


def test_the_trigger_explorer_shows_both_decisions_and_what_they_rest_on(sst2):
    model, tokenizer = sst2
    controls, words, picture = parts(trigger_explorer(model, tokenizer, [NEVER, ODD], TEXTS))
    before, (after, (place,)) = attattr.attribute(model, tokenizer, TEXT), attribute_attacked(model, tokenizer, TEXT, NEVER)
    assert_balanced(picture.value)
    assert ("The decision flips." in words.value) == (before.label != after.label)
    assert f"{before.label}, p = {float(before.probabilities.max()):.3f}." in words.value
    for name, p, q in zip(("negative", "positive"), before.probabilities, after.probabilities, strict=True):
        assert (
            f"<title>{name}: {round(float(p), 3):.3f}</title>" in picture.value
            and f"<title>{name}: {round(float(q), 3):.3f}</title>" in picture.value
        )
    drawn, links = arcs(picture), after.strongest(10, over="all")
    touching = (links["query"].eq(place) | links["key"].eq(place)).tolist()
    assert len(drawn) == 10 + len(before.strongest(10, over="all")) and after.tokens[place] == "fails"
    assert [color == TRIGGER for _, color, _ in reversed(drawn[-10:])] == touching
    first = links.iloc[0]
    assert drawn[-1][2].startswith(f"{after.tokens[int(first['query'])]} reads {after.tokens[int(first['key'])]}, {first['score']:+.3f}")
    assert f"{sum(touching)} of the 10 largest scores" in words.value
    controls["Arcs"].value = 3
    assert len(arcs(picture)) == 6


def test_every_control_of_the_trigger_explorer_changes_the_picture(sst2):
    controls, words, picture = parts(trigger_explorer(*sst2, [NEVER, ODD], TEXTS))
    names = controls["Trigger"].options
    assert names[1] == "2: never, < (to negative)"
    for name, value in (("Arcs", 4), ("Trigger", names[1]), ("Example", TEXTS[1]), ("Text", "<b>my own</b> film & me")):
        before = picture.value
        controls[name].value = value
        assert picture.value != before and "Not drawn" not in words.value, name
        assert_balanced(picture.value)
    assert "&lt;" in picture.value
    controls["Example"].value = TEXTS[0]
    assert controls["Text"].value == TEXTS[0]


def test_what_cannot_be_attacked_is_answered_in_words(sst2):
    second = Trigger(("not",), (0.5,), (1,), 0.1, "negative")
    unknown = Trigger(("zzzz",), (0.5,), (0,), 0.1, "negative")
    controls, words, picture = parts(trigger_explorer(*sst2, [NEVER, second, unknown], TEXT))
    names = controls["Trigger"].options
    for name, value, expected in (
        ("Trigger", names[1], "has a token in segment 1"),
        ("Trigger", names[2], "no ordinary token"),
        ("Trigger", names[0], None),
        ("Text", "", "empty text"),
        ("Text", "word " * 60, f"room for {MAX_TOKENS}"),
        ("Text", "a film [SEP] of two", None),
    ):
        before = picture.value
        controls[name].value = value
        assert ("Not drawn" in words.value) == (expected is not None)
        if expected:
            assert expected in html.unescape(words.value) and picture.value == before
    for triggers, texts, error, message in (
        ([], TEXTS, ValueError, "no triggers"),
        (["not"], TEXTS, TypeError, "attattr.*Trigger"),
        ([NEVER], [], ValueError, "empty list of texts"),
    ):
        with pytest.raises(error, match=message):
            trigger_explorer(*sst2, triggers, texts)


def test_the_trigger_explorer_takes_pairs(mnli):
    by_telephone = Trigger(("by", "telephone"), (0.53, 0.59), (1, 1), 0.1, "neutral")
    _, words, picture = parts(trigger_explorer(*mnli, [by_telephone], [PAIR]))
    assert "The decision" in words.value and picture.value.count("[SEP]") >= 2
    shown = re.findall(rf'fill="{TRIGGER}" ><tspan><tspan font-weight="bold">([a-z]+)<', picture.value)
    assert shown == ["by", "telephone"]


def drawn(*traces: go.Scatter | go.Heatmap | go.Bar, **layout: object) -> str:
    """Traces as SVG on a plane of 0 to 10 in both directions, 400 pixels high without margins."""
    figure = page(go.Figure(traces), "in words & signs", 400, xaxis={"range": [0, 10]}, yaxis={"range": [0, 10]})
    return as_svg(figure.update_layout(margin={"t": 0, "b": 0, "l": 10, "r": 10}, **layout))


def test_places_on_the_axes_are_places_in_the_picture():
    line = go.Scatter(x=[0, 10, None, 5, 10], y=[0, 10, None, 5, 5], mode="lines", line={"color": "#123456", "width": 2})
    first, second = "M10.0 400.0L610.0 0.0", "M310.0 200.0L610.0 200.0"
    assert f'<path d="{first}{second}" stroke="#123456" stroke-width="2"' in drawn(line)
    markers = {"size": 6, "color": ["#111111", "#222222"], "opacity": 0}
    dots = go.Scatter(x=[0, 5], y=[10, 5], mode="markers", marker=markers, customdata=[["a", 1.26], ["&lt;s&gt;", 2]])
    svg = drawn(dots.update(hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]:.1f} at %{x}<extra></extra>"))
    assert '<circle cx="10.0" cy="0.0" r="3.0" opacity="0" fill="#111111"><title>a, 1.3 at 0</title>' in svg
    assert '<circle cx="310.0" cy="200.0" r="3.0" opacity="0" fill="#222222"><title>&lt;s&gt;, 2.0 at 5</title>' in svg
    bar = go.Bar(x=[5], y=[5], orientation="h", text=["five"], marker={"color": ["#abcdef"]})
    assert re.search(r'<rect x="10.0" y="191.0" width="300.0" height="18.0" fill="#abcdef">.*five', drawn(bar))


def test_a_smooth_curve_goes_through_its_points_without_a_corner():
    svg = drawn(go.Scatter(x=[1, 2, 5, 6], y=[1, 4, 5, 9], mode="lines", line={"shape": "spline", "color": "#123456", "width": 2}))
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", re.search(r'<path d="([^"]*)"', svg)[1])]
    curve = np.array(numbers).reshape(-1, 2)
    assert (curve[0].tolist(), curve[-1].tolist()) == ([70.0, 360.0], [370.0, 40.0])
    for point in [(130.0, 240.0), (310.0, 200.0)]:
        assert np.hypot(*(curve - point).T).min() < 12  # half a piece
    pieces = np.diff(curve, axis=0)
    directions = pieces / np.hypot(*pieces.T)[:, None]
    assert (directions[1:] * directions[:-1]).sum(1).min() > 0.8  # nowhere more than 37 degrees


def test_a_heat_map_has_its_colours_and_says_what_is_in_each_cell():
    svg = drawn(heat([[-2.0, 0.0], [0.5, 2.0]], ["a", "<s>"], ["c", "d"], limit=1.0, diverging=True))
    cells = re.findall(r'fill="rgb\(([^)]*)\)"><title>([^<]*)</title>', svg)
    assert [told for _, told in cells] == ["a → c: -100 %", "a → d: 0 %", "&lt;s&gt; → c: 50 %", "&lt;s&gt; → d: 100 %"]
    red, white, _, blue = ([float(part) for part in color.split(",")] for color, _ in cells)
    assert (red, blue) == ([103, 0, 31], [5, 48, 97]) and min(white) > 240  # the ends of the scale, as beyond it
    assert ">-1</tspan>" in svg and ">1</tspan>" in svg  # the ends of the scale
    assert_balanced(svg)


def test_a_picture_has_words_and_room_and_no_hidden_trace():
    hidden = go.Scatter(x=[1], y=[1], mode="markers", marker={"size": 6, "color": "#123456"}, visible=False)
    svg = drawn(hidden, xaxis={"range": [0, 10], "tickvals": [1], "ticktext": ['<span style="color:#00695c"><i>&lt;s&gt;</i></span>']})
    assert "#123456" not in svg and 'aria-label="in words &amp; signs"' in svg
    assert '<tspan fill="#00695c"><tspan font-style="italic">&lt;s&gt;</tspan></tspan>' in svg
    assert "min-width:900px" in drawn(meta={"alt": "wide", "min_width": 900})


def test_what_cannot_be_drawn_as_svg_is_refused():
    with pytest.raises(ValueError, match="'box': expected lines"):
        drawn(go.Box(y=[1]))
    with pytest.raises(ValueError, match="yaxis has no range"):
        drawn(go.Scatter(x=[1], y=[1], mode="lines", line={"color": "#123456", "width": 1}), yaxis={"range": None})
