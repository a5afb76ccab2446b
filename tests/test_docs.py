"""A setting, a scheme, a command, a reason exists when it is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from tomodex import indexes, queues, segmenters, sinks, sources, stores
from tomodex.cli import app
from tomodex.selection import REASONS
from tomodex.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
COMMANDS = get_command(app).commands
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name):
    assert f"| `{name}` |" in (DOCS / "reference/settings.md").read_text()


@pytest.mark.parametrize("port", [sources, queues, segmenters, indexes, sinks, stores])
def test_every_scheme_is_documented(port):
    kind = {"indexes": "index"}.get(port.__name__.split(".")[1], port.__name__.split(".")[1][:-1])
    page = (DOCS / "reference/settings.md").read_text()
    assert [s for s in port.ADAPTERS if f"| {kind} | `{s}:` |" not in page] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_its_options_are_documented(name):
    page = (DOCS / "reference/commands.md").read_text()
    assert f"### `tomodex {name}" in page
    section = page.split(f"### `tomodex {name}", 1)[1].split("\n### ", 1)[0]
    options = {o for p in COMMANDS[name].params for o in p.opts if o.startswith("--")} - {"--help"}
    assert [o for o in sorted(options) if f"`{o}" not in section] == []


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_is_documented(reason):
    assert f"`{reason}`" in (DOCS / "reference/selection.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    targets = [t for t in LINK.findall(page.read_text()) if "://" not in t]
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_every_page_can_be_reached_from_the_readme():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page not in reached and page.suffix == ".md" and page.exists():
            reached.add(page)
            targets = [t for t in LINK.findall(page.read_text()) if "://" not in t]
            todo += [page.parent / t for t in targets]
    assert [p.name for p in DOCS.rglob("*.md") if p.resolve() not in reached] == []
