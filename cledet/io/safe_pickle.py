"""Pickles of arrays, as Detectron2 publishes its weights, read without running what is in them.

A pickle names functions to call. Those that numpy's arrays need are replaced by our own, which only copy numbers; any
other is refused before it is looked up.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cledet.errors import UserError
from cledet.io.pickle_limits import check_content

NUMBERS = "fiub"
"""Kinds of numpy's types that an array may be of."""


class Forbidden(Exception):
    """A pickle wants something called that is no part of an array."""


class _Type:
    """Stands for numpy.dtype while a pickle is read."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name, self.order = str(name), ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1]) if state[1] in ("<", ">") else ""

    def real(self) -> np.dtype[Any]:
        found = np.dtype(self.order + self.name)
        if found.kind not in NUMBERS:
            raise Forbidden(f"arrays of numpy's type {found}")
        return found


class _Bytes:
    """Stands for bytes that Python 3 wrote for Python 2, as text."""

    def __init__(self, text: str = "", encoding: str = "latin1") -> None:
        if encoding != "latin1":
            raise Forbidden(f"_codecs.encode to {encoding}")
        self.data = text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise Forbidden("bytes with a state")


class _Array:
    """Stands for numpy.ndarray while a pickle is read; its state is its version, shape, type, order and bytes."""

    def __init__(self, *_: Any) -> None:
        self.value = torch.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.value = _numbers(data, kind, shape, "F" if fortran else "C")


class _Buffered(_Array):
    """The same as protocol 5 has it: bytes, type, shape and order at once."""

    def __init__(self, data: Any, kind: _Type, shape: tuple[int, ...], order: str) -> None:
        self.value = _numbers(data, kind, shape, order)


def _numbers(data: Any, kind: _Type, shape: tuple[int, ...], order: str) -> Tensor:
    """A tensor from an array's bytes."""
    data = data.data if isinstance(data, _Bytes) else data
    if isinstance(data, str):  # a string of Python 2, read as latin1
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise Forbidden("arrays of objects")
    found = np.frombuffer(bytes(data), kind.real()).reshape(shape, order="F" if order == "F" else "C")
    return torch.from_numpy(found.astype(found.dtype.newbyteorder("="), order="C").copy())


KNOWN: dict[tuple[str, str], type] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.numeric", "_frombuffer"): _Buffered for core in ("numpy.core", "numpy._core")},
    ("_codecs", "encode"): _Bytes,
    ("__builtin__", "bytes"): _Bytes,  # none of them
    ("collections", "OrderedDict"): OrderedDict,
}
"""What a pickle may name, and what is called in its place: classes, as a pickle could change a function's defaults."""


class ArrayUnpickler(pickle.Unpickler):
    """Reads plain data and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise Forbidden(f"{module}.{name}")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise Forbidden("objects kept elsewhere")


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins so is a pickle, and not one of torch's older files, which begin with a number."""
    return head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and head[2:4] != b"\x8a\n"


def read_arrays(path: Path) -> Any:
    """The content of a pickle with tensors for its arrays; raises UserError for one that holds anything else.

    Other errors are those of a damaged file.
    """
    try:
        content = ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        check_content(content)
        return _plain(content)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    except Forbidden as error:
        message = f"{path} holds code or objects beside arrays and plain data ({error}), and is not read"
        raise UserError(message, "ask whoever wrote it for its arrays alone") from None


def _plain(value: Any) -> Any:
    """The same with tensors for arrays."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | bytes | int | float | bool | None):
        return value
    raise Forbidden(type(value).__name__)
