#!/bin/sh
# Installs what tests/servers starts: Orthanc, DCMTK and Chromium from Debian's packages; Versity's S3
# gateway, built by Go; HAPI, OpenSearch, Elasticsearch and Kafka, put together by Maven; axe by npm.
# With Debian's packages there and all else to fetch, 13 minutes (4 of CPU) on two cores that others used as well.
# Needs root, or sudo, Go and npm. What is there already is left as it is; what cannot be installed
# is an error.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

missing=
for package in orthanc orthanc-dicomweb dcmtk dicom3tools dcm2niix chromium; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
if [ -n "$missing" ]; then
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    # The package would start Orthanc as a service, which the tests do themselves.
    $sudo apt-get update -q
    # shellcheck disable=SC2086 # one word for each package
    $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q --no-install-recommends $missing
fi

servers=${TOMODEX_SERVERS:-$HOME/.cache/tomodex-servers}
version=1.8.0 # as in tests/servers/s3.py
if [ ! -x "$servers/versitygw-$version" ]; then
    command -v go >/dev/null || { echo "needs Go to build an S3 server: https://go.dev/dl" >&2; exit 1; }
    mkdir -p "$servers"
    GOBIN=$servers go install "github.com/versity/versitygw/cmd/versitygw@v$version"
    mv "$servers/versitygw" "$servers/versitygw-$version"
fi

# First of what is Java: it installs a JDK and Maven where there are none.
sh "$here/java/install.sh"

sh "$here/opensearch/install.sh"
sh "$here/elasticsearch/install.sh"

kafka=$servers/kafka-4.1.0 # as in tests/servers/kafka.py
if [ ! -f "$kafka/complete" ]; then
    rm -rf "$kafka"
    mvn --quiet --batch-mode --file "$here/kafka_broker/pom.xml" dependency:copy-dependencies -DoutputDirectory="$kafka"
    touch "$kafka/complete"
fi

axe=$servers/axe-core-4.14.1 # as in tests/servers/browser.py
if [ ! -f "$axe/node_modules/axe-core/axe.min.js" ]; then
    command -v npm >/dev/null || { echo "needs npm to fetch axe, which looks for barriers in a page" >&2; exit 1; }
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$axe" axe-core@4.14.1
fi

dcmqi=$servers/dcmqi-1.5.7 # as in tests/servers/test_dicom_out.py; a wheel of programs, for nothing else
if [ ! -f "$dcmqi/complete" ]; then
    rm -rf "$dcmqi"
    "$here/../../.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target "$dcmqi" dcmqi==1.5.7
    touch "$dcmqi/complete"
fi

# Helm, Kubernetes' types, Compose and Prometheus, as far as they read what deploy/ holds: 2 minutes.
deploycheck=$servers/deploycheck-$(cat "$here/deploy/main.go" "$here/deploy/go.sum" | sha256sum | cut -c1-12)
if [ ! -x "$deploycheck/deploycheck" ]; then
    command -v go >/dev/null || { echo "needs Go to read what deploy/ holds: https://go.dev/dl" >&2; exit 1; }
    rm -rf "$servers"/deploycheck-*
    mkdir -p "$deploycheck"
    keda=$(cd / && go mod download -json github.com/kedacore/keda/v2@v2.21.0 | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    cp "$keda/config/crd/bases/keda.sh_scaledobjects.yaml" "$deploycheck"
    (cd "$here/deploy" && go build -o "$deploycheck/deploycheck" .)
fi
