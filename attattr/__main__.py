"""``python -m attattr``: train, evaluate and reproduce from the command line."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from .finetune import Settings, finetune


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m attattr", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("finetune", help="train an adapter or a whole model for one task")
    train.add_argument("--data", type=Path, required=True, help="folder that holds the files")
    train.add_argument("--output", type=Path, required=True, help="model folder to write")
    train.add_argument("--device", default="cpu")
    for field in fields(Settings):
        kind = {"int": int, "float": float, "int | None": int}.get(str(field.type), str)
        option = f"--{field.name.replace('_', '-')}"
        if field.name == "files":
            train.add_argument(option, nargs="+", required=True, help="TSV files below --data, say SST-2/train.tsv")
        elif field.name == "task":
            train.add_argument(option, required=True)
        else:
            train.add_argument(option, type=kind, default=field.default)
    options = vars(parser.parse_args(arguments))
    settings = Settings(**{f.name: tuple(options[f.name]) if f.name == "files" else options[f.name] for f in fields(Settings)})
    finetune(settings, options["data"], options["output"], options["device"])


if __name__ == "__main__":
    main()
