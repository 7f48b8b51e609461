"""Digests of what a change that should not alter numbers leaves alone: run it before and after, and compare.

    PYTHONPATH=OLD/src python benchmarks/digests.py --json before.json
    PYTHONPATH=NEW/src python benchmarks/digests.py --against before.json

Run the script of the newer tree with both. One line per subject: its name and a SHA-256. `--only PREFIX` computes some
of them, for example `--only graphs`. With `--against`, what differs is named, and the exit code is 1. Metadata of
exported files, hashes, times and versions in artifacts are left out; all else counts, bit for bit, on one machine with
one version of torch: one thread, so that sums are added in one order. About five minutes.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy

import argparse
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.numpy import load_file

from spaceevo import plugins
from spaceevo.config import DataSettings, SupernetSettings
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.nets.network import program_of
from spaceevo.predict.batch import BatchPredictor
from spaceevo.predict.fit import fit_measured, fit_subnets, random_pairs
from spaceevo.progress import silent
from spaceevo.records import BlockTable, TargetDescription
from spaceevo.spaces import zoo
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import Subnet
from spaceevo.train import loop
from spaceevo.train.batches import Images
from spaceevo.train.supernet import Sandwich, make_supernet

PRESETS = ("micro", "mobilenetv3", "mobilenetv3micro", "mobilenetv4", "mobilew", "onnxw", "proxyless",
           "proxylessmicro", "resnet50", "resnetmicro")  # fmt: skip
EXPORTED = ("MobileNetV3-Small", "MobileNetV4-Conv-Small", "EfficientNet-B0", "EfficientNet-Lite0", "FBNetV3-A",
            "ResNet-18", "SEQnet@pixel4-A0", "SEQnet@vnni-A0")  # fmt: skip
RUNTIMES = ("onnxruntime", "openvino", "litert")
NUM_RANDOM = 50
TINY = Path(__file__).parents[1] / "tests" / "tiny"
#: Of an artifact, what names a version, a time or another file's hash.
LEFT_OUT = re.compile(
    "seconds|hash|sha256|version|created|time|format|spaceevo|peak_rss|provenance|about|digest|cost|size_bytes|candidate|origin"
)
Subjects = Iterator[tuple[str, object]]

try:
    from spaceevo.search.exact_score import ExactEvaluator
except ImportError:  # up to 0.2
    from spaceevo.search.qt_score import ExactEvaluator  # type: ignore[no-redef, attr-defined]
try:
    from spaceevo.graph.graphs import IntegerGraph
    from spaceevo.graph.nodes import peak_activation_bytes

    def rows(program: Sequence[Any]) -> list[tuple[object, ...]]:
        """A program in words that every build has."""
        found = []
        for node in program:
            has_window = type(node.op).__name__ in ("Conv", "Depthwise", "MaxPool")
            found.append((
                node.id, type(node.op).__name__, node.inputs, node.in_shape.channels, node.out_shape.channels,
                node.in_shape.height, node.out_shape.height, node.out.quantizer, node.out.stays_float,
                (node.op.kernel_size, node.op.stride, node.op.padding) if has_window else (), node.macs,
                node.weights_id if node.has_weights else "", node.has_batch_norm,
            ))  # fmt: skip
        return found

    def peak_bytes(subnet: Subnet) -> int:
        return peak_activation_bytes(program_of(subnet))

    def nodes_of(graph: IntegerGraph) -> Sequence[Any]:
        return graph.nodes

except ImportError:  # up to 0.2: operators of kinds
    from spaceevo.spaces.layers import peak_activation_bytes  # type: ignore[no-redef]

    from spaceevo.spaces.subnet import network_layers

    KINDS = {"quantize": "Quantize", "linear": "Linear", "pool": "Pool", "max_pool": "MaxPool", "add": "Add",
             "multiply": "Multiply", "gate": "Gate", "sigmoid": "Sigmoid", "relabel": "Relabel"}  # fmt: skip

    def rows(program: Sequence[Any]) -> list[tuple[object, ...]]:
        found = []
        for own in program:
            kind = KINDS.get(own.kind) or ("Depthwise" if own.depthwise else "Conv")
            found.append((
                own.name, kind, own.inputs, own.in_channels, own.out_channels, own.in_size, own.out_size,
                own.quantizer, own.stays_float,
                (own.kernel_size, own.stride, own.padding) if kind in ("Conv", "Depthwise", "MaxPool") else (),
                own.macs, own.weights_name if own.has_weights else "", own.has_batch_norm,
            ))  # fmt: skip
        return found

    def peak_bytes(subnet: Subnet) -> int:
        return peak_activation_bytes(network_layers(subnet))

    def nodes_of(graph: Any) -> Sequence[Any]:
        return graph.operators


def describe(subnet: Subnet) -> object:
    """A subnet in words that every build has: two kernel sizes of a block were one number of two digits once."""

    def kernel_size(kind: str, value: Any) -> object:
        return divmod(value, 10) if kind == "uib" and isinstance(value, int) else value

    return subnet.resolution, [
        (stage.name, *stage.block_type, stage.stride,
         [(b.width, kernel_size(stage.block_type.kind, b.kernel_size), b.expand_ratio) for b in stage.blocks])
        for stage in subnet.stages
    ]  # fmt: skip


def digest_of_graph(graph: Any) -> object:
    weights = [(name, own.codes, own.scales, own.bias) for name, own in sorted(graph.weights.items())]
    params = [(name, own.scale, own.zero_point) for name, own in graph.quant_params.items()]
    return rows(nodes_of(graph)), weights, params


def subnets_of(preset: str, count: int = NUM_RANDOM) -> tuple[Any, list[Subnet]]:
    hyperspace, rng = load_hyperspace(preset), random.Random(preset)
    space = hyperspace.space(hyperspace.sample(rng), 10)
    return space, [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]


def draws() -> Subjects:
    """Random spaces and subnets, mutations, crossovers, what two subnets share, and what they cost."""
    for preset in PRESETS:
        space, subnets = subnets_of(preset, 200)
        rng = random.Random(1)
        mutants = [space.mutate(subnet, rng) for subnet in subnets]
        children = [space.crossover(*pair, rng) for pair in zip(subnets, mutants, strict=True)]
        shared = [space.common(*pair) for pair in zip(subnets, mutants, strict=True)]
        everything = [*subnets, *mutants, *children, *shared]
        yield f"draws/{preset}", [describe(subnet) for subnet in everything]
        yield f"costs/{preset}", [(s.macs, s.num_params, peak_bytes(s)) for s in everything]
    networks = [network.subnet for network in zoo.zoo().values()]
    yield "costs/zoo", [(s.macs, s.num_params, peak_bytes(s)) for s in networks]


def graphs() -> Subjects:
    """Programs, in both placements, and integer graphs with random parameters."""
    for preset in PRESETS:
        _, subnets = subnets_of(preset)
        yield f"graphs/{preset}/published", [rows(program_of(subnet, "published")) for subnet in subnets]
        yield (
            f"graphs/{preset}",
            [digest_of_graph(random_integer_graph(program_of(own), n)) for n, own in enumerate(subnets)],
        )
    for name, network in zoo.zoo().items():
        yield f"graphs/{name}", digest_of_graph(random_integer_graph(program_of(network.subnet), 0))


def files() -> Subjects:
    """Exported files, without metadata."""
    networks = {name: zoo.load_network(name).subnet for name in EXPORTED}
    for preset in PRESETS:
        networks |= {f"{preset}/{n}": subnet for n, subnet in enumerate(subnets_of(preset, 1)[1][::2])}
    with tempfile.TemporaryDirectory() as folder:
        for name, subnet in networks.items():
            program = program_of(subnet)
            graph, floating = random_integer_graph(program, 1), random_float_graph(program, 1)
            for runtime_name in RUNTIMES:
                runtime = plugins.load("spaceevo.runtimes", runtime_name)
                path = Path(folder) / f"net{runtime.SUFFIX}"
                for precision, export, whole in (
                    ("int8", runtime.export_int8, graph),
                    ("fp32", runtime.export_fp32, floating),
                ):
                    export(whole, path, {})
                    yield f"files/{runtime_name}-{precision}/{name}", without_metadata(path)
                    path.unlink()


def without_metadata(path: Path) -> object:
    if path.suffix == ".onnx":
        import onnx

        model = onnx.load(path)
        del model.metadata_props[:]
        return model.SerializeToString(deterministic=True)
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    texts = {entry.buffer for entry in model.metadata}
    graph = model.subgraphs[0]
    return [
        [(code.builtinCode, code.version) for code in model.operatorCodes],
        [plain(vars(tensor)) for tensor in graph.tensors],
        [plain(vars(node)) for node in graph.operators],
        [None if own.data is None else own.data for n, own in enumerate(model.buffers) if n not in texts],
    ]


def plain(value: Any) -> object:
    """An object of a generated class as dictionaries."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str | bytes | np.ndarray | np.generic):
        return value
    return plain(vars(value))


