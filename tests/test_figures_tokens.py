"""Drawings with tokens as rows: views are read from the right rows; arcs join the tokens of the largest scores."""

from __future__ import annotations

import dataclasses
import re
from itertools import product

import networkx as nx
import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from attattr.attribution import Attribution
from attattr.figures import trigger_figure, views_figure
from attattr.figures.tokens import OTHER, TRIGGER, WORDS

TOKENS = ("[CLS]", "a", "warm", "film", ".", "[SEP]")
VIEWS = ("attention", "rollout", "flow", "attribution")


def made(seed=0, layers=3, heads=2, tokens=TOKENS, text="a warm film ."):
    """An attribution of random numbers, read from the first token."""
    generator, n = torch.Generator().manual_seed(seed), len(tokens)
    attention = (3 * torch.randn(layers, heads, n, n, generator=generator)).softmax(-1)
    scores = torch.randn(layers, heads, n, n, generator=generator)
    scores[-1, :, 1:] = 0
    zeros = torch.zeros(layers)
    return Attribution(
        scores=scores, attention=attention, tokens=tuple(tokens), text=text, target=1, label="positive",
        probabilities=torch.tensor([0.25, 0.75]), difference=zeros, completeness=zeros, error=zeros, evaluations=zeros.int(),
        method="riemann", tolerance=0.01,
    )  # fmt: skip


def adjusted(attention) -> np.ndarray:
    """Ã by itself."""
    mean = attention.double().mean(1).numpy()
    return mean / 2 + np.eye(mean.shape[-1]) / 2


def flow_by_networkx(a: np.ndarray) -> np.ndarray:
    """The maximum flow from every node of every layer to every input token."""
    layers, n, _ = a.shape
    graph = nx.DiGraph()
    for layer, i, j in product(range(layers), range(n), range(n)):
        graph.add_edge((layer + 1, i), (layer, j), capacity=a[layer, i, j])
    found = np.zeros_like(a)
    for layer, i, j in product(range(layers), range(n), range(n)):
        found[layer, i, j] = nx.maximum_flow_value(graph, (layer + 1, i), (0, j))
    return found


def heatmaps(figure, start):
    return {name: figure.data[start + k] for k, name in enumerate(VIEWS)}


def numbers(trace) -> np.ndarray:
    """What stands under the pointer; the colours must say the same, as far as they go."""
    told, limit = np.array(trace.customdata, float), float(trace.colorbar.ticktext[-1])
    signed = trace.zmin < 0
    assert np.asarray(trace.z) == pytest.approx(100 * np.clip(told / limit, -1 if signed else 0, 1), abs=1.5)
    return told


def expected_views(att) -> dict[str, np.ndarray]:
    a = adjusted(att.attention)
    rolled = [a[0]]
    for of_layer in a[1:]:
        rolled.append(of_layer @ rolled[-1])
    flow = flow_by_networkx(a)
    return {
        "attention": att.attention.double().numpy().mean(1)[:, 0].T,
        "rollout": np.stack(rolled)[:, 0].T,
        "flow": (flow / flow.sum(-1, keepdims=True))[:, 0].T,
        "attribution": att.scores.double().numpy().sum((1, 2)).T,
    }


def test_each_view_is_what_the_classifiers_token_sees_layer_by_layer():
    att = made()
    figure, expected = views_figure(att), expected_views(att)
    for panel, (name, trace) in enumerate(heatmaps(figure, 0).items(), 1):
        assert numbers(trace) == pytest.approx(expected[name], rel=6e-3, abs=1e-6), name
        assert figure.layout[f"xaxis{panel}"].ticktext == ("0", "1", "2") and trace.xaxis in ("x", f"x{panel}")
        assert trace.visible and name in trace.hovertemplate


def test_attribution_can_be_read_in_the_classifiers_row_alone():
    att = made(1)
    told = numbers(heatmaps(views_figure(att, all_rows=False), 0)["attribution"])
    assert told == pytest.approx(att.scores.sum(1)[:, 0].T.numpy(), rel=6e-3)
    assert told[:, 0] != pytest.approx(att.scores.sum((1, 2))[0].numpy(), rel=0.1)


