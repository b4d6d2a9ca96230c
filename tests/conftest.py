"""What all tests share: how chapters are compared, and where the built book is."""

from __future__ import annotations

import os
import resource
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent

# tests/test_properties.py: the same few examples every time, or, by hand, many others (ATTATTR_HYPOTHESIS=thorough, or pytest's
# --hypothesis-profile=thorough; with --hypothesis-seed=N they can be had again). A model's forward pass has no deadline.
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
settings.register_profile("quick", max_examples=8, derandomize=True, database=None, deadline=None, suppress_health_check=SLOW)
settings.register_profile("thorough", max_examples=500, database=None, deadline=None, print_blob=True, suppress_health_check=SLOW)
settings.load_profile(os.environ.get("ATTATTR_HYPOTHESIS", "quick"))


class Comparison:
    """Of checked cells, compare numbers and text only: warnings on stderr and HTML with random ids differ between machines."""

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        if hasattr(collector, "skip_compare"):  # only nbval's notebooks have it
            collector.skip_compare += ("stderr", "text/html", "application/vnd.plotly.v1+json")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Comparison())  # a hook written here as such would see tests/ only, and the chapters are in book/


@pytest.fixture
def file_size_limit():
    """Let no file grow beyond so many bytes inside a with-block: what a full disk does, at a place that can be chosen."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture(scope="session")
def built_book() -> Path:
    """The folder of the built book; ``make test`` builds it before it runs pytest."""
    folder = ROOT / "_build" / "html"
    if not (folder / "book" / "index.html").is_file():
        pytest.fail("no built book: run `make book` first")
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser without a window; where there is none, tests that need it are skipped, and say so."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        if os.environ.get("ATTATTR_REQUIRE_CHROMIUM"):
            pytest.fail("no Chromium, and ATTATTR_REQUIRE_CHROMIUM is set")
        warnings.warn("NOTHING WAS CHECKED IN A BROWSER: no Chromium in PATH (apt-get install chromium)", stacklevel=1)
        pytest.skip("no Chromium in PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        yield browser
        browser.close()
