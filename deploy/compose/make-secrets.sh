#!/bin/sh
# Makes the secrets that the compose files name, where they are not there yet: random, each in a file
# that only the user of the image (10001) and root can read. Run it as root, once.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
for name in tomodex-token prometheus-token pseudonym.key orthanc-password; do
    [ -s "secrets/$name" ] || head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' > "secrets/$name"
done
# Orthanc takes its users from a file of settings.
[ -s secrets/orthanc.json ] || printf '{"RegisteredUsers": {"tomodex": "%s"}}\n' "$(cat secrets/orthanc-password)" > secrets/orthanc.json
chown 10001:10001 secrets/tomodex-token secrets/prometheus-token secrets/pseudonym.key secrets/orthanc-password
