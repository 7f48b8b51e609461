"""Every tensor quantized (ours) against convolution inputs only (the published placement): latency and agreement.

The same networks, with the same random weights and scales, in ONNX Runtime; sessions of both files timed by turns.
Agreement: top-1 of the file against the fake-quantized simulation of its own placement, on coarse random images.

Run: python benchmarks/placements.py [--images 300] [--rounds 30] [NETWORK ...]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import assert_never

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor

from spaceevo.graph.graphs import IntegerGraph
from spaceevo.graph.ops import (
    Add,
    Conv,
    Depthwise,
    Gate,
    Linear,
    MaxPool,
    Multiply,
    Pool,
    Quantize,
    Relabel,
    Sigmoid,
)
from spaceevo.graph.tensors import Shape
from spaceevo.measure.random_graphs import random_integer_graph
from spaceevo.nets import arithmetic, executors
from spaceevo.nets.verification import compare
from spaceevo.processors import this_profile
from spaceevo.runtimes import onnxruntime as runtime
from spaceevo.spaces.subnet import network_program
from spaceevo.spaces.zoo import load_network

NETWORKS = ("SEQnet@vnni-A0", "SEQnet@pixel4-A0", "MobileNetV3-Large", "ResNet-18")
WEIGHTED = ("Conv", "Gemm")
ACTIVATIONS = {"relu": ("Relu", ()), "relu6": ("Clip", (0.0, 6.0))}


def published(path: Path, graph: IntegerGraph, out: Path) -> None:
    """Rewrite a file of ours: only what convolutions and the classifier read stays quantized."""
    model = onnx.load(path)
    nodes = list(model.graph.node)
    makers = {node.output[0]: node for node in nodes}
    floats: dict[str, str] = {}  # by codes, the float tensor that they were made of, activation applied
    added = []
    for operation in graph.nodes:
        if isinstance(operation.op, Relabel):  # its readers read the codes of its input
            source, name = operation.inputs[0], operation.id
            added.append(helper.make_node("HardSigmoid", [floats[source]], [f"{name}/float"], alpha=1 / 6, beta=0.5))
            floats[source] = f"{name}/float"
        maker = makers.get(operation.id)
        if maker is None or maker.op_type != "QuantizeLinear":
            continue
        value = maker.input[0]
        if operation.out.quantizer in ACTIVATIONS:
            op_type, limits = ACTIVATIONS[operation.out.quantizer]
            names = [f"{operation.id}/limit{index}" for index in range(len(limits))]
            model.graph.initializer.extend(
                helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [limit])
                for name, limit in zip(names, limits, strict=True)
            )
            value = f"{operation.id}/activated"
            added.append(helper.make_node(op_type, [maker.input[0], *names], [value]))
            maker.input[0] = value
        floats[operation.id] = value
    replaced = {}
    for node in nodes:
        if node.op_type in WEIGHTED:
            continue
        for index, name in enumerate(node.input):
            source = makers.get(name)
            if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in floats:
                if node.op_type == "Add" and node.input[1].endswith("|half"):  # the gate: x / 6 + 0.5
                    replaced[id(node)] = floats[source.input[0]]
                    continue
                node.input[index] = floats[source.input[0]]
    for node in nodes:
        if id(node) in replaced:
            node.CopyFrom(helper.make_node("HardSigmoid", [replaced[id(node)]], node.output, alpha=1 / 6, beta=0.5))
    used = {name for node in [*nodes, *added] for name in node.input} | {"logits"}
    kept = [node for node in [*nodes, *added] if node.op_type != "DequantizeLinear" or node.output[0] in used]
    used = {name for node in kept for name in node.input} | {"logits"}
    kept = [node for node in kept if node.op_type != "QuantizeLinear" or node.output[0] in used]
    ready = {"image", *(tensor.name for tensor in model.graph.initializer)}
    ordered = []
    while kept:  # in the order of their inputs
        now = [node for node in kept if all(name in ready for name in node.input)]
        ordered += now
        ready |= {name for node in now for name in node.output}
        kept = [node for node in kept if node not in now]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    onnx.checker.check_model(model)
    onnx.save(model, out)


def simulate_published(graph: IntegerGraph, images_BCHW: Tensor) -> Tensor:
    """The published placement in float32: convolution inputs and weights fake-quantized, all else float."""
    values: dict[str, Tensor] = {}
    for node in graph.nodes:
        x = values.get(node.inputs[0], images_BCHW)
        match node.op:
            case Conv() | Depthwise() | Linear() as op:
                params, weights = graph.quant_params[node.inputs[0]], graph.weights[node.id]
                codes = arithmetic.to_codes(x, params)
                y = arithmetic.accumulate(op, codes, params, weights).float()
                step = arithmetic.sum_scales(params, weights)
                y = y * step if isinstance(op, Linear) else y * step.view(-1, 1, 1)
            case Gate() | Relabel():
                y = F.hardsigmoid(x)
            case Sigmoid():
                y = torch.sigmoid(x)
            case Add():
                y = x + values[node.inputs[1]]
            case Multiply():
                y = x * values[node.inputs[1]]
            case Pool():
                y = x.mean(dim=(2, 3), keepdim=True)
            case MaxPool() as op:
                y = F.max_pool2d(x, op.kernel_size, op.stride, op.padding)
            case Quantize():
                y = x
            case op:
                assert_never(op)
        values[node.id] = {"relu": F.relu, "relu6": F.relu6}.get(node.out.quantizer, lambda value: value)(y)
    return values[graph.nodes[-1].id]


def time_ms(session: runtime.Session, shape: Shape) -> float:
    image = np.zeros((1, *shape), np.float32)
    start = time.perf_counter()
    session.run(image)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(f"{platform.machine()}, {this_profile().about}; onnxruntime {runtime.version()}, 1 thread, batch 1; "
          f"median of {options.rounds} rounds by turns; agreement on {options.images} images")  # fmt: skip
    for name in options.networks:
        subnet = load_network(name).subnet
        program = network_program(subnet)
        graph = random_integer_graph(program, 0, 127)
        patterns = torch.randn(options.images, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 1.5
        with tempfile.TemporaryDirectory() as folder:
            paths = {"ours": Path(folder) / "ours.onnx", "published": Path(folder) / "published.onnx"}
            runtime.export_int8(graph, paths["ours"], {})
            published(paths["ours"], graph, paths["published"])
            sessions = {key: runtime.Session(path) for key, path in paths.items()}
            samples: dict[str, list[float]] = {key: [] for key in paths}
            for _ in range(options.rounds):
                for key, session in sessions.items():
                    samples[key].append(min(time_ms(session, subnet.in_shape) for _ in range(3)))
            found: dict[str, list[Tensor]] = {"ours": [], "published": [], "our simulation": [], "theirs": []}
            for part in patterns.split(25):
                images = F.interpolate(part, size=(subnet.resolution, subnet.resolution), mode="bilinear")
                for key, session in sessions.items():
                    found[key].append(torch.from_numpy(session.run(images.numpy())))
                found["our simulation"].append(executors.run_fake_quantized(graph, images))
                found["theirs"].append(simulate_published(graph, images))
            floats = {key: len(runtime.float_operators(path)) for key, path in paths.items()}
        logits = {key: torch.cat(parts) for key, parts in found.items()}
        medians = {key: statistics.median(values) for key, values in samples.items()}
        ratio = statistics.median(b / a for a, b in zip(samples["ours"], samples["published"], strict=True))
        ours, theirs = compare(logits["ours"], logits["our simulation"]), compare(logits["published"], logits["theirs"])
        print(f"{name:20s} ours {medians['ours']:7.2f} ms, {floats['ours']} float operators, agreement "
              f"{ours.top1:.2%}, mean {ours.mean_steps:.4f} steps | published {medians['published']:7.2f} ms, "
              f"{floats['published']}, {theirs.top1:.2%}, {theirs.mean_steps:.4f} | {ratio:.2f} x ours",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
