#!/usr/bin/env bash
# Installs one Go tool at one version into .tools/bin, unless it is there already.
#
#	scripts/tool.sh buf github.com/bufbuild/buf/cmd/buf v1.75.0
#
# .tools/NAME@VERSION is made after the binary, so that an interrupted install is done again and a new version replaces the old.
# The tool's name is the last element of its package's path, less a version suffix.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
name=$1 package=$2 version=$3
tools=$root/.tools
stamp=$tools/$name@$version

installed() { [ -e "$stamp" ] && [ -x "$tools/bin/$name" ]; }

installed && exit 0
mkdir -p "$tools/bin"
exec 9>"$tools/$name.lock"
flock 9
installed && exit 0

say "installing $name $version (once)"
rm -f "$tools/$name@"*
# From outside the module, so that its requirements do not bear on the tool's; without the flags that link TensorFlow.
(cd "$tools" && env -u CGO_CFLAGS -u CGO_LDFLAGS CGO_ENABLED=0 GOFLAGS=-mod=mod GOBIN="$tools/bin" go install "$package@$version") ||
	die "$name $version could not be installed (see above): check the network, then run the same command again"
touch "$stamp"
