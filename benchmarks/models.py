"""Parameters and multiply-adds of the whole detector by backbone, for 80 classes.

    python benchmarks/models.py [--size 800 1333] [r50 x101-32x4d-dcn ...]

Nothing is computed: the networks are built on torch's meta device, and torch.utils.flop_counter adds up convolutions
and matrix products (two operations each, so half of it is multiply-adds, which is what torchvision's tables call
FLOPs). Of a deformable convolution the product is counted, its interpolation is not. An image is padded to multiples
of 32.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cledet.models.network import Architecture, build_network
from cledet.models.resnets import PLAIN

NAMES = [*PLAIN, *(f"{name}-dcn" for name in PLAIN), "r50-dcnv2", "x101-32x4d-dcn-c4c5", "lite0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("names", nargs="*", default=NAMES)
    given = parser.parse_args()
    size = tuple(-(-side // 32) * 32 for side in given.size)
    print(f"| backbone | parameters (M) | of the backbone (M) | multiply-adds at {size[0]}x{size[1]} (G) |")
    print("|---|---|---|---|")
    for name in given.names:
        whole, part, count = measure(name, size)
        print(f"| `{name}` | {whole / 1e6:.1f} | {part / 1e6:.1f} | {count / 1e9:.0f} |", flush=True)


def measure(name: str, size: tuple[int, int]) -> tuple[int, int, int]:
    """Parameters of the detector and of its backbone, and multiply-adds for one image."""
    with torch.device("meta"):
        network = build_network(Architecture(backbone=name, classes=80)).eval()
        image = torch.zeros(1, 3, *size)
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=DEFORMABLE) as counter:
        network(image)
    whole, part = (sum(p.numel() for p in module.parameters()) for module in (network, network.backbone))
    return whole, part, counter.get_total_flops() // 2


def deform_flops(x: Any, weight: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Operations of a deformable convolution's product, from its arguments' shapes."""
    return 2 * weight[1] * weight[2] * weight[3] * torch.Size(out_shape).numel()


DEFORMABLE = {torch.ops.torchvision.deform_conv2d: deform_flops}


if __name__ == "__main__":
    main()
