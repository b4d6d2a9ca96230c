"""Dataset-scale results: ``python -m attattr reproduce NAME``. One JSON file each under ``data/results/``, with provenance.

A run that is killed goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..data import data_folder, digest, find_task, read_split
from ..model_folder import versions
from .evidence import edges, fig3, fig4
from .flows import flow_correlations, saturation
from .heads import fig5, fig6
from .models import accuracy, certificate
from .running import Run, partial_file
from .triggers import defence, table1, table2

RESULTS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "accuracy": accuracy,
    "certificate": certificate,
    "fig3": fig3,
    "fig4": fig4,
    "edges": edges,
    "fig5": fig5,
    "fig6": fig6,
    "table1": table1,
    "table2": table2,
    "defence": defence,
    "flow-correlations": flow_correlations,
    "saturation": saturation,
}
TRAIN_TOO = ("fig3", "fig5", "fig6", "table1", "table2", "defence")  # what they choose by comes from rows of the training split
USUAL_ROWS = {
    "certificate": 200,
    "fig3": 200,
    "fig4": 200,
    "edges": 200,
    "fig5": 1000,
    "table2": 900,
    "defence": 900,
    "flow-correlations": 200,
    "saturation": 60,
}


def reproduce(name: str, run: Run) -> Path:
    """Compute one result for one task and write ``NAME-TASK.json`` with its provenance; returns where."""
    if name not in RESULTS:
        raise ValueError(f"unknown result {name!r}: expected one of {', '.join(map(repr, RESULTS))}")
    task = find_task(run.task)
    everything = read_split(task, run.data)
    if run.rows is None and name in USUAL_ROWS:
        run = replace(run, rows=min(USUAL_ROWS[name], len(everything)))
    if run.rows is not None and not 1 <= run.rows <= len(everything):
        raise ValueError(f"rows={run.rows}: expected 1 to {len(everything)}, the rows of {task.name!r} in {run.data}")
    weights = sha256((data_folder() / "models" / task.name / "adapter_model.safetensors").read_bytes()).hexdigest()
    data = {"split": "validation", "sha256": digest(everything), "rows": run.rows, "seed": run.seed}
    if name in TRAIN_TOO:
        data["train_sha256"] = digest(read_split(task, run.data, "train"))
    made_of = {"model": weights, "data": data, "versions": versions()}
    key = json.dumps([made_of, [Path(folder, "training.json").read_text(encoding="utf-8") for folder in run.other]])
    run = replace(run, model=weights, key=sha256(key.encode()).hexdigest()[:12])
    options = (f" --rows {run.rows}" if run.rows else "") + (" --other" + " FOLDER" * len(run.other) if run.other else "")
    command = f"python -m attattr reproduce {name} --task {task.name} --data FOLDER{options} --seed {run.seed}"
    began = time.perf_counter()
    found = RESULTS[name](run)
    provenance = {"command": command} | made_of | {"seconds": max(1, round(time.perf_counter() - began))}
    path = run.output / f"{name}-{task.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"provenance": provenance} | found) + "\n", encoding="utf-8")
    for part in run.output.glob(partial_file(name, run, "*").name):
        part.unlink()
    return path
