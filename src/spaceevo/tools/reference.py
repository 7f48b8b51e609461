"""Check our blocks against the published reference: tables, encodings, and logits of whole checkpoints.

A reference folder holds any of: `block_lut_<hyperspace>.parquet`, `published.json`, `paper_table1.json`,
`parity_cases.json` with `parity_logits.npz` and `parity_state_dict_shapes.json`. Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from spaceevo.errors import DataError, EncodingError, PluginError
from spaceevo.spaces import encoding
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.published_tables import check_rows, exact_counts, read_table, single_precision_counts
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet, network_program

NUM_CLASSES = 1000
MAX_FP32_ERROR = 1e-5
MAX_INT8_ERROR = 0.15
MAX_MEAN_INT8_ERROR = 0.08
MAX_PAPER_DIFFERENCE = 0.10
MAX_ROWS_TOLD = 10
PARITY = ("parity_cases.json", "parity_logits.npz", "parity_state_dict_shapes.json")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check.

    Attributes:
        name: A file, or a parity case.
        passed: Whether it holds; None where it could not be checked.
        text: What was found.
        details: Figures and lists behind it.
    """

    name: str
    passed: bool | None
    text: str
    details: dict[str, Any] = field(default_factory=dict)


def check(folder: Path) -> Iterator[Finding]:
    """Check everything that a reference folder holds, one finding as soon as it is known.

    Raises:
        DataError: No folder, nothing known in it, or a file that cannot be read.
    """
    tables = sorted(folder.glob("block_lut_*.parquet"))
    present = {name for name in ("published.json", "paper_table1.json", *PARITY) if (folder / name).exists()}
    if not tables and not present:
        raise DataError(
            f"{folder} holds no reference data",
            found="no such folder" if not folder.is_dir() else "none of the known files",
            remedy=f"Give a folder with block_lut_*.parquet, published.json, paper_table1.json or {', '.join(PARITY)}",
        )
    for path in tables:
        yield _check_table(path)
    if "published.json" in present:
        published = _json(folder / "published.json")
        yield _check_encodings(published)
        if "paper_table1.json" in present:
            yield _check_paper(_json(folder / "paper_table1.json"), published)
    elif "paper_table1.json" in present:
        yield Finding("paper_table1.json", None, "skipped: needs published.json")
    if PARITY[0] in present:
        cases = _json(folder / PARITY[0])
        yield _check_counts(cases)
        missing = [name for name in PARITY if name not in present]
        if missing:
            yield Finding("parity", None, f"skipped: needs {', '.join(missing)}")
        else:
            yield from _check_parity(cases, _logits(folder / PARITY[1]), _json(folder / PARITY[2]))


def _check_table(path: Path) -> Finding:
    hyperspace = load_hyperspace(path.stem.removeprefix("block_lut_"))
    table = read_table(path)
    num_rows = len(table["stage"])
    rows = list(check_rows(hyperspace, table))
    wrong = [row for row in rows if not row.explained]
    num_single = len(rows) - len(wrong)
    text = f"{num_rows - len(wrong):,} of {num_rows:,} rows have our MACs and parameters"
    if num_single:
        text += f" ({num_single:,} as printed after a sum in float32; exact ones differ in the last digit)"
    told = "; ".join(f"row {row.row}: {row.text}" for row in wrong[:MAX_ROWS_TOLD])
    if wrong:
        text += f". {len(wrong):,} differ: {told}"
    details = {
        "num_rows": num_rows,
        "num_equal": num_rows - len(rows),
        "single_precision": [(row.row, row.text) for row in rows if row.explained],
        "differ": [(row.row, row.text) for row in wrong],
    }
    return Finding(path.name, not wrong and num_rows > 0, text, details)


def _check_encodings(published: Any) -> Finding:
    problems = []
    spaces, models = published["spaces"], published["models"]
    for name, string in spaces.items():
        try:
            space = _space(string)
            if space.encoding != string:
                problems.append(f"{name}: {string} comes back as {space.encoding}")
        except (EncodingError, PluginError) as error:
            problems.append(f"{name}: {error}")
    for name, model in models.items():
        try:
            back = encoding.encode(_published_subnet(published, name))
            if back != model["subnet"]:
                problems.append(f"{name}: {model['subnet']} comes back as {back}")
        except (EncodingError, PluginError, KeyError) as error:
            problems.append(f"{name}: {error}")
    total = len(spaces) + len(models)
    text = (
        f"{total - len(problems)} of {total} encodings of spaces and models decode, and encode back to the same string"
    )
    return Finding("published.json", not problems, ". ".join([text, *problems]), {"problems": problems})


def _check_paper(paper: Mapping[str, Any], published: Any) -> Finding:
    macs: dict[str, dict[str, float]] = {}
    for rows in paper.values():
        for row in rows if isinstance(rows, list) else ():
            name = row["model"].replace("@cpu-", "@vnni-")
            if name in published["models"]:
                ours = _published_subnet(published, name).macs / 1e6
                macs[row["model"]] = {"paper": row["mflops"], "ours": round(ours, 1)}
    differences = {name: one["ours"] / one["paper"] - 1 for name, one in macs.items()}
    told = ", ".join(
        f"{name} {macs[name]['ours']:.0f}/{macs[name]['paper']} ({d:+.1%})" for name, d in differences.items()
    )
    passed = all(abs(difference) <= MAX_PAPER_DIFFERENCE for difference in differences.values())
    return Finding("paper_table1.json", passed, f"million MACs, ours/paper: {told}", {"macs_m": macs})


