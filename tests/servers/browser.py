"""Chromium from Debian, driven by playwright; screenshots are kept for a person to look at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
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


#: A token for each role, of the site that asks who somebody is.
TOKENS = {role: role * 4 for role in ("viewer", "researcher", "operator")}


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sequence[Truth]]:
    """A data folder of phantoms, indexed by the segmentations that come with them."""
    folder = tmp_path_factory.mktemp("site")
    truths = write_phantoms(folder / "phantoms")
    command = [*tomodex(folder / "data"), "index", str(folder / "phantoms")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "data", truths


@pytest.fixture(scope="session")
def site(phantom_data: tuple[Path, Sequence[Truth]]) -> Iterator[Site]:
    """`tomodex serve` for this machine alone."""
    yield from serve(*phantom_data, {})


@pytest.fixture(scope="session")
def guarded(phantom_data: tuple[Path, Sequence[Truth]]) -> Iterator[Site]:
    """The same, for those who have a token of `TOKENS`."""
    tokens = {name: {"secret": f"env:TOKEN_{name}", "roles": [name]} for name in TOKENS}
    secrets = {f"TOKEN_{name}": token for name, token in TOKENS.items()}
    yield from serve(*phantom_data, {"TOMODEX_ACCESS": json.dumps({"tokens": tokens}), **secrets})


def serve(folder: Path, truths: Sequence[Truth], more: Mapping[str, str]) -> Iterator[Site]:
    """A server on a data folder, with more in its environment."""
    port = free_port()
    command = [*tomodex(folder), "serve", "--port", str(port)]
    with (folder / f"log-{port}").open("wb") as log:
        server = subprocess.Popen(command, stderr=log, env={**os.environ, **more})
        try:
            wait_until_listening(port, server)
            yield Site(url=f"http://127.0.0.1:{port}", truths=truths)
        finally:
            server.terminate()
            server.wait(20)


def tomodex(folder: Path) -> list[str]:
    """The command for a data folder."""
    return [str(Path(sys.executable).with_name("tomodex")), "--data", str(folder)]


def axe() -> str:
    """The script that looks for barriers in a page."""
    servers = os.environ.get("TOMODEX_SERVERS", str(Path.home() / ".cache/tomodex-servers"))
    file = Path(servers) / "axe-core-4.14.1/node_modules/axe-core/axe.min.js"
    if not file.is_file():
        raise AssertionError(f"{file} is missing: sh tests/servers/install.sh")
    return file.read_text(encoding="utf-8")
