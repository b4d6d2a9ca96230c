"""``python -m attattr``: attribute, evaluate, train and reproduce from the command line.

Several processes: ``accelerate launch --multi_gpu --num_processes P -m attattr finetune ... --device cuda``, or without GPUs
``torchrun --nproc_per_node P -m attattr finetune ...``; likewise ``evaluate`` and ``reproduce``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import pandas
from transformers import HfArgumentParser

from .. import __version__
from ..attribution import attribute
from ..connections import Attribution, save
from ..data import examples, read_utf8, whole
from ..decision import class_names
from ..pretrained import load
from .files import alone
from .reproduce import RESULTS, Run, reproduce
from .reproduce.running import Request
from .training.evaluation import accelerate, evaluate
from .training.finetune import Settings, finetune

CSV = "a CSV file in UTF-8 whose first line names the columns"


def parser() -> HfArgumentParser:
    """The four commands and their options."""
    main_parser = HfArgumentParser(prog="python -m attattr", description=__doc__)
    main_parser.add_argument("--version", action="version", version=f"attattr {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True)

    explain = commands.add_parser("attribute", help="attribute the decision on each row of a CSV file to attention connections")
    explain.add_argument(
        "--target", default="predicted", help="name or id of the class whose probability is explained; none: the predicted"
    )
    text = "file to write: if its name ends in .csv the strongest connections, else all that attattr.Attribution.load reads"
    explain.add_argument("--output", type=Path, required=True, help=text)

    score = commands.add_parser("evaluate", help="accuracy of a model, per class, as JSON: on a task of the book, or on a CSV file")
    score.add_argument("--task", help="a task of the book; none: a CSV file and a model are given")
    score.add_argument("--data", default="own", help="of a task: folder of real data, 'glue' for the hub, or 'own' for our own examples")
    score.add_argument("--split", default="validation", help="of a task")
    score.add_argument("--label", default="label", help="column of the labels: names or ids of the model's classes")

    train = commands.add_parser("finetune", dataclass_types=Settings, help="train a model for a task; killed, it goes on where it stopped")
    train.add_argument("--data", required=True, help="folder of real data, or 'glue' for the hub")
    train.add_argument("--output", type=Path, required=True, help="model folder to write")

    again = commands.add_parser("reproduce", dataclass_types=Request, help="compute a result; killed, it goes on where it stopped")
    again.add_argument("name", choices=sorted(RESULTS))

    for command in (explain, score):
        command.add_argument("--model", required=command is explain, help="task name, model folder or hub id; none: that of the task")
        command.add_argument("--size", default="small", help="of a task's model: small or base")
        command.add_argument("--csv", type=Path, required=command is explain, help=CSV)
        command.add_argument(
            "--column", action="append", help="column of the texts, given twice for pairs; none: text, sentence and the like"
        )
        command.add_argument("--truncation", action="store_true", help="shorten texts that are too long instead of refusing them")
    for command in (explain, score, train):
        command.add_argument("--device", default="cpu", help="cpu, cuda (one GPU per process) or mps")
    return main_parser


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    options = vars(parser().parse_args(arguments))
    match options.pop("command"):
        case "attribute":
            attribute_rows(**options)
        case "evaluate":
            evaluate_rows(**options)
        case "finetune":
            settings = Settings(**{field.name: options.pop(field.name) for field in fields(Settings)})
            finetune(settings, **options)
        case "reproduce":
            name, accelerator = options.pop("name"), accelerate(options["device"])
            path = reproduce(name, Run(**options, accelerator=accelerator))
            if accelerator.is_main_process and not options["dry_run"]:
                print(path)


def attribute_rows(
    csv: Path, column: list[str] | None, model: str, size: str, target: str, truncation: bool, device: str, output: Path
) -> None:
    """Attribute every row of a file, and print how many of the attributions are certified."""
    rows = read_csv(csv)
    with alone(output):
        opened, tokenizer = load(model, str(accelerate(device).device), size)
        aim = int(target) if target.isdecimal() and target not in class_names(opened) else target
        atts = attribute(opened, tokenizer, rows, aim, columns=column, truncation=truncation, progress=True)
        with whole(output) as aside:
            strongest_of(atts).to_csv(aside, index=False) if output.suffix == ".csv" else save(atts, aside)
    print(f"{output}: {len(atts)} attributions, {sum(att.certified for att in atts)} of them certified")


def strongest_of(atts: Sequence[Attribution]) -> pandas.DataFrame:
    """The strongest connections of each row with the names of their tokens, what was explained, and whether it is certified."""
    tables = [att.named(att.strongest()).assign(label=att.label, certified=att.certified) for att in atts]
    return pandas.concat(tables, keys=range(len(tables)), names=["row"]).reset_index("row")


def evaluate_rows(
    csv: Path | None,
    task: str | None,
    data: str,
    split: str,
    column: list[str] | None,
    label: str,
    truncation: bool,
    model: str | None,
    size: str,
    device: str,
) -> None:
    """Print how good a model is on the rows of a file, or of a task."""
    if not task and not (csv and model):
        raise ValueError("nothing to evaluate: expected --task, or --model and --csv")
    rows: Any = read_csv(csv) if csv else examples(str(task), data, split)
    reading: dict[str, Any] = {"columns": column, "label": label, "truncation": truncation} if csv else {}
    accelerator = accelerate(device)
    opened, tokenizer = load(model or str(task), size=size)
    found = evaluate(opened.to(accelerator.device), tokenizer, rows, accelerator=accelerator, **reading)
    if accelerator.is_main_process:
        print(json.dumps(found, indent=1))


def read_csv(path: Path) -> pandas.DataFrame:
    """The rows of a CSV file, every cell a text. Raises ``OSError`` or ``ValueError`` for what is none."""
    table = pandas.read_csv(StringIO(read_utf8(path, CSV)), dtype=str, keep_default_na=False)
    if not isinstance(table.index, pandas.RangeIndex):
        raise ValueError(f"{path} has rows of more cells than the columns {list(table.columns)}: expected as many, commas in quotes")
    return table
