"""Samples and batches: the right boxes on the right pixels, and nothing where there is nothing."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cledet.data.augment import Augment
from cledet.data.dataset import PADDING, DetectionDataset, Key, collate, pad_images
from cledet.data.images import read_image
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.errors import UserError

STRONG = Augment(
    vflip=0.5, scale_jitter=(0.5, 2.0), photometric=0.5, multi_scale=(96, 160), crop=0.4, mosaic=0.4, copy_paste=3
)


@pytest.fixture
def index(tmp_path: Path) -> DetectionIndex:
    """An image of 40x20 with a white object, a crowd, a degenerate box and one half outside; and an empty one."""
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[5:15, 10:30] = 255
    for name, size in (("a.png", (40, 20)), ("b.png", (30, 30))):
        cv2.imwrite(str(tmp_path / name), cv2.resize(image, size))
    xywh = [[10, 5, 20, 10], [0, 0, 8, 8], [3, 3, 0, 5], [35, 10, 20, 20], [99, 99, 5, 5]]
    return DetectionIndex(
        name="t/train",
        classes=("a", "b"),
        category_ids=np.array([1, 2]),
        paths=np.array([str(tmp_path / "a.png"), str(tmp_path / "b.png")]),
        image_ids=np.array([70, 80]),
        sizes=np.array([[40, 20], [0, 0]], dtype=np.int32),
        starts=np.array([0, 5, 5]),
        xywh=np.array(xywh, dtype=np.float64),
        labels=np.array([1, 0, 1, 0, 1]),
        ignore=np.array([False, True, False, False, False]),
        area=np.ones(5),
    )


def test_a_sample(index: DetectionIndex) -> None:
    sample = DetectionDataset(index, short=40, long=100)[0]
    assert (sample.image.shape, sample.image.dtype) == ((3, 40, 80), torch.uint8)
    assert sample.boxes.tolist() == [[20, 10, 60, 30], [70, 20, 80, 40]]
    assert sample.labels.tolist() == [1, 0]
    assert sample.ignored.tolist() == [[0, 0, 16, 16]]
    assert (sample.image_id, sample.index) == (70, 0)
    assert (sample.image.shape, sample.original_size) == ((3, 40, 80), (20, 40))
    assert sample.dropped == 2  # one without width, one outside


@pytest.mark.parametrize(("orientation", "shape"), [(3, (20, 40)), (4, (20, 40)), (6, (40, 20)), (6, (20, 20))])
def test_images_without_an_annotated_size_are_as_predict_reads_them(
    tmp_path: Path, orientation: int, shape: tuple[int, int]
) -> None:
    """YOLO's boxes are fractions of the upright image, also where the orientation leaves its size."""
    (tmp_path / "images").mkdir()
    file, exif = tmp_path / "images" / "a.png", Image.Exif()
    exif[274] = orientation
    height, width = shape[::-1] if orientation >= 5 else shape
    stored = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    Image.fromarray(stored).save(file, exif=exif)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.25 0.25 0.5 0.5\n")
    index = open_source(tmp_path).index("train")
    scene = DetectionDataset(index, short=20, long=100).read(0)
    assert np.array_equal(scene.image, read_image(file))
    assert scene.boxes.tolist() == [[0, 0, shape[1] / 2, shape[0] / 2]]
    annotated = replace(index, upright=np.array([False]))
    as_stored = DetectionDataset(annotated, short=20, long=100).read(0).image
    assert np.array_equal(as_stored, stored) == (orientation < 5 or height == width)


def test_objects_too_small_for_the_network_are_dropped_and_counted(index: DetectionIndex) -> None:
    """At 5 px for 20, the crowd of 8x8 is 2x2, and boxes of 3.9 px are less than a pixel; a crowd may be."""
    index.xywh[[1, 3, 4]] = [[0, 0, 3, 3], [20, 10, 3.9, 8], [20, 10, 4, 8]]
    sample = DetectionDataset(index, short=5, long=100)[0]
    assert sample.boxes.tolist() == [[2.5, 1.25, 7.5, 3.75], [5, 2.5, 6, 4.5]]
    assert sample.labels.tolist() == [1, 1]
    assert sample.ignored.tolist() == [[0, 0, 0.75, 0.75]]
    assert sample.dropped == 2


def test_an_image_without_boxes_and_without_annotated_size(index: DetectionIndex) -> None:
    plain = Augment(vflip=0.5, scale_jitter=(0.5, 2.0), photometric=0.5)
    sample = DetectionDataset(index, short=15, long=100, augment=plain)[(3, 1)]
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)
    assert sample.ignored.shape == (0, 4)
    assert sample.original_size == (30, 30)


def test_a_sample_is_a_function_of_seed_epoch_and_position(index: DetectionIndex) -> None:
    first, second = (DetectionDataset(index, short=40, long=100, augment=STRONG, seed=s) for s in (0, 1))
    assert torch.equal(first[(2, 0)].image, first[(2, 0)].image)
    assert not same(first[(2, 0)].image, first[(3, 0)].image)
    assert not same(first[(2, 0)].image, second[(2, 0)].image)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def test_augmented_boxes_stay_on_the_object(index: DetectionIndex) -> None:
    geometry = Augment(flip=0.5, vflip=0.5, scale_jitter=(0.5, 2.0))
    dataset = DetectionDataset(index, short=80, long=200, augment=geometry)
    for epoch in range(30):
        sample = dataset[(epoch, 0)]
        assert max(sample.image.shape) <= 200
        assert min(sample.image.shape[1:]) <= 80
        white = sample.image[0] > 127
        for box in sample.boxes[sample.labels == 1]:
            rows, columns = torch.nonzero(white, as_tuple=True)
            found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert torch.allclose(box, found.float(), atol=3)


