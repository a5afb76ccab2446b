#!/bin/sh
# Installs what Maven Central has of Elasticsearch, versions 9 and 8: the server and its network, as
# two folders of a distribution. The answer to `GET /` and Painless, which it has not, are
# StandIn.java beside this file. Needs the JDK that opensearch/install.sh has found, which runs both.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
servers=${TOMODEX_SERVERS:-$HOME/.cache/tomodex-servers}
made=$(cat "$here"/pom.xml "$here"/*.java "$0" | sha256sum)
jdk=$(dirname "$(cat "$servers/java-21")")

describe() { # FOLDER NAME CLASS MORE
    printf '%s\n' "description=$2" "version=$version" "name=$2" "classname=$3" java.version=17 \
        "elasticsearch.version=$version" extended.plugins= has.native.controller=false "$4" \
        > "$1/$2/plugin-descriptor.properties"
}

for version in 9.5.3 8.19.21; do # as in tests/servers/opensearch.py
    home=$servers/elasticsearch-$version
    [ "$(cat "$home/made" 2>/dev/null)" = "$made" ] && continue
    rm -rf "$home"
    mkdir -p "$home/classes" "$home/stand-in" "$home/modules/transport-netty4" "$home/modules/stand-in"
    mvn --quiet --batch-mode --file "$here/pom.xml" dependency:copy-dependencies \
        -Delasticsearch="$version" -DoutputDirectory="$home/lib"
    mv "$home"/lib/netty-*.jar "$home"/lib/transport-netty4-*.jar "$home/modules/transport-netty4"
    class=StandIn${version%%.*}
    "$jdk/javac" -nowarn -d "$home/classes" -cp "$home/lib/*" "$here/ElasticNode.java"
    "$jdk/javac" -nowarn -d "$home/stand-in" -cp "$home/lib/*" "$here/StandIn.java" "$here/$class.java"
    "$jdk/jar" --create --file "$home/modules/stand-in/stand-in.jar" -C "$home/stand-in" .
    describe "$home/modules" transport-netty4 org.elasticsearch.transport.netty4.Netty4Plugin \
        modulename=org.elasticsearch.transport.netty4
    describe "$home/modules" stand-in "$class" ""
    printf '%s\n' "$made" > "$home/made"
done
