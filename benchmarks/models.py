"""Print parameters, multiply-adds and memory of the detector by backbone, for 80 classes; `+gfl` selects that head.

    python benchmarks/models.py [--size 800 1333] [r50 r50+gfl x101-32x4d-dcn ...]

`cledet.models.flops` builds the networks on torch's meta device. torch.utils.flop_counter counts two operations per
multiply-add of convolutions and matrix products; half of it are the multiply-adds, which torchvision's tables call
FLOPs. The interpolation of deformable convolutions is not counted. Memory is that of all tensors that autograd saves
for the backward pass, in float32, with the first two stages frozen, without losses and workspace. Images are padded to
multiples of 32.
"""

from __future__ import annotations

import argparse

from cledet.config.train import HEADS
from cledet.models.backbones.resnet import PLAIN
from cledet.models.flops import costs
from cledet.models.network import Architecture

NAMES = [*PLAIN, *(f"{name}-dcn" for name in PLAIN), "r50-dcnv2", "x101-32x4d-dcn-c4c5", "lite0", "lite2"]
WITH_GFL = [f"{name}+gfl" for name in ("r50", "r101", "x101-32x4d", "x101-32x4d-dcn-c4c5")]
COLUMNS = "backbone | parameters (M) | backbone parameters (M) | multiply-adds (G) | saved activations (GB per image)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("names", nargs="*", default=[*NAMES, *WITH_GFL])
    args = parser.parse_args()
    height, width = (-(-side // 32) * 32 for side in args.size)
    print(f"one image of {height}x{width}\n\n| {COLUMNS} |")
    print("|---|---|---|---|---|")
    for name in args.names:
        backbone, _, head = name.partition("+")
        head = head or "retinanet"
        scale = HEADS[head]["anchor_scale"]
        one = costs(Architecture(backbone=backbone, classes=80, head=head, anchor_scale=scale), (height, width))
        sizes = f"{one.parameters / 1e6:.1f} | {one.of_backbone / 1e6:.1f}"
        print(f"| `{name}` | {sizes} | {one.multiply_adds / 1e9:.0f} | {one.saved / 1e9:.2f} |", flush=True)


if __name__ == "__main__":
    main()
