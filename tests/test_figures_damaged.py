"""What no figure can show is refused in words by every figure function: a ``TypeError`` or ``ValueError`` that names the value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jaxtyping
import networkx as nx
import numpy as np
import pandas
import pytest
import torch
from torch import Tensor

import attattr
from attattr import figures
from attattr.figures.graphs import graphs_drawn
from attattr.flow import attention_graph
from attattr.graph import attribution_graph

TOKENS, LAYERS, HEADS, SIZE = ("[CLS]", "a", "warm", "film", "[SEP]"), 3, 2, 4
COUNT = len(TOKENS)
GENERATOR = torch.Generator().manual_seed(0)


def decision(tokens: tuple[str, ...] = TOKENS) -> attattr.Attribution:
    """A decision that can be drawn by every function."""
    scores, layers = torch.rand(LAYERS, HEADS, len(tokens), len(tokens), generator=GENERATOR), torch.zeros(LAYERS)
    scores[-1, :, 1:] = 0
    return attattr.Attribution(
        scores=scores, attention=scores.softmax(-1), tokens=tokens, text="a warm film", target=1, label="positive",
        probabilities=torch.tensor([0.2, 0.8]), difference=layers, completeness=layers, error=layers, evaluations=layers.int(),
        method="riemann", tolerance=0.01,
    )  # fmt: skip


ATT, BEFORE = decision(), decision(tuple(token for token in TOKENS if token != "warm"))
GRAPH, TABLE = attribution_graph(ATT), attattr.result("fig5-sst2")
VALUE = torch.rand(LAYERS, HEADS, COUNT, SIZE, generator=GENERATOR)
CONTEXT = torch.rand(LAYERS, COUNT, HEADS, SIZE, generator=GENERATOR)
OF_DECISION: dict[str, Callable[[Any], object]] = {
    "graph_figure": figures.graph_figure,
    "maps_figure": figures.maps_figure,
    "sentence_figure": figures.sentence_figure,
    "sheets_figure": figures.sheets_figure,
    "trigger_figure, before": lambda att: figures.trigger_figure(att, ATT, (2,)),
    "trigger_figure, after": lambda att: figures.trigger_figure(BEFORE, att, (2,)),
    "views_figure": figures.views_figure,
}
OF_ATTENTION: dict[str, Callable[[Any, Any], object]] = {
    "head_figure": lambda attention, tokens: figures.head_figure(attention, VALUE, CONTEXT, tokens),
    "maximum_flow_figure": figures.maximum_flow_figure,
    "token_paths_figure": figures.token_paths_figure,
}
OTHERS = ([ATT], [], None, GRAPH, nx.DiGraph(), ATT.scores, "a", TABLE, attattr.Attribution)  # no decisions


@pytest.fixture(autouse=True)
def no_types_checked() -> Iterator[None]:
    """As users run it: the types that all other tests check would refuse what the functions are to refuse themselves."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def with_(values: Tensor, number: float) -> Tensor:
    """The same values, but one."""
    damaged = values.clone()
    damaged.view(-1)[33] = number
    return damaged


