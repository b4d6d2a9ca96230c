"""What changes with size: every comparison with the papers that was measured in both models, number beside number (chapter 14).

Run by hand after results have changed: python tests/benchmarks/size.py [--output FILE]. A test compares the table with the results.

``small`` and ``base`` are ours, in the models of 6 and of 12 layers; ``small_than`` and ``base_than`` what they are compared with, if
that is ours, too; ``paper`` is the paper's own number or words.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas
import torch

from attattr.book.results import beside, result, write_result
from attattr.book.training.model_folder import versions
from attattr.data import TASKS, data_folder
from attattr.heads import correlation

RULES = ("interval", "below", "above", "not behind", "rising")
SIZES = {"small": "", "base": "base/"}
BOOKS = "the book's models"  # the reading of Figure 6: not those of other seeds


def compared() -> Iterator[dict[str, Any]]:
    """A row for each comparison, task and reading."""
    values, there = result("paper-values"), {path.stem for path in (data_folder() / "results" / "base").glob("*.json")}
    for _, row in values[values.rule.isin(RULES)].iterrows():
        paper = row["said"] if pandas.isna(row["value"]) else f"{row['value']:g}"
        for name in sorted({*row["results"]} & there):
            of = {size: {one["key"]: one for one in beside(row, result(folder + name))} for size, folder in SIZES.items()}
            for reading in filter(of["base"].get, of["small"]):
                found = {"claim": row["what"], "place": row["place"], "task": name.rpartition("-")[2], "reading": reading}
                for size in SIZES:
                    ours, than = (float(of[size][reading][side]) for side in ("ours", "than"))
                    found |= {size: round(ours, 3), f"{size}_than": None if math.isnan(than) else round(than, 3)}
                yield found | {"paper": paper}
    for _, row in values[values.rule.str.endswith(" r")].iterrows():
        for pair in combinations([task for task in TASKS if f"fig5-{task}" in there], 2):
            if ("sst2" in pair) == (row["rule"] == "no r"):
                r = {size: round(correlation(*(importance(folder, task) for task in pair))[0], 3) for size, folder in SIZES.items()}
                of_pair = {"claim": row["what"], "place": row["place"], "task": " and ".join(pair), "reading": BOOKS}
                yield of_pair | r | {"paper": row["said"]}


def importance(folder: str, task: str) -> torch.Tensor:
    """The importance of every head by attribution, "L H": the mean over the samples of the embedded model's `fig5`."""
    found = result(f"{folder}fig5-{task}", "importance").query("method == 'attribution'")
    return torch.tensor(found.pivot_table("value", "layer", "head").to_numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=data_folder() / "results" / "size.json")
    began, output = time.perf_counter(), parser.parse_args().output
    rows = list(compared())
    about = {"command": "python tests/benchmarks/size.py", "versions": versions()}
    print(write_result(output, rows, about | {"seconds": max(1, round(time.perf_counter() - began))}))
