#!/usr/bin/env bash
# Prints the Python that the set-up builds on: $PYTHON if that is set, else the first of the usual names that is new enough.
# TensorFlow's wheels decide the range: 3.11 to 3.13.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

found=
for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
	# A name may exist and still not run (a version manager's shim), so ask it.
	version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
	case $version in
	3.11 | 3.12 | 3.13)
		command -v "$python"
		exit 0
		;;
	esac
	found="$found $python is $version,"
done

hint='install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12'
[ -z "$found" ] || die "Python 3.11, 3.12 or 3.13 is needed, but${found%,}: $hint"
die "Python 3.11, 3.12 or 3.13 is needed and ${PYTHON:-python3} was not found: $hint"
