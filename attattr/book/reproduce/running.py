"""What every dataset-scale computation shares: what it is run on, how rows are drawn, numbers rounded, and going on after a kill.

Finished jobs are kept in a file beside the result, one JSON line each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ...batches import Dataset
from ...data import examples

Rows = list[dict[str, Any]]  # of a table of `attattr.book.results`
Measured = tuple[Rows, dict[str, Any]]  # a table, and what its provenance says beside


@dataclass(frozen=True)
class Run:
    """What a dataset-scale computation is run on."""

    task: str
    data: str | Path  # where real rows are, as `attattr.examples` takes it
    rows: int | None  # drawn from the validation split; None: as many as the result usually takes, or all
    seed: int
    output: Path  # folder of the result
    other: Sequence[str | Path] = ()  # other models of the task, where a result compares them
    name: str = ""  # of the result
    model: str = ""  # sha256 of its weights
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

    Each answer is appended to the partial file of this ``part`` of the run at once, and those already there are not asked for again.
    """
    path = partial_file(run, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.is_file() else []
    path.write_text("".join(json.dumps(line) + "\n" for line in done))  # without the half line that a kill may have left
    with path.open("a") as file:
        desc = f"{run.name} {run.task}: {part}"
        for job in tqdm(jobs[len(done) :], desc=desc, initial=len(done), total=len(jobs), mininterval=5):
            done.append(measure(*job))
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    return done


def partial_file(run: Run, part: str) -> Path:
    """Where the finished jobs of an unfinished run are kept."""
    return run.output / f".{run.name}-{run.task}-{run.key}-{part}.jsonl"
