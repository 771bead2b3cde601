"""The report: plots, a self-contained page, pictures of the hardest images, and metrics."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet import Detector
from cledet.commands.val import val, val_to_folder
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.data.open import open_source
from cledet.evaluation.nms_methods import EvaluatedDetections
from cledet.evaluation.report.hardest_images import COLORS, Mark, draw_hardest_images, draw_marks
from cledet.evaluation.report.suspect_pictures import draw_suspects
from cledet.evaluation.report.write_report import page, write_report
from cledet.metrics.analysis import analyse
from cledet.metrics.coco import evaluate
from cledet.metrics.results_file import encode_results

NASTY = "<b>$x_1$ & $"
PLOTS = {"errors", "precision_recall", "f1", "size", "shape", "reliability", "confusion"}


class Reader(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def written(index, results, folder):
    """Write a report; returns its metrics and its page."""
    validation = write_report(EvaluatedDetections(evaluate(index, results), results), index, folder)
    return validation.evaluation.to_dict(), Reader((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(squares):
    """The split of squares, and detections of it: some objects right, some beside, some missed, one of each class."""
    index = open_source(squares).index("val")
    ids = index.image_ids[index.image_of_boxes()]
    moved = index.xywh + np.array([[0], [3], [15], [0], [0], [2], [0]])[: index.num_boxes]
    rows = np.column_stack([ids, moved, np.linspace(0.9, 0.3, len(ids)), index.category_ids[index.labels]])
    return index, rows[:-2]


@pytest.fixture(scope="module")
def report(found, tmp_path_factory):
    """The report of these, to be read only: folder, figures, page."""
    folder = tmp_path_factory.mktemp("report")
    return folder, *written(*found, folder)


def test_plots_page_pictures_and_figures(report):
    folder, document, read = report
    figures = document["analysis"]
    assert {path.stem for path in (folder / "plots").iterdir()} == PLOTS
    sources = [attrs["src"] for tag, attrs in read.tags if tag == "img"]
    assert sum(src.startswith("data:image/png;base64,iVBOR") for src in sources) == len(PLOTS)
    pictures = sum(src.startswith("data:image/jpeg;base64,/9j/") for src in sources)
    assert pictures == len(figures["worst_images"]) > 0
    assert "What to do next" in read.text
    assert figures["advice"][0].replace("`", "") in read.text
    assert figures["errors"]["AP50"] == pytest.approx(document["AP50"])
    assert {"calibration", "by_size", "by_shape", "confused"} <= set(figures)
    assert "best_F1" not in figures  # best_conf and best_f1 stand beside AP
    (cut,) = (sentence for sentence in figures["advice"] if "--conf" in sentence)
    assert f"From confidence {document['best_conf']:.3g} on" in cut
    assert f"(F1 {document['best_f1']:.3f}, the best)" in cut
    assert f"best F1{document['best_f1']:.3f}" in read.text
    json.dumps(document, allow_nan=False)


def test_the_page_is_self_contained(report):
    folder, _, read = report
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[^\"]+", "", text))
    assert "prefers-color-scheme: dark" in text
    assert ".plot img { background: none; filter: invert(1)" in text  # plots are drawn on white


@pytest.mark.parametrize("classes", [1, 3, 30])
def test_names_are_escaped_and_pictures_may_be_missing(random_split_of, classes, tmp_path):
    """Names like tags and formulas; no file is there."""
    index, results = random_split_of(classes)
    figures, read = written(index, results, tmp_path)
    assert "b" in {tag for tag, _ in read.tags}
    assert f"{NASTY} 0" in read.text
    assert "their files are missing" in read.text
    assert (" 1 class;" in read.text) == (classes == 1)
    assert not any(src.startswith("data:image/jpeg") for src in (a.get("src", "") for t, a in read.tags if t == "img"))
    assert len(figures["analysis"]["worst_images"]) > 0


@pytest.fixture
def random_split_of(make_index):
    def make(classes):
        rng = np.random.default_rng(classes)
        images = [
            [(k % classes, *rng.integers(0, 50, 2), *rng.integers(9, 40, 2)) for k in range(8 * i, 8 * i + 8)]
            for i in range(classes // 4 + 2)
        ]
        index = make_index(*images, classes=tuple(f"{NASTY} {k}" for k in range(classes)))
        boxes = index.xywh + rng.integers(-4, 5, index.xywh.shape)
        label = np.where(rng.random(len(boxes)) < 0.7, index.labels, rng.integers(0, classes, len(boxes)))
        return index, np.column_stack([index.image_of_boxes(), boxes, rng.random(len(boxes)), label + 1])

    return make


def test_sentences_are_text_with_commands_set_apart(found):
    index, results = found
    text = page("n", evaluate(index, results), analyse(index, results), ["<u>is</u> `--conf 0.4`"], {}, [])
    assert "<li>&lt;u&gt;is&lt;/u&gt; <code>--conf 0.4</code></li>" in text


def test_nothing_found_and_nothing_to_find(make_index, tmp_path):
    for number, (index, results) in enumerate((
        (make_index([(0, 0, 0, 9, 9)]), np.zeros((0, 7))),
        (make_index([], []), np.array([[0, 0, 0, 9, 9, 0.5, 1]])),
        (make_index([(0, 0, 0, 9, 9)]), np.array([[0, 0, 0, 9, 9, 7.5, 1]])),
    )):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        figures, read = written(index, results, folder)
        json.dumps(figures, allow_nan=False)
        assert figures["analysis"]["advice"]
        assert ("no calibration" in read.text) == (number != 1)
        assert (folder / "plots" / "reliability.png").exists() == (number == 1)


def test_kinds_of_boxes_differ_in_colour(found):
    """Each where its box is."""
    ground = np.full((200, 200, 3), 120, dtype=np.uint8)
    for kind in ("object", "right", "background", "missed"):
        drawn = draw_marks(ground, [Mark(np.array([20.0, 40, 120, 100]), kind, "")], 1.0)
        assert (drawn[140, 20:140] == COLORS[kind]).all()
        assert (drawn[:20] == 120).all()
    assert len({COLORS[kind] for kind in ("object", "right", "background", "missed")}) == 4
    scaled = draw_marks(ground, [Mark(np.array([20.0, 40, 120, 100]), "right", "")], 0.5)
    assert (scaled[70, 10:70] == COLORS["right"]).all()


def test_the_text_of_a_picture_counts_its_boxes(make_index, tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((80, 100, 3), 99, dtype=np.uint8))
    index = make_index([(0, 0, 0, 20, 20), (0, 40, 0, 20, 20), (1, 70, 50, 20, 20)], paths=[path])
    results = np.array([[0, 0, 0, 20, 20, 0.9, 1], [0, 49, 0, 20, 20, 0.95, 1], [0, 70, 50, 20, 20, 0.9, 1]])
    low = [[0, 40, 60, 5, 5, 0.1, 2]] * 10 + [[0, 40, 0, 20, 20, 0.05, 1]]  # right, but not shown
    results = np.concatenate([results, low])
    (one,) = draw_hardest_images(analyse(index, results))
    assert one.path == str(path)
    assert one.text.endswith(": 1 right, 2 missed, 1 classification, 1 localization")
    assert cv2.imdecode(np.frombuffer(one.content, np.uint8), cv2.IMREAD_COLOR).shape == (240, 300, 3)


def test_every_plot_is_a_png_of_some_size(report):
    for path in (report[0] / "plots").iterdir():
        picture = cv2.imread(str(path))
        assert picture.shape[1] > 500, path
        assert picture.min() < 50, path  # there is ink


@pytest.fixture
def no_plots(monkeypatch):
    """Reports without plots, whose layout takes most of a report's time, for tests of other parts."""
    monkeypatch.setattr("cledet.evaluation.report.write_report.plots", lambda _: iter(()))


