"""Every kind of source: what it expands to, in which order, and the sentence for one that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import write_clip
from PIL import Image

from cledet.data.images import read_image
from cledet.errors import UserError
from cledet.inference.frame import Frame
from cledet.inference.sources import Missing, expand, expand_all, expected_count, find_items, open_entry, read_frames


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three pictures, one of them in a subfolder, and a text; the current folder is another one."""
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for i, name in enumerate(("b10.png", "b2.png", "deep/a.png")):
        Image.new("RGB", (8 + i, 6), (i, 0, 0)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "note.md").write_text("no image")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "photos"


def names(source, **how):
    return [frame.path.name for frame in read_frames(source, **how)]


def test_files_folders_patterns_and_several_of_them(photos):
    assert names(photos) == ["b2.png", "b10.png"]
    assert names(str(photos)) == ["b2.png", "b10.png"]
    assert names(photos, recursive=True) == ["b2.png", "b10.png", "a.png"]
    assert names(str(photos / "*" / "*.png")) == ["a.png"]
    assert names(str(photos / "**" / "*.png")) == ["b2.png", "b10.png", "a.png"]
    assert names([photos / "b10.png", photos / "deep"]) == ["b10.png", "a.png"]
    assert names(path for path in (photos / "b2.png",)) == ["b2.png"]


def test_links_to_folders_are_not_followed(photos):
    (photos / "deep" / "up").symlink_to(photos)
    assert names(photos, recursive=True) == ["b2.png", "b10.png", "a.png"]


def test_a_frame_knows_its_origin(photos):
    (frame,) = read_frames(photos / "b2.png")
    assert (frame.path, frame.name, frame.number, frame.seconds) == (
        photos / "b2.png",
        str(photos / "b2.png"),
        None,
        None,
    )
    assert (frame.image == read_image(photos / "b2.png")).all()


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_paths_of_a_list_start_from_its_folder(photos, ends):
    lines = ["b10.png", "", "deep", f"{photos}/b2.png", "deep/*.png"]
    (photos / "list.txt").write_bytes(b"\xef\xbb\xbf" + ends.join(line.encode() for line in lines) + ends)
    assert names(photos / "list.txt") == ["b10.png", "a.png", "b2.png", "a.png"]


def test_lists_hold_no_lists_numbers_or_standard_input(photos):
    (photos / "list.txt").write_text("list.txt\n0\n-\nb2.png\n")
    entries = expand(photos / "list.txt")
    assert [type(entry) for entry in entries[1:3]] == [Missing, Missing]
    found, errors = [], []
    for item in (item for entry in entries for item in open_entry(entry)):
        try:
            found.append(item.read())
        except UserError as error:
            errors.append(str(error))
    assert [frame.path.name for frame in found] == ["b2.png"]
    assert "list.txt" in errors[0]
    assert "cannot decode" in errors[0]


