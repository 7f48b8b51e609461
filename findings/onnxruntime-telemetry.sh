#!/usr/bin/env bash
# ONNX Runtime 1.32.0 for Linux (the wheel of PyPI) keeps a queue of telemetry events, and an id of the device, in the
# cache of the home folder as soon as a model is loaded. `disable_telemetry_events()`, called right after the import,
# does not prevent it; ORT_DISABLE_TELEMETRY=1 in the environment, set before the import, does. Whether the events are
# sent was not looked at.
#
# Seen on Linux x86_64, Python 3.11:
#
#     onnxruntime 1.32.0
#     as it is: .cache/Microsoft/DeveloperTools/.onnxruntime/deviceid .cache/Microsoft/DeveloperTools/.onnxruntime/onnxruntime.db
#     disable_telemetry_events(): .cache/Microsoft/DeveloperTools/.onnxruntime/deviceid .cache/Microsoft/DeveloperTools/.onnxruntime/onnxruntime.db
#     ORT_DISABLE_TELEMETRY=1: nothing
#     as described
#
# Installs public packages into a folder of its own, which goes at the end; needs the network, and no spaceevo.
# Exit code 0: as described; 1: this version behaves otherwise.
#
#     bash findings/onnxruntime-telemetry.sh [PYTHON]
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${1:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install onnxruntime==1.32.0 onnx==1.23.2 numpy

cat > "$work/model.py" <<'PYTHON'
import sys

from onnx import TensorProto, checker, helper, save

values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model)
save(model, sys.argv[1])
PYTHON
cat > "$work/use.py" <<'PYTHON'
import sys

import numpy
import onnxruntime

if "disable" in sys.argv:
    onnxruntime.disable_telemetry_events()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"x": numpy.ones((1, 3), numpy.float32)})
PYTHON
"$work/venv/bin/python" "$work/model.py" "$work/model.onnx"
echo "onnxruntime $("$work/venv/bin/python" -c 'from importlib.metadata import version; print(version("onnxruntime"))')"

# left WHAT VARIABLE=VALUE WORDS: the files that a process leaves in an empty home folder; sets `files`
left() {
    local home="$work/home-$2"
    mkdir "$home"
    env -u ORT_DISABLE_TELEMETRY -u XDG_CACHE_HOME HOME="$home" "$2" \
        "$work/venv/bin/python" "$work/use.py" "$work/model.onnx" "${@:3}"
    files=$(cd "$home" && find . -type f -printf '%P\n' | sort | tr '\n' ' ')
    files=${files% }
    echo "$1: ${files:-nothing}"
}

as_described=true
left "as it is" MODE=plain
[[ $files == *onnxruntime.db* ]] || as_described=false
left "disable_telemetry_events()" MODE=disabled disable
[[ $files == *onnxruntime.db* ]] || as_described=false
left "ORT_DISABLE_TELEMETRY=1" ORT_DISABLE_TELEMETRY=1
[[ -z $files ]] || as_described=false
if $as_described; then echo "as described"; else echo "not as described"; exit 1; fi
