"""Small good data of every kind that cledet reads, as folders to be; all of it is made in code."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from typing import Any

import av
import numpy as np
import yaml
from formats import encode
from mutations import Files
from PIL import Image

WIDTH, HEIGHT = 48, 40
OBJECTS = {"a": [(0, 4, 5, 20, 18), (1, 22, 10, 16, 16)], "b": [(1, 2, 2, 30, 30)], "c": []}
"""What is on each picture: labels, and left, top, width and height."""
NAMES = ["cat", "dog"]


@cache
def picture(stem: str, format: str = "PNG", mode: str = "RGB", **how: Any) -> bytes:
    """A picture in any format that Pillow writes."""
    pixels = np.random.default_rng(ord(stem)).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image, file = Image.fromarray(pixels).convert("L" if mode == "I;16" else "RGB").convert(mode), io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def pictures(folder: str, suffix: str = "png") -> Files:
    return {f"{folder}/{stem}.{suffix}": picture(stem, "PNG" if suffix == "png" else "JPEG") for stem in OBJECTS}


def coco(rng: random.Random) -> Files:
    rows = [(i, *row) for i, stem in enumerate(OBJECTS) for row in OBJECTS[stem]]
    content = {
        "images": [{"id": i, "file_name": f"{s}.png", "width": WIDTH, "height": HEIGHT} for i, s in enumerate(OBJECTS)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": 3 + 4 * label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (i, label, *box) in enumerate(rows)
        ],
        "categories": [{"id": 3, "name": "cat", "supercategory": "pet"}, {"id": 7, "name": "dog"}],
    }
    return pictures("images") | {f"annotations/instances_{split}.json": content for split in ("train", "val")}


def voc(rng: random.Random) -> Files:
    files = pictures("JPEGImages", "jpg") | {f"ImageSets/Main/{split}.txt": [*OBJECTS] for split in ("train", "val")}
    for stem, rows in OBJECTS.items():
        items = [
            ["object", [["name", NAMES[k]], ["difficult", 0], ["bndbox", _corners(x, y, x + w, y + h)]]]
            for k, x, y, w, h in rows
        ]
        size = ["size", [["width", WIDTH], ["height", HEIGHT], ["depth", 3]]]
        files[f"Annotations/{stem}.xml"] = ["", ["annotation", [["filename", f"{stem}.jpg"], size, *items]]]
    return files


def _corners(*corners: int) -> list[Any]:
    return [[key, value] for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners)]


def yolo(rng: random.Random) -> Files:
    files = pictures("images/train") | pictures("images/val")
    for stem, rows in OBJECTS.items():
        lines = [[k, (x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT] for k, x, y, w, h in rows]
        files |= {f"labels/{split}/{stem}.txt": lines for split in ("train", "val")}
    return files | ({"classes.txt": NAMES} if rng.random() < 0.5 else {})


def csv_files(rng: random.Random) -> Files:
    """TensorFlow's columns, keras-retinanet's rows, or Open Images'."""
    kind = rng.choice(("tensorflow", "retinanet", "open images"))
    rows = [(f"{stem}.png", NAMES[k], x, y, x + w, y + h) for stem in OBJECTS for k, x, y, w, h in OBJECTS[stem]]
    if kind == "tensorflow":
        header = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]
        content = {"labels.csv": [header, *([file, WIDTH, HEIGHT, *row] for file, *row in rows)]}
    elif kind == "retinanet":
        boxes = [[f"images/{split}/{file}", *box, name] for split in ("train", "val") for file, name, *box in rows]
        content = {
            "labels.csv": [*boxes, ["images/val/c.png", "", "", "", "", ""]],
            "classes.csv": [["cat", 0], ["dog", 1]],
        }
        return pictures("images/train") | pictures("images/val") | content
    else:
        header = ["ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax", "IsGroupOf"]
        boxes = [
            [file[0], f"/m/{name}", a / WIDTH, b / HEIGHT, c / WIDTH, d / HEIGHT, rng.choice((0, 0, 1))]
            for file, name, a, b, c, d in rows
        ]
        content = {"names.csv": [[f"/m/{name}", name] for name in NAMES], "labels.csv": [header, *boxes]}
    return pictures("images") | content


