"""Evidence that the scores matter: heads removed, edges deleted, and how far apart what they join is (chapters 5 and 6)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attribution import attribute
from ..data import examples, texts
from ..effectiveness import (
    graph_edges,
    keep_but,
    largest_attention,
    largest_attribution,
    probability_with,
    right_without,
    same_size,
)
from ..encoding import Text
from ..graph import attribution_graph, retained
from ..pretrained import load
from .running import Run, partial_file, resumable

RANDOM_ORDERS = 5
RESAMPLES = 1000
RANDOM_GRAPHS = 3
TAUS = (0.8, 0.6, 0.4, 0.2, 0.1, 0.05)
HEAD_TOLERANCE = 5e-2  # what orders heads need not be as exact as what is drawn


def fig3(run: Run) -> dict[str, Any]:
    """Accuracy as heads are removed from every layer, by attribution, by attention and at random (chapter 5, the paper's Fig. 3).

    Two orders of the heads: for each example its own, by its gold label, as the paper's numbers suggest (it leaks the
    label), and one for the set, by the mean over rows of the training split.
    """
    model, tokenizer = load(run.task)
    generator = random.Random(run.seed)
    reported = {}
    for split in ("validation", "train"):
        rows = examples(run.task, source=run.data, split=split)
        reported[split] = rows.select(generator.sample(range(len(rows)), min(run.rows or len(rows), len(rows))))
    items = [pair for rows in reported.values() for pair in zip(texts(rows), rows["label"], strict=True)]

    def value(item: tuple[Text, int]) -> dict[str, Any]:
        att = attribute(model, tokenizer, item[0], target=item[1], tolerance=HEAD_TOLERANCE)
        found = {"attribution": largest_attribution(att), "attention": largest_attention(att)}
        return {name: [[float(f"{x:.4g}") for x in layer] for layer in values.tolist()] for name, values in found.items()}

    lines = resumable(partial_file("fig3", run, "values"), f"fig3 {run.task}: heads", items, value)
    count = len(reported["validation"])
    shown, labels = [item[0] for item in items[:count]], [item[1] for item in items[:count]]
    values: dict[tuple[str, str], torch.Tensor] = {}
    for name in ("attribution", "attention"):
        every = torch.tensor([line[name] for line in lines])
        values["example", name], values["set", name] = every[:count], every[count:].mean(0)
    for seed in range(RANDOM_ORDERS):
        values["set", f"random {seed}"] = torch.rand(values["set", "attention"].shape, generator=torch.Generator().manual_seed(seed))
    heads = values["set", "attention"].shape[-1]
    jobs = [
        (scope, name, order, removed)
        for scope, name in values
        for order in (("largest",) if name.startswith("random") else ("largest", "smallest"))
        for removed in range(heads + 1)
    ]

    @cache
    def right_with(job: tuple[str, str, str, int]) -> int:
        scope, name, order, removed = job
        keep = keep_but(values[scope, name], removed, largest=order == "largest")
        return int(right_without(model, tokenizer, shown, labels, keep).sum())

    def remove(job: tuple[str, str, str, int]) -> dict[str, Any]:
        scope, name, order, removed = job
        right = right_with(job if 0 < removed < heads else (*jobs[0][:3], removed))  # no heads, or all: the same in any order
        return {"scope": scope, "by": name, "first": order, "removed": removed, "right": right}

    return {"texts": count, "curves": resumable(partial_file("fig3", run, "curves"), f"fig3 {run.task}: curves", jobs, remove)}


def fig4(run: Run) -> dict[str, Any]:
    """How far apart the tokens are that attribution graphs join, layer by layer (chapter 6, the paper's Fig. 4).

    Beside it the same for all connections above τ (``admitted``), before the graph's rule that joins no pair twice; and, as
    many in each row of each layer as the graph has, for the largest attention weights and for random keys.
    """
    model, tokenizer = load(run.task)

    def distances(item: tuple[int, Text]) -> dict[str, Any]:
        att = attribute(model, tokenizer, item[1], tolerance=HEAD_TOLERANCE)
        kept = graph_edges(attribution_graph(att), *att.scores.shape[::2])
        found = {
            "attribution": kept,
            "admitted": torch.from_numpy(retained(att)),
            "attention": same_size(kept, att.attention.sum(1)),
            "random": same_size(kept, torch.rand(kept.shape, generator=torch.Generator().manual_seed(item[0]))),
        }
        return {name: [[abs(i - j) for i, j in layer.nonzero().tolist() if i != j] for layer in of] for name, of in found.items()}

    lines = resumable(partial_file("fig4", run), f"fig4 {run.task}", drawn(run), distances)
    of_kind = {name: list(zip(*(line[name] for line in lines), strict=True)) for name in lines[0]}
    return {"texts": len(lines), "layers": {name: [spread_of(layer) for layer in layers] for name, layers in of_kind.items()}}


def spread_of(distances: Sequence[Sequence[int]]) -> dict[str, Any]:
    """How often each distance occurs, their mean, and its 95 % interval by resampling the texts: a text's distances are not independent."""
    counts = np.array([[sum(of_text), len(of_text)] for of_text in distances])
    chosen = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    sums, edges = counts[chosen].sum(1).T
    means = sums / np.maximum(edges, 1)
    histogram = Counter(d for of_text in distances for d in of_text)
    return {
        "mean": round(counts[:, 0].sum() / max(counts[:, 1].sum(), 1), 3),
        "interval": [round(float(x), 3) for x in np.quantile(means, (0.025, 0.975))],
        "counts": {str(distance): count for distance, count in sorted(histogram.items())},
    }


def edges(run: Run) -> dict[str, Any]:
    """The probability of the predicted class without the edges of the attribution graph, and with nothing but them (chapter 5).

    Beside the graph: all connections above its τ (``admitted``), before the rule that joins no pair twice. The control is as many
    as the graph has: random keys in the same rows, random connections of the same layers, and, as a rival, the largest
    attention weights in the same rows. Each may hold some of the graph's own.
    """
    model, tokenizer = load(run.task)

    def delete(item: tuple[int, Text]) -> dict[str, Any]:
        att = attribute(model, tokenizer, item[1], tolerance=HEAD_TOLERANCE)
        generator = torch.Generator().manual_seed(item[0])
        choices: list[Tensor] = []
        for tau in TAUS:
            kept = graph_edges(attribution_graph(att, tau), *att.scores.shape[::2])
            rivals = [torch.from_numpy(retained(att, tau)), same_size(kept, att.attention.sum(1))]
            rivals += [same_size(kept, torch.rand(kept.shape, generator=generator)) for _ in range(RANDOM_GRAPHS)]
            rivals += [same_size(kept, torch.rand(kept.shape, generator=generator), by_row=False) for _ in range(RANDOM_GRAPHS)]
            choices += [kept, *rivals]
        masks = torch.stack(choices)
        everything = torch.cat([masks, ~masks, torch.zeros_like(masks[:1])])
        found = probability_with(model, tokenizer, item[1], att.target, everything).double()
        graphs = 3 + 2 * RANDOM_GRAPHS
        kept_only, deleted = found[:-1].reshape(2, len(TAUS), graphs).tolist()
        sizes = masks.sum((1, 2, 3)).reshape(len(TAUS), graphs)
        return {
            "full": float(att.probabilities[att.target]),
            "none": float(found[-1]),
            "edges": sizes[:, 0].tolist(),
            "admitted": sizes[:, 1].tolist(),
            "kept": kept_only,
            "deleted": deleted,
        }

    lines = resumable(partial_file("edges", run), f"edges {run.task}", drawn(run), delete)
    return {
        "texts": len(lines),
        "taus": TAUS,
        "edges": np.mean([line["edges"] for line in lines], axis=0).round(1).tolist(),
        "admitted": np.mean([line["admitted"] for line in lines], axis=0).round(1).tolist(),
        "full": mean_and_error([line["full"] for line in lines]),
        "none": mean_and_error([line["none"] for line in lines]),
    } | {part: of_graphs([line[part] for line in lines]) for part in ("kept", "deleted")}


def of_graphs(values: Sequence[Any]) -> dict[str, Any]:
    """Mean and standard error over the texts, for each τ, of each kind of graph; the random ones averaged first, for each text."""
    of_kind = np.array(values)  # texts, thresholds, graphs
    kinds = np.split(of_kind, [1, 2, 3, 3 + RANDOM_GRAPHS], axis=2)
    names = ("attribution", "admitted", "attention", "random", "anywhere")
    return {name: [mean_and_error(at_tau) for at_tau in kind.mean(2).T] for name, kind in zip(names, kinds, strict=True)}


def mean_and_error(values: Sequence[float] | np.ndarray) -> list[float]:
    """Mean and its standard error."""
    return [round(float(np.mean(values)), 4), round(float(np.std(values, ddof=1) / len(values) ** 0.5), 4)]


def drawn(run: Run) -> list[tuple[int, Text]]:
    """The rows of the validation split that a run is made on, numbered."""
    everything = texts(examples(run.task, source=run.data))
    return list(enumerate(random.Random(run.seed).sample(everything, run.rows or len(everything))))
