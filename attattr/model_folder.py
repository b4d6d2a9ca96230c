"""What a training run leaves behind: weights, the record ``training.json``, and a model card that says the same in words."""

from __future__ import annotations

import json
import platform
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING

from .pretrained import BASE_HUB_ID

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    run: dict,
    accuracy: dict[str, dict],
) -> None:
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


def trim_adapter_config(path: Path, base: str | None) -> None:
    """Keep what every version of peft knows; the rest are defaults of the version that trained it, and paths of this machine."""
    config = json.loads(path.read_text())
    known = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "target_modules", "modules_to_save", "inference_mode")
    kept = {name: sorted(config[name]) if isinstance(config[name], list) else config[name] for name in known}
    if config.get("exclude_modules"):
        kept["exclude_modules"] = config["exclude_modules"]
    kept["base_model_name_or_path"] = base or BASE_HUB_ID
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def model_card(record: dict) -> str:
    """What the model is, how it was made, and how good it is, in Markdown; everything in it comes from the record."""
    rows = [
        f"| {split.replace('_', ' ')} | {found['rows']} | {found['accuracy']:.3f} | "
        + " | ".join(", ".join(f"{label} {value:.3f}" for label, value in found[measure].items()) for measure in ("per_class", "f1"))
        + " |"
        for split, found in record["accuracy"].items()
    ]
    files = f" ({', '.join(record['files'])})" if record["files"] else " of the train split"
    start = f"from the adapter {record['start']} (sha256 {record['start_sha256']}) onward, " if record["start"] else ""
    kind = f"LoRA adapter (rank {record['rank']})" if record["rank"] else "fully fine-tuned model"
    return "\n".join(
        [
            f"# {record['task']}: {kind} for {record['base'] or BASE_HUB_ID}",
            "",
            f"Made by `{record['command']}`",
            "",
            f"Trained {start}on {record['rows_trained']} rows{files}, {record['epochs']:g} epochs, "
            f"batches of {record['batch_size']}, learning rate {record['learning_rate']:g}, seed {record['seed']}, "
            f"in {record['seconds']} seconds with " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()) + ".",
            "",
            "| split | rows | accuracy | per gold class | F1 |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "The held-out rows are a part of the training files that was not trained on.",
            f"Weights: sha256 {record['sha256']}.",
            "",
        ]
    )


def versions() -> dict[str, str]:
    """What this machine runs on, for the provenance of a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "transformers", "peft")}
