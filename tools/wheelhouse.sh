#!/usr/bin/env bash
# Fill a folder with the wheels of all that SCORE needs but torch, for a Linux machine without a network that has torch.
#
#   tools/wheelhouse.sh PYTHON TORCH FOLDER [INSTALLED]
#   tools/wheelhouse.sh 3.12 2.11 wheels
#
# PYTHON and TORCH are that machine's versions; torchvision, if it is missing there, comes as torch's partner of the same
# release. INSTALLED is the output of `pip freeze` there: what it names is left out of the folder, and whether its version
# serves is for pip to say on that machine. Needs the .venv of `make`. Environment markers are read for this machine's Python, a limit of pip's: take one near PYTHON.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $*" >&2
    exit 2
}

[ $# -eq 3 ] || [ $# -eq 4 ] || fail "usage: tools/wheelhouse.sh PYTHON TORCH FOLDER [INSTALLED], as in 3.12 2.11 wheels"
python=$1 torch=$2 folder=$3 installed=${4:-/dev/null}
[[ $python =~ ^3\.[0-9]+$ ]] || fail "PYTHON=$python: two numbers are needed, as in 3.12"
[[ $torch =~ ^[0-9]+\.[0-9]+(\.[0-9]+)?$ ]] || fail "TORCH=$torch: two numbers are needed, as in 2.11"
[[ $torch =~ ^[0-9]+\.[0-9]+$ ]] && torch=$torch.*
[ ! -e "$folder" ] || fail "$folder exists; remove it or name another"
[ -r "$installed" ] || fail "$installed cannot be read"
[ -x .venv/bin/python ] || fail "no .venv here; run 'make install' first"

work=$(mktemp -d)
trap 'rm -rf "$work" "$folder.partial"' EXIT
mkdir -p "$folder.partial" || fail "$folder.partial cannot be written"

pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@" 2>>"$work/log"; }
failed() {
    grep '^ERROR' "$work/log" | tail -n 5 >&2 || true
    fail "$1"
}

target=(--python-version "$python" --implementation cp --only-binary=:all:)
for glibc in $(seq 28 -1 5); do # 2.28 is what torch itself asks for; pip takes each by its name alone
    target+=(--platform "manylinux_2_${glibc}_$(uname -m)")
done
target+=(--platform "manylinux2014_$(uname -m)")

# What is published as source alone, and pure Python, becomes wheels first: pip resolves for another Python by wheels only.
echo "making the wheels that are not published"
pip wheel --no-deps --wheel-dir "$work/made" . fvcore iopath "antlr4-python3-runtime==4.9.*" || failed "pip could not make them"
.venv/bin/python tools/detectron2_wheel.py "$work/made" >/dev/null

echo "choosing versions for Python $python and torch $torch"
echo "$(ls "$work"/made/score_segmenter-*.whl)[lite]" >"$work/required"
ls "$work"/made/detectron2-*.whl >>"$work/required"
pip install --dry-run --ignore-installed --target "$work/none" --report "$work/report.json" "${target[@]}" \
    --find-links "$work/made" -r "$work/required" "torch==$torch" "setuptools>=77" wheel ||
    failed "no set of versions fits Python $python and torch $torch"

# torch's own libraries are that machine's.
.venv/bin/python - "$work/report.json" "$installed" <<'PYTHON' >"$work/wanted"
import json, re, sys
from pathlib import Path


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


there = {canonical(re.split(r"[ =@<>~!]", line)[0]) for line in Path(sys.argv[2]).read_text().splitlines()}
for item in json.loads(Path(sys.argv[1]).read_text())["install"]:
    name, version = canonical(item["metadata"]["name"]), item["metadata"]["version"]
    if name not in there | {"torch", "triton"} and not name.startswith(("nvidia-", "cuda-")):
        print(f"{name}=={version}")
PYTHON

# The extra `kernels`, for the Pythons and from the torch on that it is made for; by itself, for its own marker is read here.
if [[ $python =~ ^3\.1[23]$ ]] && printf '%s\n' 2.11 "$torch" | sort -VC; then
    echo "deformops>=3.0" >>"$work/wanted"
fi

echo "fetching $(wc -l <"$work/wanted") wheels"
pip download --no-deps --dest "$folder.partial" "${target[@]}" --find-links "$work/made" -r "$work/wanted" ||
    failed "pip could not fetch them"
mv "$folder.partial" "$folder"

cat <<EOT
$folder holds $(wc -l <"$work/wanted") wheels, $(du -sm "$folder" | cut -f1) MB. Carry it to that machine, and there, with the Python
that has torch:

    python3 -m pip install --no-index --find-links $folder 'score-segmenter[lite]' detectron2
EOT
