#!/usr/bin/env bash
# Set up a virtual environment for mmdet_moe:  tools/setup_env.sh [FOLDER]
#
# Takes about 8 minutes on 2 cores, most of it for compiling mmcv. Safe to
# interrupt and to run again: a step that is done is skipped. BASE_PYTHON
# names the Python to build on; otherwise the newest of 3.12, 3.11, 3.10.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=$venv/bin/python

# mmcv's compiled operators fit one build of torch only: the two go together.
torch='torch==2.11.0 torchvision==0.26.0'
mmcv='onedl-mmcv==2.3.6'
build='setuptools>=80,<82 packaging>=24.2 wheel ninja psutil'

say() { echo "== $*"; }
stop() { echo "error: $*" >&2; exit 1; }
pip() { "$python" -m pip --disable-pip-version-check install --quiet "$@"; }

fits() {  # is $1 a Python 3.10 to 3.12 that runs and can make environments?
    "$1" -c 'import sys, venv, ensurepip
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${BASE_PYTHON:-}" ]; then
        fits "$BASE_PYTHON" || stop "BASE_PYTHON=$BASE_PYTHON is not a Python 3.10, 3.11 or 3.12 with the venv module."
        echo "$BASE_PYTHON"
        return
    fi
    for candidate in python3.12 python3.11 python3.10 python3 python; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    stop "no Python 3.10, 3.11 or 3.12 with the venv module was found. Install one (Debian, Ubuntu: apt install python3 python3-venv python3-dev) or name it: make BASE_PYTHON=/path/to/python3.11 ..."
}

find_compiler() {
    command -v "${CXX:-g++}" >/dev/null ||
        stop "no C++ compiler (${CXX:-g++}): mmcv has to be compiled. Install one (Debian, Ubuntu: apt install g++) or name it in CXX."
    local header
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
    [ -e "$header" ] ||
        stop "$header is missing: mmcv has to be compiled. Install Python's headers (Debian, Ubuntu: apt install python3-dev)."
}

torch_works() {
    "$python" -c "import torch, torchvision, ninja, packaging, psutil, wheel
assert torch.__version__.startswith('2.11.0')
assert torchvision.__version__.startswith('0.26.0')" >/dev/null 2>&1
}

mmcv_works() { "$python" -c 'import torch, mmcv._ext' >/dev/null 2>&1; }

# shellcheck disable=SC2086  # the version lists are lists of words
{
    if ! fits "$python"; then
        base=$(find_python)
        say "making $venv with $("$base" --version)"
        "$base" -m venv --clear "$venv"
    fi
    # Before the download, not after it.
    mmcv_works || find_compiler
    if ! torch_works; then
        say "installing torch and torchvision (a download of some GB, 2 minutes)"
        pip $torch $build
        # An installation that was interrupted looks complete to pip.
        torch_works || pip --force-reinstall $torch $build
        torch_works || stop "torch was installed but does not import: $("$python" -c 'import torch, torchvision' 2>&1 | tail -n 1)"
    fi
    if ! mmcv_works; then
        say "compiling mmcv (6 to 10 minutes on 2 cores, once)"
        # -g0: debug information doubles the time and is not used.
        # ninja, which compiles on all cores, is looked up on PATH.
        PATH=$(cd "$venv/bin" && pwd):$PATH
        export PATH CFLAGS="${CFLAGS:--O2 -g0}" MAX_JOBS="${MAX_JOBS:-$(nproc)}"
        pip --no-build-isolation "$mmcv"
        if ! mmcv_works; then
            say "a cached wheel of mmcv is there, but for another torch: compiling again"
            pip --no-build-isolation --no-cache-dir --force-reinstall --no-deps "$mmcv"
        fi
        mmcv_works || stop "mmcv was installed but does not import: $("$python" -c 'import torch, mmcv._ext' 2>&1 | tail -n 1)"
    fi
    say "installing MMDetection and mmdet_moe"
    pip --no-build-isolation --editable '.[openmmlab,tests,lint]'
}
touch "$venv/.ready"
say "$venv is ready"
