#!/usr/bin/env bash
# Prints what a bare `go build`, `go test` or an editor needs to link TensorFlow, as shell exports:
#
#	eval "$(make -s env)"
#
# Only packages that import the binding link the library: the flags name where it is, not that it be linked.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
tensorflow=$root/.venv/tensorflow

[ -e "$root/.venv/ready" ] || die "nothing is set up yet: run make setup"
wheel=$(cat "$tensorflow/wheel")

# Go splits these at spaces and understands quotes in them; the outer quoting is the shell's.
printf 'export CGO_ENABLED=1\n'
printf 'export CGO_CFLAGS=%q\n' "-O2 -g \"-I$tensorflow/include\""
printf 'export CGO_LDFLAGS=%q\n' "-O2 -g \"-L$tensorflow/lib\" \"-Wl,-rpath,$wheel\""
# The Python with the packages of the lock, for tests that compare with it.
printf 'export FOOTFALL_PYTHON=%q\n' "$root/.venv/bin/python"
# The Python with an outside client of the Open Inference Protocol, where make oip-client has set it up.
[ ! -e "$root/.tools/oip-client/ready" ] || printf 'export FOOTFALL_OIP_PYTHON=%q\n' "$root/.tools/oip-client/bin/python"
