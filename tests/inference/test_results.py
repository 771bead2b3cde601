"""Results: selection, pictures, notebooks, and the formats of other tools, on detections written by hand."""

from __future__ import annotations

import base64
import io
import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow

from cledet import Detection, Results
from cledet.errors import UserError
from cledet.visualization.draw import class_color


@pytest.fixture
def result():
    """Three detections on a picture of 120x100 px: cat, dog, cat."""
    return Results(
        image=np.full((100, 120, 3), 90, np.uint8),
        boxes=torch.tensor([[10.0, 20, 50, 80], [60, 10, 110, 90], [5, 5, 15, 25.126]]),
        scores=torch.tensor([0.9, 0.75, 0.5]),
        labels=torch.tensor([0, 1, 0]),
        names=("cat", "dog", "bird"),
        category_ids=(7, 3, 9),
        path=Path("photos/000000000139.jpg"),
        name="photos/000000000139.jpg",
        highest_score=0.9,
    )


@pytest.fixture
def empty(result):
    return result[torch.zeros(3, dtype=torch.bool)]


def test_length_size_and_iteration(result):
    assert len(result) == 3
    assert (result.width, result.height, result.original_size) == (120, 100, (100, 120))
    assert list(result)[1] == Detection("dog", 0.75, (60.0, 10.0, 110.0, 90.0), 1, 3)
    assert result.class_names == ["cat", "dog", "cat"]
    assert [one.name for one in result] == result.class_names


def test_an_index_is_one_detection(result):
    assert result[1].name == "dog"
    assert result[-1].box == pytest.approx((5, 5, 15, 25.126))
    assert result[np.int64(0)] == result[0] == next(iter(result))
    assert result[result.scores.argmax()] == result[np.array(0)] == result[0]
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            result[wrong]


@pytest.mark.parametrize(
    ("chosen", "scores"),
    [
        (slice(0, 2), [0.9, 0.75]),
        (slice(None, None, 2), [0.9, 0.5]),
        (slice(None, None, -1), [0.5, 0.75, 0.9]),
        (slice(3, 3), []),
        (torch.tensor([True, False, True]), [0.9, 0.5]),
        (np.array([False, True, False]), [0.75]),
        ([True, True, False], [0.9, 0.75]),
        ([2, 0], [0.5, 0.9]),
        (torch.tensor([1]), [0.75]),
        (np.array([-1]), [0.5]),
        ([], []),
        ("cat", [0.9, 0.5]),
        ("bird", []),
    ],
    ids=str,
)
def test_selections_are_results(result, chosen, scores):
    some = result[chosen]
    assert isinstance(some, Results)
    assert some.scores.tolist() == pytest.approx(scores)
    assert some.boxes.shape == (len(scores), 4)
    assert (some.path, some.names, some.highest_score) == (result.path, result.names, 0.9)
    assert some.image is result.image


def test_an_unknown_class_is_a_user_error(result):
    with pytest.raises(UserError, match=r"the model has no class 'dgo' \(did you mean dog\?\)"):
        result["dgo"]


def test_the_representation_is_one_line(result, empty):
    assert repr(result) == "Results(photos/000000000139.jpg, 120x100: 2 cat, 1 dog)"
    assert repr(empty) == "Results(photos/000000000139.jpg, 120x100: nothing)"
    frame = replace(empty, path=None, name="a.mp4", number=12, seconds=0.5)
    assert repr(frame) == "Results(a.mp4 frame 12, 120x100: nothing)"
    assert repr(replace(empty, path=None, name="")) == "Results(image, 120x100: nothing)"


def test_boxes_are_drawn_on_a_copy(result, empty):
    picture = result.plot()
    assert picture.shape == (100, 120, 3)
    assert (result.image == 90).all()
    assert tuple(picture[60, 110]) == class_color(1)
    assert (empty.plot() == 90).all()


def test_arrays(result, empty):
    boxes, scores, labels = result.numpy()
    assert (boxes.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int64)
    assert boxes[1].tolist() == [60, 10, 110, 90]
    assert labels.tolist() == [0, 1, 0]
    assert [len(values) for values in empty.numpy()] == [0, 0, 0]


def test_plain_data(result, empty):
    document = json.loads(json.dumps(result.to_dict()))
    assert list(document) == ["file", "width", "height", "detections"]
    assert document["file"] == str(result.path)
    assert document["detections"][2] == {
        "name": "cat", "category_id": 7, "score": 0.5, "box": [5, 5, 15, 25.13],
    }  # fmt: skip
    assert empty.to_dict()["detections"] == []
    frame = replace(result, path=None, name="a.mp4", number=12, seconds=0.5).to_dict()
    assert (frame["file"], frame["frame"], frame["seconds"]) == ("a.mp4", 12, 0.5)
    assert replace(result, path=None, name="").to_dict()["file"] is None


