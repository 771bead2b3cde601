"""Label photos in Label Studio, starting from detections, and train on the result.

    python label_studio.py photos/ runs/train/photos          # writes tasks.json and labels.xml

In Label Studio (started with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true), paste labels.xml as the labeling
interface, add the folder of the photos as a source storage of type "Local files", and import tasks.json. Correct the
boxes and submit. Export as JSON to photos/export.json. Then:

    cledet train --data photos/export.json --weights runs/train/photos

To correct the labels that you have, see "Label errors" in docs/evaluation.md: `cledet val` writes such tasks too.
"""

import json
import sys
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from cledet import Detector


def region(detection, width, height):
    """Return a detection as Label Studio stores a rectangle: in percent of the image's sides."""
    x1, y1, x2, y2 = detection.box
    place = {"x": 100 * x1 / width, "y": 100 * y1 / height}
    sides = {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
    value = {**place, **sides, "rotation": 0, "rectanglelabels": [detection.name]}
    of = {"type": "rectanglelabels", "from_name": "label", "to_name": "image"}
    return {**of, "original_width": width, "original_height": height, "value": value, "score": detection.score}


def task(result):
    """Return the task of one photo, with its detections as a prediction to start from."""
    url = f"/data/local-files/?d={quote(str(result.path.resolve()).lstrip('/'))}"
    regions = [region(detection, result.width, result.height) for detection in result]
    return {"data": {"image": url}, "predictions": [{"model_version": "cledet", "result": regions}]}


def interface(names):
    """Return the labeling interface of Label Studio for these classes."""
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in names)
    boxes = f'<RectangleLabels name="label" toName="image">{labels}</RectangleLabels>'
    return f'<View><Image name="image" value="$image"/>{boxes}</View>'


def main(photos: str, weights: str, conf: float = 0.3) -> None:
    """Write tasks.json and labels.xml for a folder of photos."""
    detector = Detector(weights)
    tasks = [task(result) for result in detector.predict(photos, conf=conf)]
    Path("tasks.json").write_text(json.dumps(tasks))
    Path("labels.xml").write_text(interface(detector.names))


if __name__ == "__main__":
    main(*sys.argv[1:])
