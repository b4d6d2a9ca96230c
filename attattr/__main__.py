"""``python -m attattr``: train, evaluate and reproduce from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from .data import SPLITS, data_folder, find_task, read_rows
from .finetune import Settings, evaluate, finetune
from .pretrained import load
from .reproduce import RESULTS, Run, reproduce

KINDS: dict[str, Any] = {"int": int, "int | None": int, "float": float}


def parser() -> argparse.ArgumentParser:
    """The three commands and their options."""
    main_parser = argparse.ArgumentParser(prog="python -m attattr", description=__doc__)
    commands = main_parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("finetune", help="train an adapter or a whole model for one task; killed, it goes on where it stopped")
    train.add_argument("--data", type=Path, required=True, help="folder that holds the files")
    train.add_argument("--output", type=Path, required=True, help="model folder to write")
    train.add_argument("--device", default="cpu")
    for field in fields(Settings):
        option = f"--{field.name.replace('_', '-')}"
        if field.name == "files":
            train.add_argument(option, nargs="+", required=True, help="TSV files below --data, say SST-2/train.tsv")
        else:
            needed = field.default is MISSING
            train.add_argument(option, type=KINDS.get(str(field.type), str), required=needed, default=None if needed else field.default)

    score = commands.add_parser("evaluate", help="accuracy of a model, per class, as JSON")
    score.add_argument("--task", required=True)
    score.add_argument("--model", help="task name, model folder or hub id (default: the embedded model of the task)")
    score.add_argument("--data", type=Path, help="folder of real data (default: our own examples)")
    score.add_argument("--device", default="cpu")

    again = commands.add_parser("reproduce", help="compute a dataset-scale result; killed, it goes on where it stopped")
    again.add_argument("name", choices=sorted(RESULTS))
    again.add_argument("--data", type=Path, required=True, help="folder of real data")
    again.add_argument("--task", required=True)
    again.add_argument("--rows", type=int, default=200)
    again.add_argument("--seed", type=int, default=0)
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
            own = data_folder() / "examples" / f"{task.name}.tsv"
            path = options["data"] / task.folder / SPLITS["validation"] if options["data"] else own
            model, tokenizer = load(options["model"] or task.name, options["device"])
            print(json.dumps(evaluate(model, tokenizer, read_rows(path, task), task), indent=1))
        case "reproduce":
            name = options.pop("name")
            print(reproduce(name, Run(**options)))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"attattr: {error}")  # in words; a traceback says no more to whoever typed the command
