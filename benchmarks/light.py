"""Time the light preset on a CPU, from a photo to boxes: PyTorch, ONNX Runtime and OpenVINO, beside other networks.

    python benchmarks/light.py [WEIGHTS ...] [--imgsz 320 640] [--onnx yolo11n.onnx ...] [--photo FILE] [--classes 80]

Each side gets the same photo as an array, and resizes and pads it. WEIGHTS are cledet's; by default the recipe `light`
and the same with the full head (256 channels, standard convolutions), with random weights. They run through PyTorch,
and as a file of `cledet export` with NMS. An `--onnx` file of another project takes one image [1, 3, H, W] of a fixed
size. Its network alone is timed, without NMS. Sides run in turn; medians with the ratio to the first side, and the CPU
time of all threads, which other work on the machine influences less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import openvino
import torch
from PIL import Image

from cledet import Detector
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.models.checkpoint import Checkpoint
from cledet.models.heads import he_initialize
from cledet.models.network import build_network
from cledet.training.init_model import build_architecture

Side = Callable[[np.ndarray], object]
FULL = {"fpn_channels": 256, "head_conv": "standard"}


def untrained(classes: int, **flags: Any) -> Detector:
    """Build the detector of the recipe with random weights, on top of which `flags` are set."""
    settings = resolve(TrainSettings, flags, recipe="light", environ={})
    architecture = build_architecture(settings, classes, None)
    torch.manual_seed(0)
    network = build_network(architecture)
    he_initialize(network.head)
    detector, names = Detector(), tuple(map(str, range(classes)))
    detector.model = Checkpoint(
        architecture=architecture, model=network.state_dict(), classes=names, category_ids=tuple(range(classes))
    )
    return detector


def onnx_run(file: Path, threads: int) -> Callable[[np.ndarray], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting is not counted as CPU time
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda array: session.run(None, {name: array})


def openvino_run(file: Path, threads: int) -> Callable[[np.ndarray], object]:
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(file, "CPU", hints)


RUNTIMES = {"onnx": onnx_run, "openvino": openvino_run}


def through(run: Callable[[np.ndarray], object], short: int, canvas: tuple[int, int] | None, largest: float) -> Side:
    """Resize and pad a photo as the file needs it, then run the file.

    The photo's values are scaled to 0 to `largest`. It fills a `canvas` (height, width) if there is one.
    """

    def side(photo: np.ndarray) -> object:
        height, width = photo.shape[:2]
        scale = min(canvas[0] / height, canvas[1] / width) if canvas else short / min(height, width)
        size = round(height * scale), round(width * scale)
        image = np.full((*(canvas or [-(-s // 32) * 32 for s in size]), 3), 114, np.float32)
        image[: size[0], : size[1]] = photo if scale == 1 else cv2.resize(photo, size[::-1])
        if largest != 255:
            image *= largest / 255
        return run(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))

    return side


def sides_of(detector: Detector, name: str, args: argparse.Namespace, folder: Path) -> dict[str, Side]:
    """Return the detector's sides by name, of each size and runtime, with standard NMS."""
    nms: dict[str, Any] = {"nms": "standard", "conf": 0.05, "max_det": 300}
    wanted = [runtime for runtime in RUNTIMES if runtime in args.runtimes]
    file = detector.export("onnx", project=folder, **nms).path if wanted else folder  # takes images of any size
    runs = {runtime: RUNTIMES[runtime](file, args.threads) for runtime in wanted}
    sides: dict[str, Side] = {}
    for size in args.imgsz:
        if "pytorch" in args.runtimes:
            predict = {"imgsz": size, "device": "cpu", "amp": "off", **nms}
            sides[f"{name}, {size}, pytorch"] = lambda photo, predict=predict: detector.predict_one(photo, **predict)
        sides |= {f"{name}, {size}, {runtime}": through(run, size, None, 255) for runtime, run in runs.items()}
    return sides


def foreign_sides(file: Path, threads: int) -> dict[str, Side]:
    """Return the sides of another project's ONNX file: the network alone, in each runtime."""
    size = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_inputs()[0].shape[2:]
    canvas = int(size[0]), int(size[1])
    runs = {f"{file.stem}, {min(canvas)}, {name}": opened(file, threads) for name, opened in RUNTIMES.items()}
    return {name: through(run, min(canvas), canvas, 1) for name, run in runs.items()}


def measure(sides: dict[str, Side], photo: np.ndarray, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds of each side, by the clock and of the CPU, after two unmeasured rounds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds + 2):
        for name, side in sides.items():
            start = time.perf_counter(), time.process_time()
            side(photo)
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    medians = {name: [1000 * statistics.median(kind) for kind in zip(*values[2:])] for name, values in times.items()}
    return {name: (clock, cpu) for name, (clock, cpu) in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", type=Path)
    parser.add_argument("--imgsz", type=int, nargs="+", default=[320])
    parser.add_argument("--onnx", nargs="*", type=Path, default=[])
    parser.add_argument("--runtimes", nargs="+", default=["pytorch", *RUNTIMES], choices=["pytorch", *RUNTIMES])
    parser.add_argument("--photo", type=Path, help="default: noise, 640x640")
    parser.add_argument("--classes", type=int, default=80, help="without WEIGHTS")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if args.photo is None:
        photo = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    else:
        photo = np.asarray(Image.open(args.photo).convert("RGB"))
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        if args.weights:
            detectors = {str(path): Detector(path) for path in args.weights}
        else:
            detectors = {"light": untrained(args.classes), "full": untrained(args.classes, **FULL)}
        sides: dict[str, Side] = {}
        for name, detector in detectors.items():
            sides |= sides_of(detector, name, args, Path(folder))
        for file in args.onnx:
            sides |= foreign_sides(file, args.threads)
        medians = measure(sides, photo, args.rounds)
    load = os.getloadavg()[0]
    print(f"{photo.shape[1]}x{photo.shape[0]} photo, {args.threads} threads, load {load:.1f}\n")
    print("| network, --imgsz, runtime | ms | ratio | CPU ms | ratio |\n|---|---|---|---|---|")
    first = next(iter(medians.values()))
    for name, (clock, cpu) in medians.items():
        print(f"| {name} | {clock:.1f} | {clock / first[0]:.2f} | {cpu:.1f} | {cpu / first[1]:.2f} |")


if __name__ == "__main__":
    main()
