"""Provenance of checkpoints: versions and git commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from cledet import __version__
from cledet.io import provenance
from cledet.io.provenance import commit_of, versions
from cledet.models.checkpoint import load_checkpoint


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    process = subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True)
    return process.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a package in it, and an environment that git ignores."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("1\n")
    (tmp_path / "venv" / "package").mkdir(parents=True)
    (tmp_path / "venv" / "package" / "a.py").write_text("1\n")
    (tmp_path / ".gitignore").write_text("venv\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    git(tmp_path, "tag", "v1.0", "-m", "a tag")
    return tmp_path


def test_a_checkpoint_records_the_versions_that_wrote_it(tiny_run):
    found = load_checkpoint(tiny_run)
    assert found.versions == versions()
    assert found.versions["cledet"] == __version__
    assert found.versions["torch"] == torch.__version__
    assert found.versions["numpy"] == np.__version__
    assert found.versions["python"] == platform.python_version()
    assert {"torchvision", "platform", "git"} <= found.versions.keys()
    assert platform.node() not in str(found.versions)
    written = time.mktime(time.strptime(found.written[:19], "%Y-%m-%dT%H:%M:%S"))
    assert abs(time.time() - written) < 24 * 3600


def test_the_commit_of_a_checkout(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert commit_of(checkout / "package") == commit
    (checkout / "package" / "new.py").write_text("2\n")
    assert commit_of(checkout / "package") == commit
    (checkout / "package" / "a.py").write_text("2\n")
    assert commit_of(checkout / "package") == f"{commit}-dirty"


def test_a_package_that_lies_in_a_checkout_of_something_else_has_no_commit(checkout):
    assert commit_of(checkout / "venv" / "package") is None


def test_gits_environment_variables_are_ignored(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert commit_of(checkout / "package") is not None


@pytest.mark.parametrize("trouble", ["no git", "no checkout", "slow", "no commit"])
def test_without_git_there_is_no_commit(checkout, tmp_path, monkeypatch, trouble):
    commands = tmp_path / "bin"
    commands.mkdir()
    if trouble == "slow":
        (commands / "git").write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
        (commands / "git").chmod(0o755)
        monkeypatch.setattr(provenance, "PATIENCE", 0.5)
    if trouble in ("slow", "no git"):
        monkeypatch.setenv("PATH", str(commands))
    if trouble == "no checkout":
        (checkout / ".git").rename(checkout / "git")
    if trouble == "no commit":
        git(checkout, "update-ref", "-d", "HEAD")
    start = time.monotonic()
    assert commit_of(checkout / "package") is None
    assert time.monotonic() - start < 30


def test_git_runs_once_per_process(monkeypatch):
    first = versions()
    monkeypatch.setattr(provenance, "_git", lambda *_: pytest.fail("asked again"))
    assert versions() is first


def test_a_checkout_is_not_written_to(checkout):
    (checkout / "package" / "a.py").write_text("1\n")  # the same content with another time: git would note that
    os.utime(checkout / "package" / "a.py", (1, 1))
    before = (checkout / ".git" / "index").read_bytes()
    assert not commit_of(checkout / "package").endswith("dirty")
    assert (checkout / ".git" / "index").read_bytes() == before
