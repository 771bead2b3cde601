"""Reads YAML that nobody need trust: data files, recipes and the settings of runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from cledet.errors import UserError

LONGEST, DEEPEST, DIGITS = 1_000_000, 50, 100
"""Bytes of a file, and nearly as much again for what aliases repeat; levels of nesting; characters of a number."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TAG = "tag:yaml.org,2002:"


def read_yaml(path: Path) -> Any:
    """Parse a YAML file into plain values; dates stay words.

    Raises UserError for a file that is not there or cannot be read, for what is not valid YAML, and for a file that is
    longer, deeper or, through its aliases, larger than any real one.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > LONGEST:
        raise UserError(f"{path} has more than the {LONGEST:,} bytes that a YAML file may have")
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
        _measure(loader, node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _measure(loader: Any, node: yaml.Node, measured: dict[int, tuple[int, int]], depth: int = 1) -> tuple[int, int]:
    """Return the characters and the levels of a node, counting an alias as what it repeats.

    Raises ValueError for a node that is out of bounds or cannot be constructed.
    """
    if id(node) in measured:
        return measured[id(node)]
    size, height = 1, 0
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(loader, node)
        size += len(node.value)
    elif depth <= DEEPEST:  # else the node may hold itself
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        for child in children:
            more, below = _measure(loader, child, measured, depth + 1)
            size, height = size + more, max(height, below)
    if depth + height > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if size > 2 * LONGEST:
        raise ValueError("its aliases make too much of it")
    measured[id(node)] = size, height + 1
    return measured[id(node)]


def _check_scalar(loader: Any, node: yaml.ScalarNode) -> None:
    """Raise ValueError for a value that its tag does not fit, and for characters that no text has."""
    node.value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    if "\0" in node.value:
        raise ValueError("it holds a NUL character")
    if node.tag == f"{TAG}timestamp":
        node.tag = f"{TAG}str"
    if node.tag == f"{TAG}str":
        return
    if node.tag != loader.resolve(yaml.ScalarNode, node.value, (True, False)):
        raise ValueError(f"the tag {node.tag} does not fit {node.value[:40]!r}")
    if node.tag in (f"{TAG}int", f"{TAG}float") and len(node.value) > DIGITS:
        raise ValueError(f"a number has more than {DIGITS} digits")
