"""Self-attention attribution (Hao et al., 2020, Eq. 4), exact to a tolerance that it checks itself.

For one layer the paper attributes the decision F to the attention matrix A along the straight path from 0 to A:

    Attr_h(A) = A_h ⊙ ∫₀¹ ∂F(αA)/∂A_h dα.

Scaling all of A by α scales the context c_h = A_h V_h by α and changes nothing else below, and ∂F/∂A_h = (∂F/∂c_h) V_hᵀ.
So we integrate the gradient of the contexts, N × d numbers a head, and form the N × N scores once:

    Attr_h(A) = A_h ⊙ (Ḡ_h V_hᵀ),     Ḡ_h = ∫₀¹ ∂F/∂c_h (αc) dα.

F is one number of the outputs, of a classifier the softmax probability of one class: see `attattr.decision`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from .batches import Batch, Model, Text, Tokenizer, batches, check_texts, readable, shortened, words_of
from .connections import MEASURES, Attribution, within
from .decision import decide, read
from .model import alike, check_parameters, routes
from .path import TOKENS_PER_PASS, AttentionPath, farthest, integrate, rounding_of
from .quadrature import Rule, rules_of
from .tap import Recording, record, rows_of

EARLY = 0.05  # where on the path F should not be what it is at its end


@overload
def attribute(model: Model, tokenizer: Tokenizer, text: Text, *options: Any, **more: Any) -> Attribution: ...
@overload
def attribute(model: Model, tokenizer: Tokenizer, text: Any, *options: Any, **more: Any) -> list[Attribution]: ...
def attribute(
    model: Model,
    tokenizer: Tokenizer,
    text: Any,
    target: Any = "predicted",
    method: str | None = None,
    steps: int | str = "auto",
    tolerance: float = 1e-2,
    layers: Any = None,
    heads: Any = None,
    memory: float | None = None,
    columns: str | Sequence[str] | None = None,
    truncation: bool = False,
    progress: bool = False,
) -> Attribution | list[Attribution]:
    """Attribute a decision of ``model`` to the attention connections of every layer: Eq. 4 of Hao et al. (2020).

    Args:
        model: a classifier or a language model of transformers, or any model that takes what the tokenizer gives. It is left exactly
            as it was, also after an error.
        tokenizer: the model's own.
        text: a string, a pair of strings (a tuple), or many: a list, a Series, an array, a generator, a table (see `texts_of`).
        target: what F is of: ``"predicted"``, a class id or name; for a language model a token, or a tuple of two, whose logits'
            difference it is; a list: one for each text; or a function of your own, ``target(outputs, example) -> Float["R"]``, one number
            for each row of the model's outputs; ``example`` has ``tokens``, ``length``, and ``padding``.
        method: the rule for the integral; None: for ``"auto"`` nested Clenshaw-Curtis rules, for a number of steps
            ``"gauss-legendre"``. Or ``"clenshaw-curtis"``, ``"riemann"`` (right sums, as printed in the paper), ``"riemann-left"``
            (the authors' code), with a number of steps.
        steps: nodes of the rule, or ``"auto"``: as many as that layer of that text needs for the tolerance.
        tolerance: for ``"auto"``, the relative error (Frobenius norm) that each layer's scores may have.
        layers, heads: which to explain, and which to keep the scores of, counted from 0; None: all. Long texts have large matrices.
        memory: how many GiB may be taken for it, beside the model and the results; None: what the machine can spare, at most 2.
        columns: of a table, the one or two that hold the text.
        truncation: shorten a text that is too long for the model (``text`` of the result is what is left), instead of refusing it.
        progress: show a progress bar over the texts.

    Returns:
        One `Attribution`, or a list of them in the order of the texts.

    Raises:
        TypeError: text that is not text, or a model whose attention cannot be tapped.
        ValueError: empty or too long text, an unknown target, method or number of steps, logits that are not finite, too little memory.

    Warns:
        UserWarning: the tolerance could not be met, or the path says little; ``error``, ``completeness`` and ``causes`` tell.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> att = attattr.attribute(model, tokenizer, "a warm and funny film .")
    >>> att.label, att.tokens[2:6], att.certified
    ('positive', ('warm', 'and', 'funny', 'film'), True)
    """
    options = Options(rules_of(method, steps), tolerance, layers, heads, memory)
    texts, many = check_texts(text, columns)
    texts = shortened(model, tokenizer, texts) if truncation else texts
    alone = (
        any(map(callable, target if isinstance(target, list) else [target]))
        or getattr(model, "get_output_embeddings", lambda: None)() is not None
    )  # a vocabulary of numbers for each
    given = batches(model, tokenizer, texts, 1 if alone else TOKENS_PER_PASS // 16)
    found = attribute_batches(model, tokenizer, given, texts, target, options, progress)
    found = [replace(att, **words_of(tokenizer, att.text, att.tokens)) for att in found]
    return found if many else found[0]


def attribute_inputs(
    model: nn.Module,
    inputs: Mapping[str, Any],
    target: Any = "predicted",
    tokens: Sequence[str] | Sequence[Sequence[str]] | None = None,
    method: str | None = None,
    steps: int | str = "auto",
    tolerance: float = 1e-2,
    layers: Any = None,
    heads: Any = None,
    memory: float | None = None,
    progress: bool = False,
) -> Attribution | list[Attribution]:
    """`attribute` for any model and what it takes: tensors of token ids, of pixels, or anything else, one row for each example.

    Args:
        model: any module that attends, called with ``inputs`` by name.
        inputs: tensors with one row an example; anything else goes to the model as it is. Where an ``attention_mask`` is 0, there is no
            token.
        target, method, steps, tolerance, layers, heads, memory, progress: as for `attribute`; a token is given by its id.
        tokens: names of the tokens (without padding) of the one example, or a list of them for each; None: their numbers.

    Returns:
        One `Attribution` for one example, or a list of them.

    Raises:
        TypeError, ValueError: as `attribute`; inputs without tensors, or with other numbers of rows; tokens that are not those attended to.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> attribute_inputs(model, tokenizer("a warm film .", return_tensors="pt"), target="positive").label
    'positive'
    """
    check_parameters(model)
    options = Options(rules_of(method, steps), tolerance, layers, heads, memory)
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs of type {type(inputs).__name__}: expected tensors by name, with a row for each example")
    counts = {name: len(given) for name, given in inputs.items() if isinstance(given, Tensor) and given.ndim}
    rows = next(iter(counts.values()), 0)
    if not rows:
        raise ValueError(f"inputs {list(inputs)}: expected tensors by name, with a row for each example")
    if {counts.get("attention_mask", rows), counts.get("input_ids", rows)} != {rows}:
        raise ValueError(f"inputs with rows {counts}: expected an attention_mask with a row for each example")
    names: list[Any] = [None] * rows if tokens is None else [tokens] if all(isinstance(one, str) for one in tokens) else list(tokens)
    if len(names) != rows:
        raise ValueError(f"tokens of {len(names)} examples for {rows} rows of {counts}: expected a list of tokens for each row")
    given = [one_row(inputs, row, rows, of_row) for row, of_row in enumerate(names)]
    found = attribute_batches(model, None, given, [""] * rows, target, options, progress)
    return found if rows > 1 else found[0]


def one_row(inputs: Mapping[str, Any], row: int, rows: int, tokens: Sequence[str] | None) -> Batch:
    """One of some rows of inputs as a batch of its own; tokens are where its mask is not 0, or where it has ids."""
    one = {name: rows_of(part, torch.tensor([row]), rows) for name, part in inputs.items()}
    mask, ids = one.get("attention_mask"), one.get("input_ids")
    width = next((part.shape[1] for part in (mask, ids) if isinstance(part, Tensor) and part.ndim == 2), len(tokens or ()))
    real = mask[0].nonzero()[:, 0].tolist() if isinstance(mask, Tensor) and mask.ndim == 2 else list(range(width))
    if width and not real:
        raise ValueError(f"the attention_mask hides all tokens of row {row}: expected at least one")
    if tokens is not None and len(tokens) != len(real):
        raise ValueError(f"{len(tokens)} tokens for the {len(real)} of row {row}: expected a name for each that its mask does not hide")
    return Batch((row,), one, (tuple(tokens or map(str, real)),), (tuple(real),), width)


@dataclass(frozen=True)
class Options:
    """How attributions are computed: the rules to try, the tolerance, which layers, and which heads' scores are kept (None: all)."""

    rules: Sequence[Rule]
    tolerance: float
    layers: Any = None
    heads: Any = None
    memory: float | int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tolerance, int | float) or not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance!r}: expected a number between 0 and 1")
        if self.memory is not None and not (isinstance(self.memory, int | float) and self.memory > 0):
            raise ValueError(f"memory={self.memory!r}: expected a number of GiB above 0, or None")


