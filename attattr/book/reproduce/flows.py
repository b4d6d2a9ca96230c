"""Which explanation ranks words best, and where flow stops saying anything (chapter 10; Abnar & Zuidema's experiments, on our models)."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...attribution import Attribution, attribute
from ...batches import Model, Text, Tokenizer, encode, texts_of
from ...data import TASKS, examples, one_of
from ...flow import EQUAL, attention_flow, attention_rollout, flow_saturation, is_causal, scores_as_attention, source_bound
from ...pretrained import load, load_base
from ...saliency import RELEVANCES, SIGNED, TENTHS, masking_curves, mean_interval, ordinary_tokens, rank_correlation, read_row
from ...tap import record
from .running import Measured, Rows, Run, drawn, partial_file, resumable, rounded, sample

FEWEST, MOST = 3, 64  # ordinary tokens that can be ranked, and tokens whose flow is affordable
OF_QUERIES = ("raw attention", "rollout", "flow", "attribution, its row")  # have a row for each token as the query
MASKED_BY = {"attribution, all rows": 0}  # which layer's relevance words are masked by; of the others with layers, the last
DEPTHS = (6, 12, 24)


def flow_correlations(run: Run) -> Measured:
    """Spearman's correlation of every relevance with blank-out and with gradients, layer by layer, and what masking by it does.

    Over rows of the validation split: for the model of the task, and for any other of the same classes (a decoder, say).
    """
    texts = texts_of(drawn(run))
    rows: Rows = []
    models: dict[str, dict[str, Any]] = {}
    sources: Any = {f"trained, {run.task}": run.task} | {f"other {number}": folder for number, folder in enumerate(run.other)}
    for name, source in sources.items():
        model, tokenizer = load(source)
        kept = [text for text in texts if int(ordinary_tokens(tokenizer, text).sum()) >= FEWEST and tokens(tokenizer, text) <= MOST]

        def measure(item: tuple[int, Text], model: Any = model, tokenizer: Any = tokenizer) -> dict[str, Any]:
            return ranked(model, tokenizer, item[1], run.seed + item[0])

        part = partial_file("flow-correlations", run, f"model{len(models)}")
        lines = resumable(part, f"flow-correlations {run.task}: {name}", list(enumerate(kept)), measure)
        models[name] = {"rows": len(texts), "texts": len(kept), "tokens": sum(line["tokens"] for line in lines) / len(lines)}
        if source in run.other:
            models[name]["training"] = training(source)
        rows += means(name, [line["rows"] for line in lines])
    return rows, {"models": models}


def means(model: str, of_texts: Sequence[Sequence[Sequence[Any]]]) -> Rows:
    """Mean and interval over texts of everything that was measured of each, by what it is: all but the last entry of a line."""
    values: dict[tuple, list[float]] = {}
    for lines in of_texts:
        for *what, value in lines:
            values.setdefault(tuple(what), []).extend([] if value is None else [value])
    names = ("measure", "method", "layer", "reading", "against", "share")
    return [dict(zip(names, what, strict=True)) | {"model": model, "texts": len(some)} | interval(some) for what, some in values.items()]


def training(folder: str | Path) -> dict[str, Any]:
    """How a model was trained."""
    return json.loads(Path(folder, "training.json").read_text(encoding="utf-8"))


def tokens(tokenizer: Tokenizer, text: Text) -> int:
    """How many tokens a text has, special ones too."""
    return len(encode(tokenizer, text)["input_ids"])


def ranked(model: Model, tokenizer: Tokenizer, text: Text, seed: int) -> dict[str, Any]:
    """All of one text, as lines of measure, method, layer, reading, against, share and value (None: it ranks nothing)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a tolerance that was not met changes no rank that counts
        att = attribute(model, tokenizer, text, tolerance=5e-2)
        relevance, full = relevances(model, tokenizer, att)
    ordinary = ordinary_tokens(tokenizer, text)
    relevance["random"] = torch.rand(len(ordinary), generator=torch.Generator().manual_seed(seed))
    readings = {(method, "row"): value for method, value in relevance.items()}
    readings |= {(method, "max"): value for method, value in relevances_of_any_query(att, full).items()}
    lost, slope = relevance["blank-out"], relevance["gradient"]
    lines: list[list[Any]] = []
    for (method, reading), value in readings.items():
        for layer, own in enumerate(value) if value.ndim == 2 else [(None, value)]:
            pairs = {"blank-out": (own.abs(), lost.abs()), "input gradient": (own.abs(), slope)}
            if method in SIGNED:
                pairs["signed blank-out"] = own, lost
            for against, pair in pairs.items():
                if method not in (against, against.removeprefix("signed "), against.removeprefix("input ")):  # with itself
                    lines.append(["correlation", method, layer, reading, against, None, correlation(*pair, ordinary)])
    for method, value in relevance.items():
        layer = MASKED_BY.get(method, len(value) - 1) if value.ndim == 2 else None
        curves = masking_curves(model, tokenizer, text, value if layer is None else value[layer], att.target)
        lines += [[name, method, layer, None, None, None, rounded(getattr(curves, name))] for name in ("comprehensiveness", "sufficiency")]
        for name, curve in {"deletion": curves.without, "insertion": curves.only}.items():
            lines += [[name, method, layer, None, None, share, at] for share, at in zip(TENTHS, rounded(curve), strict=True)]
    shares_at_bound = rounded(flow_saturation(full["flow"], att.attention))
    lines += [["saturation", None, layer, None, None, None, share] for layer, share in enumerate(shares_at_bound)]
    return {"tokens": int(ordinary.sum()), "rows": lines}


