"""A Ray cluster; one of this machine alone is started on the spot where no address is given.

Every machine needs the same spaceevo with its plug-ins, and sees the run folder under the same path or has it from an
object store.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

from spaceevo.config import EngineSettings
from spaceevo.engines import MAX_LOSSES, ONE_CORE, J, Needs, R, Shares, Work, job_name
from spaceevo.errors import EngineError, SpaceEvoError
from spaceevo.progress import ProgressCallback

try:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    ray = None

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_BETWEEN_REPORTS = 0.3
SECONDS_TO_CONNECT = 10.0


class RayEngine:
    """See `spaceevo.engines.Engine`. A device is a custom resource of the machines that have it.

    Args:
        settings: The section `engine` of the recipe.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._board: Any = None  # an actor; starting one takes a second

    def map(
        self,
        work: Work[J, R],
        jobs: Sequence[J],
        progress: ProgressCallback,
        sizes: Sequence[float] = (),
        needs: Needs = ONE_CORE,
    ) -> Iterator[tuple[int, R]]:
        """See `Engine.map`."""
        if not jobs:
            return
        self.connect()
        self._check(needs)
        shares = Shares(len(jobs), sizes, progress)
        options = {
            "num_cpus": needs.cpus,
            "num_gpus": needs.gpus,
            "resources": {needs.device: 1} if needs.device else {},
            "max_retries": MAX_LOSSES,
        }
        board, shared, key = self._board, ray.put(work), uuid4().hex
        remote = ray.remote(_run).options(**options)
        running = {remote.remote(shared, job, board, (key, number)): number for number, job in enumerate(jobs)}
        looked = time.monotonic()
        try:
            while running:
                done, _ = ray.wait(list(running), num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)
                for reference in done:
                    number = running.pop(reference)
                    yield number, _result(reference, job_name(jobs, number))
                    shares.set(number, 1)
                if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:
                    looked = time.monotonic()
                    for number, share in ray.get(board.read.remote(key)).items():
                        if number in running.values():
                            shares.set(number, share)
                shares.tell()
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            board.forget.remote(key)

    def together(self, work: Callable[[ProgressCallback], R], progress: ProgressCallback, needs: Needs = ONE_CORE) -> R:
        """See `Engine.together`: by Ray Train, with fewer processes where machines are lost."""
        if count := self._settings.trainers:
            self.connect()
            self._check(needs)
            job = work, count, needs
            list(self.map(_train_together, [job], progress, needs=Needs(cpus=0)))
        return work(progress)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._board = None
        if ray.is_initialized():
            ray.shutdown()

    def connect(self) -> None:
        """Find or start the cluster.

        Raises:
            EngineError: It is not there.
        """
        address, workers = self._settings.address, self._settings.workers
        start: dict[str, Any] = {} if address else {"num_cpus": workers or None, "include_dashboard": False}
        try:
            host, _, port = address.rpartition(":")
            if port.isdigit() and "/" not in host:  # Ray itself would wait for minutes
                socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()
            if not ray.is_initialized():
                ray.init(
                    address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    **start,
                )
            if self._board is None:  # on this machine, whose loss ends all anyway
                here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
                self._board = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
        except (OSError, RuntimeError, ValueError) as error:
            where = f"at {address}" if address else "on this machine"
            raise EngineError(
                f"There is no Ray cluster {where}",
                found=str(error).strip().splitlines()[0],
                remedy="Start one (`ray start --head`), correct engine.address, or leave it out; a cluster with token "
                "authentication wants RAY_AUTH_MODE=token and its token",
            ) from error

    @staticmethod
    def _check(needs: Needs) -> None:
        """A job that no machine can take would wait for ever."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = {"CPU": needs.cpus, "GPU": needs.gpus} | ({needs.device: 1} if needs.device else {})
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            told = "; ".join(
                ", ".join(f"{name} {amount:g}" for name, amount in sorted(node.items())
                          if not name.startswith(("node:", "memory", "object_store")))
                for node in nodes
            )  # fmt: skip
            raise EngineError(
                f"No machine of the Ray cluster has {', '.join(f'{k} {v:g}' for k, v in wanted.items() if v)}",
                found=f"Its machines have: {told}",
                remedy="Start the machine that has it with `ray start --address=... --resources='{\"NAME\": 1}'`",
            )


def start(settings: EngineSettings) -> RayEngine:
    """The engine.

    Raises:
        EngineError: Ray is not installed, or the cluster not there.
    """
    if ray is None:
        raise EngineError(
            "The engine ray needs the package ray",
            found="It is not installed",
            remedy="Install it with: pip install 'spaceevo[ray]', or take the engine local",
        )
    engine = RayEngine(settings)
    engine.connect()
    return engine


class _Board:
    """An actor where jobs note how far they are."""

    def __init__(self) -> None:
        self._shares: dict[str, dict[int, float]] = {}

    def note(self, place: tuple[str, int], share: float) -> None:
        key, number = place
        self._shares.setdefault(key, {})[number] = share

    def read(self, key: str) -> dict[int, float]:
        return self._shares.get(key, {})

    def forget(self, key: str) -> None:
        self._shares.pop(key, None)


def _run(work: Work[J, R], job: J, board: Any, place: tuple[str, int]) -> R:
    told = 0.0

    def report(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > SECONDS_BETWEEN_REPORTS:
            told = time.monotonic()
            board.note.remote(place, done / total)

    return work(job, report)


def _train_together(job: tuple[Callable[[ProgressCallback], Any], int, Needs], progress: ProgressCallback) -> None:
    """Start Ray Train, and wait for it."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    work, count, needs = job

    def train() -> None:
        work(progress)

    with tempfile.TemporaryDirectory() as folder:  # of Ray Train's notes; the work keeps its own checkpoints
        trainer = TorchTrainer(
            train,
            scaling_config=ScalingConfig(
                num_workers=(1, count),
                use_gpu=needs.gpus > 0,
                resources_per_worker={"CPU": needs.cpus} | ({"GPU": needs.gpus} if needs.gpus else {}),
            ),
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if needs.gpus else "gloo"),
            run_config=RunConfig(
                name="spaceevo", storage_path=folder, failure_config=FailureConfig(max_failures=MAX_LOSSES)
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", {}).values()
            raised = [getattr(failure, "_base_exc", failure) for failure in failures]
            raise next((one for one in raised if isinstance(one, SpaceEvoError)), error) from None


def _result(reference: Any, name: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None
    except ray.exceptions.RayError as error:  # a crashed worker or a lost machine, more often than may be
        raise EngineError(
            f"{name} was lost {MAX_LOSSES + 1} times",
            found=str(error).strip().splitlines()[0],
            remedy="Look at the machines of the cluster; what is finished is kept",
        ) from error
