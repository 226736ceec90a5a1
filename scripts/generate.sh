#!/usr/bin/env bash
# Writes the code that buf makes from messages/proto; with --check writes none of it and fails where the committed code is not
# what the committed sources give. The check generates into a folder of its own, so that it never touches the checkout.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

# generated lists what is generated, as paths below the folder $1.
generated() { (cd "$1" && find messages \( -name '*.pb.go' -o -name '*.pb.gw.go' -o -name '*.swagger.json' \) | sort); }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
buf generate --output "$out"

# What is left of a source that is gone is stale, too.
stale=$(comm -23 <(generated .) <(generated "$out"))

if [ "${1:-}" != --check ]; then
	[ -z "$stale" ] || xargs rm -- <<<"$stale"
	cp -R "$out/." .
	exit 0
fi

wrong=${stale//$'\n'/ }
for file in $(generated "$out"); do
	cmp -s "$file" "$out/$file" || wrong="$wrong $file"
done
[ -z "$wrong" ] || die "generated code differs from its sources; run make generate and commit: ${wrong# }"
