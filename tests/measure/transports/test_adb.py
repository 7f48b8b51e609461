"""adb: what it is given, how its output reads, and what is told when the phone is not what it should be."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from fake_adb import SERIAL, Phone

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.measure import target
from spaceevo.measure.transports import adb

RUNTIME = "litert"


def test_the_command_that_times(phone: Phone, models: Any) -> None:
    device = adb.connect(SERIAL)
    model = device.load(RUNTIME, models(RUNTIME), threads=2, cores=(1,))
    push = next(call for call in phone.calls if "push" in call)
    assert push[:4] == ["-s", SERIAL, "push", str(models(RUNTIME))]
    folder, _, file = push[4].rpartition("/")
    assert folder.startswith("/data/local/tmp/spaceevo-")
    assert model.time(9)
    assert phone.calls[-1] == [
        "-s",
        SERIAL,
        "shell",
        f"echo spaceevo-begin; taskset 2 /data/local/tmp/benchmark_model --graph={folder}/{file} --num_threads=2"
        " --use_xnnpack=true --num_runs=9 --min_secs=0 --max_secs=600 --warmup_runs=5 --warmup_min_secs=0 2>&1"
        "; echo spaceevo-exit:$?",
    ]
    device.load(RUNTIME, models(RUNTIME), threads=1).time(1)
    assert sum("push" in call for call in phone.calls) == 1
    assert "taskset" not in phone.calls[-1][3]


def test_masks_of_cores(phone: Phone, models: Any) -> None:
    device = adb.connect(SERIAL)
    with contextlib.suppress(TargetError):  # this machine may have fewer
        device.load(RUNTIME, models(RUNTIME), 1, (4, 5, 6, 7))
    assert any("taskset f0 " in call[-1] for call in phone.calls)


def test_nothing_is_left_there(phone: Phone, models: Any) -> None:
    device = adb.connect("")
    first, second = (device.load(RUNTIME, models(RUNTIME), 1) for _ in range(2))
    other = device.load(RUNTIME, models(RUNTIME, 64), 1)
    assert len(phone.files) == 4
    first.close()
    assert len(phone.files) == 4
    second.close()
    assert len(phone.files) == 3
    assert other.time(1)
    device.close()
    assert phone.files == ["benchmark_model"]


@pytest.mark.parametrize(
    ("online", "allowed", "cores"),
    [
        (range(8), "", range(8)),
        ((4, 5, 6, 7), "", (4, 5, 6, 7)),
        ((0, 1, 2, 3, 7), "", (0, 1, 2, 3, 7)),
        ((0, 2, 4, 6), "0-7", (0, 2, 4, 6)),
        (range(8), "0-3,7", (0, 1, 2, 3, 7)),
    ],
)
def test_cores_that_are_on_and_may_be_used(phone: Phone, online: Any, allowed: str, cores: Any) -> None:
    """`grep` there tells other files than this machine has."""
    cpuinfo = "".join(f"/proc/cpuinfo:processor\t: {number}\n/proc/cpuinfo:\n" for number in online)
    status = f"/proc/self/status:Name:\tgrep\n/proc/self/status:Cpus_allowed_list:\t{allowed}\n" if allowed else ""
    (phone.folder / "files").write_text(cpuinfo + status)
    grep = phone.folder / "phone-bin/grep"
    grep.write_text(f"#!/bin/sh\ncat {phone.folder}/files\n")
    grep.chmod(0o755)
    processor = adb.connect("").processor()
    assert processor.cores == set(cores)
    assert processor.num_cores == len(online)


def test_what_a_login_prints_is_no_answer(phone: Phone) -> None:
    getprop = phone.folder / "phone-bin/getprop"
    getprop.write_text("#!/bin/sh\necho Acme\n")
    phone.change(login="WARNING: linker: unused DT entry\n$ ")
    assert adb.connect("").processor().model.startswith("Acme")
    assert "WARNING" not in adb.connect("").processor().model


def test_what_the_phone_is(phone: Phone) -> None:
    device = adb.connect("")
    assert device.processor().model.startswith("Google Pixel 4 (SM8150)")
    version = device.runtime_version(RUNTIME)
    assert version == device.runtime_version(RUNTIME)
    with (phone.folder / "phone/benchmark_model").open("a") as file:
        file.write("\n# newer\n")
    assert device.runtime_version(RUNTIME) != version
    assert device.state().load is not None
    assert target.describe(f"litert@adb:{SERIAL}", 1, (0,)).runtime_version.startswith("benchmark_model ")


def test_an_old_phone_passes_no_exit_codes_on(phone: Phone, models: Any, tmp_path: Path) -> None:
    phone.change(old=True)
    device = adb.connect("")
    assert len(device.load(RUNTIME, models(RUNTIME), 1).time(4)) == 4
    refused = tmp_path / "refused.tflite"  # by the program: see `fake_adb`
    refused.write_bytes(models(RUNTIME).read_bytes())
    phone.change(old=True, refuses=True)
    with pytest.raises(ArtifactError, match="model identifier"):
        device.load(RUNTIME, refused, 1)


@pytest.mark.parametrize(
    ("devices", "serial", "told"),
    [
        ({}, "", r"A device is not attached.*attached: none"),
        ({}, SERIAL, rf"{SERIAL} is not attached.*attached: none"),
        ({"other": "device"}, SERIAL, rf"{SERIAL} is not attached.*attached: other \(device\)"),
        ({SERIAL: "unauthorized"}, "", rf"{SERIAL} does not trust this machine yet.*accept"),
        ({SERIAL: "offline"}, SERIAL, rf"{SERIAL} is offline.*reconnect"),
        ({SERIAL: "no permissions (missing udev rules?)"}, "", r"may not talk to"),
        ({SERIAL: "device", "other": "offline"}, "", r"Several devices are attached.*other \(offline\).*adb:SERIAL"),
    ],
)
def test_devices_that_are_not_ready(phone: Phone, devices: dict[str, str], serial: str, told: str) -> None:
    phone.change(devices=devices)
    with pytest.raises(TargetError, match=told):
        adb.connect(serial)


def test_one_of_several(phone: Phone) -> None:
    phone.change(devices={"other": "device", SERIAL: "device"})
    assert adb.connect(SERIAL).state().load is not None
    assert phone.calls[-1][1] == SERIAL


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"devices": {}}, rf"{SERIAL} is not attached \(any more\)"),
        ({"devices": {SERIAL: "offline"}}, rf"{SERIAL} is offline"),
        ({"devices": {SERIAL: "unauthorized"}}, r"does not trust this machine"),
        ({"unplugged": True}, rf"{SERIAL} is not attached.*in the middle.*Running benchmark"),
        ({"shell": "garbage"}, r"answered with what is no answer.*garbage"),
        ({"benchmark": "garbage\n"}, r"printed no latencies.*No statistics.*garbage"),
        ({"benchmark": "count=3 first=1 curr=1 min=1 max=1 avg=1 std=0\n"}, r"printed no latencies.*No statistics"),
        ({"benchmark": "count=2 curr=7\nInference timings in us: Init: 1"}, r"2 inferences instead of 3"),
        ({"benchmark": "count=3 curr=0(all same)\nInference timings in us: Init: 1"}, r"printed no latencies"),
        ({"benchmark": "Segmentation fault\n", "benchmark_code": 139}, r"does not run on.*139.*Segmentation fault"),
        ({"benchmark": "CANNOT LINK EXECUTABLE: no libc", "benchmark_code": 1}, r"does not run on.*CANNOT LINK"),
        ({"partial": True}, r"kernels that count.*partially executed"),
        ({"server": "error: cannot connect to daemon"}, rf"{SERIAL} is not attached.*daemon"),
    ],
)
def test_faults_in_the_middle(phone: Phone, models: Any, state: dict[str, Any], told: str) -> None:
    device = adb.connect("")
    model = device.load(RUNTIME, models(RUNTIME), 1)
    phone.change(**state)
    with pytest.raises(TargetError, match=told):
        model.time(3)
    phone.change()  # and it goes on
    assert len(model.time(3)) == 3
    phone.change(**state)
    device.close()


def test_a_phone_that_hangs(phone: Phone, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adb.connect("").load(RUNTIME, models(RUNTIME), 1)
    phone.change(hang=True)
    monkeypatch.setattr(adb, "TIMING_TIMEOUT", 0.3)
    with pytest.raises(TargetError, match=r"did not answer within 0\.3 s"):
        model.time(1)


@pytest.mark.parametrize(
    "said", ["remote couldn't create file: No space left on device", "remote No space left on device"]
)
def test_a_full_disk(phone: Phone, models: Any, said: str) -> None:
    device = adb.connect("")
    phone.change(push=said)
    with pytest.raises(TargetError, match=rf"The disk of {SERIAL} is full.*No space left"):
        device.load(RUNTIME, models(RUNTIME), 1)
    phone.change()
    assert device.load(RUNTIME, models(RUNTIME), 1).time(1)


def test_nobody_has_pushed_the_program(phone: Phone, models: Any) -> None:
    phone.without_benchmark()
    device = adb.connect("")
    for attempt in (lambda: device.runtime_version(RUNTIME), lambda: device.load(RUNTIME, models(RUNTIME), 1)):
        with pytest.raises(TargetError, match=r"no benchmark_model on .*bazel build.*adb -s .* push .*chmod 755"):
            attempt()
    device.close()
    assert phone.files == []


def test_a_runtime_without_a_program(phone: Phone, models: Any) -> None:
    device = adb.connect("")
    with pytest.raises(TargetError, match=r"'onnxruntime' has no benchmark program.*litert"):
        device.load("onnxruntime", models("onnxruntime"), 1)
    with pytest.raises(TargetError, match=r"'onnxruntime' has no benchmark program.*litert"):
        device.runtime_version("onnxruntime")


def test_peak_memory(phone: Phone, models: Any) -> None:
    device = adb.connect("")
    assert device.peak_memory_mib(RUNTIME, models(RUNTIME), 1) == 25.0508
    assert "--report_peak_memory_footprint=true" in str(phone.calls)
    phone.change(no_peak=True)
    with pytest.raises(TargetError, match=r"does not tell the peak memory.*newer benchmark_model"):
        device.peak_memory_mib(RUNTIME, models(RUNTIME), 1)


def test_no_adb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TargetError, match="adb is not installed"):
        adb.connect("")
