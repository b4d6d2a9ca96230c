"""The four tasks of the paper, and agreement: their names, columns and labels, our own examples, and real data in the same shape.

Sentences in ``data/examples/`` are written for this project. Real GLUE data is read from the hub (``source="glue"``) or from a
folder that the reader has (``source=FOLDER``); nothing of it is kept here. The opinion lexicon of §5.3 is read likewise.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
LEXICON = Task("lexicon", "lexicon", ("word",), ("positive", "negative"))  # read like a task: each word is a row
LEXICON_COLUMNS = {"word": ("word", "text", "term", "token"), "label": ("label", "polarity", "sentiment")}


def data_folder() -> Path:
    """The folder ``data/`` of this package: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def one_of(kind: str, value: str, known: Collection[str]) -> None:
    """Raise a ``ValueError`` that names what is known, unless ``value`` is among it."""
    if value not in known:
        raise ValueError(f"unknown {kind} {value!r}: expected one of {', '.join(map(repr, known))}")


def find_task(name: str) -> Task:
    """The `Task` called ``name``; a ``ValueError`` names the tasks there are."""
    one_of("task", name, ALL_TASKS)
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
    features = Features({c: Value("string") for c in found.columns} | {"label": ClassLabel(names=list(found.labels))})
    return Dataset.from_list(read_split(found, source, split), features=features)


def read_split(task: Task, source: str | Path = "own", split: str = "validation") -> list[dict[str, str]]:
    """The rows of `examples` as dictionaries, each label by its name."""
    one_of("split", split, SPLITS)
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
    table = Path(source) / task.folder / SPLITS[split]
    if str(source) == "glue":
        return read_hub(HUB, task, split)
    if not table.is_file() and any((Path(source) / task.name).glob("*.parquet")):
        return read_hub(glob.escape(str(source)), task, split)
    return read_rows(table, task)


def read_hub(root: str, task: Task, split: str) -> list[dict[str, str]]:
    """Rows of GLUE as the hub keeps it, columns and label names brought to ours; ``root`` is the hub's address or a local copy."""
    hub_split = f"{split}_matched" if task.name == "mnli" and split != "train" else split
    files = f"{root}/{task.name}/{hub_split}-*.parquet"
    advice = "expected a copy of the hub's files; the hub itself needs a network; pass source=FOLDER for a local copy"
    found = from_datasets(f"{files} for task {task.name!r}", advice, "parquet", data_files={hub_split: files}, split=hub_split)
    found = found.rename_columns({old: new for old, new in HUB_COLUMNS.items() if old in found.column_names})
    check_columns(files, found.column_names, (*task.columns, "label"), task)
    return checked(dataset_rows(found, files, task.labels), task)  # files written without the hub's metadata hold plain numbers


def from_datasets(wanted: str, advice: str, *arguments: str, **options: Any) -> Any:
    """What ``datasets.load_dataset`` reads; an ``OSError`` with advice if it cannot."""
    from datasets import load_dataset

    try:
        return load_dataset(*arguments, **options)
    except Exception as error:  # of httpx, of the hub's client, of arrow: many kinds, one meaning
        raise OSError(f"cannot read {wanted}: {advice} ({type(error).__name__}: {error})") from error


