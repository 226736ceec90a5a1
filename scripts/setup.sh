#!/usr/bin/env bash
# Prepares everything that a build needs and that is not Go code: .venv with Python's packages, and the TensorFlow C library
# out of its wheel, laid out so that the linker finds it. Nothing is written outside the checkout but what apt installs.
#
# .venv/ready holds the key of what was installed: the lock's digest and the place. It is written last, so a
# set-up that was interrupted, moved or made from other requirements has no valid key and is made anew.
#
# TENSORFLOW=cpu|gpu chooses the wheel, PYTHON the interpreter.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

case ${TENSORFLOW:-cpu} in
cpu) lock=requirements.txt ;;
gpu) lock=requirements-gpu.txt ;;
*) die "TENSORFLOW=$TENSORFLOW is unknown: use cpu or gpu" ;;
esac

# --- What the machine must have -------------------------------------------------------------------------------------------

platform="$(uname -s) $(uname -m)"
[ "$platform" = "Linux x86_64" ] ||
	die "TensorFlow's C library is taken from its wheel for Linux x86_64, and this is $platform: build in a container or a virtual machine of that kind"

have go || die "Go is missing: install Go $(sed -n 's/^go //p' go.mod) or newer and put it on PATH"
# Inside the module, go itself checks its version against go.mod and, where it may, fetches the one needed.
problem=$(go list -m 2>&1) ||
	die "this Go cannot build the module (${problem%%$'\n'*}): install Go $(sed -n 's/^go //p' go.mod) or newer"

cc=$(go env CC)
have "${cc%% *}" || apt_install gcc libc6-dev || true
have "${cc%% *}" ||
	die "a C compiler is missing ($cc): install one (Debian, Ubuntu: apt-get install gcc libc6-dev), or set CC"

# --- Python and its packages ----------------------------------------------------------------------------------------------

key=$(printf '%s %s' "$(sha256sum <"$lock")" "$root" | sha256sum | cut -d' ' -f1)

# ready: made from this lock, in this place, by a Python that is still there, and by the one asked for if one is.
ready() {
	[ "$(cat .venv/ready 2>/dev/null)" = "$key" ] && [ -x .venv/bin/python ] &&
		{ [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -V)" = "$(.venv/bin/python -V)" ]; }
}

ready && exit 0

# Two set-ups at once in one checkout take turns; the second finds the work done.
mkdir -p .tools
exec 9>.tools/setup.lock
flock 9
ready && exit 0

python=$(scripts/python.sh)

need_gb=3
[ "$lock" = requirements.txt ] || need_gb=12
rm -rf .venv
free_gb=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1024 / 1024))
[ "$free_gb" -ge "$need_gb" ] ||
	die "TensorFlow needs $need_gb GB of free disk and $root has $free_gb: free some, or clone to another disk"

# Debian splits venv off from Python; its own Python can have it back by apt.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
	package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
	apt_install "$package" || true
	"$python" -c 'import ensurepip, venv' 2>/dev/null ||
		die "$python lacks the module venv: install it (Debian, Ubuntu: apt-get install $package), or name another Python: make PYTHON=/path/to/python3.12"
fi

say "setting up .venv from $lock (about half a minute beyond the download of 300 MB, once)"
"$python" -m venv .venv
# Wheels only: nothing is compiled, and every file is one whose digest the lock names.
# --no-deps, since the lock is complete and a resolver could only disagree with it.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
	--require-hashes --only-binary=:all: --no-deps --requirement "$lock" >&2 ||
	die "pip could not install $lock (see above): check the network and the disk, then run the same command again"

# --- The C library --------------------------------------------------------------------------------------------------------

# Go's binding links with -ltensorflow, but the wheel has that library in two parts, under other names. A linker script of the
# expected name joins them. Binaries then name the two parts and find them in the wheel by their run path, so that the
# wheel's own relative run paths, and those of the CUDA libraries, hold.
wheel=$(.venv/bin/python -c 'import importlib.util; print(importlib.util.find_spec("tensorflow").submodule_search_locations[0])')
for library in libtensorflow_cc.so.2 libtensorflow_framework.so.2; do
	[ -e "$wheel/$library" ] || die "the TensorFlow wheel of $lock has no $library: that version of it does not fit"
done
mkdir -p .venv/tensorflow/lib
ln -sfn "$wheel/include" .venv/tensorflow/include
printf 'INPUT("%s" "%s")\n' "$wheel/libtensorflow_cc.so.2" "$wheel/libtensorflow_framework.so.2" >.venv/tensorflow/lib/libtensorflow.so
printf '%s\n' "$wheel" >.venv/tensorflow/wheel

sync .venv/tensorflow/wheel
printf '%s\n' "$key" >.venv/ready
say "set-up done"