def test_cocos_results_format(result, tmp_path):
    rows = result.to_coco()
    assert {row["image_id"] for row in rows} == {139}
    assert rows[1] == {"image_id": 139, "category_id": 3, "bbox": [60.0, 10.0, 50.0, 80.0], "score": 0.75}
    assert rows[2]["bbox"][3] == result.boxes[2, 3].item() - 5
    assert replace(result, name="b/street.jpg").to_coco()[0]["image_id"] == "street"
    assert result.to_coco(image_id=5)[0]["image_id"] == 5


def test_results_of_coco_are_read_by_val(result, make_index, tmp_path):
    from cledet.metrics.results_file import read_results

    index = make_index([], image_ids=np.array([139]), category_ids=np.array([7, 3, 9]), classes=("cat", "dog", "bird"))
    (tmp_path / "r.json").write_text(json.dumps(result.to_coco()))
    rows = read_results(tmp_path / "r.json", index)
    assert rows.shape == (3, 7)
    np.testing.assert_allclose(rows[:, 5], [0.9, 0.75, 0.5], atol=1e-6)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".tif"])
def test_save_writes_the_annotated_picture(result, tmp_path, suffix):
    path = result.save(tmp_path / f"new/a{suffix}")
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    near = np.abs(picture - result.plot())
    assert near.mean() < (0.1 if suffix in (".png", ".bmp", ".tif") else 8)


def test_a_picture_that_a_format_cannot_hold_is_refused(result, tmp_path):
    wide = replace(result, image=np.zeros((8, 17_000, 3), np.uint8))
    with pytest.raises(UserError, match="webp cannot hold a picture of 17000x8 pixels"):
        wide.save(tmp_path / "a.webp")
    assert not (tmp_path / "a.webp").exists()


def test_save_writes_json(result, tmp_path):
    assert json.loads(result.save(str(tmp_path / "a.json")).read_text()) == result.to_dict()


def test_save_refuses_the_image_itself_and_other_formats(result, tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(result.image).save(file)
    before = file.read_bytes()
    (tmp_path / "link.png").symlink_to(file)
    for path in (file, tmp_path / "link.png"):
        with pytest.raises(UserError, match=r"is the image itself, which is never changed \(choose another name\)"):
            replace(result, path=file).save(path)
    assert file.read_bytes() == before
    with pytest.raises(UserError, match=r"a.txt does not end in one of \.jpg"):
        result.save(tmp_path / "a.txt")


def test_a_notebook_shows_the_picture(result):
    picture = np.asarray(Image.open(io.BytesIO(result._repr_png_())))
    assert np.array_equal(picture, result.plot())
    html = replace(result, names=("<cat>", "dog", "bird"))._repr_html_()
    assert "Results(photos/000000000139.jpg, 120x100: 2 &lt;cat&gt;, 1 dog)" in html
    data = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    assert Image.open(io.BytesIO(data)).size == (120, 100)


def test_inline_pictures_of_large_images_are_reduced(result):
    large = replace(result, image=np.zeros((1000, 5120, 3), np.uint8))
    assert Image.open(io.BytesIO(large._repr_png_())).size == (1280, 250)


def test_show_displays_inline_in_a_notebook_only(result, monkeypatch):
    shown = []
    shell = types.SimpleNamespace()
    fake = types.SimpleNamespace(get_ipython=lambda: shell, display=types.SimpleNamespace(display=shown.append))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    viewers = []
    monkeypatch.setattr(ImageShow, "show", lambda image, title=None: viewers.append((image.size, title)) or True)
    result.show()  # IPython in a terminal
    assert (shown, viewers) == ([], [((120, 100), result.name)])
    shell.kernel = object()
    result.show()
    assert shown == [result]
    assert len(viewers) == 1


def test_show_without_a_viewer_is_a_user_error(result, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setattr(ImageShow, "show", lambda image, title=None: False)
    with pytest.raises(UserError, match=r"no program that shows pictures \(write a file with save"):
        result.show()


def test_supervision(result, empty):
    supervision = pytest.importorskip("supervision")
    found = result.to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.xyxy.tolist() == result.boxes.tolist()
    assert found.class_id.tolist() == [0, 1, 0]
    assert found.confidence.tolist() == pytest.approx([0.9, 0.75, 0.5])
    assert found["class_name"].tolist() == ["cat", "dog", "cat"]
    assert len(found[found["class_name"] == "cat"]) == 2
    assert len(empty.to_supervision()) == 0


def test_pandas(result, empty):
    pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert list(frame) == ["file", "name", "category_id", "score", "x1", "y1", "x2", "y2"]
    assert frame.groupby("name").size().to_dict() == {"cat": 2, "dog": 1}
    assert frame.loc[1, ["x1", "y2"]].tolist() == [60, 90]
    assert len(empty.to_pandas()) == 0
    assert list(empty.to_pandas()) == list(frame)


@pytest.mark.parametrize("package", ["supervision", "pandas"])
def test_a_missing_package_is_named(result, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"to_{package} needs {package} \(pip install {package}\)"):
        getattr(result, f"to_{package}")()
