"""Export, verify against the integer reference, measure on the target."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spaceevo.artifacts import INPUTS, FileEntry, Sealed, content_hash, entry_of, fault_of, read_file, write_atomically
from spaceevo.measure.campaign import measure_files, measure_metric_of_file, note_copies
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.session import Plan
from spaceevo.nets.extracted import SUFFIX, save_extracted
from spaceevo.nets.network import Network, program_of
from spaceevo.predict.metrics import computed_metric, metric_value
from spaceevo.progress import ProgressCallback, part, silent
from spaceevo.records import (
    ClassReport,
    ClassScores,
    ExportedModels,
    ExtractedNetwork,
    Measurement,
    ModelResult,
    Origin,
    Verification,
    read_record,
)
from spaceevo.report.companions import CARD, LABELS, model_card
from spaceevo.run.context import Context
from spaceevo.run.planning import Planning, StageWork
from spaceevo.run.provenance import versions
from spaceevo.run.stage import Given, Stage
from spaceevo.spaces.encoding import decode, encode
from spaceevo.spaces.subnet import Subnet
from spaceevo.stages import baselines, finetune, predict, space, subnets, supernet
from spaceevo.tools.file_metadata import metadata_in_run
from spaceevo.tools.handout import hand_out, tell_latency
from spaceevo.train.batches import Images, split
from spaceevo.train.evaluation import RECALIBRATION_BATCHES, calibrated_subnet, calibrated_top1

RESULTS = "results"
_FILE_KEYS = ("int8_file", "fp32_file", "network_file")
MODELS, CLASSES, MODELS_FOLDER = "models.json", "classes.json", "models"


@dataclass(frozen=True, eq=False)
class _Candidate:
    name: str
    origin: Origin
    budget_ms: float
    subnet: Subnet
    predicted_ms: float
    space: str
    network: Callable[[str], Network]
    inherited: Network | None = None  # what it was fine-tuned from


@dataclass(frozen=True)
class Exported:
    """The exported models.

    Attributes:
        models: The found subnets, in order of their budgets.
        baselines: The hand-made networks of the same budgets.
        classes: The found subnets, class by class; without models where an older version exported them.
    """

    models: tuple[ModelResult, ...]
    baselines: tuple[ModelResult, ...]
    classes: ClassReport


class _Files:
    def save(self, value: Exported, folder: Path) -> list[Path]:
        content = ExportedModels(models=value.models, baselines=value.baselines).model_dump()
        write_atomically(folder / MODELS, json.dumps(content, indent=1))
        every = (*value.models, *value.baselines)
        names = (name for model in every for name in (model.int8_file, model.fp32_file, model.network_file))
        beside = [folder / MODELS_FOLDER / name for name in (CARD, LABELS, "predict_*.py")]
        lasting = [path for pattern in beside for path in pattern.parent.glob(pattern.name)]
        write_atomically(folder / CLASSES, value.classes.model_dump_json(indent=1))
        return [folder / MODELS, folder / CLASSES, *lasting, *(folder.parent / name for name in names)]

    def load(self, folder: Path, context: Context, given: Given) -> Exported:
        exported = read_record(ExportedModels, folder / MODELS)
        path = folder / CLASSES
        classes = read_record(ClassReport, path) if path.exists() else ClassReport(models=())
        return Exported(exported.models, exported.baselines, classes)


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Data, target and bounds."""
    return {
        "data": context.data_hash,
        "target": context.target.model_dump(),
        # An empty licence changes nothing: exports of earlier versions stay finished
        "export": context.recipe.export.model_dump(exclude=set() if context.recipe.export.license else {"license"}),
        "metrics": sorted(context.recipe.subnets.limits),
    }


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> Exported:
    """Every model in turn, then all files measured together."""
    train_images, _, val_images = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    candidates = list(_candidates(context, given))
    results: list[dict[str, Any]] = []
    for number, candidate in enumerate(candidates):
        results.append(_exported(context, candidate, folder, train_images, val_images))
        part(progress, 0, 0.8)(number + 1, len(candidates))
    paths = [folder.parent / result[key] for result in results for key in ("int8_file", "fp32_file")]
    measured = context.at_device(partial(_measured, [path.absolute() for path in paths]), part(progress, 0.8, 1))
    for number, result in enumerate(results):
        int8, fp32 = measured[2 * number : 2 * number + 2]
        network = folder.parent / result["network_file"]
        pair = paths[2 * number], paths[2 * number + 1]
        tell_latency(network, *pair, context.target, (int8.latency_ms, fp32.latency_ms))
    with context.store() as store:
        note_copies(context.target, measured, paths, store, Plan())
    models: dict[Origin, list[ModelResult]] = {"found": [], "hand-made": []}
    classes: list[ClassScores] = []
    for number, (candidate, result) in enumerate(zip(candidates, results, strict=True)):
        int8_ms, fp32_ms = measured[2 * number].latency_ms, measured[2 * number + 1].latency_ms
        result["metrics"] = _limited_metrics(context, candidate.subnet, paths[2 * number], int8_ms)
        result |= {"origin": candidate.origin, "int8_ms": int8_ms, "fp32_ms": fp32_ms, "speedup": fp32_ms / int8_ms}
        of_classes = ClassScores.model_validate(result.pop("classes"))
        if candidate.origin == "found":
            classes.append(of_classes.model_copy(update={"int8_file": result["int8_file"]}))
        models[candidate.origin].append(ModelResult(**result))
    found, handmade = tuple(models["found"]), tuple(models["hand-made"])
    write_atomically(folder / MODELS_FOLDER / CARD, _card(context, found))
    return Exported(found, handmade, ClassReport(models=tuple(classes)))