def test_colours_end_at_the_largest_word_and_are_centred_for_attribution_only():
    figure = views_figure(made(2))
    for number, (name, trace) in enumerate(heatmaps(figure, 0).items()):
        signed, said = name == "attribution", figure.layout.annotations[number].text
        assert (trace.zmin, trace.zmax) == (-100 if signed else 0, 100)
        limit = re.fullmatch(f"<b>{name}</b><br>" + (r"±([\d.]+)" if signed else r"0 … ([\d.]+)"), said)[1]
        assert float(limit) == pytest.approx(np.abs(numbers(trace)[1:5]).max(), rel=0.06)
    assert (numbers(heatmaps(figure, 0)["flow"])[[0, 5]] > 0).all()


def test_words_only_leaves_special_tokens_out_and_columns_sum_to_one():
    figure = views_figure(made(3))
    (seen, look) = figure.layout.updatemenus[0].buttons[1].args
    assert figure.layout.updatemenus[0].buttons[1].label == WORDS
    assert list(seen["visible"]) == [False] * 4 + [True] * 4
    assert look["yaxis"]["ticktext"] == list(TOKENS[1:5]) and len(look["annotations"]) == 5
    for name, trace in heatmaps(figure, 4).items():
        told, whole = numbers(trace), numbers(heatmaps(figure, 0)[name])[1:5]
        assert not trace.visible
        if name == "attribution":
            assert told == pytest.approx(whole)
        else:
            assert told.sum(0) == pytest.approx(np.ones(3), abs=3e-3)
            assert told == pytest.approx(whole / whole.sum(0), rel=2e-2)


def test_special_tokens_are_marked_and_words_that_hold_numbers_keep_their_rows():
    axis = views_figure(made(tokens=("[CLS]", "2", "[SEP]", "2", "<s>", "[SEP]"), text=("2", "2 <s>"))).layout.yaxis
    assert [label.startswith("<span") for label in axis.ticktext] == [True, False, True, False, True, True]
    assert [axis.ticktext[1], axis.ticktext[3]] == ["2 ·1", "2 ·3"] and "&lt;s&gt;" in axis.ticktext[4]
    assert (axis.type, axis.tickvals) == ("linear", tuple(range(6)))


def test_some_layers_can_be_shown():
    whole, some = (numbers(views_figure(made(4), layers).data[1]) for layers in (None, [0, 2]))
    assert (some == whole[:, [0, 2]]).all()
    assert views_figure(made(4), [0, 2]).layout.xaxis.ticktext == ("0", "2")


@pytest.mark.parametrize("layers", [[], [2, 1], [0, 0], [-1], [3]])
def test_layers_that_there_are_not_are_refused(layers):
    with pytest.raises(ValueError, match="expected ascending numbers from 0 to 2"):
        views_figure(made(), layers)


def test_views_of_no_word_and_of_several_readers_are_refused():
    with pytest.raises(ValueError, match="at least one word"):
        views_figure(made(tokens=("[CLS]", "[SEP]")))
    att = made()
    with pytest.raises(ValueError, match="expected one"):
        views_figure(dataclasses.replace(att, scores=torch.ones_like(att.scores)))


def test_the_views_in_words_name_the_word_of_the_last_layer():
    att = made(5)
    alt = views_figure(att).layout.meta["alt"]
    values = expected_views(att)["rollout"]
    word = 1 + int(values[1:5, -1].argmax())
    assert f"rollout: most to “{TOKENS[word]}”, {values[word, -1]:.2g}" in alt
    assert "where positive is decided" in alt and "In layer 2, attention" in alt


def test_views_of_24_tokens_in_12_layers_are_small():
    att = made(layers=12, tokens=("[CLS]", *(f"word{i}" for i in range(22)), "[SEP]"))
    assert len(views_figure(att).to_json()) < 60_000


