"""Which explanation ranks words best, and where flow stops saying anything (chapters 11, 12; Abnar & Zuidema's experiments, our models)."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import torch
from jaxtyping import Float
from torch import Tensor

from ...attribution import attribute
from ...batches import Model, Text, Tokenizer, encode, texts_of
from ...connections import Attribution
from ...data import TASKS, examples, one_of
from ...flow import EQUAL, attention_flow, attention_rollout, flow_saturation, is_causal, scores_as_attention, source_bound
from ...pretrained import load, load_base
from ...saliency import RELEVANCES, SIGNED, TENTHS, masking_curves, mean_interval, ordinary_tokens, rank_correlation, read_row
from ...tap import record
from ..training.model_folder import training_record
from .running import Measured, Rows, Run, drawn, resumable, rounded, sample

FEWEST, MOST = 3, 64  # ordinary tokens that can be ranked, and tokens whose flow is affordable
MASKED_BY = {"attribution, all rows": 0}  # which layer's relevance words are masked by; of the others with layers, the last
DEPTHS = (6, 12, 24)


def flow_correlations(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """Spearman's correlation of every relevance with blank-out and with gradients, layer by layer, and what masking by it does.

    Over rows of the validation split: for the model of the task, and for any other of the same classes (a decoder, say).
    """
    texts = texts_of(drawn(run))
    rows: Rows = []
    models: dict[str, dict[str, Any]] = {}
    of_task = model, tokenizer
    for name, folder in {f"trained, {run.task}": None, **others(run)}.items():
        model, tokenizer = load(folder, run.device) if folder else of_task
        kept = [text for text in texts if int(ordinary_tokens(tokenizer, text).sum()) >= FEWEST and tokens(tokenizer, text) <= MOST]
        if not kept:
            wanted = f"{FEWEST} ordinary tokens or more, and at most {MOST} in all"
            raise ValueError(f"none of {len(texts)} texts can be ranked by {name}: expected {wanted}; give more rows, or others")
        jobs = [(text, run.seed + number) for number, text in enumerate(kept)]
        lines = resumable(run, name, jobs, partial(ranked, model, tokenizer))
        size = sum(int(ordinary_tokens(tokenizer, text).sum()) for text in kept) / len(kept)
        models[name] = {"rows": len(texts), "texts": len(kept), "tokens": size}
        if folder:
            models[name]["training"] = training_record(folder)
        rows += [{"model": name} | row for row in means(lines, "value")]
    return rows, {"models": models}


def others(run: Run) -> dict[str, Path]:
    """The other models of a run, by what its tables call them."""
    return {f"other {number}": folder for number, folder in enumerate(run.other)}


def means(of_texts: Sequence[Rows], value: str) -> Rows:
    """Mean and 95 % interval over texts of one column, for all that agrees in the others; None where there are too few values."""
    table = pandas.DataFrame([row for rows in of_texts for row in rows])
    names = [name for name in table if name != value]
    found: Rows = []
    for what, values in table.groupby(names, sort=False, dropna=False)[value]:
        some = values.dropna().tolist()
        mean, low, high = rounded(mean_interval(some) if len(some) > 1 else (None,) * 3)
        found.append(dict(zip(names, what, strict=True)) | {"texts": len(some), value: mean, "low": low, "high": high})
    return found


def tokens(tokenizer: Tokenizer, text: Text) -> int:
    """How many tokens a text has, special ones too."""
    return len(encode(tokenizer, text)["input_ids"])


def ranked(model: Model, tokenizer: Tokenizer, text: Text, seed: int) -> Rows:
    """All of one text: correlations, what masking does, and how full its flow is; a correlation is None where one side ranks nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a tolerance that was not met changes no rank that counts
        att = attribute(model, tokenizer, text, tolerance=5e-2)
        flow = attention_flow(att.attention, normalize=False, progress=False)
        readings = relevances(model, tokenizer, att, flow)
    ordinary = ordinary_tokens(tokenizer, text)
    readings["random", "row"] = torch.rand(len(ordinary), generator=torch.Generator().manual_seed(seed))
    lost, slope = readings["blank-out", "row"], readings["gradient", "row"]
    rows: Rows = []
    for (method, reading), value in readings.items():
        for layer, own in enumerate(value) if value.ndim == 2 else [(None, value)]:
            common = {"measure": "correlation", "method": method, "layer": layer, "reading": reading}
            pairs = {"blank-out": (own.abs(), lost.abs()), "input gradient": (own.abs(), slope)}
            if method in SIGNED:
                pairs["signed blank-out"] = own, lost
            for against, pair in pairs.items():
                if method not in (against, against.removeprefix("signed "), against.removeprefix("input ")):  # with itself
                    rows.append(common | {"against": against, "value": correlation(*pair, ordinary)})
    for (method, reading), value in readings.items():
        if reading == "row":
            layer = MASKED_BY.get(method, len(value) - 1) if value.ndim == 2 else None
            common = {"method": method, "layer": layer}
            curves = masking_curves(model, tokenizer, text, value if layer is None else value[layer], att.target)
            for name in ("comprehensiveness", "sufficiency"):
                rows.append(common | {"measure": name, "value": rounded(getattr(curves, name))})
            for name, curve in {"deletion": curves.without, "insertion": curves.only}.items():
                rows += [common | {"measure": name, "share": share, "value": at} for share, at in zip(TENTHS, rounded(curve), strict=True)]
    full = enumerate(rounded(flow_saturation(flow, att.attention)))
    return rows + [{"measure": "saturation", "layer": layer, "value": share} for layer, share in full]


