"""Weights alone, as a safetensors file: tensors, and in its metadata what is needed to use them, as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from cledet.errors import UserError
from cledet.io.weight_files import DamagedFile, read_safetensors

FACTS = ("architecture", "classes", "category_ids", "components", "imgsz", "step", "versions", "written")
"""What the metadata say; no paths and no settings of the machine that trained."""


def pack(content: Mapping[str, Any]) -> bytes:
    """A checkpoint's content -> a safetensors file without its training state, with a digest of all that it holds."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in content["model"].items()}
    metadata = {"format": "pt", "cledet": content["format"]} | {key: json.dumps(content[key]) for key in FACTS}
    return save(tensors, metadata | {"blake2b": digest(tensors, metadata)})


def unpack(path: Path) -> dict[str, Any]:
    """The content that `pack` was given, without the rest.

    Raises DamagedFile where the digest differs, UserError for a file that `pack` did not write.
    """
    tensors, metadata = read_safetensors(path)
    if "cledet" not in metadata:
        hint = "`cledet export --format safetensors` writes one; a backbone's weights are for --backbone-weights"
        raise UserError(f"{path} holds no cledet detector but {len(tensors)} tensors of something else", hint)
    if metadata.pop("blake2b", "") != digest(tensors, metadata):
        raise DamagedFile(f"{path} is damaged: it does not match its checksum")
    try:
        facts = {key: json.loads(metadata[key]) for key in FACTS if key in metadata}
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not as cledet wrote it: its metadata are no JSON", "pass another file") from None
    return facts | {"format": metadata["cledet"], "model": tensors}


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """BLAKE2b of names, types, shapes and bytes of all tensors, and of the metadata."""
    found = hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=20)
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(as_bytes(tensor).numpy().data)
    return found.hexdigest()


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor in its order of rows, [K] uint8."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
