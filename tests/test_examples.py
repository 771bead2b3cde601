"""The examples of docstrings, of pages of docs/ and of the notebooks run as they are written."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import re
import shlex
from glob import glob
from pathlib import Path

import cv2
import numpy as np
import pytest
from untrained import untrained

from cledet.cli import app
from cledet.data.shapes import dataset as shapes
from cledet.data.shapes.drawing import SHAPES

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for path in (ROOT / "cledet").rglob("*.py") if ">>> " in path.read_text())
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("python", "method", "nms")]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
BLOCK = re.compile(r"(?:<!-- needs: (?P<needs>.*?) -->\n)?```(?P<kind>python|pycon)\n(?P<code>.*?)```", re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

pytestmark = pytest.mark.slow


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with two photos and a run that nothing was taught; training there has two steps on six images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes.draw_shapes, "__defaults__", ({"train": 6, "val": 3}, 0))
    for name, value in (("iters", 2), ("imgsz", 64), ("fpn_channels", 16), ("device", "cpu"), ("workers", 0)):
        monkeypatch.setenv(f"CLEDET_{name.upper()}", str(value))
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in (1, 2):
        cv2.imwrite(f"photos/{number}.jpg", rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    untrained(tuple(SHAPES)).save(tmp_path / "runs" / "train" / "shapes" / "weights" / "best.pt")
    return tmp_path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_docstrings(path, workplace):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert found.attempted > 0
    assert found.failed == 0


def run_pycon(code: str, page: Path, line: int, names: dict[str, object]) -> None:
    """Run a block of prompts and compare its output."""
    test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, clear_globs=False)
    names.update(test.globs)
    assert runner.failures == 0, f"{page}:{line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_one_after_the_other(page, workplace):
    text, names, skipped = page.read_text(), {}, []
    for block in BLOCK.finditer(text):
        line = text[: block.start("code")].count("\n")
        missing = [
            name for name in (block["needs"] or "").split(", ") if name and importlib.util.find_spec(name) is None
        ]
        if missing:
            skipped += missing
        elif block["kind"] == "pycon":
            run_pycon(block["code"], page, line, names)
        else:
            exec(compile("\n" * line + block["code"], str(page), "exec"), names)
    assert names
    if skipped:
        pytest.skip(f"all blocks passed but those that need {', '.join(sorted(set(skipped)))}")


def test_the_blocks_are_found():
    blocks = [block for page in PAGES for block in BLOCK.finditer(page.read_text())]
    assert len(blocks) == sum(
        page.read_text().count("```python\n") + page.read_text().count("```pycon\n") for page in PAGES
    )
    assert {block["needs"] for block in blocks} == {None, "pandas"}


def run_command(line: str) -> None:
    """Run a line `cledet ...`, of which some words may be patterns of file names."""
    program, *words = shlex.split(line, comments=True)
    assert program == "cledet"
    app([file for word in words for file in sorted(glob(word)) or [word]], standalone_mode=False)


def run_cell(code: str, names: dict[str, object], name: str) -> object:
    """Run a cell as a notebook does; returns the value of its last line, if that is an expression.

    Commands, which Jupyter gives to a shell, run in this process.
    """
    if code.startswith("%%sh\n"):
        for line in code.splitlines()[1:]:
            run_command(line)
        return None
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), names)


def run_notebook(name: str) -> tuple[dict[str, object], int]:
    """Run the cells of a notebook in this process, without Jupyter; returns its names and its number of pictures."""
    content = json.loads((ROOT / "docs" / name).read_text())
    assert content["nbformat"] == 4
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, object] = {}
    values = [run_cell("".join(cell["source"]), names, f"{name} cell {i}") for i, cell in enumerate(cells)]
    pictures = sum(hasattr(one, "_repr_png_") or "<img" in getattr(one, "_repr_html_", str)() for one in values)
    return names, pictures


def test_the_first_detector(workplace, capsys, monkeypatch):
    monkeypatch.setenv("CLEDET_WORKERS", "1")  # 0 is for training only
    names, pictures = run_notebook("quickstart.ipynb")
    assert pictures == 4  # a batch, val.jpg, a result, a plot of the report
    assert (workplace / "runs" / "val" / "first" / "report.html").is_file()
    assert (workplace / "detections.jpg").is_file()
    assert "cl-balanced  AP 0." in capsys.readouterr().out
    assert len(names["result"].names) == len(SHAPES)


def test_is_a_better_than_b(workplace, monkeypatch):
    """The numbers are as the text says: the paired interval alone excludes 0, and Q seems better by one seed alone."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    names, _ = run_notebook("better.ipynb")
    assert (round(names["ap_a"], 3), round(names["ap_b"], 3)) == (0.386, 0.404)
    (low, high), (unpaired_low, unpaired_high) = (names["interval"](names[key]) for key in ("difference", "unpaired"))
    assert unpaired_low < 0 < low < high < unpaired_high
    assert names["wrong"] in range(5)
    found = {
        name: json.loads((workplace / "runs" / "compare" / name / "compare.json").read_text())["differences"]
        for name in ("files", "one-seed", "five-seeds")
    }
    assert found["files"]["b"]["verdict"] == found["one-seed"]["q-seed0"]["verdict"] == "better"
    assert found["five-seeds"]["q"]["conclusion"] == "within the noise"


def test_there_are_examples():
    assert {path.stem for path in MODULES} >= {"detector", "results"}
    assert [path.name for path in NOTEBOOKS] == ["better.ipynb", "quickstart.ipynb"]
