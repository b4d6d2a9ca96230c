"""The four tasks of the paper, and agreement: their names, columns and labels, our own examples, and real data in the same shape.

Sentences in ``data/examples/`` are written for this project. Real GLUE data is read from the hub (``source="glue"``) or from a
folder that the reader has (``source=FOLDER``); nothing of it is kept here. The opinion lexicon of §5.3 is read likewise.

Whatever is read is first a ``pandas.DataFrame`` whose index says where each row stands; `checked` makes our rows of it.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas
from safetensors import SafetensorError

if TYPE_CHECKING:
    from datasets import Dataset


class Task(NamedTuple):
    """One classification task: how it is called, which columns hold its text, and its classes in the model's order."""

    name: str  # also the hub's name for it
    folder: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]  # also the hub's order


OF_GLUE = (
    Task("mnli", "MNLI", ("sentence1", "sentence2"), ("entailment", "neutral", "contradiction")),
    Task("rte", "RTE", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
    Task("sst2", "SST-2", ("sentence",), ("negative", "positive")),
    Task("mrpc", "MRPC", ("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
)
TASKS = {task.name: task for task in OF_GLUE}
AGREEMENT = Task("agreement", "agreement", ("sentence",), ("singular", "plural"))  # of the verb that comes next (chapter 12)
ALL_TASKS = TASKS | {AGREEMENT.name: AGREEMENT}
WIKI = {"train": "wiki_test.tsv", "validation": "wiki_dev.tsv"}  # Linzen et al. (TACL 2016); their own training file is far larger
LINZEN = Task("agreement", "agreement", ("sentence", "verb_idx"), ("VBZ", "VBP"))  # what is in them; labels in the order of ours
SPLITS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
HUB = "hf://datasets/nyu-mll/glue@bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"  # a revision of 2024, so that rows stay what they were
LEXICON = Task("lexicon", "lexicon", ("word",), ("positive", "negative"))  # read like a task: each word is a row
OUR_NAMES = {"premise": "sentence1", "hypothesis": "sentence2", "verb_pos": "label", "polarity": "label", "sentiment": "label"}
OUR_NAMES |= dict.fromkeys(("text", "term", "token"), "word")  # of columns that others call otherwise


def data_folder() -> Path:
    """The folder ``data/`` of this package: inside an installed wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "data"


def one_of(kind: str, value: object, known: Collection[str]) -> None:
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
    files = WIKI if task is AGREEMENT else SPLITS
    one_of("split", split, files)
    if str(source) == "own":
        one_of("split of the own examples (pass source=FOLDER for real data):", split, ["validation"])
        return read_rows(data_folder() / "examples" / f"{task.name}.tsv", task)
    if str(source) == "glue":
        one_of("task of GLUE", task.name, TASKS)
        return read_hub(HUB, task, split)
    table = Path(source) / task.folder / files[split]
    if task is AGREEMENT:
        return read_agreement(table)
    if not table.is_file() and any((Path(source) / task.name).glob("*.parquet")):
        return read_hub(glob.escape(str(source)), task, split)
    return read_rows(table, task)


def read_hub(root: str, task: Task, split: str) -> list[dict[str, str]]:
    """Rows of GLUE as the hub keeps it; ``root`` is the hub's address or a local copy."""
    hub_split = f"{split}_matched" if task.name == "mnli" and split != "train" else split
    files = f"{root}/{task.name}/{hub_split}-*.parquet"
    table = load_table(f"{files} for task {task.name!r}", "parquet", data_files={hub_split: files})
    names = dict(enumerate(task.labels)) | {-1: "-1, for GLUE does not publish it"}  # files without the hub's metadata hold numbers
    return checked(table.replace({"label": names}), files, task)


def load_table(place: str, *arguments: str, **options: Any) -> pandas.DataFrame:
    """All rows that ``datasets.load_dataset`` finds, classes by their names; an ``OSError`` with advice if it cannot."""
    from datasets import ClassLabel, load_dataset

    try:
        found = load_dataset(*arguments, split="all", **options)
    except Exception as error:  # of httpx, of the hub's client, of arrow: many kinds, one meaning
        raise OSError(f"cannot read {place}: expected a network for the hub, or its files in source=FOLDER ({error!r})") from error
    classes = {column: dict(enumerate(kind.names)) for column, kind in found.features.items() if isinstance(kind, ClassLabel)}
    return found.to_pandas().replace(classes).rename_axis("row")


def read_rows(path: Path, task: Task) -> list[dict[str, str]]:
    """The rows of one TSV file as dictionaries; quotes are ordinary characters, as in GLUE's own files."""
    text = read_utf8(path, f"a table for task {task.name!r} with tabs between its columns (of GLUE also the hub's {task.name}/*.parquet)")
    # Only "\n" ends a line: the csv module and splitlines() would also break rows at other characters that sentences contain.
    header, *lines = [line.removesuffix("\r").split("\t") for line in text.removesuffix("\n").split("\n")]
    if not lines:
        raise ValueError(f"{path} holds no rows: expected a header with the columns {[*task.columns, 'label']}, and rows below it")
    for number, cells in enumerate(lines, 2):
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {number}: {len(cells)} tab-separated columns, expected {len(header)}: {header}")
    table = pandas.DataFrame(lines, columns=header, index=pandas.RangeIndex(2, len(lines) + 2, name="line"))
    return checked(table, str(path), task)


def read_agreement(path: Path) -> list[dict[str, str]]:
    """The words before the verb of each sentence, in the files of Linzen et al., and the number of the verb."""
    found = []
    for line, row in enumerate(read_rows(path, LINZEN), 2):
        words, verb = row["sentence"].split(" "), row["verb_idx"]
        places = [str(place) for place in range(1, len(words)) if any(words[:place])]  # with something before them
        one_of(f"verb_idx, counted from 0, in {path}, line {line}:", verb, places)
        found.append({"sentence": " ".join(words[: int(verb)]), "label": AGREEMENT.labels[LINZEN.labels.index(row["label"])]})
    return found


def checked(table: pandas.DataFrame, place: str, task: Task) -> list[dict[str, str]]:
    """The task's columns, under our names, of each row of a table that was read at ``place``: text, and one of the task's labels."""
    columns, ours = [*task.columns, "label"], table.rename(columns=OUR_NAMES)
    if any(list(ours.columns).count(name) != 1 for name in columns):
        raise ValueError(f"{place} has the columns {list(table.columns)}: expected each of {columns} once, or its name in {OUR_NAMES}")
    rows = ours[columns].to_dict("records")
    for number, row in zip(table.index, rows, strict=True):
        where = f"{place}, {table.index.name} {number}"
        one_of(f"label in {where}:", row["label"], task.labels)
        if not all(isinstance(cell, str) and cell.strip() for cell in row.values()):
            raise ValueError(f"{where}: a column without text, expected some in each of {list(task.columns)}")
    return rows


def read_utf8(path: Path, expected: str) -> str:
    """The text of a file; an error says what was expected there, or names the line that is not UTF-8."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected {expected}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: byte {error.object[error.start]:#x} is not UTF-8; save the file as UTF-8") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file first: it then takes the place of the one at ``path``, which stays as it is if anything fails.

    Raises ``OSError`` for whatever torch and safetensors raise on a full disk.
    """
    aside = path.with_name(f"{path.name}.new")
    try:
        yield aside
        aside.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f"cannot write {path}, which is as it was: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


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
    place = f"the lexicon {str(source)!r}"
    if any(path.is_file() for path in files.values()):
        lines = {polarity: read_utf8(path, f"{polarity} words, one a line").splitlines() for polarity, path in files.items()}
        rows = [{"word": line.strip(), "label": polarity} for polarity, found in lines.items() for line in found if line[:1] != ";"]
    else:
        table = load_table(f"{place} (nor are there files positive-words.txt and negative-words.txt)", str(source))
        rows = checked(table.map(lambda cell: cell.lower() if isinstance(cell, str) else cell), place, LEXICON)
    # A blank line is no word.
    words = {polarity: frozenset(row["word"].lower() for row in rows if row["label"] == polarity) - {""} for polarity in LEXICON.labels}
    if not all(words.values()):
        raise ValueError(f"{place} holds {[f'{len(found)} {polarity}' for polarity, found in words.items()]} words: expected some of each")
    return words