def attribute_batches(
    model: nn.Module,
    tokenizer: Tokenizer | None,
    given: Sequence[Batch],
    texts: Sequence[Text],
    target: Any,
    options: Options,
    progress: bool = False,
) -> list[Attribution]:
    """The `Attribution` of every text of some batches, in the order of the texts; warns of those that the last rule does not certify."""
    target = target.tolist() if hasattr(target, "tolist") else target
    targets = target if isinstance(target, list) else [target] * len(texts)
    if len(targets) != len(texts):
        raise ValueError(f"{len(targets)} targets for {len(texts)} texts: expected one, or a list with one for each text")
    results: dict[int, Attribution] = {}
    # Tensors made in inference mode can never take part in a gradient, so leave it if the caller is in it.
    with tqdm(total=len(texts), desc="attribute", unit="text", disable=not progress) as bar, torch.inference_mode(False):
        for batch in given:
            found = attributions_of(model, tokenizer, batch, [texts[i] for i in batch.index], [targets[i] for i in batch.index], options)
            results |= dict(zip(batch.index, found, strict=True))
            bar.update(len(batch.index))
    failed = [results[i] for i in range(len(texts)) if not results[i].certified]
    if failed and len(options.rules) > 1:
        worst = max(float(a.error.max()) for a in failed)
        causes = dict.fromkeys(cause for att in failed for cause in att.causes)
        warnings.warn(
            f"{len(failed)} of {len(texts)} attributions did not meet tolerance={options.tolerance}: the largest estimated relative error "
            f"is {worst:.2g}, first for {str(failed[0].text)[:60]!r}; {'; '.join(causes) or 'no cause is known'}; "
            "look at .error and .completeness, or pass a larger tolerance",
            stacklevel=3,
        )
    return [results[i] for i in range(len(texts))]


