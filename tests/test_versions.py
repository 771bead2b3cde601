"""The version is the same everywhere, and public names of earlier versions still exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from public_api import public_api

from cledet import __version__

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = sorted((ROOT / "tests" / "fixtures").glob("public-*.json"))


def test_the_changelog_and_the_citation_name_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    released = re.search(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released is not None
    assert released.groups() == (__version__, citation["date-released"])


def test_the_public_names_of_this_version_are_kept():
    minor = __version__.rpartition(".")[0]
    assert f"public-{minor}.json" in [file.name for file in PUBLIC]


@pytest.mark.parametrize("file", PUBLIC, ids=lambda file: file.stem)
def test_public_names_still_exist(file):
    today = public_api()
    lost = {place: {*names} - {*today.get(place, ())} for place, names in json.loads(file.read_text()).items()}
    assert {place: names for place, names in lost.items() if names} == {}
