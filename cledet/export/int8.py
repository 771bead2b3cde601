"""Quantization of an OpenVINO file to int8, with a bound on the drop in AP.

nncf quantizes the network up to the last convolutions of its heads and takes layers back until the bound holds (PTQ
with accuracy control, https://docs.openvino.ai). What follows, decoding and NMS, stays float32.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import statistics
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch

from cledet.config.base import ExportSettings, SuppressionSettings, long_side
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.console import say
from cledet.data.dataset import DetectionDataset, pad_images
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.evaluator import network_stream, nms_options_by_method
from cledet.evaluation.nms_methods import evaluate_methods
from cledet.evaluation.splits import load_index, load_split
from cledet.export.backends import read_openvino_metadata, require_packages, save_openvino
from cledet.export.plan import RAW, Runner
from cledet.export.runtime import ExportedModel, RuntimeNetwork, open_exported
from cledet.metrics.coco import evaluate
from cledet.metrics.evaluation import EvaluatedDetections
from cledet.models.checkpoint import Checkpoint

CALIBRATION = 300
"""Most training images from which the ranges of activations are measured."""
RANKED = 50
"""Images on which nncf ranks the layers, those whose AP falls most; AP itself is measured on all."""
TIMED, ROUNDS = 4, 8
"""Images and rounds of the comparison of latencies."""
STAGES = {1: "in float32", 2: "with all layers in int8"}
"""The first networks whose AP nncf asks for."""
CONVOLUTIONS = {"Convolution", "GroupConvolution"}
ADDED = {*CONVOLUTIONS, "Add"}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Int8:
    """Measurements of a quantized file and of the float32 file that it was made from, on the same split."""

    split: str
    images: int
    calibration_images: int
    ap_float32: float
    ap_int8: float
    ms_float32: float  # median time of the network on one image
    ms_int8: float

    @property
    def drop(self) -> float:
        """Drop in AP points."""
        return 100 * (self.ap_float32 - self.ap_int8)

    def sentence(self) -> str:
        """Describe accuracy and speed in one line."""
        ap = f"AP {self.ap_int8:.4f} on {self.split} ({self.images} images), {self.ap_float32:.4f} in float32"
        ratio = self.ms_float32 / self.ms_int8
        speed = f"the network takes {self.ms_int8:.1f} ms instead of {self.ms_float32:.1f} ({ratio:.2f}x as fast)"
        return f"int8: {ap}, a drop of {self.drop:.2f} points; {speed}, load {os.getloadavg()[0]:.1f}"


@dataclass(frozen=True)
class Bound:
    """The validation function of nncf: AP of a quantized network, with the rest of the file in float32."""

    model: ExportedModel
    index: DetectionIndex
    settings: ValSettings
    rest: Runner
    """Computes RAW from images and the outputs of the network."""
    stop: Event
    found: list[float] = field(default_factory=list)
    """AP on all images of each network so far: float32, int8, then with more and more layers in float32."""

    def __call__(self, network: Any, positions: Iterable[int]) -> tuple[float, list[float] | None]:
        """Return AP over the images at these positions, and if they are all, that of each; 0 without an object."""

        def run(batch: Any) -> list[Any]:
            if self.stop.is_set():
                raise InterruptedError
            return self.rest(batch, *network(batch).values())

        chosen = list(positions)
        if len(chosen) < len(self.index):
            return ap_of(self.measure(run, self.index.subset(chosen))), None
        found, ids = self.measure(run, self.index), self.index.image_ids.tolist()
        self.found.append(ap_of(found))
        if len(chosen) > 1:  # one image is also what nncf tries the function on
            later = f"with layers taken back to float32, step {len(self.found) - 2}"
            say(f"AP {self.found[-1]:.4f} {STAGES.get(len(self.found), later)}")
        parts = [(self.index.subset([i]), found.results[found.results[:, 0] == n]) for i, n in enumerate(ids)]
        return self.found[-1], [evaluate(*part).metrics["AP"] or 0.0 for part in parts]

    def measure(self, run: Runner, index: DetectionIndex) -> EvaluatedDetections:
        """Evaluate the images of an index, with RAW computed by `run`."""
        runtime = RuntimeNetwork(self.model)
        runtime.runners["f32"] = run
        methods = nms_options_by_method(self.settings, self.model.components)
        stream = network_stream(runtime, index, self.model, self.settings, CPU, None)
        (found,) = evaluate_methods(stream, index, methods, complete=True).values()
        return found


def ap_of(found: EvaluatedDetections) -> float:
    """Return AP; 0 without objects."""
    return found.evaluation.metrics["AP"] or 0.0


def quantize_file(path: Path, model: Checkpoint, settings: ExportSettings) -> Int8:
    """Quantize the network of an OpenVINO file in place, and measure the cost in AP and the gain in speed.

    Raises UserError without nncf, for weights without a data set, for a val split without objects, and if the drop in
    AP exceeds `max_drop`.
    """
    require_packages(("nncf",), "--int8", "int8")
    data = settings.data or model.data
    if not data:
        raise UserError("--int8 measures AP, and these weights name no data set", "pass --data")
    index, train = load_split(settings.data, "val", model.data), load_index(open_source(data), "train")
    if not index.num_boxes:
        raise UserError(f"--int8 measures AP, and {index.name} has no boxes", "pass another --data")
    images = np.unique(np.linspace(0, len(train) - 1, min(CALIBRATION, len(train))).astype(int)).tolist()
    limit = f"at most {settings.max_drop:g} points of AP lower on {index.name}"
    say(f"quantizing with {len(images)} images of {train.name}, {limit}")
    stop = Event()
    with ThreadPoolExecutor(1) as worker:  # as in `open_openvino`
        future = worker.submit(_quantize, path, index, train.subset(images), settings, stop)
        try:
            result = future.result()
        finally:
            stop.set()
    if result.drop > settings.max_drop:
        message = f"int8 lowers AP by {result.drop:.2f} points, more than --max-drop {settings.max_drop:g}"
        raise UserError(message, "raise --max-drop, or export without --int8")
    say(result.sentence())
    return result


def _quantize(path: Path, index: DetectionIndex, train: DetectionIndex, settings: ExportSettings, stop: Event) -> Int8:
    """Quantize with all images of `train`, measure on `index`, and write the file again."""
    import openvino

    model = open_exported(path)
    short, canvas = model.imgsz, model.canvas
    samples = DetectionDataset(train, short=short, long=long_side(short), canvas=canvas)

    def read(position: int) -> Any:
        if stop.is_set():
            raise InterruptedError
        return pad_images([samples[position].image], sides=canvas).float().contiguous().numpy()

    network, rest = read_parts(path)
    bound = Bound(model, index, _val_settings(settings), _runner(rest), stop)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # stdout is for results
        warnings.simplefilter("ignore")
        import nncf

        nncf.set_log_level(logging.ERROR)
        quantized = nncf.quantize_with_accuracy_control(
            network,
            calibration_dataset=nncf.Dataset(range(len(train)), read),
            validation_dataset=nncf.Dataset(range(len(index))),
            validation_fn=bound,
            max_drop=settings.max_drop / 100,
            subset_size=len(train),
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=RANKED),
        )
    joined = join_parts(quantized, read_parts(path)[1])
    runs = [_runner(openvino.Core().read_model(str(path))), _runner(joined)]
    ap = [ap_of(bound.measure(run, index)) for run in runs]
    ms = _alternate(runs, [read(position) for position in range(min(TIMED, len(train)))])
    result = Int8(index.name, len(index), len(train), *ap, *ms)
    for key, value in {**read_openvino_metadata(path), "int8": json.dumps(asdict(result))}.items():
        joined.set_rt_info(value, ["cledet", key])
    written = path.with_name("int8.xml")
    save_openvino(joined, written)  # beside the file, whose weights OpenVINO has mapped into memory
    for suffix in (".xml", ".bin"):
        written.with_suffix(suffix).replace(path.with_suffix(suffix))
    return result


def read_parts(path: Path) -> tuple[Any, Any]:
    """Read a file as two models: the network up to the last convolutions, and the rest.

    The inputs of the rest are the images and the outputs of the network, in their order.
    """
    from openvino import Core, Model, opset13

    network, rest = (Core().read_model(str(path)) for _ in range(2))
    inputs = []
    for value in last_convolutions(rest):
        inputs.append(opset13.parameter(value.get_partial_shape(), np.float32))
        for target in value.get_target_inputs():
            target.replace_source_output(inputs[-1].output(0))
    cut = Model(last_convolutions(network), network.get_parameters(), "network")
    return cut, Model(rest.get_results(), [*rest.get_parameters(), *inputs], "rest")


def join_parts(network: Any, rest: Any) -> Any:
    """Connect the parts of `read_parts` to one model again; they must not be used afterwards."""
    from openvino import Model

    sources = [*(given.output(0) for given in network.get_parameters())]
    sources += [result.input_value(0) for result in network.get_results()]
    for given, source in zip(rest.get_parameters(), sources, strict=True):
        for target in given.output(0).get_target_inputs():
            target.replace_source_output(source)
    return Model(rest.get_results(), network.get_parameters(), "model")


def last_convolutions(graph: Any) -> list[Any]:
    """List the values behind which the graph has no convolution: those of convolutions, with their biases added."""
    values, seen, waiting = [], set(), [result.input_value(0) for result in graph.get_results()]
    while waiting:
        value = waiting.pop()
        node = value.get_node()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        sources = [node.input_value(i) for i in range(node.get_input_size())]
        kinds = {node.get_type_name(), *(source.get_node().get_type_name() for source in sources)}
        if kinds & CONVOLUTIONS and node.get_type_name() in ADDED:
            values.append(value)
        else:
            waiting += sources
    return values


def _runner(graph: Any) -> Runner:
    """Compile a graph in float32 as a function from input arrays to RAW."""
    import openvino

    values = {name: value for node in graph.get_ops() for value in node.outputs() for name in value.get_names()}
    wanted = openvino.Model([values[name] for name in RAW], graph.get_parameters())
    compiled = openvino.compile_model(wanted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda *arrays: list(compiled(list(arrays)).values())


def _alternate(runs: Sequence[Runner], batches: Sequence[Any]) -> list[float]:
    """Measure the median milliseconds of each function on the batches, in turn, after one round that is not counted."""
    times: list[list[float]] = [[] for _ in runs]
    for number in range(ROUNDS + 1):
        for batch in batches:
            for run, own in zip(runs, times):
                start = time.perf_counter()
                run(batch)
                if number:
                    own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own) for own in times]


def _val_settings(settings: ExportSettings) -> ValSettings:
    """Return the settings that evaluate the file: its NMS, or the model's own."""
    given = {
        name: getattr(settings, name) for name in SuppressionSettings.model_fields if name not in ("project", "name")
    }
    return resolve(ValSettings, {**given, "nms": settings.nms.replace("none", "auto"), "workers": 0}, environ={})