def _card(context: Context, found: Sequence[ModelResult]) -> str:
    data, recipe = context.data, context.recipe
    return model_card(
        recipe.name,
        found,
        context.target,
        data.class_names,
        data.name,
        recipe.export.license,
        len(data.train_labels),
        len(data.val_labels),
        recipe.seed,
        versions(),
    )


def _candidates(context: Context, given: Given) -> Iterator[_Candidate]:
    chosen, trained, tuned = given[space.STAGE].space, given[supernet.STAGE], given[finetune.STAGE]
    supernets = {precision: trained.network(precision) for precision in ("fp32", "int8")}
    for number, found in enumerate(given[subnets.STAGE].result.found):
        name, subnet = f"subnet-{found.budget_ms:g}ms", decode(found.encoding, chosen)
        networks, inherited = supernets, None
        if finetune.is_wanted(context):
            networks = {**supernets, "int8": tuned.network(trained.network("int8"), program_of(subnet), number)}
            inherited = supernets["int8"]
        network = networks.__getitem__
        yield _Candidate(
            name, "found", found.budget_ms, subnet, found.predicted_ms, chosen.encoding, network, inherited
        )
    handmade = given[baselines.STAGE]
    for number, budget_ms in enumerate(given[predict.STAGE].budgets_ms):
        subnet = handmade.subnets[number]
        yield _Candidate(
            name=f"baseline-{budget_ms:g}ms",
            origin="hand-made",
            budget_ms=budget_ms,
            subnet=subnet,
            predicted_ms=handmade.predictor.network_ms(subnet),
            space="hand-made",
            network=partial(handmade.network, number),
        )


class _Exported(Sealed):
    """What is kept of a candidate while the others are not done yet.

    Attributes:
        candidate: Hash of the stage's inputs and of the candidate.
        files: Those that were written, by their paths in the run folder.
        result: Fields of `ModelResult`.
    """

    candidate: str
    files: dict[str, FileEntry]
    result: dict[str, Any]


def _exported(
    context: Context, candidate: _Candidate, folder: Path, train_images: Images, val_images: Images
) -> dict[str, Any]:
    """The result of a candidate, from an interrupted attempt where it and its files are whole."""
    path = folder / RESULTS / f"{candidate.name}.json"
    inputs_hash = json.loads(read_file(folder / INPUTS))["input_hash"]
    own = content_hash([inputs_hash, candidate.name, encode(candidate.subnet), candidate.predicted_ms])
    with suppress(FileNotFoundError, ValueError):
        done = _Exported.model_validate_json(read_file(path))
        is_whole = done.sha256 == done.own_hash and done.candidate == own
        if (
            is_whole
            and "classes" in done.result
            and not any(fault_of(folder.parent / name, entry) for name, entry in done.files.items())
        ):
            return done.result | {"verification": Verification.model_validate(done.result["verification"])}
    result = _export(context, candidate, folder, train_images, val_images)
    files = {result[key]: entry_of(folder.parent / result[key]) for key in _FILE_KEYS}
    done = _Exported(candidate=own, files=files, result={**result, "verification": result["verification"].model_dump()})
    write_atomically(path, done.sealed().model_dump_json(indent=1))
    return result


