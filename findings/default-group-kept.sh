#!/usr/bin/env bash
# PyTorch 2.13.0: the functions of `torch.distributed.nn.functional` have the default process group of the moment of
# their import as a default argument. `torch._dynamo` imports them, and the first step of any optimizer imports that. So
# a training that joins its group first and makes its optimizer then keeps the group for the life of the process:
# `destroy_process_group()` neither ends gloo's threads nor frees its sockets. Such a thread may still hold a tensor when
# Python ends, and the process, which had done all of its work, ends by SIGABRT ("terminate called without an active
# exception", rarely, seen under load). Importing that module before `init_process_group` prevents it.
#
# Seen on Linux x86_64, Python 3.11:
#
#     torch 2.13.0
#     no optimizer: no thread of gloo is left
#     an optimizer's step within the group: 3 threads of gloo are left
#     the same, torch.distributed.nn.functional imported before: no thread of gloo is left
#     as described
#
# Installs public packages into a folder of its own, which goes at the end; needs the network, and no spaceevo.
# Exit code 0: as described; 1: this version behaves otherwise.
#
#     bash findings/default-group-kept.sh [PYTHON]
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${1:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install torch==2.13.0 numpy

cat > "$work/group.py" <<'PYTHON'
import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist

if "early" in sys.argv:
    import torch.distributed.nn.functional
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
weight = torch.nn.Parameter(torch.ones(3))
weight.grad = torch.ones(3)
dist.all_reduce(weight.grad)
if "optimizer" in sys.argv:
    torch.optim.SGD([weight], lr=0.1).step()
dist.destroy_process_group()
gc.collect()
left = sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())
print(f"{left or 'no'} thread{'s' * (left > 1)} of gloo {'are' if left > 1 else 'is'} left")
PYTHON
echo "torch $("$work/venv/bin/python" -c 'import torch; print(torch.__version__.split("+")[0])')"

as_described=true
# left WHAT EXPECTED WORDS: what is left after the group was destroyed
left() {
    local told
    told=$("$work/venv/bin/python" "$work/group.py" "$work/store-$RANDOM" "${@:3}" 2>/dev/null)
    echo "$1: $told"
    [[ $told == $2* ]] || as_described=false
}
left "no optimizer" "no thread"
left "an optimizer's step within the group" "3 threads" optimizer
left "the same, torch.distributed.nn.functional imported before" "no thread" optimizer early
if $as_described; then echo "as described"; else echo "not as described"; exit 1; fi
