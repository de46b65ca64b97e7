#!/usr/bin/env bash
# What only a GPU can show, in one go of at most eight minutes, without a network.
#
#   benchmarks/gpu.sh [OUT]                    in an environment that has SCORE's dependencies
#   WHEELS=wheels benchmarks/gpu.sh [OUT]      with a folder made by tools/wheelhouse.sh, on a machine that has torch
#   DEVICE=cpu MODEL=experiment=synthetic_demo SIZE=64 LARGE=96 BATCHES=[1,2] benchmarks/gpu.sh     a rehearsal
#
# First what must be equal: prediction, training steps in 16 bits, a process group, a whole short run. Then what it
# costs. A step that fails or runs out of time is told, and the next one goes on; the exit code is their number.
# OUT gets a log and the figures of every step, and summary.json.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-${OUT:-gpu}}") python=${PYTHON:-python3} device=${DEVICE:-cuda}
model=${MODEL:-experiment=paper_isaid} size=${SIZE:-512} large=${LARGE:-800} batches=${BATCHES:-[1,8,32]}
mkdir -p "$out"
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl || exit 2
    export PYTHONPATH=$site
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} SCORE_TEST_DEVICE=$device PYTHONUNBUFFERED=1
work=$(mktemp -d)
trap 'rm -rf "$work" "${site:-$work}"' EXIT
failed=()

step() { # NAME SECONDS COMMAND...: so many at most, and no more than the eight minutes have left
    local name=$1 left=$((480 - SECONDS)) start=$SECONDS code=0
    local limit=$(($2 < left ? $2 : left > 1 ? left : 1))
    shift 2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
    echo "$name: exit code $code, $((SECONDS - start)) s"
    if [ $code != 0 ]; then
        failed+=("$name")
        tail -n 15 "$out/$name.log"
    fi
}

costs() { # NAME SECONDS [KEY=VALUE...]: of the model, with these settings
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$python" tools/profile.py "models='$model'" "runtime.device=$device" "output=$out/$name" "$@"
}

step versions 30 "$python" -c "from score import runtime; print(runtime.versions())"
step equal 90 "$python" -m pytest -q -p no:cacheprovider tests/model/test_device.py tests/model/test_distributed.py \
    tests/model/test_deformable_attention.py
step train_and_evaluate 100 "$python" tools/train.py experiment=synthetic_demo backbone=tiny scene=tiny \
    "runtime.device=$device" optim.iterations=20 evaluation.limit=20 calibrate=null "output=$work/run"
costs predict 45 "size=$size" "batches=$batches"
costs predict_bf16 45 "size=$size" "batches=$batches" runtime.towers=bf16
costs predict_large 45 "size=$large" batches=[1]
costs train 45 "size=$size" training=true
costs train_bf16 45 "size=$size" training=true runtime.towers=bf16 runtime.amp=bf16
costs predict_compiled 240 "size=$size" "batches=[8]" runtime.compile=true # beside `predict`, in batches of 8
costs train_compiled 240 "size=$size" training=true runtime.towers=bf16 runtime.amp=bf16 runtime.compile=true
"$python" - "$out" "${failed[@]}" <<'PYTHON'
import json, sys
from pathlib import Path

out, failed = Path(sys.argv[1]), sys.argv[2:]
steps = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/profile.json"))}
(out / "summary.json").write_text(json.dumps({"failed": failed, "costs": steps}, indent=1))
PYTHON
echo "$out/summary.json: ${#failed[@]} of the steps failed"
exit ${#failed[@]}
