"""Which explanation ranks words best, and where flow stops saying anything (chapter 10; Abnar & Zuidema's experiments, on our models)."""

from __future__ import annotations

import json
import random
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..attribution import Attribution, attribute
from ..data import TASKS, examples, texts
from ..encoding import Text
from ..flow import EQUAL, attention_flow, attention_rollout, flow_saturation, is_causal, scores_as_attention, source_bound
from ..pretrained import load, load_base
from ..saliency import METHODS, SIGNED, masking_curves, mean_interval, ordinary_tokens, rank_correlation, read_row
from ..tap import record
from .running import Run, partial_file, resumable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FEWEST, MOST = 3, 64  # ordinary tokens that can be ranked, and tokens whose flow is affordable
OF_QUERIES = ("raw attention", "rollout", "flow", "attribution, its row")  # have a row for each token as the query
LAST_WORD = {"attribution, all rows": 0}  # which layer's relevance is masked by; of the others with layers, the last
DEPTHS = (6, 12, 24)


def flow_correlations(run: Run) -> dict[str, Any]:
    """Spearman's correlation of every relevance with blank-out and with gradients, layer by layer, and what masking by it does.

    Over rows of the validation split: for the model of the task, and for any other of the same classes (a decoder, say).
    """
    rows = examples(run.task, source=run.data)
    drawn = texts(rows.select(random.Random(run.seed).sample(range(len(rows)), run.rows or len(rows))))
    found = table(run, run.task, drawn, "rows")
    more = [{"training": training(folder), **table(run, folder, drawn, f"other{n}")} for n, folder in enumerate(run.other)]
    return found | ({"others": more} if more else {})


def table(run: Run, name: str | Path, drawn: Sequence[Text], part: str) -> dict[str, Any]:
    """The results of one model."""
    model, tokenizer = load(name)
    kept = [text for text in drawn if int(ordinary_tokens(tokenizer, text).sum()) >= FEWEST and tokens(tokenizer, text) <= MOST]
    lines = resumable(
        partial_file("flow-correlations", run, part),
        f"flow-correlations {run.task} {part}",
        list(enumerate(kept)),
        lambda item: ranked(model, tokenizer, item[1], run.seed + item[0]),
    )
    every = [correlation for line in lines for correlation in line["correlations"]]
    order = list(dict.fromkeys(tuple(key) for *key, _ in every))
    correlations = []
    for key in order:
        values = [value for *own, value in every if tuple(own) == key and value is not None]
        entry = dict(zip(("method", "layer", "reading", "against"), key, strict=True))
        correlations.append(entry | interval(values, ("mean", "low", "high")) | {"texts": len(values)})
    masking = []
    for method in lines[0]["masking"]:
        own = [line["masking"][method] for line in lines]
        curves = {name: rounded(torch.tensor([one[name] for one in own]).mean(0).tolist()) for name in ("deletion", "insertion")}
        scores = {name: list(interval([one[name] for one in own]).values()) for name in ("comprehensiveness", "sufficiency")}
        masking.append({"method": method, "layer": own[0]["layer"]} | scores | curves)
    return {
        "rows": len(drawn),
        "texts": len(kept),
        "tokens": round(sum(line["tokens"] for line in lines) / len(lines), 2),
        "methods": list(dict.fromkeys(method for method, *_ in order)),
        "correlations": correlations,
        "masking": masking,
        "saturation": by_layer([line["saturation"] for line in lines]),
    }


def training(folder: str | Path) -> dict[str, Any]:
    """How a model was trained."""
    return json.loads(Path(folder, "training.json").read_text(encoding="utf-8"))


def tokens(tokenizer: PreTrainedTokenizerBase, text: Text) -> int:
    """How many tokens a text has, special ones too."""
    return len(ordinary_tokens(tokenizer, text))