def predictors() -> Subjects:
    """Fits on fixed latencies, and what they predict one by one, by stages and looked up."""
    target = TargetDescription(name="made up", runtime="", runtime_version="", device="", machine="", flags=(),
                               threads=1, w_qmax=127)  # fmt: skip
    for name in ("micro", "onnxw", "mobilenetv4"):
        hyperspace, rng = load_hyperspace(name), np.random.default_rng(0)
        fitted = fit_subnets(hyperspace, 100, 0, 10)
        programs = [program_of(subnet) for subnet in fitted]
        latencies = [sum(own.macs + 1e4 for own in program) * 1e-8 * rng.normal(1, 0.02) for program in programs]
        for use_blocks in (False, True):
            predictor = fit_measured(target, programs, latencies, use_blocks=use_blocks)
            unseen = [program_of(subnet) for _, subnet in random_pairs(hyperspace, 200, 0, "unseen", 10)]
            predictions = [predictor.predict(program) for program in unseen]
            yield f"predictor/{name}{'/blocks' * use_blocks}", [tuple(own) for own in predictions]
        space = hyperspace.space(hyperspace.sample(random.Random(0)), 10)
        batch = BatchPredictor(predictor, space)
        looked_up = batch.sample(2000, np.random.default_rng(1))
        # The last bit of a table's entry depends on how many rows BLAS multiplies at once
        latencies = np.round(batch.latencies_ms(looked_up), 12)
        yield f"predictor/{name}/batch", [looked_up, latencies, batch.num_extrapolated(looked_up)]


