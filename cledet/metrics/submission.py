"""Zip files for COCO's evaluation server, which evaluates splits without public annotations."""

from __future__ import annotations

import io
import re
import zipfile

from cledet.metrics.results_file import DetectionRows, encode_results


def submission_name(split: str, algorithm: str) -> str:
    """Return the name that the server requires of the zip and of the file in it, detections_TESTSET_ALG_results.

    The test set is the name of the annotation file without its prefix: image_info_test-dev2017 -> test-dev2017.
    """
    testset = split.rpartition("/")[2].removeprefix("image_info_").removeprefix("instances_")
    return f"detections_{testset}_{re.sub('[^A-Za-z0-9.-]+', '-', algorithm).strip('-') or 'cledet'}_results"


def zip_submission(results: DetectionRows, name: str) -> bytes:
    """Zip the detections as name.json in COCO's results format, unrounded."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.json", encode_results(results))
    return content.getvalue()
