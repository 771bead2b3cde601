"""`cledet data` as users type it, in a process of its own, against a server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "cledet", "data"]


def environ(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", "CLEDET_CACHE": str(folder / "cache")}


def run(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, *map(str, args)]
    return subprocess.run(
        words, cwd=folder, env=environ(folder), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def project(server, squares, tmp_path) -> Path:
    """A folder with my.yaml, whose one archive holds the squares and two megabytes besides."""
    archive = tmp_path / "squares.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for file in sorted(path for path in squares.rglob("*") if path.is_file()):
            content.write(file, file.relative_to(squares))
        content.writestr("more.bin", np.random.default_rng(0).bytes(2_000_000))
    content = archive.read_bytes()
    archive.unlink()
    server.files["squares.zip"] = content
    described = {
        "path": "s",
        "val": {"images": "val", "annotations": "annotations/instances_val.json"},
        "archives": [
            {
                "url": f"{server.url}/squares.zip",
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        ],
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(described))
    return tmp_path


def test_download_says_what_to_type_next(project, squares):
    first = run(project, "download", "my.yaml")
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{project / 's'}\n"
    lines = first.stderr.splitlines()
    assert [line.partition(",")[0] for line in lines[:3]] == [
        "fetching squares.zip", "checking squares.zip", "unpacking squares.zip",
    ]  # fmt: skip
    assert lines[3:] == ["train on it: cledet train --data my.yaml"]
    assert "\x1b" not in first.stderr
    assert (project / "s" / "val" / "0.png").read_bytes() == (squares / "val" / "0.png").read_bytes()
    again = run(project, "download", "my.yaml", "--json")
    assert again.stderr.startswith("my is there already\n")
    listed = yaml.safe_load((project / "my.yaml").read_text())["archives"]
    assert json.loads(again.stdout) == {
        "name": "my",
        "folder": str(project / "s"),
        "bytes": listed[0]["bytes"],
        "state": "there",
        "archives": [{**listed[0], "folder": "."}],
        "yaml": str(project / "my.yaml"),
    }


def test_download_to_a_folder_of_ones_own(project):
    process = run(project, "download", "my.yaml", "--to", "a b", "--keep")
    assert process.returncode == 0, process.stderr
    assert process.stderr.endswith(f"train on it: cledet train --data '{project}/a b/my.yaml'\n")
    assert {path.name for path in (project / "a b").iterdir()} == {"s", "my.yaml", "squares.zip"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_download_that_is_stopped_goes_on(server, project, number, code):
    server.pause = 0.02
    words = [*COMMAND, "download", "my.yaml", "--keep"]
    digest = yaml.safe_load((project / "my.yaml").read_text())["archives"][0]["sha256"]
    part = project / "s" / "my.part" / f"squares.zip.{digest[:8]}.part"
    with subprocess.Popen(words, cwd=project, env=environ(project), stderr=subprocess.PIPE, text=True) as process:
        while not (part.exists() and part.stat().st_size > 100_000):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(number)
        news = process.stderr.read()
        assert process.wait(timeout=30) == code
    if code > 0:
        last = f"error: stopped by {number.name}; what has arrived is kept, go on with: cledet data download my.yaml"
        assert news.splitlines()[-1] == f"{last} --keep"
    assert "Traceback" not in news
    have = part.stat().st_size
    server.pause = 0
    process = run(project, "download", "my.yaml", "--keep")
    assert process.returncode == 0, process.stderr
    assert server.ranges_asked == [None, f"bytes={have}-"]
    assert server.asked[1].sent == len(server.files["squares.zip"]) - have
    assert process.stderr.splitlines()[1].endswith("are there already")
    assert (project / "squares.zip").read_bytes() == server.files["squares.zip"]


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("cooc",), "cooc is neither a YAML file nor a shipped data set (did you mean coco?)"),
        (("off.yaml",), "could not be fetched: no connection: "),
        (("bare.yaml",), "names nothing to download (add archives:"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, args, part):
    archive = {"url": "http://127.0.0.1:9/a.zip", "bytes": 1, "md5": "0" * 32}
    (tmp_path / "off.yaml").write_text(yaml.safe_dump({"path": "s", "val": "v.json", "archives": [archive]}))
    (tmp_path / "bare.yaml").write_text("val: v.json")
    process = run(tmp_path, "download", *args)
    assert process.returncode == 2, process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert part in errors[0]
    assert "Traceback" not in process.stderr
    assert process.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"off.yaml", "bare.yaml"}


def test_list_shows_what_ships_and_writes_nothing(tmp_path):
    listed = json.loads(run(tmp_path, "list", "--json").stdout)
    assert [(each["name"], each["state"]) for each in listed] == [
        (name, "not there") for name in ("coco", "shapes", "voc")
    ]
    assert listed[0]["folder"] == str(tmp_path / "cache" / "coco")
    table = run(tmp_path, "list").stdout
    assert all(word in table for word in ("coco", "shapes", "voc", "not there", "20405", "2911"))
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_it_shows_its_help(tmp_path):
    text = run(tmp_path).stdout
    assert "download" in text
    assert "list" in text
