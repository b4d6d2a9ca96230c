"""What is done to the chapters' files: execute them, keep them small in git, fill in where they are published.

python book/_ext/notebooks.py execute              run every chapter afresh, one process per core, into the cache jupyter-book reads
python book/_ext/notebooks.py store                write the outputs of checked cells, as just executed, into the chapters
python book/_ext/notebooks.py strip                remove every output but those of checked cells
python book/_ext/notebooks.py publish OWNER/NAME COMMIT   fill in repository and commit (in CI, on its own copy)
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from nbformat import NotebookNode
from nbval.plugin import coalesce_streams

BOOK = Path(__file__).parent.parent
CACHE = BOOK.parent / "_build" / ".jupyter_cache"  # where jupyter-book looks, see _config.yml
TIMEOUT = 300  # seconds for one cell
CHECKED = "nbval-check-output"  # nbval compares the outputs of cells with this tag
KEPT_METADATA = ("tags", "jupyter", "cellView")  # the last two fold solutions in JupyterLab and in Colab
LOCAL_URL = "https://github.com/-local-/attattr"  # stands in _config.yml: no account can be called "-local-"

# First code cell of each chapter as committed; it names no repository, since only publishing knows in which one it runs.
INSTALL = """import importlib.util
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("attattr") is None:
    raise ModuleNotFoundError("Open this chapter with the rocket button of the published book: that copy installs attattr.")"""
PUBLISHED_INSTALL = """# This notebook runs on its own: in Colab, on Kaggle, in any Jupyter. What is there is not installed again.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("attattr") is None:
    print("Installing attattr and what it needs. With torch there (Colab, Kaggle): about a minute; else a few minutes.", flush=True)
    source = "attattr @ git+https://github.com/{repository}@{commit}"
    command = [sys.executable, "-m", "pip", "install", "--progress-bar", "off", source]
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout:
            said.append(line)
            if line.startswith(("Collecting", "Building", "Installing")):
                print(line.strip()[:120], flush=True)
    if pip.returncode:
        print(*said[-15:], sep="")
        raise RuntimeError("pip failed, see above. On Kaggle: Settings, Internet on. Then run this cell again.")
    importlib.invalidate_caches()
    print("Installed. Now run the chapter.")
if any(name in os.environ for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "JPY_SESSION_NAME")):
    from attattr.book.pages import show_as_pages

    show_as_pages()  # figures with the controls and descriptions of the book"""


def chapters() -> list[Path]:
    """The notebooks of the book."""
    return sorted(BOOK.glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    """One notebook, as nbformat 4."""
    return nbformat.read(path, as_version=4)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write one notebook, unless the file already says the same."""
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def execute() -> None:
    """Run every chapter; one that fails is left out of the cache, so that jupyter-book runs it once more and reports it."""
    shutil.rmtree(CACHE, ignore_errors=True)  # it would not notice a change in attattr/ or data/
    cache = get_cache(CACHE)
    for path in chapters():
        cache.add_nb_to_project(str(path))
    done = load_executor("local-parallel", cache).run_and_cache(timeout=TIMEOUT)
    print("executed:", *(Path(path).stem for path in done.succeeded))


def stripped(notebook: NotebookNode) -> NotebookNode:
    """The notebook as git keeps it: no outputs but those of checked cells, no traces of the editor."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT_METADATA if key in cell.metadata})
        if cell.cell_type != "code":
            continue
        if CHECKED not in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = [], None
        elif cell.outputs:
            cell.outputs = coalesce_streams(cell.outputs)  # where the kernel cuts what is printed changes from run to run
            cell.execution_count = 1  # nbval takes a cell without a count as never run; the number itself means nothing
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = 1
    return notebook


def strip() -> None:
    """Bring every chapter into the form that git keeps."""
    for path in chapters():
        write(stripped(read(path)), path)


def store() -> None:
    """Write the outputs of checked cells, as last executed, into the chapters."""
    cache = get_cache(CACHE)
    for path in chapters():
        try:
            _, executed = cache.merge_match_into_notebook(read(path))
        except KeyError:
            sys.exit(f"{path.name} has not been executed as it now is, or failed: run it first")
        write(stripped(executed), path)


def publish(repository: str, commit: str) -> None:
    """Name the repository and the commit in the install cells and in _config.yml."""
    for path in chapters():
        notebook = read(path)
        for cell in notebook.cells:
            if cell.source == INSTALL:
                cell.source = PUBLISHED_INSTALL.format(repository=repository, commit=commit)
        write(notebook, path)
    config = BOOK.parent / "_config.yml"
    config.write_text(config.read_text(encoding="utf-8").replace(LOCAL_URL, f"https://github.com/{repository}"), encoding="utf-8")


if __name__ == "__main__":  # the processes that execute chapters import this file, too
    commands = {function.__name__: function for function in (execute, store, strip, publish)}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
