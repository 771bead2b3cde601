"""Prediction: a network with its settings, from images to results."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cledet.config.base import long_side
from cledet.data.dataset import preprocess
from cledet.data.images import Pixels
from cledet.data.transforms import canvas_limits
from cledet.distributed.devices import autocast, within_memory
from cledet.errors import UserError
from cledet.inference.frame import Frame
from cledet.inference.results import Results
from cledet.inference.views import View, ViewOptions, unite
from cledet.models.network import Network, RawOutputs
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import Detected, candidates, suppress_candidates

WAITING = 4
"""Frames that may wait for others of their shape, in batches; a stream of mixed shapes is read ahead no further."""
WAITING_PIXELS = 100_000_000
"""Pixels of frames that may wait."""


class Found(NamedTuple):
    """Candidates of a view for NMS, boxes in pixels of the network's input, and the view's highest score."""

    candidates: Detected
    highest: float | None
    scale: tuple[float, float]
    """Factors in x and y from the network's input to pixels of the view."""


@dataclass
class Job:
    """A frame with its views, and the candidates of each as soon as they are there."""

    frame: Frame
    views: list[View]
    found: dict[int, Found] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Return True if all views were processed."""
        return len(self.found) == len(self.views)


class Input(NamedTuple):
    """A view of a job, resized and padded for the network."""

    job: Job
    view: int
    batch: Tensor
    """uint8 [1, 3, Hp, Wp]."""
    size: tuple[int, int]
    """Height and width without padding."""
    scale: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A network in evaluation mode, with the settings for prediction.

    Several threads may use one predictor.
    """

    network: Network
    options: NMSOptions
    imgsz: int
    device: torch.device
    dtype: torch.dtype | None
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    classes: tuple[int, ...] = ()
    """Labels of the classes to detect; empty: all."""
    agnostic: bool = False
    """Boxes of different classes suppress each other."""
    view_options: ViewOptions = field(default_factory=ViewOptions)

    def __post_init__(self) -> None:
        if any(module.training for module in self.network.modules()):
            self.network.eval()  # takes 1 % of the time of a small photo

    @property
    def conf(self) -> float | None:
        """The confidence threshold; None if each class has its own."""
        return None if self.options.class_confs else self.options.conf

    def predict(self, image: Pixels, path: Path | None = None) -> Results:
        """Detect objects in one RGB image [H, W, 3]."""
        (result,) = self.stream([Frame(image=image, path=path, name="" if path is None else str(path))])
        return result

    def stream(self, frames: Iterable[Frame], batch: int = 1) -> Iterator[Results]:
        """Yield the results of each frame, in order, as soon as they are there.

        Up to `batch` images of one padded shape are processed together. Frames of other shapes wait for theirs,
        up to WAITING batches. If reading a frame raises UserError, the results of those before it come first.
        """
        jobs: deque[Job] = deque()
        inputs: dict[torch.Size, list[Input]] = {}
        failure = None
        for frame in _frames_or_error(frames):
            if isinstance(frame, UserError):
                failure = frame
                break
            jobs.append(Job(frame, self.view_options.views(*frame.image.shape[:2])))
            for view in range(len(jobs[-1].views)):
                one = self._prepare(jobs[-1], view)
                same = inputs.setdefault(one.batch.shape, [])
                same.append(one)
                if len(same) == batch:
                    self._run(inputs.pop(one.batch.shape))
            if len(jobs) > WAITING * batch or sum(job.frame.image[..., 0].size for job in jobs) > WAITING_PIXELS:
                self._complete(jobs[0], inputs)
            while jobs and jobs[0].is_complete:
                yield self._results(jobs.popleft())
        while jobs:
            self._complete(jobs[0], inputs)
            yield self._results(jobs.popleft())
        if failure is not None:
            raise failure

    def _prepare(self, job: Job, view: int) -> Input:
        """Resize and pad a view for the network."""
        pixels = job.views[view].pixels(job.frame.image)
        short = max(32, round(self.imgsz * job.views[view].scale))
        canvas = self.network.canvas
        limits = canvas_limits(pixels, canvas) if canvas else (short, long_side(short))
        batch, (height, width) = preprocess(pixels, *limits)
        return Input(job, view, batch, (height, width), (pixels.shape[1] / width, pixels.shape[0] / height))

    def _complete(self, job: Job, inputs: dict[torch.Size, list[Input]]) -> None:
        """Process the inputs of a job and those that wait with them."""
        for shape in [shape for shape, same in inputs.items() if any(one.job is job for one in same)]:
            self._run(inputs.pop(shape))

    @torch.inference_mode()
    def _run(self, inputs: list[Input]) -> None:
        """Run the network on a batch of one padded shape, and give each job its candidates over the threshold."""
        images = torch.cat([one.batch for one in inputs]) if len(inputs) > 1 else inputs[0].batch
        sizes = torch.tensor([one.size for one in inputs], device="cpu")
        with within_memory(self.device, "lower --imgsz or --batch"):
            with autocast(self.device, self.dtype):
                raw = self.network(images.to(self.device))
            found = candidates(raw, sizes, self._thresholds)
            highest = self._highest_scores(raw)
        for one, detected, score in zip(inputs, found, highest):
            one.job.found[one.view] = Found(detected, score, one.scale)

    @cached_property
    def _thresholds(self) -> Tensor:
        own = self.options.class_confs or (self.options.conf,) * len(self.names)
        return class_thresholds(own, self.classes)

    def _highest_scores(self, raw: RawOutputs) -> list[float]:
        """Return the highest score per image of the classes to detect, before any threshold."""
        best = raw.scored().logits.amax(1)  # [N, C]
        if self.classes:
            best = best[:, torch.tensor(self.classes, device=best.device)]
        scores: list[float] = best.amax(1).float().sigmoid().tolist()
        return scores

    def _results(self, job: Job) -> Results:
        """Apply NMS to the candidates of all views; methods that lower scores leave some below the threshold."""
        found = [job.found[i] for i in range(len(job.views))]
        if len(found) == 1:  # in pixels of the network's input, as in val
            detected = _scaled(suppress_candidates(found[0].candidates, self.options, self.agnostic), *found[0].scale)
        else:
            united = unite(job.views, [_scaled(one.candidates, *one.scale) for one in found], self.agnostic)
            detected = suppress_candidates(united, self.options, self.agnostic)
        highest = max((one.highest for one in found if one.highest is not None), default=None)
        detected, _ = over_threshold(detected, self._thresholds.to(detected.scores.device))
        return results_of(job.frame, detected, self.names, self.category_ids, highest)


