"""Parity of an exported file with PyTorch: both run on the same inputs, and their outputs are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cledet.config.base import long_side
from cledet.data.dataset import fit_canvas, preprocess
from cledet.data.images import read_image
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.export.backends import write_suppression
from cledet.export.plan import CANDIDATES, OUTPUTS, PREPARED, RAW, Open, Plan
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import RawOutputs
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import Detected, best_of_levels, suppress_candidates
from cledet.ops.boxes import area, clip_boxes

Pixels = NDArray[np.float32]
Photo = NDArray[np.uint8]

BOX_TOLERANCE, SCORE_TOLERANCE = 0.01, 1e-5
"""Largest differences, in pixels and in score, of detections that match."""


class Parity(NamedTuple):
    """Largest differences from PyTorch's outputs, and the number of images and detections compared."""

    max_box_error: float  # pixels
    max_score_error: float
    images: int
    detections: int = 0
    random_detections: int = 0  # detections among random boxes
    unmatched: int = 0  # detections of only one of the two
    max_pixel_error: float = 0.0  # levels of 255, of the input that a file for photos prepares
    own_score_error: float = 0.0  # of all anchors, from the scores of PyTorch on cledet's own input


@torch.inference_mode()
def check_parity(plan: Plan, model: Checkpoint, open_file: Open, path: Path) -> Parity:
    """Compare the file with PyTorch: raw outputs, and with NMS also detections, and NMS alone on random boxes.

    A file for images of any size is compared on landscape and portrait images.
    """
    height, width = plan.canvas or (padded(plan.short), padded(plan.short * 4 // 3))
    sizes = [(height, width)] if plan.canvas else [(height, width), (width, height)]
    noise = [synthetic_images(size) for size in sizes]
    prepared: list[tuple[float, float]] = [(0.0, 0.0)]
    if plan.photo:
        photos = [*map(synthetic_photo, sizes), *map(add_noise, dataset_photos(model))]
        prepared = compare_preprocessing(plan, open_file, path, photos)
    pixel_error, own_error = (max(values) for values in zip(*prepared))
    if plan.nms is None:
        box_error, score_error = compare_outputs(plan, open_file, path, photos if plan.photo else noise)
        count = len(photos) if plan.photo else sum(map(len, noise))
        return Parity(box_error, score_error, count, max_pixel_error=pixel_error, own_score_error=own_error)
    feeds: list[Any] = photos if plan.photo else dataset_images(model, plan.short, plan.canvas)
    if not plan.photo:
        feeds += [batch[1:2] for batch in noise]  # no grey image, whose scores are all equal
    nms_path = path.with_name("nms.onnx")
    write_suppression(plan.nms, nms_path)
    errors, pairs = compare_images(plan, open_file, path, feeds, plan.nms)
    alone, random = open_file(nms_path, Detected._fields), []
    for seed in range(3):
        candidates = random_candidates(seed, (height, width), len(model.classes))
        random.append((as_detected(alone(*(part.numpy() for part in candidates))), _suppress(plan.nms, candidates)))
    unmatched, *differences = match_detections([*pairs, *random])
    box_error, score_error = (max(values) for values in zip(*errors, differences))
    detections, random_detections = (sum(len(expected.scores) for _, expected in part) for part in (pairs, random))
    counts = (len(feeds), detections, random_detections, unmatched)
    return Parity(box_error, score_error, *counts, pixel_error, own_error)


def compare_preprocessing(
    plan: Plan, open_file: Open, path: Path, photos: Sequence[Photo]
) -> list[tuple[float, float]]:
    """Compare the input that a file for photos prepares with cledet's own: pixels, in levels, and resulting scores.

    Raises UserError if the sizes differ.
    """
    run, errors = open_file(path, (PREPARED[0], RAW[0])), []
    for photo in photos:
        image, logits = map(as_tensor, run(photo))
        own = own_input(plan, photo)
        if own.shape != image.shape:
            shapes = f"{list(image.shape)} where cledet makes {list(own.shape)}"
            raise UserError(f"the file prepares an image of {list(photo.shape)} as {shapes}")
        scores = plan.network(own).scored().logits.sigmoid()
        errors.append((float((image - own).abs().max()), float((scores - logits.sigmoid()).abs().max())))
    return errors


def own_input(plan: Plan, photo: Photo) -> Tensor:
    """Resize and pad a photo for the plan's network: float32 [1, 3, Hp, Wp]."""
    if plan.canvas is not None:
        return fit_canvas(photo, plan.canvas).float()
    return preprocess(photo, plan.short, long_side(plan.short))[0].float()


def compare_outputs(plan: Plan, open_file: Open, path: Path, feeds: Sequence[Any]) -> tuple[float, float]:
    """Compute the largest errors of the boxes (pixels) and scores of a file without NMS, on images or photos."""
    run, errors = open_file(path, (*OUTPUTS, *(PREPARED if plan.photo else ()))), []
    for feed in feeds:
        boxes, scores, *inner = map(as_tensor, run(feed))
        image, factors = inner or (torch.from_numpy(feed), torch.ones(4))
        errors.append(raw_errors(plan.network(image).scored(), boxes / factors, scores))
    box_error, score_error = (max(values) for values in zip(*errors))
    return box_error, score_error


def compare_images(
    plan: Plan, open_file: Open, path: Path, feeds: Sequence[Any], options: NMSOptions
) -> tuple[list[tuple[float, float]], list[tuple[Detected, Detected]]]:
    """Compare the raw outputs, the candidates and the detections of a file with NMS, on images [1, 3, H, W] or photos.

    Returns the errors of the first two, in pixels and in score, and the detections of the file beside PyTorch's. Each
    stage of PyTorch gets the file's output of the stage before. So rounding errors cannot move a box across a
    threshold.
    """
    names = (*RAW, *CANDIDATES, *(PREPARED if plan.photo else ()))
    final, inner = open_file(path, Detected._fields), open_file(path, names)
    errors, pairs = [], []
    for feed in feeds:
        values = dict(zip(names, map(as_tensor, inner(feed))))
        image, factors, size = torch.from_numpy(feed), torch.ones(4), feed.shape[-2:]
        if plan.photo:
            image, factors = (values[name] for name in PREPARED)
            size = tuple(round(side / factor) for side, factor in zip(feed.shape[:2], factors[[1, 0]].tolist()))
        raw, candidates = plan.network(image).scored(), Detected(*(values[name] for name in CANDIDATES))
        exported = raw._replace(**{name: values[name] for name in RAW})
        errors.append(raw_errors(raw, exported.boxes(), exported.logits.sigmoid()))
        errors.append(candidate_errors(exported, size, candidates))
        found = as_detected(final(feed))
        pairs.append((found._replace(boxes=found.boxes / factors), _suppress(options, candidates)))
    return errors, pairs


def raw_errors(raw: RawOutputs, boxes: Tensor, scores: Tensor) -> tuple[float, float]:
    """Compute the largest errors of boxes (pixels, of anchors that score over 0.01) and of scores."""
    expected = raw.logits.sigmoid()
    errors = (boxes - raw.boxes()).abs()[expected.amax(-1) > 0.01]
    return float(errors.max()) if errors.numel() else 0.0, float((scores - expected).abs().max())


def candidate_errors(raw: RawOutputs, size: tuple[int, int], candidates: Detected) -> tuple[float, float]:
    """Compute the largest errors of the candidates' boxes (pixels) and scores, row by row, given the raw outputs.

    Boxes are compared only if their score is over 0.01 and differs from its neighbours': equal scores have no order.
    """
    boxes, scores, labels = (part[0] for part in best_of_levels(raw))
    step = torch.cat([scores.new_ones(1), scores.diff().abs(), scores.new_ones(1)]) > 1e-6
    distinct = step[1:] & step[:-1] & (scores > 0.01)
    errors = (candidates.boxes - clip_boxes(boxes, size)).abs().amax(-1)
    errors = errors.where(candidates.labels == labels, torch.inf)[distinct]
    return float(errors.max()) if errors.numel() else 0.0, float((candidates.scores - scores).abs().max())


def _suppress(options: NMSOptions, candidates: Detected) -> Detected:
    """Filter candidates by score and area, and apply PyTorch's NMS."""
    valid = (candidates.scores > options.conf) & (area(candidates.boxes) > 0)
    return suppress_candidates(Detected(*(part[valid] for part in candidates)), options)


def match_detections(pairs: Sequence[tuple[Detected, Detected]]) -> tuple[int, float, float]:
    """Count the unmatched detections of pairs of results, and compute the largest errors of the matched ones.

    Two detections match if their labels are equal and they differ by at most BOX_TOLERANCE and SCORE_TOLERANCE. The
    order of equal scores is ignored.
    """
    unmatched, box_error, score_error = 0, 0.0, 0.0
    for actual, expected in pairs:
        box = (actual.boxes[:, None] - expected.boxes).abs().amax(-1)
        score = (actual.scores[:, None] - expected.scores).abs()
        match = (actual.labels[:, None] == expected.labels) & (box <= BOX_TOLERANCE) & (score <= SCORE_TOLERANCE)
        alone = int((~match.any(0)).sum() + (~match.any(1)).sum())
        unmatched += max(alone, abs(match.shape[0] - match.shape[1]))
        if match.any():
            box_error = max(box_error, float(box[match].max()))
            score_error = max(score_error, float(score[match].max()))
    return unmatched, box_error, score_error


def as_tensor(output: Any) -> Tensor:
    """Return a copy of a runtime's output as a tensor."""
    return torch.from_numpy(np.array(output))


def as_detected(outputs: Sequence[Any]) -> Detected:
    """Return a runtime's outputs as tensors."""
    return Detected(*map(as_tensor, outputs))


def padded(side: int) -> int:
    """Return the smallest multiple of 32 that holds a side, to which images are padded."""
    return -(-side // 32) * 32


def synthetic_images(size: tuple[int, int]) -> Pixels:
    """Make a grey image, one of coarse noise and one of fine noise: [3, 3, H, W]."""
    height, width = size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1, 3, height // 16, width // 16)).repeat(16, 2).repeat(16, 3)
    images = [np.full((1, 3, height, width), 114), coarse, rng.integers(0, 256, (1, 3, height, width))]
    return np.concatenate(images).astype(np.float32)


def synthetic_photo(size: tuple[int, int]) -> Photo:
    """Make a photo of noise, 2.5 times as large as (height, width), so that it is resized by area."""
    height, width = (side * 5 // 2 for side in size)
    coarse = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(20, 0).repeat(20, 1))


def add_noise(photo: Photo) -> Photo:
    """Add weak noise to a photo, because uniform areas would produce equal scores."""
    noise = np.random.default_rng(0).integers(-2, 3, photo.shape)
    return np.asarray((photo + noise).clip(0, 255), dtype=np.uint8)


def dataset_images(
    model: Checkpoint, short: int, canvas: tuple[int, int] | None = None, count: int = 3
) -> list[Pixels]:
    """Read images [1, 3, H, W] of the model's training data for a file, resized and padded.

    Weak noise is added, because uniform areas would produce equal scores.
    """
    rng, images = np.random.default_rng(0), []
    for image in dataset_photos(model, count):
        batch = preprocess(image, short, long_side(short))[0] if canvas is None else fit_canvas(image, canvas)
        images.append(batch.numpy() + rng.uniform(0, 0.5, batch.shape).astype(np.float32))
    return images


def dataset_photos(model: Checkpoint, count: int = 3) -> list[Photo]:
    """Read images [H, W, 3] of the model's training data, or of `shapes` if it is missing.

    Every second one is rotated, so that landscape and portrait images are among them.
    """
    try:
        index = open_source(model.data or "shapes").index(str(model.settings.get("split", "train")))
    except UserError:
        index = open_source("shapes").index("val")
    chosen = np.linspace(0, len(index) - 1, min(count, len(index))).astype(int)
    paths = index.paths[chosen].tolist()
    return [np.ascontiguousarray(np.rot90(read_image(path), number % 2)) for number, path in enumerate(paths)]


def random_candidates(seed: int, size: tuple[int, int], classes: int) -> Detected:
    """Draw 50 clusters of 8 overlapping boxes, with scores from 0 to 1 and labels of at most three classes."""
    rng = np.random.default_rng(seed)
    sides = np.array(size[::-1])
    center = rng.uniform(0, 1, (50, 1, 2)) * sides + rng.normal(0, 0.02, (50, 8, 2)) * sides
    half = rng.uniform(0.02, 0.12, (50, 1, 2)) * sides * rng.uniform(0.8, 1.25, (50, 8, 2))
    boxes = np.concatenate([center - half, center + half], -1).reshape(-1, 4).astype(np.float32)
    scores, labels = rng.uniform(0, 1, 400).astype(np.float32), rng.integers(0, min(classes, 3), 400)
    return Detected(*(torch.from_numpy(part) for part in (boxes, scores, labels)))
