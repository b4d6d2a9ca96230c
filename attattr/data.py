"""The four tasks of the paper, and agreement: their names, columns and labels, our own examples, and real data in the same shape.

Sentences in ``data/examples/`` are written for this project. Real GLUE data is read from the hub (``source="glue"``) or from a
folder that the reader has (``source=FOLDER``); nothing of it is kept here. The opinion lexicon of §5.3 is read likewise.
"""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Task:
    """One classification task: how it is called, which columns hold its text, and its classes in the model's order."""

    name: str  # also the hub's name for it
    folder: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]  # also the hub's order


TASKS = {
    task.name: task
    for task in (
        Task("mnli", "MNLI", ("sentence1", "sentence2"), ("entailment", "neutral", "contradiction")),
        Task("rte", "RTE", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
        Task("sst2", "SST-2", ("sentence",), ("negative", "positive")),
        Task("mrpc", "MRPC", ("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    )
}
AGREEMENT = Task("agreement", "agreement", ("sentence",), ("singular", "plural"))  # of the verb that comes next (chapter 10)
ALL_TASKS = TASKS | {AGREEMENT.name: AGREEMENT}
WIKI = {"train": "wiki_test.tsv", "validation": "wiki_dev.tsv"}  # Linzen et al. (TACL 2016); their own training file is far larger
WIKI_COLUMNS, NUMBERS = ("sentence", "verb_idx", "verb_pos"), {"VBZ": "singular", "VBP": "plural"}
SPLITS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
HUB = "hf://datasets/nyu-mll/glue@bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"  # a revision of 2024, so that rows stay what they were
HUB_COLUMNS = {"premise": "sentence1", "hypothesis": "sentence2"}
POLARITIES = ("positive", "negative")
LEXICON_COLUMNS = ("word", "text", "term", "token"), ("label", "polarity", "sentiment")


def data_folder() -> Path:
    """The folder ``data/`` of this package: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def find_task(name: str) -> Task:
    """The `Task` called ``name``; a ``ValueError`` names the tasks there are."""
    if name not in ALL_TASKS:
        raise ValueError(f"unknown task {name!r}: expected one of {', '.join(map(repr, ALL_TASKS))}")
    return ALL_TASKS[name]


def examples(task: str, source: str | Path = "own", split: str = "validation") -> Dataset:
    """Labelled rows of one task, as a ``datasets.Dataset`` with the task's text columns and a ``ClassLabel``.

    Args:
        task: ``"mnli"``, ``"rte"``, ``"sst2"`` or ``"mrpc"``; or ``"agreement"``: the words before a verb, and its number.
        source: ``"own"`` for the sentences written for this book (one split); ``"glue"`` for the real data from the hub
            (needs a network); or a folder: either ``FOLDER/SST-2/train.tsv`` and ``dev.tsv`` (tab-separated, one
            header row, no quoting), or a copy of the hub's repository, ``FOLDER/sst2/train-00000-of-00001.parquet``. Agreement
            is not of GLUE: ``FOLDER/agreement/wiki_test.tsv`` is ``"train"``, ``wiki_dev.tsv`` is ``"validation"``.
        split: ``"train"``, ``"validation"`` or ``"test"``; of the own examples there is only ``"validation"``.
            MNLI's ``"validation"`` is the matched one. GLUE keeps most labels of its test splits to itself: those are refused.

    Raises:
        ValueError: an unknown task, split or label, or a row of the wrong shape; the message names file and line.
        OSError: the task has no file for this split in that folder, or the hub cannot be reached.

    >>> rows = examples("sst2")
    >>> rows.column_names, rows.features["label"].names
    (['sentence', 'label'], ['negative', 'positive'])
    """
    from datasets import ClassLabel, Dataset, Features, Value

    found = find_task(task)
    rows = read_split(found, source, split)
    features = Features({c: Value("string") for c in found.columns} | {"label": ClassLabel(names=list(found.labels))})
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def read_split(task: Task, source: str | Path = "own", split: str = "validation") -> list[dict[str, str]]:
    """The rows of `examples` as dictionaries, each label by its name."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(map(repr, SPLITS))}")
    if str(source) == "own":
        if split != "validation":
            raise ValueError(f"the own examples have one split, 'validation', not {split!r}; pass source=FOLDER for real data")
        return read_rows(data_folder() / "examples" / f"{task.name}.tsv", task)
    if task is AGREEMENT:
        if split not in WIKI or str(source) == "glue":
            raise ValueError(
                f"agreement has no {split!r} in {str(source)!r}: expected one of {list(WIKI)}, and a folder that holds agreement/"
            )
        return read_agreement(Path(source) / task.folder / WIKI[split])
    if str(source) == "glue":
        return read_hub(HUB, task, split)
    table = Path(source) / task.folder / SPLITS[split]
    if not table.is_file() and any((Path(source) / task.name).glob("*.parquet")):
        return read_hub(str(source), task, split)
    return read_rows(table, task)


def read_hub(root: str, task: Task, split: str) -> list[dict[str, str]]:
    """Rows of GLUE as the hub keeps it, columns and label names brought to ours; ``root`` is the hub's address or a local copy."""
    from datasets import load_dataset

    hub_split = f"{split}_matched" if task.name == "mnli" and split != "train" else split
    root = root if root == HUB else glob.escape(root)
    files = f"{root}/{task.name}/{hub_split}-*.parquet"
    wanted = (*task.columns, "label")
    try:
        found = load_dataset("parquet", data_files={hub_split: files}, split=hub_split)
    except Exception as error:  # of httpx, of the hub's client, of arrow: many kinds, one meaning
        advice = "the hub needs a network; pass source=FOLDER for a local copy" if root == HUB else "expected a copy of the hub's files"
        raise OSError(f"cannot read {files} for task {task.name!r}: {advice} ({type(error).__name__}: {error})") from error
    found = found.rename_columns({old: new for old, new in HUB_COLUMNS.items() if old in found.column_names})
    missing = [name for name in wanted if name not in found.column_names]
    if missing:
        raise ValueError(f"{files} lacks the column {missing[0]!r}: it has {found.column_names}, {task.name!r} needs {list(wanted)}")
    names = getattr(found.features["label"], "names", task.labels)  # files written without the hub's metadata hold plain numbers
    rows = []
    for number, row in enumerate(found.select_columns(list(wanted))):
        label = names[row["label"]] if isinstance(row["label"], int) and 0 <= row["label"] < len(names) else row["label"]
        if label not in task.labels:
            hint = " (GLUE does not publish the labels of this split)" if label == -1 else ""
            raise ValueError(f"{files}, row {number}: unknown label {label!r}{hint}, expected one of {task.labels}")
        if not all(isinstance(row[name], str) for name in task.columns):
            raise ValueError(f"{files}, row {number}: no text, expected a string in each of {list(task.columns)}")
        rows.append({name: row[name] for name in task.columns} | {"label": label})
    return rows


def read_rows(path: Path, task: Task) -> list[dict[str, str]]:
    """The rows of one TSV file as dictionaries; quotes are ordinary characters, as in GLUE's own files."""
    rows = []
    for line, row in read_table(path, (*task.columns, "label"), task):
        if row["label"] not in task.labels:
            raise ValueError(f"{path}, line {line}: unknown label {row['label']!r}, expected one of {task.labels}")
        rows.append(row)
    return rows


def read_agreement(path: Path) -> list[dict[str, str]]:
    """The words before the verb of each sentence, in the files of Linzen et al., and the number of the verb."""
    rows = []
    for line, row in read_table(path, WIKI_COLUMNS, AGREEMENT):
        words, place = row["sentence"].split(" "), row["verb_idx"]
        if not (place.isdecimal() and 0 < int(place) < len(words)):
            raise ValueError(f"{path}, line {line}: verb_idx={place!r}, expected a number from 1 to {len(words) - 1}, counted from 0")
        if row["verb_pos"] not in NUMBERS:
            raise ValueError(f"{path}, line {line}: unknown verb_pos {row['verb_pos']!r}, expected one of {list(NUMBERS)}")
        rows.append({"sentence": " ".join(words[: int(place)]), "label": NUMBERS[row["verb_pos"]]})
    return rows


def read_table(path: Path, wanted: tuple[str, ...], task: Task) -> list[tuple[int, dict[str, str]]]:
    """The wanted columns of one TSV file, none of them empty, each row with the number of its line."""
    if not path.is_file():
        hint = "" if task is AGREEMENT else f", or, in a copy of the hub's repository, {task.name}/*.parquet"
        raise FileNotFoundError(f"no file {path} for task {task.name!r}: expected tab-separated columns {wanted}{hint}")
    # Only "\n" ends a line: the csv module and splitlines() would also break rows at other characters that sentences contain.
    content = read_utf8(path)
    if not content.strip():
        raise ValueError(f"{path} is empty: expected a header with the columns {list(wanted)}, and rows")
    header, *lines = [line.removesuffix("\r").split("\t") for line in content.removesuffix("\n").split("\n")]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise ValueError(f"{path} lacks the column {missing[0]!r}: it has {header}, {task.name!r} needs {list(wanted)}")
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has a column twice: {header}")
    rows = []
    for number, cells in enumerate(lines, 2):
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {number}: {len(cells)} tab-separated columns, expected {len(header)}: {header}")
        row = dict(zip(header, cells, strict=True))
        if not all(row[name].strip() for name in wanted):
            raise ValueError(f"{path}, line {number}: an empty column, expected text in each of {list(wanted)}")
        rows.append((number, {name: row[name] for name in wanted}))
    if not rows:
        raise ValueError(f"{path} holds no rows, only a header")
    return rows


def digest(rows: list[dict[str, str]]) -> str:
    """One name for these rows in their order: the sha256 of their JSON."""
    return sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def read_utf8(path: Path) -> str:
    """The text of a file; an error names the line that is not UTF-8."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: byte {content[error.start]:#x} is not UTF-8; save the file as UTF-8") from error


def lexicon(source: str | Path = "own") -> dict[str, frozenset[str]]:
    """Opinion words, ``{"positive": words, "negative": words}``, lower-case.

    Args:
        source: ``"own"`` for a small list written for this book; a folder that holds ``positive-words.txt`` and
            ``negative-words.txt`` as Hu and Liu (KDD 2004) publish them (one word a line, ``;`` begins a comment,
            saved as UTF-8); or the name of a dataset on the hub, or of any place that ``datasets.load_dataset`` takes,
            whose rows hold a word and its polarity.

    Raises:
        ValueError: a file or dataset without words, or with a polarity that is neither positive nor negative.
        OSError: no such folder or dataset.

    >>> "delightful" in lexicon()["positive"]
    True
    """
    folder = data_folder() / "lexicon" if str(source) == "own" else Path(source)
    files = {polarity: folder / f"{polarity}-words.txt" for polarity in POLARITIES}
    if not any(path.is_file() for path in files.values()):
        if folder.is_dir() and not any(path.suffix in (".parquet", ".csv", ".json", ".jsonl") for path in folder.rglob("*")):
            raise FileNotFoundError(f"no file {files['positive']}: expected it and {files['negative'].name}, one word a line")
        words = hub_lexicon(str(source))
    else:
        missing = [path for path in files.values() if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"no file {missing[0]}: a lexicon needs both polarities")
        lines = {polarity: read_utf8(path).lower().splitlines() for polarity, path in files.items()}
        words = {polarity: {line.strip() for line in found if line.strip() and line[0] != ";"} for polarity, found in lines.items()}
    empty = [polarity for polarity in POLARITIES if not words[polarity]]
    if empty:
        raise ValueError(f"the lexicon {str(source)!r} holds no {empty[0]} word")
    return {polarity: frozenset(found) for polarity, found in words.items()}


def hub_lexicon(name: str) -> dict[str, set[str]]:
    """A lexicon by its name, through ``datasets``: each row a word and its polarity, in whichever columns hold them."""
    from datasets import load_dataset

    try:
        splits = load_dataset(name)
    except Exception as error:  # see read_hub
        raise OSError(
            f"cannot read the lexicon {name!r}: the hub needs a network; pass a folder ({type(error).__name__}: {error})"
        ) from error
    words: dict[str, set[str]] = {polarity: set() for polarity in POLARITIES}
    for split, rows in splits.items():
        found = [[name for name in rows.column_names if name in names] for names in LEXICON_COLUMNS]
        if [len(names) for names in found] != [1, 1]:
            raise ValueError(f"the lexicon {name!r} has columns {rows.column_names}, expected one of each of {LEXICON_COLUMNS}")
        (word_column,), (label_column,) = found
        names = getattr(rows.features[label_column], "names", None)
        for number, row in enumerate(rows):
            word, label = row[word_column], row[label_column]
            if names and isinstance(label, int) and 0 <= label < len(names):
                label = names[label]
            polarity = str(label).lower()
            if polarity not in words or not isinstance(word, str):
                where = f"the lexicon {name!r}, {split}, row {number}"
                raise ValueError(f"{where}: the word {word!r} of polarity {label!r}, expected one of {POLARITIES}")
            words[polarity].add(word.lower())
    return words


def texts(rows: Dataset) -> list[str | tuple[str, str]]:
    """The text of each row as `attattr.attribute` takes it: a string, or a pair for two-sentence tasks."""
    if "sentence" in rows.column_names:
        return list(rows["sentence"])
    return list(zip(rows["sentence1"], rows["sentence2"], strict=True))


def result(name: str) -> dict:
    """A measured result, ``data/results/NAME.json``, as it was written by ``python -m attattr reproduce``."""
    return read_json("results", name)


def paper(name: str) -> dict:
    """Numbers that a paper prints, ``data/paper/NAME.json``: ``"table2"`` is Hao et al.'s Table 2."""
    return read_json("paper", name)


def read_json(folder: str, name: str) -> dict:
    """``data/FOLDER/NAME.json``."""
    path = data_folder() / folder / f"{name}.json"
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.json"))
        raise FileNotFoundError(f"no result {name!r} in {path.parent}; there are {there}")
    return json.loads(path.read_text(encoding="utf-8"))