def ranked(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: Text, seed: int) -> dict[str, Any]:
    """All of one text: correlations as (method, layer, reading, against, ρ), masking curves, and the saturation of its flow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a tolerance that was not met changes no rank that counts
        att = attribute(model, tokenizer, text, tolerance=5e-2)
        relevance, full = relevances(model, tokenizer, att)
    ordinary = ordinary_tokens(tokenizer, text)
    chance = torch.rand(len(ordinary), generator=torch.Generator().manual_seed(seed))
    found = {(method, "row"): value for method, value in relevance.items()} | {
        (method, "max"): value for method, value in relevances_of_any_query(att, full).items()
    }
    found["random", "row"] = chance
    lost, slope = relevance["blank-out"], relevance["gradient"]
    correlations: list[list[Any]] = []
    for (method, reading), value in found.items():
        for layer, own in enumerate(value) if value.ndim == 2 else [(None, value)]:
            size = own.abs() if method in SIGNED else own
            pairs = {"blank-out": (size, lost.abs()), "input gradient": (size, slope)}
            if method in SIGNED:
                pairs["signed blank-out"] = own, lost
            if method == "blank-out":
                del pairs["blank-out"], pairs["signed blank-out"]
            if method == "gradient":
                del pairs["input gradient"]
            correlations += [[method, layer, reading, against, correlation(*both, ordinary)] for against, both in pairs.items()]
    masking = {}
    for method, value in (relevance | {"random": chance}).items():
        layer = LAST_WORD.get(method, len(value) - 1) if value.ndim == 2 else None
        curves = masking_curves(model, tokenizer, text, value if layer is None else value[layer], att.target)
        masking[method] = {
            "layer": layer,
            "comprehensiveness": round(curves.comprehensiveness, 5),
            "sufficiency": round(curves.sufficiency, 5),
            "deletion": rounded(curves.without.tolist()),
            "insertion": rounded(curves.only.tolist()),
        }
    saturation = rounded(flow_saturation(full["flow"], att.attention).tolist())
    return {"tokens": int(ordinary.sum()), "correlations": correlations, "masking": masking, "saturation": saturation}


def relevances(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, att: Attribution
) -> tuple[dict[str, Tensor], dict[str, Float[Tensor, "L N N"]]]:
    """The relevance of each token by every method, and the matrices that rows were read from.

    Of a decoder, rollout and flow come normalised by the receptive field, too.
    """
    attention, scores = att.attention, scores_as_attention(att.scores)
    full = {"raw attention": attention.mean(1), "rollout": attention_rollout(attention), "flow": attention_flow(attention, normalize=False)}
    of_flow = read_row(att, shares(full["flow"]))  # once: it takes its time
    found = {name: of_flow if name == "flow" else measure(model, tokenizer, att) for name, measure in METHODS.items()}
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
    return round(rank_correlation(*pair), 5)


def interval(values: Sequence[float], names: Sequence[str] = ("mean", "low", "high")) -> dict[str, float | None]:
    """Mean and 95 % interval to four digits; None where there are too few values."""
    found = mean_interval(values) if len(values) > 1 else (None,) * 3
    return {name: value if value is None else round(value, 4) for name, value in zip(names, found, strict=True)}


def by_layer(of_texts: Sequence[Sequence[float]]) -> dict[str, list[float | None]]:
    """Mean and interval of each layer over texts."""
    layers = [interval(values) for values in zip(*of_texts, strict=True)]
    return {name: [layer[part] for layer in layers] for name, part in (("layers", "mean"), ("low", "low"), ("high", "high"))}


def rounded(values: Sequence[float]) -> list[float]:
    """To four digits."""
    return [round(value, 4) for value in values]


def saturation(run: Run) -> dict[str, Any]:
    """How much of flow equals its bounds, layer by layer: in the model of the task, in deeper ones with random weights, in others.

    For each model ``layers``, ``low`` and ``high`` are the share of all flows that equal `flow_bound`, mean over texts and interval;
    ``reader`` holds the same of the flows from the token that the classifier reads that equal `source_bound`. That token is taken
    to be the first, or in a decoder the last.
    """
    rows = examples(run.task, source=run.data)
    drawn = texts(rows.select(random.Random(run.seed).sample(range(len(rows)), len(rows))))
    _, tokenizer = load(run.task)
    kept = [text for text in drawn if 8 <= tokens(tokenizer, text) <= 32][: run.rows]
    found: dict[str, Any] = {"texts": len(kept), "models": {}}
    sources: list[tuple[str, Any]] = [(f"trained, {run.task}", lambda: load(run.task))]
    sources += [(f"random weights, {depth} layers", lambda depth=depth: (untrained("bert", depth), tokenizer)) for depth in DEPTHS]
    sources += [(f"other {number}", lambda folder=folder: load(folder)) for number, folder in enumerate(run.other)]
    for number, (name, make) in enumerate(sources):
        model, own = make()

        def measured(text: Text, model: PreTrainedModel = model, own: PreTrainedTokenizerBase = own) -> dict[str, Any]:
            inputs = own(*(text if isinstance(text, tuple) else (text,)), return_tensors="pt")
            attention = torch.cat(record(model, dict(inputs)).attention)
            flow = attention_flow(attention, normalize=False)
            reader = attention.shape[-1] - 1 if is_causal(attention) else 0
            return {
                "tokens": attention.shape[-1],
                "word": rounded(flow_saturation(flow, attention).tolist()),
                "reader": rounded(share_at_source_bound(flow, attention, reader).tolist()),
            }

        lines = resumable(partial_file("saturation", run, f"model{number}"), f"saturation {run.task}: {name}", kept, measured)
        tokens_of_text = sum(line["tokens"] for line in lines) / len(lines)
        found["models"][name] = {"tokens": tokens_of_text} | by_layer([line["word"] for line in lines])
        found["models"][name]["reader"] = by_layer([line["reader"] for line in lines])
    for number, folder in enumerate(run.other):
        found["models"][f"other {number}"]["training"] = training(folder)
    return found


def share_at_source_bound(flow: Float[Tensor, "L N N"], attention: Tensor, source: int) -> Float[Tensor, " L"]:
    """Of the flows from one token to the others that it can reach, the share that equals `source_bound`."""
    equal = (flow >= source_bound(attention) - EQUAL)[:, source]
    others = (flow > 0)[:, source] & (torch.arange(flow.shape[-1]) != source)
    return (equal & others).sum(-1) / others.sum(-1)


def untrained(family: str, layers: int, width: int = 128, seed: int = 0) -> PreTrainedModel:
    """A small classifier with random weights, of the family of BERT or of GPT-2, for the embedded tokenizer.

    >>> untrained("gpt2", 2, width=32).config.n_layer
    2
    """
    from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(seed)
    if family == "gpt2":
        shape = {"n_layer": layers, "n_embd": width, "n_head": width // 32, "n_positions": 512}
        ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
        return GPT2ForSequenceClassification(GPT2Config(vocab_size=30522, **shape, **ends)).eval()
    if family != "bert":
        raise ValueError(f"unknown family {family!r}: expected 'bert' or 'gpt2'")
    shape = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 32}
    return BertForSequenceClassification(BertConfig(vocab_size=30522, **shape)).eval()


def starting_point(kind: str, folder: Path) -> None:
    """Write a model for `finetune --base FOLDER` to start from: what the embedded base is not, but with what it knows.

    ``"decoder"``: a GPT-2 of 4 layers with the base's word embeddings, the rest random. ``"deep"``: the base with each of its layers
    twice in a row, 12 in all. Both are far from good before training.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in ("decoder", "deep"):
        raise ValueError(f"unknown kind {kind!r}: expected 'decoder' or 'deep'")
    base, tokenizer, _ = load_base(TASKS["sst2"])
    width = base.config.hidden_size
    model = untrained("gpt2", 4, width) if kind == "decoder" else untrained("bert", 2 * base.config.num_hidden_layers, width)
    with torch.no_grad():
        if kind == "decoder":
            model.get_input_embeddings().weight.copy_(base.get_input_embeddings().weight)
        else:
            weights = base.base_model.state_dict()
            model.base_model.load_state_dict(
                {
                    name: weights[re.sub(r"(?<=layer\.)\d+", lambda found: str(int(found[0]) // 2), name)]
                    for name in model.base_model.state_dict()
                }
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
