"""The four tasks of the paper: their names, columns and labels, our own examples, and real data in the same shape.

Sentences in ``data/examples/`` are written for this project. Real GLUE data is read from a folder that the reader has
(``source=FOLDER``); nothing of it is kept here.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Task:
    """One classification task: how it is called, which columns hold its text, and its classes in the model's order."""

    name: str
    folder: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]


TASKS = {
    task.name: task
    for task in (
        Task("mnli", "MNLI", ("sentence1", "sentence2"), ("entailment", "neutral", "contradiction")),
        Task("rte", "RTE", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
        Task("sst2", "SST-2", ("sentence",), ("negative", "positive")),
        Task("mrpc", "MRPC", ("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    )
}
SPLITS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}


def data_folder() -> Path:
    """The folder ``data/`` of this package: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def find_task(name: str) -> Task:
    """The `Task` called ``name``; a ``ValueError`` names the tasks there are."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: expected one of {', '.join(map(repr, TASKS))}")
    return TASKS[name]


def examples(task: str, source: str | Path = "own", split: str = "validation") -> Dataset:
    """Labelled rows of one task, as a ``datasets.Dataset`` with the task's text columns and a ``ClassLabel``.

    Args:
        task: ``"mnli"``, ``"rte"``, ``"sst2"`` or ``"mrpc"``.
        source: ``"own"`` for the sentences written for this book (one split), or a folder laid out as
            ``FOLDER/SST-2/train.tsv`` and ``dev.tsv`` (tab-separated, one header row, no quoting).
        split: ``"train"``, ``"validation"`` or ``"test"``; of the own examples there is only ``"validation"``.

    Raises:
        ValueError: an unknown task, split or label, or a row of the wrong shape; the message names file and line.
        FileNotFoundError: the task has no file for this split in that folder.

    >>> rows = examples("sst2")
    >>> rows.column_names, rows.features["label"].names
    (['sentence', 'label'], ['negative', 'positive'])
    """
    from datasets import ClassLabel, Dataset, Features, Value

    found = find_task(task)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(map(repr, SPLITS))}")
    if str(source) == "own":
        if split != "validation":
            raise ValueError(f"the own examples have one split, 'validation', not {split!r}; pass source=FOLDER for real data")
        path = data_folder() / "examples" / f"{task}.tsv"
    else:
        path = Path(source) / found.folder / SPLITS[split]
    rows = read_rows(path, found)
    features = Features({c: Value("string") for c in found.columns} | {"label": ClassLabel(names=list(found.labels))})
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def read_rows(path: Path, task: Task) -> list[dict[str, str]]:
    """The rows of one TSV file as dictionaries; quotes are ordinary characters, as in GLUE's own files."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} for task {task.name!r}: expected tab-separated columns {task.columns} and label")
    wanted = (*task.columns, "label")
    rows = []
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: byte {error.object[error.start]:#x} is not UTF-8; save the file as UTF-8") from error
    with io.StringIO(content, newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the column {missing[0]!r}: it has {reader.fieldnames}, {task.name!r} needs {list(wanted)}")
        for row in reader:
            if row["label"] not in task.labels:
                raise ValueError(f"{path}, line {reader.line_num}: unknown label {row['label']!r}, expected one of {task.labels}")
            if not all(row[name] for name in wanted):
                raise ValueError(f"{path}, line {reader.line_num}: an empty column, expected text in each of {list(wanted)}")
            rows.append({name: row[name] for name in wanted})
    if not rows:
        raise ValueError(f"{path} holds no rows, only a header")
    return rows


def texts(rows: Dataset) -> list[str | tuple[str, str]]:
    """The text of each row as `attattr.attribute` takes it: a string, or a pair for two-sentence tasks."""
    if "sentence" in rows.column_names:
        return list(rows["sentence"])
    return list(zip(rows["sentence1"], rows["sentence2"], strict=True))


def result(name: str) -> dict:
    """A measured result, ``data/results/NAME.json``, as it was written by ``python -m attattr reproduce``."""
    path = data_folder() / "results" / f"{name}.json"
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.json"))
        raise FileNotFoundError(f"no result {name!r} in {path.parent}; there are {there}")
    return json.loads(path.read_text(encoding="utf-8"))
