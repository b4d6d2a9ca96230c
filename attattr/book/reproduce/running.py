"""What every dataset-scale computation shares: what it is run on, how rows are drawn, numbers rounded, and going on after a kill.

Finished jobs are kept in a file beside the result, one JSON line each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ...batches import Dataset
from ...data import examples

Rows = list[dict[str, Any]]  # of a table of `attattr.book.results`
Measured = tuple[Rows, dict[str, Any]]  # a table, and what its provenance says beside
OTHER = "other models of the task, folders that finetune wrote: for fig6 from other seeds; for flow-correlations and saturation any"


@dataclass(frozen=True)
class Request:
    """What a dataset-scale computation is asked for: the options of the command."""

    task: str
    data: Path = field(metadata={"help": "folder of real data, or 'glue' for the hub"})
    model: str | None = field(default=None, metadata={"help": "folder or hub id of a model of the task; none: the embedded one"})
    rows: int | None = field(default=None, metadata={"help": "how many of the validation split; none: what the result usually takes"})
    seed: int = 0
    other: list[Path] = field(default_factory=list, metadata={"help": OTHER})
    output: Path = field(default=Path("results"), metadata={"help": "folder; it holds one result of each kind and task"})


@dataclass(frozen=True)
class Run(Request):
    """A request, and what tells its files from those of others."""

    name: str = ""  # of the result
    weights: str = ""  # sha256 of the model's weights
    key: str = ""  # what the partial files of a killed run must share with the run that goes on: rows, seed, weights, versions


def sample(rows: Dataset, count: int | None, generator: random.Random) -> Dataset:
    """That many of the rows (None, or more than there are: all), drawn without repetition, in the order of the draw."""
    return rows.select(generator.sample(range(len(rows)), min(count or len(rows), len(rows))))


def drawn(run: Run) -> Dataset:
    """The rows of the validation split that a run is made on."""
    return sample(examples(run.task, source=run.data), run.rows, random.Random(run.seed))


def rounded(value: Any, digits: int = 4) -> Any:
    """A number with this many digits that count, or all of a tensor or a list; None stays."""
    if isinstance(value, Tensor | list | tuple):
        return [rounded(one, digits) for one in (value.tolist() if isinstance(value, Tensor) else value)]
    return value if value is None else float(f"{value:.{digits}g}")


def resumable(run: Run, part: str, jobs: Sequence[tuple], measure: Callable[..., Any]) -> list[Any]:
    """What ``measure`` says of every job, a tuple of its arguments, with a progress bar.

    Each answer is appended with its number to the partial file of this ``part`` of the run at once, and those already there are not
    asked for again. Raises ``OSError`` for a file that holds anything else.
    """
    path = partial_file(run, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        file.truncate(sum(map(len, lines)))  # without the half line that a kill may have left; this needs no room on the disk
        try:
            done = dict(map(json.loads, lines))
        except (ValueError, TypeError):
            done = {}
        if list(done) != list(range(len(lines))) or len(lines) > len(jobs):
            raise OSError(f"damaged file {path} of an unfinished run: remove it to start again")
        desc = f"{run.name} {run.task}: {part}"
        for number in tqdm(range(len(done), len(jobs)), desc=desc, initial=len(done), total=len(jobs), mininterval=5):
            done[number] = measure(*jobs[number])
            file.write(json.dumps([number, done[number]]).encode() + b"\n")
            file.flush()
    return list(done.values())


def partial_file(run: Run, part: str) -> Path:
    """Where the finished jobs of an unfinished run are kept."""
    return run.output / f".{run.name}-{run.task}-{run.key}-{part}.jsonl"
