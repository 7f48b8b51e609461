"""What exported files tell of themselves, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from spaceevo.errors import ArtifactError
from spaceevo.nets.extracted import SUFFIX, digest, load_extracted
from spaceevo.nets.verification import DIGEST, PROFILE
from spaceevo.processors import Profile, profile_of
from spaceevo.records import ExtractedNetwork, Preprocessing, TargetDescription
from spaceevo.run.context import Context
from spaceevo.runtimes import RUNTIMES, Runtime
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import NORMALIZATION

PRECISION = "spaceevo.precision"
LATENCY, MEASURED_ON = "spaceevo.latency_ms", "spaceevo.measured_on"
PREPROCESSING = "preprocessing"
RUNTIME = "runtime"  # "name version", as exporters write it


def metadata_of(
    subnet: Subnet,
    class_names: tuple[str, ...],
    image_size: int,
    profile: Profile,
    w_qmax: int,
    space: str,
    **more: str,
) -> dict[str, str]:
    """What every exported file tells about its network.

    Args:
        subnet: Architecture of the network.
        class_names: In label order.
        image_size: Height = width of the images that it was trained on.
        profile: Of the processor that it was trained for.
        w_qmax: Largest weight code.
        space: Encoding of the search space, or where else the network comes from.
        more: Told as "spaceevo.NAME"; what is empty is left out.
    """
    return {
        "spaceevo.version": version("spaceevo"),
        **{f"spaceevo.{name}": text for name, text in more.items() if text},
        "spaceevo.encoding": encode(subnet),
        "spaceevo.space": space,
        "spaceevo.w_qmax": str(w_qmax),
        PROFILE: profile.name,
        "class_names": json.dumps(class_names),
        PREPROCESSING: Preprocessing(
            resize=subnet.resolution,
            image_size=image_size,
            min_decoded_size=2 * image_size,
            mean=NORMALIZATION.mean,
            std=NORMALIZATION.std,
        ).told(),
    }


def metadata_in_run(context: Context, subnet: Subnet, space: str, budget_ms: float | None = None) -> dict[str, str]:
    """`metadata_of` a network of a run.

    Args:
        context: Of the run.
        subnet: Architecture of the network.
        space: Encoding of its space, or "hand-made".
        budget_ms: That it was made for; None for none.
    """
    target, data = context.target, context.data
    return metadata_of(
        subnet,
        data.class_names,
        data.image_size,
        profile_of(target.machine, target.flags),
        target.w_qmax,
        space,
        data=data.name,
        license=context.recipe.export.license,
        budget_ms="" if budget_ms is None else f"{budget_ms:g}",
    )


def metadata_of_files(network: ExtractedNetwork, runtime: Runtime) -> tuple[dict[str, str], Preprocessing | None]:
    """What the files of a network tell, but for their precision."""
    metadata = {**network.metadata, DIGEST: digest(network.integer)}
    preprocessing = preprocessing_in(network.metadata, runtime.LAYOUT)
    if preprocessing is not None:
        metadata[PREPROCESSING] = preprocessing.told()
    return metadata, preprocessing


def latency_told(target: TargetDescription, latency_ms: float) -> dict[str, str]:
    """What a file tells of its measured latency, as metadata."""
    where = target.model_dump(mode="json", include={"name", "device", "runtime", "runtime_version", "threads", "cores"})
    return {LATENCY: f"{latency_ms:.4g}", MEASURED_ON: json.dumps(where)}


def kept_latency(path: Path, network: ExtractedNetwork, runtime_name: str) -> dict[str, str]:
    """What a file that is written once more tells of its latency; nothing where it is another one or not there.

    Args:
        path: Of the file.
        network: That it is written from.
        runtime_name: That it is written for, as it is installed here.
    """
    try:
        _, stored = read_metadata(path)
    except ArtifactError:
        return {}
    now = f"{runtime_name} {RUNTIMES.load(runtime_name).version()}"
    if stored.get(DIGEST) != digest(network.integer) or stored.get(RUNTIME) != now:
        return {}
    return {key: stored[key] for key in (LATENCY, MEASURED_ON) if key in stored}


def preprocessing_in(metadata: Mapping[str, str], layout: str = "NCHW") -> Preprocessing | None:
    """How a picture becomes the input, as a file tells it.

    Args:
        metadata: Of an extracted network, or of an exported file.
        layout: Order of the axes that the input then has: "NCHW" or "NHWC".

    Returns:
        None where the file does not tell all of it, as earlier versions wrote them.
    """
    try:
        fields = json.loads(metadata.get(PREPROCESSING, "{}"))
        fields.pop("steps", None)
        return Preprocessing.model_validate(fields | {"layout": layout})
    except (ValueError, TypeError, AttributeError):
        return None


def read_metadata(path: Path) -> tuple[str, dict[str, str]]:
    """(runtime that a file was written for, the file's metadata).

    Raises:
        ArtifactError: No runtime has files of this suffix, or the file is damaged.
    """
    runtimes = {name: RUNTIMES.load(name) for name in RUNTIMES.names()}
    for runtime in runtimes.values():
        if path.name.endswith(runtime.SUFFIX):
            stored: dict[str, str] = runtime.metadata(path)
            written_for = stored.get(RUNTIME, "").split(" ")[0]
            if written_for not in runtimes:
                raise ArtifactError(
                    f"{path} was not written by spaceevo",
                    found=f"Its metadata name {', '.join(sorted(stored)) or 'nothing'}",
                    remedy="Give a file that `spaceevo export` wrote",
                )
            return written_for, stored
    raise ArtifactError(
        f"{path} is no model file",
        found=f"The suffix is {path.suffix!r}",
        remedy=f"Give a file that ends in {', '.join(sorted({runtime.SUFFIX for runtime in runtimes.values()}))}",
    )


def find_network(path: Path, stored: dict[str, str]) -> ExtractedNetwork:
    """The extracted network in a file's folder that the file was written from.

    Raises:
        ArtifactError: There is none.
    """
    candidates = sorted(path.parent.glob(f"*{SUFFIX}"))
    for candidate in candidates:
        network = load_extracted(candidate)
        if digest(network.integer) == stored.get(DIGEST):
            return network
    raise ArtifactError(
        f"The network that {path} was exported from does not lie beside it",
        found=f"{len(candidates)} other {SUFFIX} files in {path.parent}",
        remedy="Name it with `network` FILE",
    )
