"""Recognition of the format of detections by content."""

from __future__ import annotations

from pathlib import Path

from cledet.data.index import DetectionIndex
from cledet.errors import UserError
from cledet.metrics.predictions.columns import Predictions
from cledet.metrics.predictions.json_files import read_json
from cledet.metrics.predictions.tables import is_table, read_csv
from cledet.metrics.predictions.text_folders import read_folder
from cledet.metrics.results_file import decode_text, read_content


def read_predictions(path: Path, index: DetectionIndex) -> Predictions:
    """Read the detections of any detector on a split, from a file or a folder.

    The formats are COCO's results, the files of Ultralytics, supervision and cledet, and folders of YOLO's and VOC's
    text files. Raises UserError for other content, and for images and classes that the split does not have.
    """
    if path.is_dir():
        return read_folder(path, index)
    content = read_content(path)
    head = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        raise UserError(f"{path} is empty", "a detector without detections writes []")
    if is_table(head.partition(b"\n")[0].decode("utf-8", "ignore")):
        return read_csv(path, decode_text(path, content), index)
    if head[:1] in b"[{":
        return read_json(path, content, index)
    raise UserError(
        f"{path} is in no format of detections that is known",
        "COCO results, the JSON of Ultralytics, the JSON or CSV of supervision or cledet, "
        "or a folder of the text files of YOLO or VOC",
    )
