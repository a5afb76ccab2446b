#!/bin/sh
# Installs the servers that tests/servers starts: Orthanc and DCMTK from Debian's packages.
# Needs root, or sudo. What is there already is left as it is; what cannot be installed is an error.
set -eu

missing=
for package in orthanc orthanc-dicomweb dcmtk; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo
# The package would start Orthanc as a service, which the tests do themselves.
$sudo apt-get update -q
# shellcheck disable=SC2086 # one word for each package
$sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q --no-install-recommends $missing