def scores() -> Subjects:
    """Exact Q-T scores of spaces of a made-up table."""
    hyperspace, rng = load_hyperspace("micro"), np.random.default_rng(0)
    columns: dict[str, list[Any]] = {}
    for number, stage in enumerate(hyperspace.searched):
        for block in range(len(stage.choices)):
            for window in range(stage.num_windows):
                for resolution in hyperspace.resolutions:
                    for _ in range(20):
                        row = {"stage": number, "block": block, "window": window, "resolution": resolution,
                               "blocks": "", "in_width": 16, "nsr_loss": rng.uniform(0.1, 0.5),
                               "macs": int(rng.integers(10**6)), "num_params": int(rng.integers(10**5)),
                               "latency_ms": rng.uniform(0.01, 0.1)}  # fmt: skip
                        for key, value in row.items():
                            columns.setdefault(key, []).append(value)
    table = BlockTable(**{key: np.asarray(values) for key, values in columns.items()})
    base_ms = {resolution: 0.01 * number for number, resolution in enumerate(hyperspace.resolutions, 1)}
    evaluator = ExactEvaluator(table, hyperspace, (0.12, 0.2), base_ms)
    choices = [hyperspace.sample(random.Random(number)) for number in range(200)]
    yield "scores/micro", [evaluator.score(choice) for choice in choices]


