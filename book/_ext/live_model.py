"""What the live page runs in the reader's browser: one ONNX graph from token ids to probabilities, attention and scores.

BERT is written here as plain functions of its weights, with `attattr.attribute` on top (Gauss-Legendre, so many nodes a layer), and traced
whole, gradients included. The base is stored in 16 bits; the adapter of a task is an input, which the graph merges, so that a second task
costs 2.7 MB. The files are scripts, since a page that was opened as a file can load nothing else.

python book/_ext/live_model.py             trace the model, unless ``.live`` has it already, made of what it would be made of now
python book/_ext/live_model.py examples    compute anew what the page shows where nothing can be computed: live_examples.json
"""

from __future__ import annotations

import json
import sys
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from docutils import nodes
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

import attattr
from attattr.data import ALL_TASKS, data_folder
from attattr.pretrained import SHA256, embedded_base, load_base
from attattr.quadrature import rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent.parent
KEPT = ROOT / ".live"
EXAMPLES = Path(__file__).with_name("live_examples.json")
ENGINE = ROOT / "book" / "_static" / "ort"
TASKS = {  # and what stands in the form at first
    "sst2": ("The film is long, but never boring.",),
    "mnli": ("The last apple in the barrel went to the youngest, who ate it core and all.", "The youngest was not given the last apple."),
}
RULES = (6, 12, 24)  # nodes of the Gauss-Legendre sums that the page tries until the scores are complete: each in passes of the first
MOST_TOKENS = 128
CLASSES = 3  # of any task; one with fewer has some that are never chosen
RANK = 32
EMBEDDING = "embeddings.word_embeddings.weight"
Weights = dict[str, Tensor]


class Clean(NamedTuple):
    """The clean pass: of every layer the state that enters it, attention, values and context, and in the end the probabilities."""

    states: list[Float[Tensor, "1 N D"]]
    attention: list[Float[Tensor, "1 H N N"]]
    values: list[Float[Tensor, "1 H N d"]]
    contexts: list[Float[Tensor, "1 H N d"]]
    probabilities: Float[Tensor, "1 C"]


def linear(weights: Weights, name: str, states: Tensor) -> Tensor:
    """One linear layer."""
    return functional.linear(states, weights[f"{name}.weight"], weights[f"{name}.bias"])


def norm(weights: Weights, name: str, states: Tensor) -> Tensor:
    """One layer norm."""
    return functional.layer_norm(states, states.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)


