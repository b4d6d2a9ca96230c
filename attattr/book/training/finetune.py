"""Fine-tuning: LoRA adapters or whole models, resumable to the same result, and accuracy per class.

A training step depends only on its number (data order, dropout and learning rate are derived from seed and step), so a
run that was killed and goes on from its last checkpoint ends where an unbroken one would have ended.

The loop is ours, as transformers' Trainer takes as many lines to do the same: when it goes on, it does not find the rows in
their old order of like lengths; a kill can leave half a checkpoint; and it keeps no average of the weights.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from ...batches import Model, collate, texts_of
from ...data import ALL_TASKS, Task, find_task, one_of, read_rows, read_split, whole
from ...pretrained import adapter_folder, check_sha256, load_base
from ..files import alone
from .evaluation import accelerate, encode, evaluate
from .model_folder import digest, training_record, write_model

Row = dict[str, str]
COUNT = 2**31
ALLOWED: dict[str, tuple[float, float]] = dict.fromkeys(("rank", "holdout", "seed"), (0, COUNT))
ALLOWED |= dict.fromkeys(("rows", "batch_size", "max_length"), (1, COUNT)) | {"epochs": (1e-9, COUNT)}
ALLOWED |= dict.fromkeys(("learning_rate", "warmup", "weight_decay", "dropout", "label_smoothing", "averaging"), (0, 1))


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result of a training run."""

    task: str
    files: list[str] = field(default_factory=list, metadata={"help": "TSV files below --data; none: the task's train split"})
    base: str | None = None
    start: str | None = None  # an adapter to go on from: the name of a task, or a folder
    rank: int = 32  # of the LoRA adapter; 0 trains every weight
    rows: int | None = None
    both_orders: bool = False  # train on each pair in either order, too: for tasks whose label does not depend on it
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
    precision: str = "float32"  # or "bfloat16": faster on a GPU and on processors that know it, far slower on others
    seed: int = 0