def training() -> Subjects:
    """Twenty steps of the micro supernet in each phase, and the integer graphs that come out."""
    torch.set_num_threads(1)
    hyperspace = load_hyperspace("micro")
    space = hyperspace.space(hyperspace.decode("micro-012-123"), 10)
    network = make_supernet(space, 63, 0)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (160, 3, 40, 40), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.arange(160) % 10)
    settings = SupernetSettings(epochs_fp32=2, epochs_int8=2, batch_size=16, lr=0.1, num_random=2)
    with tempfile.TemporaryDirectory() as folder:
        _, curve = loop.train(network, Sandwich.all_of(space).programs(2), images, settings, DataSettings(), seed=0,
                              purpose="digests", folder=Path(folder), progress=silent, first_alone=0.1)  # fmt: skip
        for phase in ("fp32", "int8"):
            (path,) = Path(folder).glob(f"*{phase}.safetensors")
            yield f"training/{phase}", sorted(load_file(path).items())
    yield "training/losses", [point.loss for point in curve]
    network.eval()
    subnets = [space.smallest(), space.largest(), space.sample(random.Random(0))]
    yield "training/graphs", [digest_of_graph(network.integer_graph(program_of(subnet))) for subnet in subnets]
    x_BCHW = torch.linspace(-2, 2, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    with torch.no_grad():
        yield "training/logits", [network(x_BCHW, program_of(s)).numpy() for s in subnets]


def tiny_run() -> Subjects:
    """The artifacts of a whole run over a hyperspace of two small stages, on a simulated device."""
    with tempfile.TemporaryDirectory() as folder:
        plugin, out = Path(folder) / "plugin", Path(folder) / "run"
        about = plugin / "tiny_hyperspace-0.dist-info"
        about.mkdir(parents=True)
        shutil.copy(TINY / "tiny_hyperspace.py", plugin)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-hyperspace\nVersion: 0\n")
        (about / "entry_points.txt").write_text("[spaceevo.spaces.presets]\ntiny = tiny_hyperspace\n")
        paths = os.pathsep.join((str(plugin), os.environ.get("PYTHONPATH", "")))
        command = [sys.executable, "-c", "from spaceevo.cli import main; main()", "run", TINY / "tiny.yaml", "--out"]
        subprocess.run([*command, out], check=True, env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
        for path in sorted(path for path in out.rglob("*") if path.is_file()):
            name = f"run/{path.relative_to(out)}"
            if path.parent.name == "superseded" or path.stem in (
                "inputs",
                "stage",
                "provenance",
                "distillation",
                "spaceevo",
            ):
                continue
            match path.suffix:
                case ".parquet":
                    table = pq.read_table(path)
                    yield name, {column: table[column].to_pylist() for column in table.column_names}
                case ".safetensors":
                    yield name, sorted(load_file(path).items())
                case ".json":
                    yield name, of_content(json.loads(path.read_text()))
                case ".jsonl":  # in whatever order jobs finished
                    yield name, sorted(path.read_text().splitlines())
                case ".onnx":
                    yield name, without_metadata(path)


def of_content(value: Any) -> object:
    """JSON without what names versions, times and hashes; the kernels of a predictor are written otherwise."""
    if isinstance(value, dict):
        return {key: of_content(item) for key, item in value.items() if key != "kernels" and not LEFT_OUT.search(key)}
    return [of_content(item) for item in value] if isinstance(value, list) else value


SUBJECTS: tuple[Callable[[], Subjects], ...] = (draws, graphs, files, predictors, scores, training, tiny_run)


def sha256(value: object) -> str:
    """SHA-256 of nested sequences and dictionaries of numbers, texts and arrays."""
    content = hashlib.sha256()

    def add(item: Any) -> None:
        match item:
            case np.ndarray():
                content.update(f"array {item.dtype} {item.shape}".encode())
                content.update(np.ascontiguousarray(item).tobytes())
            case dict():
                content.update(f"dict {len(item)}".encode())
                for key in item:
                    add(key)
                    add(item[key])
            case list() | tuple():
                content.update(f"list {len(item)}".encode())
                for part in item:
                    add(part)
            case bytes():
                content.update(item)
            case float() if item.is_integer():
                content.update(repr(int(item)).encode())
            case _:
                content.update(repr(item.item() if isinstance(item, np.generic) else item).encode())
        content.update(b";")

    add(value)
    return content.hexdigest()


def main() -> None:
    arguments = argparse.ArgumentParser(description="Digests of numbers that a change should leave alone.")
    arguments.add_argument("--json", type=Path, help="write them here")
    arguments.add_argument("--against", type=Path, help="compare with those that --json wrote")
    arguments.add_argument("--only", default="", help="subjects whose name begins so")
    given = arguments.parse_args()
    found: dict[str, str] = {}
    for subjects in SUBJECTS:
        first = {"draws": "draws costs", "predictors": "predictor", "tiny_run": "run"}.get(subjects.__name__,
                                                                                        subjects.__name__)  # fmt: skip
        if not any(given.only.startswith(word) or word.startswith(given.only) for word in first.split()):
            continue
        for name, value in subjects():
            if name.startswith(given.only):
                found[name] = sha256(value)
                print(name, found[name][:16], flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.against:
        before = {n: d for n, d in json.loads(given.against.read_text()).items() if n.startswith(given.only)}
        differ = sorted(name for name in found.keys() | before.keys() if found.get(name) != before.get(name))
        print(f"{len(found)} subjects, {len(differ)} differ", *differ, sep="\n  ")
        sys.exit(bool(differ))


if __name__ == "__main__":
    main()
