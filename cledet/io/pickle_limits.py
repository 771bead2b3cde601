"""Limits on the size of a pickle's content, because a file of a few bytes may request gigabytes or hours."""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from typing import IO, Any

from torch import Tensor

OPCODES, ENTRIES = 1_000_000, 300_000
"""Most opcodes of a pickle and entries of its content.

A last.pt of r101 with AdamW, averaged weights and 1203 classes has 120,000 and 40,000.
"""
DEPTH = 100
"""Deepest nesting of containers."""
PUT, GET = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")


class TooLarge(Exception):
    """A pickle that exceeds the limits."""


def check_opcodes(file: IO[bytes]) -> None:
    """Simulate the opcodes of the next pickle in a file, with sizes in place of objects.

    An object that contains another one twice counts it twice, because hashing or copying visits it twice. Raises
    TooLarge, and IndexError, KeyError, TypeError or ValueError for a damaged pickle.
    """
    stack: list[Any] = []  # sizes of objects, None for a mark
    memo: dict[int, int] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if name in GET:
            stack.append(memo[int(argument or 0)])
        elif name in PUT or name == "MEMOIZE":
            place = len(memo) if argument is None else int(argument)
            memo[place] = stack[-1]
            if place > number:  # the unpickler's memo is a list up to its highest index
                raise TooLarge
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            size = 1 + _pop(stack, opcode.stack_before)
            if max(size, number) > OPCODES:
                raise TooLarge
            stack += [None if made is pickletools.markobject else size for made in opcode.stack_after]


def _pop(stack: list[Any], kinds: list[Any]) -> int:
    """Pop the arguments of an opcode and return their size."""
    size = 0
    if pickletools.markobject in kinds:
        while (top := stack.pop()) is not None:
            size += top
        kinds = kinds[: kinds.index(pickletools.markobject)]
    return size + sum(stack.pop() or 0 for _ in kinds)


def check_content(content: Any) -> None:
    """Raise TooLarge for content with too many or too deep entries, or with a tensor larger than its storage.

    Lists may contain each other, and a tensor of shape [10^12] may repeat one number.
    """
    left, visited = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        items: list[Any] = []
        if isinstance(value, Tensor):
            if value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise TooLarge
        elif isinstance(value, Mapping):
            items = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            items = list(value)
        elif isinstance(value, str | bytes):
            visited += len(value) // 64
        visited += len(items)
        if depth > DEPTH or visited > ENTRIES:
            raise TooLarge
        left += [(item, depth + 1) for item in items]