def relevances(model: Model, tokenizer: Tokenizer, att: Attribution) -> tuple[dict[str, Tensor], dict[str, Float[Tensor, "L N N"]]]:
    """The relevance of each token by every method, and the matrices that rows were read from.

    Of a decoder, rollout and flow come normalised by the receptive field, too.
    """
    attention, scores = att.attention, scores_as_attention(att.scores)
    full = {"raw attention": attention.mean(1), "rollout": attention_rollout(attention), "flow": attention_flow(attention, normalize=False)}
    of_flow = read_row(att, shares(full["flow"]))  # once: it takes its time
    found = {name: of_flow if name == "flow" else measure(model, tokenizer, att) for name, measure in RELEVANCES.items()}
    if is_causal(attention):
        for name, of in (("rollout", attention_rollout), ("flow", attention_flow)):
            found[f"{name}, by receptive field"] = read_row(att, of(attention, causal=True))
            found[f"{name} of attribution, by receptive field"] = read_row(att, of(scores, causal=True))
    return found, full


def relevances_of_any_query(att: Attribution, full: dict[str, Float[Tensor, "L N N"]]) -> dict[str, Float[Tensor, "L N"]]:
    """The largest over queries, as in the authors' released code."""
    matrices = full | {"flow": shares(full["flow"]), "attribution, its row": att.scores.sum(1).abs()}
    return {method: read_row(att, matrices[method], "max") for method in OF_QUERIES}


def shares(flow: Float[Tensor, "L N N"]) -> Float[Tensor, "L N N"]:
    """Flow in rows that sum to 1."""
    return flow / flow.sum(-1, keepdim=True)


def correlation(one: Float[Tensor, " N"], other: Float[Tensor, " N"], ordinary: Tensor) -> float | None:
    """ρ over the ordinary tokens; None where one of the two ranks nothing."""
    pair = one[ordinary].double(), other[ordinary].double()
    if any(bool((values == values[0]).all()) for values in pair):
        return None
    return rounded(rank_correlation(*pair), 5)


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and 95 % interval; None where there are too few values."""
    found = mean_interval(values) if len(values) > 1 else (None,) * 3
    return dict(zip(("value", "low", "high"), rounded(found), strict=True))


def saturation(run: Run) -> Measured:
    """How much of flow equals its bounds, layer by layer: in the model of the task, in deeper ones with random weights, in others.

    ``"word"`` is the share of all flows that equal `flow_bound`; ``"source"`` that of the flows from the token that the classifier reads
    that equal `source_bound`. That token is taken to be the first, or in a decoder the last.
    """
    texts = texts_of(sample(examples(run.task, source=run.data), None, random.Random(run.seed)))
    _, tokenizer = load(run.task)
    kept = [text for text in texts if 8 <= tokens(tokenizer, text) <= 32][: run.rows]
    sources: dict[str, Any] = {f"trained, {run.task}": run.task}
    sources |= {f"random weights, {depth} layers": depth for depth in DEPTHS}
    sources |= {f"other {number}": folder for number, folder in enumerate(run.other)}
    rows: Rows = []
    for number, (name, source) in enumerate(sources.items()):
        model, own = (untrained("bert", source), tokenizer) if isinstance(source, int) else load(source)

        def measured(text: Text, model: Model = model, own: Tokenizer = own) -> dict[str, Any]:
            inputs = own(*(text if isinstance(text, tuple) else (text,)), return_tensors="pt")
            attention = torch.cat(record(model, dict(inputs)).attention)
            flow = attention_flow(attention, normalize=False)
            reader = attention.shape[-1] - 1 if is_causal(attention) else 0
            at_source = share_at_source_bound(flow, attention, reader)
            found = {"word": rounded(flow_saturation(flow, attention)), "source": rounded(at_source)}
            return {"tokens": attention.shape[-1]} | found

        lines = resumable(partial_file("saturation", run, f"model{number}"), f"saturation {run.task}: {name}", kept, measured)
        size = sum(line["tokens"] for line in lines) / len(lines)
        for bound in ("word", "source"):
            for layer, values in enumerate(zip(*(line[bound] for line in lines), strict=True)):
                found = interval(values)
                common = {"model": name, "tokens": size, "bound": bound, "layer": layer, "share": found.pop("value")}
                rows.append(common | found)
    trained = {f"other {number}": {"training": training(folder)} for number, folder in enumerate(run.other)}
    return rows, {"texts": len(kept), "models": trained}


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
    from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

    one_of("family", family, ("bert", "gpt2"))
    torch.manual_seed(seed)
    if family == "gpt2":
        shape = {"n_layer": layers, "n_embd": width, "n_head": width // 32, "n_positions": 512}
        ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
        return GPT2ForSequenceClassification(GPT2Config(vocab_size=30522, **shape, **ends)).eval()
    shape = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 32}
    return BertForSequenceClassification(BertConfig(vocab_size=30522, **shape)).eval()


def starting_point(kind: str, folder: Path) -> None:
    """Write a model for `finetune --base FOLDER` to start from: what the embedded base is not, but with what it knows.

    ``"decoder"``: a GPT-2 of 4 layers with the base's word embeddings, the rest random. ``"deep"``: the base with each of its layers
    twice in a row, 12 in all. Both are far from good before training.

    Raises:
        ValueError: an unknown kind.
    """
    one_of("kind", kind, ("decoder", "deep"))
    base, tokenizer, _ = load_base(TASKS["sst2"])
    model = base
    if kind == "decoder":
        model = untrained("gpt2", 4, base.config.hidden_size)
        model.get_input_embeddings().weight.data.copy_(base.get_input_embeddings().weight)
    else:
        encoder = base.base_model.encoder
        encoder.layer = torch.nn.ModuleList(deepcopy(layer) for layer in encoder.layer for _ in range(2))
        base.config.num_hidden_layers *= 2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
