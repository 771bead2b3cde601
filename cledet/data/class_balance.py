"""Remedies for rare classes: repeat factors of images, and weights of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from cledet.data.index import DetectionIndex, Floats
from cledet.errors import UserError, nearest


def repeat_factors(index: DetectionIndex, threshold: float) -> Floats:
    """Compute how often each image [I] is drawn per epoch so that rare classes are seen more often; at least 1.

        r(c) = max(1, sqrt(threshold / f(c))),  r(image) = max r(c) over its classes

    f(c) is the share of images with an object of class c. Ignored objects do not count.
    Source: Gupta et al., "LVIS" (arXiv 1908.03195), section 5.1 (threshold 0.001).
    """
    objects, classes = index.objects(), len(index.classes)
    pairs = np.unique(index.image_of_boxes()[objects] * classes + index.labels[objects])  # each class of an image once
    images, labels = np.divmod(pairs, max(classes, 1))
    share = np.bincount(labels, minlength=classes)[labels] / len(index)
    factors = np.ones(len(index))
    np.maximum.at(factors, images, np.sqrt(threshold / share))
    return factors


def class_weights(index: DetectionIndex, choice: str | Mapping[str, float]) -> Floats | None:
    """Compute the weights [C] of the classes in the classification loss, with a mean of 1 over all objects.

    `choice` is none, for which None is returned; inverse-sqrt, 1 / sqrt(number of objects); or weights by class name, 1
    for the others. A class without objects is weighted as one with a single object. Raises UserError for unknown names.
    """
    if choice == "none":
        return None
    counts = np.bincount(index.labels[index.objects()], minlength=len(index.classes))
    if isinstance(choice, str):
        weights = 1 / np.sqrt(np.maximum(counts, 1))
    else:
        for name in choice:
            if name not in index.classes:
                raise UserError(f"--class-weights: {index.name} has no class {name!r}", nearest(name, index.classes))
        weights = np.array([choice.get(name, 1.0) for name in index.classes])
    mean = math.fsum(counts * weights) / max(int(counts.sum()), 1)
    return weights / mean if mean > 0 else weights
