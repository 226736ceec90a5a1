#!/usr/bin/env bash
# Builds both binaries against the library that tensorflow.sh has laid out. They keep what Go writes into them about modules and
# versions, which is what a bill of materials is made from; symbols for debuggers go.
#
#	build.sh VERSION /tensorflow /out
#
# The node finds the library at /opt/footfall/lib/tensorflow.
set -euo pipefail
version=$1 tensorflow=$2 out=$3
run_path=/opt/footfall/lib/tensorflow

mkdir -p "$out"
export GOFLAGS=-buildvcs=false
ldflags="-s -w -X main.version=$version"

CGO_ENABLED=0 go build -ldflags "$ldflags" -o "$out/footfall" ./cmd/footfall

# -rpath-link is for the linker, since the library lies elsewhere while it links.
CGO_ENABLED=1 \
	CGO_CFLAGS="-O2 -g -I$tensorflow/include" \
	CGO_LDFLAGS="-O2 -g -L$tensorflow/link -L$tensorflow/lib/tensorflow -Wl,-rpath,$run_path -Wl,-rpath-link,$tensorflow/lib/tensorflow" \
	go build -ldflags "$ldflags" -o "$out/footfall-node" ./cmd/footfall-node
