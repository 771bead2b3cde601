"""What COCO's evaluation server takes: detections of a split whose annotations it keeps to itself."""

from __future__ import annotations

import io
import re
import zipfile

from cledet.metrics.results_file import Results, encode_results


def submission_name(split: str, algorithm: str) -> str:
    """The server's name for results, detections_TESTSET_ALG_results; of it the zip and the one file in it are called.

    The test set is the split's annotation file without the words before it: image_info_test-dev2017 -> test-dev2017.
    """
    testset = split.rpartition("/")[2].removeprefix("image_info_").removeprefix("instances_")
    return f"detections_{testset}_{re.sub('[^A-Za-z0-9.-]+', '-', algorithm).strip('-') or 'cledet'}_results"


def zip_submission(results: Results, name: str) -> bytes:
    """A zip with name.json at its top: the detections in COCO's results format, unrounded."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.json", encode_results(results))
    return held.getvalue()