def finetune(settings: Settings, data: str | Path, output: Path, device: str = "cpu", checkpoint_every: int = 200) -> Model:
    """Train ``settings.task`` and write a model folder that `attattr.load` takes.

    Killed and called again with the same arguments, it goes on from its last checkpoint and ends in the same weights.
    The embedded adapters were trained by an older loop: trained again, their weights come out slightly different.
    Started by ``accelerate launch --multi_gpu --num_processes P -m attattr finetune ...``, or without GPUs by
    ``torchrun --nproc_per_node P -m attattr finetune ...``, every process takes its share of each batch.

    Args:
        settings: everything that decides the result.
        data: where the rows are, as `attattr.examples` takes it: a folder or ``"glue"``.
        output: the model folder to write; an unfinished run keeps its checkpoint there.
        device: ``"cpu"``, or ``"cuda"`` for one GPU per process.
        checkpoint_every: steps between checkpoints.

    Raises:
        ValueError: nothing to train on; a checkpoint of other settings or data is in ``output``.
        OSError: a data file, the base, the adapter to start from or the checkpoint is missing, damaged or of another shape.
    """
    from transformers import get_linear_schedule_with_warmup

    task = find_task(settings.task)
    for name, (least, most) in ALLOWED.items():
        value = getattr(settings, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"{name}={value}: expected {least} to {most}")
    one_of("precision", settings.precision, ("float32", "bfloat16"))
    if settings.both_orders and len(task.columns) < 2:
        raise ValueError(f"both_orders is for pairs: {task.name!r} has one column, {task.columns[0]!r}")
    rows = [row for file in settings.files for row in read_rows(Path(data) / file, task)] or read_split(task, data, "train")
    dev = read_split(task, data, "validation")  # now: a missing file should not show after hours of training
    accelerator = accelerate(device)
    run = asdict(settings) | {"data_sha256": digest(rows), "processes": accelerator.num_processes}
    available = len(rows)
    held_out, rows = hold_out(rows, task, settings)
    if not rows or settings.holdout >= available:
        raise ValueError(f"nothing to train on: {available} rows, holdout={settings.holdout}, rows={settings.rows}")
    texts, classes = texts_of(rows, task.columns), [task.labels.index(row["label"]) for row in rows]
    if settings.both_orders:
        texts, classes = [*texts, *(text[::-1] for text in texts)], classes * 2
    torch.manual_seed(settings.seed)
    model, tokenizer, new = load_base(task, settings.base)
    set_dropout(model, settings.dropout)
    if settings.rank:
        model = add_adapter(model, settings.rank, new)
    if settings.start:
        run |= go_on_from(settings.start, model, task, settings)
    model = model.to(accelerator.device)
    checkpoint = output / "checkpoint" / "state.pt"
    encoded = encode(tokenizer, texts, settings.max_length)
    labels = torch.tensor(classes, device=accelerator.device)
    order = batch_order([len(row["input_ids"]) for row in encoded], settings)
    # torch takes no point in a parameter's name
    trained = torch.nn.ParameterDict({name.replace(".", "/"): p for name, p in model.named_parameters() if p.requires_grad})
    average = AveragedModel(trained, avg_fn=partial(running_mean, settings.averaging))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, int(settings.warmup * len(order)), len(order))
    parts = {"trained": trained, "average": average, "optimizer": optimizer, "schedule": schedule}
    with alone(output / "training.json") if accelerator.is_main_process else nullcontext():
        began = time.perf_counter() - restore(checkpoint, run, parts)
        process, processes = accelerator.process_index, accelerator.num_processes
        parallel = accelerator.prepare_model(model).train()
        start, total = schedule.last_epoch, len(order)
        progress = tqdm(range(start, total), f"train {task.name}", total, initial=start, unit="step", mininterval=5, disable=process > 0)
        for step in progress:
            torch.manual_seed(settings.seed * 1_000_003 + step + process * 7_919_000_003)  # see the module's first lines
            mine = order[step][process::processes]
            # Processes average their gradients: weighted by its rows, the shares add up to the mean over the batch.
            weight = len(mine) * processes / len(order[step])
            mine = mine or order[step][:1]
            inputs = collate(model, tokenizer, mine, [encoded[i] for i in mine]).inputs
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                logits = parallel(**inputs).logits.float()
            loss = weight * torch.nn.functional.cross_entropy(logits, labels[mine], label_smoothing=settings.label_smoothing)
            optimizer.zero_grad()
            accelerator.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(trained)
            if step % 20 == 0:
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            if (step + 1) % checkpoint_every == 0 and accelerator.is_main_process:
                save_checkpoint(checkpoint, run, parts, time.perf_counter() - began)
        trained.load_state_dict(average.module.state_dict())
        run |= {"command": command(settings, processes), "rows_trained": len(texts), "device": accelerator.device.type}
        run["seconds"] = round(time.perf_counter() - began)
        model.eval()
        splits = {"dev": dev, "held_out": held_out} if held_out else {"dev": dev}
        report = {name: evaluate(model, tokenizer, found, settings.max_length, accelerator) for name, found in splits.items()}
        if accelerator.is_main_process:
            write_model(model, tokenizer, output, run, report)
            shutil.rmtree(checkpoint.parent, ignore_errors=True)
        accelerator.wait_for_everyone()
    return model


def command(settings: Settings, processes: int) -> str:
    """The command that makes this model again."""
    launcher = f"torchrun --nproc_per_node {processes}" if processes > 1 else "python"
    words = [f"{launcher} -m attattr finetune --data FOLDER --output FOLDER"]
    for name, value in asdict(settings).items():
        if name == "start" and value and value not in ALL_TASKS:
            value = "FOLDER"  # whose it was tells nobody anything: the record has its sha256
        if value not in (getattr(Settings, name, None), []):
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return " ".join(words)


