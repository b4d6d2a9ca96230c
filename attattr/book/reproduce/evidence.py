"""Evidence that the scores matter: heads removed, edges deleted, and how far apart what they join is (chapters 5 and 6)."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import numpy as np
import pandas
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...attribution import attribute
from ...batches import Model, Text, Tokenizer, predict, texts_and_labels, texts_of
from ...connections import Attribution
from ...data import examples
from ...graph import attribution_graph, distances, graph_connections, retained
from ...heads import random_importance
from .running import Measured, Rows, Run, drawn, resumable, rounded, sample

RANDOM_ORDERS = 5
RESAMPLES = 1000
RANDOM_GRAPHS = 3
TAUS = (0.8, 0.6, 0.4, 0.2, 0.1, 0.05)
HEAD_TOLERANCE = 5e-2  # what orders heads need not be as exact as what is drawn
# Cheaper scores beside the certified ones: A ⊙ gradient at α = 1, one node in the middle of the path, the paper's right sum.
RULES = {"gradient": ("riemann", 1), "midpoint": ("gauss-legendre", 1), "20 steps": ("riemann", 20)}
# Random edges that speak for the decision, as far as a row has such, as all edges do that they are compared with.
POSITIVE = {"positive": "attribution", "positive, admitted": "admitted"}


def keep_but(values: Float[Tensor, "*B L H"], count: int, largest: bool) -> Bool[Tensor, "*B L H"]:
    """Gates that remove ``count`` heads from every layer, those with the largest (or smallest) ``values``; the first of equals first.

    Raises:
        ValueError: a count outside 0 to H, or values that are not finite.
    """
    heads = values.shape[-1]
    if not 0 <= count <= heads or not values.isfinite().all():
        raise ValueError(f"cannot remove {count} heads from each layer: expected 0 to {heads}, and finite values to order them by")
    order = values.argsort(dim=-1, descending=largest, stable=True)
    return torch.ones_like(values, dtype=torch.bool).scatter(-1, order[..., :count], False)


def fig3(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """Accuracy as heads are removed from every layer, by attribution, by attention and at random (chapter 5, the paper's Fig. 3).

    Orders of the heads, as ``scope``: ``example``, for each text its own, by its gold label, as the paper's numbers suggest (it leaks
    the label); ``right``, the same, judged only on the texts that all heads get right; ``predicted``, for each text its own, by the
    class that all heads predict; and ``set``, one for all texts, by the mean over rows of the training split.
    """
    generator = random.Random(run.seed)
    rows = (sample(examples(run.task, source=run.data, split=split), run.rows, generator) for split in ("validation", "train"))
    (texts, labels), train = (texts_and_labels(model, tokenizer, of_split) for of_split in rows)
    every_text = [*zip(texts, labels, strict=True), *zip(*train, strict=True)]

    def value(text: Text, label: int) -> dict[str, Any]:
        said = attribute(model, tokenizer, text, tolerance=HEAD_TOLERANCE)
        gold = said if said.target == label else attribute(model, tokenizer, text, target=label, tolerance=HEAD_TOLERANCE)
        of_heads = {"attribution": gold.scores, "attention": gold.attention, "predicted": said.scores}
        return {"right": said is gold} | {name: rounded(every.amax((-2, -1))) for name, every in of_heads.items()}

    lines = resumable(run, "values", every_text, value)
    values: dict[tuple[str, str, int], Tensor] = {}
    for name in ("attribution", "attention"):
        every = torch.tensor([line[name] for line in lines])
        values["example", name, 0], values["set", name, 0] = every[: len(texts)], every[len(texts) :].mean(0)
    values["predicted", "attribution", 0] = torch.tensor([line["predicted"] for line in lines[: len(texts)]])
    values["right", "attribution", 0] = values["example", "attribution", 0]
    first_right = torch.tensor([line["right"] for line in lines[: len(texts)]])
    for draw in range(RANDOM_ORDERS):
        values["set", "random", draw] = random_importance(values["set", "attention", 0], draw)
    jobs = [
        (*which, first, removed)
        for which in values
        for first in (("largest",) if which[1] == "random" else ("largest", "smallest"))
        for removed in range(values[which].shape[-1] + 1)
    ]

    def remove(scope: str, by: str, draw: int, first: str, removed: int) -> dict[str, Any]:
        keep = keep_but(values[scope, by, draw], removed, largest=first == "largest")
        judged = first_right if scope == "right" else torch.ones_like(first_right)
        right = int((judged & (predict(model, tokenizer, texts, keep).argmax(-1) == torch.tensor(labels))).sum())
        common = {"scope": scope, "by": by, "draw": draw, "first": first, "removed": removed}
        return common | {"texts": int(judged.sum()), "right": right, "accuracy": right / max(int(judged.sum()), 1)}

    return resumable(run, "curves", jobs, remove), {}


def same_size(connections: Bool[Tensor, "L N N"], values: Float[Tensor, "L N N"], by_row: bool = True) -> Bool[Tensor, "L N N"]:
    """A choice of as many connections: in each layer those with the largest ``values``.

    With ``by_row``, as many in each row of each layer, so that the same tokens attend to as many tokens. Random values make the
    control, attention weights the rival. The same connections may be chosen again, and in a row where most are chosen most
    are: such a control is in part the graph itself.
    """
    flat, wanted = (values, connections) if by_row else (values.flatten(1), connections.flatten(1))
    rank = flat.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (rank < wanted.sum(-1, keepdim=True)).reshape(connections.shape)


def drawn_and_admitted(att: Attribution, tau: float) -> tuple[Bool[Tensor, "L N N"], Bool[Tensor, "L N N"]]:
    """The attribution graph, and all connections above its τ, before the rule that joins no pair twice."""
    graph = graph_connections(attribution_graph(att, tau), *att.scores.shape[::2])
    return graph, torch.from_numpy(retained(att, tau))


def graphs_of(att: Attribution, tau: float, generator: torch.Generator, draws: int) -> dict[str, list[Bool[Tensor, "L N N"]]]:
    """`drawn_and_admitted`, and others of the graph's size.

    As many in each row of each layer, by attention and at random; and as many in each layer, ``anywhere``.
    """
    graph, admitted = drawn_and_admitted(att, tau)
    return {
        "attribution": [graph],
        "admitted": [admitted],
        "attention": [same_size(graph, att.attention.sum(1))],
        "random": [same_size(graph, torch.rand(graph.shape, generator=generator)) for _ in range(draws)],
        "anywhere": [same_size(graph, torch.rand(graph.shape, generator=generator), by_row=False) for _ in range(draws)],
    }


def fig4(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """How far apart the tokens are that attribution graphs join, layer by layer (chapter 6, the paper's Fig. 4), and in the controls."""

    def measure(number: int, text: Text) -> dict[str, Any]:
        att = attribute(model, tokenizer, text, tolerance=HEAD_TOLERANCE)
        graphs = graphs_of(att, 0.4, torch.Generator().manual_seed(number), 1)
        return {name: [of_layer.tolist() for of_layer in distances(graph)] for name, (graph, *_) in graphs.items() if name != "anywhere"}

    lines = resumable(run, "texts", list(enumerate(texts_of(drawn(run)))), measure)
    rows: Rows = []
    for graph in lines[0]:
        for layer, of_texts in enumerate(zip(*(line[graph] for line in lines), strict=True)):
            common = {"graph": graph, "layer": layer}
            mean, low, high = resampled_mean(of_texts)
            rows.append(common | {"measure": "mean distance", "value": mean, "low": low, "high": high})
            apart, edges = np.unique([distance for of_text in of_texts for distance in of_text], return_counts=True)
            counts = zip(apart.astype(int).tolist(), edges.tolist(), strict=True)
            rows += [common | {"measure": "edges", "distance": distance, "value": count} for distance, count in counts]
    return rows, {"texts": len(lines)}


def resampled_mean(of_texts: tuple[list[int], ...]) -> list[float]:
    """The mean distance, and its 95 % interval by resampling the texts: a text's distances are not independent."""
    counts = np.array([[sum(of_text), len(of_text)] for of_text in of_texts])
    chosen = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    sums, edges = counts[chosen].sum(1).T
    low, high = np.quantile(sums / np.maximum(edges, 1), (0.025, 0.975))
    return rounded([counts[:, 0].sum() / max(counts[:, 1].sum(), 1), low, high])


def edges(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """The probability of the predicted class without the edges of the attribution graph, and with nothing but them (chapter 5).

    Beside the certified scores the cheaper ones of `RULES`, of which ``"gradient"`` is drawn, ``"gradient, admitted"`` all above its τ;
    and random edges with positive scores, ``"positive"``, as many in each row as the graph has, or as all above τ.
    """

    def delete(number: int, text: Text) -> Rows:
        att = attribute(model, tokenizer, text, tolerance=HEAD_TOLERANCE)
        generator = torch.Generator().manual_seed(number)
        graphs = {(name, tau): torch.stack(masks) for tau in TAUS for name, masks in graphs_of(att, tau, generator, RANDOM_GRAPHS).items()}
        for name, (method, steps) in RULES.items():
            other = attribute(model, tokenizer, text, target=att.target, method=method, steps=steps)
            for tau in TAUS:
                graph, admitted = drawn_and_admitted(other, tau)
                graphs |= {(name, tau): graph[None], (f"{name}, admitted", tau): admitted[None]}
        supports, generator = att.scores.sum(1) > 0, torch.Generator().manual_seed(number)
        for tau, (name, like) in product(TAUS, POSITIVE.items()):
            draws = [torch.rand(supports.shape, generator=generator) + supports for _ in range(RANDOM_GRAPHS)]
            graphs[name, tau] = torch.stack([same_size(graphs[like, tau][0], draw) for draw in draws])
        nothing = torch.zeros(1, *supports.shape, dtype=torch.bool)
        choices: dict[tuple, Tensor] = {("none", None, None): nothing, ("all", None, None): ~nothing}
        choices |= {("only these", *which): masks for which, masks in graphs.items()}
        choices |= {("all but these", *which): ~masks for which, masks in graphs.items()}
        rows = []
        for (left, graph, tau), masks in choices.items():
            probability = predict(model, tokenizer, [text] * len(masks), masks)[:, att.target].mean()
            size = int(graphs[graph, tau][0].sum()) if graph else None
            rows.append({"left": left, "graph": graph, "tau": tau, "edges": size, "probability": float(probability)})
        return rows

    lines = resumable(run, "texts", list(enumerate(texts_of(drawn(run)))), delete)
    of_texts = pandas.DataFrame([row for line in lines for row in line]).groupby(["left", "graph", "tau"], sort=False, dropna=False)
    found = of_texts.mean().round({"edges": 1}).assign(error=of_texts["probability"].sem()).reset_index()
    rows: Rows = [row | {name: rounded(row[name]) for name in ("probability", "error")} for row in found.to_dict("records")]
    return rows, {"texts": len(lines)}