def attributions_of(
    model: nn.Module, tokenizer: Tokenizer | None, batch: Batch, texts: Sequence[Text], targets: Sequence[Any], options: Options
) -> list[Attribution]:
    """The `Attribution` of every text of one batch."""
    recording = record(model, batch.inputs, partial(read, targets[0], batch.examples()), gradients=True)
    decision = decide(model, tokenizer, recording.outputs, recording.logits.detach(), targets)
    path = AttentionPath(model, recording, decision.targets, decision.own, options.memory)
    chosen = some_of("layers", options.layers, len(recording.context))
    kept = some_of("heads", options.heads, recording.attention[0].shape[1])
    outcome, rounding = integrate(path, options.rules, options.tolerance, chosen, kept), rounding_of(recording)
    everyone, early, difference = path.everyone(), outcome["early"], outcome["difference"]
    value = path.value(recording.logits.detach(), everyone)
    without = value[:, None].to(difference) - difference
    if callable(targets[0]):  # of a text alone: what it makes of a row must not come from other rows
        ((alone,),) = path.at(chosen[-1:], [everyone], [0.0], gradients=False)[0]
        if not alike(alone.to(without), without[:, -1]):
            raise ValueError(f"target {decision.labels[0]} gives a row what is of other rows: expected a number of each row by itself")
    if (stays := (early - 1).abs() < 0.1).any():
        soon = torch.cat(path.at(chosen, [everyone] * len(chosen), [EARLY], gradients=False)[0]).T.to(difference)
        early = torch.where(stays, farthest(torch.stack([early, (soon - without) / difference])), early)
    found = []
    for b in range(len(batch.index)):
        tokens, decoder_tokens, places = names_and_places(tokenizer, recording, batch, b, chosen)
        measured: dict[str, Any] = {name: outcome[name][b].cpu() for name in MEASURES}
        settled = bool(within(measured["error"], measured["completeness"], measured["difference"], options.tolerance).all())
        own = tuple(decision.targets[b].tolist())
        found.append(
            Attribution(
                **measured,
                scores=stacked(outcome["scores"][b].unbind(), places),
                attention=stacked([recording.attention[layer][b][kept].float() for layer in chosen], places),
                tokens=tokens,
                text=texts[b],
                target=None if callable(targets[b]) else own if len(own) > 1 else own[0],
                label=decision.labels[b],
                probabilities=None if decision.probabilities is None else decision.probabilities[b].float().cpu(),
                method=options.rules[0].method,
                tolerance=options.tolerance,
                quantity=decision.quantity,
                value=float(value[b]),
                causes=causes_of(model, measured["difference"], early[b].cpu(), settled, rounding, options.tolerance),
                rounding=rounding,
                layers=tuple(recording.numbers[layer] for layer in chosen),
                kinds=tuple(recording.kinds[layer] for layer in chosen),
                decoder_tokens=decoder_tokens,
                heads=() if options.heads is None else tuple(kept),
            )
        )
    return found


