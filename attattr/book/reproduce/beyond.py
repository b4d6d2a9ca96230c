"""What chapter 13 shows, beyond BERT: ``python -m attattr.book.reproduce.beyond``, one JSON file with provenance, and the weights.

Circuits whose truth is known by intervention, over ten seeds, and a small ViT that reads scikit-learn's digits. A small decoder without
MLPs has two jobs at every token: to name the next token where the text has shown what follows (``next``, which takes an induction
circuit), and to name the first token of the text (``first``), by outputs of their own. The heads of one job are distractors in the
other. `by_hand` is the same decoder with weights that are written down, and truth with them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from ...attribution import attribute_inputs
from ...data import data_folder
from ...tap import gated, record, tapped
from ..results import write_result
from ..training.model_folder import versions
from .running import Run, partial_file, resumable

VOCABULARY, LENGTH, JUMP, STEPS = 12, 24, 0.34, 800
JOBS = {"next": 0, "first": VOCABULARY}  # where the outputs of each begin
SIZES = {"seeds": 10, "steps": STEPS, "epochs": 30, "texts": 64, "few": 12}  # few: texts that the methods explain
NODES, ADMITTED, MATTERS = 32, 0.4, 0.5  # the paper's τ; of the whole effect, or of the texts


class Block(nn.Module):
    """Attention, added to the residual stream."""

    def __init__(self, size: int, heads: int, head_size: int, norm: bool) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(size) if norm else nn.Identity()
        self.parts, self.out = nn.Linear(size, 3 * heads * head_size), nn.Linear(heads * head_size, size)

    def forward(self, states: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """One layer up."""
        query, key, value = self.parts(self.norm(states)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        context = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return states + self.out(context.transpose(1, 2).flatten(2))


class Decoder(nn.Module):
    """Two layers of attention and nothing else, as GPT-2 has it, with outputs for two jobs."""

    def __init__(self, size: int = 64, heads: int = 4, head_size: int = 16, norm: bool = True) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, size), nn.Embedding(LENGTH, size)
        nn.init.normal_(self.token.weight, 0, 0.5)
        nn.init.normal_(self.place.weight, 0, 0.5)
        self.layers = nn.ModuleList(Block(size, heads, head_size, norm) for _ in range(2))
        self.norm, self.read = nn.LayerNorm(size) if norm else nn.Identity(), nn.Linear(size, 2 * VOCABULARY)

    def forward(self, input_ids: Int[Tensor, "B N"]) -> Float[Tensor, "B N C"]:
        """The logits of both jobs at every token."""
        states = self.token(input_ids) + self.place.weight[: input_ids.shape[1]]
        for layer in self.layers:
            states = layer(states)
        return self.read(self.norm(states))


def sequences(rows: int, generator: torch.Generator) -> tuple[Int[Tensor, "B N1"], Bool[Tensor, "B N"], Bool[Tensor, "B N N"]]:
    """Walks of `LENGTH` + 1 tokens: each is followed by its successor, drawn anew for every walk, or with `JUMP` by any token.

    Also where the next token can be known, and by which places: the same token was there, and always followed by that next one.
    """
    order = torch.rand(rows, VOCABULARY, generator=generator).argsort(1)
    successor = torch.empty_like(order).scatter_(1, order, order.roll(-1, 1))
    jumps = torch.rand(LENGTH, rows, generator=generator) < JUMP
    drawn = torch.randint(VOCABULARY, (LENGTH + 1, rows), generator=generator)
    walk = [drawn[0]]
    for jump, anywhere in zip(jumps, drawn[1:], strict=True):
        walk.append(torch.where(jump, anywhere, successor.gather(1, walk[-1][:, None])[:, 0]))
    walks = torch.stack(walk, 1)
    earlier = (walks[:, :-1, None] == walks[:, None, :-1]).tril(-1)
    followed = earlier & (walks[:, 1:, None] == walks[:, None, 1:])
    return walks, followed.any(2) & (earlier == followed).all(2), followed


class Texts(NamedTuple):
    """Texts whose last token stood once before, at ``before``, and whose answers are known; and the same with the evidence gone."""

    tokens: Int[Tensor, "B N"]
    answers: dict[str, Int[Tensor, " B"]]  # outputs, by job
    before: Int[Tensor, " B"]
    corrupted: dict[str, Int[Tensor, "B N"]]  # one other token: that at ``before``, or the first


def texts(rows: int, seed: int = 1000) -> Texts:
    """Some such texts, none of which training has seen but by chance."""
    generator = torch.Generator().manual_seed(seed)
    walks, known, followed = sequences(60 * rows, generator)
    tokens, answer, before = walks[:, :-1], walks[:, -1], followed[:, -1].int().argmax(1)
    once = (tokens == tokens[:, -1:]).sum(1) == 2
    good = (known[:, -1] & once & (before > 0) & (before < LENGTH - 3) & (tokens[:, 0] != answer)).nonzero()[:rows, 0]
    tokens, answer, before = tokens[good], answer[good], before[good]
    other = (tokens[:, -1] + torch.randint(1, VOCABULARY, before.shape, generator=generator)) % VOCABULARY
    new = (tokens[:, 0] + torch.randint(1, VOCABULARY, before.shape, generator=generator)) % VOCABULARY
    corrupted = {"next": tokens.scatter(1, before[:, None], other[:, None]), "first": torch.cat([new[:, None], tokens[:, 1:]], 1)}
    return Texts(tokens, {"next": answer, "first": tokens[:, 0] + VOCABULARY}, before, corrupted)


def train(seed: int, steps: int = STEPS, rows: int = 32, rate: float = 3e-3) -> Decoder:
    """A decoder that has learned both jobs."""
    torch.manual_seed(seed)
    model, generator, heat = Decoder(), torch.Generator().manual_seed(seed), min(50, steps)
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / heat) * min(1, (steps - step) / (0.3 * steps) + 0.02)
    )
    for _ in range(steps):
        walks, known, _ = sequences(rows, generator)
        logits, first = model(walks[:, :-1]), walks[:, :1].expand(-1, LENGTH)
        following = functional.cross_entropy(logits[..., :VOCABULARY][known], walks[:, 1:][known])
        loss = following + functional.cross_entropy(logits[..., VOCABULARY:].flatten(0, 1), first.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def by_hand(sharpness: float = 10.0) -> Decoder:
    """The induction circuit with weights that are written down, and no norm. Every number below that is not set is 0.

    The residual stream holds, one-hot: the token, its place, the token before, the answer. Layer 0: head 0 reads the token before,
    head 1 attends to the first token and passes on nothing. Layer 1: head 0 reads from where the token before is this token, and
    writes the answer; head 1 attends to the token itself, passes on much where nobody reads, and a little to the answers.
    """
    v, n, d = VOCABULARY, LENGTH, LENGTH  # d, the size of a head, has room for a place
    model = Decoder(2 * n + 3 * v, heads=2, head_size=d, norm=False).eval().requires_grad_(False)
    token, place, former, answer, unread = 0, v, v + n, 2 * v + n, 3 * v + n
    for parameter in model.parameters():
        parameter.zero_()
    model.token.weight[:, token : token + v] = torch.eye(v)
    model.place.weight[:, place : place + n] = torch.eye(n)
    model.read.weight[:v, answer : answer + v] = 10 * torch.eye(v)
    scale = sharpness * d**0.5

    def part(layer: int, head: int, kind: int) -> Tensor:  # 0 query, 1 key, 2 value
        return model.get_parameter(f"layers.{layer}.parts.weight").unflatten(0, (3, 2, d))[kind, head]

    def write(layer: int, head: int, at: int, size: float) -> None:
        model.get_parameter(f"layers.{layer}.out.weight").unflatten(1, (2, d))[at : at + v, head, :v] = size * torch.eye(v)

    part(0, 0, 0)[: n - 1, place + 1 : place + n] = scale * torch.eye(n - 1)
    part(0, 1, 0)[0, place : place + n] = scale
    part(1, 0, 0)[:v, token : token + v] = scale * torch.eye(v)
    part(1, 1, 0)[:n, place : place + n] = scale * torch.eye(n)
    for layer, head in ((0, 0), (0, 1), (1, 1)):
        part(layer, head, 1)[:n, place : place + n] = torch.eye(n)
    part(1, 0, 1)[:v, former : former + v] = torch.eye(v)
    for layer, head in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part(layer, head, 2)[:v, token : token + v] = torch.eye(v)
    write(0, 0, former, 1.0)
    write(1, 0, answer, 1.0)
    write(1, 1, unread, 3.0)
    write(1, 1, answer, 0.02)
    return model


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


def effects_of_connections(model: nn.Module, given: Texts, row: int, job: str = "next") -> Float[Tensor, "2 L N N"]:
    """What each connection of one text does to F, in all heads at once: cutting it; patching it into the corrupted text.

    In units of the whole effect, F of the text minus F of the corrupted one. Connections to later tokens are 0: there are none.
    """
    text, corrupted, answer = given.tokens[row, None], given.corrupted[job][row, None], given.answers[job][row, None]
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
            return decided(model(tokens), answer, job)
        with tapped(model, change):
            return decided(model(tokens.expand(len(at), -1)), answer.expand(len(at)), job)

    whole, without = value(text), value(corrupted)
    effects = torch.stack([whole - value(text, False), value(corrupted, True) - without]) / (whole - without)
    found = torch.zeros(2, layers, places, places)
    found[:, at[:, 0], at[:, 1], at[:, 2]] = effects
    return found


def scores_of(model: nn.Module, given: Texts, row: int, job: str) -> dict[str, Float[Tensor, "L _H N N"]]:
    """What each method says of the connections of one text: of each head, or one for all heads where it does not tell them apart."""
    text, answer = {"input_ids": given.tokens[row, None]}, given.answers[job][row, None]

    def of(two: bool, **options: object) -> Tensor:
        target = lambda outputs, _: decided(outputs, answer.expand(len(outputs)), job, two)  # noqa: E731
        return attribute_inputs(model, text, target=target, **options).scores  # type: ignore[union-attr, arg-type]

    attention = torch.cat(record(model, text, read=lambda outputs, _: outputs[:, -1]).attention)
    mean, identity = attention.mean(1) / 2, torch.eye(attention.shape[-1]) / 2
    reached = (mean[1] + identity)[-1][:, None]  # how much of the last token's row goes to each token below the last layer
    last = mean[1] * (torch.arange(LENGTH) == LENGTH - 1)[:, None]
    return {
        "attribution of a difference": of(True, steps=NODES),
        "attribution of the logit": of(False, steps=NODES),
        "attention × gradient": of(True, method="riemann", steps=1),
        "attention": attention,
        "rollout": torch.stack([reached * mean[0], last])[:, None],
        "flow": torch.stack([mean[0].minimum(reached), last])[:, None],
    }


def agreement(scores: Float[Tensor, " X"], truth: Bool[Tensor, " X"]) -> float:
    """Of as many of the largest scores as there are true ones, the share that is true: precision and recall are then the same number."""
    return float(truth[scores.topk(int(truth.sum())).indices].float().mean())


def measured(model: nn.Module, given: Texts, few: int) -> list[dict[str, object]]:
    """All rows of one model; methods are tried on the first ``few`` texts."""
    rows: list[dict[str, object]] = []
    for job, answers in given.answers.items():
        right = share_right(model, given.tokens, answers, job)
        rows.append({"job": job, "measure": "accuracy", "value": round(right, 4)})
        if right < MATTERS:  # it has not learned the job: there is no circuit to find
            continue
        effects = effects_of_heads(model, given, job)
        truth = (effects["ablating"] >= MATTERS) & (effects["patching"] >= MATTERS)
        texts_scores = [scores_of(model, given, row, job) for row in range(few)]
        of_heads = {name: torch.stack([one[name].amax((2, 3)) for one in texts_scores]).mean(0) for name in texts_scores[0]}
        of_heads["attention"] = torch.stack([one["attention"][:, :, 1:].amax(3).mean(2) for one in texts_scores]).mean(0)
        of_heads["ablation"] = removed(model, given, job, truth.shape)
        told = {name: values for name, values in of_heads.items() if values.shape == truth.shape}
        rows += [
            {"job": job, "measure": "score" if name in told else name, "method": name if name in told else None}
            | {"layer": layer, "head": head, "value": round(float(values[layer, head]), 4)}
            for name, values in (effects | {"true": truth} | told).items()
            for layer, head in torch.ones_like(truth).nonzero().tolist()
        ]
        rows += [
            {"job": job, "measure": "heads", "method": name, "value": agreement(values.flatten(), truth.flatten())}
            for name, values in told.items()
        ]
        if job == "next":
            rows += connections_measured(model, given, texts_scores)
    return rows


def removed(model: nn.Module, given: Texts, job: str, shape: torch.Size) -> Float[Tensor, "L H"]:
    """How much F falls on average when one head alone passes on nothing."""
    whole, found = decided(model(given.tokens), given.answers[job], job), []
    for gates in 1 - torch.eye(shape.numel()).reshape(-1, *shape):
        with gated(model, gates):
            found.append((whole - decided(model(given.tokens), given.answers[job], job)).mean())
    return torch.stack(found).reshape(shape)


def connections_measured(model: nn.Module, given: Texts, texts_scores: list[dict[str, Tensor]]) -> list[dict[str, object]]:
    """How many connections are true, and of each method: the agreement, and precision and recall of what the paper's τ admits."""
    found: dict[tuple[str, str | None], list[float]] = {}
    for row, of_text in enumerate(texts_scores):
        effects = effects_of_connections(model, given, row)
        truth = (effects >= MATTERS).all(0)
        found.setdefault(("true connections", None), []).append(float(truth.sum()))
        if not truth.any():
            continue
        path = torch.zeros_like(truth)
        before = int(given.before[row])
        path[0, before + 1, before] = path[1, -1, before + 1] = True
        found.setdefault(("on the path", None), []).append(float(truth[path].float().mean()))
        for name, scores in (of_text | {"ablation": effects[:1].transpose(0, 1)}).items():
            total = scores.sum(1)
            admitted = total > ADMITTED * total.amax((1, 2), keepdim=True)
            found.setdefault(("connections", name), []).append(agreement(total.flatten(), truth.flatten()))
            found.setdefault(("precision", name), []).append(float(truth[admitted].float().mean()))
            found.setdefault(("recall", name), []).append(float(admitted[truth].float().mean()))
    return [
        {"job": "next", "measure": measure, "method": name, "value": round(sum(values) / len(values), 4)}
        for (measure, name), values in found.items()
    ]