MAPS: dict[str, tuple[Callable[[Tensor], Any], str]] = {  # damages of scores or attention, and what the message says
    "nan": (partial(with_, number=float("nan")), r"{}\[0, 1, 1, 3\] is nan"),
    "inf": (partial(with_, number=float("inf")), r"{}\[0, 1, 1, 3\] is inf"),
    "-inf": (partial(with_, number=-float("inf")), r"{}\[0, 1, 1, 3\] is -inf"),
    "fewer keys": (lambda values: values[..., :-1], r"{} of shape \[3, 2, 5, 4\]"),
    "fewer tokens": (lambda values: values[..., :-1, :-1].softmax(-1), "5 tokens for .*4"),
    "more tokens": (lambda values: torch.nn.functional.pad(values, (0, 1, 0, 1)).softmax(-1), "5 tokens for .*6"),
    "one layer": (lambda values: values[0, 0], r"{} of shape \[5, 5\]"),
    "of a batch": (lambda values: values[None], r"{} of shape \[1, 3, 2, 5, 5\]"),
    "no layer": (lambda values: values[:0], r"{} of shape \[0, 2, 5, 5\]"),
    "no head": (lambda values: values[:, :0], r"{} of shape \[3, 0, 5, 5\]"),
    "integers": (lambda values: values.long(), "{} .*got torch.int64"),
    "complex": (lambda values: values.to(torch.complex64), "{} .*got torch.complex64"),
    "array": (lambda values: values.numpy(), "{} .*got ndarray"),
    "list": (lambda values: list(values), "{} .*got list"),
    "none": (lambda values: None, "{} .*got NoneType"),
}
OF_SHAPE: dict[str, tuple[Callable[[Tensor], Any], str]] = {  # refused where all of L H N N is needed
    "no heads": (lambda values: values.mean(1), r"\[3, 5, 5\]"),
}
OF_BOTH = {
    "other layers": (lambda values: values[1:], r"\[2, 2, 5, 5\]"),
    "other heads": (lambda values: values[:, 1:], r"\[3, 1, 5, 5\]"),
}
NO_TOKENS = {
    "fewer": (TOKENS[:-1], "4 tokens"), "more": ((*TOKENS, "."), "6 tokens"), "none at all": ((), "0 tokens"),
    "text": ("abcde", "tokens='abcde'"),
    "ids": ((1, 2, 3, 4, 5), r"tokens=\(1, 2"), "none": (None, "tokens=None"), "one none": ((*TOKENS[:-1], None), r"tokens=\('\[CLS\]'"),
}  # fmt: skip
PARTS: dict[str, tuple[dict[str, Any], str]] = {  # damages of the rest of a decision
    "no such target": ({"target": 2}, "target=2"),
    "negative target": ({"target": -1}, "target=-1"),
    "no target": ({"target": None}, "target=None"),
    "probabilities nan": ({"probabilities": torch.tensor([0.2, float("nan")])}, "probabilities=.*nan"),
    "no probabilities": ({"probabilities": None, "value": None}, r"probabilities=\[nan\]"),
    "probabilities of a batch": ({"probabilities": torch.tensor([[0.2, 0.8]])}, r"probabilities=\[\["),
    "no label": ({"label": None}, "label=None"),
    "no text": ({"text": None}, "text=None"),
    "a list as text": ({"text": ["a", "b"]}, r"text=\['a', 'b'\]"),
}


def taken(draw: Callable[[Any], object], damaged: dict[str, tuple[Any, str]]) -> dict[str, str]:
    """What was not refused in the words expected, and what became of it."""
    found = {}
    for damage, (given, words) in damaged.items():
        try:
            draw(given)
            found[damage] = "drawn"
        except (TypeError, ValueError) as error:
            if not re.search(words, str(error), re.DOTALL):
                found[damage] = f"{words!r} is not in {error}"
        except Exception as error:
            found[damage] = repr(error)
    return found


def test_what_is_whole_is_drawn_by_every_function() -> None:
    for name, draw in OF_DECISION.items():
        assert draw(BEFORE if name.endswith("before") else ATT)
    for draw_attention in OF_ATTENTION.values():
        assert draw_attention(ATT.attention, TOKENS)
    asked = {name.partition(",")[0] for name in (*OF_DECISION, *OF_ATTENTION)}
    assert asked | {"grammar", "graph_sentences", "pruning_slider"} == set(figures.__all__)


@pytest.mark.parametrize("name", OF_DECISION)
def test_what_is_no_decision_is_refused(name: str) -> None:
    given = {repr(other)[:20]: (other, f"^{re.escape(repr(other)[:20])}.*expected an Attribution") for other in OTHERS}
    assert taken(OF_DECISION[name], given) == {}


@pytest.mark.parametrize("name", OF_DECISION)
@pytest.mark.parametrize("part", ["scores", "attention"])
def test_damaged_scores_and_attention_are_refused(name: str, part: str) -> None:
    damaged = {
        damage: (replace(ATT, **{part: spoil(getattr(ATT, part))}), words.format(part))
        for damage, (spoil, words) in (MAPS | OF_SHAPE | OF_BOTH).items()
    }
    assert taken(OF_DECISION[name], damaged) == {}


@pytest.mark.parametrize("name", OF_DECISION)
def test_damaged_tokens_and_parts_are_refused(name: str) -> None:
    damaged = {damage: (replace(ATT, tokens=tokens), words) for damage, (tokens, words) in NO_TOKENS.items()}
    damaged |= {damage: (replace(ATT, **parts), words) for damage, (parts, words) in PARTS.items()}
    assert taken(OF_DECISION[name], damaged) == {}


@pytest.mark.parametrize("name", OF_ATTENTION)
def test_damaged_attention_and_tokens_are_refused(name: str) -> None:
    maps = MAPS if name == "maximum_flow_figure" else MAPS | OF_SHAPE  # it takes the mean over heads, too
    damaged = {damage: (spoil(ATT.attention), words.format("attention")) for damage, (spoil, words) in maps.items()}
    assert taken(lambda attention: OF_ATTENTION[name](attention, TOKENS), damaged) == {}
    assert taken(lambda tokens: OF_ATTENTION[name](ATT.attention, tokens), NO_TOKENS) == {}


