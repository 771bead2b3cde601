"""Proof that an exported file computes what PyTorch computes: the same images through both, outputs compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cledet.config.base import long_side
from cledet.data.dataset import PADDING, preprocess
from cledet.data.images import read_image
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.export.backends import CANDIDATES, RAW, Open
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import RawOutputs, RetinaNet
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import Detected, best_of_levels, suppress_candidates
from cledet.ops.boxes import area, clip_boxes

Pixels = NDArray[np.float32]

SAME_BOX, SAME_SCORE = 0.01, 1e-5
"""Pixels and score by which a detection may differ from one that NMS in PyTorch leaves of the same raw outputs."""


@dataclass(frozen=True)
class Proof:
    """How far the outputs are from PyTorch's, and on how much that was seen."""

    max_box_error: float  # pixels
    max_score_error: float
    images: int
    detections: int = 0
    drawn: int = 0  # detections among drawn boxes
    strangers: int = 0  # detections that only one of the two has

    def and_of(self, other: Proof) -> Proof:
        """Both together."""
        box = max(self.max_box_error, other.max_box_error)
        score = max(self.max_score_error, other.max_score_error)
        counts = ("images", "detections", "drawn", "strangers")
        return Proof(box, score, **{name: getattr(self, name) + getattr(other, name) for name in counts})


@torch.inference_mode()
def prove_raw(network: RetinaNet, open_file: Open, path: Path, size: tuple[int, int]) -> Proof:
    """Boxes and scores of every anchor, on images of one size."""
    images = unseen_images(size)
    boxes, scores = open_file(path, ("boxes", "scores"))(images)
    raw = network(torch.from_numpy(images)).scored()
    errors = raw_errors(raw, torch.from_numpy(boxes), torch.from_numpy(scores))
    return Proof(*errors, images=len(images))


@torch.inference_mode()
def prove_detections(
    network: RetinaNet, open_file: Open, path: Path, images: Sequence[Pixels], post: NMSOptions
) -> Proof:
    """The raw outputs inside the file, and the detections that it makes of them, image by image [1, 3, H, W].

    Each stage is compared given what the file has before it, so that no rounding there decides whether a box is just
    over a threshold or just under.
    """
    outside, inside = open_file(path, Detected._fields), open_file(path, (*RAW, *CANDIDATES))
    errors, found = [(0.0, 0.0)], []
    for image in images:
        raw, size = network(torch.from_numpy(image)).scored(), (image.shape[2], image.shape[3])
        logits, deltas, *rest = (torch.from_numpy(np.array(value)) for value in inside(image))
        taken = Detected(*rest)
        inner = raw._replace(logits=logits, deltas=deltas)
        errors.append(raw_errors(raw, inner.boxes(), logits.sigmoid()))
        errors.append(candidate_errors(inner, size, taken))
        found.append((as_detected(outside(image)), _suppress(post, taken)))
    strangers, *differences = compare(found)
    worst = [max(values) for values in zip(*errors, differences)]
    count = sum(len(wanted.scores) for _, wanted in found)
    return Proof(worst[0], worst[1], images=len(images), detections=count, strangers=strangers)


def prove_suppression(open_file: Open, path: Path, size: tuple[int, int], classes: int, post: NMSOptions) -> Proof:
    """The detections that NMS alone, in a file, leaves of boxes drawn at random in clusters."""
    run, found = open_file(path, Detected._fields), []
    for seed in range(3):
        drawn = drawn_candidates(seed, size, classes)
        found.append((as_detected(run(*(part.numpy() for part in drawn))), _suppress(post, drawn)))
    strangers, box_error, score_error = compare(found)
    count = sum(len(wanted.scores) for _, wanted in found)
    return Proof(box_error, score_error, images=0, drawn=count, strangers=strangers)


def raw_errors(raw: RawOutputs, boxes: Tensor, scores: Tensor) -> tuple[float, float]:
    """The largest differences of boxes (pixels, of anchors that score over 0.01) and of scores."""
    wanted = raw.logits.sigmoid()
    sure = wanted.amax(-1) > 0.01
    far = (boxes - raw.boxes()).abs()[sure]
    return float(far.max()) if far.numel() else 0.0, float((scores - wanted).abs().max())


