"""One decoder for every kind of image, and a sentence for what is none."""

from __future__ import annotations

import errno
import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image

from cledet.data.images import (
    MAX_PIXELS,
    ImageError,
    decode_image,
    image_files,
    image_size,
    read_image,
    turns_in_place,
)
from cledet.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # as images.py does; pytest sets its own filters
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
    deep = np.array([[0, 200], [32896, 65535]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / name), deep)
    assert read_image(tmp_path / name)[:, :, 1].tolist() == [[0, 1], [128, 255]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bits_in_colour(tmp_path: Path, name: str, alpha: bool) -> None:
    deep = np.array([[[0, 25700, 65535], [257, 514, 771]]], dtype=np.uint16)  # blue, green, red
    if alpha:
        deep = np.concatenate([deep, np.full((1, 2, 1), 65535, np.uint16)], axis=2)
    cv2.imwrite(str(tmp_path / name), deep)
    assert read_image(tmp_path / name).tolist() == [[[255, 100, 0], [3, 2, 1]]]


@pytest.mark.parametrize(("kind", "words"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_numbers_without_a_meaning_as_colour_are_refused(tmp_path: Path, kind: type, words: str) -> None:
    Image.fromarray(np.full((4, 4), 70000, kind)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a\.tif: it holds {words}"):
        read_image(tmp_path / "a.tif")


def test_alpha_is_dropped(tmp_path: Path) -> None:
    for name in ("a.png", "a.webp", "a.tif"):
        exact = {"lossless": True, "exact": True} if name == "a.webp" else {}
        Image.new("RGBA", (2, 1), (100, 150, 200, 0)).save(tmp_path / name, **exact)
        assert read_image(tmp_path / name).tolist() == [[[100, 150, 200]] * 2]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_an_animation_is_decoded_to_its_first_frame(tmp_path: Path, name: str) -> None:
    red, green = (Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN))
    lossless = {"lossless": True} if name == "a.webp" else {}
    red.save(tmp_path / name, save_all=True, append_images=[green], **lossless)
    assert read_image(tmp_path / name)[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    Image.fromarray(quarters(64, 64)).save(tmp_path / "a.tif", compression=compression)
    assert corners(read_image(tmp_path / "a.tif")) == ["red", "green", "white", "blue"]


@pytest.mark.parametrize("kind", ["4:4:4", "4:2:2", "4:2:0", "progressive", "rgb", "gray"])
def test_jpeg_is_decoded_as_pillow_does(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (33, 47, 3), dtype=np.uint8)
    options = {"progressive": {"progressive": True}, "rgb": {"keep_rgb": True}, "gray": {}}
    file = tmp_path / "a.jpg"
    picture = Image.fromarray(noise).convert("L" if kind == "gray" else "RGB")
    picture.save(file, **options.get(kind, {"subsampling": kind}))
    with Image.open(file) as opened:
        assert np.array_equal(read_image(file), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("name", ["bccd", "voc2012_sub", "coco2017_sub"])
def test_real_photos_are_decoded_as_pillow_does(shared_data: Path, name: str) -> None:
    for file in sorted((shared_data / name).rglob("*.jpg"))[::10]:
        with Image.open(file) as opened:
            assert np.array_equal(read_image(file, opened.size), np.asarray(opened.convert("RGB"))), file


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG of one grey row, whatever size its header claims."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" + b"\x40" * width))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + rows + chunk(b"IEND", b"")


def test_gamma_and_colour_profiles_change_no_pixel_and_print_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    extras = (chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"iCCP", b"x\0\0" + zlib.compress(b"bad" * 100)))
    for extra in extras:
        (tmp_path / "a.png").write_bytes(png(2, 1, extra))
        assert read_image(tmp_path / "a.png").tolist() == [[[64] * 3] * 2]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("side", [14000, 60000])
def test_a_huge_image_is_refused_before_it_is_decoded(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png(side, side))
    words = f"{side * side} pixels|{side}x{side}, more than {MAX_PIXELS} pixels"
    with pytest.raises(UserError, match=rf"a\.png: .*({words})"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as other libraries do
    with pytest.raises(UserError, match=f"{side}x{side}, more than {MAX_PIXELS} pixels"):
        read_image(tmp_path / "a.png")


def test_a_jpeg_damaged_in_the_middle_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:1500] + data[2500:])
    with pytest.raises(UserError, match=r"cannot decode image .*a\.jpg: .*premature end"):
        read_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(data[:-2] + b"\x12\x34" * 20 + data[-2:])  # nothing is lost
    with Image.open(tmp_path / "b.jpg") as opened:
        assert np.array_equal(read_image(tmp_path / "b.jpg"), np.asarray(opened))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_broken_files_are_user_errors(tmp_path: Path, form: str) -> None:
    """Some broken files still decode; the others must end in UserError, whatever Pillow raises."""
    data, rng = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(quarters()).save(data, form)
    errors = []
    for _ in range(150):
        broken = np.frombuffer(data.getvalue(), np.uint8).copy()
        broken[rng.integers(0, min(len(broken), 120), 4)] = rng.integers(0, 256, 4)
        (tmp_path / "a.jpg").write_bytes(broken.tobytes())
        try:
            assert read_image(tmp_path / "a.jpg").shape[2] == 3
        except UserError as error:
            errors.append(error.message)
    assert len(errors) > 10
    assert all("a.jpg" in message and "BytesIO" not in message for message in errors)


@pytest.mark.slow
def test_the_users_terminal_stays_clean(tmp_path: Path) -> None:
    """What Pillow warns of, here EXIF that ends early, comes as a sentence or not at all."""
    Image.fromarray(quarters()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\3\0")
    code = "import sys; from cledet.data.images import read_image; read_image(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "a.jpg")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""


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


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_orientation_in_other_formats(tmp_path: Path, name: str) -> None:
    file = with_orientation(tmp_path / name, 6)
    assert corners(read_image(file)) == ["blue", "red", "green", "white"]
    assert read_image(file, (40, 20)).shape == (20, 40, 3)
    assert read_image(file, (20, 40)).shape == (40, 20, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_the_size_of_a_file_is_that_of_the_upright_image(tmp_path: Path, name: str, orientation: int) -> None:
    file = with_orientation(tmp_path / name, orientation)
    size = (20, 40) if orientation >= 5 else (40, 20)
    assert image_size(file) == size
    assert read_image(file).shape[1::-1] == size
    assert turns_in_place(file) == (orientation in (2, 3, 4) and name != "a.tif")


def test_squares_turn_in_place_and_broken_files_do_not(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(quarters(20, 20)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert [turns_in_place(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")] == [True, False, False]


def test_a_square_is_rotated_only_without_an_annotated_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(quarters(20, 20)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert corners(read_image(tmp_path / "a.jpg", (20, 20))) == ["red", "green", "white", "blue"]
    assert corners(read_image(tmp_path / "a.jpg")) == ["blue", "red", "green", "white"]


def test_an_invalid_orientation_is_ignored(tmp_path: Path) -> None:
    for orientation in (0, 9, 65535):
        assert corners(read_image(with_orientation(tmp_path / "a.jpg", orientation))) == [
            "red",
            "green",
            "white",
            "blue",
        ]
    Image.fromarray(quarters()).save(tmp_path / "a.jpg", exif=b"Exif\0\0nonsense", quality=95)
    assert corners(read_image(tmp_path / "a.jpg"))[0] == "red"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif", "a.gif"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.6])
def test_truncated_images_are_named(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, format={"jpg": "jpeg", "tif": "tiff"}.get(name[2:], name[2:]))
    (tmp_path / name).write_bytes(data.getvalue()[: int(share * len(data.getvalue()))])
    with pytest.raises(UserError, match=f"cannot decode image .*{name}"):
        read_image(tmp_path / name)


def test_files_that_are_not_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UserError, match=r"a\.jpg: it is not an image"):
        read_image(tmp_path / "a.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(UserError, match=r"empty\.jpg: the file is empty"):
        read_image(tmp_path / "empty.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(UserError, match=r"cannot read image .*folder\.jpg: Is a directory"):
        read_image(tmp_path / "folder.jpg")
    with pytest.raises(UserError, match=r"not found.*did you mean a.jpg"):
        read_image(tmp_path / "b.jpg")


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("cledet.data.formats.paths.open_regular_file", refuse)
    with pytest.raises(UserError, match=r"cannot read image .*a\.jpg: Permission denied"):
        read_image(tmp_path / "a.jpg")


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
def test_truncated_and_damaged_files_are_distinguished(tmp_path: Path, name: str) -> None:
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


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
showpage
%%EOF
"""
DDS = b"DDS " + struct.pack("<7I44x", 124, 0x1007, 4, 4, 0, 0, 0) + struct.pack("<2I4s5I", 32, 4, b"DX10", *[0] * 5)
AVIF = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"avif", 0, b"avif", b"mif1") + b"\0" * 64


@pytest.mark.parametrize("read", [read_image, image_size])
@pytest.mark.parametrize(
    "content", [EPS, DDS.ljust(200, b"\0"), AVIF, b"P6 1 1 255 abc"], ids=["eps", "dds", "avif", "ppm"]
)
def test_other_formats_are_refused_whatever_the_name_and_start_no_program(tmp_path, monkeypatch, content, read) -> None:
    ran = tmp_path / "ran"
    for name in ("gs", "gswin32c", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked for once a process
    file = tmp_path / "x.jpg"
    file.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read(file)
    assert raised.value.message.endswith(f"image {file}: it is not an image, or its format is not supported")
    assert not ran.exists()


def test_a_jpeg_of_several_pictures_is_a_jpeg(tmp_path: Path) -> None:
    picture = Image.fromarray(quarters())
    picture.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[picture])
    assert corners(read_image(tmp_path / "a.jpg")) == ["red", "green", "white", "blue"]
    assert image_size(tmp_path / "a.jpg") == (40, 20)


@pytest.fixture
def soon():
    """Ends a test that waits, for a pipe's writer say, instead of the whole session."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("read", [read_image, image_size])
def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path: Path, soon, read) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name, kind in (("pipe.jpg", "named pipe"), ("zero.jpg", "device")):
        with pytest.raises(UserError) as raised:
            read(tmp_path / name)
        assert str(raised.value) == f"cannot read image {tmp_path / name}: it is a {kind}, not a file"
    with pytest.raises(UserError, match=r"pipe\.jpg is a named pipe, socket or device"):
        image_files(tmp_path / "pipe.jpg")
    with pytest.raises(UserError, match="no images"):
        image_files(tmp_path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"])
def test_a_tall_image_is_converted_as_a_whole(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (700, 5), dtype=np.uint16))
        whole = np.repeat(np.round(np.asarray(image) / 257).astype(np.uint8)[:, :, None], 3, axis=2)
    else:
        image = Image.fromarray(rng.integers(0, 256, (700, 5, 3), dtype=np.uint8))
        image = Image.merge("LAB", image.split()) if mode == "LAB" else image.convert(mode)
        whole = np.asarray(image.convert("RGB"))
    if mode == "YCbCr" and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the TIFF files of this mode that it writes")
    name = tmp_path / ("a.tif" if mode not in ("P", "1") else "a.png")
    image.save(name)
    assert np.array_equal(read_image(name), whole)
