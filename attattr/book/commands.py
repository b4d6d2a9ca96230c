"""``python -m attattr``: train, evaluate and reproduce from the command line.

Several processes: ``accelerate launch --multi_gpu --num_processes P -m attattr finetune ... --device cuda``, or without GPUs
``torchrun --nproc_per_node P -m attattr finetune ...``; likewise ``evaluate``.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from transformers import HfArgumentParser

from ..data import data_folder, find_task, read_split
from ..pretrained import load
from .reproduce import RESULTS, Run, reproduce
from .training.evaluation import accelerate, evaluate
from .training.finetune import Settings, finetune


def parser() -> HfArgumentParser:
    """The three commands and their options."""
    main_parser = HfArgumentParser(prog="python -m attattr", description=__doc__)
    commands = main_parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("finetune", dataclass_types=Settings, help="train a model for a task; killed, it goes on where it stopped")
    train.add_argument("--data", required=True, help="folder of real data, or 'glue' for the hub")
    train.add_argument("--output", type=Path, required=True, help="model folder to write")
    train.add_argument("--device", default="cpu", help="cpu, or cuda: one GPU per process")

    score = commands.add_parser("evaluate", help="accuracy of a model, per class, as JSON")
    score.add_argument("--task", required=True)
    score.add_argument("--model", help="task name, model folder or hub id; none: the embedded model of the task")
    score.add_argument("--data", default="own", help="folder of real data, 'glue' for the hub, or 'own' for our own examples")
    score.add_argument("--split", default="validation")
    score.add_argument("--device", default="cpu", help="cpu, or cuda: one GPU per process")

    again = commands.add_parser("reproduce", help="compute a dataset-scale result; killed, it goes on where it stopped")
    again.add_argument("name", choices=sorted(RESULTS))
    again.add_argument("--data", required=True, help="folder of real data, or 'glue' for the hub")
    again.add_argument("--task", required=True)
    again.add_argument("--rows", type=int, help="how many rows of the validation split; none: what the result usually takes")
    again.add_argument("--seed", type=int, default=0)
    text = "other models of the task, folders that finetune wrote: for fig6 from other seeds; for flow-correlations and saturation any"
    again.add_argument("--other", nargs="+", default=(), help=text)
    again.add_argument("--output", type=Path, default=data_folder() / "results")
    return main_parser


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    options = vars(parser().parse_args(arguments))
    match options.pop("command"):
        case "finetune":
            settings = Settings(**{field.name: options.pop(field.name) for field in fields(Settings)})
            finetune(settings, **options)
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
