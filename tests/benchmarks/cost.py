"""What an attribution costs, as a committed result: python tests/benchmarks/cost.py --data FOLDER [--output FOLDER]

First how time and memory of one attribution grow, of a BERT of base size. Then how much faster it is than two rivals, each done plainly:
the paper's rule, for each layer 20 right-hand steps as one batch through the whole model, differentiating with respect to the attention
matrix, without padding; and the authors' default, 64 steps padded to 128 tokens. Times are taken in pairs, one right after the other,
since machines are noisy: what is kept are ratios, their median and quartiles over the texts.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import attattr
from attattr import tap
from attattr.book.reproduce.running import rounded
from attattr.book.results import write_result
from attattr.book.training.model_folder import versions
from attattr.data import data_folder

THREADS, TEXTS, AUTHORS, LIST, IMPORTANT = 2, 24, 10, 64, 200
USUAL = range(18, 23)  # tokens of the texts on which the authors' default is timed
GROWTH = {"tokens": (32, 64, 128, 256, 512), "layers": (2, 4, 8, 12), "nodes": (2, 4, 8, 16)}


def plain(model: Any, inputs: dict[str, torch.Tensor], steps: int = 20, left: bool = False) -> list[torch.Tensor]:
    """Eq. 4 as printed, layer by layer, for one row of inputs; ``left``: from α = 0, as in the authors' code."""
    recording = tap.record(model, inputs)
    target = int(recording.logits.argmax())
    many = {name: tensor.expand(steps, -1) for name, tensor in inputs.items()}
    alpha = (torch.arange(steps) + (not left))[:, None, None, None] / steps
    scores = []
    for layer, attention in enumerate(recording.attention):
        scaled = (alpha * attention).requires_grad_()

        def put(now: int, context: Any, weights: Any, layer: int = layer, scaled: Any = scaled) -> Any:
            return (scaled @ weights()[1]).transpose(1, 2) if now == layer else context

        with tap.tapped(model, put):
            probability = model(**many).logits.softmax(-1)[:, target].sum()
        scores.append(attention[0] * torch.autograd.grad(probability, scaled)[0].mean(0))
    return scores


def encoded(tokenizer: Any, text: Any, **options: Any) -> dict[str, torch.Tensor]:
    """One text as a model takes it."""
    return dict(tokenizer(*(text if isinstance(text, tuple) else (text,)), return_tensors="pt", **options))


def seconds(function: Any, *arguments: Any, **options: Any) -> float:
    """Wall-clock time of one call."""
    began = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - began


def spread(measure: str, values: list[float], **about: Any) -> dict[str, Any]:
    """A row of the table: the median, and the quartiles."""
    low, _, high = statistics.quantiles(values, n=4)
    return {
        "measure": measure,
        "texts": len(values),
        "value": rounded(statistics.median(values)),
        "low": rounded(low),
        "high": rounded(high),
        **about,
    }


def ratios(task: str, data: Path) -> list[dict[str, Any]]:
    """How many times as fast ``attribute`` is as both rivals, and a list as its texts one by one."""
    model, tokenizer = attattr.load(task)
    texts = attattr.texts_of(attattr.examples(task, data))
    random.Random(0).shuffle(texts)
    usual = [text for text in texts if encoded(tokenizer, text)["input_ids"].shape[1] in USUAL]

    def times(some: list[Any], rival: Any) -> list[float]:
        found = []
        for text in some:
            attattr.attribute(model, tokenizer, text)  # the first call for a length is slower, for both
            found.append(seconds(rival, text) / seconds(attattr.attribute, model, tokenizer, text))
        return found

    def authors(text: Any) -> None:
        plain(model, encoded(tokenizer, text, padding="max_length", max_length=128, truncation=True), 64, left=True)

    rows = attattr.examples(task, data).select(range(IMPORTANT))
    attattr.head_importance(model, tokenizer, rows.select(range(2)))
    importance = seconds(attattr.head_importance, model, tokenizer, rows)
    of_paper = times(texts[:TEXTS], lambda text: plain(model, encoded(tokenizer, text)))
    some = texts[:LIST]
    one_by_one = [
        sum(seconds(attattr.attribute, model, tokenizer, text) for text in some) / seconds(attattr.attribute, model, tokenizer, some)
        for _ in range(3)
    ]
    return [
        spread("times as fast", of_paper, dataset=task, than="the paper's 20 steps"),
        spread("times as fast", times(usual[:AUTHORS], authors), dataset=task, than="the authors' 64 steps, padded to 128"),
        spread("times as fast", one_by_one, dataset=task, than="one by one") | {"texts": LIST},
        {"measure": "importance of heads, seconds", "dataset": task, "texts": IMPORTANT, "value": rounded(importance)},
    ]


def growth(layers: int, tokens: int, nodes: int) -> dict[str, Any]:
    """Seconds and peak memory of one attribution by a BERT of base size with random weights, in this process; 0 nodes: auto."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=1000, num_hidden_layers=layers)).eval()
    inputs = {"input_ids": torch.randint(0, 1000, (1, tokens))}
    with torch.no_grad():
        model(**inputs)
    before = peak_memory()
    taken = seconds(attattr.attribute_inputs, model, inputs, target=0, steps=nodes or "auto")
    return {"seconds": rounded(taken), "GiB before": rounded(before), "GiB": rounded(peak_memory())}


def peak_memory() -> float:
    """The most GiB that this process has held; what getrusage says begins with its parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def main() -> None:
    """Measure, and write ``growth.json`` and ``cost.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--growth", nargs=3, type=int, help="of layers, tokens and nodes, in this process, printed")
    parser.add_argument("--output", type=Path, default=data_folder() / "results")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    if options.growth:
        print(json.dumps(growth(*options.growth)))
        return
    began = time.perf_counter()
    rows = []
    for against, sizes in GROWTH.items():
        for size in sizes:
            of = {"layers": 12, "tokens": 128, "nodes": 0} | {against: size}
            command = [sys.executable, __file__, "--growth", *map(str, of.values())]  # of its own, so that its memory is its own
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            rows += [{"measure": measure, "against": against} | of | {"value": value} for measure, value in found.items()]
            print(against, size, found, flush=True)
    about = {"command": "python tests/benchmarks/cost.py --data FOLDER", "threads": THREADS, "versions": versions()}
    print(write_result(options.output / "growth.json", rows, about | {"seconds": round(time.perf_counter() - began)}))
    rows = [row for task in ("sst2", "mnli") for row in ratios(task, options.data)]
    print(write_result(options.output / "cost.json", rows, about | {"seconds": round(time.perf_counter() - began)}))


if __name__ == "__main__":
    main()
