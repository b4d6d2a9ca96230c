"""How far apart the tokens are that a layer brings together (Hao et al., §5.1, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .graph import TAU, attribution_graph

if TYPE_CHECKING:
    from .attribution import Attribution


@dataclass(frozen=True)
class ReceptiveField:
    """Distances, in tokens, of the connections that attribution graphs keep in each layer, over a number of texts."""

    distances: tuple[Int[Tensor, " _E"], ...]  # one tensor for each layer, from the first
    mean: Float[Tensor, " L"]  # not a number for a layer that keeps nothing


def receptive_field(
    atts: Attribution | Sequence[Attribution], tau: float | Sequence[float] = TAU, terminal: int | None = None
) -> ReceptiveField:
    """|i - j| of every edge ((l, i), (l - 1, j)) of the attribution graphs, layer by layer; a token's look at itself is left out.

    In the last layer of a classifier that reads [CLS], only the row of [CLS] has any effect: there the distances are places.

    Args:
        atts: one attribution, or several of one model.
        tau, terminal: as for `attribution_graph`.

    Raises:
        ValueError: no attribution; attributions of models with different numbers of layers; and as `attribution_graph`.
    """
    found = [atts] if not isinstance(atts, Sequence) else list(atts)
    layers = {len(att.scores) for att in found}
    if len(layers) != 1:
        raise ValueError(f"expected one or more attributions of one model, got {len(found)} with {sorted(layers)} layers")
    distances: list[list[int]] = [[] for _ in range(layers.pop())]
    for att in found:
        for (level, i), (_, j), kind in attribution_graph(att, tau, terminal).edges(data="kind"):
            if kind == "attention" and i != j:
                distances[level - 1].append(abs(i - j))
    tensors = tuple(torch.tensor(of_layer, dtype=torch.int64) for of_layer in distances)
    return ReceptiveField(tensors, torch.stack([of_layer.float().mean() for of_layer in tensors]))