def _check_counts(cases: Any) -> Finding:
    wrong, num_single = [], 0
    for case in cases:
        subnet = _case_subnet(case)
        program = network_program(subnet)
        counts = case["mflops"], case["mparams"]
        if counts == exact_counts(program):
            continue
        if counts == single_precision_counts(program, subnet.stages):
            num_single += 1
            continue
        wrong.append(f"{_title(case)}: {counts}; we count {exact_counts(program)}")
    text = f"{len(cases) - len(wrong)} of {len(cases)} subnets have our MACs and parameters"
    if num_single:
        text += f" ({num_single} as printed after a sum in float32)"
    return Finding(PARITY[0], not wrong, ". ".join([text, *wrong[:MAX_ROWS_TOLD]]), {"differ": wrong})


def _check_parity(cases: Any, logits: np.ndarray, shapes: Any) -> Iterator[Finding]:
    import torch

    from spaceevo.nets.network import extract, program_of
    from spaceevo.nets.published import ImportedSupernet, import_supernet

    if len(logits) != len(cases):
        raise DataError(f"{PARITY[1]} holds {len(logits)} logits", found=f"{PARITY[0]} holds {len(cases)} cases")
    imported: dict[tuple[str, str], ImportedSupernet] = {}
    errors: list[float] = []
    for case, expected in zip(cases, logits, strict=True):
        key = (case["supernet"], case["mode"])
        if key not in imported:
            # Cases come supernet by supernet: keep both modes of one.
            imported = {known: one for known, one in imported.items() if known[0] == key[0]}
            state = {name: torch.from_numpy(value) for name, value in reference_weights(shapes[key[0]]).items()}
            imported[key] = import_supernet(state, _space(key[0]), quantized=case["mode"] == "int8")
        subnet = _case_subnet(case)
        program = program_of(subnet, "published")
        x = torch.from_numpy(reference_images(subnet.resolution))
        supernet = imported[key].network
        with torch.no_grad():
            ours = {"supernet": supernet(x, program), "extracted": extract(supernet, program)(x, program)}
        difference = {name: _relative_rms(value.numpy(), expected) for name, value in ours.items()}
        bound = MAX_FP32_ERROR if case["mode"] == "fp32" else MAX_INT8_ERROR
        if case["mode"] == "int8":
            errors += difference.values()
        text = ", ".join(f"{name} {value:.2g}" for name, value in difference.items())
        passed = all(value <= bound for value in difference.values())
        yield Finding(
            _title(case), passed, f"relative RMS difference of the logits: {text} (at most {bound:g})", difference
        )
    if errors:
        mean = sum(errors) / len(errors)
        text = (
            f"{mean:.2g} (at most {MAX_MEAN_INT8_ERROR:g}), largest {max(errors):.2g}, zero in {errors.count(0.0)} of"
        )
        passed = mean <= MAX_MEAN_INT8_ERROR
        yield Finding("INT8 on average", passed, f"{text} {len(errors)} comparisons", {"mean": mean})


def reference_weights(shapes: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    """The reference checkpoint, rebuilt from its keys: every tensor is a function of its key and shape.

    Args:
        shapes: By key; a weight scale ("sw") follows from the weight beside it.
    """
    state = {key: _reference_tensor(key, tuple(shape)) for key, shape in shapes.items() if not key.endswith(".sw")}
    for key, shape in shapes.items():
        if key.endswith(".sw"):
            largest = np.abs(state[key.removesuffix("sw") + "weight"]).max()
            state[key] = np.asarray(2 * largest / 255, np.float32).reshape(shape)
    return state


def reference_images(resolution: int) -> np.ndarray:
    """The two input images of every parity case, [2, 3, resolution, resolution]."""
    return np.random.Generator(np.random.PCG64(0)).standard_normal((2, 3, resolution, resolution)).astype(np.float32)


def _reference_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")))
    leaf = key.rpartition(".")[2]
    if leaf == "weight" and len(shape) > 1:
        value = rng.standard_normal(shape) * math.sqrt(2 / np.prod(shape[1:]))
    elif leaf == "weight":
        value = rng.uniform(0.35, 0.85, shape)
    elif leaf == "bias":
        value = (0.02 if "logits" in key else 0.1) * rng.standard_normal(shape)
    elif leaf == "running_mean":
        value = 0.1 * rng.standard_normal(shape)
    elif leaf == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf in ("sa", "beta"):
        value = np.full(shape, 1 / 32 if leaf == "sa" else -112 / 32)
    elif leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    else:
        raise DataError(f"{PARITY[2]} has the key {key!r}", remedy="Its last part must be one of the published layout")
    return value.astype(np.float32)


def _relative_rms(ours: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((ours - expected) ** 2) / np.mean(expected**2)))


def _title(case: Mapping[str, str]) -> str:
    return f"{case['supernet']} {case['name']} {case['mode']}"


def _space(name: str) -> SearchSpace:
    hyperspace = load_hyperspace(name.split("-", 1)[0])
    return hyperspace.space(hyperspace.decode(name), NUM_CLASSES)


def _case_subnet(case: Mapping[str, str]) -> Subnet:
    return encoding.decode(case["subnet"], _space(case["supernet"]))


def _published_subnet(published: Any, name: str) -> Subnet:
    model = published["models"][name]
    return encoding.decode(model["subnet"], _space(published["spaces"][model["space"]]))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON", found=str(error)) from error


def _logits(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return cast(np.ndarray, file["logits"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as logits", found=str(error)) from error
