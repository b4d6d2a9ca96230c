"""The tap: record, replace, scale or gate the output of every attention head of a Transformer.

The output of head h is its *context* c_h = A_h V_h, before the output projection. Everything this package asks of a
model is a question about contexts, so this file is the only one that knows how transformers is built inside: for the
length of a ``with`` block it puts a function of ours between the model and its attention, through the registry that
transformers keeps for that purpose, and afterwards puts everything back.

A *layer* here is one call of attention, counted from 0 in the order of the forward pass. Not every family numbers its
layers, and ALBERT calls one module many times, so calls are counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# B examples, L layers, H heads, N tokens, d head size, C classes, R branches (see `replay`)
PREFIX = "attattr-"
GRADIENT_SCALE = 4096.0  # a power of two, so it changes no digit; without it small gradients vanish in float16
Handler = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recording:
    """What one forward pass did: for every layer A, V and c = A V, and what `replay` needs to go on from there.

    ``blocks`` are the modules that repeat up the model, ``block_calls[l]`` says in which of their calls layer l was, and
    ``hidden[b]`` is the input of call b; all empty where the model could not be cut into blocks.
    """

    attention: tuple[Float[Tensor, "B H N K"], ...]
    value: tuple[Float[Tensor, "B H K d"], ...]
    context: tuple[Float[Tensor, "B N H d"], ...]
    logits: Float[Tensor, "B C"]
    inputs: Mapping[str, Tensor]
    blocks: tuple[nn.Module, ...]
    block_calls: tuple[int, ...]
    hidden: tuple[Tensor, ...]
    first_row_only: bool  # nothing but the first token's row of the last layer can reach the logits


@dataclass(frozen=True)
class Branches:
    """R forward passes that leave the recorded one at a layer, with that layer's context scaled by a number.

    Branch r continues example ``example[r]`` with α·c, α = ``scale[r]``, in layer ``layer[r]``; everything above it is
    computed anew, everything below it is as recorded. Sorted by layer.
    """

    example: Int[Tensor, " R"]
    layer: Int[Tensor, " R"]
    scale: Float[Tensor, " R"]


@contextmanager
def tapped(model: nn.Module, handler: Handler, layers: int | None = None) -> Iterator[None]:
    """While open, every attention call of ``model`` gives its result to ``handler(layer, attention, value, context)``.

    What the handler returns is used as the context from there on. The layer count starts anew with each forward pass
    of ``model``. On leaving, also by an exception, the model and transformers' registries are as they were.

    Raises:
        ValueError: the model is tapped already: the outer handler would not be heard. And, at the end of a forward pass,
            if ``layers`` is given and the model has another number of them.
        TypeError: at the end of a forward pass, if no attention came by.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    name = f"{PREFIX}{id(handler)}"
    calls = [0]

    def attention_function(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        # The model family's own plain attention, so that its peculiarities (grouped keys, soft caps, biases) are kept.
        context, attention = family_attention(module)(module, query, key, value, attention_mask, **options)
        heads_per_value = attention.shape[1] // max(1, value.shape[1])  # a layer may have lost all its heads
        context = handler(calls[0], attention, value.repeat_interleave(heads_per_value, dim=1), context)
        calls[0] += 1
        return context, attention

    def restart(*_: Any) -> None:
        calls[0] = 0

    def count(*_: Any) -> None:
        if not calls[0]:
            raise untapped(model)
        if layers is not None and calls[0] != layers:
            raise ValueError(f"something was given for {layers} layers, but {type(model).__name__} has {calls[0]}: expected as many")

    found: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(config): config for config in found if hasattr(config, "_attn_implementation_internal")}
    before = {key: config._attn_implementation_internal for key, config in configs.items()}
    if any(str(implementation).startswith(PREFIX) for implementation in before.values()):
        raise ValueError(
            f"{type(model).__name__} is inside another `with` block of this package (prune_heads or the like), which would not be "
            "heard: leave that block first"
        )
    AttentionInterface.register(name, attention_function)
    AttentionMaskInterface.register(name, eager_mask)  # without a mask function of the same name, padding is silently ignored
    hooks = model.register_forward_pre_hook(restart), model.register_forward_hook(count)
    try:
        for config in configs.values():
            config._attn_implementation_internal = name
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


