"""On-disk cache of the candidates of a network, so that later searches need no pass of the network."""

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
"""Incremented when the candidates of the same network and images change."""
KEPT = 4
"""Number of sets of candidates in the cache; the least recently used is evicted."""
COLUMNS = {"boxes": ("<f4", 4), "scores": ("<f4", 1), "labels": ("<i4", 1)}
"""Files with a row per candidate: number type and columns."""
IMAGES = {"image_ids": ("<i8", 1), "counts": ("<i8", 1), "scales": ("<f4", 4)}
"""Files with a row per image; `counts` are numbers of candidates."""


@dataclass(frozen=True)
class CachedCandidates:
    """Candidates that are memory-mapped from a folder and can be iterated repeatedly."""

    folder: Path
    of: dict[str, Any]
    """Key of their network and images, see `origin`."""
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


def origin(model: Checkpoint, index: DetectionIndex, **options: Any) -> dict[str, Any]:
    """Build the cache key of candidates: weights, image files, and options such as size and precision."""
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
    return {**same, "data": index.name, "model_classes": list(model.classes), **options}


def cache_path(of: dict[str, Any]) -> Path:
    """Return the folder of the cache for a key."""
    digest = hashlib.blake2b(json.dumps(of, sort_keys=True).encode(), digest_size=16).hexdigest()
    return cache_folder() / "candidates" / digest


def find(of: dict[str, Any]) -> CachedCandidates | None:
    """Open the candidates of a key; None if the cache does not hold them completely."""
    folder = cache_path(of)
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
    return CachedCandidates(folder, of, columns, np.array(header["category_ids"], dtype=np.int64))


def store(of: dict[str, Any], stream: Iterable[Candidates]) -> CachedCandidates:
    """Write a stream of candidates to the cache and open them; they are never all in memory.

    An interrupted pass leaves nothing. Raises UserError if the cache cannot be written.
    """
    folder = cache_path(of)
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
    cached = find(of)
    assert cached is not None, "the candidates just written cannot be read"
    return cached


def _replace(folder: Path, draft: Path) -> None:
    """Move the draft to the folder, unless another process has just done so."""
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
        for image in stream:
            for name in COLUMNS:
                _append(files[name], getattr(image, name).cpu().numpy(), COLUMNS[name][0])
            row = {"image_ids": [image.image_id], "counts": [len(image.boxes)], "scales": image.scale.cpu().numpy()}
            for name, values in row.items():
                _append(files[name], np.asarray(values), IMAGES[name][0])
            rows, images, category_ids = rows + len(image.boxes), images + 1, image.category_ids
    finally:
        for file in files.values():
            file.close()
    header = {"of": of, "images": images, "rows": rows, "category_ids": category_ids.tolist()}
    (folder / "header.json").write_text(json.dumps(header, indent=1), encoding="utf-8")


def _append(file: BinaryIO, values: NDArray[Any], kind: str) -> None:
    file.write(values.astype(kind).tobytes())


def _mapped(path: Path, kind: str, width: int, rows: int) -> NDArray[Any]:
    """Map the rows of a file. Raises ValueError if their number is not the expected one."""
    shape = (rows,) if width == 1 else (rows, width)
    if path.stat().st_size != rows * width * np.dtype(kind).itemsize:
        raise ValueError(f"{path} is incomplete")
    return np.memmap(path, dtype=kind, mode="r", shape=shape) if rows else np.zeros(shape, dtype=kind)
