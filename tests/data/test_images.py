"""One decoder for every kind of image, and a sentence for what is none."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cledet.data.images import ImageError, decode_image, image_files, read_image, silent_opencv
from cledet.errors import UserError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(width: int = 40, height: int = 20) -> np.ndarray:
    """Red top left, green top right, blue bottom left, white bottom right."""
    tiles = np.array([[RED, GREEN], [BLUE, WHITE]], dtype=np.uint8)
    return np.kron(tiles, np.ones((height // 2, width // 2, 1), dtype=np.uint8))


def corners(image: np.ndarray) -> list[str]:
    """The colours of the four corners, by name, clockwise from the top left."""
    names = {RED: "red", GREEN: "green", BLUE: "blue", WHITE: "white"}
    places = (image[2, 2], image[2, -3], image[-3, -3], image[-3, 2])
    return [names[tuple(np.where(p > 127, 255, 0).tolist())] for p in places]  # type: ignore[index]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif", "a.gif"])
def test_formats(tmp_path: Path, name: str) -> None:
    Image.fromarray(quarters()).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (image.shape, image.dtype, image.flags.c_contiguous) == ((20, 40, 3), np.uint8, True)
    assert corners(image) == ["red", "green", "white", "blue"]


@pytest.mark.parametrize(("mode", "name"), [("RGBA", "a.png"), ("P", "a.png"), ("CMYK", "a.jpg"), ("CMYK", "a.tif")])
def test_modes(tmp_path: Path, mode: str, name: str) -> None:
    picture = Image.fromarray(quarters())
    if mode == "RGBA":
        picture.putalpha(3)
    picture.convert(mode).save(tmp_path / name)
    assert corners(read_image(tmp_path / name)) == ["red", "green", "white", "blue"]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, name: str) -> None:
    deep = np.array([[0, 257], [32896, 65535]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / name), deep)
    assert read_image(tmp_path / name)[:, :, 1].tolist() == [[0, 1], [128, 255]]


def test_sixteen_bits_in_colour(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), quarters()[:, :, ::-1].astype(np.uint16) * 257)
    assert corners(read_image(tmp_path / "a.png")) == ["red", "green", "white", "blue"]


def test_gray_becomes_three_channels(tmp_path: Path) -> None:
    for mode in ("L", "LA", "1"):
        Image.new("L", (1, 1), 255).convert(mode).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255]]]


def with_orientation(file: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(quarters()).save(file, exif=exif, quality=95)
    return file


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    file = with_orientation(tmp_path / "a.jpg", orientation)
    with Image.open(file) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    assert corners(read_image(file)) == corners(expected)
    assert read_image(file).shape == expected.shape


def test_orientation_is_applied_only_where_the_annotation_says_so(tmp_path: Path) -> None:
    file = with_orientation(tmp_path / "a.jpg", 6)
    assert read_image(file, (20, 40)).shape == (40, 20, 3)
    assert read_image(file, (40, 20)).shape == (20, 40, 3)
    assert read_image(file, (99, 99)).shape == (20, 40, 3)
    upside_down = with_orientation(tmp_path / "b.jpg", 3)
    assert corners(read_image(upside_down, (40, 20))) == ["red", "green", "white", "blue"]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif", "a.gif"])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("share", [0.0, 0.01, 0.6])
def test_truncated_images_are_named(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, format={"jpg": "jpeg", "tif": "tiff"}.get(name[2:], name[2:]))
    (tmp_path / name).write_bytes(data.getvalue()[: int(share * len(data.getvalue()))])
    with pytest.raises(UserError, match=f"cannot decode image .*{name}"):
        read_image(tmp_path / name)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UserError, match=r"a\.jpg"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"not found.*did you mean a.jpg"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(UserError, match="cannot read"):
        read_image(tmp_path)


def test_trailing_bytes_after_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + b"\0" * 100)
    assert read_image(tmp_path / "a.jpg").shape == (20, 40, 3)


def test_files_come_in_natural_order(tmp_path: Path) -> None:
    for name in ("b10.jpg", "b2.PNG", "a.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in image_files(tmp_path)] == ["b2.PNG", "b10.jpg"]
    assert [file.name for file in image_files(str(tmp_path / "*.jpg"))] == ["b10.jpg"]
    assert image_files(tmp_path / "a.txt") == [tmp_path / "a.txt"]


@pytest.mark.parametrize(("what", "words"), [("", "it holds nothing"), ("*.jpg", "no images"), ("x.jpg", "not found")])
def test_no_files(tmp_path: Path, what: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        image_files(tmp_path / what)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif", "a.gif"])
def test_truncated_is_told_from_damaged(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for content, kind in ((whole[: len(whole) // 2], "truncated"), (b"", "unreadable"), (b"text", "unreadable")):
        with pytest.raises(ImageError) as caught:
            decode_image(content, name)
        assert caught.value.kind == kind
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "gone.png")
    assert caught.value.kind == "missing"
    assert decode_image(whole, name).shape == (60, 80, 3)


def test_damage_in_the_middle_is_no_missing_end(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[40:60] = bytes(20)
    with pytest.raises(ImageError) as caught:
        decode_image(bytes(content), "a.png")
    assert caught.value.kind == "unreadable"


def test_opencv_says_nothing_while_it_is_told_not_to(capfd: pytest.CaptureFixture[str]) -> None:
    broken = np.frombuffer(b"\x89PNG\r\n\x1a\n" + bytes(60), np.uint8)
    with silent_opencv():
        assert cv2.imdecode(broken, cv2.IMREAD_COLOR) is None
    assert capfd.readouterr().err == ""
    cv2.imdecode(broken, cv2.IMREAD_COLOR)
    assert "PNG" in capfd.readouterr().err.upper()