def relevances(model: Model, tokenizer: Tokenizer, att: Attribution, flow: Float[Tensor, "L N N"]) -> dict[tuple[str, str], Tensor]:
    """The relevance of each token by every method, in the row of one query; of some methods also the largest over queries (``"max"``).

    The latter is as in the authors' released code. Of a decoder, rollout and flow come normalised by the receptive field, too.
    """
    attention, scores = att.attention, scores_as_attention(att.scores)
    shares = flow / flow.sum(-1, keepdim=True)  # not asked for again: it takes its time
    known = {**RELEVANCES, "flow": lambda model, tokenizer, att: read_row(att, shares)}
    found = {(method, "row"): measure(model, tokenizer, att) for method, measure in known.items()}
    if is_causal(attention):
        for name, of in (("rollout", attention_rollout), ("flow", partial(attention_flow, progress=False))):
            found[f"{name}, by receptive field", "row"] = read_row(att, of(attention, causal=True))
            found[f"{name} of attribution, by receptive field", "row"] = read_row(att, of(scores, causal=True))
    of_queries = {"raw attention": attention.mean(1), "rollout": attention_rollout(attention), "flow": shares}
    of_queries["attribution, its row"] = att.scores.sum(1).abs()
    return found | {(method, "max"): read_row(att, matrices, "max") for method, matrices in of_queries.items()}


def correlation(one: Float[Tensor, " N"], other: Float[Tensor, " N"], ordinary: Tensor) -> float | None:
    """ρ over the ordinary tokens; None where one of the two ranks nothing."""
    pair = one[ordinary].double(), other[ordinary].double()
    if any(bool((values == values[0]).all()) for values in pair):
        return None
    return rounded(rank_correlation(*pair), 5)


def saturation(run: Run, model: Model, tokenizer: Tokenizer) -> Measured:
    """How much of flow equals its bounds, layer by layer: in the model of the task, in deeper ones with random weights, in others.

    ``"word"`` is the share of all flows that equal `flow_bound`; ``"source"`` that of the flows from the token that the classifier reads
    that equal `source_bound`. That token is taken to be the first, or in a decoder the last.
    """
    texts = texts_of(sample(examples(run.task, source=run.data), None, random.Random(run.seed)))
    kept = [(text,) for text in texts if 8 <= tokens(tokenizer, text) <= 32][: run.rows]
    random_weights = DEPTHS if run.size == "small" else ()  # they know the words of the small model
    sources: dict[str, Any] = {f"trained, {run.task}": (model, tokenizer)}
    sources |= {f"random weights, {depth} layers": depth for depth in random_weights}
    rows: Rows = []
    for name, source in (sources | others(run)).items():
        if isinstance(source, int):
            source = untrained("bert", source).to(run.device), tokenizer
        now, own = load(source, run.device) if isinstance(source, Path) else source
        lines = resumable(run, name, kept, partial(full_flows, now, own))
        size = sum(tokens(own, text) for (text,) in kept) / len(kept)
        for row in means(lines, "share"):
            del row["texts"]
            rows.append({"model": name, "tokens": size} | row)
    trained = {name: {"training": training_record(folder)} for name, folder in others(run).items()}
    return rows, {"texts": len(kept), "models": trained}


def full_flows(model: Model, tokenizer: Tokenizer, text: Text) -> Rows:
    """The share of one text's flows that equal each bound, layer by layer."""
    inputs = tokenizer(*(text if isinstance(text, tuple) else (text,)), return_tensors="pt").to(model.device)
    attention = torch.cat(record(model, dict(inputs)).attention).cpu()
    flow = attention_flow(attention, normalize=False, progress=False)
    reader = attention.shape[-1] - 1 if is_causal(attention) else 0
    found = {"word": flow_saturation(flow, attention), "source": share_at_source_bound(flow, attention, reader)}
    return [{"bound": bound, "layer": layer, "share": share} for bound, of in found.items() for layer, share in enumerate(rounded(of))]


def share_at_source_bound(flow: Float[Tensor, "L N N"], attention: Tensor, source: int) -> Float[Tensor, " L"]:
    """Of the flows from one token to the others that it can reach, the share that equals `source_bound`."""
    equal = (flow >= source_bound(attention) - EQUAL)[:, source]
    others = (flow > 0)[:, source] & (torch.arange(flow.shape[-1]) != source)
    return (equal & others).sum(-1) / others.sum(-1)


def untrained(family: str, layers: int, width: int = 128, seed: int = 0) -> Model:
    """A small classifier with random weights, of the family of BERT or of GPT-2, for the embedded tokenizer.

    >>> untrained("gpt2", 2, width=32).config.n_layer
    2
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    one_of("family", family, ("bert", "gpt2"))
    shape = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 32}
    words = {"vocab_size": 30522, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **shape, **words)).eval()


def write_decoder(folder: Path) -> None:
    """Write a GPT-2 of 4 layers for `finetune --base FOLDER` to start from: the embedded base's word embeddings, the rest random."""
    base, tokenizer, _ = load_base(TASKS["sst2"])
    model = untrained("gpt2", 4, base.config.hidden_size)
    model.get_input_embeddings().weight.data.copy_(base.get_input_embeddings().weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
