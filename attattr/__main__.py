"""``python -m attattr``: train, evaluate and reproduce from the command line.

Several processes: ``accelerate launch --multi_gpu --num_processes P -m attattr finetune ... --device cuda``, or without GPUs
``torchrun --nproc_per_node P -m attattr finetune ...``; likewise ``evaluate``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from .data import data_folder, find_task, read_split
from .evaluation import accelerate, evaluate
from .finetune import Settings, finetune
from .pretrained import load
from .reproduce import RESULTS, Run, reproduce

KINDS: dict[str, Any] = {"int": int, "int | None": int, "float": float}


def parser() -> argparse.ArgumentParser:
    """The three commands and their options."""
    main_parser = argparse.ArgumentParser(prog="python -m attattr", description=__doc__)
    commands = main_parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("finetune", help="train an adapter or a whole model for one task; killed, it goes on where it stopped")
    train.add_argument("--data", required=True, help="folder of real data, or 'glue' for the hub")
    train.add_argument("--output", type=Path, required=True, help="model folder to write")
    train.add_argument("--device", default="cpu", help="cpu, or cuda: one GPU per process")
    for field in fields(Settings):
        option = f"--{field.name.replace('_', '-')}"
        if field.name == "files":
            train.add_argument(option, nargs="+", default=(), help="TSV files below --data (default: the task's train split)")
        elif field.type == "bool":
            train.add_argument(option, action="store_true")
        else:
            needed = field.default is MISSING
            train.add_argument(option, type=KINDS.get(str(field.type), str), required=needed, default=None if needed else field.default)

    score = commands.add_parser("evaluate", help="accuracy of a model, per class, as JSON")
    score.add_argument("--task", required=True)
    score.add_argument("--model", help="task name, model folder or hub id (default: the embedded model of the task)")
    score.add_argument("--data", default="own", help="folder of real data, or 'glue' for the hub (default: our own examples)")
    score.add_argument("--split", default="validation")
    score.add_argument("--device", default="cpu", help="cpu, or cuda: one GPU per process")

    again = commands.add_parser("reproduce", help="compute a dataset-scale result; killed, it goes on where it stopped")
    again.add_argument("name", choices=sorted(RESULTS))
    again.add_argument("--data", required=True, help="folder of real data, or 'glue' for the hub")
    again.add_argument("--task", required=True)
    again.add_argument("--rows", type=int, help="how many rows of the validation split (default: what the result usually takes)")
    again.add_argument("--seed", type=int, default=0)
    again.add_argument(
        "--other",
        nargs="+",
        default=(),
        help="other models of the task, folders that finetune wrote: for fig6 from other seeds; for flow-correlations and saturation any",
    )
    again.add_argument("--output", type=Path, default=data_folder() / "results")
    return main_parser


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    options = vars(parser().parse_args(arguments))
    match options.pop("command"):
        case "finetune":
            chosen: dict[str, Any] = {field.name: options[field.name] for field in fields(Settings)}
            settings = Settings(**chosen | {"files": tuple(options["files"])})
            finetune(settings, options["data"], options["output"], options["device"])
        case "evaluate":
            task = find_task(options["task"])
            rows = read_split(task, options["data"], options["split"])
            model, tokenizer = load(options["model"] or task.name)
            accelerator = accelerate(options["device"])
            found = evaluate(model.to(accelerator.device), tokenizer, rows, task, accelerator=accelerator)
            if accelerator.is_main_process:
                print(json.dumps(found, indent=1))
        case "reproduce":
            name = options.pop("name")
            print(reproduce(name, Run(**options)))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"attattr: {error}")  # in words; a traceback says no more to whoever typed the command
