#!/usr/bin/env bash
# Set up a virtual environment for mmdet_moe:
#
#     tools/setup_env.sh [--stack onedl|openmmlab] [FOLDER]
#
# The stack is one of requirements/*.txt, which has all versions: the maintained
# onedl forks (the default, in .venv), or OpenMMLab's own releases (in
# .venv-openmmlab). mmcv is compiled, which takes 5 to 12 minutes on 2 cores.
# Safe to interrupt and to run again: a step that is done is skipped.
# BASE_PYTHON names the Python to build on; otherwise one that fits is looked for.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "== $*"; }
stop() { echo "error: $*" >&2; exit 1; }

stack=onedl folder=
while [ $# -gt 0 ]; do
    case $1 in
        --stack) [ $# -gt 1 ] || stop "--stack: a name is missing"; stack=$2; shift 2 ;;
        --stack=*) stack=${1#*=}; shift ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit ;;
        -*) stop "$1: allowed is --stack NAME" ;;
        *) [ -z "$folder" ] || stop "$1: the folder is $folder already"; folder=$1; shift ;;
    esac
done

pins=requirements/$stack.txt
case $stack in
    # 3.11 first: the tests run on it.
    onedl) venv=.venv versions='3.11 3.12 3.10' flags='-O2 -g0' ;;
    openmmlab) venv=.venv-openmmlab versions='3.10 3.11' flags='-O1 -g0' ;;
    *) stop "--stack $stack: allowed is onedl or openmmlab" ;;
esac
venv=${folder:-$venv}
python=$venv/bin/python
mmcv=$(grep -oE '^[a-z-]*mmcv==[^ ]+' "$pins")

pip() {
    "$python" -m pip --disable-pip-version-check install --quiet --constraint "$pins" "$@"
}

fits() {  # is $1 a Python for this stack that runs and can make environments?
    "$1" -c 'import sys, venv, ensurepip
sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1].split())' "$versions" >/dev/null 2>&1
}

find_python() {
    local candidate version
    if [ -n "${BASE_PYTHON:-}" ]; then
        fits "$BASE_PYTHON" || stop "BASE_PYTHON=$BASE_PYTHON is not a Python of one of the versions $versions with the venv module."
        echo "$BASE_PYTHON"
        return
    fi
    for version in $versions; do
        # pyenv may have versions that its python3.X refuses to run.
        for candidate in "python$version" python3 python \
                "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
            if fits "$candidate" && [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$version" ]; then
                echo "$candidate"
                return
            fi
        done
    done
    stop "no Python of one of the versions $versions with the venv module was found. Install one (Debian, Ubuntu: apt install python3 python3-venv python3-dev) or name it: make BASE_PYTHON=/path/to/python${versions%% *} ..."
}

find_compiler() {
    command -v "${CXX:-g++}" >/dev/null ||
        stop "no C++ compiler (${CXX:-g++}): mmcv has to be compiled. Install one (Debian, Ubuntu: apt install g++) or name it in CXX."
    local header
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
    [ -e "$header" ] ||
        stop "$header is missing: mmcv has to be compiled. Install Python's headers (Debian, Ubuntu: apt install python3-dev)."
}

torch_works() {  # and of the versions that are pinned
    "$python" - "$pins" >/dev/null 2>&1 <<'PYTHON'
import sys
import ninja, packaging, psutil, setuptools, torch, torchvision, wheel
from packaging.requirements import Requirement
lines = (line.partition('#')[0].strip() for line in open(sys.argv[1]))
for pin in map(Requirement, filter(None, lines)):
    module = sys.modules.get(pin.name)
    assert module is None or module.__version__ in pin.specifier, pin
PYTHON
}

mmcv_works() { "$python" -c 'import torch, mmcv._ext' >/dev/null 2>&1; }

why() { "$python" -c "import $1" 2>&1 | tail -n 1; }

if ! fits "$python"; then
    base=$(find_python)
    say "making $venv with $("$base" --version)"
    "$base" -m venv --clear "$venv"
fi
# Before the download, not after it.
mmcv_works || find_compiler
if ! torch_works; then
    say "installing torch and torchvision (a download of some GB, 2 minutes)"
    # What mmcv is built with, too: mmcv's compiled operators fit one build of
    # torch only, so it is built without isolation.
    first=(torch torchvision numpy setuptools packaging wheel ninja psutil)
    pip "${first[@]}"
    # An installation that was interrupted looks complete to pip.
    torch_works || pip --force-reinstall "${first[@]}"
    torch_works || stop "torch was installed but does not import: $(why 'torch, torchvision')"
fi
if ! mmcv_works; then
    say "compiling mmcv (5 to 12 minutes on 2 cores, once)"
    # -g0: debug information doubles the time and is not used.
    # ninja, which compiles on all cores, is looked up on PATH.
    PATH=$(cd "$venv/bin" && pwd):$PATH
    export PATH CFLAGS="${CFLAGS:-$flags}" MAX_JOBS="${MAX_JOBS:-$(nproc)}" MMCV_WITH_OPS=1
    pip --no-build-isolation "$mmcv"
    if ! mmcv_works; then
        say "a cached wheel of mmcv is there, but for another torch: compiling again"
        pip --no-build-isolation --no-cache-dir --force-reinstall --no-deps "$mmcv"
    fi
    mmcv_works || stop "mmcv was installed but does not import: $(why 'torch, mmcv._ext')"
fi
say "installing MMDetection and mmdet_moe"
pip --requirement "$pins"
pip --no-build-isolation --editable '.[tests,lint]'
touch "$venv/.ready"
say "$venv is ready"