def test_a_wrong_size_is_an_error(index: DetectionIndex) -> None:
    index.sizes[0] = (41, 20)
    with pytest.raises(UserError, match=r"a\.png is 40x20 but was annotated as 41x20"):
        DetectionDataset(index, short=40, long=100)[0]


def test_a_batch(index: DetectionIndex) -> None:
    dataset = DetectionDataset(index, short=40, long=100)
    batch = collate([dataset[0], dataset[1]])
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images[0, :, 40, 0].tolist() == list(PADDING)
    assert torch.equal(batch.images[1, :, :40, :40], dataset[1].image)
    assert batch.sizes.tolist() == [[40, 80], [40, 40]]
    assert batch.original_sizes.tolist() == [[20, 40], [30, 30]]
    assert batch.counts.tolist() == [2, 0]
    assert batch.boxes.shape == (2, 2, 4)
    assert not batch.boxes[1].any()
    assert batch.labels.tolist() == [[1, 0], [0, 0]]
    assert batch.ignored.shape == (2, 1, 4)
    assert batch.image_ids.tolist() == [70, 80]
    assert batch.indices.tolist() == [0, 1]
    assert batch.dropped.tolist() == [2, 0]
    assert len(batch.to("cpu", non_blocking=True)) == 2


def test_a_batch_without_any_box(index: DetectionIndex) -> None:
    batch = collate([DetectionDataset(index, short=40, long=100)[1]] * 2, multiple=16)
    assert batch.images.shape == (2, 3, 48, 48)
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.labels.shape == (2, 0)
    assert batch.ignored.shape == (2, 0, 4)
    assert batch.labels.dtype == torch.int64


def test_pad_images_leaves_what_fits_alone() -> None:
    image = torch.randint(0, 255, (3, 32, 64), dtype=torch.uint8)
    assert torch.equal(pad_images([image])[0], image)


@pytest.mark.parametrize("sizes", [[(40, 33), (32, 64)], [(1, 1)], [(64, 64), (10, 64), (64, 10)]])
def test_pad_images_equals_a_slow_loop(sizes: list[tuple[int, int]]) -> None:
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in sizes]
    padded = pad_images(images)
    for image, place in zip(images, padded):
        expected = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(1, *padded.shape[2:])
        expected[:, : image.shape[1], : image.shape[2]] = image
        assert torch.equal(place, expected)


def test_a_dataset_can_be_pickled(index: DetectionIndex) -> None:
    dataset = DetectionDataset(index, short=40, long=100, augment=STRONG)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[(1, 0)].image, dataset[(1, 0)].image)


@pytest.mark.parametrize("name", ["bccd", "voc2012_sub", "coco2017_sub"])
def test_real_photos(shared_data: Path, name: str) -> None:
    index = open_source(shared_data / name).index("val")
    dataset = DetectionDataset(index, short=128, long=213, augment=STRONG)
    batch = collate([dataset[(0, position)] for position in range(0, 40, 5)])
    assert batch.counts.sum() > 0
    assert (batch.boxes.amax(dim=1) <= batch.sizes[:, [1, 0, 1, 0]]).all()


def test_padded_sizes_are_those_of_each_image_alone(index: DetectionIndex) -> None:
    """40x20 becomes 80x40, padded 96x64: three by two of 32; the other image's size is not annotated."""
    dataset = DetectionDataset(index, short=40, long=100)
    assert dataset.padded_sizes(32).tolist() == [3 << 20 | 2, -2]
    assert collate([dataset[0]]).images.shape[2:] == (2 * 32, 3 * 32)


def test_copies_differ_and_the_first_is_the_image_as_ever(squares):
    """A repeated image is augmented anew; copy 0 has the random numbers of (epoch, position)."""
    dataset = DetectionDataset(open_source(squares).index("train"), short=64, long=96, augment=STRONG, seed=5)
    plain, first, second, again = (dataset[key] for key in ((2, 1), Key(2, 1), Key(2, 1, copy=1), Key(2, 1, copy=1)))
    assert torch.equal(first.image, plain.image)
    assert torch.equal(again.image, second.image)
    assert second.image.shape != first.image.shape or not torch.equal(second.image, first.image)


def test_a_key_without_mosaic_is_augmented_as_without_the_setting(squares):
    index = open_source(squares).index("train")
    mosaics = DetectionDataset(index, short=64, long=96, augment=replace(STRONG, mosaic=1.0), seed=5)
    without = DetectionDataset(index, short=64, long=96, augment=replace(STRONG, mosaic=0.0), seed=5)
    for position in range(len(index)):
        closed = mosaics[Key(0, position, mosaic=False)]
        assert torch.equal(closed.image, without[(0, position)].image)
        assert torch.equal(closed.boxes, without[(0, position)].boxes)
    opened = mosaics[(0, 1)]
    assert opened.image.shape != without[(0, 1)].image.shape or not torch.equal(opened.image, without[(0, 1)].image)
