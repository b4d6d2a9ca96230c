"""The chapters' files as git keeps them: small, stripped, and with the cells that publishing and Colab need."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import nbformat
import plotly.io
import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "book" / "_ext"))
from notebooks import CHECKED, INSTALL, LOCAL_URL, PUBLISHED_INSTALL, chapters, publish, read, stripped, write

if TYPE_CHECKING:
    from pathlib import Path

    from nbformat import NotebookNode

MAX_BYTES = 300_000
MAX_LINES = 15
FORBIDDEN = ("pio.renderers", "renderers.default", "FigureWidget", "os.chdir", "!pip", "%pip", "!wget")


@pytest.fixture(params=chapters(), ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def chapter(path: Path) -> NotebookNode:
    return read(path)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def test_there_are_chapters() -> None:
    assert chapters()


def test_a_chapter_is_valid_small_and_stripped(path: Path, chapter: NotebookNode) -> None:
    nbformat.validate(chapter)
    assert path.stat().st_size < MAX_BYTES
    assert chapter == stripped(chapter), "run `make outputs`"
    ids = [cell.id for cell in chapter.cells]
    assert len(set(ids)) == len(ids)


def test_every_checked_cell_has_an_output_to_check(chapter: NotebookNode) -> None:
    for cell in code_cells(chapter):
        assert CHECKED not in tags(cell) or cell.outputs, f"cell {cell.id} is checked, yet has no output: run `make outputs`"


def test_no_output_kept_is_a_progress_bar(chapter: NotebookNode) -> None:
    """A widget without its kernel is dead on the page, and whether a bar appears depends on the machine."""
    for cell in code_cells(chapter):
        assert not any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in cell.outputs), cell.id


def test_the_first_code_cell_installs_in_colab_and_names_no_repository(chapter: NotebookNode) -> None:
    first = code_cells(chapter)[0]
    assert first.source == INSTALL
    assert "remove-cell" in tags(first)


def test_long_code_is_folded(chapter: NotebookNode) -> None:
    for cell in code_cells(chapter):
        folded = {"hide-input", "hide-cell", "remove-input", "remove-cell"} & set(tags(cell))
        assert folded or len(cell.source.splitlines()) <= MAX_LINES, f"cell {cell.id}: more than {MAX_LINES} lines, tag it hide-input"


def test_the_page_may_show_what_live_cells_last_showed(chapter: NotebookNode) -> None:
    for cell in code_cells(chapter):
        assert not {"run-live", "remove-output"} <= set(tags(cell)), f"cell {cell.id}: run-live with remove-output"


def test_chapters_leave_renderer_and_environment_alone(chapter: NotebookNode) -> None:
    for cell in code_cells(chapter):
        assert not [word for word in FORBIDDEN if word in cell.source], cell.id


def test_what_is_printed_is_kept_in_one_piece_wherever_the_kernel_cut_it() -> None:
    cell = nbformat.v4.new_code_cell("1", metadata={"tags": [CHECKED]}, execution_count=7)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("a", "\n", "b")]
    cell.outputs.append(nbformat.v4.new_output("display_data"))
    (kept,) = stripped(nbformat.v4.new_notebook(cells=[cell])).cells
    assert [(output.output_type, output.get("text")) for output in kept.outputs] == [("stream", "a\nb"), ("display_data", None)]
    assert [output.get("text") for output in cell.outputs] == ["a", "\n", "b", None]  # what was given is left alone


def test_publishing_fills_in_repository_and_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    copy = tmp_path / "book" / "01.ipynb"
    copy.touch()
    write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(INSTALL)]), copy)
    monkeypatch.setattr("notebooks.BOOK", tmp_path / "book")
    publish("someone/fork", "abc123")
    assert read(copy).cells[0].source == PUBLISHED_INSTALL.format(repository="someone/fork", commit="abc123")
    config = (tmp_path / "_config.yml").read_text()
    assert "https://github.com/someone/fork" in config
    assert LOCAL_URL not in config


def run_published(monkeypatch: pytest.MonkeyPatch, there: bool, status: int = 0) -> list[list[str]]:
    """Run the install cell as published, with a pip that only prints; the commands it was given."""
    asked = []

    class Pip:
        def __init__(self, command: list[str], **_: object) -> None:
            asked.append(command)
            self.stdout, self.returncode = (
                iter(["Collecting peft\n", "  noise\n", "ERROR: no network\n" if status else "Installing\n"]),
                status,
            )

        def __enter__(self) -> Pip:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("subprocess.Popen", Pip)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if there else None)
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    exec(PUBLISHED_INSTALL.format(repository="me/book", commit="abc"), {})
    return asked


def test_the_published_cell_says_what_it_does_and_installs_its_own_commit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = run_published(monkeypatch, there=False)
    assert command[1:4] == ["-m", "pip", "install"] and command[-1] == "attattr @ git+https://github.com/me/book@abc"
    said = capsys.readouterr().out.splitlines()
    assert "about a minute" in said[0] and said[1:] == ["Collecting peft", "Installing", "Installed. Now run the chapter."]


def test_the_published_cell_does_nothing_twice_and_stops_where_pip_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_published(monkeypatch, there=True) == []
    assert capsys.readouterr().out == ""
    with pytest.raises(RuntimeError, match="pip failed"):
        run_published(monkeypatch, there=False, status=1)
    assert "ERROR: no network" in capsys.readouterr().out


def test_in_a_notebook_host_the_published_cell_shows_figures_as_the_pages_do(monkeypatch: pytest.MonkeyPatch) -> None:
    run_published(monkeypatch, there=True)
    before = plotly.io.renderers.default
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    try:
        exec(PUBLISHED_INSTALL.format(repository="me/book", commit="abc"), {})
        assert plotly.io.renderers.default == "attattr"
    finally:
        plotly.io.renderers.default = before
