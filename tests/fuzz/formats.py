"""Writes trees as files: what a format cannot hold becomes text, so that any tree has a file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import os
import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any
from xml.sax.saxutils import escape

import safetensors.torch
import torch
import yaml
from archives import to_tar, to_zip
from mutations import Files

from cledet.models.safetensors import digest

BOMB = (
    "[&a [x,x,x,x,x,x,x,x,x], "
    + ", ".join(f"&{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi"))
    + "]"
)
"""YAML of 9 ** 9 words, by aliases; a few hundred bytes."""
JSON_RAW = (
    "1e999", "-1e999", "NaN", "-Infinity", "9" * 5000, "9" * 400, "1" * 25, "1e-999", "[" * 100_000,
    "[" * 900 + "]" * 900, '{"a":' * 50_000, '"\\ud800"', '"\\u0000"', '"\udcff"', '"\t"', "tru", "", "'a'", "01", "1.",
    "[1,]", '{"a":1,"a":2}', "[0" + ",0" * 100_000 + "]", "/* a */ 1",
)  # fmt: skip
YAML_RAW = (
    "2001-99-99", "2001-01-01 25:61:00", "!!python/object/apply:os.system ['touch PLANTED']",
    "!!python/name:os.system ''", "[" * 5000, "[" * 400 + "]" * 400, "&a [*a]", "&a {a: *a}", BOMB, "*missing",
    "!!binary x", "!!int x", "!!timestamp x", "!!set {a, b}", "!!omap [a: 1]", "!!bool x", "{? [a] : b}", "{<<: 5}",
    "1:1:1:1:1:1", "9" * 5000, ".inf", ".nan", "=", "2001-01-01",
)  # fmt: skip
XML_RAW = (
    "&a;", "&#0;", "&#xD800;", "&#x10FFFF;", "<a>" * 20_000, "<a>" * 500 + "</a>" * 500, "<![CDATA[", "<![CDATA[1]]>",
    "<!-- -->", "<?a b?>", "1e999", "9" * 5000, "9" * 400, "inf", "-inf", "nan", "1_0", "١", "0x1p3", "</a>", "<a",
    "\udcff", "\t1\n", " ",
)  # fmt: skip
QUOTES = {'"': "&quot;"}
PLANTS = (
    (os.system, ("touch PLANTED",)),
    (exec, ("open('PLANTED', 'w')",)),
    (eval, ("__import__('os').mkdir('PLANTED')",)),
    (open, ("PLANTED", "w")),
    (getattr, (os, "system")),
    (bytearray, (2**40,)),
)
"""What a pickle may ask for: a function, and what to call it with."""


class Plant:
    """An object whose pickle calls a function."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return PLANTS[self.number]

    def __deepcopy__(self, memo: Any) -> Plant:
        return self


