"""Measured results as tidy tables: one row a measurement, provenance in ``.attrs``.

A result is ``NAME-TASK.json``, or ``NAME.json`` where it is of no task, the book's own in ``data/results/``: the provenance, and the
table column by column. What the papers say, their claims and numbers, is in ``data/paper/``: the same, but written by hand, row by row.
Here, and nowhere else, stands which columns each table has. Layers count from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from ..data import data_folder, one_of, whole
from ..triggers import Trigger

TRIGGER = tuple(field.name for field in fields(Trigger))
COLUMNS = {  # beside ``task``, which is the first of every table of a task; of ``beyond``, ``families`` and the papers' tables, all
    "accuracy": ("split", "measure", "class", "rows", "value"),
    "certificate": ("text", "tokens", "layer", "rule", "evaluations", "error", "reported", "certified"),
    "completeness": ("text", "layer", "rule", "difference", "gap", "error"),
    "fig3": ("scope", "by", "draw", "first", "removed", "texts", "right", "accuracy"),
    "fig4": ("measure", "graph", "layer", "distance", "value", "low", "high"),
    "edges": ("left", "graph", "tau", "edges", "probability", "error"),
    "fig5": ("measure", "method", "sample", "layer", "head", "rate", "pruned", "rows", "right", "value", "error"),
    "fig6": ("model", "seed", "sample", "layer", "head", "importance"),
    "table1": ("candidate", "mined_by", *TRIGGER, "class", "rows", "accuracy", "flip_rate"),
    "table2": (
        *("against", "rank", "kind", "draw", *TRIGGER, "class", "rows", "accuracy", "low", "high"),
        *("flip_rate", "flip_low", "flip_high"),
    ),
    "controls": (
        *("measure", "against", "rank", "kind", "mined_by", "candidate", *TRIGGER, "overlap", "class", "rows"),
        *("accuracy", "low", "high", "flip_rate", "flip_low", "flip_high"),
    ),
    "defence": ("measure", "order", "draw", "closed", "heads", "class", "rank", "layer", "head", "value"),
    "flow-correlations": ("model", "measure", "method", "layer", "reading", "against", "share", "value", "low", "high", "texts"),
    "saturation": ("model", "tokens", "bound", "layer", "share", "low", "high"),
    "cost": ("measure", "than", "dataset", "texts", "value", "low", "high"),
    "growth": ("measure", "against", "layers", "tokens", "nodes", "value"),
    "paper-claims": ("paper", "place", "kind", "claim", "met", "found", "results", "why"),
    "paper-table1": ("task", "class", "rank", "tokens"),
    "paper-table2": ("task", "trigger", "class", "percent"),
    "paper-values": (
        *("paper", "place", "task", "what", "said", "value", "unit", "layers"),
        *("rule", "results", "where", "than", "each", "take", "of", "why"),
    ),
    "paper-code": ("paper", "item", "said", "code", "ours", "met"),
    "beyond": ("seed", "job", "measure", "method", "layer", "head", "value"),
    "size": ("claim", "place", "task", "reading", "small", "small_than", "base", "base_than", "paper"),
    "families": ("type", "outcome", "reason", "layers", "heads", "difference", "completeness", "agreement", "early", "replayed"),
}


def result(name: str, measure: str | None = None) -> pandas.DataFrame:
    """A measured result, as a tidy table: one of the book, or what ``python -m attattr reproduce`` wrote.

    Args:
        name: kind and task of the book's own, ``"fig5-mnli"``, of the large size ``"base/fig5-mnli"``. ``"paper-claims"``,
            ``"paper-values"``, ``"paper-code"``, ``"paper-table1"`` and ``"paper-table2"`` are what the papers say.
            Or the path of a file, ``"results/fig5-mnli.json"``.
        measure: of a table that holds several, the rows of this one alone, without the columns that it leaves empty.

    Raises:
        OSError: no such result, or a damaged file.
        ValueError: a table without a column that it should have; a measure that it does not hold.

    >>> curves = result("fig5-sst2", "accuracy")
    >>> curves[curves.method == "attribution"].groupby("pruned").value.mean().loc[0].round(3)
    np.float64(0.898)
    >>> curves.attrs["seconds"] > 0
    True
    """
    folders = data_folder() / "results", data_folder() / "paper"
    own = {name_of(path): path for folder in folders for path in folder.rglob("*.json")}
    path = Path(name) if name.endswith(".json") else own.get(name)
    if path is None or not path.is_file():
        raise FileNotFoundError(f"no result {name!r}: there are {sorted(own)}")
    return read_result(path, measure)


def by_size(kind: str, tasks: Mapping[str, str], measure: str | None = None) -> dict[str, pandas.DataFrame]:
    """The book's results of one kind under the names of their tasks; after them, as ``"NAME, 12 layers"``, those of the large model.

    Args:
        kind, measure: as for `result`, without the task.
        tasks: what a chapter calls a task, and the task: ``{"SST-2": "sst2"}``. Not every task was measured in the large model.

    Raises:
        OSError, ValueError: as for `result`.

    >>> list(by_size("saturation", {"SST-2": "sst2"}))
    ['SST-2', 'SST-2, 12 layers']
    """
    large = {f"{name}, 12 layers": f"base/{kind}-{task}" for name, task in tasks.items()}
    there = {name: source for name, source in large.items() if (data_folder() / "results" / f"{source}.json").is_file()}
    return {name: result(source, measure) for name, source in ({name: f"{kind}-{task}" for name, task in tasks.items()} | there).items()}


def beside(value: pandas.Series, found: pandas.DataFrame) -> Iterator[dict[str, Any]]:
    """Ours beside one row of ``paper-values``, once for each of its readings.

    Args:
        value: the row: ``where`` finds our rows, ``than`` those that they are compared with, ``of`` is the column and ``take`` what is
            taken of it (None: the mean), ``each`` the column that tells readings apart. NaN: not asked.
        found: one of the results that the row names.

    Returns:
        ``key``, the reading ("" where there is one); ``ours``; ``than``, and ``error``, half of the 95 % interval of the difference, NaN
        where nothing is compared; ``rows``, of which ours is a share. For the rule ``"rising"``, ours is the share of steps that rise.

    >>> values = result("paper-values")
    >>> star = values[values.what == "accuracy with a tenth of the heads kept, by Taylor"].squeeze()
    >>> [round(one["ours"], 2) for one in beside(star, result("fig5-mnli"))]
    [np.float64(0.32)]
    """
    column, take = value["of"], "mean" if pandas.isna(value["take"]) else value["take"]
    for key, part in [("", found)] if pandas.isna(value["each"]) else found.groupby(value["each"]):
        mine, than, error = part.query(value["where"]), np.nan, np.nan
        ours = (mine[column].diff().dropna() > 0).mean() if value["rule"] == "rising" else mine[column].agg(take)
        if pandas.notna(value["than"]):
            other = part.query(value["than"])
            than, error = other[column].agg(take), np.hypot(half_width(mine, column), half_width(other, column))
        if pandas.notna(ours):
            rows = next((mine[name].iloc[0] for name in ("rows", "texts") if name in mine), np.nan)
            yield {"key": key, "ours": ours, "than": than, "error": error, "rows": rows}


def half_width(side: pandas.DataFrame, column: str) -> float:
    """Half of the 95 % interval of the mean of a column: the result's own, or that of a share of its rows."""
    low, high = ("flip_low", "flip_high") if column == "flip_rate" else ("low", "high")
    if low in side and side[low].notna().all():
        return float((side[high] - side[low]).mean() / 2)
    if "error" in side and side["error"].notna().all():
        return float(1.96 * side["error"].mean())
    share, rows = side[column].mean(), side["rows" if "rows" in side else "texts"].min()
    return float(1.96 * (share * (1 - share) / rows) ** 0.5)


