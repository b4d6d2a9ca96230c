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
from jaxtyping import Float, Int, Shaped
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
    try:
        for config in configs.values():
            config._attn_implementation_internal = name
        with model.register_forward_pre_hook(restart), model.register_forward_hook(count):
            yield
    finally:
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
    raise untapped(module)


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
def gated(model: nn.Module, gates: Shaped[Tensor, "L H"] | Shaped[Tensor, "B L H"] | Shaped[Tensor, "B L N N"]) -> Iterator[None]:
    """While open, heads or connections are scaled, numbers of 0 or false remove them.

    The context of head h in layer l is multiplied by ``gates[l, h]``, or by ``gates[b, l, h]`` for row b. With ``gates[b, l, i, j]``
    what token i attends to token j is, in every head, c_h = (A_h ⊙ gates[b, l]) V_h; the rest is not renormalised.

    Raises ``ValueError`` on a forward pass if the gates do not have the layers, heads, rows or tokens there.
    """
    of_layers = gates.movedim(min(1, gates.ndim - 2), 0)

    def multiply(layer: int, attention: Tensor, value: Tensor, context: Tensor) -> Tensor:
        rows, heads, queries, keys = attention.shape
        expected = {2: (heads,), 3: (rows, heads), 4: (rows, queries, keys)}[gates.ndim]
        if layer >= len(of_layers) or of_layers.shape[1:] != expected:
            raise ValueError(f"gates of shape {tuple(gates.shape)} do not fit: expected {expected} for each of more than {layer} layers")
        gate = of_layers[layer].to(context)
        if gates.ndim == 4:
            return torch.einsum("bhnk,bhkd->bnhd", attention * gate[:, None], value)
        return context * gate[..., None, :, None]

    with tapped(model, multiply, len(of_layers)):
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

    with torch.enable_grad(), tapped(model, probe):
        logits = logits_of(model, inputs)
        total = objective(widened(logits))
    gradients = torch.autograd.grad(total * GRADIENT_SCALE, probes)
    return [(widened(c), widened(g) / GRADIENT_SCALE) for c, g in zip(contexts, gradients, strict=True)]