def labelme(rng: random.Random) -> Files:
    files = pictures("train") | pictures("val")
    for stem, rows in OBJECTS.items():
        shapes = [
            {
                "label": NAMES[k],
                "points": [[x, y], [x + w, y + h]],
                "shape_type": rng.choice(("rectangle", "circle", "mask")),
            }
            for k, x, y, w, h in rows
        ]
        shapes.append({"label": "cat", "points": [[1, 2], [9, 4], [5, 8]], "shape_type": "polygon", "flags": {}})
        size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        content = {"version": "5.0", "shapes": shapes, "imagePath": f"{stem}.png", "imageData": None, **size}
        files |= {f"{split}/{stem}.json": content for split in ("train", "val")}
    return files


def cvat(rng: random.Random) -> Files:
    subsets = rng.random() < 0.5
    images = []
    for split in ("train", "val"):
        for stem, rows in OBJECTS.items():
            boxes = [
                [
                    "box",
                    {"label": NAMES[k], "occluded": 0, "xtl": x, "ytl": y, "xbr": x + w, "ybr": y + h, "rotation": k},
                    [],
                ]
                for k, x, y, w, h in rows
            ]
            boxes.append(["polygon", {"label": "cat", "points": "1.0,2.0;9.0,4.0;5.0,8.0"}, []])
            boxes.append(["ellipse", {"label": "dog", "cx": 9, "cy": 9, "rx": 3, "ry": 4, "rotation": 30}, []])
            name = {"name": f"{split}/{stem}.png", "width": WIDTH, "height": HEIGHT}
            images.append(["image", name | ({"subset": split} if subsets else {}), boxes])
    labels = ["labels", [["label", [["name", name], ["type", "any"]]] for name in NAMES]]
    root = ["annotations", [["version", "1.1"], ["meta", [["task", [labels]]]], *images]]
    return pictures("images/train") | pictures("images/val") | {"annotations.xml": ["", root]}


def label_studio(rng: random.Random) -> Files:
    """The JSON export or the JSON-MIN export."""
    tasks: list[Any] = []
    minimal, size = rng.random() < 0.5, {"original_width": WIDTH, "original_height": HEIGHT}
    for stem, rows in OBJECTS.items():
        values = [
            {"x": x / WIDTH * 100, "y": y / HEIGHT * 100, "width": w / WIDTH * 100, "height": h / HEIGHT * 100,
             "rotation": k * 10, "rectanglelabels": [NAMES[k]]}
            for k, x, y, w, h in rows
        ]  # fmt: skip
        image = f"/data/upload/1/0a1b2c3d-{stem}.png"
        if minimal:
            tasks.append({"image": image, "id": 1, "label": [value | size for value in values], "annotation_id": 1})
        else:
            results = [{"id": "r", "type": "rectanglelabels", "value": value, **size} for value in values]
            annotations = [{"result": results, "created_at": "2024-01-01T00:00:00Z", "was_cancelled": False}]
            tasks.append({"id": 1, "annotations": annotations, "data": {"image": image}})
    return pictures("images") | {"project.json": tasks}


def zipped(rng: random.Random) -> Files:
    """A data set of any layout in a zip file."""
    files = encode(rng.choice((coco, voc, yolo, csv_files, labelme, cvat, label_studio))(rng), rng)
    return {"data.zip": [[name, data, 0] for name, data in files.items()]}


def datafile(rng: random.Random) -> Files:
    files, content = rng.choice(
        (
            (coco, {"train": {"images": "images", "annotations": "annotations/instances_train.json"},
                    "val": "annotations/instances_val.json", "names": NAMES}),
            (voc, {"train": ["train"], "val": "val", "names": NAMES, "outside": False}),
            (yolo, {"train": "images/train", "val": ["images/val"], "nc": 2, "names": {0: "cat", 1: "dog"}}),
            (yolo, {"train": "images/train", "val": "images/val", "nc": 2}),
        )
    )  # fmt: skip
    archives = [{"url": "https://127.0.0.1:9/a.zip", "bytes": 1000, "md5": "0" * 32, "folder": "."}]
    return encode(files(rng), rng) | {"data.yaml": {"path": ".", **content, "archives": archives}}


