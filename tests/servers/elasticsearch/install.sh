#!/bin/sh
# Installs what Maven Central has of Elasticsearch: the server and its network, as two folders of a
# distribution. The answer to `GET /` and Painless, which it has not, are StandIn.java beside this
# file. Needs the JDK that opensearch/install.sh has found.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
servers=${TOMODEX_SERVERS:-$HOME/.cache/tomodex-servers}
version=9.5.3 # as in tests/servers/opensearch.py
home=$servers/elasticsearch-$version
made=$(cat "$here"/pom.xml "$here"/*.java "$0" | sha256sum)
[ "$(cat "$home/made" 2>/dev/null)" = "$made" ] && exit 0
jdk=$(dirname "$(cat "$servers/java-21")")

rm -rf "$home"
mkdir -p "$home/classes" "$home/stand-in" "$home/modules/transport-netty4" "$home/modules/stand-in"
mvn --quiet --batch-mode --file "$here/pom.xml" dependency:copy-dependencies \
    -Delasticsearch="$version" -DoutputDirectory="$home/lib"
mv "$home"/lib/netty-*.jar "$home"/lib/transport-netty4-*.jar "$home/modules/transport-netty4"
"$jdk/javac" -nowarn -d "$home/classes" -cp "$home/lib/*" "$here/ElasticNode.java"
"$jdk/javac" -nowarn -d "$home/stand-in" -cp "$home/lib/*" "$here/StandIn.java"
"$jdk/jar" --create --file "$home/modules/stand-in/stand-in.jar" -C "$home/stand-in" .

describe() { # NAME CLASS MORE
    printf '%s\n' "description=$1" "version=$version" "name=$1" "classname=$2" java.version=21 \
        "elasticsearch.version=$version" extended.plugins= has.native.controller=false "$3" \
        > "$home/modules/$1/plugin-descriptor.properties"
}
describe transport-netty4 org.elasticsearch.transport.netty4.Netty4Plugin \
    modulename=org.elasticsearch.transport.netty4
describe stand-in StandIn ""
printf '%s\n' "$made" > "$home/made"
