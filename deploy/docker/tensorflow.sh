#!/usr/bin/env bash
# Takes TensorFlow's C library out of the wheel that a lock names, and with the GPU's lock the CUDA libraries that it was built
# against, out of theirs. Digests are those of the lock.
#
#	tensorflow.sh requirements.txt /out
#
# /out/lib holds what a node needs at run time, laid out as in the wheels, whose run paths are relative; /out/include
# what a build needs beside it; /out/lib/licenses what each wheel says of itself.
set -euo pipefail
lock=$1 out=$2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the lock says of these packages, with their digests, and of no other.
awk '/^[^ #]/ { take = /^(tensorflow|tensorflow-cpu|nvidia-[a-z0-9-]+)==/ } take && !/^ *#/' "$lock" >"$work/lock"
python3 -m pip download --quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: --require-hashes \
	--requirement "$work/lock" --dest "$work/wheels"

mkdir -p "$out/lib/licenses"
python3 - "$work/wheels" "$out" <<'PYTHON'
import pathlib, re, sys, zipfile

wheels, out = map(pathlib.Path, sys.argv[1:])
run_time = re.compile(r"tensorflow/libtensorflow_(cc|framework)\.so\.2|nvidia/.*/lib/.*\.so[.0-9]*|nvidia/cuda_nvcc/(bin|nvvm)/.*")
headers = re.compile(r"tensorflow/include/(tensorflow/(c|core/platform)|xla/tsl/(c|platform)|tsl)/.*\.h")
licence = re.compile(r"[^/]+\.dist-info/(METADATA|.*LICEN[CS]E.*)|tensorflow/THIRD_PARTY_NOTICES\.txt", re.IGNORECASE)
for wheel in sorted(wheels.iterdir()):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename
            if run_time.fullmatch(name):
                into = out / "lib"
            elif headers.fullmatch(name):
                into = out / "include"
                member.filename = name.removeprefix("tensorflow/include/")
            elif licence.fullmatch(name):
                into = out / "lib" / "licenses"
            else:
                continue
            path = pathlib.Path(archive.extract(member, into))
            path.chmod(0o755 if "/bin/" in name or ".so" in path.name else 0o644)
PYTHON

# The binding asks the linker for one library; the wheel has it in two parts.
mkdir -p "$out/link"
printf 'INPUT(libtensorflow_cc.so.2 libtensorflow_framework.so.2)\n' >"$out/link/libtensorflow.so"
test -e "$out/lib/tensorflow/libtensorflow_cc.so.2"
