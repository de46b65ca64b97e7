#!/usr/bin/env bash
# Create .venv and install SCORE with all it needs, unless that is done already; `make demo` and `make test` call this.
#
#   PYTHON=python3.12   the Python to use; default: the first of python3, python3.13 .. 3.10 that is new enough
#   TORCH_INDEX=URL     a package index that carries both torch and torchvision, such as one of CPU-only builds
#   DETECTRON2=git      upstream's detectron2, compiled here, in place of the pure-Python wheel; DETECTRON2=wheel: back
#
# A changed [project] table, or a changed wheel builder, installs again; `make clean` starts over.
set -uo pipefail
cd "$(dirname "$0")/.."

venv=.venv
log=$venv/install.log
stamp=$venv/score-installed

fail() {
    echo "error: $*" >&2
    exit 2
}

# Say why a step failed: one line where the cause is a known one, else one line below the end of the log.
explain() {
    case $(tail -n 200 "$log") in
        *"No space left on device"*)
            fail "no space left on the disk ($1): about 8 GB are needed here, and room in ${TMPDIR:-/tmp}" ;;
        *"establish a new connection"* | *"NameResolutionError"* | *"name resolution"* | *"Could not resolve host"* | \
            *"timed out"* | *"Network is unreachable"* | *"ProxyError"*)
            fail "no network ($1): the package index cannot be reached; pip's words are in $log" ;;
    esac
    tail -n 15 "$log" >&2
    fail "$1 failed; above is the end of $log"
}

# run STEP COMMAND...: the command's output goes to the log alone.
run() {
    local step=$1
    shift
    printf '\n== %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null || explain "$step"
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" --progress-bar off; }

# What decides what is installed: not the tools' settings in pyproject.toml.
fingerprint() {
    sed '/^\[tool\./,$d' pyproject.toml | cksum
    cat setup.py constraints.txt | cksum
    cksum <tools/detectron2_wheel.py
    echo "detectron2 from $1"
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON: no such command"
        new_enough "$PYTHON" || fail "Python 3.10 or newer is needed, PYTHON=$PYTHON is $("$PYTHON" -V 2>&1)"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11 python3.10 python; do
        new_enough "$name" && PYTHON=$name && return
    done
    fail "Python 3.10 or newer is needed, python3 is $(python3 -V 2>&1); name one with PYTHON=/path/to/python3.12"
}

make_venv() {
    [ ! -e "$venv" ] || [ -e "$log" ] || fail "$PWD/$venv has no pip and was not made by this set-up; 'make clean' removes it"
    find_python
    echo "setting up $venv with $("$PYTHON" -V 2>&1), once"
    mkdir -p "$venv" || fail "$PWD/$venv cannot be written"
    : >"$log"
    # --clear would delete the log, and with it the reason of a failure.
    rm -rf "$venv/bin" "$venv/lib" "$venv/lib64" "$venv/include" "$venv/pyvenv.cfg" "$stamp"
    "$PYTHON" -c 'import ensurepip, venv' >>"$log" 2>&1 ||
        fail "$PYTHON has no venv module; install your system's package for it (python3-venv) or name another with PYTHON=..."
    run "making $venv" "$PYTHON" -m venv "$venv"
}

has_torch() {
    "$venv/bin/python" -c 'import importlib.util as u; exit(not (u.find_spec("torch") and u.find_spec("torchvision")))'
}

check_space() {
    local free need=8
    [ -z "${TORCH_INDEX:-}" ] || need=3
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$need" ] || fail "not enough disk space: $PWD has $free GB free, about $need GB are needed"
}

install_torch() {
    local pair
    pair=$(sed -n 's/^ *"\(torch\(vision\)\{0,1\}>=[0-9.]*\)".*/\1/p' pyproject.toml)
    has_torch || echo "installing torch and torchvision (about 5 GB with CUDA; a minute or more)"
    # In one command and from one index: a torchvision linked against CUDA does not load beside a CPU-only torch.
    # shellcheck disable=SC2086  # two requirements, two words
    run "installing torch" pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} $pair
}

install_detectron2() {
    if [ "$DETECTRON2" = git ]; then
        echo "compiling detectron2 from git (several minutes)"
        run "compiling detectron2 from git" pip install --no-build-isolation "git+https://github.com/facebookresearch/detectron2.git"
    else
        echo "making detectron2 from its sdist (no compiler needed)"
        rm -rf "$venv/wheels"
        run "making the detectron2 wheel" "$venv/bin/python" tools/detectron2_wheel.py "$venv/wheels"
        run "installing detectron2" pip install --no-deps --force-reinstall "$venv"/wheels/detectron2-*.whl
    fi
}

case ${DETECTRON2:=$(sed -n 's/^detectron2 from //p' "$stamp" 2>/dev/null)} in
    "") DETECTRON2=wheel ;;
    wheel | git) ;;
    *) fail "DETECTRON2=$DETECTRON2: neither 'wheel' nor 'git'" ;;
esac
[ "$(fingerprint "$DETECTRON2")" != "$(cat "$stamp" 2>/dev/null)" ] || exit 0

start=$SECONDS
# One that was interrupted half-way has no working pip, and is made again.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
new_enough "$venv/bin/python" || fail "$venv is of $("$venv/bin/python" -V 2>&1), 3.10 or newer is needed; 'make clean' removes it"
: >"$log"
rm -f "$stamp"
has_torch || check_space
# The first thing fetched, and small: without a network this fails in seconds. The sdist of detectron2 needs setuptools.
run "installing setuptools" pip install --retries 1 --timeout 20 "pip>=23" "setuptools>=77" wheel
install_torch
install_detectron2
echo "installing SCORE and its dependencies"
run "installing SCORE" pip install --constraint constraints.txt --editable ".[lite,catalogue,app,slurm,docs,dev]" "detectron2>=0.5" # installed above, named for what it needs itself
run "importing what was installed" "$venv/bin/python" -c "import torch, torchvision, detectron2.engine, score"
fingerprint "$DETECTRON2" >"$stamp"
echo "set-up done in $((SECONDS - start)) s"
