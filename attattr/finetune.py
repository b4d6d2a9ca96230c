"""Fine-tuning: LoRA adapters or whole models, resumable to the same result, and accuracy per class.

A training step depends only on its number (data order, dropout and learning rate are derived from seed and step), so a
run that was killed and goes on from its last checkpoint ends where an unbroken one would have ended.
"""

from __future__ import annotations

import json
import platform
import random
import shutil
import time
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from .data import SPLITS, Task, find_task, read_rows
from .pretrained import BASE_HUB_ID, load_base

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    Row = dict[str, str]
    Parameters = dict[str, torch.nn.Parameter]
    Weights = dict[str, torch.Tensor]
    Optimizer = torch.optim.Optimizer


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result of a training run."""

    task: str
    files: tuple[str, ...]
    base: str | None = None
    rank: int = 32  # of the LoRA adapter; 0 trains every weight
    rows: int | None = None
    holdout: int = 0  # rows of train kept back, to choose settings on
    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.06
    weight_decay: float = 0.01
    dropout: float = 0.1
    label_smoothing: float = 0.0
    averaging: float = 0.0  # decay of a running mean of the weights, which is kept at the end; 0 keeps the last weights
    max_length: int = 128
    seed: int = 0


def finetune(settings: Settings, data: Path, output: Path, device: str = "cpu", checkpoint_every: int = 200) -> PreTrainedModel:
    """Train ``settings.task`` on ``data/files`` and write a model folder that `attattr.load` takes.

    Killed and called again with the same arguments, it goes on from its last checkpoint and ends in the same weights.
    """
    task = find_task(settings.task)
    if not settings.files or settings.epochs <= 0 or settings.batch_size < 1:
        raise ValueError(f"nothing to train on: files={settings.files}, epochs={settings.epochs}, batch_size={settings.batch_size}")
    rows = [row for file in settings.files for row in read_rows(data / file, task)]
    dev = read_rows(data / task.folder / SPLITS["validation"], task)  # now: a missing file should not show after hours of training
    held_out, rows = hold_out(rows, task, settings)
    torch.manual_seed(settings.seed)
    model, tokenizer = load_base(task, settings.base)
    set_dropout(model, settings.dropout)
    model = model.to(device)
    if settings.rank:
        model = add_adapter(model, settings.rank)
    encoded = [tokenizer(*pair(row, task), truncation=True, max_length=settings.max_length)["input_ids"] for row in rows]
    schedule = batch_order([len(ids) for ids in encoded], settings)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    checkpoint = output / "checkpoint" / "state.pt"
    start, seconds = restore(checkpoint, settings, parameters, average, optimizer)
    warmup = max(1, int(settings.warmup * len(schedule)))
    began = time.perf_counter() - seconds
    progress = tqdm(range(start, len(schedule)), initial=start, total=len(schedule), desc=f"train {task.name}", unit="step", mininterval=5)
    for step in progress:
        rate = min((step + 1) / warmup, (len(schedule) - step) / max(1, len(schedule) - warmup))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout depends on the step alone: see the module's first lines
        batch = [rows[i] for i in schedule[step]]
        loss = batch_loss(model.train(), tokenizer, batch, task, settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        decay = min(settings.averaging, (step + 1) / (step + 10))  # the first weights are soon forgotten
        with torch.no_grad():
            for name, parameter in parameters.items():
                average[name].lerp_(parameter, 1 - decay)
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % checkpoint_every == 0:
            save_checkpoint(checkpoint, settings, parameters, average, optimizer, step + 1, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(average[name])
    model.eval()
    report = {"dev": evaluate(model, tokenizer, dev, task, settings.max_length)}
    if held_out:
        report["held_out"] = evaluate(model, tokenizer, held_out, task, settings.max_length)
    write_model(model, tokenizer, output, settings, len(rows), seconds, report)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return model


def hold_out(rows: list[Row], task: Task, settings: Settings) -> tuple[list[Row], list[Row]]:
    """Rows to choose settings on, and the rest, cut to ``settings.rows``.

    SST-2's training rows are sentences and phrases out of them. There, whole sentences are held out (the longest quarter
    of the rows), and every row that is a part of one goes with them: a phrase seen in training would give its sentence away.
    """
    random.Random(settings.seed).shuffle(rows)
    if len(task.columns) > 1 or not settings.holdout:
        return rows[: settings.holdout], rows[settings.holdout :][: settings.rows]
    length = [len(row[task.columns[0]]) for row in rows]
    long_enough = sorted(length)[len(length) * 3 // 4]
    held_out = [row for row, n in zip(rows, length, strict=True) if n >= long_enough][: settings.holdout]
    whole = "\n".join(row[task.columns[0]] for row in held_out)
    rest = [row for row in rows if row[task.columns[0]] not in whole]
    return held_out, rest[: settings.rows]


def pair(row: Row, task: Task) -> list[str]:
    """The text columns of a row, as positional arguments of a tokenizer."""
    return [row[name] for name in task.columns]


def set_dropout(model: PreTrainedModel, probability: float) -> None:
    """Use one dropout probability everywhere in the model."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability


