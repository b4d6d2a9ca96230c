"""Fine-tuning: LoRA adapters or whole models, resumable to the same result, and accuracy per class.

A training step depends only on its number (data order, dropout and learning rate are derived from seed and step), so a
run that was killed and goes on from its last checkpoint ends where an unbroken one would have ended.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from .data import Task, digest, find_task, read_rows, read_split
from .evaluation import accelerate, encode, evaluate, pair
from .model_folder import write_model
from .pretrained import adapter_folder, check_sha256, load_base

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Row = dict[str, str]
    Parameters = dict[str, torch.nn.Parameter]
    Weights = dict[str, torch.Tensor]
    Optimizer = torch.optim.Optimizer


KNOWN_TO_PEFT = ("classifier", "score")  # heads that peft keeps in full by itself


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result of a training run."""

    task: str
    files: tuple[str, ...] = ()  # below the data folder; none: the train split of the task
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


def finetune(settings: Settings, data: str | Path, output: Path, device: str = "cpu", checkpoint_every: int = 200) -> PreTrainedModel:
    """Train ``settings.task`` and write a model folder that `attattr.load` takes.

    Killed and called again with the same arguments, it goes on from its last checkpoint and ends in the same weights.
    Started by ``accelerate launch --multi_gpu --num_processes P -m attattr finetune ...``, or without GPUs by
    ``torchrun --nproc_per_node P -m attattr finetune ...``, every process takes its share of each batch.

    Args:
        settings: everything that decides the result.
        data: where the rows are, as `attattr.examples` takes it: a folder or ``"glue"``.
        output: the model folder to write; an unfinished run keeps its checkpoint there.
        device: ``"cpu"``, or ``"cuda"`` for one GPU per process.
        checkpoint_every: steps between checkpoints.

    Raises:
        ValueError: nothing to train on; a checkpoint of other settings, data or shape is in ``output``.
        OSError: a data file, the base or the adapter to start from is missing, damaged or of another shape.
    """
    task = find_task(settings.task)
    if settings.epochs <= 0 or settings.batch_size < 1:
        raise ValueError(f"nothing to train on: epochs={settings.epochs}, batch_size={settings.batch_size}")
    if settings.precision not in ("float32", "bfloat16"):
        raise ValueError(f"unknown precision {settings.precision!r}: expected 'float32' or 'bfloat16'")
    if settings.both_orders and len(task.columns) < 2:
        raise ValueError(f"both_orders is for pairs: {task.name!r} has one column, {task.columns[0]!r}")
    rows = [row for file in settings.files for row in read_rows(Path(data) / file, task)] or read_split(task, data, "train")
    dev = read_split(task, data, "validation")  # now: a missing file should not show after hours of training
    accelerator = accelerate(device)
    run = asdict(settings) | {"data_sha256": digest(rows), "processes": accelerator.num_processes}
    available = len(rows)
    held_out, rows = hold_out(rows, task, settings)
    if not rows or not 0 <= settings.holdout < available:
        raise ValueError(f"nothing to train on: {available} rows, holdout={settings.holdout}, rows={settings.rows}")
    if settings.both_orders:
        turned = dict(zip(task.columns, reversed(task.columns), strict=True))
        rows += [{turned.get(name, name): value for name, value in row.items()} for row in rows]
    torch.manual_seed(settings.seed)
    model, tokenizer, new = load_base(task, settings.base)
    set_dropout(model, settings.dropout)
    if settings.rank:
        model = add_adapter(model, settings.rank, new)
    if settings.start:
        run["start_sha256"] = go_on_from(adapter_folder(settings.start), model, task, settings)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model = model.to(accelerator.device)
    parallel = accelerator.prepare_model(model)
    encoded = [tokenizer(*pair(row, task), truncation=True, max_length=settings.max_length)["input_ids"] for row in rows]
    schedule = batch_order([len(ids) for ids in encoded], settings)
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    checkpoint = output / "checkpoint" / "state.pt"
    start, seconds = restore(checkpoint, run, parameters, average, optimizer)
    warmup = max(1, int(settings.warmup * len(schedule)))
    began = time.perf_counter() - seconds
    steps = range(start, len(schedule))
    hidden = not accelerator.is_main_process
    progress = tqdm(steps, initial=start, total=len(schedule), desc=f"train {task.name}", unit="step", mininterval=5, disable=hidden)
    for step in progress:
        rate = min((step + 1) / warmup, (len(schedule) - step) / max(1, len(schedule) - warmup))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        torch.manual_seed(settings.seed * 1_000_003 + step + accelerator.process_index * 7_919_000_003)  # see the module's first lines
        batch = [rows[i] for i in schedule[step]]
        mine = batch[accelerator.process_index :: accelerator.num_processes]
        # Processes average their gradients: weighted by its rows, the shares add up to the mean over the batch.
        weight = len(mine) * accelerator.num_processes / len(batch)
        loss = weight * batch_loss(parallel.train(), tokenizer, mine or batch[:1], task, settings)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        decay = min(settings.averaging, (step + 1) / (step + 10))  # the first weights are soon forgotten
        with torch.no_grad():
            for name, parameter in parameters.items():
                average[name].lerp_(parameter, 1 - decay)
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % checkpoint_every == 0 and accelerator.is_main_process:
            save_checkpoint(checkpoint, run, parameters, average, optimizer, step + 1, time.perf_counter() - began)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(average[name])
    model.eval()
    report = {"dev": evaluate(model, tokenizer, dev, task, settings.max_length, accelerator)}
    if held_out:
        report["held_out"] = evaluate(model, tokenizer, held_out, task, settings.max_length, accelerator)
    if accelerator.is_main_process:
        run |= {
            "command": command(settings, accelerator.num_processes),
            "rows_trained": len(rows),
            "seconds": round(seconds),
            "device": accelerator.device.type,
        }
        write_model(model, tokenizer, output, run, report)
        shutil.rmtree(checkpoint.parent, ignore_errors=True)
    accelerator.wait_for_everyone()
    return model


