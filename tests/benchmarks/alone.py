"""Every chapter as Colab runs it: alone, in an empty folder, in a fresh environment, from its own first cell.

python tests/benchmarks/alone.py FOLDER [CHAPTER ...]

FOLDER/environment gets torch and what Colab has (made once; a package index is needed), FOLDER/chapters the chapters as they are
published, with this clone for their repository. attattr is uninstalled before each chapter, so that each one installs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "book" / "_ext"))
from notebooks import INSTALL, PUBLISHED_INSTALL, chapters, read

USUAL = "datasets ipykernel ipywidgets matplotlib networkx nbformat numpy pandas peft plotly scikit-learn torch==2.13.0 tqdm transformers"


def published(path: Path, commit: str) -> nbformat.NotebookNode:
    """A chapter with the first cell that a fork would give it, which installs from this clone."""
    notebook = read(path)
    (first,) = [cell for cell in notebook.cells if cell.source == INSTALL]
    cell = PUBLISHED_INSTALL.format(repository="me/attattr", commit=commit)
    first.source = cell.replace("git+https://github.com/me/attattr", f"git+file://localhost{ROOT}")
    return notebook


def run(notebook: nbformat.NotebookNode, python: Path, folder: Path) -> None:
    """Execute it in that environment and folder, as on Colab."""
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(argv=[str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python")
    client = NotebookClient(notebook, km=manager, timeout=900, resources={"metadata": {"path": str(folder)}})
    try:
        client.execute(env=os.environ | {"COLAB_RELEASE_TAG": "test", "PYTHONPATH": ""})
    finally:
        manager.shutdown_kernel(now=True)


def main(folder: Path, names: list[str]) -> None:
    """Run the chapters, and print of each how long it took, what was installed, and what its figures are."""
    python = folder / "environment" / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", folder / "environment"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *USUAL.split()], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    empty = folder / "chapters"
    empty.mkdir(exist_ok=True)
    for path in chapters():
        if names and path.stem not in names:
            continue
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "attattr"], check=True)
        notebook, started = published(path, commit), time.monotonic()
        run(notebook, python, empty)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        drawn = [output.data for output in outputs if "plotly" in str(output.get("data"))]
        with_controls = sum("plotly-figure" in data.get("text/html", "") for data in drawn)
        print(f"{path.stem}: {time.monotonic() - started:.0f} s; {len(drawn)} figures, {with_controls} with controls and words", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
