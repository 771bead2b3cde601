"""Breaks a folder: its trees, what can be wrong with a format alone, bytes, and what lies there."""

from __future__ import annotations

import math
import os
import pickle
import random
from collections.abc import Callable
from typing import Any

import torch
from archives import Zeros, corrupt_zip
from formats import YAML_RAW, Plant, encode, shared
from mutations import Files, corrupt_bytes, corrupt_folder, corrupt_tree
from seeds import foreign_image

ENCODINGS = (
    "unknown-1", "utf-16", "utf-7", "utf-32", "ucs4", "cp037", "cp65001", "rot13", "base64", "hex", "zlib", "idna",
    "punycode", "undefined", "ascii", "big5", "latin1", "utf-8",
)  # fmt: skip
LAUGHS = "".join(f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefgh", "bcdefghi"))
"""XML's entities that multiply to 10 ** 9 letters."""
XML_HEADS = (
    *(f"<?xml version='1.0' encoding='{name}'?>" for name in ENCODINGS), "<?xml version='9.9'?>",
    "\ufeff<?xml version='1.0'?>", "<!DOCTYPE a [<!ENTITY a 'a'>]>", "<!DOCTYPE a SYSTEM 'file:///etc/hostname'>",
    "<!DOCTYPE a [<!ENTITY a SYSTEM 'file:///etc/hostname'>]>", "<!-- -->" * 1000, "<?a ?>", "  ",
    f"<!DOCTYPE a [<!ENTITY a 'aaaaaaaaaa'>{LAUGHS}]><z>&i;</z>",
)  # fmt: skip
TENSORS: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda t: t[:0] if t.ndim else t[None], lambda t: t[None], lambda t: t.flatten(), lambda t: t.flatten()[0],
    lambda t: t.transpose(0, -1), lambda t: t.double(), lambda t: t.half(), lambda t: t.long(), lambda t: t.bool(),
    lambda t: t.to(torch.complex64), lambda t: t * math.nan, lambda t: t + math.inf, lambda t: t.to_sparse(),
    lambda t: t.to(torch.float8_e4m3fn), lambda t: torch.nn.Parameter(t.float()),
    lambda t: torch.empty(t.shape, device="meta"), lambda t: torch.zeros(1).expand(2**33),
    lambda t: torch.zeros(0, 2**40), lambda t: torch.zeros(1).expand([70_000] * min(max(t.ndim, 1), 3)),
    lambda t: t.tolist(), lambda t: None,
)  # fmt: skip
"""What may stand where a tensor should."""


ARCHITECTURES: tuple[dict[str, Any], ...] = (
    {"backbone": "timm:hf-hub:owner/name"}, {"backbone": "timm:hf_hub:owner/name"}, {"backbone": "timm:/etc"},
    {"backbone": "timm:vit_giant_patch14_224"}, {"backbone": "x101-64x4d"}, {"backbone": ""}, {"classes": 0},
    {"classes": -1}, {"classes": 10**9}, {"classes": 2**40}, {"fpn_channels": 10**5}, {"fpn_channels": 2**31},
    {"fpn_channels": 0}, {"anchor_scale": math.nan}, {"anchor_scale": 1e308}, {"anchor_ratios": []},
    {"anchor_ratios": [math.nan, 1]}, {"anchor_ratios": [1.0] * 99}, {"anchor_ratios": [1, 2], "head": "gfl"},
    {"norm": "none"}, {"norm": "group"},
    {"head": "fcos"}, {"head": "gfl"}, {"tower_norm": "group"}, {"p6_from": "c5"}, {"depth": 3},
)  # fmt: skip
"""What a checkpoint may say that its network is."""


def corrupt_weights(rng: random.Random, tree: Any) -> Any:
    """A file of weights with one tensor that is another, or of another network."""
    for facts in (tree, tree.get("facts", {})):
        if "architecture" in facts and rng.random() < 0.5:
            changed = {"architecture": facts["architecture"] | rng.choice(ARCHITECTURES)}
            return tree | changed if facts is tree else tree | {"facts": facts | changed}
    return corrupt_tensor(rng, tree)


def corrupt_tensor(rng: random.Random, tree: Any) -> Any:
    """The same with one tensor of another shape, kind or content."""
    name = next((name for name in ("model", "state_dict") if name in tree), None)
    state = dict(tree[name] if name else tree)
    key = rng.choice(list(state))
    state[key] = rng.choice(TENSORS)(torch.as_tensor(state[key]))
    return {**tree, name: state} if name else state


MEMBERS = (
    (Zeros(4096), pickle.dumps(shared(28)), pickle.dumps(Plant(0))),
    (Zeros(64), b""),
)
"""What may be in a zip file in place of a member: in a file of weights, and in an archive to be unpacked."""
OWN: dict[str, Callable[[random.Random, Any], Any]] = {
    ".xml": lambda rng, tree: [rng.choice(XML_HEADS), tree[1]],
    ".yaml": lambda rng, tree: rng.choice(
        (
            f"RAW{rng.randrange(len(YAML_RAW))}",
            list(tree.items()),
            list(tree),
            None,
            {**tree, "callback": "planted:run"},
        )
    ),
    **dict.fromkeys((".pt", ".pth", ".safetensors"), corrupt_weights),
    **dict.fromkeys((".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"), lambda rng, data: foreign_image(rng)),
}
"""What can be wrong with a file of one kind only."""


def corrupt(files: Files, rng: random.Random, extra: tuple[Any, ...]) -> dict[str, Any]:
    """The bytes of the files with something wrong: in a tree, in the bytes, or in what lies in the folder."""
    broken, trees = dict(files), [name for name, data in files.items() if not isinstance(data, bytes)]
    chosen = rng.choices(trees or list(files), k=rng.choice((0, 1, 1, 1, 2)))
    if rng.random() < 0.1:
        chosen.append(rng.choice(list(files)))
    for name in chosen:
        own = OWN.get(os.path.splitext(name)[1])
        if own is not None and rng.random() < (0.25 if name in trees else 0.5):
            broken[name] = own(rng, files[name])
        elif name in trees:
            broken[name] = corrupt_tree(rng, broken[name], extra)
    try:
        data = encode(broken, rng)
    except Exception:  # the writer of a format has its own way to say that it cannot hold such a tree
        data = encode(files, rng)
    if all(data[name] == files[name] for name in files) or not chosen or rng.random() < 0.15:
        name = rng.choice(trees or list(files))
        zipped = data[name][:2] == b"PK" and rng.random() < 0.7
        members = MEMBERS[os.path.splitext(name)[1] == ".zip"]
        data[name] = corrupt_zip(rng, data[name], members) if zipped else corrupt_bytes(rng, data[name])
    return corrupt_folder(rng, data) if rng.random() < 0.08 else data