def some_of(name: str, asked: Any, count: int) -> list[int]:
    """Which of so many layers or heads are asked for, in their order; all for None."""
    found = range(count) if asked is None else list(asked) if np.ndim(asked) == 1 else []
    if not found or not all(isinstance(one, int | np.integer) and not isinstance(one, bool) and 0 <= one < count for one in found):
        raise ValueError(f"{name}={asked!r}: expected a list of some of 0 to {count - 1}, or None for all")
    return sorted({int(one) for one in found})


def stacked(matrices: Sequence[Float[Tensor, "H _N _K"]], places: Sequence[Sequence[list[int]]]) -> Float[Tensor, "L H N K"]:
    """The rows and columns of real tokens of a matrix for each layer; where layers differ in size, smaller ones end in zeros."""
    cut = [matrix[:, rows][:, :, columns].cpu() for matrix, (rows, columns) in zip(matrices, places, strict=True)]
    found = cut[0].new_zeros(len(cut), len(cut[0]), *(max(one.shape[side] for one in cut) for side in (1, 2)))
    for layer, one in enumerate(cut):
        found[layer, :, : one.shape[1], : one.shape[2]] = one
    return found


def names_and_places(
    tokenizer: Tokenizer | None, recording: Recording, batch: Batch, row: int, chosen: Sequence[int]
) -> tuple[tuple[str, ...], tuple[str, ...], list[Sequence[list[int]]]]:
    """The tokens of one text, those that its decoder was given, and where both stand in the matrices of each chosen layer."""
    sizes = [tuple(attention.shape[2:]) for attention in recording.attention]
    if batch.width and batch.width not in {size for pair in sizes for size in pair}:
        expected = "as many; a model with tokens of its own (prompt tuning) or with fewer (pooling) cannot be explained by these"
        raise ValueError(f"attention among {sizes[0][1]} tokens, and inputs of {batch.width}: expected {expected}")
    real = list(batch.places[row])
    places: list[Sequence[list[int]]] = [
        tuple(real if size == batch.width else list(range(size)) for size in sizes[layer]) for layer in chosen
    ]
    longest = max(len(columns) for _, columns in places)
    tokens = batch.tokens[row] if any(sizes[layer][1] == batch.width for layer in chosen) else tuple(map(str, range(longest)))
    own = [rows for (rows, _), layer in zip(places, chosen, strict=True) if recording.kinds[layer] == "cross"]
    if not own:
        return tokens, (), places
    ids = recording.decoder_ids[row].tolist() if recording.decoder_ids is not None else list(range(max(own[0]) + 1))
    known = tokenizer is not None and recording.decoder_ids is not None
    return tokens, tuple(readable(tokenizer, ids[place]) if known else str(ids[place]) for place in own[0]), places


def causes_of(
    model: nn.Module, difference: Float[Tensor, " L"], early: Float[Tensor, " L"], settled: bool, rounding: float, tolerance: float
) -> tuple[str, ...]:
    """Why the path says little of a decision, or why it was not settled, where that can be told."""
    moved = difference.abs() > 1e-2
    found = []
    if (((early - 1).abs() < 0.1) & moved).any():
        found.append(f"with α = {EARLY} F is where it is with α = 1, and stays there, as if a norm followed attention")
    if not difference.any():
        found.append("F is the same without any of the attention: it is saturated, or does not depend on it")
    if not settled and routes(model):
        found.append("experts are chosen by a router, so that F jumps along the path")
    if not settled and rounding > tolerance / 2:
        found.append(f"rounding of the model's numbers alone may make an error of {rounding:.2g}, which no rule lowers: use a wider dtype")
    return tuple(found)
