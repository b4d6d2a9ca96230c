"""What a training run leaves behind: weights, the record ``training.json``, and a model card that says the same in words."""

from __future__ import annotations

import json
import platform
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Template

from ...batches import Model, Tokenizer
from ...pretrained import ADAPTER_OPTIONS, BASE_HUB_ID


def write_model(model: Model, tokenizer: Tokenizer, output: Path, run: dict, accuracy: dict[str, dict]) -> None:
    """A folder that `attattr.load` takes: adapter (float16) or whole model, ``training.json``, and a model card."""
    from safetensors.torch import load_file, save_file

    output.mkdir(parents=True, exist_ok=True)
    for stale in ("adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"):
        (output / stale).unlink(missing_ok=True)  # of another kind of model that was here before
    model.save_pretrained(output)
    weights = output / ("adapter_model.safetensors" if run["rank"] else "model.safetensors")
    if run["rank"]:
        save_file({name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
        trim_adapter_config(output / "adapter_config.json", run["base"])
    else:
        tokenizer.save_pretrained(output)
    weights.chmod(0o644)
    record = run | {"sha256": sha256(weights.read_bytes()).hexdigest(), "accuracy": accuracy, "versions": versions()}
    (output / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (output / "README.md").write_text(model_card(record), encoding="utf-8")


def training_record(folder: str | Path) -> dict[str, Any]:
    """How the model in a folder was trained."""
    return json.loads(Path(folder, "training.json").read_text(encoding="utf-8"))


def trim_adapter_config(path: Path, base: str | None) -> None:
    """Keep what every version of peft knows, and `attattr.load` takes; the rest are defaults of this version, and paths of this machine."""
    config = json.loads(path.read_text())
    kept = {name: sorted(config[name]) if isinstance(config[name], list) else config[name] for name in ADAPTER_OPTIONS}
    kept["base_model_name_or_path"] = base or BASE_HUB_ID
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def model_card(record: dict) -> str:
    """What the model is, how it was made, and how good it is, in Markdown; everything in it comes from the record."""
    template = files(__package__) / "model_card.md"
    return Template(template.read_text(encoding="utf-8"), keep_trailing_newline=True).render(record, hub_id=BASE_HUB_ID)


def versions() -> dict[str, str]:
    """What this machine runs on, for the provenance of a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "transformers", "peft")}
