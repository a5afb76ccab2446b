#!/bin/sh
# Installs two versions of OpenSearch, from Maven Central, and compiles what starts them. The newer
# one needs a JDK 21 or newer, which Debian 12 does not have: any that is there is taken.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
servers=${TOMODEX_SERVERS:-$HOME/.cache/tomodex-servers}

newest_java() {
    for home in ${JAVA_HOME:+"$JAVA_HOME"} /usr/lib/jvm/*; do
        major=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release" 2>/dev/null || true)
        [ -x "$home/bin/javac" ] && [ "${major:-0}" -ge 21 ] && echo "$home/bin/java" && return
    done
    echo "needs a JDK 21 or newer for OpenSearch 3, in /usr/lib/jvm or JAVA_HOME" >&2
    return 1
}

java=$(newest_java)
printf '%s\n' "$java" > "$servers/java-21"

for version in 2.19.1 3.8.0; do # as in tests/servers/opensearch.py
    home=$servers/opensearch-$version
    made=$(cat "$here/pom.xml" "$here/SearchNode.java" "$0" | sha256sum)
    [ "$(cat "$home/made" 2>/dev/null)" = "$made" ] && continue
    rm -rf "$home"
    mvn --quiet --batch-mode --file "$here/pom.xml" dependency:copy-dependencies \
        -Dopensearch="$version" -DoutputDirectory="$home"
    # The security plugin, which Maven Central does not have for every version.
    # Maven notes in the folder where it runs that it has unpacked it.
    [ "$version" != 2.19.1 ] || (cd "$home" && mvn --quiet --batch-mode dependency:unpack \
        -Dartifact=org.opensearch.plugin:opensearch-security:"$version".0:zip -DoutputDirectory="$home/security")
    compiler=javac
    [ "$version" = 2.19.1 ] || compiler=${java}c
    "$compiler" -cp "$home/*" -d "$home" "$here/SearchNode.java"
    printf '%s\n' "$made" > "$home/made"
done