def add_adapter(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """LoRA on the query, key, value and all dense layers; the classifier itself is trained in full."""
    from peft import LoraConfig, get_peft_model

    targets = ["query", "key", "value", "dense"]
    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=targets))


def batch_order(lengths: Sequence[int], settings: Settings) -> list[list[int]]:
    """Row numbers of each step's batch: shuffled each epoch, rows of like length together, so that little is padded."""
    steps: list[list[int]] = []
    wanted = int(settings.epochs * len(lengths) / settings.batch_size + 0.5)
    for epoch in range(int(settings.epochs) + 1):
        generator = random.Random(settings.seed * 1_000 + epoch)
        order = list(range(len(lengths)))
        generator.shuffle(order)
        chunk = settings.batch_size * 50
        order = [i for at in range(0, len(order), chunk) for i in sorted(order[at : at + chunk], key=lambda i: lengths[i])]
        batches = [order[at : at + settings.batch_size] for at in range(0, len(order), settings.batch_size)]
        generator.shuffle(batches)
        steps += batches
    return steps[: max(1, wanted)]


def batch_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: list[Row], task: Task, settings: Settings
) -> torch.Tensor:
    """Mean cross entropy of one batch, computed in bfloat16 where the device has it."""
    device = next(model.parameters()).device
    inputs = encode(tokenizer, batch, task, settings.max_length).to(device)
    labels = torch.tensor([task.labels.index(row["label"]) for row in batch], device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type in ("cpu", "cuda")):
        logits = model(**inputs).logits
    return torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)


def encode(tokenizer: PreTrainedTokenizerBase, batch: list[Row], task: Task, max_length: int) -> BatchEncoding:
    """One padded batch of model inputs."""
    columns = [list(column) for column in zip(*(pair(row, task) for row in batch), strict=True)]
    return tokenizer(*columns, truncation=True, max_length=max_length, padding=True, return_tensors="pt")


def evaluate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], task: Task, max_length: int = 128) -> dict:
    """Accuracy over ``rows`` and per gold class, in float32."""
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, pair(rows[i], task))))
    hits = dict.fromkeys(task.labels, 0)
    counts = dict.fromkeys(task.labels, 0)
    for at in tqdm(range(0, len(order), 64), desc=f"evaluate {task.name}", unit="batch", mininterval=5):
        batch = [rows[i] for i in order[at : at + 64]]
        with torch.no_grad():
            predicted = model(**encode(tokenizer, batch, task, max_length).to(device)).logits.argmax(-1).tolist()
        for row, index in zip(batch, predicted, strict=True):
            counts[row["label"]] += 1
            hits[row["label"]] += task.labels[index] == row["label"]
    per_class = {label: round(hits[label] / counts[label], 4) for label in task.labels if counts[label]}
    return {"rows": len(rows), "accuracy": round(sum(hits.values()) / len(rows), 4), "per_class": per_class}


