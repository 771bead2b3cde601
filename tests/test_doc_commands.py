"""The commands of the docs run as they are written, on small data; docs/verified.md lists those that do not, and why.

The commands of a page run in the order of the page, in a folder that holds the files they name. A shell splits them.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import typer
from clips import write_clip
from squares import make_squares

from cledet.cli import app
from cledet.commands.options import COMMANDS
from cledet.config.loading import resolve
from cledet.data.shapes.dataset import draw_shapes

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(
    r"^ *```sh\n(?P<fenced>.*?)^ *```$|\n\n(?P<indented>(?: {4,}cledet [^\n]*\n)+)", re.DOTALL | re.MULTILINE
)
EXCEPTIONS = re.compile(r"^\| (?P<markers>`[^|]*`) \|", re.MULTILINE)
SMALL = {"iters": 2, "imgsz": 64, "batch": 2, "backbone": "r18", "backbone_weights": "none", "fpn_channels": 16,
         "device": "cpu", "workers": 1}  # fmt: skip

pytestmark = pytest.mark.slow


def commands(page: Path) -> list[str]:
    """Return the commands of a page's code blocks, without comments; continued lines are joined."""
    blocks = [block["fenced"] or block["indented"] for block in CODE.finditer(page.read_text())]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [part for line in lines for part in re.sub(r"(^|\s)#.*", "", line).split(" && ")]
    return [" ".join(part.split()) for part in parts if part.strip()]


def exceptions() -> list[str]:
    """Return the markers of the commands that are not run: parts of commands, or whole commands of cledet."""
    section = (ROOT / "docs" / "verified.md").read_text().partition("## The commands of these pages\n")[2]
    rows = EXCEPTIONS.finditer(section.partition("\n## ")[0])
    return [marker for row in rows for marker in re.findall("`(.*?)`", row["markers"])]


def is_marked(command: str, marker: str) -> bool:
    """Tell if a marker is the whole command, or words of it; the last word may be a beginning that ends with : or /."""
    if marker.startswith("cledet "):
        return command == marker
    return re.search(rf"(?<!\S){re.escape(marker)}" + ("" if marker[-1] in ":/" else r"(?!\S)"), command) is not None