def hold_out(rows: list[Row], task: Task, settings: Settings) -> tuple[list[Row], list[Row]]:
    """Rows to choose settings on, and the rest, cut to ``settings.rows``.

    SST-2's training rows are sentences and phrases out of them. There, whole sentences are held out (the longest quarter
    of the rows), and every row that is a part of one goes with them: a phrase seen in training would give its sentence away.
    """
    random.Random(settings.seed).shuffle(rows)
    if task.name != "sst2" or not settings.holdout:
        return rows[: settings.holdout], rows[settings.holdout :][: settings.rows]
    length = [len(row[task.columns[0]]) for row in rows]
    long_enough = sorted(length)[len(length) * 3 // 4]
    held_out = [row for row, n in zip(rows, length, strict=True) if n >= long_enough][: settings.holdout]
    whole = "\n".join(row[task.columns[0]] for row in held_out)
    rest = [row for row in rows if row[task.columns[0]] not in whole]
    return held_out, rest[: settings.rows]


def set_dropout(model: Model, probability: float) -> None:
    """Use one dropout probability everywhere in the model."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability


def add_adapter(model: Model, rank: int, new: Sequence[str]) -> Model:
    """LoRA on every linear layer of the base; its head, and what else of it is ``new``, is trained and kept in full."""
    from peft import LoraConfig, get_peft_model

    head = [name for name, part in model.named_children() if name != model.base_model_prefix and list(part.parameters())]
    full = head + [name for name in new if name.startswith(f"{model.base_model_prefix}.")]
    options = {"task_type": "SEQ_CLS", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "target_modules": "all-linear"}
    outside = "|".join(map(re.escape, full))
    config = LoraConfig(**options, modules_to_save=full or None)
    config.exclude_modules = rf"({outside})(\..*)?"
    return get_peft_model(model, config)


def go_on_from(start: str | Path, model: Model, task: Task, settings: Settings) -> dict[str, str]:
    """Copy a trained adapter into ``model``, and of its classifier what the class names allow; what the record says of it.

    A class of the same name keeps its weights; the others start from the mean of the classes that found no namesake.
    """
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    folder = adapter_folder(start)
    if folder is None:
        raise ValueError(f"no adapter {start!r}: expected one of {sorted(ALL_TASKS)}, or a folder that `python -m attattr finetune` wrote")
    record = training_record(folder)
    theirs = (record["base"], record["rank"])
    if theirs != (settings.base, settings.rank):
        raise ValueError(f"cannot go on from {folder}: its base and rank are {theirs}, this run's are {(settings.base, settings.rank)}")
    check_sha256(folder / "adapter_model.safetensors", record["sha256"])
    names = find_task(record["task"]).labels
    unknown = [index for index, name in enumerate(names) if name not in task.labels] or list(range(len(names)))
    sources = [[names.index(name)] if name in names else unknown for name in task.labels]
    weights = {key: tensor.float() for key, tensor in load_peft_weights(str(folder), device="cpu").items()}
    mine = get_peft_model_state_dict(model)
    for key, tensor in weights.items():
        if ".lora_" not in key and (len(tensor), len(mine[key])) == (len(names), len(task.labels)):  # the layer of the classes
            weights[key] = torch.stack([tensor[rows].mean(dim=0) for rows in sources])
    set_peft_model_state_dict(model, weights)
    name = str(start) if start in ALL_TASKS else "FOLDER"
    return {"start": name, "start_sha256": record["sha256"], "start_command": record["command"]}


def running_mean(averaging: float, mean: torch.Tensor, weights: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """The mean of some weights with those of one more step; the first are soon forgotten."""
    return mean.lerp(weights, 1 - min(averaging, float((steps + 1) / (steps + 10))))


def batch_order(lengths: list[int], settings: Settings) -> list[list[int]]:
    """Row numbers of each step's batch: shuffled each epoch, rows of like length together, so that little is padded."""
    from transformers.trainer_pt_utils import get_length_grouped_indices

    size, generator = settings.batch_size, torch.Generator().manual_seed(settings.seed)
    steps = max(1, int(settings.epochs * len(lengths) / size + 0.5))
    order: list[int] = []
    while len(order) < settings.epochs * len(lengths):
        order += get_length_grouped_indices(lengths, size, generator=generator)
    return [order[at : at + size] for at in range(0, steps * size, size)]


def save_checkpoint(path: Path, run: dict[str, Any], parts: dict[str, Any], seconds: float) -> None:
    """Write the state of a run so that a kill at any moment leaves either the old checkpoint or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    with whole(path) as aside:
        torch.save(state | {"run": run, "seconds": seconds}, aside)


def restore(path: Path, run: dict[str, Any], parts: dict[str, Any]) -> float:
    """Load a checkpoint, if there is one, into the parts of a run; the seconds already spent."""
    if not path.is_file():
        return 0.0
    try:
        with ZipFile(path) as file:
            if file.testzip():
                raise ValueError(f"the checksum of {file.testzip()} is not that of its content")
        state = torch.load(path, weights_only=True, map_location="cpu")
        theirs = state["run"]
        if theirs == run:
            for name, part in parts.items():
                part.load_state_dict(state[name])
    except (RuntimeError, EOFError, UnpicklingError, BadZipFile, KeyError, TypeError, ValueError) as error:
        raise OSError(f"damaged checkpoint {path}: remove it to start again ({type(error).__name__}: {error})") from error
    if theirs != run:
        changed = {k: (v, run.get(k)) for k, v in theirs.items() if run.get(k) != v}
        raise ValueError(f"{path} belongs to a run with other settings {changed} (theirs, yours): remove it or choose another output")
    return state["seconds"]
