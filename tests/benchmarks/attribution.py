"""How much faster is `attribute` than Eq. 4 done plainly? Run by hand: python tests/benchmarks/attribution.py

Plainly: for each layer, the paper's 20 right-hand steps as one batch through the whole model, differentiating with
respect to the attention matrix. Times are taken in pairs, one after the other, since machines are noisy.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

import attattr
from attattr import tap

SENTENCE = "the film is long and slow but its people are warm and funny and never dull"


def plain(model: Any, tokenizer: Any, text: str, steps: int = 20) -> list[torch.Tensor]:
    """Eq. 4 as printed, layer by layer."""
    inputs = {name: tensor.expand(steps, -1) for name, tensor in tokenizer(text, return_tensors="pt").items()}
    recording = tap.record(model, {name: tensor[:1] for name, tensor in inputs.items()})
    target = int(recording.logits.argmax())
    alpha = torch.arange(1, steps + 1)[:, None, None, None] / steps
    scores = []
    for layer, attention in enumerate(recording.attention):
        scaled = (alpha * attention).requires_grad_()

        def put(now: int, context: Any, weights: Any, layer: int = layer, scaled: Any = scaled) -> Any:
            return (scaled @ weights()[1]).transpose(1, 2) if now == layer else context

        with tap.tapped(model, put):
            probability = model(**inputs).logits.softmax(-1)[:, target].sum()
        scores.append(attention[0] * torch.autograd.grad(probability, scaled)[0].mean(0))
    return scores


def seconds(function: Any, *arguments: Any, **options: Any) -> float:
    """Wall-clock time of one call."""
    began = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - began


def main() -> None:
    """Print the ratios for a short, a usual and a long text."""
    model, tokenizer = attattr.load("sst2")
    for count in (3, 18, 63):
        text = " ".join((SENTENCE.split() * 5)[:count])
        print(f"{count + 2} tokens, plain 20 steps divided by ...", end=" ")
        for name, options in {
            "4 nodes": {"steps": 4},
            "6 nodes": {"steps": 6},
            "20 right": {"method": "riemann", "steps": 20},
            "auto": {},
        }.items():
            pairs = [
                (seconds(plain, model, tokenizer, text), seconds(attattr.attribute, model, tokenizer, text, **options)) for _ in range(7)
            ]
            ratios = [slow / fast for slow, fast in pairs]
            print(f"{name}: {statistics.median(ratios):.1f}", end="  ")
        print()


if __name__ == "__main__":
    main()
