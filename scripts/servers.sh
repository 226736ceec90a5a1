#!/usr/bin/env bash
# Makes sure that the servers named are on this machine, for tests and for targets that start servers of their own as children
# (deploy/local). What is missing is installed with apt where that can be done, and is kept from ever starting by itself.
#
#	scripts/servers.sh rabbitmq postgres prometheus
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# describe SERVER sets what is particular to one: its title, its Debian package, the units that must not start by
# themselves, a container image that has it, and found, which tells whether deploy/local would find it.
describe() {
	case $1 in
	rabbitmq)
		title=RabbitMQ package=rabbitmq-server units='rabbitmq-server.service epmd.service epmd.socket' image=rabbitmq:3-management
		found() {
			local sbin
			for sbin in /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin "$(dirname "$(readlink -f "$(command -v rabbitmq-server)")")"; do
				[ ! -e "$sbin/rabbitmq-env" ] || return 0
			done
			return 1
		}
		;;
	postgres)
		title=PostgreSQL package=postgresql units='postgresql.service' image=postgres:17
		found() { compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || have initdb; }
		;;
	prometheus)
		title=Prometheus package=prometheus units='prometheus.service' image=prom/prometheus:v3.5.0
		found() { have prometheus && have promtool; }
		;;
	*) die "scripts/servers.sh: $1 is none of the servers that it knows: rabbitmq, postgres, prometheus" ;;
	esac
}

# Debian's packages start their services unless this program says 101. What was there before is put aside meanwhile; where a run
# was killed in between, the next one finds it and puts it back.
policy=/usr/sbin/policy-rc.d
before=$policy.before-footfall
none=$policy.none-before-footfall

restore_policy() {
	if [ -e "$before" ]; then mv -f "$before" "$policy"; fi
	if [ -e "$none" ]; then rm -f "$policy" "$none"; fi
}

forbid_starts() {
	restore_policy
	if [ -e "$policy" ]; then
		# A container's often forbids everything already.
		"$policy" "$package" start >/dev/null 2>&1 || [ $? -ne 101 ] || return 0
		cp -p "$policy" "$before.part" && mv "$before.part" "$before"
	else
		touch "$none"
	fi
	printf '#!/bin/sh\nexit 101\n' >"$policy.part" && chmod 755 "$policy.part" && mv "$policy.part" "$policy"
}

install() {
	[ "$(id -u)" -eq 0 ] && have apt-get || return 1
	local unit new=
	for unit in $units; do
		[ -e "/lib/systemd/system/$unit" ] || new="$new $unit"
	done
	trap restore_policy EXIT
	forbid_starts
	apt_install "$package" || return 1
	# Nor at the next boot, for what has come just now.
	for unit in $new; do
		! have systemctl || systemctl disable --quiet "$unit" >/dev/null 2>&1 || true
		update-rc.d "${unit%.*}" disable >/dev/null 2>&1 || true
	done
}

for server; do
	describe "$server"
	found && continue
	# Two at once take turns, whatever checkout they are from; the second finds the work done. A folder can be locked, too.
	exec 9</usr/sbin
	flock 9
	found && continue
	install || true
	found && say "$title is installed (its service stays off)" && continue
	hint="install it (Debian, Ubuntu: apt-get install $package)"
	for engine in docker podman; do
		have "$engine" && hint="$hint, or run what needs it in a container of the image $image" && break
	done
	die "$title is missing: $hint"
done
