"""Serve a detector over HTTP.

pip install fastapi uvicorn
WEIGHTS=runs/train/photos uvicorn serve:app       # without WEIGHTS: the 80 classes of COCO
curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "localhost:8000/detect?conf=0.4"
"""

import os
from io import BytesIO
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from PIL import Image

from cledet import Detector, UserError

app = FastAPI()
detector = Detector(os.environ.get("WEIGHTS", "coco"))


@app.post("/detect")  # not async: FastAPI then runs it in threads, which may share a detector
def detect(photo: Annotated[bytes, Body(media_type="image/jpeg")], conf: float = 0.3) -> dict:
    """Return the detections on a photo (JPEG, PNG or WebP) as JSON, boxes as x1, y1, x2, y2 in pixels."""
    try:
        image = Image.open(BytesIO(photo), formats=("JPEG", "PNG", "WEBP"))
        return detector.predict_one(image, conf=conf).to_dict()
    except (OSError, UserError) as error:  # no photo, a broken one, or an invalid conf
        raise HTTPException(422, str(error)) from error
