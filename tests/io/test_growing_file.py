"""A file that grows by entries: complete after each one, after a kill, and on a full disk."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cledet.errors import UserError
from cledet.io.growing_file import GrowingFile


def test_the_file_is_complete_after_each_entry(tmp_path):
    path = tmp_path / "a.json"
    file = GrowingFile(path, "[", "\n]\n")
    assert json.loads(path.read_text()) == []
    for i in range(3):
        file.append(("\n" if not i else ",\n") + json.dumps({"i": i, "text": "ü\udce9"}))
        assert [entry["i"] for entry in json.loads(path.read_text())] == list(range(i + 1))
    file.close()
    assert path.read_text().count("\n") == 5


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UserError, match="a could not be written: File exists"):
        GrowingFile(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "mine"


def test_surrogates_are_written_as_escapes(tmp_path):
    file = GrowingFile(tmp_path / "a")
    file.append("caf\udce9\n")
    file.append("x\n")
    file.close()
    assert (tmp_path / "a").read_bytes() == b"caf\\udce9\nx\n"


@pytest.mark.parametrize("limit", range(100, 140, 7))
def test_a_full_disk_leaves_what_was_written(tmp_path, limit):
    """The limit on a file's size stands in for a full disk: a write is cut off in the middle."""
    script = f"""
import resource, signal, json
from pathlib import Path
from cledet.errors import UserError
from cledet.io.growing_file import GrowingFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
file = GrowingFile(Path("a.json"), "[", "\\n]\\n")
written = 0
try:
    for i in range(1, 20):
        file.append(",\\n"[i == 1:] + json.dumps(i) * 9)
        written += 1
except UserError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.append(',\\n"more"')
file.close()
print(written)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    sentence, written = done.stdout.splitlines()
    assert sentence == "a.json could not be written: File too large"
    entries = json.loads((tmp_path / "a.json").read_text())
    assert entries == [*(int(str(i) * 9) for i in range(1, int(written) + 1)), "more"]
    assert written != "0"