@pytest.mark.parametrize("other", ["value", "context"])
def test_damaged_values_and_contexts_are_refused(other: str) -> None:
    given = {"value": VALUE, "context": CONTEXT}
    rows = given[other]
    damaged = {
        "nan": (with_(rows, float("nan")), "1 numbers of a heat map are not finite"),
        "other layers": (rows[1:], rf"{other} \[2, "),
        "other size": (rows[..., :3], rf"{other} \[.*, 3\]"),
        "turned": (rows.transpose(1, 2), rf"{other} \[3, (2, 5|5, 2), 4\]"),
        "array": (rows.numpy(), rf"{other} \['ndarray'\]"),
        "none": (None, rf"{other} \['NoneType'\]"),
    }
    assert taken(lambda rows: figures.head_figure(ATT.attention, tokens=TOKENS, **given | {other: rows}), damaged) == {}
    starts: dict[str, tuple[Any, str]] = {str(start): (start, re.escape(f"start={start}")) for start in ((3, 0), (0, 2), (-1, 0), None)}
    assert taken(lambda start: figures.head_figure(ATT.attention, VALUE, CONTEXT, TOKENS, start), starts) == {}


def spoilt(**of_edge: Any) -> nx.DiGraph:
    """The graph, with something else at its first edge of attention; None: nothing."""
    graph = GRAPH.copy()
    data = next(data for _, _, data in graph.edges(data=True) if data["kind"] == "attention")
    data |= of_edge
    for key in [key for key, value in data.items() if value is None]:
        del data[key]
    return graph


NO_GRAPH: dict[str, tuple[Any, str]] = {
    "none": (None, "^None"),
    "empty": ([], r"^\[\]"),
    "list": ([GRAPH], r"^\[<networkx"),
    "decision": (ATT, "^Attribution"),
    "undirected": (nx.Graph(), "^<networkx.classes.graph.Graph"),
    "without nodes": (nx.DiGraph(), "^<networkx.classes.digraph.DiGraph"),
    "tree": (attattr.attribution_tree(ATT, 0.0), "^<networkx.classes.digraph.DiGraph"),
    "of attention": (attention_graph(ATT.attention), "^<networkx.classes.digraph.DiGraph"),
    **{f"without {key}": (spoilt(**{key: None}), f"'{key}'") for key in ("kind", "layer", "score", "head")},
    **{f"score {number}": (spoilt(score=number), f"'score': {number}") for number in (float("nan"), float("inf"))},
}


def test_what_is_no_attribution_graph_is_refused() -> None:
    assert taken(figures.graph_sentences, NO_GRAPH) == {}
    assert taken(lambda graph: graphs_drawn(ATT, {"shown": graph}), NO_GRAPH) == {}


def test_a_graph_of_another_text_is_refused() -> None:
    for att in (BEFORE, replace(ATT, tokens=("[CLS]", "a", "cold", "film", "[SEP]")), replace(ATT, tokens=TOKENS[::-1])):
        with pytest.raises(ValueError, match="expected the graph and the attribution of one text"):
            graphs_drawn(att, {"shown": GRAPH}, terminal=0)


def rows(measure: str, method: str | None = None) -> pandas.Series:
    return (TABLE.measure == measure) & (TABLE["sample"] == 0) & ((TABLE.method == method) | (method is None))


NO_TABLE: dict[str, tuple[Any, str]] = {
    "none": (None, "NoneType without the columns"),
    "list": ([TABLE], "list without the columns"),
    "decision": (ATT, "Attribution without the columns"),
    "column": (TABLE.drop(columns="head"), r"without the columns \['head'\]"),
    "empty": (TABLE[:0], r"sample 0: there is \[\]"),
    "no accuracy": (TABLE[TABLE.measure != "accuracy"], "accuracies {}"),
    "no accuracy at one number": (TABLE.drop(TABLE[rows("accuracy", "attribution")].index[3]), "accuracies .*nan"),
    "no importance of one head": (TABLE.drop(TABLE[rows("importance", "taylor")].index[3]), "importance of every head"),
    "twice": (pandas.concat([TABLE, TABLE]), "duplicate"),
    "text": (TABLE.astype({"value": object}).assign(value="x"), "'x'|object_"),
    **{
        f"{measure} {number}": (TABLE.assign(value=TABLE.value.mask(rows(measure, "attribution"), number)), "finite")
        for measure in ("accuracy", "importance")
        for number in (np.nan, np.inf)
    },
}


def test_what_is_no_table_of_pruning_is_refused() -> None:
    assert figures.pruning_slider(TABLE)
    assert taken(figures.pruning_slider, NO_TABLE) == {}
