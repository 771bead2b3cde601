"""Weights of a backbone: published ImageNet weights, a file, or a URL."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
from torch import Tensor

from cledet.errors import UserError
from cledet.io.weight_files import read_weights
from cledet.models.backbones.build import backbone_spec, load_backbone
from cledet.models.network import RetinaNet

HASHED = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
"""End of a file name with the first digits of its SHA-256, a convention of torch.hub."""
OTHERWISE = "pass --backbone-weights FILE, or --backbone-weights none for random weights"


def load_imagenet(network: RetinaNet, backbone: str, source: str, say: Callable[[str], None]) -> None:
    """Load ImageNet weights (`auto`), or those in a file or at a URL, into the backbone; `say` logs a download."""
    state = _published(backbone, say) if source == "auto" else _given(source, say)
    missing = load_backbone(network.backbone, state)
    if missing:
        raise UserError(f"{source} holds no weights of {backbone}: it lacks {missing[0]} and {len(missing) - 1} more")


def _published(backbone: str, say: Callable[[str], None]) -> dict[str, Tensor]:
    """Load the published ImageNet weights of a backbone."""
    spec = backbone_spec(backbone)
    if spec.weights is None:
        if not spec.url:
            raise UserError(f"there are no published ImageNet weights of {backbone} to start from", OTHERWISE)
        return read_weights(fetch(spec.url, say, f"the ImageNet weights of {backbone}"))
    try:
        return spec.weights()
    except (OSError, RuntimeError) as error:  # as timm's hub has them
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the ImageNet weights of {backbone} could not be fetched from {spec.url}: {reason}", OTHERWISE
        ) from None


def _given(source: str, say: Callable[[str], None]) -> dict[str, Tensor]:
    """Load the weights in a file, or at an http, https or file URL."""
    parts = urlparse(source)
    if parts.scheme in ("http", "https"):
        return read_weights(fetch(source, say, "the backbone's weights"))
    path = Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(source)
    if parts.scheme == "file" and path.is_file():
        check_hash(path)
    return read_weights(path)


def fetch(url: str, say: Callable[[str], None], what: str, otherwise: str = OTHERWISE) -> Path:
    """Return the path of the URL's content in torch.hub's cache, downloaded if it is missing.

    `what` describes the file in messages, `otherwise` how to do without it. If the name contains a hash, the content is
    verified against it, also for a cached file.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / cache_name(url)
    if not path.is_file():
        say(f"fetching {what} from {url} into {folder}")
        expected = HASHED.search(path.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), expected and expected[1], progress=sys.stderr.isatty())
        except (OSError, RuntimeError, ValueError) as error:  # no network; a different hash; not a URL
            reason = str(error).partition("\n")[0]
            hint = f"put that file into {folder} as {path.name}, or {otherwise}"
            raise UserError(f"{what} could not be fetched from {url}: {reason}", hint) from None
    check_hash(path)
    return path


def cache_name(url: str) -> str:
    """Name the URL's file in the cache: as torch.hub does if the name contains a hash, else with a hash of the URL.

    Two servers may have different files of the same name.
    """
    name = Path(urlparse(url).path).name
    return name if HASHED.search(name) else f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.{name[-50:]}"


def check_hash(path: Path) -> None:
    """Verify a file against the first digits of SHA-256 in its name, if any. Raises UserError if they differ."""
    expected = HASHED.search(path.name)
    if expected is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not digest.hexdigest().startswith(expected[1]):
        start = digest.hexdigest()[: len(expected[1])]
        message = f"{path} does not match the hash in its name: its SHA-256 begins with {start}"
        raise UserError(message, "delete it and download it again")
