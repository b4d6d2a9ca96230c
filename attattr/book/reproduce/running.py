"""What every dataset-scale computation shares: what it is run on, how rows are drawn, numbers rounded, and going on after a kill.

Finished jobs are kept in files beside the result, one JSON line each. The numbers of a result are the same however many processes
share its jobs: no job depends on who does it, and a batch is never made across jobs.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import Tensor
from tqdm import tqdm

from ...batches import Dataset
from ...data import examples
from ..training.evaluation import share_of

Rows = list[dict[str, Any]]  # of a table of `attattr.book.results`
Measured = tuple[Rows, dict[str, Any]]  # a table, and what its provenance says beside
CHUNK = 25  # rows of a job that is not of a single text: what a kill loses at most
OTHER = "other models of the task, folders that finetune wrote: for fig6 from other seeds; for flow-correlations and saturation any"


@dataclass(frozen=True)
class Request:
    """What a dataset-scale computation is asked for: the options of the command."""

    task: str
    data: Path = field(metadata={"help": "folder of real data, or 'glue' for the hub"})
    model: str | None = field(default=None, metadata={"help": "folder or hub id of a model of the task; none: the embedded one"})
    size: str = field(default="small", metadata={"help": "of the embedded model: small, or base, whose results go to OUTPUT/base"})
    rows: int | None = field(default=None, metadata={"help": "how many of the validation split; none: what the result usually takes"})
    seed: int = 0
    other: list[Path] = field(default_factory=list, metadata={"help": OTHER})
    output: Path = field(default=Path("results"), metadata={"help": "folder; it holds one result of each kind and task"})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda (one GPU per process) or mps"})
    dry_run: bool = field(
        default=False, metadata={"help": "only say what would be computed, what of it is done, and about how long it takes"}
    )


@dataclass(frozen=True)
class Run(Request):
    """A request, and what tells its files from those of others."""

    name: str = ""  # of the result
    weights: str = ""  # sha256 of the model's weights
    key: str = ""  # what the partial files of a killed run must share with the run that goes on: rows, seed, weights, versions, device
    accelerator: Any = None  # `accelerate` made it: the processes that share the jobs; None: this one


def sample(rows: Dataset, count: int | None, generator: random.Random) -> Dataset:
    """That many of the rows (None, or more than there are: all), drawn without repetition, in the order of the draw."""
    return rows.select(generator.sample(range(len(rows)), min(count or len(rows), len(rows))))


def drawn(run: Run) -> Dataset:
    """The rows of the validation split that a run is made on."""
    return sample(examples(run.task, source=run.data), run.rows, random.Random(run.seed))


def chunk(rows: Dataset, at: int, size: int = CHUNK) -> Dataset:
    """The rows of one job, from one place on."""
    return rows.select(range(at, min(at + size, len(rows))))


def rounded(value: Any, digits: int = 4) -> Any:
    """A number with this many digits that count, or all of a tensor or a list; None stays."""
    if isinstance(value, Tensor | list | tuple):
        return [rounded(one, digits) for one in (value.tolist() if isinstance(value, Tensor) else value)]
    return value if value is None else float(f"{value:.{digits}g}")


def resumable(run: Run, part: str, jobs: Sequence[tuple], measure: Callable[..., Any]) -> list[Any]:
    """What ``measure`` says of every job, a tuple of its arguments, with a progress bar.

    The processes of the run share the jobs out. Each appends every answer with the job's number to a file of its own at once; those
    already there, of this part of the run, are not asked for again, whichever process of whichever start wrote them.

    Raises:
        OSError: a file that holds anything else, or that cannot be written.
    """
    process, processes = share_of(run.accelerator)
    done = finished(run, part, len(jobs)) if process == 0 or run.dry_run else {}
    if run.dry_run:
        return forecast(run, part, jobs, measure, done)
    if processes > 1:
        from accelerate.utils import broadcast_object_list, gather_object

        (done,) = broadcast_object_list([done])  # so that all go on from the same; nobody writes before this
    todo = [number for number in range(len(jobs)) if number not in done]
    path, lines = partial_file(run, part, uuid4().hex), []
    with tqdm(desc=f"{run.name} {run.task}: {part}", initial=len(done), total=len(jobs), mininterval=5, disable=process > 0) as progress:
        for number in todo[process::processes]:
            lines.append(json.dumps([number, measure(*jobs[number])]))
            keep(path, lines[-1])
            progress.update(min(processes, len(jobs) - progress.n))  # the others are about as far
    done |= dict(map(json.loads, gather_object(lines) if processes > 1 else lines))
    return [done[number] for number in range(len(jobs))]


def finished(run: Run, part: str, jobs: int) -> dict[int, Any]:
    """The answers that an unfinished run has kept, by the number of the job; without the half line that a kill may have left."""
    done: dict[int, Any] = {}
    for path in run.output.glob(partial_file(run, part, "*").name):
        lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        try:
            done |= {range(jobs)[number]: answer for number, answer in map(json.loads, lines)}
        except (ValueError, TypeError, IndexError) as error:
            raise OSError(f"damaged file {path} of an unfinished run: remove it to start again") from error
    return done


def keep(path: Path, line: str) -> None:
    """Append a line to a file. Raises ``OSError`` in words if that is not possible; what was there stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(line.encode() + b"\n")
    except OSError as error:
        raise OSError(f"cannot keep what is finished in {path}: {error}; put that right, start again, and it goes on") from error


def forecast(run: Run, part: str, jobs: Sequence[tuple], measure: Callable[..., Any], done: dict[int, Any]) -> list[Any]:
    """Say how many jobs a part has and about how long they take, judging by at most three; their answers stand for all others.

    Every process tries the same, at the same time, so that they are as slow as at work.
    """
    process, processes = share_of(run.accelerator)
    todo = [number for number in range(len(jobs)) if number not in done]
    tried, began = todo[:: math.ceil(len(todo) / 3) or 1], time.perf_counter()
    answers = [json.loads(json.dumps(measure(*jobs[number]))) for number in tried]
    seconds = (time.perf_counter() - began) / max(len(tried), 1) * math.ceil(len(todo) / processes)
    if process == 0:
        what = f"{run.name} {run.task}: {part}: {len(jobs)} jobs, {len(done)} of them done"
        print(f"{what}; the others take about {timedelta(seconds=round(seconds))}")
    return [done[number] if number in done else answers[number % len(answers)] for number in range(len(jobs))]


def partial_file(run: Run, part: str, writer: str) -> Path:
    """Where one start of one process keeps the finished jobs of an unfinished run: no two ever write to the same file."""
    return run.output / f".{run.name}-{run.task}-{run.key}-{part}-{writer}.jsonl"
