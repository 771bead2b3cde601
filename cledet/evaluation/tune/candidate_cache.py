"""A network's candidates on disk: it runs once, and every later look at what NMS makes of them starts at once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from cledet.data.formats.paths import cache_folder
from cledet.data.index import DetectionIndex, Ints
from cledet.evaluation.candidates import Candidates
from cledet.io.atomic import unwritable
from cledet.models.checkpoint import Checkpoint

VERSION = 1
"""To be raised when what a network makes of the same images changes."""
KEPT = 4
"""How many sets of candidates the cache holds; the one that was not used for longest goes first."""
COLUMNS = {"boxes": ("<f4", 4), "scores": ("<f4", 1), "labels": ("<i4", 1)}
"""A row a candidate: the files, the kind of their numbers, and how many a row has."""
IMAGES = {"image_ids": ("<i8", 1), "counts": ("<i8", 1), "scales": ("<f4", 4)}
"""The same with a row an image; counts: how many candidates it has."""


@dataclass(frozen=True)
class Stored:
    """Candidates mapped from a folder: iterate over it as often as you like."""

    folder: Path
    of: dict[str, Any]
    """What they are of, as `origin` says."""
    columns: dict[str, NDArray[Any]]
    category_ids: Ints

    def __len__(self) -> int:
        return len(self.columns["image_ids"])

    def __iter__(self) -> Iterator[Candidates]:
        ends = self.columns["counts"].cumsum()
        for i, (image_id, end) in enumerate(zip(self.columns["image_ids"].tolist(), ends.tolist())):
            rows = slice(end - int(self.columns["counts"][i]), end)
            boxes, scores, labels = (torch.from_numpy(self.columns[name][rows].copy()) for name in COLUMNS)
            scale = torch.from_numpy(self.columns["scales"][i].copy())
            yield Candidates(image_id, boxes, scores, labels.long(), scale, self.category_ids)


def origin(model: Checkpoint, index: DetectionIndex, **how: Any) -> dict[str, Any]:
    """What candidates depend on: weights, images as they are on disk, and how they were made (size, precision, ...)."""
    weights = hashlib.blake2b(json.dumps(model.architecture.model_dump(), default=str).encode(), digest_size=20)
    for name, value in sorted(model.model.items()):
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    images = hashlib.blake2b(digest_size=20)
    for path, image_id in zip(index.paths.tolist(), index.image_ids.tolist()):
        stat = os.stat(path)
        images.update(f"{path}\0{image_id}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogatepass"))
    classes = [list(pair) for pair in zip(index.classes, index.category_ids.tolist())]
    same = {"version": VERSION, "weights": weights.hexdigest(), "images": images.hexdigest(), "classes": classes}
    return {**same, "data": index.name, "model_classes": list(model.classes), **how}


def home(of: dict[str, Any]) -> Path:
    """The folder in the cache for candidates of that origin."""
    digest = hashlib.blake2b(json.dumps(of, sort_keys=True).encode(), digest_size=16).hexdigest()
    return cache_folder() / "candidates" / digest


def find(of: dict[str, Any]) -> Stored | None:
    """The candidates of that origin, if the cache holds them whole."""
    folder = home(of)
    try:
        header = json.loads((folder / "header.json").read_bytes())
        columns = {
            name: _mapped(folder / name, kind, width, header["rows"] if name in COLUMNS else header["images"])
            for name, (kind, width) in {**COLUMNS, **IMAGES}.items()
        }
        os.utime(folder)
    except (OSError, ValueError, KeyError):
        return None
    if header["of"] != of or int(columns["counts"].sum()) != header["rows"]:
        return None
    return Stored(folder, of, columns, np.array(header["category_ids"], dtype=np.int64))


def store(of: dict[str, Any], stream: Iterable[Candidates]) -> Stored:
    """Write the candidates as they come, never all of them in memory, and map them.

    A pass that breaks off leaves nothing. Raises UserError where the cache cannot be written.
    """
    folder = home(of)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
        try:
            _write(draft, of, stream)
            _replace(folder, draft)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    for old in sorted(folder.parent.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    found = find(of)
    assert found is not None, "what was written cannot be read"
    return found


def _replace(folder: Path, draft: Path) -> None:
    """Put the draft in the folder's place, unless another process has done so at this moment."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _write(folder: Path, of: dict[str, Any], stream: Iterable[Candidates]) -> None:
    files = {name: (folder / name).open("wb") for name in (*COLUMNS, *IMAGES)}
    rows, images, category_ids = 0, 0, np.zeros(0, dtype=np.int64)
    try:
        for found in stream:
            for name in COLUMNS:
                _append(files[name], getattr(found, name).cpu().numpy(), COLUMNS[name][0])
            row = {"image_ids": [found.image_id], "counts": [len(found.boxes)], "scales": found.scale.cpu().numpy()}
            for name, values in row.items():
                _append(files[name], np.asarray(values), IMAGES[name][0])
            rows, images, category_ids = rows + len(found.boxes), images + 1, found.category_ids
    finally:
        for file in files.values():
            file.close()
    header = {"of": of, "images": images, "rows": rows, "category_ids": category_ids.tolist()}
    (folder / "header.json").write_text(json.dumps(header, indent=1), encoding="utf-8")


def _append(file: BinaryIO, values: NDArray[Any], kind: str) -> None:
    file.write(values.astype(kind).tobytes())


def _mapped(path: Path, kind: str, width: int, rows: int) -> NDArray[Any]:
    """The file's rows; ValueError where it has not as many as it should."""
    shape = (rows,) if width == 1 else (rows, width)
    if path.stat().st_size != rows * width * np.dtype(kind).itemsize:
        raise ValueError(f"{path} is not whole")
    return np.memmap(path, dtype=kind, mode="r", shape=shape) if rows else np.zeros(shape, dtype=kind)