def family_attention(module: nn.Module) -> Callable:
    """The ``eager_attention_forward`` of the file that defines ``module``'s class or the class it derives from."""
    for base in type(module).__mro__:
        found = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if found is not None:
            return found
    raise TypeError(f"no eager_attention_forward beside {type(module).__name__}: the tap cannot see the attention of this model")


def untapped(model: nn.Module) -> TypeError:
    """What to say of a model none of whose attention came by."""
    return TypeError(
        f"the attention of {type(model).__name__} does not go through transformers' attention interface, so it cannot be "
        "tapped: expected a model whose code calls ALL_ATTENTION_FUNCTIONS (BERT, RoBERTa, DistilBERT, GPT-2, ViT ... do; "
        "DeBERTa-v2 and XLNet do not)"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While open, ``model`` is in eval mode; on leaving, every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def gated(model: nn.Module, gates: Float[Tensor, "L H"] | Float[Tensor, "B L H"]) -> Iterator[None]:
    """While open, the context of head h in layer l is multiplied by ``gates[l, h]``, or by ``gates[b, l, h]`` for row b.

    Gates of 0 and 1 remove and keep heads. Raises ``ValueError`` on a forward pass if the gates do not have the model's
    number of layers and heads.
    """

    def multiply(layer: int, attention: Tensor, value: Tensor, context: Tensor) -> Tensor:
        rows, heads = context.shape[0], context.shape[2]
        if layer >= gates.shape[-2] or gates.shape[-1] != heads or (gates.ndim == 3 and gates.shape[0] != rows):
            expected = f"(L, {heads}) or ({rows}, L, {heads}) with L greater than {layer}"
            raise ValueError(f"gates of shape {tuple(gates.shape)} do not fit the model: expected {expected}")
        gate = gates[..., layer, :].to(context)
        return context * (gate[:, None, :, None] if gates.ndim == 3 else gate[:, None])

    with tapped(model, multiply, gates.shape[-2]):
        yield


@contextmanager
def masked(model: nn.Module, keep: Bool[Tensor, "B L N N"]) -> Iterator[None]:
    """While open, only the connections in ``keep`` bring anything: c_h = (A_h ⊙ keep[b, l]) V_h in every head, not renormalised.

    Raises ``ValueError`` on a forward pass of other rows or tokens, or of a model with other layers.
    """

    def sift(layer: int, attention: Tensor, value: Tensor, context: Tensor) -> Tensor:
        rows, _, queries, keys = attention.shape
        if layer >= keep.shape[1] or (keep.shape[0], *keep.shape[2:]) != (rows, queries, keys):
            expected = f"({rows}, L, {queries}, {keys}) with L greater than {layer}"
            raise ValueError(f"connections of shape {tuple(keep.shape)} do not fit the model and its input: expected {expected}")
        return torch.einsum("bhnk,bhkd->bnhd", attention * keep[:, layer, None].to(attention), value)

    with tapped(model, sift, keep.shape[1]):
        yield


@contextmanager
def replaced(model: nn.Module, contexts: Mapping[int, Float[Tensor, "B N H d"]]) -> Iterator[None]:
    """While open, the context of each layer named in ``contexts`` is the given one; gradients flow into it."""
    with tapped(model, lambda layer, attention, value, context: contexts.get(layer, context)):
        yield


def context_gradients(
    model: nn.Module, inputs: Mapping[str, Tensor], objective: Callable[[Tensor], Tensor]
) -> list[tuple[Float[Tensor, "B N H d"], Float[Tensor, "B N H d"]]]:
    """The contexts c of every layer and ∂objective(logits)/∂c, in float32 at least, all layers by one backward pass."""
    contexts: list[Tensor] = []
    probes: list[Tensor] = []

    def probe(layer: int, attention: Tensor, value: Tensor, context: Tensor) -> Tensor:
        contexts.append(context.detach())
        probes.append(torch.zeros_like(context, requires_grad=True))
        return context + probes[-1]  # what is added has the gradient of the sum, and nothing below it is asked for its own

    with evaluating(model), torch.enable_grad(), tapped(model, probe):
        logits = finite(model, model(**inputs).logits)
        total = objective(logits.float() if logits.dtype.itemsize < 4 else logits)
    gradients = torch.autograd.grad(total * GRADIENT_SCALE, probes)
    wide = [(c.float(), g.float()) if c.dtype.itemsize < 4 else (c, g) for c, g in zip(contexts, gradients, strict=True)]
    return [(context, gradient / GRADIENT_SCALE) for context, gradient in wide]


def finite(model: nn.Module, logits: Tensor) -> Tensor:
    """The logits; a ``ValueError`` if they are not all finite."""
    if not torch.isfinite(logits).all():
        raise ValueError(
            f"{type(model).__name__} gave logits that are not finite ({logits.flatten()[:4].tolist()} ...): check its weights for NaN"
        )
    return logits


def check_numbers(fit: Tensor, values: Tensor, name: str, expected: str) -> None:
    """Refuse ``values`` unless ``fit`` is true of every one, with the place of the first of which it is not."""
    if not fit.all():
        place = fit.logical_not().nonzero()[0].tolist()
        raise ValueError(f"{name}{place} is {float(values[tuple(place)]):.4g}: expected {expected}")


def layers_and_heads(model: nn.Module) -> tuple[int, int]:
    """How many layers and heads the model's configuration says that it has; a ``ValueError`` if heads were cut out of it."""
    config: Any = model.config
    if hasattr(config, "kept_heads"):
        raise ValueError(f"heads were cut out of this {type(model).__name__}: expected the whole model")
    layers, heads = getattr(config, "num_hidden_layers", None), getattr(config, "num_attention_heads", None)
    if not isinstance(layers, int) or not isinstance(heads, int):
        raise TypeError(f"{type(config).__name__} has no num_hidden_layers and num_attention_heads: expected a Transformer's configuration")
    return layers, heads


def check_heads(model: nn.Module, keep: Tensor) -> None:
    """Refuse what is not one yes or no for each head of the model."""
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
        raise TypeError(f"keep is {getattr(keep, 'dtype', type(keep).__name__)}: expected a boolean tensor, True for a head that stays")
    if keep.ndim not in (2, 3) or tuple(keep.shape[-2:]) != layers_and_heads(model):
        expected = "({}, {})".format(*layers_and_heads(model))
        raise ValueError(f"keep has shape {tuple(keep.shape)}: expected {expected}, layers and heads, or one such for each row")


def record(model: nn.Module, inputs: Mapping[str, Tensor]) -> Recording:
    """Run ``model`` once, without gradients, and keep what happened in every layer.

    Raises:
        TypeError: the model's attention does not go through transformers' attention interface.
        ValueError: the logits are not finite.
    """
    seen: list[tuple[Tensor, Tensor, Tensor, Block | None]] = []
    entered: list[Block] = []
    inside: list[Block] = []

    def keep(layer: int, attention: Tensor, value: Tensor, context: Tensor) -> Tensor:
        seen.append((attention, value, context, inside[-1] if inside else None))
        return context

    def enter(module: nn.Module, arguments: tuple, options: dict) -> None:
        entered.append(Block(module, arguments[0] if arguments else options.get("hidden_states")))
        inside.append(entered[-1])

    with evaluating(model), torch.no_grad(), ExitStack() as stack:
        for module in {element for modules in model.modules() if isinstance(modules, nn.ModuleList) for element in modules}:
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(lambda *_: inside.pop() and None).remove)
        stack.enter_context(tapped(model, keep))
        logits = model(**inputs).logits
    if not seen:
        raise untapped(model)
    finite(model, logits)
    attention, value, context, owner = zip(*seen, strict=True)
    if len({layer.shape[1] for layer in attention}) > 1:
        raise ValueError(
            f"layers with {[layer.shape[1] for layer in attention]} heads: expected as many in each. Heads were cut out of this model; "
            "explain the whole one"
        )
    blocks = blocks_of(model, owner, entered)
    return Recording(attention, value, context, logits, dict(inputs), *blocks, reads_first_row_only(model, inputs, blocks[0], logits))