def command(settings: Settings, processes: int) -> str:
    """The command that makes this model again."""
    launcher = f"torchrun --nproc_per_node {processes}" if processes > 1 else "python"
    words = [f"{launcher} -m attattr finetune --data FOLDER --output FOLDER"]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            words.append(f"--{field.name.replace('_', '-')}")
            words += [] if value is True else value if field.name == "files" else [str(value)]
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


def set_dropout(model: PreTrainedModel, probability: float) -> None:
    """Use one dropout probability everywhere in the model."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability


def add_adapter(model: PreTrainedModel, rank: int, new: Sequence[str]) -> PreTrainedModel:
    """LoRA on every linear layer of the base; its head, and what else of it is ``new``, is trained and kept in full."""
    from peft import LoraConfig, get_peft_model

    head = [name for name, part in model.named_children() if name != model.base_model_prefix and list(part.parameters())]
    full = head + [name for name in new if name.startswith(f"{model.base_model_prefix}.")]
    options = {"task_type": "SEQ_CLS", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "target_modules": "all-linear"}
    outside = "|".join(map(re.escape, full))
    config = LoraConfig(**options, modules_to_save=[name for name in full if name not in KNOWN_TO_PEFT] or None)
    config.exclude_modules = rf"({outside})(\..*)?"
    return get_peft_model(model, config)


def go_on_from(folder: Path, model: PreTrainedModel, task: Task, settings: Settings) -> str:
    """Copy an adapter that was trained on another task into ``model``, and of its classifier what the class names allow; its sha256.

    A class of the same name keeps its weights; the others start from the mean of the classes that found no namesake.
    """
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
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
    return record["sha256"]


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
    """Mean cross entropy of one batch."""
    device = next(model.parameters()).device
    inputs = encode(tokenizer, batch, task, settings.max_length).to(device)
    labels = torch.tensor([task.labels.index(row["label"]) for row in batch], device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        logits = model(**inputs).logits
    return torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)


def save_checkpoint(
    path: Path, run: dict, parameters: Parameters, average: Weights, optimizer: Optimizer, step: int, seconds: float
) -> None:
    """Write the state of a run so that a kill at any moment leaves either the old checkpoint or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "run": run,
        "parameters": {name: p.detach().cpu() for name, p in parameters.items()},
        "average": {name: p.cpu() for name, p in average.items()},
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def restore(path: Path, run: dict, parameters: Parameters, average: Weights, optimizer: Optimizer) -> tuple[int, float]:
    """Load a checkpoint into parameters, their average and optimizer; the step to go on with and the seconds already spent."""
    if not path.is_file():
        return 0, 0.0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if set(state) != {"run", "parameters", "average", "optimizer", "step", "seconds"}:
            raise KeyError(f"it holds {sorted(state)}")
    except (RuntimeError, EOFError, UnpicklingError, KeyError, TypeError) as error:
        raise OSError(f"damaged checkpoint {path}: remove it to start again ({type(error).__name__}: {error})") from error
    if state["run"] != run:
        changed = {k: (v, run.get(k)) for k, v in state["run"].items() if run.get(k) != v}
        raise ValueError(f"{path} belongs to a run with other settings {changed} (theirs, yours): remove it or choose another output")
    shapes, expected = ({name: tuple(p.shape) for name, p in of.items()} for of in (state["parameters"], parameters))
    if shapes != expected:
        name = next(iter(dict(set(shapes.items()) ^ set(expected.items()))))
        raise ValueError(f"{path} has another shape: {name} is {shapes.get(name)}, expected {expected.get(name)}; remove it")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["parameters"][name])
            average[name].copy_(state["average"][name])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]
