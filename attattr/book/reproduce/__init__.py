"""Dataset-scale results: ``python -m attattr reproduce NAME``. One JSON file each, with provenance.

A run that is killed goes on where it stopped. ``torchrun --nproc_per_node P -m attattr reproduce NAME ...`` shares the work out among P
processes; the numbers stay the same, to the bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch

from ...batches import Model, Tokenizer
from ...connections import checksum
from ...data import find_task, one_of, read_split
from ...pretrained import adapter_folder, load, sha256_of
from ..files import alone
from ..results import write_result
from ..training.evaluation import share_of
from ..training.model_folder import digest, training_record, versions
from .evidence import edges, fig3, fig4
from .flows import flow_correlations, saturation
from .heads import fig5, fig6
from .models import accuracy, certificate, completeness
from .running import Measured, Run, partial_file
from .triggers import controls, defence, table1, table2


@dataclass(frozen=True)
class Experiment:
    """How a result is measured, on how many rows usually (None: all), and whether it chooses by rows of the training split."""

    measure: Callable[[Run, Model, Tokenizer], Measured]
    rows: int | None = None
    train: bool = False


RESULTS = {
    "accuracy": Experiment(accuracy),
    "certificate": Experiment(certificate, 1000),
    "completeness": Experiment(completeness, 100),
    "fig3": Experiment(fig3, 200, train=True),
    "fig4": Experiment(fig4, 200),
    "edges": Experiment(edges, 200),
    "fig5": Experiment(fig5, 1000, train=True),
    "fig6": Experiment(fig6, train=True),
    "table1": Experiment(table1, train=True),
    "table2": Experiment(table2, 900, train=True),
    "controls": Experiment(controls, 900, train=True),
    "defence": Experiment(defence, 900, train=True),
    "flow-correlations": Experiment(flow_correlations, 200),
    "saturation": Experiment(saturation, 60),
}


def reproduce(name: str, run: Run) -> Path:
    """Compute one result for one task and write ``NAME-TASK.json`` with its provenance; returns where. A dry run writes nothing.

    Raises:
        ValueError: an unknown result or task, rows that there are not, a model of other classes.
        OSError: no such data or model; a folder that cannot be written to, or where another process computes the same.
    """
    with ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # processes use the cores: other numbers of threads add up in other orders
        one_of("result", name, RESULTS)
        task, experiment = find_task(run.task), RESULTS[name]
        everything = read_split(task, run.data)
        if run.rows is None and experiment.rows is not None:
            run = replace(run, rows=min(experiment.rows, len(everything)))
        if run.rows is not None and not 1 <= run.rows <= len(everything):
            raise ValueError(f"rows={run.rows}: expected 1 to {len(everything)}, the rows of {task.name!r} in {run.data}")
        model, tokenizer = load(run.model or task.name, size=run.size)
        adapter = adapter_folder(run.model or task.name, run.size)  # whose file names the weights; a model without one, all its tensors
        weights = sha256_of(adapter / "adapter_model.safetensors") if adapter else checksum(model.state_dict(), "")
        data = {"split": "validation", "sha256": digest(everything), "rows": run.rows, "seed": run.seed}
        if experiment.train:
            data["train_sha256"] = digest(read_split(task, run.data, "train"))
        process, processes = share_of(run.accelerator)
        writes = process == 0 and not run.dry_run
        made_of = {"model": weights, "data": data, "versions": versions(), "device": run.device}
        key = json.dumps([made_of, [training_record(folder) for folder in run.other]])
        output = run.output / run.size if run.size != "small" else run.output
        run = replace(run, name=name, weights=weights, key=sha256(key.encode()).hexdigest()[:12], output=output)
        options = (f" --model {run.model}" if run.model else "") + (f" --size {run.size}" if run.size != "small" else "")
        options += (f" --rows {run.rows}" if run.rows else "") + (" --other" + " FOLDER" * len(run.other) if run.other else "")
        command = f"python -m attattr reproduce {name} --task {task.name} --data FOLDER{options} --seed {run.seed}"
        path = run.output / f"{name}-{task.name}.json"
        if writes:  # for all: the others cannot begin a job before this one has told them what is done
            after.enter_context(alone(path))
        began = time.perf_counter()
        rows, about = experiment.measure(run, model.to(run.device), tokenizer)
        spent = {"seconds": max(1, round(time.perf_counter() - began)), "processes": processes}
        if writes:
            write_result(path, rows, {"command": command} | made_of | spent | about)
            for part in run.output.glob(partial_file(run, "*", "*").name):
                part.unlink()
    return path
