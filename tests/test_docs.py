"""The README and the pages of docs/: commands have the flags that are written, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from public_api import command_flags

from cledet.commands.options import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS]
WRITTEN = re.compile(r"(?<![\w/.-])cledet (?P<words>[a-z]+(?: [a-z]+)?)(?P<rest>[^`\n]*)")
FLAG = re.compile(r"(?<![\w-])(--?[a-z][\w-]*)")
LINK = re.compile(r"\]\((?!https?:|#)(?P<path>[^)#\s]+)")


def commands(page: Path) -> list[tuple[str, str]]:
    """Words after `cledet` and the rest of the command, without comments; continued lines are joined."""
    text = page.read_text().replace("\\\n", " ")
    found = [(match["words"], match["rest"].split(" #")[0]) for match in WRITTEN.finditer(text)]
    return [(words, re.split(r" (?:&&|\|) |; ", rest)[0]) for words, rest in found]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_commands_have_their_flags(page):
    known = command_flags()
    for words, rest in commands(page):
        name = words if words in known else words.split()[0]
        if name in known:
            unknown = set(FLAG.findall(rest)) - known[name]
            assert not unknown, f"{page.name}: cledet {words}{rest}: {', '.join(sorted(unknown))}"


def test_commands_are_found():
    found = {words.split()[0] for page in PAGES for words, _ in commands(page)}
    assert found >= set(COMMANDS)
    known = command_flags()
    assert {"--nms", "--bootstrap", "-h"} <= known["val"]
    assert "--fraction" in known["data split"]
    assert "--tta" not in known["val"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    missing = [link["path"] for link in LINK.finditer(page.read_text()) if not (page.parent / link["path"]).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short(page):
    """Rows of tables cannot be wrapped."""
    long = [line for line in page.read_text().splitlines() if len(line) > 120]
    assert [line for line in long if not line.lstrip().startswith("|")] == []


def test_every_page_is_in_the_navigation():
    def leaves(node: object) -> list[str]:
        children = node.values() if isinstance(node, dict) else node
        return [node] if isinstance(node, str) else [leaf for child in children for leaf in leaves(child)]

    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(leaves(settings["nav"])) == sorted([*(page.name for page in DOCS), "CHANGELOG.md", "CONTRIBUTING.md"])
