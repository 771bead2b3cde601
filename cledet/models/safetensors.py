"""Safetensors files of weights, with the model's metadata as JSON."""

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

FACTS = (
    *("architecture", "classes", "category_ids", "components", "imgsz", "step", "best_conf", "class_confs"),
    *("versions", "written"),
)
"""Entries of the metadata, without paths and settings of the training machine."""


def pack(content: Mapping[str, Any]) -> bytes:
    """Serialize a checkpoint's content, without the training state, as a safetensors file with a digest."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in content["model"].items()}
    metadata = {"format": "pt", "cledet": content["format"]} | {key: json.dumps(content[key]) for key in FACTS}
    return save(tensors, metadata | {"blake2b": digest(tensors, metadata)})


def unpack(path: Path) -> dict[str, Any]:
    """Read the content that `pack` wrote.

    Raises DamagedFile if the digest differs, and UserError for a file that `pack` did not write.
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
    """Compute BLAKE2b of the names, dtypes, shapes and bytes of all tensors, and of the metadata."""
    result = hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=20)
    for name in sorted(tensors):
        tensor = tensors[name]
        result.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        result.update(as_bytes(tensor).numpy().data)
    return result.hexdigest()


def as_bytes(tensor: Tensor) -> Tensor:
    """View the bytes of a tensor in row-major order, [K] uint8."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
