"""Is attribution right in every family that transformers has for sequence classification? A tiny random model of each is tried.

Run by hand: python tests/benchmarks/families.py [--types bert gpt2 ...] [--output FILE]. Killed, it goes on where it stopped. Each type
has a process of its own, which may take 9 GB and some minutes. Two texts of nine and seven tokens are attributed in one batch.

``completeness`` is |sum of scores - (F(A) - F(0))| by |F(A) - F(0)|, or by 0.01 where that is less, as for a certificate; 32 Gauss
nodes. ``agreement`` is the largest difference of a score from that of whole forward passes, differentiated by the attention matrix
itself. ``early`` is the share of F(A) - F(0) that is reached at α = 0.05. Of completeness and agreement the worst layer counts, of
``early`` the median of layers where F moves by 0.01 at least.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import fields
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

sys.path.insert(0, str(Path(__file__).parents[1]))
from toys import OF_KIND, SMALL, inputs

from attattr import tap
from attattr.book.results import columns_of, write_result
from attattr.book.training.model_folder import versions
from attattr.data import data_folder
from attattr.path import AttentionPath, integrate
from attattr.quadrature import rule

TYPES = sorted(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
SEED, SPREAD, NODES, EARLY, FLOOR = 0, 0.2, 32, 0.05, 1e-2
MEMORY, SECONDS = 9 << 30, 300

MORE = {  # beside what `SMALL` says: of mixtures of experts, latent attention, pictures, convolutions
    **{"moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"image_size": 8, "patch_size": 4, "embedding_dim": 32},
}
LATENT = {
    **{"num_key_value_heads": 4, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1},
}
LINEAR = {"layer_types": ["full_attention", "linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4}
LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
HYBRID = {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "use_mamba_kernels": False}
OF_TYPE: dict[str, dict[str, Any]] = OF_KIND | {
    **{kind: LATENT for kind in ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "minicpm3", "mistral4")},
    **{kind: LINEAR for kind in ("qwen3_5_text", "qwen3_next")},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "esmc": {"num_key_value_heads": 4},
    "funnel": {"block_sizes": [1, 1, 1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 0, "use_mamba_kernels": False},
    "layoutlmv3": {"visual_embed": False, "coordinate_size": 6, "shape_size": 4},
    "lilt": {"hidden_size": 48},
    "longformer": {"attention_window": 4},
    "perceiver": {
        "num_latents": 9,
        "d_latents": 32,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
    "reformer": {"axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "zamba": HYBRID,
    "zamba2": HYBRID | {"chunk_size": 8},
}
SPREADS = {"mobilebert": 0.1}  # it has no norms: with larger weights F does not move
REASONS = {  # of what is not explained, in one phrase; the command makes sure that it is in fact refused
    "fnet": "mixes tokens by a Fourier transform: no attention",
    "funnel": "pools its tokens: attention of half as many queries to all keys",
    "layoutlmv2": "needs the library detectron2, which is not on PyPI",
    "longformer": "attention in windows and to global tokens, no N × N softmax",
    "mra": "attention in blocks of several resolutions, by a CUDA kernel, no N × N softmax",
    "perceiver": "attention of latents, not of tokens",
    "reformer": "attention in chunks and by hashing, normalised without a softmax",
    "t5gemma2": "one softmax of the decoder over its own tokens and the encoder's",
    "yoso": "hash collisions instead of a softmax",
}


def settings(cls: type[PreTrainedConfig], kind: str) -> dict[str, Any]:
    """What makes a configuration of this class small, and so those that are part of it."""
    known = {field.name for field in fields(cls)} | {"num_labels"}
    found = {name: value for name, value in (SMALL | MORE).items() if name in known} | OF_TYPE.get(kind, {})
    for name, part in vars(cls()).items():
        if isinstance(part, PreTrainedConfig):
            found[name] = settings(type(part), part.model_type) | found.get(name, {})
    return found


def tiny(kind: str) -> nn.Module:
    """A small random classifier of this type, with weights large enough that its decisions move."""
    cls = CONFIG_MAPPING[kind]
    torch.manual_seed(SEED)
    model = AutoModelForSequenceClassification.from_config(cls(**settings(cls, kind))).eval()
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1 if id(parameter) in embedded else SPREADS.get(kind, SPREAD))
    return model


def texts() -> dict[str, Tensor]:
    """Two texts as token ids, each with its end marked, since some families read their decision there."""
    batch = inputs([9, 7])
    batch["input_ids"][[0, 1], [8, 6]] = SMALL["eos_token_id"]
    return batch


def decided(model: nn.Module, batch: dict[str, Tensor], targets: Tensor, rows: int, layer: int, change: Any) -> Tensor:
    """F of ``rows`` copies of every text, by whole forward passes in which the context of one layer is ``change(context, weights)``."""
    copies = {name: tensor.repeat_interleave(rows, 0) for name, tensor in batch.items()}
    with tap.tapped(model, lambda now, context, weights: change(context, weights) if now == layer else context):
        logits = model(**copies).logits
    return logits.double().softmax(-1).gather(1, targets.repeat_interleave(rows)[:, None]).reshape(-1, rows)


def plain(model: nn.Module, batch: dict[str, Tensor], targets: Tensor, attention: Tensor, layer: int) -> Tensor:
    """Eq. 4 of one layer as it is printed: A ⊙ ∫ ∂F/∂A (αA) dα."""
    nodes = rule("gauss-legendre", NODES)
    alpha = nodes.nodes.float().repeat(len(targets))[:, None, None, None]
    scaled = (alpha * attention.repeat_interleave(NODES, 0)).requires_grad_()
    value = decided(model, batch, targets, NODES, layer, lambda context, weights: (scaled @ weights()[1]).transpose(1, 2).to(context))
    (gradient,) = torch.autograd.grad(value.sum(), scaled, allow_unused=True, materialize_grads=True)
    mean = torch.einsum("k,bkhij->bhij", nodes.weights[0].float(), gradient.unflatten(0, (-1, NODES)))
    return attention * mean


def measure(kind: str) -> dict[str, Any]:
    """The row of one type."""
    row: dict[str, Any] = {"type": kind}
    batch = texts()
    try:
        model = tiny(kind)
        with torch.no_grad():
            logits = model(**batch).logits
    except Exception as error:
        return row | {"outcome": "not built", "reason": REASONS.get(kind, said(error))}
    targets = logits.argmax(-1)
    try:
        recording = tap.record(model, batch)
        found = integrate(AttentionPath(model, recording, targets), [rule("gauss-legendre", NODES)])
    except Exception as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).parent
        clear = isinstance(error, TypeError | ValueError) and raised_in == Path(tap.__file__).parent  # in the package's own words
        logging.info("%s: %s", kind, said(error))
        return row | {"outcome": "refused" if clear else "fails", "reason": REASONS.get(kind, said(error)) if clear else said(error)}
    gaps, missing, shares, moved = [], [], [], []
    for layer, attention in enumerate(recording.attention):
        scores = found["scores"][:, layer, :, : attention.shape[2], : attention.shape[3]]
        gaps.append((scores - plain(model, batch, targets, attention, layer)).abs().max())
        alpha = torch.tensor([0.0, EARLY, 1.0]).repeat(len(targets))[:, None, None, None]
        with torch.no_grad():
            values = decided(model, batch, targets, 3, layer, lambda context, _, alpha=alpha: context * alpha.to(context))
        difference = values[:, 2] - values[:, 0]
        moved.append(difference.abs())
        missing.append(((scores.sum((1, 2, 3)) - difference).abs() / difference.abs().clamp_min(FLOOR)).max())
        shares.append(((values[:, 1] - values[:, 0]) / difference)[difference.abs() >= FLOOR])
    early = torch.cat(shares)
    return row | {
        "outcome": "runs",
        "layers": len(recording.context),
        "heads": recording.attention[0].shape[1],
        "difference": rounded(torch.cat(moved).median()),
        "completeness": rounded(torch.stack(missing).max()),
        "agreement": rounded(torch.stack(gaps).max()),
        "early": rounded(early.median()) if len(early) else None,
        "replayed": bool(recording.blocks),
    }


def rounded(number: Tensor) -> float:
    """Three digits that count."""
    return float(f"{float(number):.3g}")


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def child(kind: str, sender: Connection) -> None:
    """Measure in a process of its own, and send the row."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        sender.send(measure(kind))
    except BaseException as error:
        sender.send({"type": kind, "outcome": "fails", "reason": said(error)})


