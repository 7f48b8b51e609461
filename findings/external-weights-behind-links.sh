#!/usr/bin/env bash
# A model whose weights lie in a second file, in the layout of a hub's cache (the files in one folder, and links to them
# by their names in another): ONNX Runtime 1.32.0 loads it, as model and weights lead to the same folder, and refuses a
# model that is no link itself beside linked weights. OpenVINO 2026.4.1 refuses both, though it opens a model by a link
# where the weights lie beside that link. Copied with links followed (cp -L), both load it.
#
# Seen on Linux x86_64, Python 3.11:
#
#     onnxruntime 1.32.0: plain loads, cache loads, linked-model loads, linked-weights refuses, copied loads
#     openvino 2026.4.1: plain loads, cache refuses, linked-model loads, linked-weights refuses, copied loads
#     as described
#
# Installs public packages into a folder of its own, which goes at the end; needs the network, and no spaceevo.
# Exit code 0: as described; 1: these versions behave otherwise.
#
#     bash findings/external-weights-behind-links.sh [PYTHON]
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${1:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install onnxruntime==1.32.0 openvino==2026.4.1 onnx==1.23.2 numpy

cat > "$work/make.py" <<'PYTHON'
import pathlib
import shutil
import sys

import numpy
from onnx import TensorProto, checker, helper, numpy_helper, save_model

root = pathlib.Path(sys.argv[1])
weights = numpy_helper.from_array(numpy.ones((64, 64), numpy.float32), "w")
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "graph", values[:1], values[1:], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
(root / "plain").mkdir()
save_model(model, root / "plain/model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
checker.check_model(str(root / "plain/model.onnx"))
for name in ("blobs", "cache", "linked-model", "linked-weights", "copied"):
    (root / name).mkdir()
for number, name in enumerate(("model.onnx", "model.onnx_data")):
    shutil.copy(root / "plain" / name, root / f"blobs/{number}")
    (root / "cache" / name).symlink_to(f"../blobs/{number}")
    shutil.copy(root / "cache" / name, root / "copied" / name)
(root / "linked-model/model.onnx").symlink_to("../blobs/0")
shutil.copy(root / "blobs/1", root / "linked-model/model.onnx_data")
shutil.copy(root / "blobs/0", root / "linked-weights/model.onnx")
(root / "linked-weights/model.onnx_data").symlink_to("../blobs/1")
PYTHON
cat > "$work/load.py" <<'PYTHON'
import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
runtime, path = sys.argv[1:]
try:
    if runtime == "onnxruntime":
        import onnxruntime

        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    else:
        import openvino

        openvino.Core().compile_model(path, "CPU")
    print("loads")
except Exception:
    print("refuses")
PYTHON
"$work/venv/bin/python" "$work/make.py" "$work"

# outcomes PACKAGE: its version, and which layouts it loads
outcomes() {
    echo -n "$1 $("$work/venv/bin/python" -c "from importlib.metadata import version; print(version('$1').split('-')[0])"):"
    local separator=" "
    for layout in plain cache linked-model linked-weights copied; do
        echo -n "$separator$layout $("$work/venv/bin/python" "$work/load.py" "$1" "$work/$layout/model.onnx" 2> /dev/null)"
        separator=", "
    done
    echo
}

found=$(outcomes onnxruntime; outcomes openvino)
echo "$found"
if [[ "$(sed -n 's/^#     \([a-z]* [0-9.]*: .*\)/\1/p' "$0")" == "$found" ]]; then
    echo "as described"
else
    echo "not as described"
    exit 1
fi
