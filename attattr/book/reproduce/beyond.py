"""What chapter 13 measures of circuits that are known by intervention: ``python -m attattr.book.reproduce.beyond``.

One JSON file with provenance, over ten decoders of `attattr.book.training.small`, and their weights, with those of its reader of digits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from ...attribution import attribute_inputs
from ...tap import gated, record, tapped
from ..results import write_result
from ..training.model_folder import versions
from ..training.small import JOBS, LENGTH, STEPS, VOCABULARY, Texts, texts, train, train_digits
from .heads import grid_rows
from .running import Rows, Run, partial_file, resumable

SIZES = {"seeds": 10, "steps": STEPS, "epochs": 30, "texts": 64, "few": 12}  # few: texts that the methods explain
NODES, ADMITTED, MATTERS = 32, 0.4, 0.5  # the paper's τ; of the whole effect, or of the texts
FEWEST = 3  # letters; no true connection starts in a row with fewer, since texts show their answer at place 2 or later


def decided(outputs: Float[Tensor, "B N C"], answers: Int[Tensor, " B"], job: str, two: bool = True) -> Float[Tensor, " B"]:
    """F: the answer's logit at the last token, or by how much it is ahead of the next output of its job (the last's next is the first)."""
    start, last = JOBS[job], outputs[:, -1]
    rival = (answers - start + 1) % VOCABULARY + start
    value = last.gather(1, answers[:, None])
    return (value - last.gather(1, rival[:, None]))[:, 0] if two else value[:, 0]


def share_right(model: nn.Module, tokens: Int[Tensor, "B N"], answers: Int[Tensor, " B"], job: str) -> float:
    """The share of texts whose answer is first among the outputs of its job."""
    start = JOBS[job]
    return float((model(tokens)[:, -1, start : start + VOCABULARY].argmax(-1) + start == answers).float().mean())


def effects_of_heads(model: nn.Module, given: Texts, job: str) -> dict[str, Float[Tensor, "L H"]]:
    """What each head does to the share of right answers, over all sets of the other heads: the truth, without a look at attention.

    ``ablating``: heads outside a set pass on their mean over the texts; the most that the head adds to a set. ``patching``: in the
    corrupted texts, where the evidence is gone, heads of a set get what they have in the whole texts; the most that the head adds.
    ``... alone``: ablating it alone, patching it alone.
    """
    context = record(model, {"input_ids": given.tokens}, read=lambda outputs, _: outputs[:, -1]).context
    layers, heads = len(context), context[0].shape[2]
    sets = (torch.arange(2 ** (layers * heads))[:, None] >> torch.arange(layers * heads) & 1).bool()
    mean = [of_layer.mean(0, keepdim=True).expand_as(of_layer) for of_layer in context]

    def right(tokens: Tensor, donors: list[Tensor] | tuple[Tensor, ...], live: Tensor) -> float:
        kept = live.reshape(layers, 1, heads, 1)
        with tapped(model, lambda layer, now, _: torch.where(kept[layer], now, donors[layer])):
            return share_right(model, tokens, given.answers[job], job)

    found = {}
    for name, whole in (("ablating", -1), ("patching", 0)):
        shares = torch.tensor(
            [right(given.tokens, mean, one) if name == "ablating" else right(given.corrupted[job], context, ~one) for one in sets]
        )
        number = torch.arange(len(sets))
        gains = torch.stack([(shares[number | 1 << h] - shares[number & ~(1 << h)]) for h in range(layers * heads)])
        found[name] = gains.amax(1).reshape(layers, heads)
        found[f"{name} alone"] = gains[:, whole].reshape(layers, heads)
    return found


def effects_of_connections(model: nn.Module, given: Texts, row: int) -> Float[Tensor, "2 L N N"]:
    """What each connection of one text does to F of the next token, in all heads at once: cutting it; patching it into the corrupted text.

    In units of the whole effect, F of the text minus F of the corrupted one. Connections to later tokens are 0: there are none.
    """
    text, corrupted, answer = given.tokens[row, None], given.corrupted["next"][row, None], given.answers["next"][row, None]
    seen = record(model, {"input_ids": text}, read=lambda outputs, _: outputs[:, -1])
    layers, places = len(seen.context), text.shape[1]
    at = torch.stack([one.tril() for one in torch.ones(layers, places, places)]).nonzero()

    def value(tokens: Tensor, patch: bool | None = None) -> Tensor:
        def change(layer: int, context: Tensor, weights: object) -> Tensor:
            (rows,) = (at[:, 0] == layer).nonzero(as_tuple=True)
            (i, j), (attention, values), new = at[rows, 1:].T, weights(), context.clone()  # type: ignore[operator]
            donor = seen.attention[layer][0, :, i, j].T[..., None] * seen.value[layer][0, :, j].transpose(0, 1) if patch else 0
            new[rows, i] += donor - attention[rows, :, i, j][..., None] * values[rows, :, j]
            return new

        if patch is None:
            return decided(model(tokens), answer, "next")
        with tapped(model, change):
            return decided(model(tokens.expand(len(at), -1)), answer.expand(len(at)), "next")

    whole, without = value(text), value(corrupted)
    effects = torch.stack([whole - value(text, False), value(corrupted, True) - without]) / (whole - without)
    found = torch.zeros(2, layers, places, places)
    found[:, at[:, 0], at[:, 1], at[:, 2]] = effects
    return found


def scores_of(model: nn.Module, given: Texts, row: int, job: str) -> dict[str, Float[Tensor, "L _H N N"]]:
    """What each method says of the connections of one text: of each head, or one for all heads where it does not tell them apart.

    Rollout and bottleneck, the most that can flow over a connection, are of attention's own edges, without the residual connection's.
    What is made of attention leaves out rows that could attend to fewer than `FEWEST` letters: the mask alone makes them attend sharply.
    """
    text, answer = {"input_ids": given.tokens[row, None]}, given.answers[job][row, None]

    def of(two: bool, **options: object) -> Tensor:
        target = lambda outputs, _: decided(outputs, answer.expand(len(outputs)), job, two)  # noqa: E731
        return attribute_inputs(model, text, target=target, **options).scores  # type: ignore[union-attr, arg-type]

    letters = torch.arange(1, LENGTH + 1)[:, None]  # that a row can attend to
    attention = torch.cat(record(model, text, read=lambda outputs, _: outputs[:, -1]).attention) * (letters >= FEWEST)
    half = attention.mean(1) / 2
    below, last = half[0], half[1] * (letters == LENGTH)
    reached = last.sum(0)[:, None] + (letters == LENGTH) / 2  # of the last token, in each token below the last layer
    return {
        "attribution of a difference": of(True, steps=NODES),
        "attribution of the logit": of(False, steps=NODES),
        "attention × gradient": of(True, method="riemann", steps=1),
        "attention": attention,
        "attention ÷ even": (half * letters)[:, None],  # even attention gives each letter 1 / letters
        "rollout": torch.stack([reached * below, last])[:, None],
        "bottleneck (flow)": torch.stack([reached.minimum(below), last])[:, None],
    }


def agreement(scores: Float[Tensor, "*X"], truth: Bool[Tensor, "*X"]) -> float:
    """Of as many of the largest scores as there are true ones, the share that is true: precision and recall are then the same number."""
    return float(truth.flatten()[scores.flatten().topk(int(truth.sum())).indices].float().mean())


def measured(model: nn.Module, given: Texts, few: int) -> Rows:
    """All rows of one model; methods are tried on the first ``few`` texts."""
    rows: Rows = []
    for job, answers in given.answers.items():
        right = share_right(model, given.tokens, answers, job)
        rows.append({"job": job, "measure": "accuracy", "value": round(right, 4)})
        if right < MATTERS:  # it has not learned the job: there is no circuit to find
            continue
        effects = effects_of_heads(model, given, job)
        truth = (effects["ablating"] >= MATTERS) & (effects["patching"] >= MATTERS)
        of_texts = [scores_of(model, given, row, job) for row in range(few)]
        told = {name: torch.stack([one[name].amax((2, 3)) for one in of_texts]).mean(0) for name in of_texts[0]}
        told["attention"] = torch.stack([one["attention"][:, :, FEWEST - 1 :].amax(3).mean(2) for one in of_texts]).mean(0)
        told["ablation"] = removed(model, given, job, truth.shape)
        told = {name: values for name, values in told.items() if values.shape == truth.shape}
        rows += [{"job": job, "measure": "heads", "method": name, "value": agreement(values, truth)} for name, values in told.items()]
        for method, values in told.items():
            rows += grid_rows({"job": job, "measure": "score", "method": method}, value=values)
        for measure, values in (effects | {"true": truth}).items():
            rows += grid_rows({"job": job, "measure": measure}, value=values)
        if job == "next":
            rows += connections_measured(model, given, of_texts)
    return rows


def removed(model: nn.Module, given: Texts, job: str, shape: torch.Size) -> Float[Tensor, "L H"]:
    """How much F falls on average when one head alone passes on nothing."""
    whole, found = decided(model(given.tokens), given.answers[job], job), []
    for gates in 1 - torch.eye(shape.numel()).reshape(-1, *shape):
        with gated(model, gates):
            found.append((whole - decided(model(given.tokens), given.answers[job], job)).mean())
    return torch.stack(found).reshape(shape)


def connections_measured(model: nn.Module, given: Texts, of_texts: Sequence[dict[str, Tensor]]) -> Rows:
    """How many connections are true, and of each method: the agreement, and precision and recall of what the paper's τ admits."""
    found: list[tuple[str, str | None, float]] = []
    for row, scores in enumerate(of_texts):
        effects, before = effects_of_connections(model, given, row), int(given.before[row])
        truth = (effects >= MATTERS).all(0)
        found.append(("true connections", None, float(truth.sum())))
        if not truth.any():
            continue
        found.append(("on the path", None, float(truth[[0, 1], [before + 1, -1], [before, before + 1]].float().mean())))
        for name, values in (scores | {"ablation": effects[:1].transpose(0, 1)}).items():
            total = values.sum(1)
            admitted = total > ADMITTED * total.amax((1, 2), keepdim=True)
            found.append(("connections", name, agreement(total, truth)))
            found.append(("precision", name, float(truth[admitted].float().mean())))
            found.append(("recall", name, float(admitted[truth].float().mean())))
    table = pandas.DataFrame(found, columns=["measure", "method", "value"])
    means = table.groupby(["measure", "method"], sort=False, dropna=False).value.mean().round(4)
    return means.reset_index().assign(job="next").replace({float("nan"): None}).to_dict("records")


