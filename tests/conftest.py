"""What all tests share: how chapters are compared, and where the built book is."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Comparison:
    """Of checked cells, compare numbers and text only: warnings on stderr and HTML with random ids differ between machines."""

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        if hasattr(collector, "skip_compare"):  # only nbval's notebooks have it
            collector.skip_compare += ("stderr", "text/html", "application/vnd.plotly.v1+json")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Comparison())  # a hook written here as such would see tests/ only, and the chapters are in book/


@pytest.fixture(scope="session")
def built_book() -> Path:
    """The folder of the built book; ``make test`` builds it before it runs pytest."""
    folder = ROOT / "_build" / "html"
    if not (folder / "book" / "index.html").is_file():
        pytest.fail("no built book: run `make book` first")
    return folder
