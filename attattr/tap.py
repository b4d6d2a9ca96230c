"""The tap: record, replace, scale or gate the output of every attention head of a Transformer.

The output of head h is its *context* c_h = A_h V_h, before the output projection. Everything this package asks of a
model is a question about contexts, so this file is the only one that knows how a model is built inside. For the length of a
``with`` block it watches the functions of torch that the model calls, and finds attention as what it is: fused attention, or a
softmax that is followed to its product with the values. The model is not changed, and need not be one of transformers.

A *layer* here is one call of attention, counted from 0 in the order of the forward pass. Not every family numbers its
layers, and ALBERT calls one module many times, so calls are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import get_ident
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from .model import alike, check_parameters, gradients_of, logits_in, run, two_stacks

# B examples, L layers, H heads, N tokens, d head size, C classes, R branches (see `replay`)
GRADIENT_SCALE = 4096.0  # a power of two, so it changes no digit; without it small gradients vanish in float16
MULTI_HEAD = FunctionType(  # torch's own, which would hide the functions that it calls from whoever watches it
    nn.functional.multi_head_attention_forward.__code__,
    vars(nn.functional) | {"has_torch_function": lambda arguments: False},
    argdefs=nn.functional.multi_head_attention_forward.__defaults__,
)
SOFTMAX = {torch.softmax, Tensor.softmax, nn.functional.softmax}
PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.einsum}
Weights = Callable[[], tuple[Tensor, Tensor]]  # gives A, "B H N K", and V, "B H K d"
Handler = Callable[[int, Tensor, Weights], Tensor]
Read = Callable[[Any, Tensor], Tensor]  # of the outputs, and the example of every row of them, the numbers that decide, "R C"


@dataclass(frozen=True)
class Recording:
    """What one forward pass did: for every layer A, V and c = A V, and what `replay` needs to go on from there.

    ``blocks`` are the modules that repeat up the model, ``block_calls[l]`` says in which of their calls layer l was, and
    ``hidden[b]`` is the input of call b; all empty where the model could not be cut into blocks.
    """

    attention: tuple[Float[Tensor, "B H _N _K"], ...]  # layers of two stacks differ in N and K
    value: tuple[Float[Tensor, "B H _K _d"], ...]
    context: tuple[Float[Tensor, "B _N H _d"], ...]
    kinds: tuple[str, ...]  # of every layer: "encoder", "decoder" (each token sees those before it) or "cross"
    numbers: tuple[int, ...]  # of every layer: the block of its stack that it is in
    outputs: Any
    logits: Float[Tensor, "B C"]  # what ``read`` found in them
    read: Read
    decoder_ids: Int[Tensor, "B _N"] | None  # what the decoder of an encoder-decoder was given: the shifted inputs
    inputs: Mapping[str, Tensor]
    blocks: tuple[nn.Module, ...]
    block_calls: tuple[int, ...]
    hidden: tuple[Tensor, ...]
    narrowed: nn.Module | None  # a norm after the last attention, above which only the first token's row can reach the outputs
    probes: tuple[Tensor, ...]  # zeros that were added to the contexts, of whose gradients the logits know; none without gradients
    saved: tuple[int, ...]  # bytes that a backward pass to each layer keeps of one example; 0 without gradients


class Watch(TorchFunctionMode):
    """Gives every product of attention weights and values to ``handler(layer, context, weights)``, and goes on with what it returns.

    Only while a forward pass of the model is going on, which makes it ``active``. ``followed`` holds the softmaxes of that pass on
    their way through dropout, casts and reshapes, by identity, each with the sizes of its axes of rows and heads.
    """

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self.handler, self.layer, self.active = handler, 0, False
        self.rows = 0
        self.followed: dict[int, tuple[Tensor, tuple[int, int]]] = {}

    def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        options = options or {}
        if function is nn.functional.multi_head_attention_forward:
            with self:
                return MULTI_HEAD(*arguments, **options)
        found = function(*arguments, **options)
        if not self.active or not isinstance(found, Tensor) or found.ndim < 3:
            return found
        if function is scaled_dot_product_attention:
            return self.handled(found.transpose(1, 2), partial(fused_weights, *arguments, **options)).transpose(1, 2)
        equation, *operands = arguments if function is torch.einsum else ("bhij,bhjd->bhid", *arguments, None)
        _, axes = self.followed.get(id(operands[0]), (None, None))
        if axes and function in PRODUCTS:
            return self.product(equation.replace(" ", ""), found, operands[0], operands[1], axes)
        if axes or function in SOFTMAX:
            rows, heads, *_ = found.shape if found.ndim == 4 else axes or (self.rows, -1)
            self.followed[id(found)] = found, (rows, heads)
        return found

    def product(self, equation: str, found: Tensor, attention: Tensor, value: Tensor, axes: tuple[int, int]) -> Tensor:
        """A product of attention and values, handled, in whatever order its axes are."""
        if found.ndim == 3:  # rows and heads in one axis
            found, attention, value = (one.unflatten(0, axes) for one in (found, attention, value))
            return self.product(equation, found, attention, value, axes).flatten(0, 1)
        of_attention, of_value, of_context = equation.replace("->", ",").split(",")
        query, key = set(of_attention) - set(of_value), set(of_attention) - set(of_context)
        (i,), (j,), (d,) = query, key, set(of_value) - set(of_attention)
        b, h = (axis for axis in of_attention if axis not in (i, j))

        def weights() -> tuple[Tensor, Tensor]:
            ordered = torch.einsum(f"{of_attention}->{b}{h}{i}{j}", attention)
            values = torch.einsum(f"{of_value}->{b}{h}{j}{d}", value)
            return ordered, values.expand(*ordered.shape[:2], -1, -1)

        context = self.handled(torch.einsum(f"{of_context}->{b}{i}{h}{d}", found), weights)
        return torch.einsum(f"{b}{i}{h}{d}->{of_context}", context)

    def handled(self, context: Tensor, weights: Weights) -> Tensor:
        """What the handler makes of the next layer's context."""
        self.layer += 1
        return self.handler(self.layer - 1, context, weights)


