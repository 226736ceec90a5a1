#!/usr/bin/env bash
# Runs every Go test, in two passes:
#
#   1. with the race detector: every package that does not link TensorFlow;
#   2. without it, and with FOOTFALL_HEAVY=1: the packages that link TensorFlow, whose C side the detector cannot see, and those
#      that have heavy suites. A heavy suite (kill -9 in rounds, long histories, millions of rows) skips itself unless
#      that variable is 1, so that a bare `go test` stays quick.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

binding=github.com/galeone/tensorflow/tensorflow/go

# One line for each package with tests: its path, and whether its tests link TensorFlow.
tests=$(go list -test -f '{{.ImportPath}} {{join .Deps " "}} ' ./... | awk -v binding=" $binding " '
	$1 ~ /\.test$/ { sub(/\.test$/, "", $1); print $1, index($0, binding) ? "tensorflow" : "pure" }')
[ -n "$tests" ] || die "there are no Go tests"

mapfile -t race < <(awk '$2 == "pure" { print $1 }' <<<"$tests")
mapfile -t heavy < <({
	awk '$2 == "tensorflow" { print $1 }' <<<"$tests"
	grep -rlF --include='*_test.go' --exclude-dir='.?*' 'Getenv("FOOTFALL_HEAVY")' . | sed 's|^\.|footfall|; s|/[^/]*$||'
} | sort -u)

failed=
if [ "${#race[@]}" -gt 0 ]; then
	say "go test -race: ${#race[@]} packages"
	go test -race -timeout 15m "${race[@]}" || failed=1
fi
if [ "${#heavy[@]}" -gt 0 ]; then
	say "go test, heavy suites and TensorFlow: ${#heavy[@]} packages"
	FOOTFALL_HEAVY=1 go test -timeout 25m "${heavy[@]}" || failed=1
fi
[ -z "$failed" ] || die "Go tests failed (the lines that begin with --- FAIL, above)"
