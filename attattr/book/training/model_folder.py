"""What a training run leaves behind: weights, the record ``training.json``, and a model card that says the same in words."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Template
from safetensors import SafetensorError

from ... import __version__
from ...batches import Model, Tokenizer
from ...data import data_folder, read_utf8
from ...pretrained import ADAPTER_OPTIONS, BASE_HUB_ID

KINDS = ("adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors")  # of an adapter, of a whole model


def write_model(model: Model, tokenizer: Tokenizer, output: Path, run: dict, accuracy: dict[str, dict]) -> None:
    """A folder that `attattr.load` takes: adapter (float16) or whole model, ``training.json``, and a model card.

    All of it is written aside first. Raises ``OSError`` if that fails, on a full disk for one; a model that was there is then as it was.
    """
    from safetensors.torch import load_file, save_file

    aside = output / "unfinished"
    try:
        model.save_pretrained(aside)
        weights = aside / ("adapter_model.safetensors" if run["rank"] else "model.safetensors")
        if run["rank"]:
            save_file({name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
            trim_adapter_config(aside / "adapter_config.json", run["base"])
        else:
            tokenizer.save_pretrained(aside)
        weights.chmod(0o644)
        record = run | {"sha256": sha256(weights.read_bytes()).hexdigest(), "accuracy": accuracy, "versions": versions()}
        (aside / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (aside / "README.md").write_text(model_card(record), encoding="utf-8")
        for stale in KINDS:
            (output / stale).unlink(missing_ok=True)  # of another kind of model that was here before
        for path in aside.iterdir():
            path.replace(output / path.name)
    except (OSError, SafetensorError) as error:
        raise OSError(f"cannot write the model to {output}: {error}; what was there is as it was, and the same command goes on") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def training_record(folder: str | Path) -> dict[str, Any]:
    """How the model in a folder was trained. Raises ``OSError`` if its record is missing or damaged."""
    path = Path(folder, "training.json")
    try:
        return dict(json.loads(read_utf8(path, "the record that `python -m attattr finetune` writes beside a model")))
    except (ValueError, TypeError) as error:
        raise OSError(f"damaged record {path}: {error}") from error


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


def digest(rows: list[dict[str, str]]) -> str:
    """One name for the rows of a task in their order: the sha256 of their JSON."""
    return sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """What this machine runs on, for the provenance of a result; in a checkout also its commit."""
    found = {"python": platform.python_version(), "attattr": __version__}
    found |= {name: version(name) for name in ("torch", "transformers", "peft")}
    checkout = data_folder().parent
    if (checkout / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        found["commit"] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return found
