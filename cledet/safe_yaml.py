"""Safe reading of untrusted YAML: data files, recipes and the settings of runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from cledet.errors import UserError

MAX_BYTES, MAX_DEPTH, MAX_DIGITS = 1_000_000, 50, 100
"""Limits on the bytes of a file (twice that with aliases expanded), levels of nesting, and characters of a number."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TAG = "tag:yaml.org,2002:"


def read_yaml(path: Path) -> Any:
    """Parse a YAML file into plain values; dates remain strings.

    Raises UserError for a missing or unreadable file, invalid YAML, and a file beyond the limits on size, nesting and
    expanded aliases.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES:,} bytes, the limit for a YAML file")
    try:
        return _parse(data.decode("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from None


def _parse(text: str) -> Any:
    loader = LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(loader, node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_size(loader: Any, node: yaml.Node, measured: dict[int, tuple[int, int]], depth: int = 1) -> tuple[int, int]:
    """Return the number of characters and levels of a node with its aliases expanded.

    Raises ValueError for a node beyond the limits, or one that cannot be constructed.
    """
    if id(node) in measured:
        return measured[id(node)]
    size, height = 1, 0
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(loader, node)
        size += len(node.value)
    elif depth <= MAX_DEPTH:  # a node may contain itself
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        for child in children:
            child_size, child_height = _check_size(loader, child, measured, depth + 1)
            size, height = size + child_size, max(height, child_height)
    if depth + height > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    if size > 2 * MAX_BYTES:
        raise ValueError("its aliases expand to too much")
    measured[id(node)] = size, height + 1
    return measured[id(node)]


def _check_scalar(loader: Any, node: yaml.ScalarNode) -> None:
    """Raise ValueError for a value that does not match its tag, and for invalid characters; keep dates as strings."""
    node.value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    if "\0" in node.value:
        raise ValueError("it holds a NUL character")
    if node.tag == f"{TAG}timestamp":
        node.tag = f"{TAG}str"
    if node.tag == f"{TAG}str":
        return
    if node.tag != loader.resolve(yaml.ScalarNode, node.value, (True, False)):
        raise ValueError(f"the tag {node.tag} does not fit {node.value[:40]!r}")
    if node.tag in (f"{TAG}int", f"{TAG}float") and len(node.value) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