@pytest.mark.usefixtures("no_plots")
def test_val_writes_the_report_by_default(squares, found, tmp_path):
    file = tmp_path / "found.json"
    file.write_bytes(encode_results(found[1]))
    given = {"data": str(squares), "predictions": str(file), "project": str(tmp_path)}
    run, figures = val_to_folder(Detector(), resolve(ValSettings, given))
    assert "<title>squares" in (run / "report.html").read_text()
    document = json.loads((run / "metrics.json").read_text())
    assert document["analysis"]["errors"]["missed"]["count"] > 0
    assert document == json.loads(json.dumps(next(iter(figures.values())).evaluation.to_dict()))
    for more in ({"report": "false"}, {"nms": "standard,soft"}):
        run, _ = val_to_folder(Detector(), resolve(ValSettings, {**given, **more}))
        names = {path.name for path in Path(run).iterdir()}
        assert names.isdisjoint({"report.html", "plots", "suspects.json", "review"})
        assert "analysis" not in json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def suspicious(squares, tmp_path_factory):
    """A results file of the squares in which a red one is detected as blue, and a blue one where nothing is labelled;
    several detections of equal score beside them, which make both classes trustworthy."""
    index = open_source(squares).index("val")
    label, image = index.labels.copy(), index.image_ids[index.image_of_boxes()]
    label[-1] = 1 - label[-1]
    rows = np.column_stack([image, index.xywh, np.full(len(label), 0.9), index.category_ids[label]])
    rows = np.vstack([rows, [index.image_ids[0], 5, 5, 30, 30, 0.95, index.category_ids[0]]])
    file = tmp_path_factory.mktemp("suspicious") / "found.json"
    file.write_bytes(encode_results(rows))
    return {"data": str(squares), "predictions": str(file)}