def _export(
    context: Context, candidate: _Candidate, folder: Path, train_images: Images, val_images: Images
) -> dict[str, Any]:
    network, inherited = _extract(context, candidate, train_images), None
    if candidate.inherited:
        program = program_of(candidate.subnet)
        inherited = calibrated_top1(candidate.inherited, program, train_images, RECALIBRATION_BATCHES, val_images)
    network_path = folder / MODELS_FOLDER / f"{candidate.name}{SUFFIX}"
    save_extracted(network_path, network)
    out = hand_out(
        network,
        context.target.runtime,
        folder / MODELS_FOLDER,
        candidate.name,
        val_images,
        context.recipe.export.min_agreement,
    )
    return {
        "budget_ms": candidate.budget_ms,
        "encoding": encode(candidate.subnet),
        "predicted_ms": candidate.predicted_ms,
        "macs": candidate.subnet.macs,
        "params": candidate.subnet.num_params,
        "top1_fp32": out.top1_fp32,
        "top1_inherited": inherited,
        "top1_fake_quant": out.verification.top1_fake_quantized,
        "top1_int8": out.verification.top1,
        "verification": out.verification,
        "int8_file": str(out.int8.relative_to(folder.parent)),
        "fp32_file": str(out.fp32.relative_to(folder.parent)),
        "network_file": str(network_path.relative_to(folder.parent)),
        "preprocessing": out.preprocessing,
        "classes": None if out.classes is None else out.classes.model_dump(),
    }


def _measured(paths: list[Path], context: Context, progress: ProgressCallback) -> list[Measurement]:
    with context.store() as store:
        return measure_files(context.target, paths, store, Plan(), progress)


def _metric(name: str, path: Path, latency_ms: float, context: Context, progress: ProgressCallback) -> float:
    with context.store() as store:
        return measure_metric_of_file(context.target, name, path, store, latency_ms)


def _limited_metrics(context: Context, subnet: Subnet, path: Path, latency_ms: float) -> dict[str, float]:
    """The metrics that the recipe limits, of an exported INT8 file."""
    values = {}
    for name in context.recipe.subnets.limits:
        room = METRICS.load(name)
        if room.measure:
            values[name] = context.at_device(partial(_metric, name, path.absolute(), latency_ms), silent)
        else:
            values[name] = metric_value(computed_metric(name), subnet)
    return values


def _extract(context: Context, candidate: _Candidate, images: Images) -> ExtractedNetwork:
    program = program_of(candidate.subnet)
    fp32, int8 = (
        calibrated_subnet(candidate.network(precision), program, images, RECALIBRATION_BATCHES)
        for precision in ("fp32", "int8")
    )
    metadata = metadata_in_run(context, candidate.subnet, candidate.space, candidate.budget_ms)
    return ExtractedNetwork(int8.integer_graph(program), fp32.float_graph(program), metadata)


def _work(planning: Planning) -> StageWork:
    work = planning.work
    return StageWork(
        planning.evaluated(work.export),
        measured=work.num_budgets * 2 * 2,
        disk_mib=work.num_budgets * 2 * 2.25 * work.network_mib,  # float32, 8 bits, and what both come from
    )


STAGE: Stage[Exported] = Stage(
    name="export",
    title="Export, verify against the integer reference, measure on the target",
    needs=(predict.STAGE, supernet.STAGE, subnets.STAGE, finetune.STAGE, baselines.STAGE),
    through=(space.STAGE,),
    inputs=_inputs,
    make=_make,
    artifact=_Files(),
    files=(
        MODELS,
        CLASSES,
        f"{RESULTS}/*.json",
        *(f"{MODELS_FOLDER}/{pattern}" for pattern in ("subnet-*ms*", "baseline-*ms*", CARD, LABELS, "predict_*.py")),
    ),
    work=_work,
)
