"""Preprocessing as ONNX: a photo, uint8 [H, W, 3], to the network's input, and boxes back to the photo's pixels.

The rule is that of `cledet.data.transforms.resize`: bilinear, or by area when shrinking more than twofold. ONNX's
Resize has no area filter. So the mean over an interval is the difference of two values of the cumulative sum, which is
interpolated linearly, divided by the length.

The functions are compiled by onnxscript; outer variables become constants of the file.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnx.numpy_helper
import onnx.version_converter
import onnxscript
from onnxscript import script

from cledet.data.dataset import PADDING

op: Any = onnxscript.opset18
FLOAT: Any = onnxscript.FLOAT
UINT8: Any = onnxscript.UINT8
FILL = onnx.numpy_helper.from_array(np.array(PADDING, np.float32).reshape(1, 3, 1, 1), "fill")
LIMITS, FACTORS = "photo_limits", "photo_factors"
"""Right and bottom ends of the resized photo (w, h, w, h), and the factors from its boxes to those of the photo."""
GREY = 128.0
"""Subtracted before cumulative sums, so that they stay small and lose no digits in float32."""


@script()
def mean_over_rows(pixels, count):
    """Divide the rows of pixels [1, 3, H, W] into `count` [1] equal intervals, and return the mean of each."""
    total = op.CumSum(pixels, op.Constant(value_int=2))
    sums = op.Pad(total, op.Constant(value_ints=[0, 0, 1, 0, 0, 0, 0, 0]))  # [1, 3, H + 1, W], the first 0
    height = op.Shape(pixels, start=2, end=3)
    length = op.Div(op.Cast(height, to=1), op.Cast(count, to=1))
    steps = op.Range(
        op.Constant(value_int=0), op.Add(op.Squeeze(count), op.Constant(value_int=1)), op.Constant(value_int=1)
    )
    ends = op.Min(op.Mul(op.Cast(steps, to=1), length), op.Cast(height, to=1))
    whole = op.Floor(ends)
    low = op.Cast(whole, to=7)
    high = op.Min(op.Add(low, op.Constant(value_ints=[1])), height)
    part = op.Unsqueeze(op.Sub(ends, whole), op.Constant(value_ints=[1]))
    below = op.Gather(sums, low, axis=2)
    at_ends = op.Add(below, op.Mul(op.Sub(op.Gather(sums, high, axis=2), below), part))
    one, last = op.Constant(value_ints=[1]), op.Constant(value_ints=[9223372036854775807])
    upper = op.Slice(at_ends, one, last, op.Constant(value_ints=[2]))
    lower = op.Slice(at_ends, op.Constant(value_ints=[0]), op.Constant(value_ints=[-1]), op.Constant(value_ints=[2]))
    return op.Div(op.Sub(upper, lower), length)


@script()
def by_area(pixels, size):
    """Resize pixels [1, 3, H, W] to a smaller size [2] by means over areas."""
    rows = mean_over_rows(op.Sub(pixels, GREY), op.Gather(size, op.Constant(value_ints=[0])))
    turned = op.Transpose(rows, perm=[0, 1, 3, 2])
    columns = mean_over_rows(turned, op.Gather(size, op.Constant(value_ints=[1])))
    return op.Add(op.Transpose(columns, perm=[0, 1, 3, 2]), GREY)


def preparation(short: int, long: int, canvas: tuple[int, int] | None) -> Any:
    """Compile the preprocessing, with limits of the sides or a canvas (height, width), to an onnxscript function.

    It maps a photo [H, W, 3] to images [1, 3, Hp, Wp], LIMITS [4] and FACTORS [4].
    """
    most = [float(side) for side in (canvas or (short, long))]
    fixed = list(canvas or (0, 0))
    has_canvas = canvas is not None

    @script()
    def fit_canvas(sides):
        """Return the scale at which sides [2] fit into the canvas."""
        return op.ReduceMin(op.Div(op.Cast(op.Constant(value_floats=most), to=11), sides), keepdims=0)

    @script()
    def fit_sides(sides):
        """Return the scale at which the short and the long one of sides [2] are within their limits."""
        ordered = op.Concat(op.ReduceMin(sides, keepdims=1), op.ReduceMax(sides, keepdims=1), axis=0)
        return op.ReduceMin(op.Div(op.Cast(op.Constant(value_floats=most), to=11), ordered), keepdims=0)

    @script()
    def pad_to_canvas(size):
        return op.Sub(op.Constant(value_ints=fixed), size)

    @script()
    def pad_to_multiple(size):
        cells = op.Div(op.Add(size, op.Constant(value_ints=[31])), op.Constant(value_ints=[32]))
        return op.Sub(op.Mul(cells, op.Constant(value_ints=[32])), size)

    fit, padding = (fit_canvas, pad_to_canvas) if has_canvas else (fit_sides, pad_to_multiple)

    @script()
    def prepare(photo):
        sides = op.Cast(op.Shape(photo, start=0, end=2), to=11)
        scale = fit(sides)
        rounded = op.Max(op.Round(op.Mul(sides, scale)), op.Cast(op.Constant(value_float=1.0), to=11))
        size = op.Cast(rounded, to=7)
        pixels = op.Unsqueeze(op.Transpose(op.Cast(photo, to=1), perm=[2, 0, 1]), op.Constant(value_ints=[0]))
        if op.Less(op.Cast(scale, to=1), 0.5):
            resized = by_area(pixels, size)
        else:
            sizes = op.Concat(op.Constant(value_ints=[1, 3]), size, axis=0)
            resized = op.Resize(pixels, None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel")
        fill = op.Constant(value=FILL)
        pads = op.Concat(op.Constant(value_ints=[0, 0, 0, 0, 0, 0]), padding(size), axis=0)
        images = op.Add(op.Pad(op.Sub(op.Round(resized), fill), pads), fill)
        height_width = op.Cast(size, to=1)
        photo_limits = op.Gather(height_width, op.Constant(value_ints=[1, 0, 1, 0]))
        photo_sides = op.Gather(op.Cast(sides, to=1), op.Constant(value_ints=[1, 0, 1, 0]))
        photo_factors = op.Div(photo_sides, photo_limits)
        return images, photo_limits, photo_factors

    return prepare


def prepend_photo(network: onnx.ModelProto, short: int, long: int, canvas: tuple[int, int] | None) -> onnx.ModelProto:
    """Prepend the preprocessing to a network from `images` and FACTORS, and LIMITS if it clips boxes.

    Its input becomes `photo`. The images, LIMITS and FACTORS stay inner values with types, for the parity check.
    """
    function = preparation(short, long, canvas)
    before = function.to_model_proto(
        input_types=[UINT8["H", "W", 3]],
        output_types=[FLOAT[1, 3, "Hp", "Wp"], FLOAT[4], FLOAT[4]],
        ir_version=network.ir_version,
    )
    before = onnx.inliner.inline_local_functions(before)
    version = next(used.version for used in network.opset_import if not used.domain)
    if version != op.version:
        before = onnx.version_converter.convert_version(before, version)
    before = onnx.compose.add_prefix(before, "photo/", rename_inputs=False, rename_outputs=False)
    values, outputs = list(before.graph.output), {value.name for value in network.graph.output}
    shared = [(value.name, value.name) for value in network.graph.input]
    joined = onnx.compose.merge_models(before, network, io_map=shared)
    kept = [value for value in joined.graph.output if value.name in outputs]
    del joined.graph.output[:]
    joined.graph.output.extend(kept)
    known = {value.name for value in joined.graph.value_info}
    joined.graph.value_info.extend(value for value in values if value.name not in known)
    return joined


def clip_candidates(graph: onnx.GraphProto, boxes: str) -> None:
    """Clip an output of boxes to the new input LIMITS."""
    raw = _rename(graph, boxes)
    graph.input.append(onnx.helper.make_tensor_value_info(LIMITS, onnx.TensorProto.FLOAT, [4]))
    graph.node.append(onnx.helper.make_node("Relu", [raw], [f"{raw}/positive"], f"{raw}/low"))
    graph.node.append(onnx.helper.make_node("Min", [f"{raw}/positive", LIMITS], [boxes], f"{raw}/high"))


def scale_boxes(graph: onnx.GraphProto, boxes: str) -> None:
    """Multiply an output of boxes by the new input FACTORS."""
    raw = _rename(graph, boxes)
    graph.input.append(onnx.helper.make_tensor_value_info(FACTORS, onnx.TensorProto.FLOAT, [4]))
    graph.node.append(onnx.helper.make_node("Mul", [raw, FACTORS], [boxes], f"{raw}/scale"))


def _rename(graph: onnx.GraphProto, output: str) -> str:
    """Give the value of a graph's output another name, and return it."""
    name = f"photo/unscaled_{output}"
    for node in graph.node:
        node.input[:] = [name if value == output else value for value in node.input]
        node.output[:] = [name if value == output else value for value in node.output]
    return name