def main(arguments: list[str] | None = None) -> None:
    """Train the ViT; train and measure one decoder after the other, and write the table; killed, it goes on with the next decoder.

    ``seconds`` of the provenance are those of all decoders, whichever start of the command they were spent in.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder, for beyond.json and beyond/*.safetensors")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen = " ".join(f"--{name} {getattr(options, name)}" for name in SIZES)
    made_of = {"command": f"python -m attattr.book.reproduce.beyond {chosen}", "versions": versions()}
    key = sha256(json.dumps(made_of).encode()).hexdigest()[:12]
    run = Run(task="decoders", data=Path(), name="beyond", output=options.output, key=key)
    weights, given = options.output / "beyond", texts(options.texts)
    weights.mkdir(parents=True, exist_ok=True)
    save_file(train_digits(epochs=options.epochs).state_dict(), weights / "digits.safetensors")

    def of_seed(seed: int) -> tuple[Rows, float]:
        began = time.perf_counter()
        model = train(seed, options.steps)
        save_file(model.state_dict(), weights / f"induction-{seed}.safetensors")
        return [{"seed": seed} | row for row in measured(model, given, options.few)], time.perf_counter() - began

    found = resumable(run, "seeds", [(seed,) for seed in range(options.seeds)], of_seed)
    rows, seconds = [row for of_one, _ in found for row in of_one], round(sum(spent for _, spent in found))
    print(write_result(options.output / "beyond.json", rows, made_of | {"seconds": seconds}))
    for part in options.output.glob(partial_file(run, "*", "*").name):
        part.unlink()


if __name__ == "__main__":
    main()