@pytest.mark.usefixtures("no_plots")
def test_val_lists_and_draws_suspected_label_errors(suspicious, tmp_path, capsys):
    val(resolve(ValSettings, {**suspicious, "project": str(tmp_path)}))
    (run,) = (tmp_path / "val").iterdir()
    listed = json.loads((run / "suspects.json").read_text())
    assert sorted(one["kind"] for one in listed) == ["missing label", "wrong class"]
    read = Reader((run / "report.html").read_text(encoding="utf-8"))
    assert "Suspected label errors" in read.text
    for rank, one in enumerate(listed, 1):
        assert f"{rank}. {one['kind']}: " in read.text
    pictures = [attrs["src"] for tag, attrs in read.tags if tag == "img" and "image/jpeg" in attrs["src"]]
    document = json.loads((run / "metrics.json").read_text())["analysis"]
    assert len(pictures) == len(document["worst_images"]) + len(listed)
    assert document["suspects"] == {"wrong class": 1, "misplaced": 0, "missing label": 1, "spurious label": 0}
    assert {path.name for path in (run / "review").iterdir()} == {
        "annotations.json", "detections.json", "label_studio.json", "label_studio.xml"
    }  # fmt: skip
    message = " ".join(capsys.readouterr().err.split())
    assert f"suspected label errors: 1 wrong class, 1 missing label; {run / 'suspects.json'}" in message


@pytest.mark.usefixtures("no_plots")
def test_suspects_can_be_limited_and_left_out(suspicious, tmp_path, capsys):
    def run(name, **given):
        val(resolve(ValSettings, {**suspicious, "project": str(tmp_path), "name": name, **given}))
        return tmp_path / "val" / name

    assert len(json.loads((run("one", suspects=1) / "suspects.json").read_text())) == 1
    capsys.readouterr()
    none = run("none", suspects=0)
    assert {path.name for path in none.iterdir()}.isdisjoint({"suspects.json", "review"})
    assert "Suspected" not in (none / "report.html").read_text(encoding="utf-8")
    assert "suspects" not in json.loads((none / "metrics.json").read_text())["analysis"]
    assert "suspected" not in capsys.readouterr().err


@pytest.mark.usefixtures("no_plots")
def test_no_suspects_are_a_sentence(squares, tmp_path, capsys):
    index = open_source(squares).index("val")
    image = index.image_ids[index.image_of_boxes()]
    rows = np.column_stack([image, index.xywh, np.full(len(image), 0.9), index.category_ids[index.labels]])
    (tmp_path / "right.json").write_bytes(encode_results(rows))
    given = {"data": str(squares), "predictions": str(tmp_path / "right.json"), "project": str(tmp_path)}
    val(resolve(ValSettings, given))
    (run,) = (tmp_path / "val").iterdir()
    assert json.loads((run / "suspects.json").read_text()) == []
    assert "No label is contradicted" in (run / "report.html").read_text(encoding="utf-8")
    assert "suspected label errors: none" in capsys.readouterr().err


def test_the_picture_of_a_suspect_shows_label_and_detection_around_it(make_index, tmp_path):
    """A part of 20 + 2 x 24 px, four times as large, with the label at its place."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((400, 500, 3), 99, dtype=np.uint8))
    index = make_index(
        *[[(0, 0, 0, 20, 20)]] * 30, [(1, 200, 100, 20, 20)], sizes=[(500, 400)] * 31, paths=[tmp_path / "a.png"] * 31
    )
    rows = [[i, 0, 0, 20, 20, 0.9, 1] for i in range(30)] + [[30, 200, 100, 20, 20, 0.9, 1]]
    analysis = analyse(index, np.array(rows, dtype=float), suspects=5)
    (one,) = draw_suspects(analysis)
    assert one.text.startswith("1. wrong class: labelled dog, detected cat 0.90 (score 0.9")
    picture = cv2.imdecode(np.frombuffer(one.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (272, 272, 3)
    left = picture[110:160, 94:99, ::-1].reshape(-1, 3).astype(int)
    assert np.abs(left - COLORS["detection"]).sum(axis=1).min() < 90  # JPEG
    assert (np.abs(picture[:60].astype(int) - 99) < 12).mean() > 0.7
