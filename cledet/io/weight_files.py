"""Weight files, verified against their checksums and read without running code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from cledet.errors import UserError
from cledet.io.pickle_limits import TooLarge, check_content, check_opcodes
from cledet.io.safe_pickle import is_pickle, read_arrays

RUNNABLE = (".onnx", ".xml")
"""Networks for other runtimes that val and predict take."""
EXPORTED = (*RUNNABLE, ".pt2")
"""Networks for other runtimes. A .pt2 is not loaded: torch would run code that it contains."""
UNPACKED = 4
"""Largest ratio of a zip's unpacked size to its size; torch.save does not compress."""
LEGACY_PICKLES = 5
"""Pickles at the start of a file of torch before 1.6: magic number, version, system, content, storage keys."""
DIRECTORY = 0x10
"""Attribute of a folder in a zip, which has no CRC and which torch.load reads as empty."""


class DamagedFile(UserError):
    """A damaged file, or one of a format that holds no weights."""


def exported_file(path: Path) -> Path | None:
    """Return the network for another runtime at a path, or in a folder that `cledet export` wrote; else None."""
    if path.is_dir():
        return next((file for suffix in RUNNABLE if (file := path / f"model{suffix}").is_file()), None)
    return path if path.suffix in RUNNABLE else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth, .pkl or .safetensors file by name; a file with code is refused."""
    if not path.is_file():
        raise UserError(f"there is no weights file {path}", "check the path")
    if is_safetensors(path):
        return read_safetensors(path)[0]
    content = read_file(path)
    content = content.get("model", content.get("state_dict", content))
    entries = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in entries if isinstance(value, Tensor)}


def read_file(path: Path) -> dict[str, Any]:
    """Read tensors and plain data from a file of torch.save or a pickle of arrays.

    Raises DamagedFile for a damaged file, and UserError for a file with code, which is not run.
    """
    if path.suffix in EXPORTED:
        raise exported_error(path)
    zipped, arrays = _head(path, 4) == b"PK\3\4", is_pickle(_head(path, 4))
    try:
        if zipped:
            _check_zip(path)
        else:
            with path.open("rb") as file:
                for _ in range(1 if arrays else LEGACY_PICKLES):
                    check_opcodes(file)
        content = read_arrays(path) if arrays else torch.load(path, map_location="cpu", weights_only=True)
        check_content(content)
    except UserError:
        raise
    except TooLarge:
        message = f"{path} needs more memory or time than weights do, and is refused"
        raise UserError(message, "get a file with the state_dict alone") from None
    except pickle.UnpicklingError:
        if zipped:
            message = f"{path} contains code or objects other than tensors and plain data, and is refused"
            raise UserError(message, "get a file with the state_dict alone") from None
        raise DamagedFile(f"{path} is damaged or no checkpoint: its head is not that of a checkpoint") from None
    except Exception as error:
        # Damaged pickles call the functions that torch allows with arbitrary arguments: 56,000 flipped, cut and
        # overwritten files raised 18 types, TypeError, KeyError and AssertionError among them.
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise DamagedFile(f"{path} is damaged or no checkpoint: {reason[0]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no weights by name")
    return content


def exported_error(path: Path) -> UserError:
    """Return the error of a command that needs weights for PyTorch."""
    hint = "pass the .pt or .safetensors that it was exported from"
    hint = f"val and predict take it; here, {hint}" if path.suffix in RUNNABLE else hint
    return UserError(f"{path} is a network exported for another runtime, not weights", hint)


def _check_zip(path: Path) -> None:
    """Verify every entry against its CRC-32, which torch.load does not do."""
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("its end is missing")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > UNPACKED * path.stat().st_size:
            raise TooLarge
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                with archive.open(entry) as file:
                    check_opcodes(file)
        wrong = archive.testzip() or next((e.filename for e in entries if e.external_attr & DIRECTORY), None)
    if wrong is not None:
        raise zipfile.BadZipFile(f"{wrong} does not match its checksum")


def is_safetensors(path: Path) -> bool:
    """Return True for a safetensors file, by suffix or head: the header's length in 8 bytes, then its JSON."""
    head = _head(path, 9)
    fits = int.from_bytes(head[:8], "little") < path.stat().st_size
    return path.suffix == ".safetensors" or (head[8:] == b"{" and fits)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file by name, and its metadata. Raises DamagedFile."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapped files
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged or no safetensors file: {error}") from None


def _head(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror or error}") from None
