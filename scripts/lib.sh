# Shared by the scripts beside it: sourced, never run. Messages go to standard error, so that standard output stays usable by callers.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export root

say() { printf '%s\n' "footfall: $*" >&2; }

# die says in one line what is missing and what to do about it.
die() {
	say "$*"
	exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# apt_install installs Debian packages where that can be done without asking anyone; it returns 1 where it cannot.
apt_install() {
	[ "$(id -u)" -eq 0 ] && have apt-get || return 1
	say "installing $* with apt"
	{
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
	} >&2
}
