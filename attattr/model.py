"""A model from outside: what it says of itself, what it gives, and the refusals of what it cannot do. What is in it is `attattr.tap`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While open, ``model`` is in eval mode; on leaving, every module is in the mode it was in.

    A decoder whose configuration names no padding takes one text at a time. Meanwhile it names a token that no text has, and takes
    texts of one length.
    """
    training = [module for module in model.modules() if module.training]
    config = text_config(model)
    unnamed = getattr(config, "pad_token_id", 0) is None
    try:
        if training:
            model.eval()
        if unnamed:
            config.pad_token_id = -1
        yield
    finally:
        if unnamed:
            config.pad_token_id = None
        for module in training:
            module.training = True


def text_config(model: nn.Module) -> Any:
    """The configuration of a model, or, of one for more than text, that of its text part; None if it has none."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def two_stacks(model: nn.Module) -> bool:
    """Whether the model is an encoder and a decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def gradients_of(total: Tensor, leaves: Sequence[Tensor], needed: bool = True) -> list[Tensor]:
    """The gradients of a number, zeros where it does not depend on a leaf; if ``needed``, a ``TypeError`` where it depends on none."""
    found = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)
    if needed and all(gradient is None for gradient in found):
        raise TypeError("the model's output has no gradient: expected layers that have one (int8 ones have not)")
    return [torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in zip(leaves, found, strict=True)]


def run(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """What the model gives, without dropout: its outputs by name, also where its configuration asks for a tuple."""
    by_name = {} if getattr(getattr(model, "config", None), "return_dict", True) else {"return_dict": True}
    try:
        with evaluating(model):
            return model(**inputs, **by_name)
    except (RuntimeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        given = {name: tuple(part.shape) if isinstance(part, Tensor) else part for name, part in inputs.items()}
        raise ValueError(f"{type(model).__name__} cannot take inputs of these shapes, types or numbers, {given}: {error}") from error


def logits_in(outputs: Any, example: Tensor | None = None) -> Tensor:
    """The logits among the outputs of a model; a ``TypeError`` if there are none, a ``ValueError`` if they are not all finite."""
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        given = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise TypeError(
            f"the model gives no logits but {given}: expected a classifier or a language model, "
            "or target=FUNCTION, which makes one number of each row of these outputs"
        )
    if not torch.isfinite(logits).all():
        raise ValueError(f"the model gave logits that are not finite ({logits.flatten()[:4].tolist()} ...): check its weights for NaN")
    return logits


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of a forward pass; errors as of `logits_in`."""
    return logits_in(run(model, inputs))


def check_numbers(fit: Tensor, values: Tensor, name: str, expected: str) -> None:
    """Refuse ``values`` unless ``fit`` is true of every one, with the place of the first of which it is not."""
    if not fit.all():
        place = fit.logical_not().nonzero()[0].tolist()
        raise ValueError(f"{name}{place} is {float(values[tuple(place)]):.4g}: expected {expected}")


def layers_and_heads(model: Any) -> tuple[int, int]:
    """How many layers and heads the model's configuration says that it has; a ``ValueError`` if heads were cut out of it."""
    check_parameters(model)
    config = text_config(model)
    if hasattr(config, "kept_heads"):
        raise ValueError(f"heads were cut out of this {type(model).__name__}: expected the whole model")
    layers, heads = getattr(config, "num_hidden_layers", None), getattr(config, "num_attention_heads", None)
    if not isinstance(layers, int) or not isinstance(heads, int) or two_stacks(model):
        expected = "a model of one stack, whose configuration has num_hidden_layers and num_attention_heads"
        raise TypeError(f"the heads of {type(model).__name__} cannot be told apart: expected {expected}")
    return layers, heads


def check_heads(model: Any, keep: Tensor) -> None:
    """Refuse what is not one yes or no for each head of the model."""
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
        raise TypeError(f"keep is {getattr(keep, 'dtype', type(keep).__name__)}: expected a boolean tensor, True for a head that stays")
    shape = layers_and_heads(model)
    if keep.ndim not in (2, 3) or keep.shape[-2:] != shape:
        raise ValueError(f"keep has shape {tuple(keep.shape)}: expected {shape}, layers and heads, for all rows or for each")


def check_parameters(model: Any) -> None:
    """Refuse what is not a model itself, or one whose parameters have no numbers here or can never take part in a gradient."""
    if not isinstance(model, nn.Module) and not hasattr(model, "model"):
        raise TypeError(f"{model!r:.60} is not the model itself: expected a torch module, as attattr.load gives")
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    wrapped = {"model": not isinstance(model, nn.Module), "module": parallel, "_orig_mod": hasattr(model, "_orig_mod")}
    for name in (name for name, found in wrapped.items() if found):
        raise TypeError(f"{type(model).__name__} is not the model itself: expected its .{name}")
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if parameter.is_meta:
            raise TypeError(f"{name} is on the device 'meta', as after cpu_offload: expected the whole model in memory, so load it without")
        if parameter.is_inference():
            raise TypeError(f"{name} was made in inference mode, and can take no part in a gradient: load the model outside of it")


def routes(model: nn.Module) -> bool:
    """Whether the model chooses, by a router, which of its parts a token goes through."""
    return any(name.rpartition(".")[2] in ("router", "experts") for name, _ in model.named_modules())


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for rounding."""
    near = 0.1 * torch.finfo(other.dtype).eps ** 0.5
    return one.shape == other.shape and torch.allclose(one, other, rtol=near, atol=near)
