"""The command line of adb, before a phone that is a folder: `install(folder)` makes both.

What `adb shell` is given is run by a real shell, with the phone's folder in place of /data/local/tmp. `benchmark_model`
there knows the flags of the real one and prints in its format.
"""

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

SERIAL = "R5CT10ABCDE"

ADB = """#!{python} -SE
import json, os, subprocess, sys, time

HOME = {home!r}
state = json.load(open(HOME + "/state.json"))
with open(HOME + "/calls.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")


def fail(message, code=1):
    sys.stderr.write(message + "\\n")
    sys.exit(code)


words = sys.argv[1:]
if state.get("server"):
    fail(state["server"])
if words == ["devices"]:
    print("List of devices attached")
    for serial, what in state["devices"].items():
        print(serial + "\\t" + what)
    print()
    sys.exit(0)
if words[:1] != ["-s"] or len(words) < 3:
    fail("adb: usage: every command needs -s SERIAL here")
serial, words = words[1], words[2:]
what = state["devices"].get(serial)
if what is None:
    fail("adb: device '" + serial + "' not found")
if what != "device":
    fail("adb: device " + what)


def there(text):
    return text.replace("/data/local/tmp", HOME + "/phone")


if words[0] == "push" and len(words) == 3:
    source, target = words[1:]
    if state.get("push"):
        fail("adb: error: failed to copy '" + source + "' to '" + target + "': " + state["push"])
    with open(source, "rb") as read, open(there(target), "wb") as write:
        write.write(read.read())
    print(source + ": 1 file pushed, 0 skipped. 12.3 MB/s")
elif words[0] == "shell" and len(words) == 2:
    if state.get("hang"):
        time.sleep(30)
    if state.get("shell"):
        print(state["shell"])
        sys.exit(0)
    done = subprocess.run(["sh", "-c", there(words[1])], capture_output=True, text=True,
                          env=dict(os.environ, PATH=HOME + "/phone-bin:" + os.environ["PATH"]))
    said = state.get("login", "") + done.stdout.replace(HOME + "/phone", "/data/local/tmp")
    if state.get("unplugged"):  # in the middle of a command
        print(said[: len(said) // 2], end="")
        sys.exit(255)
    print(said.replace("\\n", "\\r\\n") if state.get("old") else said, end="")
    sys.stderr.write(done.stderr)
    sys.exit(0 if state.get("old") else done.returncode)
else:
    fail("adb: unknown command " + " ".join(words))
"""

GETPROP = """#!/bin/sh
case "$1" in
    ro.product.manufacturer) echo Google;;
    ro.product.model) echo Pixel 4;;
    ro.soc.model) echo SM8150;;
esac
"""

BENCHMARK = """#!{python} -SE
import json, os, sys

state = json.load(open({home!r} + "/state.json"))
if state.get("benchmark"):
    sys.stdout.write(state["benchmark"])
    sys.exit(state.get("benchmark_code", 0))
known = {{"graph", "num_threads", "use_xnnpack", "num_runs", "min_secs", "max_secs", "warmup_runs", "warmup_min_secs",
         "report_peak_memory_footprint", "enable_op_profiling"}}
flags = {{}}
for word in sys.argv[1:]:
    name, equals, value = word[2:].partition("=")
    if not word.startswith("--") or not equals or name not in known:
        sys.stderr.write("ERROR: Unconsumed cmdline flags: " + word + "\\n")
        sys.exit(1)
    flags[name] = value
say = lambda text: sys.stderr.write("INFO: " + text + "\\n")
say("STARTING!")
say("Log parameter values verbosely: [0]")
content = open(flags["graph"], "rb").read()
if content[4:8] != b"TFL3" or len(content) < 200 or state.get("refuses"):
    sys.stderr.write("ERROR: Model provided has model identifier '....', should be 'TFL3'\\n")
    sys.stderr.write("ERROR: Failed to load model " + flags["graph"] + "\\nERROR: Benchmarking failed.\\n")
    sys.exit(1)
say("Loaded model " + flags["graph"])
say("Explicitly applied XNNPACK delegate, and the model graph will be "
    + ("partially" if state.get("partial") else "completely") + " executed by the delegate.")
say("The input model file size (MB): " + "%g" % (len(content) / 1e6))
say("Initialized session in 16.242ms.")
cores = len(os.sched_getaffinity(0))
base = len(content) // 64 // max(1, min(int(flags["num_threads"]), cores)) + 40


def statistics(runs):
    say("Running benchmark for at least %d iterations and at least %s seconds but terminate if exceeding %s seconds."
        % (runs, flags["min_secs"], flags["max_secs"]))
    times = [base + (7 * run) % 5 for run in range(runs)]
    if len(set(times)) == 1:
        say("count=%d curr=%d%s\\n" % (runs, times[-1], "(all same)" if runs > 1 else ""))
    else:
        mean = sum(times) / runs
        deviation = (sum((time - mean) ** 2 for time in times) / runs) ** 0.5
        say("count=%d first=%d curr=%d min=%d max=%d avg=%g std=%d\\n"
            % (runs, times[0], times[-1], min(times), max(times), mean, deviation))
    return sum(times) / runs


warm = statistics(int(flags["warmup_runs"]))
mean = statistics(int(flags["num_runs"]))
say("Inference timings in us: Init: 16242, First inference: %d, Warmup (avg): %g, Inference (avg): %g"
    % (base, warm, mean))
say("Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual "
    "memory footprint of the model at runtime. Take the information at your discretion.")
say("Memory footprint delta from the start of the tool (MB): init=4.92969 overall=13.8809")
if flags.get("report_peak_memory_footprint") == "true" and not state.get("no_peak"):
    say("Overall peak memory footprint (MB) via periodic monitoring: 25.0508")
if flags.get("enable_op_profiling") == "true" and not state.get("no_profile"):
    say("Operator-wise Profiling Info for Regular Benchmark Runs:")
    print("============================== Run Order ==============================")
    print("\\t       [node type]\\t  [first]\\t [avg ms]\\t     [%]\\t  [cdf%]\\t  [mem KB]\\t[times called]\\t[Name]")
    for number, kind in enumerate(("IGEMM", "GEMM", "GEMM")):
        kind = "Convolution (NHWC, QC8) " + kind
        print("\\t%27s\\t    0.043\\t    0.041\\t 33.333%%\\t 33.333%%\\t     0.000\\t        1\\tDelegate/%s:%d"
              % (kind, kind, number))
"""


class Phone:
    """A phone in a folder, and the adb before it in `folder/bin`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (
            ("bin/adb", ADB.format(python=sys.executable, home=str(folder))),
            ("phone-bin/getprop", GETPROP),
            ("phone/benchmark_model", BENCHMARK.format(python=sys.executable, home=str(folder))),
        ):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.change()

    def change(self, **state: Any) -> None:
        """Put it into a state; what is not named is as it should be."""
        (self.folder / "state.json").write_text(json.dumps({"devices": {SERIAL: "device"}, **state}))

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of every call of adb."""
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]

    @property
    def files(self) -> list[str]:
        """What lies on the phone."""
        phone = self.folder / "phone"
        return sorted(str(path.relative_to(phone)) for path in phone.rglob("*"))

    @property
    def path(self) -> str:
        """A PATH on which this adb comes first."""
        return f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def without_benchmark(self) -> None:
        """Nobody has pushed the benchmark program."""
        shutil.move(self.folder / "phone/benchmark_model", self.folder / "elsewhere")