@dataclass(frozen=True, eq=False)
class Block:
    """One call of a module that is an element of a list of layers, and the hidden states it was given."""

    module: nn.Module
    hidden: Tensor | None


def blocks_of(model: nn.Module, owner: Sequence[Block | None], entered: Sequence[Block]) -> tuple[tuple, tuple, tuple]:
    """Which block call each attention call was in: the modules, the number of each call's block, and the blocks' inputs.

    Empty where a layer is in no block, or where one stack feeds another (encoder-decoder): `replay` then runs all layers.
    """
    found = [block for block in owner if block is not None and isinstance(block.hidden, Tensor)]
    if len(found) < len(owner) or getattr(model.config, "is_encoder_decoder", False):
        return (), (), ()
    modules = dict.fromkeys(block.module for block in found)
    calls = [block for block in entered if block.module in modules]
    return tuple(modules), tuple(calls.index(block) for block in found), tuple(block.hidden for block in calls)


def reads_first_row_only(model: nn.Module, inputs: Mapping[str, Tensor], blocks: Sequence[nn.Module], logits: Tensor) -> bool:
    """Whether the logits stay what they are when all rows but the first of the last block's output are made NaN.

    Asked only of blocks that are built like BERT's, where `replay` can save the last layer's work on rows that nobody reads.
    """
    if not blocks or len(set(blocks)) < 2 or not hasattr(getattr(blocks[-1], "attention", None), "output"):
        return False

    def spoil(module: nn.Module, arguments: tuple, output: Any) -> Any:
        rows = output if isinstance(output, Tensor) else output[0]
        spoilt = torch.cat([rows[:, :1], torch.full_like(rows[:, 1:], torch.nan)], dim=1)
        return spoilt if isinstance(output, Tensor) else (spoilt, *output[1:])

    with evaluating(model), torch.no_grad(), ExitStack() as stack:
        stack.callback(blocks[-1].register_forward_hook(spoil).remove)
        return torch.allclose(model(**inputs).logits, logits, atol=1e-4)


