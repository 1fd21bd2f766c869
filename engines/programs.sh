# Getting programs: pinned versions, from the package registries only. Sourced by lib.sh.

OPENSEARCH=3.8.0 ELASTICMQ=1.7.1 VERSITYGW=v1.8.0 KINESIS_LOCAL=0.6.2 FERROKINESIS=0.7.0
CHDB=26.9.0 BOTO3=1.40.0
PYTHON_CLICKHOUSE="aiohttp==3.14.5 lz4==4.4.5 clickhouse-cityhash==1.0.2.6"

# get ENGINE: makes sure that its program is there. Two at once: the second waits for the first. What a cut download has left is thrown away.
get() {
    local home tmp log began=$SECONDS
    home=$(program "$1") log=$CACHE/$1.install.log
    [ ! -d "$home" ] || return 0
    mkdir -p "$CACHE"
    (
        exec 9>"$CACHE/.$1.lock"
        flock 9
        [ ! -d "$home" ] || exit 0
        rm -rf "$CACHE/.$1".tmp.*
        tmp=$(mktemp -d "$CACHE/.$1.tmp.XXXXXX")
        chmod 755 "$tmp"
        say "getting $1 ..."
        # Registries drop connections: twice more before it is given up.
        for attempt in 1 2 3; do
            # Not in a condition: there `set -e` would not hold inside.
            set +e
            (set -e; cd "$tmp"; "get_$1" "$tmp" 9>&-) >"$log" 2>&1
            outcome=$?
            set -e
            [ "$outcome" != 0 ] || break
            rm -rf "${tmp:?}"/*
            [ "$attempt" != 3 ] || { say "$1 cannot be had, see $log:"; tail -n 5 "$log" >&2; rm -rf "$tmp"; exit 1; }
        done
        mv "$tmp" "$home"
        say "got $1 in $((SECONDS - began)) s"
    )
}

maven() { mvn -q -B -Dmaven.repo.local="$1/m2" -Dmaven.wagon.http.retryHandler.count=3 "${@:2}"; }

get_opensearch() {
    maven "$1" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:get -Dtransitive=false \
        -Dartifact="org.opensearch.distribution.integ-test-zip:opensearch:$OPENSEARCH:zip"
    unzip -q "$1/m2/org/opensearch/distribution/integ-test-zip/opensearch/$OPENSEARCH/opensearch-$OPENSEARCH.zip" -d "$1/zip"
    mv "$1/zip/opensearch-$OPENSEARCH"/* "$1"
    rm -rf "$1/m2" "$1/zip" "$1"/modules/{ingest-geoip,transport-grpc,ingest-user-agent,opensearch-dashboards}
}

get_sqs() {
    cat >"$1/pom.xml" <<X
<project><modelVersion>4.0.0</modelVersion><groupId>l</groupId><artifactId>l</artifactId><version>1</version><dependencies><dependency>
<groupId>org.elasticmq</groupId><artifactId>elasticmq-server_2.13</artifactId><version>$ELASTICMQ</version></dependency></dependencies></project>
X
    maven "$1" -f "$1/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1/lib"
    rm -rf "$1/m2"
    cat >"$1/lib/logback-quiet.xml" <<X
<configuration><appender name="O" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%d %-5level %msg%n</pattern></encoder></appender>
<root level="WARN"><appender-ref ref="O"/></root></configuration>
X
}

get_s3() {
    GOBIN="$1/bin" GOPATH="$1/go" GOCACHE="$1/gocache" GOFLAGS="-modcacherw -buildvcs=false" \
        go install -ldflags='-s -w' "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW"
    rm -rf "$1/go" "$1/gocache"
}

get_kinesis() {
    (cd "$HERE/kinesis" && env -u RUSTFLAGS -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$1/target" cargo build --locked)
    install -m755 "$1/target/debug/kinesis" "$1/kinesis"
    rm -rf "$1/target"
}

get_kinesis2() {
    echo '{"private":true}' >"$1/package.json"
    (cd "$1" && npm install --silent --no-audit --no-fund --ignore-scripts --cache "$1/.npm" "kinesis-local@$KINESIS_LOCAL")
    rm -rf "$1/.npm"
}

get_clickhouse() {
    python3 -m venv "$1"
    # Its dependencies (pandas, numpy) are for data frames, which nobody asks for here.
    "$1/bin/python" -m pip install -q --no-deps --disable-pip-version-check --no-cache-dir "chdb-core==$CHDB"
    # shellcheck disable=SC2086 # several words
    "$1/bin/python" -m pip install -q --disable-pip-version-check --no-cache-dir $PYTHON_CLICKHOUSE
}

get_boto3() {
    python3 -m venv "$1"
    "$1/bin/python" -m pip install -q --disable-pip-version-check --no-cache-dir "boto3==$BOTO3"
}
