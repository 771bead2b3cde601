"""Tables of supervision and cledet."""

from __future__ import annotations

import pytest

from cledet.errors import UserError
from cledet.metrics.predictions.read import read_predictions

SINK = "x_min,y_min,x_max,y_max,class_id,confidence,tracker_id"
"""The first columns of supervision's CSVSink."""
WANTED = [[0.0, 1.5, 2.0, 3.0, 4.0, 0.5, 2.0], [1.0, 0.0, 0.0, 5.0, 6.0, 0.25, 1.0]]


@pytest.fixture
def read(make_index, tmp_path):
    index = make_index([], [], paths=["/set/a.jpg", "/set/b.jpg"])

    def read(*lines, newline="\n"):
        (tmp_path / "found.csv").write_text(newline.join([*lines, ""]), newline="")
        return read_predictions(tmp_path / "found.csv", index)

    return read


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tables_of_supervision_are_read(read, newline):
    """The csv module ends lines with both characters."""
    found = read(
        f"{SINK},file_name", "1.5,2,4.5,6,1,0.5,,a.jpg", "0.0,0.0,5.0,6.0,0,0.25,,folder/b.jpg", newline=newline
    )
    assert found.rows.tolist() == WANTED
    assert found.summary == (
        "found.csv: supervision, 2 detections on 2 of 2 images; images by file name; classes numbered from 0"
    )


def test_class_names_come_first_unless_they_are_numbers(read):
    """A model without names calls its classes "0", "1"."""
    header = f"{SINK},class_name,file_name"
    assert read(header, "1.5,2,4.5,6,7,0.5,,Dog,a", "0,0,5,6,8,0.25,,cat,b").rows.tolist() == WANTED
    assert read(header, "1.5,2,4.5,6,1,0.5,,1,a", "0,0,5,6,0,0.25,,0,b").rows.tolist() == WANTED
    with pytest.raises(UserError, match=r"names 1 of 2 classes that set/train does not have: dgo \(did you mean dog"):
        read(header, "1,2,4,6,1,0.5,,dgo,a", "0,0,5,6,0,0.25,,cat,b")


def test_images_may_be_ids(read):
    assert read(f"{SINK},image_id", "1.5,2,4.5,6,1,0.5,,0", "0,0,5,6,0,0.25,,1").rows.tolist() == WANTED


def test_the_table_of_cledet_is_read(read):
    header = "file,frame,seconds,x1,y1,x2,y2,score,category_id,class"
    rows = "photos/a.jpg,,,1.5,2.0,4.5,6.0,0.5,2,dog", '"/photos/b.jpg",,,0.0,0.0,5.0,6.0,0.25,1,cat'
    found = read(header, *rows)
    assert found.rows.tolist() == WANTED
    assert found.summary.startswith("found.csv: a table, 2 detections")
    assert read(header).rows.shape == (0, 7)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((SINK, "1,2,4,6,1,0.5,"), r"does not say to which image .* its columns are x_min, .*custom_data"),
        ((f"{SINK},file_name", "1,2,4,6,1,,,a"), "confidence of detection 1 is '', not a number"),
        ((f"{SINK},file_name", "1,2,4,6,1,0.5,,a", "1,2,4,6,1,x,,a"), "confidence of detection 2 is 'x'"),
        ((f"{SINK},file_name", "1,2,4,6,1,0.5,,a", "1,2,4"), "row 3 has 3 columns and the header 8"),
        ((f"{SINK},file_name", "1,2,4,6,1,inf,,a"), "1 detections hold numbers that are not finite, entry 0 first"),
        ((f"{SINK},file_name", "1,2,4,6,3,0.5,,a"), "names 1 of 1 category ids that set/train does not have: 3"),
        (("x1,y1,x2,y2,class,file", "1,2,4,6,1,a"), "has no scores"),
        (("x1,y1,x2,y2,score,file", "1,2,4,6,1,a"), "has no classes"),
        (("a,b", "1,2"), "in no format of detections that is known"),
        (("",), "is empty"),
    ],
)
def test_other_tables_are_refused(read, lines, sentence):
    with pytest.raises(UserError, match=sentence):
        read(*lines)


def test_text_in_another_encoding_is_refused(read, tmp_path, make_index):
    file = tmp_path / "found.csv"
    file.write_bytes(f"{SINK},file_name\n1,2,4,6,1,0.5,,\xe4\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"is not UTF-8 text: .* at byte"):
        read_predictions(file, make_index([]))