def words_of(command: str) -> list[str]:
    """Split a command as the shell does: quotes, variables, ~ and patterns of files."""
    done = subprocess.run(["bash", "-c", f'printf "%s\\0" {command}'], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def check_flags(words: list[str]) -> None:
    """Parse a command of cledet and resolve its settings, without running it."""
    command = typer.main.get_command(app)
    place = ["cledet", "commands"]
    while hasattr(command, "list_commands"):
        place.append(words[0])
        command = command.get_command(None, words.pop(0))
    values = command.make_context(place[-1], words).params
    function = getattr(import_module(".".join(place[:3])), place[-1], None)
    settings = inspect.signature(function, eval_str=True).parameters.get("settings") if function else None
    if settings is not None:
        flags = {key: value for key, value in values.items() if key in settings.annotation.model_fields}
        recipe = values["recipe"] or settings.annotation.default_recipe(flags)
        resolve(settings.annotation, flags, recipe=recipe)


class Parsed(Exception):
    """A script has parsed its arguments."""


def check_script(script: str, words: list[str]) -> None:
    """Let a script parse its arguments, and stop it then."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser) -> None:
        parse(parser, words)
        raise Parsed

    path = ROOT / script
    with patch.object(argparse.ArgumentParser, "parse_args", stop), patch.object(sys, "path", [*sys.path]):
        sys.path.insert(0, str(path.parent))
        with suppress(Parsed):
            runpy.run_path(str(path), run_name="__main__")


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """The folder of a reader: `work` holds what the commands name, `home` the cache, `shared/data` the real photos."""
    root = tmp_path_factory.mktemp("desk")
    work = root / "work"
    (root / "shared" / "data").mkdir(parents=True)
    work.mkdir()
    photos = _renamed(make_squares(_made(work / "photos")), "scratch", "dent")
    shutil.copytree(photos / "val", work / "images")
    for copy in ("DATA", "BCCD_Dataset/BCCD", *(f"../shared/data/{x}" for x in ("bccd", "deeppcb"))):
        shutil.copytree(photos, work / copy)
    shutil.copytree(photos, root / "shared" / "data" / "coco2017_sub")
    shutil.copytree(photos / "train", work / "scans")
    shutil.copy(photos / "annotations" / "instances_train.json", work / "scans")
    for file in (_renamed(shutil.copytree(photos, work / "more-photos"), "auto", "dent")).rglob("*.png"):
        cv2.imwrite(str(file), 255 - cv2.imread(str(file)))
    for name in ("photo.jpg", "a.jpg", "aerial.tif", "b/1.png", "more/1.png"):
        _made(work / name, parents=True)
        cv2.imwrite(str(work / name), np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    write_clip(work / "clip.mp4", 3)
    (work / "list.txt").write_text("a.jpg\n")
    splits = [f"{split}: {{images: photos/{split}, annotations: photos/annotations/instances_{split}.json}}\n"
              for split in ("train", "val", "test")]  # fmt: skip
    for name in ("coco.yaml", "data.yaml"):
        (work / name).write_text("".join(splits))
    draw_shapes(root / "home" / ".cache" / "cledet" / "shapes-3", {"train": 6, "val": 3, "test": 50})
    with pytest.MonkeyPatch.context() as patch:
        enter(root, patch)
        fill(work)
    return root


def fill(work: Path) -> None:
    """Train a run, and write the results and detections that the pages name."""
    run("cledet train --data photos/")
    for name in "ab":
        shutil.copytree("runs/train/photos", f"runs/train/{name}")
        run(f"cledet val --weights runs/train/photos --name {name}")
    run("cledet predict photos/val --save txt --name labels --conf 0.05")
    shutil.copytree("runs/predict/labels/labels", "labels")
    run("cledet tune --weights runs/train/photos")
    annotations = json.loads(Path("photos/annotations/instances_val.json").read_text())
    unlabelled = {key: annotations[key] for key in ("images", "categories")}
    Path("image_info_test-dev2017.json").write_text(json.dumps(unlabelled))
    results = "mine.json raw.json results.json r.json FILE runs/detect/val/predictions.json"
    results += " output/inference/coco_instances_results.json"
    results += " ../shared/data/coco2017_sub/detections/yolox_nano_raw.json"
    for name in results.split():
        shutil.copy("runs/val/a/detections.json", _made(work / name, parents=True))


def _made(folder: Path, *, parents: bool = False) -> Path:
    (folder.parent if parents else folder).mkdir(parents=True, exist_ok=True)
    return folder


def _renamed(root: Path, *names: str) -> Path:
    """Rename the classes of a COCO folder, and add a split `test`."""
    for file in (root / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for category, name in zip(content["categories"], names):
            category["name"] = name
        file.write_text(json.dumps(content))
    if not (root / "test").exists():
        shutil.copytree(root / "val", root / "test")
        shutil.copy(root / "annotations" / "instances_val.json", root / "annotations" / "instances_test.json")
    return root


@pytest.fixture
def reader(desk, tmp_path, monkeypatch) -> Path:
    """A copy of the desk as the current folder, in an environment that makes trainings small."""
    shutil.copytree(desk, tmp_path, dirs_exist_ok=True, copy_function=link_weights)
    enter(tmp_path, monkeypatch)
    return tmp_path / "work"


def link_weights(source: str, target: str) -> None:
    """Copy a file; weights, which are large and are replaced as a whole, become a second name of the same file."""
    (os.link if source.endswith(".pt") else shutil.copy2)(source, target)


def enter(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `work` the current folder and `home` the home; the environment makes trainings small."""
    monkeypatch.chdir(root / "work")
    monkeypatch.setenv("HOME", str(root / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in ("CLEDET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in SMALL.items():
        monkeypatch.setenv(f"CLEDET_{name.upper()}", str(value))


def set_variable(command: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Set the variable of a line NAME=value; False for other lines."""
    match = re.fullmatch(r"([A-Z]+)=(\S+)", command)
    if match is not None:
        monkeypatch.setenv(*match.groups())
    return match is not None


def run(command: str) -> None:
    """Run a command in this process, or a pipe of commands in a shell."""
    if "|" in command:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        app(words_of(command)[1:], standalone_mode=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_and_values_exist_and_go_together(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _made(tmp_path / "runs" / "tune" / "val" / "tuned.yaml", parents=True).write_text("nms: soft-vote\n")
    for command in commands(page):
        set_variable(command, monkeypatch)
        for part in command.split(" | "):
            words = words_of(part)
            if words[0] == "python" and words[1].endswith(".py"):
                check_script(words[1], words[2:])
            for first, second in pairwise(words):
                if first == "cledet" and second in COMMANDS:
                    check_flags(words[words.index(second) :])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run(page, reader, monkeypatch):
    known = exceptions()
    for command in commands(page):
        if not set_variable(command, monkeypatch) and not any(is_marked(command, marker) for marker in known):
            print(f"{page.name}: {command}")
            run(command)


def test_exceptions_are_used_and_no_more_than_needed():
    every = [command for page in PAGES for command in commands(page)]
    assert len(every) > 180
    known = exceptions()
    assert {marker for marker in known if not any(is_marked(command, marker) for command in every)} == set()
    ours = [command for command in every if command.startswith("cledet ")]
    assert sum(any(is_marked(command, marker) for marker in known) for command in ours) < len(ours) * 0.3
    assert is_marked("cledet train --data coco", "--data coco")
    assert not is_marked("cledet train --data coco.yaml", "--data coco")
    assert not is_marked("cledet reproduce table2 --dry-run", "cledet reproduce table2")
