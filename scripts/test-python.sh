#!/usr/bin/env bash
# Checks and tests the Python side, with the packages of the lock.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

[ -d training ] || exit 0
say "Python: ruff and pytest"
.venv/bin/ruff check training
.venv/bin/ruff format --check training
TF_CPP_MIN_LOG_LEVEL=2 .venv/bin/python -m pytest -q training || die "Python tests failed (above)"
