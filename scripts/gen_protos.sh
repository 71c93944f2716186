#!/usr/bin/env bash
# Generates services/preceptor/api from protos/ and the descriptor set that guards against breaking changes.
# --check: generates elsewhere and fails on any difference. --accept: takes a breaking change into the set.
set -euo pipefail
cd "$(dirname "$0")/.."
bin="${VENV:-.venv}/bin"
out=services
[[ "${1:-}" == --check ]] && { out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; }
files=$(cd protos && find preceptor -name '*.proto' | sort)
# shellcheck disable=SC2086
PATH="$PWD/$bin:$PATH" "$bin/python" -W ignore -m grpc_tools.protoc -I protos --python_out="$out" --grpc_python_out="$out" \
  --mypy_out=quiet:"$out" --mypy_grpc_out=quiet,async_only=false:"$out" $files
find "$out/preceptor/api" -type d -exec touch {}/__init__.py \;
if [[ "${1:-}" == --check ]]; then
  diff -r --exclude=__pycache__ "$out/preceptor/api" services/preceptor/api \
    || { echo "services/preceptor/api is out of date: run 'make protos' and commit the result" >&2; exit 1; }
else
  # What is not breaking becomes part of the contract; what is needs --accept.
  set=protos/descriptors.binpb
  [[ "${1:-}" == --accept || ! -f $set ]] || "$bin/buf" breaking protos --against "$set" \
    || { echo "these changes break clients: undo them, or run scripts/gen_protos.sh --accept" >&2; exit 1; }
  "$bin/buf" build protos -o "$set"
fi
