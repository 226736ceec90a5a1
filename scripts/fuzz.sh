#!/usr/bin/env bash
# Gives every fuzz target $FUZZTIME, one after another: go fuzzes one target of one package at a time.
# An input that fails is written to the package's testdata/fuzz, where every later `go test` tries it again: commit it with the fix.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

targets=$(grep -rEo --include='*_test.go' --exclude-dir='.?*' '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func / /' | sort)
[ -n "$targets" ] || die "there are no fuzz targets"
failed=
while read -r file target; do
	package=$(dirname "$file")
	say "fuzzing $target in $package for ${FUZZTIME:-30s}"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30s}" "$package" || failed="$failed $target"
done <<<"$targets"
[ -z "$failed" ] || die "failed:$failed"
