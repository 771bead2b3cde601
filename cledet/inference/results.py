"""Results of one image: detections as tensors, as a picture, and in the formats of other tools."""

from __future__ import annotations

import base64
import html
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageShow
from torch import Tensor

from cledet.errors import UserError, nearest
from cledet.io.atomic import write_json, write_whole
from cledet.visualization.draw import draw_detections, jpeg, resized

if TYPE_CHECKING:
    import pandas
    import supervision

FORMATS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of the pictures that `Results.save` writes; it also writes .json."""
INLINE_SIDE = 1280
"""Long side in pixels to which a notebook's inline pictures are reduced."""


class Detection(NamedTuple):
    """One detected object."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the image."""
    label: int
    category_id: int


class Arrays(NamedTuple):
    """Detections as NumPy arrays: boxes [K, 4] and scores [K] float32, labels [K] int64."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


Selection = slice | Tensor | NDArray[Any] | Sequence[int] | Sequence[bool] | str


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """Detections of one image, best first.

    >>> import numpy as np, torch
    >>> result = Results(
    ...     path=None,
    ...     image=np.zeros((480, 640, 3), np.uint8),
    ...     name="street.jpg",
    ...     boxes=torch.tensor([[10.0, 20, 110, 220], [300, 100, 400, 300], [50, 200, 90, 240]]),
    ...     scores=torch.tensor([0.9, 0.8, 0.4]),
    ...     labels=torch.tensor([0, 0, 1]),
    ...     names=("person", "dog"),
    ...     category_ids=(1, 18),
    ... )
    >>> result
    Results(street.jpg, 640x480: 2 person, 1 dog)
    >>> len(result), len(result["person"]), len(result[result.scores > 0.5])
    (3, 2, 2)
    >>> for detection in result:
    ...     print(detection.name, round(detection.score, 2), detection.box)
    person 0.9 (10.0, 20.0, 110.0, 220.0)
    person 0.8 (300.0, 100.0, 400.0, 300.0)
    dog 0.4 (50.0, 200.0, 90.0, 240.0)
    """

    path: Path | None
    """The image file; None for other sources."""
    image: NDArray[np.uint8]
    """RGB [H, W, 3]."""
    boxes: Tensor
    """float32 [K, 4], x1, y1, x2, y2 in pixels of the image, on the CPU like the other tensors."""
    scores: Tensor
    """float32 [K], 0 to 1."""
    labels: Tensor
    """int64 [K], indices of `names`."""
    names: tuple[str, ...]
    """The class names of the model."""
    category_ids: tuple[int, ...]
    """The data set's category id of each class."""
    name: str = ""
    """The source as it is shown: a path, a URL, "-", or a video."""
    number: int | None = None
    """Number of a video's frame, from 0."""
    seconds: float | None = None
    """Time of a video's frame."""
    highest_score: float | None = None
    """Highest score of the image before the confidence threshold; None if nothing was scored."""

    @property
    def width(self) -> int:
        """Width of the original image in pixels."""
        return self.image.shape[1]

    @property
    def height(self) -> int:
        """Height of the original image in pixels."""
        return self.image.shape[0]

    @property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the original image in pixels."""
        return self.height, self.width

    @property
    def class_names(self) -> list[str]:
        """Class name of each detection."""
        return [self.names[label] for label in self.labels.tolist()]

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        columns = (self.boxes.tolist(), self.scores.tolist(), self.labels.tolist())
        for box, score, label in zip(*columns):
            yield Detection(self.names[label], score, tuple(box), label, self.category_ids[label])

    @overload
    def __getitem__(self, chosen: int) -> Detection: ...

    @overload
    def __getitem__(self, chosen: Selection) -> Results: ...

    def __getitem__(self, chosen: int | Selection) -> Detection | Results:
        """Return one detection by its index; else those of a slice, a mask [K], indices, or a class name.

        An index is an integer, or a tensor or array without dimensions.
        Raises IndexError for an index that is too large, UserError for a class name that the model does not have.
        """
        if isinstance(chosen, int | np.integer) or (isinstance(chosen, Tensor | np.ndarray) and not chosen.ndim):
            position = range(len(self))[int(chosen)]
            return next(iter(self[position : position + 1]))
        index = self._index(range(len(self))[chosen] if isinstance(chosen, slice) else chosen)
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index])

    def _index(self, chosen: Tensor | NDArray[Any] | Sequence[int] | Sequence[bool] | str) -> Tensor:
        """Return a mask or indices as a tensor on the CPU."""
        if isinstance(chosen, str):
            if chosen not in self.names:
                raise UserError(f"the model has no class {chosen!r}", nearest(chosen, self.names))
            return self.labels == self.names.index(chosen)
        index = torch.as_tensor(list(chosen) if isinstance(chosen, range) else chosen, device="cpu")
        return index if len(index) else index.long()

    def __repr__(self) -> str:
        frame = "" if self.number is None else f" frame {self.number}"
        return f"Results({self.name or 'image'}{frame}, {self.width}x{self.height}: {self.summary()})"

    def summary(self) -> str:
        """Count the detections by class: "2 person, 1 dog", or "nothing"."""
        return ", ".join(f"{count} {name}" for name, count in Counter(self.class_names).items()) or "nothing"

    def plot(self) -> NDArray[np.uint8]:
        """Return the image, RGB [H, W, 3], with boxes, names and scores drawn."""
        captions = [f"{name} {score:.2f}" for name, score in zip(self.class_names, self.scores.tolist())]
        return draw_detections(self.image, self.boxes.float().numpy(), self.labels.tolist(), captions)

    def show(self) -> None:
        """Display the annotated image: inline in a notebook, else in the system's viewer.

        Raises UserError if there is no viewer.
        """
        ipython: Any = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython is not None else None
        if hasattr(shell, "kernel"):
            ipython.display.display(self)
        elif not ImageShow.show(Image.fromarray(self.plot()), title=self.name):
            raise UserError("this system has no program that shows pictures", "write a file with save()")

    def save(self, path: str | Path) -> Path:
        """Write the annotated image, or with the suffix .json the detections as plain data; returns the path.

        An existing file is replaced, but never the image itself. Raises UserError for another suffix.
        """
        path = Path(path)
        if self.path is not None and path.resolve() == self.path.resolve():
            raise UserError(f"{path} is the image itself, which is never changed", "choose another name")
        if path.suffix.lower() == ".json":
            write_json(path, self.to_dict())
        elif path.suffix.lower() in FORMATS:
            write_whole(path, _encode(self.plot(), path.suffix.lower()))
        else:
            raise UserError(f"{path} does not end in one of {', '.join((*FORMATS, '.json'))}", "choose one of these")
        return path

    def numpy(self) -> Arrays:
        """Return boxes, scores and labels as NumPy arrays."""
        return Arrays(self.boxes.float().numpy(), self.scores.float().numpy(), self.labels.numpy())

    def to_dict(self) -> dict[str, Any]:
        """Return the detections as plain data, boxes as x1, y1, x2, y2; frames of videos with number and time."""
        frame = {} if self.number is None else {"frame": self.number, "seconds": self.seconds}
        return {
            "file": self.name or (None if self.path is None else str(self.path)),
            **frame,
            "width": self.width,
            "height": self.height,
            "detections": [
                {
                    "name": detection.name,
                    "category_id": detection.category_id,
                    "score": round(detection.score, 5),
                    "box": [round(v, 2) for v in detection.box],
                }
                for detection in self
            ],
        }

    def to_coco(self, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """Return the detections in COCO's results format, unrounded, boxes as x, y, width, height.

        By default the image's id is its file name without suffix, as a number if it is one: 000000000139.jpg is 139.
        """
        if image_id is None:
            stem = Path(self.name).stem
            image_id = int(stem) if stem.isdecimal() else stem
        return [
            {
                "image_id": image_id,
                "category_id": detection.category_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": detection.score,
            }
            for detection in self
            for x1, y1, x2, y2 in [detection.box]
        ]

    def to_supervision(self) -> supervision.Detections:
        """Return `supervision.Detections`, with class names in its data. Raises UserError without supervision."""
        try:
            from supervision import Detections
        except ImportError:
            raise UserError("to_supervision needs supervision", "pip install supervision") from None
        boxes, scores, labels = self.numpy()
        names = np.array(self.class_names, dtype=str)
        return Detections(xyxy=boxes, confidence=scores, class_id=labels.astype(int), data={"class_name": names})

    def to_pandas(self) -> pandas.DataFrame:
        """Return a row per detection: file, name, category_id, score, x1, y1, x2, y2.

        Raises UserError without pandas.
        """
        try:
            from pandas import DataFrame
        except ImportError:
            raise UserError("to_pandas needs pandas", "pip install pandas") from None
        rows = [(self.name, one.name, one.category_id, one.score, *one.box) for one in self]
        return DataFrame(rows, columns=["file", "name", "category_id", "score", "x1", "y1", "x2", "y2"])

    def _inline(self) -> NDArray[np.uint8]:
        """Return the annotated image at a size for notebooks."""
        scale = INLINE_SIDE / max(self.original_size)
        return self.plot() if scale >= 1 else resized(self.plot(), scale)

    def _repr_png_(self) -> bytes:
        return _encode(self._inline(), ".png")

    def _repr_html_(self) -> str:
        data = base64.b64encode(jpeg(self._inline(), 90)).decode()
        return f'<img src="data:image/jpeg;base64,{data}" style="max-width:100%"><br>{html.escape(repr(self))}'


def _encode(image: NDArray[np.uint8], suffix: str) -> bytes:
    """Encode an RGB image [H, W, 3] in the format of a suffix."""
    if suffix in (".jpg", ".jpeg"):
        return jpeg(image, 92)
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done or not len(data):
        sides = f"{image.shape[1]}x{image.shape[0]} pixels"
        raise UserError(f"{suffix} cannot hold a picture of {sides}", "choose .jpg, which is shrunk, or .png")
    return bytes(data)