MOVES: tuple[tuple[Any, dict[str, str]], ...] = (
    (coco, {"annotations/instances_": "json/my-", "images/": "data/photos/"}),
    (coco, {"annotations/instances_train.json": "labels.json", "annotations/instances_val.json": "images/notes.json"}),
    (voc, {"Annotations/": "annots/", "JPEGImages/": "images/", "ImageSets/Main/": ""}),
    (voc, {"Annotations/": "labels/", "JPEGImages/": "images/"}),
    (voc, {"Annotations/": "train/", "JPEGImages/": "train/"}),
    (yolo, {"images/": "obj/", "labels/": "obj/", "classes.txt": "obj/classes.txt"}),
    (yolo, {"images/": "pics/", "labels/": "annotations/"}),
)
"""Data sets, and beginnings of their paths with others in their place, which only content tells what they are."""


def layout(rng: random.Random) -> Files:
    """A data set in folders of other names."""
    files, moves = rng.choice(MOVES)
    moved = {}
    for path, content in files(rng).items():
        start = next((start for start in moves if path.startswith(start)), "")
        moved[moves.get(start, "") + path.removeprefix(start)] = content
    return moved


def results(rng: random.Random) -> Files:
    rows = [(i, *row) for i, stem in enumerate(OBJECTS) for row in OBJECTS[stem]]
    found = [
        {"image_id": i, "category_id": 3 + 4 * k, "bbox": box, "score": 0.9 - n / 10}
        for n, (i, k, *box) in enumerate(rows)
    ]
    return encode(coco(rng), rng) | {"results.json": found}


def predictions(rng: random.Random) -> Files:
    """The objects as detections in one of the formats of other detectors."""
    rows = [(stem, k, x, y, x + w, y + h) for stem in OBJECTS for k, x, y, w, h in OBJECTS[stem]]
    labels = {name: data for name, data in yolo(rng).items() if name.startswith("labels/val/")}
    sink = ("x_min", "y_min", "x_max", "y_max", "class_id", "confidence", "tracker_id", "file_name")
    table = [[*box, k, 0.5, "", f"{stem}.png"] for stem, k, *box in rows]
    formats: tuple[Files, ...] = (
        {"found.json": [
            {"image_id": stem, "file_name": f"{stem}.png", "category_id": k + 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
             "score": 0.5}
            for stem, k, x1, y1, x2, y2 in rows
        ]},
        {"found.json": [dict(zip(sink, row)) for row in table]},
        {"found.csv": [[*sink], *table]},
        {"found.jsonl": [
            {"file": f"{stem}.png", "width": WIDTH, "height": HEIGHT, "detections": [
                {"name": NAMES[k], "category_id": k, "score": 0.5, "box": box} for its, k, *box in rows if its == stem
            ]}
            for stem in OBJECTS
        ]},
        {name.replace("labels/val", "found"): [[*line, 0.5] for line in lines] for name, lines in labels.items()},
        {f"found/comp4_det_test_{NAMES[k]}.txt": [[stem, 0.5, *box] for stem, its, *box in rows if its == k]
         for k in range(len(NAMES))},
    )  # fmt: skip
    return encode(coco(rng), rng) | rng.choice(formats)


RECIPES: dict[str, dict[str, Any]] = yaml.safe_load("""
train: {data: shapes, backbone: r18, lr: 0.01, epochs: 2, lr_steps: [0.75, 1e], scale-jitter: [0.8, 1.2], seed: 1,
  multi_scale: "64,96", ablation: "iac,dc;none", seeds: 2, batch: auto, logger: none, callback: null, warmup: 5,
  anchor_scale: 4, name: run, project: out, about: a run, measured: [{split: val, AP: 0.5, source: docs/results.md}],
  paper: [{table: 2, row: 1, split: val, AP50: 0.5}]}
val: {nms: "standard,soft", conf: 0.1, iou: 0.5, max_det: 100, eval_max_dets: [1, 10, 100], areas: "32,96", split: val,
  bootstrap: 10, batch: 2, name: null}
predict: {conf: 0.3, weights: best.pt, imgsz: 64, device: cpu, amp: "off", cl_norm: max, name: a}
export: {format: onnx, nms: cl-balanced, imgsz: 64, name: e}
check: {split: "train,val", imgsz: 64, anchor_scale: 4.0, html: report.html, workers: 1}
tune: {data: shapes, split: val, name: t}
""")


