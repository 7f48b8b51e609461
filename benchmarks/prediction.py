"""Predicted against measured latency of whole networks, over the hyperspaces micro, onnxw and mobilew.

    python benchmarks/prediction.py --runtime onnxruntime --precision int8 --minutes 45 --unseen 100

Measures networks to fit on until the minutes are used up (model files written, loaded and warmed up included), and
unseen networks; both go to a store, so that an interrupted run goes on where it stood and a second one only computes.
Compares the package's predictor with its features alone, with a model that knows MACs only, and with the published
style: a random forest per type of kernel, on kernels that are measured alone, summed (nn-Meter, MobiSys 2021).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from spaceevo.errors import UnstableSessionError
from spaceevo.graph.nodes import INPUT, Node, Program, Role, layers
from spaceevo.graph.ops import Conv, Depthwise, Gate, MaxPool, Multiply, Pool, Sigmoid
from spaceevo.graph.trace import input_node
from spaceevo.measure.campaign import Precision, measure_programs
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store
from spaceevo.measure.target import describe
from spaceevo.predict.fit import fit_measured
from spaceevo.predict.regression import START
from spaceevo.records import Measurement, TargetDescription
from spaceevo.seeding import python_random
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import Subnet, network_program

NAMES = ("micro", "onnxw", "mobilew")
CHUNK = 24
CORNER_EVERY = 6
FOREST = 100
PER_KIND = 60


def networks(purpose: str, names: Sequence[str]) -> Iterator[tuple[str, Subnet]]:
    """Random subnets of random spaces, the hyperspaces by turns; to fit on, one in six is a smallest or largest one."""
    rng = {name: python_random(0, purpose, name) for name in names}
    turn = 0
    while True:
        for name in names:
            hyperspace = load_hyperspace(name)
            space = hyperspace.space(hyperspace.sample(rng[name]), 10 if name == "micro" else 1000)
            if purpose == "fit" and turn % CORNER_EVERY == 0:
                yield name, (space.smallest() if turn // CORNER_EVERY % 2 else space.largest())
            else:
                yield name, space.sample(rng[name])
        turn += 1


@dataclass
class Session:
    """Measures chunks of programs, and how long that took when it was done."""

    target: TargetDescription
    precision: Precision
    folder: Path
    plan: Plan
    console: Console

    def measure(self, label: str, programs: Sequence[Program]) -> tuple[list[Measurement], float]:
        """Measurements, and the seconds that they took."""
        name = f"{self.target.runtime}-{self.precision}"
        notes = self.folder / f"seconds-{name}.json"
        known = json.loads(notes.read_text()) if notes.exists() else {}
        jobs = [(f"{label} {number}", program, self.precision) for number, program in enumerate(programs)]
        while True:
            start = time.monotonic()
            try:
                with Store(self.folder / "measurements.sqlite") as store:
                    found = measure_programs(
                        self.target, jobs, store, self.folder / f"work-{name}", self.plan, lambda done, total: None
                    )
                break
            except UnstableSessionError as error:  # what was quiet is stored; its time counts
                self.console.print(f"{label}: {error}")
            finally:
                seconds = time.monotonic() - start
                if seconds > 1:  # otherwise all of it was in the store
                    known[label] = known.get(label, 0.0) + seconds
                    notes.write_text(json.dumps(known))
        self.console.print(f"{label}: {len(programs)} measured in {known.get(label, 0.0):.0f} s")
        return found, known.get(label, 0.0)


def kernels(program: Program) -> Iterator[tuple[str, Program]]:
    """The kernels of a network in the published manner: type, and what it computes as a program of its own.

    A layer with its activation is one; a squeeze-and-excite is one as a whole.
    """
    _, *others = layers(program)
    excite: list[tuple[Node, ...]] = []
    for layer in others:
        op = layer[0].op
        if excite or (isinstance(op, Pool) and layer[0].role.block is not None):
            excite.append(layer)
            if op == Multiply(per_channel=True):
                yield "se", alone(excite)
                excite = []
        else:
            yield type(op).__name__.lower(), alone([layer])


def alone(chosen: Sequence[tuple[Node, ...]]) -> Program:
    ids = {node.id: f"{number}/{place}" for number, layer in enumerate(chosen) for place, node in enumerate(layer)}
    nodes = (
        replace(
            node,
            id=ids[node.id],
            inputs=tuple(ids.get(name, INPUT) for name in node.inputs),
            role=Role("", None, str(number)),
            weights=None,
        )
        for number, layer in enumerate(chosen)
        for node in layer
    )
    return (input_node(chosen[0][0].in_shape), *nodes)


def kernel_features(program: Program) -> list[float]:
    _, *parts = layers(program)
    first, last, widths = parts[0][0], program[-1], [layer[-1].out_shape.channels for layer in parts]
    is_windowed = isinstance(first.op, Conv | Depthwise | MaxPool)
    windows = (first.op.kernel_size, first.op.stride) if is_windowed else (1, 1)
    gates = {type(node.op) for layer in parts if layer[-1].op == Multiply() for node in layer}
    return [first.in_shape.height, first.in_shape.channels, max(widths), *windows,
            sum(node.macs for node in program) / 1e6, sum(node.num_params for node in program) / 1e6,
            widths[len(widths) // 2], *(float(gate in gates) for gate in (Gate, Sigmoid)),
            last.out_shape.height]  # fmt: skip


def forest(session: Session, fitted: Sequence[Program]) -> tuple[Callable[[Program], float], float]:
    """A random forest per type of kernel, each kernel measured alone."""
    from sklearn.ensemble import RandomForestRegressor

    by_kind: dict[str, dict[Program, None]] = {}
    for program in fitted:
        for kind, own in kernels(program):
            by_kind.setdefault(kind, {})[own] = None
    models, seconds = {}, 0.0
    for kind, found in sorted(by_kind.items()):
        rng = python_random(0, "kernels", kind)
        chosen = rng.sample(list(found), min(PER_KIND, len(found)))
        measured, own_seconds = session.measure(f"kernels {kind}", chosen)
        seconds += own_seconds
        features = np.array([kernel_features(own) for own in chosen])
        latencies = np.array([measurement.latency_ms for measurement in measured])
        models[kind] = RandomForestRegressor(FOREST, random_state=0).fit(features, latencies)

    def predict(program: Program) -> float:
        total = 0.0
        own = list(kernels(program))
        for kind in {kind for kind, _ in own}:
            rows = np.array([kernel_features(one) for other, one in own if other == kind])
            total += float(models[kind].predict(rows).sum())
        return total

    return predict, seconds


def figures(predicted: Sequence[float], measured: np.ndarray) -> dict[str, float]:
    errors = np.abs(np.asarray(predicted) / measured - 1)
    return {
        "within_10_percent": float((errors <= 0.1).mean()),
        "within_5_percent": float((errors <= 0.05).mean()),
        "mape": float(errors.mean()),
        "spearman": float(spearmanr(predicted, measured)[0]),
    }


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--runtime", default="onnxruntime", choices=("onnxruntime", "litert", "openvino"))
    arguments.add_argument("--precision", default="int8", choices=("int8", "fp32"))
    arguments.add_argument("--hyperspaces", nargs="+", choices=NAMES, default=NAMES)
    arguments.add_argument("--minutes", type=float, default=45, help="of measuring to fit on")
    arguments.add_argument("--fit", type=int, default=600, help="networks to fit on, at most")
    arguments.add_argument("--unseen", type=int, default=100)
    arguments.add_argument("--visits", type=int, default=6, help="quiet visits per network")
    arguments.add_argument("--no-forest", action="store_true", help="leave the published style out")
    arguments.add_argument("--folder", type=Path, default=Path("runs/prediction"))
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    console = Console()
    given.folder.mkdir(parents=True, exist_ok=True)
    target = describe(f"{given.runtime}@local", 1)
    session = Session(target, given.precision, given.folder, Plan(visits=given.visits), console)

    fitted: list[Subnet] = []
    unseen: list[tuple[str, Subnet]] = []
    seconds = 0.0
    to_fit, to_judge = (networks(purpose, given.hyperspaces) for purpose in ("fit", "unseen"))
    while len(unseen) < given.unseen or (seconds < 60 * given.minutes and len(fitted) < given.fit):
        if seconds < 60 * given.minutes and len(fitted) < given.fit:
            chunk = [subnet for _, subnet in (next(to_fit) for _ in range(CHUNK))]
            _, took = session.measure(f"fit {len(fitted)}", [network_program(own) for own in chunk])
            if seconds + took <= 60 * given.minutes:
                fitted += chunk
            seconds += took
        if len(unseen) < given.unseen:
            others = [next(to_judge) for _ in range(min(CHUNK // 2, given.unseen - len(unseen)))]
            programs = [network_program(own) for _, own in others]
            session.measure(f"unseen {len(unseen)}", programs)
            unseen += others

    programs = [network_program(own) for own in fitted]
    judged = [network_program(own) for _, own in unseen]
    # All from the store; what was measured in another state of the target is measured again.
    latencies = [measurement.latency_ms for measurement in session.measure("fit, again", programs)[0]]
    measured = np.array([measurement.latency_ms for measurement in session.measure("unseen, again", judged)[0]])
    predictor = fit_measured(target, programs, latencies)
    additive = fit_measured(target, programs, latencies, settings=START.model_copy(update={"shared": 0.0, "own": 0.0}))
    macs = np.array([[1.0, own.macs] for own in fitted])
    linear = np.linalg.lstsq(macs / np.array(latencies)[:, None], np.ones(len(fitted)), rcond=None)[0]
    predicted = {
        "spaceevo": [predictor.program_ms(program) for program in judged],
        "features only": [additive.program_ms(program) for program in judged],
        "MACs, linear": [float(linear @ [1.0, own.macs]) for _, own in unseen],
    }
    if not given.no_forest:
        published, forest_seconds = forest(session, programs)
        predicted["random forest per kernel, summed"] = [published(program) for program in judged]
        console.print(f"Kernels alone took another {forest_seconds / 60:.1f} minutes")

    title = f"{given.runtime} {given.precision} on {target.device}: {len(fitted)} networks, {seconds / 60:.1f} minutes"
    shown = Table("predictor", "hyperspace", "unseen", "within 10 %", "within 5 %", "mean error", "rank correlation",
                  title=title)  # fmt: skip
    result: dict[str, object] = {"target": target.model_dump(), "num_fit": len(fitted), "minutes": seconds / 60,
                                 "settings": predictor.settings.model_dump()}  # fmt: skip
    for name, values in predicted.items():
        for hyperspace in ("all", *given.hyperspaces):
            own = np.array([hyperspace in ("all", other) for other, _ in unseen])
            scores = figures(np.asarray(values)[own], measured[own])
            shown.add_row(name, hyperspace, str(own.sum()), f"{scores['within_10_percent']:.0%}",
                          f"{scores['within_5_percent']:.0%}", f"{scores['mape']:.1%}", f"{scores['spearman']:.3f}",
                          end_section=hyperspace == given.hyperspaces[-1])  # fmt: skip
            if hyperspace == "all":
                result[name] = scores
    console.print(shown)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