def test_lists_hold_names_that_are_not_utf8(photos):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (5, 5)).save(photos / "b2.png", "PNG")
    (photos / name).write_bytes((photos / "b2.png").read_bytes())
    (photos / "list.txt").write_bytes(b"caf\xe9.png\n")
    assert names(photos / "list.txt") == [name]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nowhere.jpg", r"image or folder not found: .*nowhere\.jpg"),
        ("*.xyz", r"no images in \*\.xyz \(it holds nothing"),
        ("empty", r"no images in empty \(it holds nothing; images end in"),
        ("../photos/deep/..", None),
        ("folders", r"it holds nothing but folders: --recursive includes them"),
        ("empty.txt", r"empty\.txt lists no images \(write one path or URL a line\)"),
        ("ftp://x/a.jpg", "ftp://x/a.jpg has the scheme ftp, which is not read"),
        ("a\0b.jpg", "cannot be read|not found"),
        ("x" * 300 + ".jpg", "cannot be read|not found"),
        ("~nobody-of-this-name/a.jpg", "not found"),
        ("~a\0b/c.jpg", "cannot be read|not found"),
        ("987654", "there is no webcam 987654"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(photos, source, sentence):
    Path("empty").mkdir()
    Path("folders/one").mkdir(parents=True)
    Path("empty.txt").write_text("\n\n")
    if sentence is None:
        assert names(source) == ["b2.png", "b10.png"]
        return
    with pytest.raises(UserError, match=sentence):
        list(read_frames(source))
    (item,) = find_items(source)
    with pytest.raises(UserError, match=sentence):
        item.read()


def test_broken_files_are_named_and_the_rest_goes_on(photos):
    (photos / "b1.png").write_bytes((photos / "b2.png").read_bytes()[:40])
    (photos / "b3.png").touch()
    errors = []
    sources = [photos, "gone.png", photos / "deep"]
    found = names(sources, on_error=lambda name, error: errors.append((name, str(error))))
    assert found == ["b2.png", "b10.png", "a.png"]
    assert [name.rpartition("/")[2] for name, _ in errors] == ["b1.png", "b3.png", "gone.png"]
    assert "the file is empty" in errors[1][1]


def test_a_file_that_vanishes_before_it_is_read(photos):
    items = find_items(photos)
    first = next(items)
    (photos / "b2.png").unlink()
    with pytest.raises(UserError, match="not found"):
        first.read()
    assert next(items).read().path.name == "b10.png"


def test_numbers_are_cameras_unless_a_file_has_that_name(photos):
    Image.new("RGB", (4, 4)).save(photos / "7", "PNG")
    assert expand("7") == ["7"]
    assert names(str(photos / "7")) == ["7"]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_the_number_of_images_is_known_beforehand(photos, suffix):
    assert expected_count(expand_all([str(photos), "https://x/a.jpg", "gone"])) == 4
    write_clip(photos / f"a.{suffix}", 50)
    assert expected_count(expand_all([str(photos)])) == pytest.approx(52, abs=1)
    for endless in ("-", "0", "https://x/a", "rtsp://x/a"):
        assert expected_count(expand_all([str(photos), endless])) is None
    (photos / "b.mp4").write_bytes(b"no video")
    assert expected_count(expand_all([str(photos)])) is None


def rgb():
    return np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "make",
    [
        lambda image: image,
        lambda image: [image],
        lambda image: (part for part in [image]),
        lambda image: image[None],
        lambda image: np.dstack([image, image[..., 0]]),
        lambda image: image.astype(np.uint16) * 257,
        Image.fromarray,
        lambda image: Image.fromarray(np.dstack([image, image[..., 0]])),
        lambda image: torch.from_numpy(image).permute(2, 0, 1),
        lambda image: torch.from_numpy(image).permute(2, 0, 1)[None],
        lambda image: torch.from_numpy(image).permute(2, 0, 1).float() / 255,
        lambda image: torch.from_numpy(image).permute(2, 0, 1).double() / 255,
        lambda image: torch.from_numpy(image).permute(2, 0, 1).float().requires_grad_() / 255,
        lambda image: [[torch.from_numpy(image).permute(2, 0, 1)]],
    ],
)
def test_python_objects_become_the_same_pixels(make):
    (frame,) = read_frames(make(rgb()))
    assert frame.image.dtype == np.uint8
    assert (frame.image == rgb()).all()
    assert (frame.path, frame.name) == (None, "image 0")


def test_gray_tensors_and_pillow_images():
    gray = rgb()[..., 0]
    wanted = np.repeat(gray[..., None], 3, axis=2)
    for source in (gray, torch.from_numpy(gray), torch.from_numpy(gray)[None], Image.fromarray(gray),
                   Image.fromarray(gray.astype(np.uint16) * 257)):  # fmt: skip
        (frame,) = read_frames(source)
        assert (frame.image == wanted).all()


def test_pillow_images_are_upright_as_files_are(tmp_path):
    image = Image.fromarray(rgb())
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "a.png", exif=exif)
    (frame,) = read_frames(Image.open(tmp_path / "a.png"))
    assert (frame.image == read_image(tmp_path / "a.png")).all()
    assert frame.image.shape == (8, 6, 3)


def test_a_pillow_image_of_a_truncated_file(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot decode image .*a\.png"):
        list(read_frames(Image.open(tmp_path / "a.png")))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (torch.full((3, 4, 4), 2.0), "a tensor of floats holds values outside 0 to 1"),
        (torch.full((3, 4, 4), float("nan")), "outside 0 to 1"),
        (torch.zeros(5, 6, 3, dtype=torch.uint8), r"a tensor is \[3, H, W\] or \[N, 3, H, W\], not \[5, 6, 3\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "an array of uint8"),
        (torch.zeros(3, 0, 4), "has no pixels"),
        (np.zeros((8, 8, 3), np.float32), r"0 to 255, not float32 \[8, 8, 3\]"),
        (None, "predict takes files, folders, .* not NoneType"),
        (True, "not bool"),
        (b"x.jpg", "not bytes"),
        ({"image": 1}, "not dict"),
        ([2.5], "not float"),
    ],
)
def test_objects_that_are_no_images(source, sentence):
    with pytest.raises(UserError, match=sentence):
        list(read_frames(source))


def test_objects_are_counted_and_bad_ones_are_skipped():
    errors = []
    source = [rgb(), torch.full((3, 4, 4), 7.0), np.stack([rgb(), rgb()]), None, Image.fromarray(rgb())]
    found = [f.name for f in read_frames(source, on_error=lambda name, error: errors.append(name))]
    assert found == ["image 0", "image 2", "image 3", "image 5"]
    assert errors == ["image 1", "image 4"]


def test_frames_are_read_one_at_a_time():
    taken = []

    def images():
        for i in range(3):
            taken.append(i)
            yield rgb()

    frames = read_frames(images())
    assert taken == []
    assert isinstance(next(frames), Frame)
    assert taken == [0]
