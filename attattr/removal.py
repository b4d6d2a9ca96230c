"""Heads really removed: their rows of the query, key and value projections, and their columns of the output projection, cut out.

transformers has no head counts per layer, so it cannot load such a model; the configuration that goes with the weights
therefore names a model type that transformers does not know, and only `attattr.load` reads it.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .batches import Model
from .model import check_heads, layers_and_heads

MODEL_TYPE = "attattr-heads-removed"
# Names of the projections below the module that computes attention, and, from its parent, of the output projection.
FAMILIES = (("query", "key", "value", "output.dense"), ("q_lin", "k_lin", "v_lin", "attention.out_lin"), ("q", "k", "v", "attn.o"))


def remove_heads(model: Model, keep: Bool[Tensor, "L H"]) -> Model:
    """A smaller copy of ``model`` that computes what the model does under `attattr.prune_heads`, without the heads that go.

    ``save_pretrained`` of the copy (and of the tokenizer) writes a folder that `attattr.load` takes. It can be pickled.

    Raises:
        TypeError: a model whose projections are not those of BERT, RoBERTa, ELECTRA, DistilBERT, MPNet or their like, or whose
            attention does not go through transformers' attention interface; ``keep`` is not a boolean tensor.
        ValueError: ``keep`` is not one yes or no for each head; a model that heads were cut out of already.

    >>> import attattr
    >>> model, tokenizer = attattr.load("sst2")
    >>> keep = torch.ones(6, 12, dtype=torch.bool)
    >>> keep[3:, 4:] = False
    >>> remove_heads(model, keep).num_parameters() < model.num_parameters()
    True
    """
    check_heads(model, keep)
    if keep.ndim != 2:
        raise ValueError(f"keep has shape {tuple(keep.shape)}: expected {layers_and_heads(model)}, one choice for all texts")
    smaller = copy.deepcopy(model)
    for (parent, linears), staying in zip(projections(smaller, len(keep)), keep, strict=True):
        rows = staying.repeat_interleave(linears[0].out_features // len(staying)).nonzero()[:, 0]
        for linear, dimension in zip(linears, (0, 0, 0, 1), strict=True):  # of the output projection the columns, but its whole bias
            for name, weight in list(linear.named_parameters()):
                if weight.ndim > dimension:
                    part = weight.detach().index_select(dimension, rows.to(weight.device))
                    setattr(linear, name, nn.Parameter(part, requires_grad=weight.requires_grad))
            linear.out_features, linear.in_features = linear.weight.shape
        if hasattr(parent, "attn"):
            parent.attn = OfSomeHeads(parent.attn, staying.nonzero()[:, 0])
    config = smaller.config
    config.update({"kept_heads": [of_layer.nonzero()[:, 0].tolist() for of_layer in keep], "whole_model_type": config.model_type})
    config.__class__ = type_without_heads(type(config))
    return smaller


class OfSomeHeads(nn.Module):
    """MPNet's attention after heads were cut out: the bias by position is made for all heads, once for all layers."""

    def __init__(self, attention: Any, heads: Int[Tensor, " H"]) -> None:
        super().__init__()
        attention.all_head_size = attention.attention_head_size * len(heads)
        self.attention, self.heads = attention, heads.tolist()

    def forward(self, hidden: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, **options: Any) -> tuple[Tensor, ...]:
        """As of MPNet's own."""
        return self.attention(hidden, mask, None if bias is None else bias[:, self.heads], **options)


def type_without_heads(whole: Any) -> Any:
    """The configurations of models that lost heads: transformers does not know their type, and pickle need not find it by its name."""
    members = {"model_type": MODEL_TYPE, "__reduce__": lambda config: (new_config, (whole,), vars(config))}
    return type(f"{whole.__name__}WithoutHeads", (whole,), members)


def new_config(whole: Any) -> Any:
    """A configuration with nothing in it, for pickle to fill."""
    return object.__new__(type_without_heads(whole))


def projections(model: Model, layers: int) -> list[tuple[Any, list[nn.Linear]]]:
    """The query, key, value and output projection of every layer, and the parent of the module that computes its attention."""
    found: list[tuple] = []
    modules = dict(model.named_modules())
    for name, module in modules.items():
        for *inputs, output in FAMILIES:
            linears = [*(getattr(module, each, None) for each in inputs), modules.get(f"{name.rpartition('.')[0]}.{output}")]
            counts_heads = output != "attn.o" and not hasattr(sys.modules[type(module).__module__], "eager_attention_forward")
            if all(isinstance(linear, nn.Linear) for linear in linears) and not counts_heads:
                found.append((modules[name.rpartition(".")[0]], linears))
    if len(found) != layers or getattr(model.config, "is_decoder", False):
        wanted = f"expected {layers}, of an encoder (BERT, RoBERTa, ELECTRA, DistilBERT, MPNet); in others prune with `attattr.prune_heads`"
        raise TypeError(f"cannot cut heads out of {type(model).__name__}: {len(found)} layers have linear projections, {wanted}")
    return found


def is_cut(folder: str | Path) -> bool:
    """Whether a folder holds a model that heads were removed from."""
    path = Path(folder) / "config.json"
    return path.is_file() and MODEL_TYPE in path.read_text(encoding="utf-8", errors="replace")


def load_cut(folder: str | Path) -> Model:
    """The model in a folder that ``save_pretrained`` wrote after `remove_heads`; an ``OSError`` if it is not what its config says."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        options = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        kept = options.pop("kept_heads")
        options["model_type"] = options.pop("whole_model_type")
        whole = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**options))
        heads = range(whole.config.num_attention_heads)
        model = remove_heads(whole, torch.tensor([[head in of_layer for head in heads] for of_layer in kept]))
        weights = [load_file(shard) for shard in Path(folder).glob("model*.safetensors")]
        model.load_state_dict({name: weight for shard in weights for name, weight in shard.items()})
    except (SafetensorError, RuntimeError, FileNotFoundError, KeyError, IndexError, TypeError, ValueError) as error:
        raise OSError(f"the weights in {folder} are missing, damaged, or not of the heads that its config.json names: {error}") from error
    return model