def attempt(kind: str) -> dict[str, Any]:
    """The row of one type, whatever becomes of it."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(kind, sender))
    began = time.perf_counter()
    process.start()
    sender.close()
    row = {"type": kind, "outcome": "fails", "reason": f"nothing after {SECONDS} seconds"}
    try:
        if receiver.poll(SECONDS):
            row = receiver.recv()
    except EOFError:
        row["reason"] = "its process died"
    process.kill()
    process.join()
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    """Measure every type that has not been measured yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES, metavar="TYPE")
    parser.add_argument("--output", type=Path, default=data_folder() / "results" / "families.json")
    options = parser.parse_args()
    names = columns_of(options.output)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    made_of = [Path(tap.__file__), Path(sys.modules[integrate.__module__].__file__), Path(__file__)]
    told = json.dumps([versions(), options.types]).encode()
    key = sha256(b"".join(path.read_bytes() for path in made_of) + told).hexdigest()[:12]
    part = options.output.with_name(f".{options.output.stem}-{key}.jsonl")
    lines = part.read_text().splitlines(keepends=True) if part.is_file() else []
    done = [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may have left half a line
    for number, kind in enumerate(options.types[len(done) :], len(done) + 1):
        done.append(attempt(kind))
        part.write_text("".join(json.dumps(row) + "\n" for row in done))
        logging.info("%d of %d: %s", number, len(options.types), json.dumps(done[-1]))
    rows = [{name: row.get(name) for name in names} for row in done]
    chosen = "" if options.types is TYPES else " --types " + " ".join(options.types)
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    commit = subprocess.run(describe, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    provenance = {"command": f"python tests/benchmarks/families.py{chosen}", "commit": commit, "seed": SEED, "versions": versions()}
    write_result(options.output, rows, provenance | {"seconds": round(sum(row["seconds"] for row in done))})
    part.unlink()
    outcomes = [row["outcome"] for row in rows]
    logging.info("%s: %s", options.output, {name: outcomes.count(name) for name in sorted(set(outcomes))})


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main()
