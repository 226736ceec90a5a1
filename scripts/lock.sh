#!/usr/bin/env bash
# Resolves requirements*.in into the locks requirements*.txt, with the hash of every file that pip may take.
# The locks hold for every CPython from 3.11 to 3.13 on Linux; they name no index, so any mirror serves them.
# Only `make lock` runs this: set-ups install from the committed locks.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

uv_version=0.13.9
uv=.tools/uv-$uv_version

[ -x "$uv/bin/uv" ] || {
	python=$(scripts/python.sh)
	"$python" -m venv --clear "$uv"
	"$uv/bin/pip" install --quiet "uv==$uv_version"
}

# compile INPUT OUTPUT [CONSTRAINTS] resolves one lock.
compile() {
	say "resolving $1"
	{
		echo "# Made by \`make lock\` from $1: edit that, not this."
		"$uv/bin/uv" pip compile "$1" --quiet --universal --python-version 3.11 \
			--generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
			${3:+--constraints "$3"} --upgrade
	} >"$2.part"
	mv "$2.part" "$2"
}

compile requirements.in requirements.txt
compile requirements-gpu.in requirements-gpu.txt requirements.txt
compile requirements-oip.in requirements-oip.txt
