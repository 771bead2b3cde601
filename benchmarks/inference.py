"""Time inference from a photo to boxes: cledet, and torchvision's RetinaNet with the same weights.

    python benchmarks/inference.py [--imgsz 640] [--amp bf16] [--rounds 15] [--threads 2] [--device cuda]
    python benchmarks/inference.py --runtime onnx openvino

A photo of 640 x 480 pixels, uint8, is resized, detected and suppressed. All sides run in turn, and the ratios are those
of the medians, of wall time and of CPU time. The weights are random, with the frozen batch norm of torchvision's
published weights. Scores are raised so that NMS has candidates. torchvision's side runs under autocast with --amp
bf16. With --runtime, cledet also runs the network as exported, through the same preprocessing and NMS; --amp bf16 is
OpenVINO's alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.ops.misc import FrozenBatchNorm2d

from cledet import Detector


def photo() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((40, 40, 1), dtype=np.uint8))


def torchvision_network(imgsz: int) -> torch.nn.Module:
    torch.manual_seed(0)
    network = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91, min_size=imgsz).eval()
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent = network.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], FrozenBatchNorm2d(module.num_features))
    torch.nn.init.constant_(network.head.classification_head.cls_logits.bias, -3.2)
    return network


def median_milliseconds(
    sides: dict[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, tuple[float, float]]:
    """Measure the medians of wall time and of CPU time over all threads."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds + 2):
        for name, run in sides.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append((1000 * (time.perf_counter() - start), 1000 * (time.process_time() - used)))
    return {name: (statistics.median(wall), statistics.median(cpu))
            for name, values in times.items() for wall, cpu in [tuple(zip(*values[2:]))]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--amp", default="off", choices=["off", "bf16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--runtime", nargs="*", default=[], choices=["onnx", "openvino"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    network, image = torchvision_network(args.imgsz), photo()
    folder = tempfile.TemporaryDirectory()
    with redirect_stderr(StringIO()):
        file = Path(folder.name, "retinanet.pth")
        torch.save(network.state_dict(), file)
        detectors = {"cledet": Detector(file)}
        for name in args.runtime:
            exported = detectors["cledet"].export(name, imgsz=args.imgsz, project=folder.name)
            detectors[f"cledet {name}"] = Detector(exported.path)
    network.to(args.device)

    @torch.inference_mode()
    def theirs() -> object:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.amp == "bf16"):
            pixels = torch.from_numpy(image).to(args.device).permute(2, 0, 1).float() / 255
            return [{name: value.cpu() for name, value in found.items()} for found in network([pixels])]

    def ours(detector: Detector) -> object:
        return detector.predict_one(
            image, imgsz=args.imgsz, amp=args.amp, conf=0.05, nms="standard", device=args.device, max_det=300
        )

    sides = {name: partial(ours, detector) for name, detector in detectors.items()}
    with redirect_stderr(StringIO()):
        medians = median_milliseconds({"torchvision": theirs, **sides}, args.rounds, args.device)
    print(f"ResNet-50, short side {args.imgsz}, amp {args.amp}, {args.device}, {args.threads} threads, one photo")
    for name, (wall, cpu) in medians.items():
        print(f"{name:16} {wall:8.1f} ms wall, {cpu:8.1f} ms CPU")
    for name in sides:
        wall, cpu = (theirs / ours for theirs, ours in zip(medians["torchvision"], medians[name]))
        print(f"torchvision / {name}: {wall:.2f} wall, {cpu:.2f} CPU")
    folder.cleanup()


if __name__ == "__main__":
    main()
