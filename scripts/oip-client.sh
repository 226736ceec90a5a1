#!/usr/bin/env bash
# Sets up the outside client of the Open Inference Protocol that a test has drive a node: .tools/oip-client, from
# requirements-oip.txt. Its file ready holds the key of what was installed, as .venv's does.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

dir=.tools/oip-client
lock=requirements-oip.txt
key=$(printf '%s %s' "$(sha256sum <"$lock")" "$root" | sha256sum | cut -d' ' -f1)

ready() { [ "$(cat "$dir/ready" 2>/dev/null)" = "$key" ] && [ -x "$dir/bin/python" ]; }

ready && exit 0
mkdir -p .tools
exec 9>.tools/oip-client.lock
flock 9
ready && exit 0

say "setting up the outside client of the inference protocol (60 MB, once)"
rm -rf "$dir"
# The interpreter of .venv, which the set-up has chosen.
.venv/bin/python -m venv "$dir"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
	--require-hashes --only-binary=:all: --no-deps --requirement "$lock" >&2 ||
	die "pip could not install $lock (see above): check the network and the disk, then run the same command again"
printf '%s\n' "$key" >"$dir/ready"
