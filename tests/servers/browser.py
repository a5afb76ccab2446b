"""Chromium from Debian, driven by playwright; screenshots are kept for a person to look at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.servers.ports import free_port, wait_until_listening
from tomodex.demo import Question as DemoQuestion
from tomodex.phantom import Truth, write_phantoms

#: Where screenshots are kept; git does not see it.
SCREENSHOTS = Path(os.environ.get("TOMODEX_SCREENSHOTS", "build/screenshots"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real browser without a window."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise AssertionError("chromium is missing: sh tests/servers/install.sh")
    with sync_playwright() as playwright:
        # Its own sandbox needs rights that a container does not give; it sees our pages alone.
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """`tomodex serve` on phantoms of which everything is known."""

    url: str
    truths: Sequence[Truth]

    def expected(self, question: DemoQuestion) -> set[str]:
        """UIDs of the series that a question must find, among those with a segmentation."""
        return {
            truth.series_uid
            for truth in self.truths
            if truth.segmentation_uid and question.answer(truth, truth.structures)
        }


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Phantoms, indexed by the segmentations that come with them, and a server."""
    folder = tmp_path_factory.mktemp("site")
    truths = write_phantoms(folder / "phantoms")
    command = [str(Path(sys.executable).with_name("tomodex")), "--data", str(folder / "data")]
    subprocess.run([*command, "index", str(folder / "phantoms")], check=True, capture_output=True)
    port = free_port()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, "serve", "--port", str(port)], stderr=log)
        try:
            wait_until_listening(port, server)
            yield Site(url=f"http://127.0.0.1:{port}", truths=truths)
        finally:
            server.terminate()
            server.wait(20)


def axe() -> str:
    """The script that looks for barriers in a page."""
    servers = os.environ.get("TOMODEX_SERVERS", str(Path.home() / ".cache/tomodex-servers"))
    file = Path(servers) / "axe-core-4.14.1/node_modules/axe-core/axe.min.js"
    if not file.is_file():
        raise AssertionError(f"{file} is missing: sh tests/servers/install.sh")
    return file.read_text(encoding="utf-8")
