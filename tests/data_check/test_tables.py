"""The doctor's tables, cell by cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from cledet.config.base import CheckSettings
from cledet.console import BAR, Bar, show_finding, show_table
from cledet.data.open import open_source
from cledet.data_check.anchor_coverage import Coverage
from cledet.data_check.check import Report, check
from cledet.data_check.findings import Example, Picture
from cledet.data_check.statistics import describe_split, objects_of
from cledet.data_check.tables import SHOWN_CLASSES, example_line, percent, tables


def report_of(*indices, parts=()) -> Report:
    splits = [
        describe_split(name, i, i.sizes, objects_of(i, i.sizes), 160, parts if name == "all" else ())
        for name, i in zip(("train", "val", "all"), indices)
    ]
    return Report(
        "set", 160, 4.0, (0.5, 1.0, 2.0), tuple(splits), {"train": Coverage(3, 0.5, None, 0.25, 1.0, 0.75)}, None, ()
    )


def test_cells_by_hand(make_index) -> None:
    train = make_index([(0, 0, 0, 20, 20), (0, 0, 0, 20, 20), (1, 0, 0, 50, 25)], [])
    val = make_index([(0, 0, 0, 80, 80)])
    splits, classes, sizes, sides, ratios, anchors = tables(report_of(train, val, train, parts=("train", "val")))
    assert splits.rows == [
        ["train", 2, "100x80", 3, "1.5", 3, 0, 1],
        ["val", 1, "100x80", 1, "1", 1, 0, 0],
        ["all", 2, "100x80", 3, "1.5", 3, 0, 1],
    ]
    assert splits.title == "set: all is train and val together"
    assert classes.title == "2 classes"
    assert classes.columns == ["class", "train", "share", "val", "share"]
    assert classes.rows == [["cat", 2, "66.7 %", 1, "100.0 %"], ["dog", 1, "33.3 %", 0, "0.0 %"]]
    assert sizes.rows == [
        ["as annotated", "50.0 %", "50.0 %", "0.0 %"],
        ["at --imgsz 160", "0.0 %", "75.0 %", "25.0 %"],
    ]
    assert sides.rows == [
        ["16 to 32", "50.0 %", Bar(1), "0.0 %", Bar(0)],
        ["32 to 64", "25.0 %", Bar(0.5), "50.0 %", Bar(1)],
        ["64 to 128", "25.0 %", Bar(0.5), "25.0 %", Bar(0.5)],
        ["128 to 256", "0.0 %", Bar(0), "25.0 %", Bar(0.5)],
    ]
    assert [row[1:] for row in ratios.rows][3:5] == [["75.0 %", Bar(1)], ["25.0 %", Bar(1 / 3)]]
    assert anchors.rows == [["train", "50.0 %", "-", "25.0 %", "100.0 %", "75.0 %"]]


def test_many_classes_are_cut_to_the_largest_and_the_smallest(make_index) -> None:
    names = tuple(f"c{i}" for i in range(40))
    index = make_index([(i, 0, 0, 5, 5) for i in range(40) for _ in range(40 - i)], classes=names)
    short, whole = tables(report_of(index))[1], tables(report_of(index), complete=True)[1]
    assert len(short.rows) == SHOWN_CLASSES + 1
    assert short.rows[SHOWN_CLASSES // 2] == ["... 16 more", None, None]
    assert short.title == "40 classes, the largest and the smallest: --html and --json show all"
    assert [row[0] for row in (short.rows[0], short.rows[-1])] == ["c0", "c39"]
    assert [row[0] for row in whole.rows] == list(names)
    assert whole.rows[20][-1] == Bar(0.5)


def test_sets_with_little_in_them(make_index) -> None:
    empty = tables(report_of(make_index([])))
    assert len(empty) == 2
    assert empty[1].rows == [["cat", 0, "-"], ["dog", 0, "-"]]
    assert empty[1].title == "2 classes"
    one = tables(report_of(make_index([(0, 0, 0, 5, 5)], classes=("cat",))))
    assert one[1].title == "1 class"
    assert tables(Report("set", 800, 4.0, (0.5, 1.0, 2.0), (), {}, None, ())) == []
    mixed = make_index([], [], [], sizes=[(40, 30), (40, 30), (30, 40)])
    assert tables(report_of(mixed))[0].rows[0][2] == "~40x30"
    unknown = tables(report_of(make_index([(0, 0, 0, 5, 5)], sizes=[(0, 0)])))
    assert unknown[0].rows[0][2] == "-"


def test_shares() -> None:
    assert [percent(1, 3), percent(0, 5), percent(0, 0), percent(0.125)] == ["33.3 %", "0.0 %", "-", "12.5 %"]


def test_paths_are_short_under_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inside = Example("cat", Picture(str(tmp_path / "a" / "b.png"), None))
    assert example_line(inside) == "a/b.png: cat"
    assert example_line(Example("", Picture("/elsewhere/b.png", None))) == "/elsewhere/b.png"
    assert example_line(Example("dog: 3")) == "dog: 3"


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], make_index) -> None:
    index = make_index([(0, 0, 0, 5, 5), (1, 0, 0, 5, 5)], classes=("[red]x[/nope]", ":cat: Ünï ✓"))
    for table in tables(report_of(index)):
        show_table(*table)
    show_finding("error", "train: [bold]2[/nope] boxes", ["[red]a[/nope]"], "and 1,200 more")
    shown = capsys.readouterr().out
    for name in (
        "[red]x[/nope]",
        ":cat: Ünï ✓",
        "error   train: [bold]2[/nope] boxes",
        " [red]a[/nope]",
        "... and 1,200 more",
    ):
        assert name in shown
    assert "█" * BAR in shown


@pytest.mark.parametrize("data", ["bccd", "coco2017_sub", "voc2012_sub"])
def test_real_tables_fit_a_terminal(shared_data: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    for table in tables(check(open_source(shared_data / data), CheckSettings())):
        show_table(*table)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 80
