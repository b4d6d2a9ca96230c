"""What an exercise asks, and how an answer is compared with the value expected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import networkx as nx
import numpy as np
from torch import Tensor

from ..connections import Attribution

TOLERANCE = 1e-4
SHOWN = 400  # characters of one value in a message


def plain(value: Any) -> Any:
    """Tensors, arrays, graphs, whatever has parts, as nested lists with rounded numbers: for comparing and for showing."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, nx.Graph):
        return [[*map(plain, edge)] for edge in value.edges(data=True)]
    if isinstance(value, Attribution):
        return {"scores": plain(value.scores), "difference": plain(value.difference), "target": value.target}
    if callable(value):
        return value.__doc__ or repr(value)
    if isinstance(value, str | dict) or not isinstance(value, Iterable):
        return value
    return [plain(part) for part in value]


def shape(value: Any) -> tuple[int, ...]:
    """The shape of nested lists."""
    return (len(value), *shape(value[0])) if isinstance(value, list) and value else ()


def shown(value: Any) -> str:
    """A plain value for a message: if it is long, its beginning and its shape."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... of the shape {shape(value)}"


def same(got: Any, expected: Any) -> bool:
    """Whether two plain values have the same shape and the same numbers or words."""
    if isinstance(expected, list):
        return isinstance(got, list) and len(got) == len(expected) and all(map(same, got, expected))
    if isinstance(expected, str) or not isinstance(got, int | float):
        return got == expected
    return expected - TOLERANCE <= got <= expected + TOLERANCE


def same_in_any_order(got: Any, expected: list) -> bool:
    """Whether two plain values are the same when each list in them is sorted; the value expected is sorted already."""
    lists = [sorted(one, key=str) if isinstance(one, list) else one for one in got] if isinstance(got, list) else got
    return same(lists, expected)


def same_set(got: Any, expected: list) -> bool:
    """Whether two plain lists hold the same things, in whatever order."""
    return same(sorted(got, key=str) if isinstance(got, list) else got, sorted(expected, key=str))


class Exercise:
    """The names of the arguments, cases ``(*arguments, expected)``, and how an answer is compared with the value expected."""

    def __init__(self, names: str, *cases: tuple, agree: Callable[[Any, Any], bool] = same) -> None:
        self.names, self.cases, self.agree = names.split(", "), cases, agree