def recipe(rng: random.Random) -> Files:
    kind = rng.choice(list(RECIPES))
    planted = b"open('PLANTED', 'w')\ndef run(*_): open('PLANTED', 'w')\n"
    return {f"{kind}.yaml": RECIPES[kind], "planted.py": planted}


@cache
def clip(suffix: str) -> bytes:
    """A video of three frames."""
    file = io.BytesIO()
    with av.open(file, "w", format={"avi": "avi", "mp4": "mp4", "mkv": "matroska"}[suffix]) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for stem in OBJECTS:
            pixels = np.random.default_rng(ord(stem)).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def source(rng: random.Random) -> Files:
    """Two pictures, a list of them, or a video."""
    suffix = rng.choice(("avi", "mp4", "mkv", "txt", "txt"))
    if suffix == "txt":
        return pictures("photos") | {"source.txt": ["photos/a.png", "photos", "photos/*.png"]}
    return {f"source.{suffix}": clip(suffix)}


PICTURES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *(("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")),
    ("JPEG", "RGB", {"progressive": True}),
    ("MPO", "RGB", {}),
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(("TIFF", mode, {}) for mode in ("1", "L", "RGB", "CMYK", "I;16", "I", "F", "LAB", "YCbCr")),
    *(("TIFF", "RGB", {"compression": how}) for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
    *((name, "RGB", {}) for name in ("EPS", "DDS", "AVIF", "PDF", "ICNS", "ICO", "IM", "JPEG2000", "PCX", "PPM")),
    *((name, "RGB", {}) for name in ("QOI", "SGI", "SPIDER", "TGA")),
    ("BLP", "P", {}),
    ("MSP", "1", {}),
    ("XBM", "1", {}),
)
"""Formats that Pillow writes, with a mode and options; those of READ are read by cledet."""
READ = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF")
HEADS = (
    b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"II*\0\x08\0\0\0", b"<svg xmlns='http://www.w3.org/2000/svg' width='99999' height='1'/>",
    b"<!DOCTYPE html><html></html>", b"\x1f\x8b\x08\0", b"%PDF-1.4\n", b"8BPS\0\1", b"SIMPLE  =                    T",
    b"\x89HDF\r\n\x1a\n", b"GRIB\0\0\0\1", b"BUFR\0\0\0\4", b"\xd7\xcd\xc6\x9a\0\0", b"\0\0\1\xb3", b"DDS |\0\0\0",
    b"\0\0\0 ftypavif", b"FWS\6", b"\0asm", b"\x7fELF", b"MZ", b"P6\n9999999 9\n255\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\n(PLANTED) (w) file closefile\n%%EOF\n",
)  # fmt: skip
SIZES = ((13_000, 13_000), (100_000, 1), (1, 100_000), (2**31 - 1, 1), (65_535, 65_535), (0, 0), (1, 1), (200_000, 900))


def png(width: int, height: int, depth: int, color: int) -> bytes:
    """A PNG of black that may be large; beyond 200 million pixels it claims more than it holds."""
    rows = bytes((width * depth // 8 + 1) * min(height, 200_000_000 // max(width, 1)))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 1)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )


def image(rng: random.Random) -> Files:
    """One of the formats that are read, under any name that an image may have."""
    format, mode, how = rng.choice([one for one in PICTURES if one[0] in READ and one[1] not in ("I", "F")])
    return {f"x{rng.choice(('.jpg', '.png', '.webp', '.tif', '.gif', '.bmp'))}": picture("a", format, mode, **how)}


def foreign_image(rng: random.Random) -> bytes:
    """What an image's file may hold in place of one that is read."""
    format, mode, how = rng.choice(PICTURES)
    if rng.random() < 0.03:
        return png(*rng.choice(SIZES), *rng.choice(((1, 0), (8, 0), (8, 2), (16, 6), (8, 3))))
    return rng.choice((picture("a", format, mode, **how), rng.choice(HEADS), rng.choice(HEADS) + rng.randbytes(600)))


CONTENT = [["images/a.jpg", b"a" * 5000, 0], ["images/sub/b.jpg", b"b", 0], ["void.txt", b"", 0]]


def archive(rng: random.Random) -> Files:
    return {f"data{rng.choice(('.zip', '.zip', '.tar', '.tgz', '.xz'))}": CONTENT}