def attend(weights: Weights, layer: int, heads: int, states: Float[Tensor, "R N D"]) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, values and contexts of one layer."""
    queries, keys, values = (
        linear(weights, f"encoder.layer.{layer}.attention.self.{part}", states).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in ("query", "key", "value")
    )
    attention = (queries @ keys.transpose(-1, -2) / values.shape[-1] ** 0.5).softmax(-1)
    return attention, values, attention @ values


def after(weights: Weights, layer: int, states: Float[Tensor, "R N D"], contexts: Float[Tensor, "R H N d"]) -> Float[Tensor, "R N D"]:
    """What a layer makes of its contexts and of the states that entered it."""
    block = f"encoder.layer.{layer}"
    joined = linear(weights, f"{block}.attention.output.dense", contexts.transpose(1, 2).flatten(2))
    states = norm(weights, f"{block}.attention.output.LayerNorm", states + joined)
    inner = functional.gelu(linear(weights, f"{block}.intermediate.dense", states))
    return norm(weights, f"{block}.output.LayerNorm", states + linear(weights, f"{block}.output.dense", inner))


def decide(weights: Weights, states: Float[Tensor, "R N D"]) -> Float[Tensor, "R C"]:
    """The probabilities of the classes: [CLS] is read."""
    return linear(weights, "classifier", linear(weights, "pooler.dense", states[:, 0]).tanh()).softmax(-1)


def clean_pass(weights: Weights, layers: int, heads: int, ids: Int[Tensor, "1 N"], types: Int[Tensor, "1 N"]) -> Clean:
    """What the model makes of a text."""
    embedded = weights[EMBEDDING][ids].float() + weights["embeddings.token_type_embeddings.weight"][types]
    states = norm(weights, "embeddings.LayerNorm", embedded + weights["embeddings.position_embeddings.weight"][: ids.shape[1]])
    found = Clean([], [], [], [], states)
    for layer in range(layers):
        kept = (found.states, found.attention, found.values, found.contexts)
        for of_all, part in zip(kept, (states, *attend(weights, layer, heads, states)), strict=True):
            of_all.append(part)
        states = after(weights, layer, states, found.contexts[layer])
    return found._replace(probabilities=decide(weights, states))


def branches(weights: Weights, heads: int, clean: Clean, scales: Float[Tensor, " M"]) -> tuple[Float[Tensor, "L*M C"], list[Tensor]]:
    """The probabilities where the contexts of one layer are scaled, by each scale, and these contexts: a batch that grows by layer."""
    states, leaves = clean.states[0][:0], []
    for layer, (entering, contexts) in enumerate(zip(clean.states, clean.contexts, strict=True)):
        leaves.append((scales[:, None, None, None] * contexts).detach().requires_grad_())
        contexts = torch.cat([attend(weights, layer, heads, states)[2], leaves[-1]]) if layer else leaves[-1]
        states = torch.cat([states, entering.expand(len(scales), -1, -1)])
        if layer == len(clean.states) - 1:  # above it, [CLS] alone is read
            states, contexts = states[:, :1], contexts[:, :, :1]
        states = after(weights, layer, states, contexts)
    return decide(weights, states), leaves


def merged(base: Weights, task: Float[Tensor, " T"]) -> Weights:
    """The classifier of one task: the base, to each of whose matrices the adapter adds the product of two thin ones."""
    weights = {name: weight if name == EMBEDDING else weight.float() for name, weight in base.items()}
    at = 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        at += torch.Size(shape).numel()
        return task[at - torch.Size(shape).numel() : at].float().view(shape)

    for name in adapted(base):
        rows, columns = base[name].shape
        weights[name] = weights[name] + take(rows, RANK) @ take(RANK, columns)
    return weights | {"classifier.weight": take(CLASSES, columns), "classifier.bias": take(CLASSES)}


def adapted(base: Weights) -> list[str]:
    """The matrices that adapters change, in a fixed order; the last leads into the classifier."""
    return [name for name in base if name.endswith(("query.weight", "key.weight", "value.weight", "dense.weight"))]


def explain(
    base: Weights,
    layers: int,
    heads: int,
    ids: Int[Tensor, "1 N"],
    types: Int[Tensor, "1 N"],
    task: Float[Tensor, " T"],
    nodes: Float[Tensor, " M"],
    shares: Float[Tensor, " M"],
) -> tuple[Float[Tensor, " C"], Float[Tensor, "L H N N"], Float[Tensor, "L H N N"], Float[Tensor, " L"]]:
    """Probabilities, attention and scores of one text, and for each layer F(A) - F(0): what the live page asks for.

    The scores are those of some nodes of a rule, weighted by ``shares``: those of a longer rule are the sum of several such passes.
    """
    weights = merged(base, task)
    clean = clean_pass(weights, layers, heads, ids, types)
    chosen = clean.probabilities.argmax(-1)
    probabilities, leaves = branches(weights, heads, clean, torch.cat([nodes, torch.zeros(1)]))
    values = probabilities.index_select(1, chosen).view(layers, -1)
    gradients = torch.autograd.grad(values[:, :-1].sum(), leaves)
    means = torch.stack([torch.tensordot(shares, gradient[:-1], 1) for gradient in gradients])
    attention = torch.cat(clean.attention)
    difference = clean.probabilities.index_select(1, chosen)[:, 0] - values[:, -1]
    return clean.probabilities[0], attention, attention * (means @ torch.cat(clean.values).transpose(-1, -2)), difference


def gauss(count: int) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """The nodes of a Gauss-Legendre sum, and their weights."""
    found = rule("gauss-legendre", count)
    return found.nodes.float(), found.weights[0].float()


def weights_of_base() -> tuple[Weights, int, int]:
    """The base, its layers and heads."""
    model = load_base(ALL_TASKS["sst2"])[0]
    return model.bert.state_dict(), model.config.num_hidden_layers, model.config.num_attention_heads


def weights_of_task(task: str, base: Weights) -> Float[Tensor, " T"]:
    """All numbers of the adapter of a task, in the order in which `merged` takes them."""
    folder = data_folder() / "models" / task
    adapter = {name.removeprefix("base_model.model."): weight for name, weight in load_file(folder / "adapter_model.safetensors").items()}
    config = json.loads((folder / "adapter_config.json").read_text())
    names = [f"bert.{name.removesuffix('.weight')}" for name in adapted(base)]
    parts = [
        adapter.pop(f"{name}.lora_{part}.weight") * (config["lora_alpha"] / RANK if part == "B" else 1) for name in names for part in "BA"
    ]
    weight, bias = adapter.pop("classifier.weight"), adapter.pop("classifier.bias")
    missing = CLASSES - len(bias)
    parts += [functional.pad(weight, (0, 0, 0, missing)), functional.pad(bias, (0, missing), value=-torch.inf)]
    if adapter or config["r"] != RANK:
        raise ValueError(f"the adapter of {task} has rank {config['r']}, and {list(adapter)[:2]}: expected {RANK}, and nothing else")
    return torch.cat([part.half().flatten() for part in parts])


def export() -> bytes:
    """Trace `explain` and write it as ONNX."""
    from torch.fx.experimental.proxy_tensor import make_fx

    base, layers, heads = weights_of_base()
    base = {name: weight.half() for name, weight in base.items()}
    ids = torch.arange(1000, 1011)[None]
    inputs = (ids, torch.zeros_like(ids), weights_of_task("sst2", base), *gauss(RULES[0]))

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        return explain(base, layers, heads, *inputs)

    graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    length = torch.export.Dim("N", min=2, max=512)
    shapes: Any = ({1: length}, {1: length}, None, None, None)
    with torch.no_grad():
        exported = torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)
        program: Any = torch.onnx.export(
            exported,
            dynamo=True,
            optimize=False,  # the browser's engine does it
            verbose=False,
            input_names=["ids", "types", "task", "nodes", "shares"],
            output_names=["probabilities", "attention", "scores", "difference"],
        )
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # 4 MB of where each came from
    return model.SerializeToString()


def examples() -> bytes:
    """Our own sentences of SST-2 with their strongest connections: what the page shows where nothing can be computed."""
    model, tokenizer = attattr.load("sst2")
    found = attattr.attribute(model, tokenizer, list(attattr.examples("sst2")["sentence"]), steps=RULES[0])
    rows = [
        {
            "text": att.text,
            "label": att.label,
            "probability": att.value,
            "tokens": att.tokens,
            "strongest": [[*map(int, row[:4]), round(row[4], 5)] for row in att.strongest(10).itertuples(index=False)],
        }
        for att in found
    ]
    return ("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n").encode()


def kept(name: str, made_of: list[str], make: Callable[[], bytes]) -> bytes:
    """What ``make`` makes, made anew only if what it is made of has changed."""
    path = KEPT / f"{name}-{sha256(' '.join(made_of).encode()).hexdigest()[:16]}"
    if not path.is_file():
        content = make()
        KEPT.mkdir(exist_ok=True)
        for old in KEPT.glob(f"{name}-*"):
            old.unlink()
        aside = KEPT / f"aside-{name}"
        aside.write_bytes(content)
        aside.rename(path)
    return path.read_bytes()


@cache
def contents() -> dict[str, bytes]:
    """The files that the page loads, by name."""
    sources = [SHA256["base"], sha256(Path(__file__).read_bytes()).hexdigest(), *map(version, ("torch", "onnx", "onnxscript"))]
    base = weights_of_base()[0]
    return {
        "ort": (ENGINE / "ort.wasm.bundle.min.mjs").read_bytes(),
        "wasm": (ENGINE / "ort-wasm-simd-threaded.wasm").read_bytes(),
        "model": kept("model.onnx", sources, export),
        "vocabulary": (Path(embedded_base()[0]) / "vocab.txt").read_bytes(),
        "examples": EXAMPLES.read_bytes(),
    } | {task: weights_of_task(task, base).numpy().tobytes() for task in TASKS}


def script(name: str, content: bytes) -> bytes:
    """A script that hands over bytes as strings, to be read as x-user-defined: there each byte is one letter.

    Strings of a megabyte each: of one of 46 MB, Chromium's parser copies what it has at each further megabyte, and freezes the page.
    """
    parts = [content[at : at + 2**20] for at in range(0, len(content), 2**20)]
    for letter, escaped in ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\r", b"\\r")):
        parts = [part.replace(letter, escaped) for part in parts]
    return b'attattr.take("%s", "%s");\n' % (name.encode(), b'", "'.join(parts))


@cache
def folder() -> str:
    """Where the page finds its files: another place for other files, so that a browser never keeps old ones."""
    return f"live/{sha256(b''.join(contents().values())).hexdigest()[:16]}"


def write_files(app: Sphinx) -> None:
    """Put the files where the page finds them."""
    if app.builder.format == "html":
        place = Path(app.outdir) / "_static" / folder()
        place.mkdir(parents=True, exist_ok=True)
        for name, content in contents().items():
            (place / f"{name}.js").write_bytes(script(name, content))


def told(app: Sphinx) -> dict[str, Any]:
    """What the page has to know of the files."""

    def size(*names: str) -> int:
        return sum((Path(app.outdir) / "_static" / folder() / f"{name}.js").stat().st_size for name in names)

    return {
        "folder": folder(),
        "size": size("ort", "wasm", "model", "vocabulary"),
        "most": MOST_TOKENS,
        "rules": [[part.tolist() for part in gauss(count)] for count in RULES],
        "tasks": {
            task: {"labels": ALL_TASKS[task].labels, "columns": ALL_TASKS[task].columns, "example": example, "size": size(task)}
            for task, example in TASKS.items()
        },
    }


def add_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Load the scripts on pages that have the form, and on no other."""
    if doctree and any("attattr-live" in node.astext() for node in doctree.findall(nodes.raw)):
        app.add_js_file(None, body=f"var attattrLive = {json.dumps(told(app))};")
        app.add_js_file("live.js", loading_method="defer")
        app.add_js_file("live-form.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.connect("builder-inited", write_files)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    if sys.argv[1:] == ["examples"]:  # after a training: some minutes
        EXAMPLES.write_bytes(examples())
    else:  # while the chapters run: see the Makefile
        contents()
