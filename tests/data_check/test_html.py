"""The page: everything in it, nothing from elsewhere, and names that cannot break it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.config.base import CheckSettings
from cledet.data.open import open_source
from cledet.data_check.check import Report, check
from cledet.data_check.findings import Example, collect
from cledet.data_check.html import refuse_target, render_page, write_page
from cledet.errors import UserError

NASTY = "<script>alert(\"x\")</script> & 'ü' ✓"


class Reader(HTMLParser):
    """What tags there are, their attributes, and the text; complains about what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def sick_report(sick: Path) -> Report:
    return check(open_source(sick), CheckSettings())


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    """A set whose names of set, image and class are made to break a page."""
    folder = tmp_path / 'a "<b>&'
    folder.mkdir()
    name = "<img src=x onerror='y'>&\".png"
    cv2.imwrite(str(folder / "plain.png"), np.zeros((30, 40, 3), dtype=np.uint8))
    (folder / "plain.png").rename(folder / name)
    content = {
        "images": [
            {"id": 1, "file_name": name, "width": 40, "height": 30},
            {"id": 2, "file_name": NASTY.replace("/", "|"), "width": 4, "height": 3},
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 3]}],
        "categories": [{"id": 1, "name": NASTY}, {"id": 2, "name": "half \ud800"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return folder


def test_findings_tables_and_pictures(sick_report: Report) -> None:
    read = Reader(render_page(sick_report))
    for finding in sick_report.findings:
        assert finding.text in read.text
    for word in (
        "4 errors",
        "11 warnings",
        "1 note",
        "image size",
        "bird",
        "width / height",
        "--anchor-scale 4",
    ):
        assert word in read.text
    pictures = [attrs["src"] or "" for tag, attrs in read.tags if tag == "img"]
    assert len(pictures) == 9  # the missing, the damaged and the truncated PNG have none, classes neither
    assert all(src.startswith("data:image/jpeg;base64,/9j/") for src in pictures)


def test_nothing_comes_from_elsewhere(sick_report: Report) -> None:
    text = render_page(sick_report)
    read = Reader(text)
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert not re.search(r"https?:|url\(|@import", text)
    assert all("href" not in attrs for _, attrs in read.tags)
    assert "prefers-color-scheme: dark" in text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in read.tags


def test_names_cannot_break_it(nasty: Path, tmp_path: Path) -> None:
    report = check(open_source(nasty), CheckSettings())
    write_page(report, tmp_path / "page.html")
    read = Reader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in read.tags}
    assert [attrs for tag, attrs in read.tags if tag == "img" and "onerror" in attrs] == []
    for name in (NASTY, NASTY.replace("/", "|"), "<img src=x onerror='y'>&\".png", 'a "<b>&'):
        assert name in read.text
    titles = [attrs["title"] for tag, attrs in read.tags if tag == "b" and "title" in attrs]
    assert str(nasty / "<img src=x onerror='y'>&\".png") in titles


def test_many_rows_are_folded(make_index) -> None:
    from cledet.data_check.statistics import describe_split, objects_of

    names = tuple(f"c{i}" for i in range(30))
    index = make_index([(i, 0, 0, 5, 5) for i in range(30)], classes=names)
    split = describe_split("train", index, index.sizes, objects_of(index, index.sizes), 800)
    read = Reader(render_page(Report("set", 800, 4.0, (0.5, 1.0, 2.0), (split,), {}, None, ())))
    assert [tag for tag, _ in read.tags if tag == "details"] == ["details"]
    assert "c29" in read.text
    assert "No problems were found." in read.text


def test_what_is_left_out_is_counted(make_index) -> None:
    (finding,) = collect("warning", "rare", "train", [f"c{i}" for i in range(30)], ("class", "classes"), Example)
    read = Reader(render_page(Report("set", 800, 4.0, (0.5, 1.0, 2.0), (), {}, None, (finding,))))
    assert "c7" in read.text
    assert "c8" not in read.text
    assert "and 22 more: --json lists all" in read.text


def test_an_old_page_is_replaced_and_no_other_file(sick_report: Report, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    write_page(sick_report, target)
    first = target.read_bytes()
    write_page(sick_report, target)
    assert target.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my thesis</p>")
    (tmp_path / "folder.html").mkdir()
    for path, words in (
        (mine, "was not written by `cledet check`"),
        (tmp_path / "folder.html", "was not written by"),
        (tmp_path / "data.yaml", "ends in .html"),
        (tmp_path / "no" / "page.html", f"the folder {tmp_path / 'no'} does not exist"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            refuse_target(path)
        with pytest.raises(UserError):
            write_page(sick_report, path)
    assert mine.read_text() == "<p>my thesis</p>"