def fused_weights(query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """The attention weights, and the values of every head, of what torch's fused attention computes: of values 1, it shows the weights."""
    ones = torch.eye(key.shape[2], dtype=value.dtype, device=value.device).expand(*value.shape[:2], -1, -1)
    with torch._C.DisableTorchFunction():  # no other block of this package takes it for one more layer
        weights = scaled_dot_product_attention(query, key, ones, *mask, **options)
    return weights, value.repeat_interleave(query.shape[1] // max(1, value.shape[1]), 1)  # a layer may have lost all its heads


@contextmanager
def tapped(model: nn.Module, handler: Handler, layers: int | None = None) -> Iterator[None]:
    """While open, every attention call of ``model`` gives its result to ``handler(layer, context, weights)``.

    ``weights()`` gives attention and values. What the handler returns is used as the context from there on. The layer count starts
    anew with each forward pass of ``model``; other models, and other threads, are not touched.

    Raises:
        ValueError: at the end of a forward pass, if ``layers`` is given and the model has another number of them.
        TypeError: at the end of a forward pass, if no attention came by.
    """
    watch, thread = Watch(handler), get_ident()

    def begin(module: nn.Module, arguments: tuple, options: dict) -> None:
        if module is model and get_ident() == thread:  # not a copy that was made meanwhile
            given = next((one for one in (*arguments, *options.values()) if isinstance(one, Tensor)), torch.empty(1))
            watch.layer, watch.rows, watch.active = 0, len(given), True

    def end(module: nn.Module, arguments: tuple, output: Any) -> None:
        if module is not model or get_ident() != thread:
            return
        watch.active = False
        watch.followed.clear()
        if output is not None and not watch.layer:
            raise TypeError(
                f"no attention was seen in {type(model).__name__}: expected fused attention, or a softmax over keys that is multiplied "
                "with values (BERT, DeBERTa, MPNet, XLNet, GPT-2, Llama, T5, ViT ... have one; FNet and the like do not)"
            )
        if output is not None and layers not in (None, watch.layer):
            raise ValueError(f"something was given for {layers} layers, but {type(model).__name__} has {watch.layer}: expected as many")

    fused = torch.backends.mha.get_fastpath_enabled()  # whole layers of torch's in one function, in which no attention is seen
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with model.register_forward_pre_hook(begin, with_kwargs=True), model.register_forward_hook(end, always_call=True), watch:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def gated(model: nn.Module, gates: Shaped[Tensor, "L H"] | Shaped[Tensor, "B L H"] | Shaped[Tensor, "B L N N"]) -> Iterator[None]:
    """While open, heads or connections are scaled, numbers of 0 or false remove them.

    The context of head h in layer l is multiplied by ``gates[l, h]``, or by ``gates[b, l, h]`` for row b. With ``gates[b, l, i, j]``
    what token i attends to token j is, in every head, c_h = (A_h ⊙ gates[b, l]) V_h; the rest is not renormalised.

    Raises ``ValueError`` on a forward pass if the gates do not have the layers, heads, rows or tokens there.
    """
    of_layers = gates.movedim(min(1, gates.ndim - 2), 0)

    def multiply(layer: int, context: Tensor, weights: Weights) -> Tensor:
        rows, tokens, heads, _ = context.shape
        expected = {2: (heads,), 3: (rows, heads), 4: (rows, tokens, tokens)}[gates.ndim]
        if layer >= len(of_layers) or of_layers.shape[1:] != expected:
            raise ValueError(f"gates of shape {tuple(gates.shape)} do not fit: expected {expected} for each of more than {layer} layers")
        gate = of_layers[layer].to(context)
        if gates.ndim == 4:
            attention, value = weights()
            return torch.einsum("bhnk,bhkd->bnhd", attention * gate[:, None], value)
        return context * gate[..., None, :, None]

    with tapped(model, multiply, len(of_layers)):
        yield


@contextmanager
def replaced(model: nn.Module, contexts: Mapping[int, Float[Tensor, "B N H d"]]) -> Iterator[None]:
    """While open, the context of each layer named in ``contexts`` is the given one; gradients flow into it."""
    with tapped(model, lambda layer, context, weights: contexts.get(layer, context)):
        yield


def context_gradients(
    model: nn.Module, inputs: Mapping[str, Tensor], objective: Callable[[Tensor], Tensor]
) -> list[tuple[Float[Tensor, "B N H d"], Float[Tensor, "B N H d"]]]:
    """The contexts c of every layer and ∂objective(logits)/∂c, in float32 at least, all layers by one backward pass."""
    recording = record(model, inputs, gradients=True, shortcuts=False)
    gradients = gradients_of(objective(widened(recording.logits)) * GRADIENT_SCALE, recording.probes)
    return [(widened(c), widened(g) / GRADIENT_SCALE) for c, g in zip(recording.context, gradients, strict=True)]


def widened(tensor: Tensor) -> Tensor:
    """What sums are kept in: float64 stays, anything else becomes float32, also of a model in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def record(
    model: nn.Module, inputs: Mapping[str, Any], read: Read = logits_in, gradients: bool = False, shortcuts: bool = True
) -> Recording:
    """Run ``model`` once, and keep what happened in every layer; with ``gradients``, `end_gradients` can be asked of it.

    Where `replay` from the layers on does not come to the same numbers, or without ``shortcuts``, it will run the whole model.

    Raises:
        TypeError: no attention is found in the model, or one that is not between all tokens; parameters without numbers.
        ValueError: the logits are not finite; layers of different numbers of heads; attention that is changed on its way.
    """
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    entered: list[tuple[nn.Module, Any]] = []  # every call of a block, and the hidden states it was given
    inside: list[int] = []  # the calls that are going on
    within: list[list[int]] = []  # the calls that each layer was in, the outermost first
    norms: list[tuple[int, nn.Module]] = []  # every call of a norm, and how many layers were before it
    decoder: list[Any] = []
    probes: list[Tensor] = []
    saved: dict[int, tuple[int, int]] = {}  # by its place in memory, what the pass keeps: how many layers were before it, and its bytes

    def keep(layer: int, context: Tensor, weights: Weights) -> Tensor:
        with torch.no_grad():
            attention, value = weights()
        seen.append((attention.detach(), value.detach(), context.detach().clone()))  # Nyströmformer adds to it in place
        within.append(list(inside))
        if gradients:
            probes.append(torch.zeros_like(context, requires_grad=True))
            return context + probes[-1]
        return context

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = len(seen), tensor.untyped_storage().nbytes()
        return tensor

    def enter(module: nn.Module, arguments: tuple, options: dict) -> None:
        inside.append(len(entered))
        entered.append((module, arguments[0] if arguments else options.get("hidden_states")))

    def leave(*_: Any) -> None:
        inside.pop()

    check_parameters(model)
    if gradients:  # tensors made in inference mode can take no part in them
        inputs = {name: given.clone() if isinstance(given, Tensor) else given for name, given in inputs.items()}
    names = {module: name for name, module in model.named_modules()}
    with torch.set_grad_enabled(gradients), ExitStack() as stack:
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor))
        for module, name in names.items():
            if name.rpartition(".")[2].isdecimal():  # one of a list
                stack.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True))
                stack.enter_context(module.register_forward_hook(leave))
            if "norm" in type(module).__name__.lower():
                stack.enter_context(module.register_forward_pre_hook(lambda norm, _: norms.append((len(seen), norm))))
            if name.rpartition(".")[2] == "decoder":
                given = module.register_forward_pre_hook(lambda _, __, options: decoder.append(options.get("input_ids")), with_kwargs=True)
                stack.enter_context(given)
        stack.enter_context(tapped(model, keep))
        outputs = run(model, inputs)
    attention, value, context = zip(*seen, strict=True)
    rows = next(len(given) for given in inputs.values() if isinstance(given, Tensor))
    check_attention(model, seen, rows)
    kinds, numbers = places_of(model, attention, within, [names[module] for module, _ in entered])
    with torch.set_grad_enabled(gradients):
        logits = read(outputs, torch.arange(rows, device=context[0].device))
    decoder_ids = decoder[0] if decoder and "cross" in kinds else None
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = [(after, size) for place, (after, size) in saved.items() if place not in weights]
    sizes = tuple(sum(size for after, size in kept if after > layer) // rows for layer in range(len(seen)))
    parts = (attention, value, context, kinds, numbers, outputs, logits, read, decoder_ids, dict(inputs))
    whole = Recording(*parts, blocks=(), block_calls=(), hidden=(), narrowed=None, probes=tuple(probes), saved=sizes)
    owner = [calls[-1] for calls in within if calls]
    modules = dict.fromkeys(entered[call][0] for call in owner)
    calls = [call for call, (module, _) in enumerate(entered) if module in modules]
    hidden = tuple(entered[call][1] for call in calls)
    if not shortcuts or len(owner) < len(seen) or not all(isinstance(states, Tensor) for states in hidden):
        return whole
    hidden = tuple(states.detach() for states in hidden)
    cut = replace(whole, blocks=tuple(modules), block_calls=tuple(map(calls.index, owner)), hidden=hidden)
    after = [norm for layers, norm in norms if layers == len(seen)]
    narrow = [replace(cut, narrowed=norm) for norm in after[:1]]
    return next((one for one in (*narrow, cut) if agrees(model, one)), whole)


def places_of(
    model: nn.Module, attention: Sequence[Tensor], within: Sequence[Sequence[int]], names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The kind of every layer, and the number of the block in its stack that it is in, from the calls of blocks that it was in.

    Where one block is called many times (ALBERT), its calls are counted.
    """
    kinds: list[str] = []
    numbers: list[int] = []
    calls = list(dict.fromkeys(call for of_layer in within for call in of_layer[:1]))
    for layer, of_layer in enumerate(within):
        stack, _, number = names[of_layer[0]].rpartition(".") if of_layer else ("", "", str(layer))
        if two_stacks(model) and "decoder" in stack.split("."):
            kinds.append("cross" if layer and within[layer - 1][:1] == of_layer[:1] else "decoder")
        else:
            causal = attention[layer].shape[2] > 1 and not attention[layer].triu(1).any()
            kinds.append("decoder" if causal else "encoder")
        same = [names[call] for call in calls if names[call].rpartition(".")[0] == stack]
        numbers.append(int(number) if len(set(same)) == len(same) else [c for c in calls if names[c] in same].index(of_layer[0]))
    return tuple(kinds), tuple(numbers)


def check_attention(model: nn.Module, seen: Sequence[tuple[Tensor, Tensor, Tensor]], rows: int) -> None:
    """Refuse attention that the attribution of contexts cannot tell of."""
    name = type(model).__name__
    heads = [attention.shape[1] for attention, _, _ in seen]
    sizes = {attention.shape[2] for attention, _, _ in seen} if two_stacks(model) else set()
    if len(set(heads)) > 1:
        raise ValueError(f"layers with {heads} heads in {name}: expected as many in each; if heads were cut out, explain the whole model")
    for layer, (attention, value, context) in enumerate(seen):
        queries, keys = attention.shape[2:]
        if len(attention) != rows:
            raise TypeError(
                f"attention of {len(attention)} rows in layer {layer} of {name}, for {rows} examples: expected one row for each"
            )
        if queries != keys and keys not in sizes:  # of an encoder-decoder, keys are tokens of another layer
            raise TypeError(f"attention of {queries} queries to {keys} keys in layer {layer} of {name}: expected all tokens to all tokens")
        gap = (torch.einsum("bhnk,bhkd->bnhd", attention, value) - context).abs().amax()
        if not context.isfinite().all():
            raise ValueError(f"the output of layer {layer} of {name} is not finite: check its weights for NaN")
        if not gap <= torch.finfo(context.dtype).eps ** 0.5 * context.abs().amax():
            raise ValueError(
                f"the output of layer {layer} of {name} is not its attention times its values, but {float(gap):.2g} apart: "
                "leave the `with` block of this package (prune_heads or the like) that the model is in"
            )


def agrees(model: nn.Module, recording: Recording) -> bool:
    """Whether `replay` comes to the recorded numbers, with nothing scaled: of one example from every layer on, of all from the last."""
    layers, examples = (torch.arange(len(part), device=recording.logits.device) for part in (recording.context, recording.logits))
    example, layer = torch.cat([torch.zeros_like(layers), examples[1:]]), torch.cat([layers, layers[-1:].expand(len(examples) - 1)])
    try:
        with torch.no_grad():
            logits, _ = replay(model, recording, example, layer, torch.ones_like(layer, dtype=recording.context[0].dtype))
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
        return False
    return alike(logits, recording.logits[example])


def end_gradients(recording: Recording, total: Tensor) -> list[Float[Tensor, "B _N H _d"]]:
    """∂total/∂c of every layer for a function of the recorded logits, in float32 at least: all layers by one backward pass, once."""
    found = gradients_of(total * GRADIENT_SCALE, recording.probes, needed=False)
    return [widened(gradient) / GRADIENT_SCALE for gradient in found]


def replay(
    model: nn.Module, recording: Recording, example: Int[Tensor, " R"], layer: Int[Tensor, " R"], scale: Float[Tensor, " R"]
) -> tuple[Float[Tensor, "R C"], list[Tensor]]:
    """R forward passes that leave the recorded one at a layer, where the context is scaled, in one batch that grows from layer to layer.

    Branch r continues example ``example[r]`` with α·c, α = ``scale[r]``, in layer ``layer[r]``; everything above it is computed anew,
    everything below it is as recorded. The branches come sorted by layer.

    Returns what the recording reads of every branch, and for each layer the scaled contexts of its branches ("r N H d", in the order of
    the branches). Where gradients are enabled these are leaves, so that ``torch.autograd.grad`` of a function of what is read with
    respect to them is ∂F/∂c(αc).
    """
    rows, examples = len(layer), len(recording.context[0])
    start = torch.searchsorted(layer, torch.arange(len(recording.context) + 1).to(layer)).tolist()
    leaves: list[Tensor] = []

    def take(number: int, context: Tensor, weights: Weights) -> Tensor:
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
            if isinstance(argument, tuple):
                return tuple(map(narrow, argument))
            return argument[:active] if isinstance(argument, Tensor) and argument.ndim > 1 and argument.shape[0] == rows else argument

        named = {name: narrow(option) for name, option in options.items()}
        return ((states, *map(narrow, arguments[1:])), named) if arguments else ((), named | {"hidden_states": states})

    with ExitStack() as stack:
        for block in recording.blocks:
            stack.enter_context(block.register_forward_pre_hook(enter, with_kwargs=True))
        if recording.narrowed is not None:
            stack.enter_context(recording.narrowed.register_forward_pre_hook(lambda _, arguments: (arguments[0][:, :1],)))
        stack.enter_context(tapped(model, take))
        outputs = run(model, {name: rows_of(given, example, examples) for name, given in recording.inputs.items()})
    return recording.read(outputs, example), leaves


def rows_of(given: Any, rows: Tensor, examples: int) -> Any:
    """The rows of an input that has one for each of so many examples; anything else as it is."""
    return given[rows] if isinstance(given, Tensor) and given.ndim and len(given) == examples else given
