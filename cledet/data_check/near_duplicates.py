"""Checks for images that nearly repeat others, within a split or across two."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import combinations

import numpy as np

from cledet.data.image_files import ImageFiles
from cledet.data.index import DetectionIndex, Ints
from cledet.data.near_duplicates import difference_hashes, hamming_distances
from cledet.data.splitting import join_near_duplicates
from cledet.data_check.findings import Example, Finding, collect, image_example
from cledet.data_check.images import IndexedFiles


def check_near_duplicates(splits: Mapping[str, IndexedFiles], files: ImageFiles) -> list[Finding]:
    """Find near-duplicates across two splits, and within a split; images of the same content are left out."""
    groups = join_near_duplicates(np.arange(len(files.paths)), files.thumbnails, files.decoded)
    findings: list[Finding] = []
    for (one, (index, at)), (other, (_, at2)) in combinations(splits.items(), 2):
        shared = np.isin(groups[at], groups[at2]) & ~np.isin(files.digests[at], files.digests[at2])
        rest = f"a near-duplicate in {other}: metrics on one may be too high for a model trained on the other"
        words = (f"image of {one} has {rest}", f"images of {one} have {rest}")
        example = partial(_example, index=index, at=at, among=at2, groups=groups, files=files)
        findings += collect("warning", "near-leak", f"{one}, {other}", np.flatnonzero(shared).tolist(), words, example)
    for name, (index, at) in splits.items():
        words = ("image is a near-duplicate of another", "images are near-duplicates of others")
        example = partial(_example, index=index, at=at, among=at, groups=groups, files=files)
        findings += collect("note", "near-copy", name, _repeats(groups[at], files.digests[at]), words, example)
    return findings


def _repeats(groups: Ints, digests: np.ndarray) -> list[int]:
    """List the images that are neither the first of their group nor of their content."""
    first_of_content = np.unique(digests, return_index=True)[1]
    first_of_group = np.unique(groups, return_index=True)[1]
    return np.setdiff1d(first_of_content, first_of_group).tolist()


def _example(image: int, *, index: DetectionIndex, at: Ints, among: Ints, groups: Ints, files: ImageFiles) -> Example:
    """Create an example of an image that names the most similar one of other content among some files."""
    own = at[image]
    group = among[groups[among] == groups[own]]
    others = group[files.digests[group] != files.digests[own]]
    hashes = difference_hashes(files.thumbnails[[own, *others]])
    nearest = others[hamming_distances(hashes[:1], hashes[1:])[0].argmin()]
    return image_example(index, image, f"resembles {files.paths[nearest]}")