def read_result(path: Path, measure: str | None = None) -> pandas.DataFrame:
    """The table in one file, checked; arguments and errors as for `result`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content.get("rows")  # of what is written by hand
        table = pandas.DataFrame(content["columns"] if rows is None else list(map(dict, rows)), dtype=object)
        provenance = dict(content["provenance"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{path} is damaged, or no result: {type(error).__name__}: {error}") from error
    found, wanted = set(table), set(columns_of(path))
    if found != wanted:
        raise ValueError(f"{path} lacks the columns {sorted(wanted - found)} and has {sorted(found - wanted)} instead")
    if measure is not None:
        one_of(f"measure of {path.stem}", measure, sorted(set(table.get("measure", ()))))
        table = table[table["measure"] == measure].dropna(axis=1, how="all").drop(columns="measure").reset_index(drop=True)
    table = table.infer_objects()
    if {"accuracy", "rows"} <= set(table):  # kept with four digits: a share of so many rows is one exact number again
        table["accuracy"] = (table["accuracy"] * table["rows"]).round() / table["rows"]
    table.attrs.update(provenance)
    return table


def trigger_of(row: Mapping[str, Any]) -> Trigger:
    """The trigger that a row of ``table1`` or ``table2`` tells of."""
    return Trigger(tuple(row["tokens"]), tuple(row["positions"]), tuple(row["segments"]), row["score"], row["label"])


def name_of(path: Path) -> str:
    """The name under which `result` finds a file: its own, after ``paper-`` in the papers' folder, after ``base/`` in that of a size."""
    if path.parent == data_folder() / "paper":
        return f"paper-{path.stem}"
    return f"base/{path.stem}" if path.parent == data_folder() / "results" / "base" else path.stem


def columns_of(path: Path) -> tuple[str, ...]:
    """The columns of a table of its kind: its name, but for the task that it ends in."""
    name = name_of(path).removeprefix("base/")
    kind = name.rpartition("-")[0]
    if name in COLUMNS:
        return COLUMNS[name]
    one_of(f"kind of result in {path}:", kind or name, COLUMNS)
    return ("task", *COLUMNS[kind])


def write_result(path: Path, rows: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> Path:
    """Write a table whose rows are dictionaries (a column that a row does not name is empty); an error leaves the old one."""
    names, table = columns_of(path), pandas.DataFrame(rows, dtype=object)
    unknown = sorted(set(table) - set(names))
    if unknown or table.empty:
        raise ValueError(f"{path}: {len(table)} rows with the columns {unknown}: expected some, and only {list(names)}")
    table = table.assign(task=table.get("task", path.stem.rpartition("-")[2])).reindex(columns=names)
    cells = table.where(table.notna(), None).to_dict("list")
    lines = [f"{json.dumps(name)}: {json.dumps(column, ensure_ascii=False, separators=(',', ':'))}" for name, column in cells.items()]
    with whole(path) as aside:
        head = f'{{"provenance": {json.dumps(dict(provenance))},\n"columns": {{\n'
        aside.write_text(head + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
    return path
