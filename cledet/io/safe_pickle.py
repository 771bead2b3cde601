"""Safe reader of pickled arrays, the format of Detectron2's published weights.

A pickle names the functions that build its objects. `ArrayUnpickler` allows only those of numpy's arrays and replaces
them by classes that copy numbers; every other name is refused before it is imported. Numpy's own functions are not
called, because `_reconstruct` allocates any requested shape and `dtype` accepts Python objects.
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
"""Allowed kinds of an array's dtype."""


class Forbidden(Exception):
    """A pickle contains something other than arrays and plain data."""


class _DType:
    """Replacement of numpy.dtype."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name, self.order = str(name), ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1]) if state[1] in ("<", ">") else ""

    def real(self) -> np.dtype[Any]:
        dtype = np.dtype(self.order + self.name)
        if dtype.kind not in NUMBERS:
            raise Forbidden(f"arrays of numpy's type {dtype}")
        return dtype


class _Bytes:
    """Replacement of `_codecs.encode`, which protocol 2 uses for bytes."""

    def __init__(self, text: str = "", encoding: str = "latin1") -> None:
        if encoding != "latin1":
            raise Forbidden(f"_codecs.encode to {encoding}")
        self.data = text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise Forbidden("bytes with a state")


class _Array:
    """Replacement of numpy.ndarray, whose state is version, shape, dtype, order and bytes."""

    def __init__(self, *_: Any) -> None:
        self.value = torch.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _to_tensor(data, dtype, shape, "F" if fortran else "C")


def _to_tensor(data: Any, dtype: _DType, shape: tuple[int, ...], order: str) -> Tensor:
    """Copy the bytes of an array to a tensor."""
    data = data.data if isinstance(data, _Bytes) else data
    if isinstance(data, str):  # a string of Python 2, read as latin1
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise Forbidden("arrays of objects")
    array = np.frombuffer(bytes(data), dtype.real()).reshape(shape, order="F" if order == "F" else "C")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C").copy())


KNOWN: dict[tuple[str, str], type] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in ("numpy.core", "numpy._core")},
    ("_codecs", "encode"): _Bytes,
    ("__builtin__", "bytes"): _Bytes,  # empty bytes
    ("collections", "OrderedDict"): OrderedDict,
}
"""Allowed names and their replacements; these are classes, because a pickle could change a function's defaults."""


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler of plain data and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise Forbidden(f"{module}.{name}")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise Forbidden("references to external objects")


def is_pickle(head: bytes) -> bool:
    """Return True if a file with this head is a pickle other than torch's legacy format, which starts with a number."""
    return head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and head[2:4] != b"\x8a\n"


def read_arrays(path: Path) -> Any:
    """Read plain data and arrays, as tensors, from a pickle.

    Raises UserError for any other object, and various errors for a damaged file.
    """
    try:
        content = ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        check_content(content)
        return _plain(content)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    except Forbidden as error:
        message = f"{path} contains code or objects other than arrays and plain data ({error}), and is refused"
        raise UserError(message, "get a file with the arrays alone") from None


def _plain(value: Any) -> Any:
    """Replace arrays by tensors; raises Forbidden for any other object."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | bytes | int | float | bool | None):
        return value
    raise Forbidden(type(value).__name__)
