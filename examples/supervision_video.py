"""Track the objects of a video; count those that cross a line, and those that stand in a zone.

pip install 'cledet[video]' supervision trackers
python supervision_video.py street.mp4 tracked.mp4 runs/train/photos
"""

import sys

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker

from cledet import Detector


def main(source: str, target: str, weights: str = "coco") -> None:
    """Write the video with boxes, track numbers and counts; print the counts of the line."""
    video = sv.VideoInfo.from_video_path(source)
    width, height = video.resolution_wh
    line = sv.LineZone(sv.Point(0, height // 2), sv.Point(width, height // 2))
    zone = sv.PolygonZone(np.array([[0, 0], [width // 2, 0], [width // 2, height], [0, height]]))  # the left half
    tracker = ByteTrackTracker(frame_rate=video.fps)
    draw_boxes, draw_names, draw_line = sv.BoxAnnotator(), sv.LabelAnnotator(), sv.LineZoneAnnotator()
    with sv.VideoSink(target, video) as sink:
        for result in Detector(weights).predict(source, conf=0.3):
            tracked = tracker.update(result.to_supervision())
            line.trigger(tracked)
            names = [f"{number} {name}" for number, name in zip(tracked.tracker_id, tracked["class_name"])]
            frame = np.ascontiguousarray(result.image[:, :, ::-1])  # supervision draws on BGR
            frame = draw_names.annotate(draw_boxes.annotate(frame, tracked), tracked, names)
            sink.write_frame(draw_line.annotate(frame, line))
            print(f"frame {result.number}: {zone.trigger(tracked).sum()} of {len(tracked)} in the left half")
    print(f"{line.in_count} crossed the line inwards, {line.out_count} outwards")


if __name__ == "__main__":
    main(*sys.argv[1:])