def widened(tensor: Tensor) -> Tensor:
    """What sums are kept in: float64 stays, anything else becomes float32, also of a model in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Float[Tensor, "B C"]:
    """The logits of a forward pass without dropout; a ``ValueError`` if they are not all finite."""
    with evaluating(model):
        logits = model(**inputs).logits
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
        raise ValueError(
            f"keep has shape {tuple(keep.shape)}: expected {layers_and_heads(model)}, layers and heads, for all rows or for each"
        )


def record(model: nn.Module, inputs: Mapping[str, Tensor]) -> Recording:
    """Run ``model`` once, without gradients, and keep what happened in every layer.

    Raises:
        TypeError: the model's attention does not go through transformers' attention interface.
        ValueError: the logits are not finite.
    """
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    entered: list[tuple[nn.Module, Any]] = []  # every call of a block, and the hidden states it was given
    inside: list[int] = []  # the calls that are going on
    owner: list[int] = []  # the call that each layer was in

    def keep(layer: int, attention: Tensor, value: Tensor, context: Tensor) -> Tensor:
        seen.append((attention, value, context))
        owner.extend(inside[-1:])
        return context

    def enter(module: nn.Module, arguments: tuple, options: dict) -> None:
        inside.append(len(entered))
        entered.append((module, arguments[0] if arguments else options.get("hidden_states")))

    def leave(*_: Any) -> None:
        inside.pop()

    with torch.no_grad(), ExitStack() as stack:
        for module in {element for modules in model.modules() if isinstance(modules, nn.ModuleList) for element in modules}:
            stack.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True))
            stack.enter_context(module.register_forward_hook(leave))
        stack.enter_context(tapped(model, keep))
        logits = logits_of(model, inputs)
    attention, value, context = zip(*seen, strict=True)
    heads = [of_layer.shape[1] for of_layer in attention]
    if len(set(heads)) > 1:
        raise ValueError(f"layers with {heads} heads: expected as many in each; if heads were cut out of the model, explain the whole one")
    modules = dict.fromkeys(entered[call][0] for call in owner)
    calls = [call for call, (module, _) in enumerate(entered) if module in modules]
    block_calls, hidden = tuple(map(calls.index, owner)), tuple(entered[call][1] for call in calls)
    # Where one stack feeds another, or a layer is in no block, `replay` runs all layers.
    if getattr(model.config, "is_encoder_decoder", False) or len(owner) < len(seen) or not all(isinstance(h, Tensor) for h in hidden):
        modules, block_calls, hidden = {}, (), ()
    one_row = reads_first_row_only(model, inputs, tuple(modules), logits)
    return Recording(attention, value, context, logits, dict(inputs), tuple(modules), block_calls, hidden, one_row)


def reads_first_row_only(model: nn.Module, inputs: Mapping[str, Tensor], blocks: Sequence[nn.Module], logits: Tensor) -> bool:
    """Whether the logits stay what they are when all rows but the first of the last block's output are made NaN.

    Asked only of blocks that are built like BERT's, where `replay` can save the last layer's work on rows that nobody reads.
    """
    if not blocks or len(set(blocks)) < 2 or not hasattr(getattr(blocks[-1], "attention", None), "output"):
        return False

    def spoil(module: nn.Module, arguments: tuple, output: Any) -> None:
        rows = output if isinstance(output, Tensor) else output[0]
        rows[:, 1:] = torch.nan

    with evaluating(model), torch.no_grad(), blocks[-1].register_forward_hook(spoil):
        return torch.allclose(model(**inputs).logits, logits, atol=1e-4)


def replay(
    model: nn.Module, recording: Recording, example: Int[Tensor, " R"], layer: Int[Tensor, " R"], scale: Float[Tensor, " R"]
) -> tuple[Float[Tensor, "R C"], list[Tensor]]:
    """R forward passes that leave the recorded one at a layer, where the context is scaled, in one batch that grows from layer to layer.

    Branch r continues example ``example[r]`` with α·c, α = ``scale[r]``, in layer ``layer[r]``; everything above it is computed anew,
    everything below it is as recorded. The branches come sorted by layer.

    Returns the logits of every branch, and for each layer the scaled contexts of its branches ("r N H d", in the order
    of the branches). Where gradients are enabled these are leaves, so that ``torch.autograd.grad`` of a function of the
    logits with respect to them is ∂F/∂c(αc).
    """
    rows, start = len(layer), torch.searchsorted(layer, torch.arange(len(recording.context) + 1).to(layer)).tolist()
    leaves: list[Tensor] = []

    def take(number: int, attention: Tensor, value: Tensor, context: Tensor) -> Tensor:
        here = slice(start[number], start[number + 1])
        scaled = scale[here].to(context)[:, None, None, None] * recording.context[number][example[here]]
        leaves.append(scaled.requires_grad_(torch.is_grad_enabled()))
        return torch.cat([context[: here.start], leaves[-1], context[here.stop :]])

    entered = [0]

    def enter(module: nn.Module, arguments: tuple, options: dict) -> tuple[tuple, dict]:
        block, entered[0] = entered[0], entered[0] + 1
        inside = [number for number, call in enumerate(recording.block_calls) if call == block]
        if not inside:
            return arguments, options
        first, active = start[inside[0]], start[inside[-1] + 1]
        active = max(active, 1)  # some models cannot run on no rows at all: the first branch then comes along too early, in vain
        below = arguments[0] if arguments else options["hidden_states"]
        states = torch.cat([below[:first], recording.hidden[block][example[first:active]]])

        def narrow(argument: Any) -> Any:  # masks, position embeddings: whatever carries one entry for each branch
            return argument[:active] if isinstance(argument, Tensor) and argument.ndim > 1 and argument.shape[0] == rows else argument

        named = {name: narrow(option) for name, option in options.items()}
        return ((states, *map(narrow, arguments[1:])), named) if arguments else ((), named | {"hidden_states": states})

    with evaluating(model), ExitStack() as stack:
        for block in recording.blocks:
            stack.enter_context(block.register_forward_pre_hook(enter, with_kwargs=True))
        if recording.first_row_only:  # what follows the last attention is done for that row alone
            output = recording.blocks[-1].get_submodule("attention.output")
            stack.enter_context(output.register_forward_pre_hook(lambda _, arguments: tuple(a[:, :1] for a in arguments)))
        stack.enter_context(tapped(model, take))
        logits = model(**{name: tensor[example] for name, tensor in recording.inputs.items()}).logits
    return logits, leaves
