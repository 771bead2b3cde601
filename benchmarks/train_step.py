"""Time a training step of cledet and of torchvision's RetinaNet with the same backbone, batch and precision.

    python benchmarks/train_step.py [--backbone r18] [--imgsz 256] [--batch 8] [--amp bf16] [--ablation iac,dc]
    python benchmarks/train_step.py --backbone r50 --imgsz 320 --batch 4 --boxes 2000 --classes 1000

A step is the forward pass, the losses, the backward pass, clipping by norm 10 and an update of SGD with momentum. Both
sides have random weights, frozen batch norm, two frozen stages, and the same square images and boxes. The sides run
in turn; medians of wall time and of CPU time over all threads, and the ratio. On CUDA also the peak memory.
--profile prints the operations that take most of cledet's step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import profile
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from cledet.config.train import TrainSettings
from cledet.data.dataset import Batch, Sample, collate
from cledet.models.network import Architecture, build_network
from cledet.training.init_model import build_criterion
from cledet.training.train_step import TrainStep


def random_batch(images: int, side: int, boxes: int, classes: int) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def sample(i: int) -> Sample:
        image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
        corner = torch.rand(boxes, 2, generator=generator) * 0.8 * side
        size = (torch.rand(boxes, 2, generator=generator) * 0.4 + 0.05) * side / max(1, boxes / 20) ** 0.5
        truth = torch.cat([corner, (corner + size).clamp(max=side)], 1)
        labels = torch.randint(classes, (boxes,), generator=generator)
        return Sample(image, truth, labels, torch.zeros(0, 4), i, i, (side, side), 0)

    return collate([sample(i) for i in range(images)])


def cledet_step(args: argparse.Namespace, batch: Batch) -> Callable[[], float]:
    settings = TrainSettings(
        backbone=args.backbone, backbone_weights="none", batch=args.batch, imgsz=args.imgsz, amp=args.amp, clip=10,
        ablation=args.ablation, optimizer="sgd", lr=1e-4, ema=0.0, compile=args.compile,
    )  # fmt: skip
    torch.manual_seed(0)
    network = build_network(Architecture(backbone=args.backbone, classes=args.classes, norm="frozen"))
    network.backbone.freeze(2)
    train_step = TrainStep(network, build_criterion(settings), settings, torch.device(args.device), 1000)

    def step() -> float:
        losses = train_step.compute_gradients([batch], 500)
        train_step.update(500)
        return float(losses.classification + losses.regression)

    return step


def torchvision_step(args: argparse.Namespace, batch: Batch) -> Callable[[], float]:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name=args.backbone.replace("r", "resnet"), weights=None, trainable_layers=3, returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )  # fmt: skip
    side = args.imgsz
    network = RetinaNet(backbone, args.classes, min_size=side, max_size=side).train().to(args.device)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9, weight_decay=1e-4)
    dtype = torch.bfloat16 if args.amp == "bf16" else torch.float32

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        images = list(batch.images.to(args.device).float() / 255)
        targets = [{"boxes": boxes.to(args.device), "labels": labels.to(args.device)}
                   for boxes, labels in zip(batch.boxes, batch.labels)]  # fmt: skip
        with torch.autocast(args.device, dtype, enabled=dtype == torch.bfloat16):
            losses: dict[str, Tensor] = network(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 10)
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="r18", choices=["r18", "r34", "r50", "r101"])
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--boxes", type=int, default=20, help="ground truths per image")
    parser.add_argument("--amp", default="off", choices=["off", "bf16"])
    parser.add_argument("--ablation", default="iac,dc", help="components of cledet")
    parser.add_argument("--compile", action="store_true", help="compile cledet's network")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--alone", action="store_true", help="do not run torchvision's side")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    batch = random_batch(args.batch, args.imgsz, args.boxes, args.classes)
    sides = {"cledet": cledet_step(args, batch)}
    if not args.alone:
        sides = {"torchvision": torchvision_step(args, batch)} | sides
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, float] = {}
    for turn in range(args.rounds + 2):
        for name, step in sides.items():
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            start, used = time.perf_counter(), time.process_time()
            step()
            if args.device == "cuda":
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated() / 2**20
            if turn > 1:
                wall[name].append(1000 * (time.perf_counter() - start))
                cpu[name].append(1000 * (time.process_time() - used))
    print(f"{args.backbone}, {args.imgsz} px, batch {args.batch}, {args.classes} classes, {args.boxes} boxes an image, "
          f"amp {args.amp}, {args.device}, {args.threads} threads, components of cledet: {args.ablation}")  # fmt: skip
    median = {name: (statistics.median(wall[name]), statistics.median(cpu[name])) for name in sides}
    for name, (seconds, used) in median.items():
        peak = f", peak {memory[name]:.0f} MiB" if memory else ""
        print(f"{name:12} {seconds:8.1f} ms wall, {used:8.1f} ms CPU{peak}")
    if not args.alone:
        ratios = [theirs / ours for theirs, ours in zip(median["torchvision"], median["cledet"])]
        print("torchvision / cledet: {:.2f} wall, {:.2f} CPU".format(*ratios))
    if args.profile:
        with profile() as profiler:
            sides["cledet"]()
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


if __name__ == "__main__":
    main()
