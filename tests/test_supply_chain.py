"""What the package depends on may be used by all who may use it, and its wheel holds what is named, not what lies about."""

import re
import shutil
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PERMISSIVE = r"Apache|MIT|BSD|ISC|PSF|MPL|Zlib|CC0|BSL"


def with_theirs(requirements):
    """The installed packages that are required, and those that they require, and so on: by name."""
    found, asked = {}, [Requirement(line) for line in requirements]
    while asked:
        required = asked.pop()
        if required.name not in found and (required.marker is None or required.marker.evaluate({"extra": ""})):
            found[required.name] = distribution(required.name)
            asked += [Requirement(line) for line in found[required.name].requires or []]
    return found


def licence(package):
    """All that a package says of its licence."""
    said = [package.metadata.get("License-Expression"), *(package.metadata.get_all("Classifier") or []), package.metadata.get("License")]
    return "\n".join(line for line in said if line and (line is not said[-1] or len(line) < 200) and not line.startswith("Topic"))


def is_copyleft(words):
    """Whether whoever uses a package has to publish under its licence: GPL, and nothing else to choose."""
    return bool(re.search(r"GPL|General Public", words)) and not re.search(rf"\bOR\b|{PERMISSIVE}", words)


def test_no_dependency_asks_for_more_than_our_own_licence():
    packages = with_theirs(PROJECT["dependencies"])
    assert {"torch", "tokenizers", "sentence-transformers"} <= set(packages)
    words = {name: licence(package) for name, package in packages.items()}
    assert not [name for name, said in words.items() if is_copyleft(said)]
    assert [name for name, said in words.items() if not re.search(PERMISSIVE, said)] == []


def test_a_licence_without_a_choice_is_seen():
    assert is_copyleft("License :: OSI Approved :: GNU General Public License v2 (GPLv2)\nGNU General Public License (GPL)")
    assert is_copyleft("GPL-2.0-or-later")
    assert not is_copyleft("MIT OR GPL-2.0-or-later")


def test_versions_that_run_what_they_read_are_not_allowed():
    lowest = {Requirement(line).name: str(Requirement(line).specifier) for line in PROJECT["dependencies"]}
    assert lowest["torch"] == ">=2.6"  # before, torch.load(weights_only=True) could be made to run code
    assert lowest["tqdm"] == ">=4.66.3"
    assert "igraph" not in lowest


def files_of(builder, folder):
    return {file.distribution_path for file in builder(str(folder)).recurse_included_files()}


@pytest.mark.parametrize("builder", [WheelBuilder, SdistBuilder])
def test_what_is_not_named_does_not_go_in(builder, tmp_path):
    folder = tmp_path / "checkout"
    for part in ("attattr", "data"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "checkpoint"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, folder)
    before = files_of(builder, folder)
    inside = "attattr/data" if builder is WheelBuilder else "data"
    wanted = [f"{inside}/models/{task}/{file}" for task in ("sst2", "agreement") for file in ("README.md", "adapter_model.safetensors")]
    wanted += ["attattr/tap.py", "attattr/book/reproduce/flows.py", "attattr/book/training/model_card.md", f"{inside}/examples/rte.tsv"]
    wanted += [f"{inside}/lexicon/negative-words.txt", f"{inside}/results/accuracy-sst2.json", f"{inside}/paper/claims.json"]
    assert before >= set(wanted)
    expected = {path.relative_to(folder) for part in ("attattr", "data") for path in (folder / part).rglob("*") if path.is_file()}
    assert {Path(path) for path in before if path.startswith(("attattr/", "data/"))} == {
        Path(inside, *path.parts[1:]) if path.parts[0] == "data" else path for path in expected
    }  # all that is there today is named
    places = [f"data/{place}".rstrip("/") for place in ("", "models", "models/sst2", "lexicon", "examples", "paper")]
    for place in ("", "attattr", "attattr/book/training", *places):
        for name in (".env", "notes.txt", "id_rsa", "state.pt", "model.bin"):
            (folder / place / name).write_text("secret")
    (folder / "data" / "mine").mkdir()
    (folder / "data" / "mine" / "letters.json").write_text("{}")
    assert files_of(builder, folder) == before
