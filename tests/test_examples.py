"""The examples of docstrings, of pages of docs/ and of the notebook run as they are written."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from untrained import untrained

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
    assert {block["needs"] for block in blocks} == {None, "pandas", "supervision", "supervision, trackers"}


def run_cell(code: str, names: dict[str, object], name: str) -> object:
    """Run a cell as a notebook does; returns the value of its last line, if that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_the_cells_of_a_notebook_run(notebook, workplace):
    """In one process, without Jupyter: the cells hold plain Python."""
    content = json.loads(notebook.read_text())
    assert content["nbformat"] == 4
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, object] = {}
    pictures = 0
    for number, cell in enumerate(cells):
        value = run_cell("".join(cell["source"]), names, f"{notebook.name} cell {number}")
        if hasattr(value, "_repr_html_"):
            pictures += "<img" in value._repr_html_()
    assert len(cells) > 5
    assert pictures > 0


def test_there_are_examples():
    assert {path.stem for path in MODULES} >= {"detector", "results"}
    assert [path.name for path in NOTEBOOKS] == ["quickstart.ipynb"]
