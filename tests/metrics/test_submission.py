"""A split without annotations gives the zip that COCO's server takes."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

from cledet.metrics.results_file import submission_name, zip_submission


@pytest.mark.parametrize(
    ("split", "algorithm", "name"),
    [
        ("coco/image_info_test-dev2017", "cledet", "detections_test-dev2017_cledet_results"),
        ("coco/test-dev2017", "r50 1x_dc", "detections_test-dev2017_r50-1x-dc_results"),
        ("coco/instances_test2017", "_", "detections_test2017_cledet_results"),
    ],
)
def test_the_name_is_the_servers(split, algorithm, name):
    assert submission_name(split, algorithm) == name


def test_the_zip_holds_the_one_file():
    results = np.array([[7, 1.5, 2, 3, 4, 0.25, 90]])
    with zipfile.ZipFile(io.BytesIO(zip_submission(results, "detections_x_y_results"))) as archive:
        assert archive.namelist() == ["detections_x_y_results.json"]
        entry = {"image_id": 7, "category_id": 90, "bbox": [1.5, 2, 3, 4], "score": 0.25}
        assert json.loads(archive.read("detections_x_y_results.json")) == [entry]