def shared(levels: int) -> list[Any]:
    """A list that holds another twice, which holds another twice ..."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found, found]
    return found


OBJECTS = (*map(Plant, range(len(PLANTS))), shared(8), shared(28), {1, 2}, bytes(9), complex(1), range(3))
"""Values for pickles, beside the common ones."""


def _raw(text: str, pieces: Sequence[str], quote: str = "") -> bytes:
    for i, piece in reversed(list(enumerate(pieces))):
        text = text.replace(f"{quote}RAW{i}{quote}", piece).replace(f"RAW{i}", piece)
    return text.encode("utf-8", "surrogateescape" if "\ud800" not in text else "surrogatepass")


def _words(tree: Any) -> Any:
    """The tree with words for what YAML and JSON do not know; keys are left as they are where they can be."""
    if isinstance(tree, dict):
        return {
            key if isinstance(key, str | int | float | None) else str(key): _words(item) for key, item in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [_words(item) for item in tree]
    known = tree is None or isinstance(tree, str | int | float) or type(tree).__module__ == "datetime"
    return tree if known else str(tree)


def to_json(tree: Any, rng: random.Random) -> bytes:
    return _raw(json.dumps(_words(tree), default=str, ensure_ascii=rng.random() < 0.8), JSON_RAW, '"')


def to_yaml(tree: Any, rng: random.Random) -> bytes:
    return _raw(yaml.safe_dump(_words(tree), sort_keys=False, default_flow_style=True, width=10**6), YAML_RAW)


def to_xml(tree: Any, rng: random.Random) -> bytes:
    """[head, root]; a node is [tag, nodes], [tag, text], or with a dictionary [tag, attributes, nodes]."""
    head, root = tree if isinstance(tree, list) and len(tree) == 2 else ("", tree)
    return _raw(f"{head}{_node(root)}", XML_RAW)


def _node(tree: Any) -> str:
    if not (isinstance(tree, list) and len(tree) in (2, 3) and isinstance(tree[0], str)):
        return escape(str(tree))
    tag, content = tree[0], tree[-1]
    named = tree[1].items() if isinstance(tree[1], dict) else ()
    start = "".join([tag, *(f' {key}="{escape(str(value), QUOTES)}"' for key, value in named)])
    return f"<{start}>{''.join(map(_node, content)) if isinstance(content, list) else escape(str(content))}</{tag}>"


def to_csv(tree: Any, rng: random.Random) -> bytes:
    """Lists of fields."""
    file = io.StringIO()
    rows = [row if isinstance(row, list | tuple) else [row] for row in (tree if isinstance(tree, list) else [tree])]
    csv.writer(file, delimiter=rng.choice(",,,;\t")).writerows(rows)
    return _raw(file.getvalue(), XML_RAW)


def to_text(tree: Any, rng: random.Random) -> bytes:
    """Lines, which may be lists of words."""
    lines = tree if isinstance(tree, list) else [tree]
    return _raw("\n".join(" ".join(map(str, line)) if isinstance(line, list) else str(line) for line in lines), XML_RAW)


def to_json_lines(tree: Any, rng: random.Random) -> bytes:
    return b"\n".join(to_json(item, rng) for item in (tree if isinstance(tree, list) else [tree]))


def to_torch(tree: Any, rng: random.Random) -> bytes:
    """As torch.save writes it, at times in its old format."""
    file = io.BytesIO()
    torch.save(tree, file, _use_new_zipfile_serialization=rng.random() < 0.9)
    return file.getvalue()


def to_pickle(tree: Any, rng: random.Random) -> bytes:
    return pickle.dumps(tree, rng.choice((2, 2, 3, 4, 5)))


def to_safetensors(tree: Any, rng: random.Random) -> bytes:
    """{"model": tensors, "facts": metadata, "cledet": format}, with the digest that belongs to it."""
    parts = tree if isinstance(tree, dict) else {}
    model, facts = (parts[key] if isinstance(parts.get(key), dict) else {} for key in ("model", "facts"))
    tensors = {_utf8(key): value.contiguous().clone() for key, value in model.items() if _is_plain(value)}
    metadata = {_utf8(key): to_json(value, rng).decode("utf-8", "replace") for key, value in facts.items()}
    metadata |= {"format": "pt", "cledet": _utf8(parts.get("cledet"))}
    return safetensors.torch.save(tensors, metadata | {"blake2b": digest(tensors, metadata)})


def _utf8(value: Any) -> str:
    return str(value).encode(errors="replace").decode()


def _is_plain(value: Any) -> bool:
    """Whether a value is a tensor that safetensors can hold."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.numel() < 10**6


WRITERS: dict[str, Callable[[Any, random.Random], bytes]] = {
    ".csv": to_csv, ".json": to_json, ".jsonl": to_json_lines, ".yaml": to_yaml, ".xml": to_xml, ".txt": to_text,
    ".pt": to_torch, ".pth": to_torch, ".pkl": to_pickle, ".safetensors": to_safetensors, ".zip": to_zip,
    ".tar": to_tar, ".tgz": lambda tree, rng: gzip.compress(to_tar(tree, rng), 1, mtime=0),
    ".xz": lambda tree, rng: lzma.compress(to_tar(tree, rng), preset=0),
}  # fmt: skip


def encode(files: Files, rng: random.Random) -> dict[str, Any]:
    """The content of every file in bytes."""
    return {
        name: data if isinstance(data, bytes) else WRITERS[os.path.splitext(name)[1]](data, rng)
        for name, data in files.items()
    }