def digits(test: bool = False) -> tuple[Float[Tensor, "B 1 8 8"], Int[Tensor, " B"]]:
    """scikit-learn's handwritten digits, grey from -1 to 1: four fifths to train on, or the rest; drawn with seed 0."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0)).split([1437, 360])[int(test)]
    return torch.tensor(found.images, dtype=torch.float32)[order, None] / 8 - 1, torch.tensor(found.target)[order]


def vit() -> ViTForImageClassification:
    """transformers' ViT, three layers of four heads, over 16 patches of 2 × 2 pixels and [CLS]; random."""
    sizes = {"image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 32, "num_hidden_layers": 3}
    config = ViTConfig(**sizes, num_attention_heads=4, intermediate_size=64, num_labels=10)
    return ViTForImageClassification(config).eval()


def train_digits(seed: int = 0, epochs: int = 30, rows: int = 64, rate: float = 3e-3) -> ViTForImageClassification:
    """A ViT that has learned to read digits."""
    torch.manual_seed(seed)
    model, generator, (images, labels) = vit(), torch.Generator().manual_seed(seed), digits()
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * (len(images) // rows))
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator)[: len(images) // rows * rows].reshape(-1, rows):
            loss = functional.cross_entropy(model(pixel_values=images[batch]).logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.requires_grad_(False)


def trained(name: str) -> nn.Module:
    """A model that the command has trained, from the book's files: ``"induction-0"`` (its seed) or ``"digits"``."""
    model: nn.Module = vit() if name == "digits" else Decoder()
    model.load_state_dict(load_file(data_folder() / "beyond" / f"{name}.safetensors"))
    return model.eval().requires_grad_(False)


def main(arguments: list[str] | None = None) -> None:
    """Train what is not trained yet, measure all, and write the table; killed, it goes on with the next model."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder, for beyond.json and beyond/*.safetensors")
    options, began = parser.parse_args(arguments), time.perf_counter()
    chosen = " ".join(f"--{name} {getattr(options, name)}" for name in SIZES)
    torch.set_num_threads(1)
    folder = options.output / "beyond"
    folder.mkdir(parents=True, exist_ok=True)

    def once(name: str, model: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            save_file(make().state_dict(), path)
        model.load_state_dict(load_file(path))
        return model.eval().requires_grad_(False)

    reader, (images, labels) = once("digits", vit(), lambda: train_digits(epochs=options.epochs)), digits(test=True)
    right = float((reader(pixel_values=images).logits.argmax(-1) == labels).float().mean())
    rows: list[dict[str, object]] = [{"model": "digits", "seed": 0, "measure": "accuracy", "value": round(right, 4)}]
    given = texts(options.texts)
    rows += [{"model": "by hand"} | row for row in measured(by_hand(), given, options.few)]
    made_of = {"command": f"python -m attattr.book.reproduce.beyond {chosen}", "versions": versions()}
    key = sha256(json.dumps(made_of).encode()).hexdigest()[:12]
    run = Run(task="decoders", data=Path(), name="beyond", output=options.output, key=key)

    def of_seed(seed: int) -> list[dict[str, object]]:
        model = once(f"induction-{seed}", Decoder(), lambda: train(seed, options.steps))
        return [{"model": "trained", "seed": seed} | row for row in measured(model, given, options.few)]

    rows += [row for found in resumable(run, "seeds", [(seed,) for seed in range(options.seeds)], of_seed) for row in found]
    print(write_result(options.output / "beyond.json", rows, made_of | {"seconds": round(time.perf_counter() - began)}))
    for part in options.output.glob(partial_file(run, "*", "*").name):
        part.unlink()


if __name__ == "__main__":
    main()
