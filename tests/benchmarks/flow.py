"""How much faster is `attention_flow` than the authors' code? Run by hand: python tests/benchmarks/flow.py [tokens, 32 if left out]

Theirs: networkx's Edmonds-Karp from every node of every layer to every input token, on the whole graph, which takes hours.
So a sample of pairs is timed, as many from each layer, each right after a whole run of ours, since machines are noisy; the time
for all pairs is extrapolated from it. 12 layers are those of the embedded model twice, or random ones. With a number of tokens,
only ours is timed, on the model's own 6 layers: all layers, then the top one.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import networkx as nx
import numpy as np
import torch

import attattr
from attattr import flow, tap

SENTENCE = "the film is long and slow but its people are warm and funny and never dull , and what it says of grief and time stays for days "
ROUNDS = 3
ASKED = 400  # times as fast
EXACT = 1e-6


def real(tokens: int) -> torch.Tensor:
    """The attention of the embedded SST-2 model on a text of this length."""
    model, tokenizer = attattr.load("sst2")
    inputs = tokenizer(SENTENCE * 8, truncation=True, max_length=tokens, return_tensors="pt")
    return torch.stack([attention[0] for attention in tap.record(model, dict(inputs)).attention])


def random(layers: int, tokens: int) -> torch.Tensor:
    """Attention that is sharp and means nothing."""
    return (6 * torch.randn(layers, 1, tokens, tokens, generator=torch.Generator().manual_seed(0))).softmax(-1)


def seconds(function: Any, *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Wall-clock time of one call, and what it returned."""
    began = time.perf_counter()
    found = function(*arguments, **options)
    return time.perf_counter() - began, found


def compare(name: str, attention: torch.Tensor) -> None:
    """Print how many times longer Edmonds-Karp takes for all pairs of all layers."""
    graph, (layers, _, tokens, _) = flow.attention_graph(attention), attention.shape
    generator, ours, theirs, ratios, differences = np.random.default_rng(0), [], [], [], []
    algorithm = nx.algorithms.flow.edmonds_karp
    for _ in range(ROUNDS):
        fast, flows = seconds(flow.attention_flow, attention.double(), normalize=False, progress=False)
        slow = []
        for layer in range(layers):
            i, j = generator.integers(0, tokens, 2).tolist()
            time_of_pair, value = seconds(nx.maximum_flow_value, graph, (layer + 1, i), (0, j), flow_func=algorithm)
            slow.append(time_of_pair)
            differences.append(abs(value - float(flows[layer, i, j])))
        ours.append(fast)
        theirs.append(statistics.mean(slow) * layers * tokens**2)
        ratios.append(theirs[-1] / fast)
    print(
        f"{name}, {layers} layers x {tokens} tokens, every node: {statistics.median(ours):.2f} s; Edmonds-Karp, extrapolated from "
        f"{ROUNDS * layers} pairs: {statistics.median(theirs):.0f} s, {statistics.median(ratios):.0f} times as long "
        f"({min(ratios):.0f} to {max(ratios):.0f}); largest difference {max(differences):.1e}"
    )
    if min(ratios) < ASKED or max(differences) > EXACT:
        raise SystemExit(f"expected at least {ASKED} times as long, and a difference of at most {EXACT}")


def main() -> None:
    """Print the ratios, or the times for a long text."""
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        attention = real(int(sys.argv[1]))
        for layer in (None, -1):
            taken, _ = seconds(flow.attention_flow, attention, layer=layer, progress=False)
            asked = "every node" if layer is None else "the top layer"
            print(f"{attention.shape[0]} layers x {sys.argv[1]} tokens, {asked}: {taken:.1f} s", flush=True)
        return
    compare("the embedded model's layers twice", real(32).repeat(2, 1, 1, 1))
    compare("random", random(12, 32))


if __name__ == "__main__":
    main()
