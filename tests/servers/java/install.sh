#!/bin/sh
# Installs HAPI's validator and HAPI's JPA server for R5, from Maven Central, and compiles the two
# programs beside this file that run them. Needs a JDK 17 or newer and Maven, which Debian has.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
home=${TOMODEX_SERVERS:-$HOME/.cache/tomodex-servers}/fhir
made=$(cat "$here/pom.xml" "$here"/src/*.java | sha256sum)
[ "$(cat "$home/made" 2>/dev/null)" = "$made" ] && exit 0

missing=
command -v javac >/dev/null || missing="$missing openjdk-17-jdk-headless"
command -v mvn >/dev/null || missing="$missing maven"
if [ -n "$missing" ]; then
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update -q
    # shellcheck disable=SC2086 # one word for each package
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
fi

rm -rf "$home"
mkdir -p "$home/classes"
mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$home/jars"
javac -nowarn -d "$home/classes" -cp "$home/jars/*" "$here"/src/*.java
printf '%s\n' "$made" > "$home/made"
