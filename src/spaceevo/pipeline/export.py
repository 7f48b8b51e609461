"""Stage 8: extract, export, verify against the integer reference, measure on the target."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spaceevo import plugins
from spaceevo.artifacts import write_atomically
from spaceevo.errors import ExportError
from spaceevo.measure.campaign import measure_files
from spaceevo.measure.session import Plan
from spaceevo.nets.executors import run_integer
from spaceevo.nets.graphs import float_graph, integer_graph
from spaceevo.nets.network import Network, program_of
from spaceevo.pipeline import baselines, predict, space, subnets, supernet
from spaceevo.pipeline.context import Context
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import ModelResult
from spaceevo.spaces.encoding import decode, encode
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import PREPROCESSING, Images, split, to_input
from spaceevo.train.evaluation import BATCH_SIZE, calibrated_subnet, predict_logits, top1

NAME = "export"
TITLE = "Export, verify against the integer reference, measure on the target"
NEEDS = (predict.NAME, supernet.NAME, subnets.NAME, baselines.NAME)
RECALIBRATION_BATCHES = 16


@dataclass(frozen=True, eq=False)
class _Candidate:
    name: str
    budget_ms: float
    subnet: Subnet
    network: Callable[[str], Network]


def inputs(context: Context) -> dict[str, object]:
    """Data, target and bounds."""
    return {
        "data": context.data_hash,
        "target": context.target.model_dump(),
        "export": context.recipe.export.model_dump(),
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Every model in turn, then all files measured together."""
    train_images, _, val_images = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    candidates = list(_candidates(context))
    predictor = predict.load_predictor(context)
    results: list[dict[str, Any]] = []
    for number, candidate in enumerate(candidates):
        result = _export(context, candidate, folder, train_images, val_images)
        result["predicted_ms"] = predictor.network_ms(candidate.subnet)
        results.append(result)
        part(progress, 0, 0.8)(number + 1, len(candidates))
    paths = [context.run.path / result[key] for result in results for key in ("int8_file", "fp32_file")]
    with context.store() as store:
        measured = measure_files(context.target, paths, store, Plan(), part(progress, 0.8, 1))
    models: dict[str, list[ModelResult]] = {"models": [], "baselines": []}
    for number, (candidate, result) in enumerate(zip(candidates, results, strict=True)):
        int8_ms, fp32_ms = measured[2 * number].latency_ms, measured[2 * number + 1].latency_ms
        kind = "baselines" if candidate.name.startswith("baseline") else "models"
        models[kind].append(ModelResult(**result, int8_ms=int8_ms, fp32_ms=fp32_ms, speedup=fp32_ms / int8_ms))
    path = folder / "models.json"
    content = {kind: [model.model_dump() for model in own] for kind, own in models.items()}
    write_atomically(path, json.dumps(content, indent=1))
    return [path, *paths]


def load(context: Context) -> tuple[tuple[ModelResult, ...], tuple[ModelResult, ...]]:
    """(models, baselines)."""
    content = json.loads(context.path(NAME, "models.json").read_text())
    models, others = (
        tuple(ModelResult.model_validate(model) for model in content[kind]) for kind in ("models", "baselines")
    )
    return models, others


def _candidates(context: Context) -> Iterator[_Candidate]:
    best = space.load_space(context)
    supernets = {precision: supernet.load_supernet(context, precision) for precision in ("fp32", "int8")}
    for found in subnets.load(context).found:
        name = f"subnet-{found.budget_ms:g}ms"
        yield _Candidate(name, found.budget_ms, decode(found.encoding, best), supernets.__getitem__)
    handmade = baselines.load_subnets(context)
    for number, (budget_ms, subnet) in enumerate(zip(predict.load_budgets(context), handmade, strict=True)):

        def network(precision: str, subnet: Subnet = subnet, number: int = number) -> Network:
            return baselines.load_network(context, subnet, number, precision)

        yield _Candidate(f"baseline-{budget_ms:g}ms", budget_ms, subnet, network)


def _export(
    context: Context, candidate: _Candidate, folder: Path, train_images: Images, val_images: Images
) -> dict[str, Any]:
    runtime = plugins.load("spaceevo.runtimes", context.target.runtime)
    program = program_of(candidate.subnet)
    networks = {
        precision: calibrated_subnet(candidate.network(precision), program, train_images, RECALIBRATION_BATCHES)
        for precision in ("fp32", "int8")
    }
    graph = integer_graph(networks["int8"], program)
    metadata = _metadata(context, candidate)
    paths = {p: folder / "models" / f"{candidate.name}-{p}{runtime.SUFFIX}" for p in ("int8", "fp32")}
    unverified = paths["int8"].with_name(f"{candidate.name}-unverified{runtime.SUFFIX}")
    paths["int8"].parent.mkdir(parents=True, exist_ok=True)
    runtime.export_int8(graph, unverified, metadata)
    runtime.export_fp32(float_graph(networks["fp32"], program), paths["fp32"], metadata)

    labels = val_images.labels
    images_BCHW = to_input(val_images.pixels, candidate.subnet.resolution)
    reference = torch.cat([run_integer(graph, batch) for batch in images_BCHW.split(BATCH_SIZE)])
    fake_quantized = predict_logits(networks["int8"], program, val_images.pixels)
    int8 = _run_file(runtime, unverified, images_BCHW)
    fp32 = _run_file(runtime, paths["fp32"], images_BCHW)
    agreement = _agreement(int8, reference)
    floats = runtime.float_operators(unverified)
    if agreement < context.recipe.export.min_agreement or floats:
        raise ExportError(
            f"{unverified} disagrees with its integer reference, and is not handed out",
            found=f"Top-1 agreement {agreement:.2%}, at least {context.recipe.export.min_agreement:.2%} is asked "
            f"for; float operators: {', '.join(floats) or 'none'}",
            remedy="Report it to the authors of spaceevo with this file",
        )
    unverified.replace(paths["int8"])
    return {
        "budget_ms": candidate.budget_ms,
        "encoding": encode(candidate.subnet),
        "macs": candidate.subnet.macs,
        "params": candidate.subnet.num_params,
        "top1_fp32": top1(fp32, labels),
        "top1_fake_quant": top1(fake_quantized, labels),
        "top1_int8": top1(int8, labels),
        "agreement": agreement,
        "agreement_fake_quant": _agreement(int8, fake_quantized),
        "max_logit_diff": (int8 - reference).abs().max().item(),
        "float_operators": floats,
        "int8_file": str(paths["int8"].relative_to(context.run.path)),
        "fp32_file": str(paths["fp32"].relative_to(context.run.path)),
    }


def _run_file(runtime: Any, path: Path, images_BCHW: Tensor) -> Tensor:
    return torch.from_numpy(runtime.Session(path, threads=torch.get_num_threads()).run(images_BCHW.numpy()))


def _agreement(logits: Tensor, others: Tensor) -> float:
    return (logits.argmax(1) == others.argmax(1)).float().mean().item()


def _metadata(context: Context, candidate: _Candidate) -> dict[str, str]:
    return {
        "spaceevo.encoding": encode(candidate.subnet),
        "spaceevo.space": space.load(context).best.encoding if candidate.name.startswith("subnet") else "hand-made",
        "spaceevo.w_qmax": str(context.target.w_qmax),
        "class_names": json.dumps(context.data.class_names),
        "preprocessing": json.dumps(
            {
                "resize": candidate.subnet.resolution,
                "scale": 1 / 255,
                "mean": PREPROCESSING.mean,
                "std": PREPROCESSING.std,
                "channels": "RGB",
            }
        ),
    }
