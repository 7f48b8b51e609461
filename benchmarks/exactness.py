"""20 subnets over every block type, trained a little, exported to every installed runtime and compared on 2,000 images.

Weight codes lie within 63 and 127 by turns; gammas have both signs. The networks are kept in the folder, so that a
second run only exports and verifies.

Run: python benchmarks/exactness.py [--out runs/exactness] [--runtime NAME ...] [--only N ...]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from spaceevo.config import DataSettings, TrainingSettings
from spaceevo.errors import TargetError
from spaceevo.nets.extracted import digest, load_extracted, save_extracted
from spaceevo.nets.network import program_of, single_network
from spaceevo.nets.verification import DIGEST, verify
from spaceevo.processors import this_profile
from spaceevo.progress import silent
from spaceevo.records import ExtractedNetwork
from spaceevo.report.console import verification_table
from spaceevo.run.context import load_data
from spaceevo.runtimes import RUNTIMES
from spaceevo.seeding import python_random
from spaceevo.spaces.blocks import BLOCKS
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import Subnet
from spaceevo.spaces.zoo import load_network
from spaceevo.tools.file_metadata import PRECISION, metadata_of
from spaceevo.train.batches import Images, to_input, torch_generator
from spaceevo.train.evaluation import BATCH_SIZE, calibrated_subnet
from spaceevo.train.loop import train

RESOLUTION = 64
NUM_CLASSES = 10
ZOO = ("MobileNetV3-Small", "EfficientNet-B0", "ResNet-18", "MobileNetV4-Conv-Medium", "FBNetV3-A")
DATA = DataSettings(
    name="procedural",
    image_size=RESOLUTION,
    options={"num_classes": NUM_CLASSES, "num_train": 2000, "num_val": 2000},
)
TRAINING = TrainingSettings(epochs_fp32=3, epochs_int8=1, batch_size=32, lr=0.2, lr_int8=0.02)


def subnets() -> Iterator[tuple[str, Subnet]]:
    """Five subnets of random spaces of each preset, drawn until its block types all occur, and five of the zoo."""
    for preset in ("micro", "mobilew", "onnxw"):
        hyperspace = load_hyperspace(preset)
        wanted = {choice.block_type.kind for stage in hyperspace.stages for choice in stage.choices}
        for seed in range(1000):
            rng = python_random(seed, "exactness", preset)
            drawn = [hyperspace.space(hyperspace.sample(rng), NUM_CLASSES).sample(rng) for _ in range(5)]
            if {stage.block_type.kind for subnet in drawn for stage in subnet.stages} == wanted:
                break
        yield from ((f"{preset}-{index}", replace(subnet, resolution=RESOLUTION)) for index, subnet in enumerate(drawn))
    for name in ZOO:
        yield name, replace(load_network(name).subnet, resolution=RESOLUTION, num_classes=NUM_CLASSES)


def trained(name: str, subnet: Subnet, w_qmax: int, images: Images, folder: Path) -> ExtractedNetwork:
    """A network after a little training, its gammas of both signs."""
    program = program_of(subnet)
    network = single_network(program, w_qmax, torch_generator(0, "exactness", name))
    generator = torch_generator(0, "exactness", name, "signs")
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith(".gamma"):
                parameter.mul_(torch.where(torch.rand(parameter.shape, generator=generator) < 0.3, -1.0, 1.0))
    files, _ = train(network, lambda rng: [program], images, TRAINING, DATA, seed=0, purpose=name, folder=folder,
                     progress=silent)  # fmt: skip
    int8 = calibrated_subnet(network, program, images, 16)
    twin = single_network(program, w_qmax, torch_generator(0, "exactness", name))
    twin.load_state_dict(_fp32_state(files.fp32, twin))
    fp32 = calibrated_subnet(twin, program, images, 16)
    names = tuple(f"class{index}" for index in range(NUM_CLASSES))
    metadata = metadata_of(subnet, names, subnet.resolution, this_profile(), w_qmax, "benchmark")
    return ExtractedNetwork(int8.integer_graph(program), fp32.float_graph(program), metadata)


def _fp32_state(path: Path, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    from spaceevo.train.checkpoints import load_tensors

    tensors, _ = load_tensors(path)
    return {name: tensors[name] for name in network.state_dict()}


def installed(wanted: list[str] | None) -> list[str]:
    """Names of the runtimes that can be used here."""
    names = []
    for name in wanted or RUNTIMES.names():
        try:
            RUNTIMES.load(name).version()
        except TargetError as error:
            print(f"left out: {error}")
        else:
            names.append(name)
    return names


def main() -> None:
    """Train what is missing, verify, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/exactness"))
    parser.add_argument("--runtime", nargs="*")
    parser.add_argument("--only", nargs="*", type=int, help="numbers of networks, from 0")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_data(DATA, options.out / "cache")
    images = Images(torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels))
    inputs, labels = to_input(torch.from_numpy(data.val_images), RESOLUTION), torch.from_numpy(data.val_labels)
    runtimes = installed(options.runtime)
    chosen = [one for one in enumerate(subnets()) if not options.only or one[0] in options.only]
    kinds = {stage.block_type.kind for _, (_, subnet) in chosen for stage in subnet.stages}
    print(f"{platform.machine()}, {this_profile().about}; torch {torch.__version__}, "
          + ", ".join(f"{name} {RUNTIMES.load(name).version()}" for name in runtimes)
          + f"; {len(labels)} images of {RESOLUTION} pixels; block types: {len(kinds)} of "
          f"{len(BLOCKS.names())}")  # fmt: skip
    found = []
    for number, (name, subnet) in chosen:
        w_qmax = (63, 127)[number % 2]
        path = options.out / f"{name}.safetensors"
        start = time.monotonic()
        if not path.exists():
            save_extracted(path, trained(name, subnet, w_qmax, images, options.out / "training"))
            print(f"{name}: {subnet.macs / 1e6:.1f} M MACs, trained in {time.monotonic() - start:.0f} s", flush=True)
        network = load_extracted(path)
        for runtime_name in runtimes:
            runtime = RUNTIMES.load(runtime_name)
            file = options.out / f"{name}-{runtime_name}{runtime.SUFFIX}"
            metadata = {**network.metadata, DIGEST: digest(network.integer), PRECISION: "int8"}
            runtime.export_int8(network.integer, file, metadata)
            one = verify(file, runtime_name, network.integer, inputs.split(BATCH_SIZE), labels, this_profile().name,
                         min_agreement=0.99, threads=torch.get_num_threads())  # fmt: skip
            found.append((runtime_name, one))
            print(f"{one.file}: same class as integers {one.integer.top1:.2%}, as fake-quantized "
                  f"{one.fake_quantized.top1:.2%}, {one.fake_quantized.mean_steps:.4f} steps, "
                  f"{time.monotonic() - start:.0f} s", flush=True)  # fmt: skip
            for problem in one.problems:
                print(f"{one.file}: {problem}; first at {one.first_difference}", flush=True)
    Console(width=120).print(verification_table([one for _, one in found]))
    for runtime_name in runtimes:
        ours = [one for name, one in found if name == runtime_name]
        top1, steps = [one.fake_quantized.top1 for one in ours], [one.fake_quantized.mean_steps for one in ours]
        print(f"{runtime_name}: {len(ours)} networks; same class as fake-quantized: least {min(top1):.2%}, mean "
              f"{statistics.mean(top1):.3%}; mean difference in steps: largest {max(steps):.4f}, mean "
              f"{statistics.mean(steps):.4f}; same class as integers: least "
              f"{min(one.integer.top1 for one in ours):.2%}")  # fmt: skip
    results = [one.model_dump() for _, one in found]
    (options.out / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