def candidate_errors(raw: RawOutputs, size: tuple[int, int], taken: Detected) -> tuple[float, float]:
    """The largest differences of what reaches NMS, given the raw outputs: boxes (pixels) and scores, one by one.

    Boxes are looked at where the score, over 0.01, is clear of its neighbours': equal scores have no order.
    """
    boxes, scores, labels = (part[0] for part in best_of_levels(raw))
    step = torch.cat([scores.new_ones(1), scores.diff().abs(), scores.new_ones(1)]) > 1e-6
    clear = step[1:] & step[:-1] & (scores > 0.01)
    far = (taken.boxes - clip_boxes(boxes, size)).abs().amax(-1).where(taken.labels == labels, torch.inf)[clear]
    return float(far.max()) if far.numel() else 0.0, float((taken.scores - scores).abs().max())


def _suppress(post: NMSOptions, taken: Detected) -> Detected:
    """PyTorch's NMS of what reaches the file's."""
    real = (taken.scores > post.conf) & (area(taken.boxes) > 0)
    return suppress_candidates(Detected(*(part[real] for part in taken)), post)


def compare(pairs: Sequence[tuple[Detected, Detected]]) -> tuple[int, float, float]:
    """How many detections have no partner on the other side, and the largest differences of those that have.

    Partners have one label and differ by SAME_BOX and SAME_SCORE at most; where they stand in the order of equal
    scores is not looked at.
    """
    strangers, box_error, score_error = 0, 0.0, 0.0
    for found, wanted in pairs:
        box = (found.boxes[:, None] - wanted.boxes).abs().amax(-1)
        score = (found.scores[:, None] - wanted.scores).abs()
        partner = (found.labels[:, None] == wanted.labels) & (box <= SAME_BOX) & (score <= SAME_SCORE)
        alone = int((~partner.any(0)).sum() + (~partner.any(1)).sum())
        strangers += max(alone, abs(partner.shape[0] - partner.shape[1]))
        if partner.any():
            box_error = max(box_error, float(box[partner].max()))
            score_error = max(score_error, float(score[partner].max()))
    return strangers, box_error, score_error


def as_detected(outputs: Sequence[Any]) -> Detected:
    """A runtime's outputs as tensors."""
    return Detected(*(torch.from_numpy(np.array(output)) for output in outputs))


def unseen_images(size: tuple[int, int]) -> Pixels:
    """A grey image, one of coarse noise and one of fine noise: [3, 3, H, W]."""
    height, width = size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1, 3, height // 16, width // 16)).repeat(16, 2).repeat(16, 3)
    images = [np.full((1, 3, height, width), 114), coarse, rng.integers(0, 256, (1, 3, height, width))]
    return np.concatenate(images).astype(np.float32)


def pictures(model: Checkpoint, short: int, size: tuple[int, int], count: int = 3) -> list[Pixels]:
    """Images [1, 3, H, W] from the data set that the model was trained on; from `shapes` if it is gone.

    A trace of noise keeps even ground from making scores that are equal.
    """
    try:
        index = open_source(model.data or "shapes").index(str(model.settings.get("split", "train")))
    except UserError:
        index = open_source("shapes").index("val")
    chosen = np.linspace(0, len(index) - 1, min(count, len(index))).astype(int)
    rng = np.random.default_rng(0)
    found = []
    for path in index.paths[chosen].tolist():
        image = read_image(path)
        landscape = image if image.shape[1] >= image.shape[0] else np.rot90(image)
        batch, _ = preprocess(landscape, short, long_side(short))
        canvas = np.full((*size, 3), PADDING, np.float32)
        canvas[: batch.shape[2], : batch.shape[3]] = batch[0].permute(1, 2, 0).numpy()
        canvas += rng.uniform(0, 0.5, canvas.shape).astype(np.float32)
        found.append(np.ascontiguousarray(canvas.transpose(2, 0, 1)[None]))
    return found


def drawn_candidates(seed: int, size: tuple[int, int], classes: int) -> Detected:
    """400 boxes in 50 clusters, 8 each, that overlap in all degrees; scores 0 to 1, labels of three classes at most."""
    rng = np.random.default_rng(seed)
    sides = np.array(size[::-1])
    center = rng.uniform(0, 1, (50, 1, 2)) * sides + rng.normal(0, 0.02, (50, 8, 2)) * sides
    half = rng.uniform(0.02, 0.12, (50, 1, 2)) * sides * rng.uniform(0.8, 1.25, (50, 8, 2))
    boxes = np.concatenate([center - half, center + half], -1).reshape(-1, 4).astype(np.float32)
    scores, labels = rng.uniform(0, 1, 400).astype(np.float32), rng.integers(0, min(classes, 3), 400)
    return Detected(*(torch.from_numpy(part) for part in (boxes, scores, labels)))