def _frames_or_error(frames: Iterable[Frame]) -> Iterator[Frame | UserError]:
    """Yield the frames, and last the UserError of reading them, if there is one."""
    try:
        yield from frames
    except UserError as error:
        yield error


def class_thresholds(conf: Sequence[float], classes: Sequence[int]) -> Tensor:
    """Return the confidence threshold of each class [C], infinite if it is not among `classes`; empty: all are."""
    values = [value if not classes or label in classes else torch.inf for label, value in enumerate(conf)]
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def over_threshold(found: Detected, thresholds: Tensor) -> tuple[Detected, float | None]:
    """Select the candidates over the thresholds [C] of their classes, and return the highest score before that."""
    threshold = thresholds[found.labels]
    wanted, kept = found.scores[threshold.isfinite()], found.scores > threshold
    return Detected(*(values[kept] for values in found)), float(wanted.max()) if len(wanted) else None


def results_of(
    frame: Frame, detected: Detected, names: tuple[str, ...], category_ids: tuple[int, ...], highest: float | None
) -> Results:
    """Build the results of a frame, with tensors on the CPU that may be changed in place."""
    boxes, scores, labels = (values.cpu() for values in detected)
    return Results(
        image=frame.image,
        boxes=boxes,
        scores=scores,
        labels=labels,
        names=names,
        category_ids=category_ids,
        path=frame.path,
        name=frame.name,
        number=frame.number,
        seconds=frame.seconds,
        highest_score=highest,
    )


def _scaled(found: Detected, x: float, y: float) -> Detected:
    """Multiply the boxes by factors in x and y."""
    x1, y1, x2, y2 = found.boxes.unbind(1)
    return found._replace(boxes=torch.stack([x1 * x, y1 * y, x2 * x, y2 * y], 1))
