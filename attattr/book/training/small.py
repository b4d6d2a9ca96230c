"""Small models that the book trains in seconds, for chapter 13: decoders with a known circuit, and a ViT that reads digits.

A decoder without MLPs has two jobs at every token: to name the next token where the text has shown what follows (``next``, which takes
an induction circuit), and to name the first token of the text (``first``), by outputs of their own. The heads of one job are
distractors in the other. `by_hand` is the same decoder with weights that are written down, and truth with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification

from ...data import data_folder

VOCABULARY, LENGTH, JUMP, STEPS = 12, 24, 0.34, 800
JOBS = {"next": 0, "first": VOCABULARY}  # where the outputs of each begin


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

    def loss() -> Tensor:
        walks, known, _ = sequences(rows, generator)
        logits, first = model(walks[:, :-1]), walks[:, :1].expand(-1, LENGTH)
        following = functional.cross_entropy(logits[..., :VOCABULARY][known], walks[:, 1:][known])
        return following + functional.cross_entropy(logits[..., VOCABULARY:].flatten(0, 1), first.flatten())

    fit((loss() for _ in range(steps)), optimizer, schedule)
    return model.eval().requires_grad_(False)


def fit(losses: Iterable[Tensor], optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    """A step down each loss, which is computed when it is asked for."""
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


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
    orders = (torch.randperm(len(images), generator=generator)[: len(images) // rows * rows] for _ in range(epochs))
    batches = (batch for order in orders for batch in order.reshape(-1, rows))
    fit((functional.cross_entropy(model(pixel_values=images[batch]).logits, labels[batch]) for batch in batches), optimizer, schedule)
    return model.requires_grad_(False)


def trained(name: str) -> nn.Module:
    """A model that the command has trained, from the book's files: ``"induction-0"`` (its seed) or ``"digits"``."""
    model: nn.Module = vit() if name == "digits" else Decoder()
    model.load_state_dict(load_file(data_folder() / "beyond" / f"{name}.safetensors"))
    return model.eval().requires_grad_(False)
