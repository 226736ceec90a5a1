#!/usr/bin/env bash
# Makes the root of an image that holds nothing but what a node needs of Debian: the C and C++ libraries, certificates, a user. There is
# no shell and no package manager in it. Each package leaves its entry in /var/lib/dpkg/status.d, and its licence, where
# scanners look for them.
#
#	root.sh /out
set -euo pipefail
out=$1
packages=(base-files ca-certificates gcc-12-base libc6 libgcc-s1 libstdc++6 netbase)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt fetches as a user of its own
(cd "$work" && apt-get update -qq && apt-get download -qq "${packages[@]}")

mkdir -p "$out/var/lib/dpkg/status.d"
for package in "${packages[@]}"; do
	deb=("$work/${package}_"*.deb)
	dpkg-deb --extract "${deb[0]}" "$out"
	dpkg-deb --field "${deb[0]}" >"$out/var/lib/dpkg/status.d/$package"
	dpkg-deb --ctrl-tarfile "${deb[0]}" | tar -xO ./md5sums >"$out/var/lib/dpkg/status.d/$package.md5sums" 2>/dev/null || true
done

# What the package's own script would make of its certificates.
mkdir -p "$out/etc/ssl/certs"
cat "$out"/usr/share/ca-certificates/mozilla/*.crt >"$out/etc/ssl/certs/ca-certificates.crt"

# Documents go, but for licences; so do converters of character sets and programs, none of which anything calls.
find "$out/usr/share/doc" -type f ! -name copyright -delete
rm -rf "$out/usr/share/man" "$out/usr/share/info" "$out/usr/share/locale" "$out/usr/share/lintian" "$out/usr/share/bug" \
	"$out/usr/share/gcc" "$out/usr/share/gdb" "$out/usr/lib/x86_64-linux-gnu/gconv" "$out/lib/x86_64-linux-gnu/gconv" "$out/usr/lib/x86_64-linux-gnu/audit" \
	"$out/usr/sbin" "$out/usr/bin" "$out/sbin" "$out/bin"
find "$out" -depth -type d -empty -path "$out/usr/share/*" -delete

printf 'root:x:0:0:root:/root:/sbin/nologin\nfootfall:x:65532:65532:Footfall:/var/lib/footfall:/sbin/nologin\n' >"$out/etc/passwd"
printf 'root:x:0:\nfootfall:x:65532:\n' >"$out/etc/group"
printf 'hosts: files dns\n' >"$out/etc/nsswitch.conf"
mkdir -p "$out/usr/bin" "$out/tmp" "$out/var/lib/footfall" "$out/opt/footfall"
chmod 1777 "$out/tmp"
chown 65532:65532 "$out/var/lib/footfall"
chmod 750 "$out/var/lib/footfall"
