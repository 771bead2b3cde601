"""Deformable convolution: a 3x3 convolution with predicted offsets of its nine samples at each position.

Sources: Dai et al., Deformable Convolutional Networks (arXiv 1703.06211); Zhu et al., Deformable ConvNets v2 (arXiv
1811.11168), which also predicts weights of the samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

TAPS = 9
PLAIN, MODULATED = 2 * TAPS, 3 * TAPS
VERSIONS = {PLAIN: "", MODULATED: "v2"}
"""Suffix of the version in names, by the output channels of the offset convolution."""


class DeformConv2d(nn.Conv2d):
    """A 3x3 convolution without bias that predicts offsets of its samples, and in version 2 their weights.

    It starts as the plain convolution: offsets are zero and sample weights 1, twice a sigmoid of 0. (Published is a
    single sigmoid. Converters halve weights trained with it, which is equivalent.) Computed in float32 under autocast
    too, because torchvision's operator does not support bfloat16.
    """

    def __init__(self, plain: nn.Conv2d, modulated: bool) -> None:
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            3,
            plain.stride,  # type: ignore[arg-type]
            plain.padding,  # type: ignore[arg-type]
            plain.dilation,  # type: ignore[arg-type]
            plain.groups,
            bias=False,
        )
        self.weight = plain.weight
        count = MODULATED if modulated else PLAIN
        self.offset = nn.Conv2d(self.in_channels, count, 3, self.stride, self.padding, self.dilation)  # type: ignore[arg-type]
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve maps [N, C, H, W]; the output has the shape of the plain convolution and the dtype of x."""
        if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
            return self._convolve(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._convolve(x.float()).to(x.dtype)

    def _convolve(self, x: Tensor) -> Tensor:
        predicted = self.offset(x)
        offset, logits = predicted[:, :PLAIN], predicted[:, PLAIN:]
        mask = 2 * logits.sigmoid() if logits.shape[1] else None
        return deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)


def is_deformable(network: nn.Module) -> bool:
    """Return True if the network has a deformable convolution."""
    return any(isinstance(module, DeformConv2d) for module in network.modules())


def offset_names(network: nn.Module) -> set[str]:
    """Return the names of the offset convolutions' parameters, which the plain network lacks."""
    return {
        f"{name}.offset.{kind}"
        for name, module in network.named_modules()
        if isinstance(module, DeformConv2d)
        for kind in ("weight", "bias")
    }
