"""Checks that files are whole, and that a run is a part of one that was never interrupted."""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor

from cledet.data.images import read_image
from cledet.io.weight_files import read_file, read_safetensors
from cledet.safe_yaml import read_yaml
from cledet.training.run import LOCK

OWN = {"written", "versions", "settings", "data", "budget", "start", "waited", "seconds"}
"""Entries of a checkpoint that differ between equal runs: paths, times and versions."""
TIMES = {"seconds", "images_per_s", "waiting"}
"""Columns of results.csv that are times."""
TEMPORARY = (".part", ".cledet-draft-")
"""Parts of the names of temporary files and folders."""


def digest(content: Any) -> str:
    """Hash tensors and plain data, to the last bit, without the entries in OWN."""
    hashed = hashlib.blake2b(digest_size=16)

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            hashed.update(f"{value.dtype}{list(value.shape)}".encode() + value.detach().cpu().numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                if key not in OWN:
                    hashed.update(f"{key}:".encode())
                    add(value[key])
        elif isinstance(value, list | tuple):
            hashed.update(f"{len(value)}[".encode())
            for one in value:
                add(one)
        else:
            hashed.update(repr(value).encode())

    add(content)
    return hashed.hexdigest()


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of a results.csv without times; none if it does not exist."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return [{name: text for name, text in row.items() if name not in TIMES} for row in csv.DictReader(lines)]


def temporary_files(folder: Path) -> list[Path]:
    """The temporary files and folders in a folder."""
    return [path for path in folder.rglob("*") if any(part in path.name for part in TEMPORARY)]


def assert_whole(folder: Path) -> None:
    """Read every file that does not lie in a temporary one or is one."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not any(part in str(file.relative_to(folder)) for part in TEMPORARY):
            try:
                READERS[file.suffix if file.name != LOCK else LOCK](file)
            except Exception as error:
                raise AssertionError(f"{file} is not whole: {type(error).__name__}: {error}") from error


def _text(end: str = "\n") -> Callable[[Path], object]:
    def read(file: Path) -> None:
        text = file.read_text()
        assert not text or text.endswith(end), f"it ends with {text[-20:]!r}"

    return read


def _table(file: Path) -> None:
    with file.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    assert all(len(row) == len(header) for row in rows), "rows of several lengths"
    _text()(file)


def _zip(file: Path) -> None:
    with zipfile.ZipFile(file) as content:
        assert content.testzip() is None, "its checksums differ"


READERS: dict[str, Callable[[Path], object]] = {
    ".pt": read_file,
    ".safetensors": read_safetensors,
    ".onnx": lambda file: onnx.checker.check_model(str(file)),
    ".json": lambda file: json.loads(file.read_text()),
    ".jsonl": lambda file: [json.loads(line) for line in file.read_text().splitlines()],
    ".yaml": lambda file: (read_yaml(file), _text()(file)),
    ".csv": _table,
    ".html": _text("</html>"),
    ".md": _text(),
    ".txt": _text(),
    "": _text(),  # a run's status
    ".zip": _zip,
    LOCK: lambda _: None,
    ".out": lambda _: None,  # of processes, which end where they were killed
    ".err": lambda _: None,
    **dict.fromkeys((".png", ".jpg"), read_image),
}
