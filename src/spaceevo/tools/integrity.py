"""Whether the files of a run folder are what was written: each against its digest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from spaceevo.artifacts import MANIFEST, FileEntry, entry_of, fault_of, is_own, read_manifest, storage_errors
from spaceevo.errors import ArtifactError
from spaceevo.measure.store import Store
from spaceevo.ownership import MARKER, kind_of, read_marker
from spaceevo.records import FileCheck, FileState, FolderCheck
from spaceevo.run.context import PROVENANCE, RECIPE, STORE
from spaceevo.run.stage import LAST, all_stages, in_order
from spaceevo.tools import cells, quantize

_OF_EARLIER = "an earlier version of spaceevo wrote it"
_OTHERS = (
    *(MARKER, RECIPE, PROVENANCE, STORE, f"{STORE}-wal", f"{STORE}-shm"),
    *(".lock", ".stored.lock", ".stored.json", "cache/*", "work/spaceevo-models-*", *cells.FILES),
    *("study.json", "assessment.json", "target.html", "predictor-*.json"),  # of a target
    *(quantize.FP32_FILE, quantize.INT8_FILE, quantize.RESULT_FILE),
)


def check_folder(folder: Path) -> FolderCheck:
    """Check every file of a run folder, or of another folder of spaceevo; nothing in it is changed.

    Digests are those of the stages' manifests, of superseded ones too, those of `spaceevo.json`, and those that cells,
    evaluated subnets and measurements carry themselves.

    Args:
        folder: Of a run, of cells, of a quantized network or of a target.

    Raises:
        ArtifactError: It is none of spaceevo's.
        StorageError: It cannot be read.
    """
    with storage_errors(folder):
        kind = kind_of(folder) if folder.is_dir() else None
        if kind is None:
            raise ArtifactError(
                f"{folder} is no folder of spaceevo",
                found="Its recipe and provenance are missing" if folder.is_dir() else "There is no such folder",
                remedy="Give the folder of a run",
            )
        checks = _Checks(folder)
        for manifest in sorted(folder.rglob(MANIFEST)):
            checks.of_stage(manifest)
        checks.of_marker()
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_dir():
                checks.of_file(path)
        stages = in_order(LAST) if kind == "run" else ()
        unfinished = tuple(stage.name for stage in stages if not (folder / stage.name / MANIFEST).exists())
    files = tuple(checks.found[name] for name in sorted(checks.found))
    return FolderCheck(folder=str(folder), files=files, unfinished=unfinished)


class _Checks:
    """What is found, by path relative to the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_quantize = kind_of(folder) == "quantize"
        stages = all_stages()
        self._patterns = {stage.name: stage.files for stage in stages} | {quantize.FINETUNING: quantize.FILES}
        self._others = (*_OTHERS, *(name for stage in stages for name in stage.published))
        self._own_digests = {f"*{name}": check for stage in stages for name, check in stage.own_digests.items()}
        self.found: dict[str, FileCheck] = {}

    def of_stage(self, manifest: Path) -> None:
        """The manifest, and all that it lists."""
        try:
            stage = read_manifest(manifest)
        except ArtifactError as error:
            self._add(manifest, "damaged", error.found)
            return
        self._add(manifest, "whole" if stage.sha256 else "unchecked", "" if stage.sha256 else _OF_EARLIER)
        for name, entry in {**stage.files, **stage.kept}.items():
            self._compare(manifest.parent / name, entry)

    def of_marker(self) -> None:
        """What belongs to no stage."""
        marker, path = read_marker(self.folder), self.folder / MARKER
        if marker is None:
            if path.exists():
                self._add(path, "damaged", "Its content has another SHA-256 than was written")
            return
        self._add(path, "whole")
        for name, entry in marker.files.items():
            if name == STORE:
                self._of_store(entry, marker.last_measured)
            else:
                self._compare(self.folder / name, entry)

    def of_file(self, path: Path) -> None:
        """Any other file."""
        name = path.relative_to(self.folder).as_posix()
        if name in self.found:
            return
        if name == STORE:
            self._of_store(None, "")
        elif not self._is_ours(name):
            self._add(path, "unknown")
        elif is_old := next((check for pattern, check in self._own_digests.items() if is_own(name, (pattern,))), None):
            self._read(path, is_old)
        else:
            self._add(path, "unchecked", "no digest of it is kept")

    def _of_store(self, entry: FileEntry | None, last_measured: str) -> None:
        """The measurements, in a copy: opening a database changes its folder."""
        path = self.folder / STORE
        if not path.exists():
            self._add(path, "missing", "it is missing")
            return
        beside = [path.with_name(f"{STORE}{suffix}") for suffix in ("", "-wal")]
        with tempfile.TemporaryDirectory() as copy:
            for file in filter(Path.exists, beside):
                shutil.copy(file, copy)
            try:
                with Store(Path(copy) / STORE) as store:
                    num_unchecked, last = store.check(), store.last_measured()
            except ArtifactError as error:
                self._add(path, "damaged", error.found)
                return
        if last < last_measured:
            last_found = f"the last is of {last}" if last else "there are none"
            self._add(path, "damaged", f"measurements are missing: {last_found}, and one of {last_measured} was made")
        elif entry and last == last_measured and not beside[1].exists() and entry_of(path) != entry:
            self._add(path, "damaged", "bytes beside its measurements differ from what was written; they are whole")
        elif num_unchecked:
            self._add(path, "unchecked", f"{num_unchecked} of its measurements have no digest: {_OF_EARLIER}")
        else:
            self._add(path, "whole")

    def _is_ours(self, name: str) -> bool:
        top, _, rest = name.partition("/")
        if top == "superseded":
            top, _, rest = rest.partition("/")
            top = top.partition("-")[0]
        if self._is_quantize and name.startswith("export/models/"):
            return True
        if is_own(name, self._others):
            return True
        return top in self._patterns and is_own(rest, (*self._patterns[top], MANIFEST, "inputs.json"))

    def _compare(self, path: Path, entry: FileEntry) -> None:
        fault = fault_of(path, entry)
        self._add(path, ("damaged" if path.exists() else "missing") if fault else "whole", fault)

    def _read(self, path: Path, is_old: Callable[[Path], bool]) -> None:
        try:
            old = is_old(path)
        except ArtifactError as error:
            self._add(path, "damaged", error.found)
        else:
            self._add(path, "unchecked" if old else "whole", _OF_EARLIER if old else "")

    def _add(self, path: Path, state: FileState, found: str = "") -> None:
        name = path.relative_to(self.folder).as_posix()
        self.found[name] = FileCheck(file=name, state=state, found=found)
