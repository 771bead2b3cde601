"""Reads YAML that nobody need trust: data files, recipes and the settings of runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from cledet.errors import UserError

LONGEST, DEEPEST, DIGITS = 1_000_000, 50, 100
"""Characters of a file, what aliases repeat included; levels of nesting; characters of a number."""
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
        _check(loader, node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(loader: Any, root: yaml.Node) -> None:
    """Raise ValueError for what cannot be constructed, or not within the bounds; aliases count as what they repeat."""
    left, waiting = LONGEST, [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        left -= 1
        if isinstance(node, yaml.ScalarNode):
            left -= len(node.value)
            _check_scalar(loader, node)
        else:
            children = [part for pair in node.value for part in pair] if node.id == "mapping" else node.value
            waiting += [(child, depth + 1) for child in children]
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        if left < 0:
            raise ValueError(f"its aliases make more than {LONGEST:,} characters of it")


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