def replay(model: nn.Module, recording: Recording, branches: Branches) -> tuple[Float[Tensor, "R C"], list[Tensor]]:
    """Run the branches through the layers above their own, in one batch that grows from layer to layer.

    Returns the logits of every branch, and for each layer the scaled contexts of its branches ("r N H d", in the order
    of the branches). Where gradients are enabled these are leaves, so that ``torch.autograd.grad`` of a function of the
    logits with respect to them is ∂F/∂c(αc).
    """
    rows = len(branches.layer)
    start = [int((branches.layer < layer).sum()) for layer in range(len(recording.context) + 1)]
    leaves: list[Tensor] = []

    def take(layer: int, attention: Tensor, value: Tensor, context: Tensor) -> Tensor:
        here = slice(start[layer], start[layer + 1])
        scale = branches.scale[here].to(context)[:, None, None, None]
        leaf = (scale * recording.context[layer][branches.example[here]]).requires_grad_(torch.is_grad_enabled())
        leaves.append(leaf)
        return torch.cat([context[: start[layer]], leaf, context[start[layer + 1] :]])

    entered = [0]

    def enter(module: nn.Module, arguments: tuple, options: dict) -> tuple[tuple, dict]:
        block, entered[0] = entered[0], entered[0] + 1
        layers = [layer for layer, call in enumerate(recording.block_calls) if call == block]
        if not layers:
            return arguments, options
        first, active = start[layers[0]], start[layers[-1] + 1]
        active = max(active, 1)  # some models cannot run on no rows at all: the first branch then comes along too early, in vain
        joining = recording.hidden[block][branches.example[first:active]]

        def narrow(argument: Any) -> Any:  # masks, position embeddings: whatever carries one entry for each branch
            return argument[:active] if isinstance(argument, Tensor) and argument.ndim > 1 and argument.shape[0] == rows else argument

        if arguments:
            return (torch.cat([arguments[0][:first], joining]), *map(narrow, arguments[1:])), {k: narrow(v) for k, v in options.items()}
        return (), {k: narrow(v) for k, v in options.items()} | {"hidden_states": torch.cat([options["hidden_states"][:first], joining])}

    with evaluating(model), ExitStack() as stack:
        for block in recording.blocks:
            stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
        if recording.first_row_only:  # what follows the last attention is done for that row alone
            output = recording.blocks[-1].get_submodule("attention.output")
            stack.callback(output.register_forward_pre_hook(lambda _, arguments: tuple(a[:, :1] for a in arguments)).remove)
        stack.enter_context(tapped(model, take))
        logits = model(**{name: tensor[branches.example] for name, tensor in recording.inputs.items()}).logits
    return logits, leaves
