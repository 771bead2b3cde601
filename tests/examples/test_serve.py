"""The web service returns the detections of the Python API, and refuses what is no photo."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scripts import load_script
from untrained import untrained

from cledet import Detector

pytest.importorskip("fastapi")
testclient = pytest.importorskip("fastapi.testclient")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A client of the service, and the detector that it serves."""
    weights = tmp_path_factory.mktemp("weights") / "best.pt"
    untrained().save(weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTS", str(weights))
        app = load_script("serve")["app"]
    return testclient.TestClient(app), Detector(weights)


def test_detections_are_those_of_the_python_api(served):
    client, detector = served
    photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    content = cv2.imencode(".png", photo[:, :, ::-1])[1].tobytes()
    answer = client.post("/detect?conf=0.2", content=content, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["width"], found["height"]) == (80, 60)
    assert found["detections"] == detector.predict_one(photo, conf=0.2).to_dict()["detections"]
    assert len(found["detections"]) > 0


def test_mistakes_are_explained(served):
    client, _ = served
    photo = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))[1].tobytes()
    for content, query, text in (
        (b"no photo", "", "cannot identify image"),
        (photo[:300], "", "Truncated"),
        (photo[:-900], "", "cannot decode image in memory"),
        (photo, "?conf=7", "conf"),
    ):
        answer = client.post(f"/detect{query}", content=content, headers={"Content-Type": "image/jpeg"})
        assert answer.status_code == 422
        assert text in answer.json()["detail"]
