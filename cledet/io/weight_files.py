"""Files of weights: compared with their checksums before they are used, and read without running code."""

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

EXPORTED = (".onnx", ".xml")
"""What `cledet export` writes that is not read back."""
UNPACKED = 4
"""A zip's entries have at most so many times its size; torch.save does not compress them."""
LEGACY_PICKLES = 5
"""What a file of torch before 1.6 begins with: a number, a version, a machine's facts, the content, names."""
DIRECTORY = 0x10
"""The attribute that makes a zip's entry a folder: of no CRC's concern, and torch.load takes such an entry as empty."""


class DamagedFile(UserError):
    """A file that is not as it was written, or not of a kind that holds weights."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth, .pkl or .safetensors file by name; code in it is refused, not run."""
    if not path.is_file():
        raise UserError(f"there is no weights file {path}", "check the path")
    if is_safetensors(path):
        return read_safetensors(path)[0]
    content = read_file(path)
    content = content.get("model", content.get("state_dict", content))
    entries = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in entries if isinstance(value, Tensor)}


def read_file(path: Path) -> dict[str, Any]:
    """What torch.save wrote, or a pickle of arrays holds: tensors and plain data only.

    Raises DamagedFile for one that is not as it was written, UserError for one with code in it, which is not run.
    """
    if path.suffix in EXPORTED:
        hint = "pass the .pt or .safetensors that it was exported from"
        raise UserError(f"{path} is a network exported for another runtime, not weights", hint)
    zipped, arrays = _head(path, 4) == b"PK\3\4", is_pickle(_head(path, 4))
    try:
        if zipped:
            _check_zip(path)
        else:
            _check_pickles(path, 1 if arrays else LEGACY_PICKLES)
        content = read_arrays(path) if arrays else torch.load(path, map_location="cpu", weights_only=True)
        check_content(content)
    except UserError:
        raise
    except TooLarge:
        message = f"{path} asks for more memory or time than weights take, and is not read"
        raise UserError(message, "ask whoever wrote it for its state_dict alone") from None
    except pickle.UnpicklingError:
        if zipped:
            message = f"{path} holds code or objects beside tensors and plain data, and is not read"
            raise UserError(message, "ask whoever wrote it for its state_dict alone") from None
        raise DamagedFile(f"{path} is damaged or no checkpoint: it does not begin like one") from None
    except Exception as error:
        # A list of types would tell a bug from damage no better: 56,000 flips, cuts and overwritten bytes of small
        # zips, older files and pickles raised 18, TypeError, KeyError and AssertionError among them, for a damaged
        # pickle calls whatever torch allows with whatever arguments.
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise DamagedFile(f"{path} is damaged or no checkpoint: {reason[0]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no weights by name")
    return content


def _check_zip(path: Path) -> None:
    """Compare every entry with the CRC-32 that torch.save wrote of it, which torch.load does not do."""
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("its end is missing")
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > UNPACKED * path.stat().st_size:
            raise TooLarge
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                with archive.open(name) as file:
                    check_opcodes(file)
        folders = [entry.filename for entry in archive.infolist() if entry.external_attr & DIRECTORY]
        wrong = archive.testzip() or next(iter(folders), None)
    if wrong is not None:
        raise zipfile.BadZipFile(f"{wrong} does not match its checksum")


def _check_pickles(path: Path, count: int) -> None:
    """Check the opcodes of the pickles that a file begins with."""
    with path.open("rb") as file:
        for _ in range(count):
            check_opcodes(file)


def is_safetensors(path: Path) -> bool:
    """Whether a file is called so, or begins so: the length of a header in 8 bytes, then the header's JSON."""
    head = _head(path, 9)
    fits = int.from_bytes(head[:8], "little") < path.stat().st_size
    return path.suffix == ".safetensors" or (head[8:] == b"{" and fits)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata. Raises DamagedFile."""
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