def attribution(tokens: tuple[str, ...], label: str, seed: int) -> Attribution:
    """A made attribution with two layers of three heads."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, len(tokens), len(tokens), generator=generator) * 0.1 - 0.07
    target = ("negative", "positive").index(label)
    chances = torch.tensor([0.2, 0.8] if target else [0.7, 0.3])
    layers = torch.zeros(2)
    return Attribution(
        scores, scores.abs(), tokens, " ".join(tokens), target, label, chances, layers, layers, layers, layers.int(), "riemann", 1e-2
    )


PLACES = (2, 5)
BEFORE = ("[CLS]", "a", "warm", "film", "[SEP]")
AFTER = ("[CLS]", "a", "not", "warm", "film", "at", "[SEP]")


@pytest.fixture
def pair() -> tuple[Attribution, Attribution]:
    return attribution(BEFORE, "positive", 1), attribution(AFTER, "negative", 2)


def largest_scores(att: Attribution) -> list[tuple[int, int, float, int, int]]:
    """For each two tokens the largest score of any layer and head, the largest first."""
    best: dict[tuple[int, int], tuple] = {}
    for layer, head, query, key in np.ndindex(*att.scores.shape):
        score = float(att.scores[layer, head, query, key])
        best[query, key] = max(best.get((query, key), (-9.0,)), (score, layer, head))
    return sorted(((query, key, *found) for (query, key), found in best.items()), key=lambda link: -link[2])


def test_arcs_join_the_rows_of_their_tokens_and_have_the_triggers_colour_if_they_touch_it(pair):
    before, after = pair
    figure = trigger_figure(before, after, PLACES, count=8)
    rows = {place: AFTER.index(token) for place, token in enumerate(BEFORE)}
    hits = 0
    for axis, att, at in (("x", before, rows), ("x2", after, {place: place for place in range(7)})):
        arcs = [trace for trace in figure.data if trace.xaxis == axis and trace.mode == "lines"]
        assert len(arcs) == 8
        for arc, (query, key, score, layer, head) in zip(reversed(arcs), largest_scores(att), strict=False):  # the strongest on top
            assert (arc.y[0], arc.y[-1]) == pytest.approx((at[query], at[key]), abs=1e-3)
            assert arc.x[0] == arc.x[-1] == pytest.approx(0, abs=1e-3) and max(arc.x) > 0
            touching = axis == "x2" and bool({query, key} & set(PLACES))
            assert arc.line.color == (TRIGGER if touching else OTHER)
            assert arc.hovertemplate.startswith(f"{att.tokens[query]} reads {att.tokens[key]}<br>{score:+.3f}, layer {layer}, head {head}<")
            hits += touching
        assert arcs[-1].line.width == max(arc.line.width for arc in arcs)
    assert 0 < hits < 8
    assert any(f"{hits} of 8 touch the trigger" in note.text for note in figure.layout.annotations)
    assert sorted(shape.y0 + 0.5 for shape in figure.layout.shapes) == [2, 5]
    words = next(list(trace.text) for trace in figure.data if trace.xaxis == "x3" and trace.mode == "text")
    assert words == ["[CLS]", "a", "<b>not</b>", "warm", "film", "<b>at</b>", "[SEP]"]
    bars = [trace for trace in figure.data if isinstance(trace, go.Bar)]
    assert [list(bar.x) for bar in bars] == [[0.2, 0.8], [0.7, 0.3]]
    assert list(bars[0].customdata) == ["negative", "positive"]


def test_the_alternative_text_says_how_much_rests_on_the_trigger(pair):
    before, after = pair
    alt = trigger_figure(before, after, PLACES).layout.meta["alt"]
    assert "from positive (p = 0.800) to negative (p = 0.700)" in alt
    own = torch.tensor([token in ("not", "at") for token in AFTER])
    positive = after.scores.clamp_min(0).sum((0, 1))
    share = float((positive * (own[:, None] | own[None])).sum() / positive.sum())
    assert f"of the sum of all positive scores {share:.0%}" in alt
    assert f"of all connections, {(49 - 25) / 49:.0%} do" in alt
    hits = sum(bool({query, key} & set(PLACES)) for query, key, *_ in largest_scores(after)[:10])
    assert re.search(rf"Of the 10 connections .* {hits} touch them", alt)


def test_texts_that_do_not_belong_together_and_wrong_classes_are_refused(pair):
    before, after = pair
    for other, places in ((before, PLACES), (after, (2, 4)), (after, (2,)), (before, ())):
        with pytest.raises(ValueError, match="expected the attributions of one text"):
            trigger_figure(before, other, places)
    with pytest.raises(ValueError, match=r"classes \['positive', 'negative'\]: expected 2"):
        trigger_figure(before, after, PLACES, classes=("positive", "negative"))
    with pytest.raises(ValueError, match="count=0"):
        trigger_figure(before, after, PLACES, count=0)


def test_tokens_that_look_like_markup_are_shown(pair):
    before, after = (dataclasses.replace(att, tokens=tuple("<s>" if token == "a" else token for token in att.tokens)) for att in pair)
    figure = trigger_figure(before, after, PLACES, count=40)
    texts = [text for trace in figure.data if trace.type == "scatter" and trace.mode == "text" for text in trace.text]
    assert "&lt;s&gt;" in texts and not any("<s>" in text for text in (*texts, *(trace.hovertemplate or "" for trace in figure.data)))