def dataset_rows(rows: Dataset, place: str, names: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a dataset with where it stands, its label by name: ``names`` are those of plain numbers."""
    names = getattr(rows.features["label"], "names", names)
    for number, row in enumerate(rows):
        label = row["label"]
        if isinstance(label, int) and 0 <= label < len(names):
            label = names[label]
        yield f"{place}, row {number}", row | {"label": label}


def read_rows(path: Path, task: Task) -> list[dict[str, str]]:
    """The rows of one TSV file as dictionaries; quotes are ordinary characters, as in GLUE's own files."""
    return checked(table_rows(path, (*task.columns, "label"), task), task)


def read_agreement(path: Path) -> list[dict[str, str]]:
    """The words before the verb of each sentence, in the files of Linzen et al., and the number of the verb."""
    rows = []
    for where, row in table_rows(path, WIKI_COLUMNS, AGREEMENT):
        words, place = row["sentence"].split(" "), row["verb_idx"]
        if not (place.isdecimal() and 0 < int(place) < len(words)):
            raise ValueError(f"{where}: verb_idx={place!r}, expected a number from 1 to {len(words) - 1}, counted from 0")
        if row["verb_pos"] not in NUMBERS:
            raise ValueError(f"{where}: unknown verb_pos {row['verb_pos']!r}, expected one of {list(NUMBERS)}")
        rows.append((where, {"sentence": " ".join(words[: int(place)]), "label": NUMBERS[row["verb_pos"]]}))
    return checked(rows, AGREEMENT)


def table_rows(path: Path, wanted: Sequence[str], task: Task) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of one TSV file with where it stands; the file has the wanted columns, each row as many cells as the header."""
    if not path.is_file():
        hint = "" if task is AGREEMENT else f", or, in a copy of the hub's repository, {task.name}/*.parquet"
        raise FileNotFoundError(f"no file {path} for task {task.name!r}: expected tab-separated columns {wanted}{hint}")
    # Only "\n" ends a line: the csv module and splitlines() would also break rows at other characters that sentences contain.
    header, *lines = [line.removesuffix("\r").split("\t") for line in read_utf8(path).removesuffix("\n").split("\n")]
    if not lines:
        raise ValueError(f"{path} holds no rows: expected a header with the columns {list(wanted)}, and rows below it")
    check_columns(str(path), header, wanted, task)
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has a column twice: {header}")
    for number, cells in enumerate(lines, 2):
        where = f"{path}, line {number}"
        if len(cells) != len(header):
            raise ValueError(f"{where}: {len(cells)} tab-separated columns, expected {len(header)}: {header}")
        yield where, dict(zip(header, cells, strict=True))


def check_columns(place: str, found: Sequence[str], wanted: Sequence[str], task: Task) -> None:
    """Raise a ``ValueError`` that names the first of the wanted columns that is not there."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"{place} lacks the column {missing[0]!r}: it has {found}, {task.name!r} needs {list(wanted)}")


def checked(rows: Iterable[tuple[str, Mapping[str, Any]]], task: Task) -> list[dict[str, str]]:
    """The task's columns of rows that come with where they stand: text in each, and one of the task's labels."""
    found = []
    for where, row in rows:
        if row["label"] not in task.labels:
            hint = " (GLUE does not publish the labels of this split)" if row["label"] == -1 else ""
            raise ValueError(f"{where}: unknown label {row['label']!r}{hint}, expected one of {task.labels}")
        if not all(isinstance(row[name], str) and row[name].strip() for name in task.columns):
            raise ValueError(f"{where}: a column without text, expected some in each of {list(task.columns)}")
        found.append({name: row[name] for name in (*task.columns, "label")})
    return found


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
    files = {polarity: folder / f"{polarity}-words.txt" for polarity in LEXICON.labels}
    missing = [path for path in files.values() if not path.is_file()]
    if len(missing) == len(files):
        words = dataset_lexicon(str(source))
    elif missing:
        raise FileNotFoundError(f"no file {missing[0]}: a lexicon needs both polarities")
    else:
        lines = {polarity: read_utf8(path).lower().splitlines() for polarity, path in files.items()}
        words = {polarity: {line.strip() for line in found if line.strip() and line[0] != ";"} for polarity, found in lines.items()}
    empty = [polarity for polarity in LEXICON.labels if not words[polarity]]
    if empty:
        raise ValueError(f"the lexicon {str(source)!r} holds no {empty[0]} word")
    return {polarity: frozenset(found) for polarity, found in words.items()}


def dataset_lexicon(name: str) -> dict[str, set[str]]:
    """A lexicon through ``datasets``, by its name or folder: each row a word and its polarity, in whichever columns hold them."""
    advice = "expected positive-words.txt and negative-words.txt in a folder, or a dataset, for which the hub needs a network"
    words: dict[str, set[str]] = {polarity: set() for polarity in LEXICON.labels}
    for split, rows in from_datasets(f"the lexicon {name!r}", advice, name).items():
        ours = {old: new for new, known in LEXICON_COLUMNS.items() for old in rows.column_names if old in known}
        if sorted(ours.values()) != ["label", "word"]:
            raise ValueError(f"the lexicon {name!r} has columns {rows.column_names}, expected one of each of {LEXICON_COLUMNS}")
        found = dataset_rows(rows.rename_columns(ours), f"the lexicon {name!r}, {split}")
        for row in checked(((where, row | {"label": str(row["label"]).lower()}) for where, row in found), LEXICON):
            words[row["label"]].add(row["word"].lower())
    return words