def save_checkpoint(
    path: Path, settings: Settings, parameters: Parameters, average: Weights, optimizer: Optimizer, step: int, seconds: float
) -> None:
    """Write the state of a run so that a kill at any moment leaves either the old checkpoint or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "settings": asdict(settings),
        "parameters": {name: p.detach().cpu() for name, p in parameters.items()},
        "average": {name: p.cpu() for name, p in average.items()},
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def restore(path: Path, settings: Settings, parameters: Parameters, average: Weights, optimizer: Optimizer) -> tuple[int, float]:
    """Load a checkpoint into parameters, their average and optimizer; the step to go on with and the seconds already spent."""
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    if state["settings"] != asdict(settings):
        changed = {k: (v, asdict(settings)[k]) for k, v in state["settings"].items() if asdict(settings).get(k) != v}
        raise ValueError(f"{path} belongs to a run with other settings {changed} (theirs, yours): remove it or choose another output")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["parameters"][name])
            average[name].copy_(state["average"][name])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output: Path,
    settings: Settings,
    rows: int,
    seconds: float,
    accuracy: dict[str, dict],
) -> None:
    """A folder that `attattr.load` takes: adapter (float16) or whole model, ``training.json``, and a model card."""
    from safetensors.torch import load_file, save_file

    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    weights = output / ("adapter_model.safetensors" if settings.rank else "model.safetensors")
    if settings.rank:
        save_file({name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
        trim_adapter_config(output / "adapter_config.json", settings)
    else:
        tokenizer.save_pretrained(output)
    weights.chmod(0o644)
    record = asdict(settings) | {
        "rows_trained": rows,
        "seconds": round(seconds),
        "sha256": sha256(weights.read_bytes()).hexdigest(),
        "accuracy": accuracy,
        "versions": versions(),
    }
    (output / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (output / "README.md").write_text(model_card(record), encoding="utf-8")


def trim_adapter_config(path: Path, settings: Settings) -> None:
    """Keep what every version of peft knows; the rest are defaults of the version that trained it, and paths of this machine."""
    config = json.loads(path.read_text())
    known = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "target_modules", "modules_to_save", "inference_mode")
    kept = {name: sorted(config[name]) if isinstance(config[name], list) else config[name] for name in known}
    kept["base_model_name_or_path"] = settings.base or BASE_HUB_ID
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def model_card(record: dict) -> str:
    """What the model is, how it was made, and how good it is, in Markdown; everything in it comes from the record."""
    defaults = {field.name: field.default for field in fields(Settings)}
    changed = {name: record[name] for name in defaults if name not in ("task", "files", "base") and record[name] != defaults[name]}
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())
    command = (
        f"python -m attattr finetune --task {record['task']} --files {' '.join(record['files'])} --data FOLDER --output FOLDER{options}"
    )
    rows = [
        f"| {split.replace('_', ' ')} | {found['rows']} | {found['accuracy']:.3f} | "
        + ", ".join(f"{label} {value:.3f}" for label, value in found["per_class"].items())
        + " |"
        for split, found in record["accuracy"].items()
    ]
    kind = f"LoRA adapter (rank {record['rank']})" if record["rank"] else "fully fine-tuned model"
    return "\n".join(
        [
            f"# {record['task']}: {kind} for {record['base'] or BASE_HUB_ID}",
            "",
            f"Made by `{command}`",
            "",
            f"Trained on {record['rows_trained']} rows ({', '.join(record['files'])}), {record['epochs']:g} epochs, "
            f"batches of {record['batch_size']}, learning rate {record['learning_rate']:g}, seed {record['seed']}, "
            f"in {record['seconds']} seconds with " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()) + ".",
            "",
            "| split | rows | accuracy | per gold class |",
            "|---|---|---|---|",
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
