# Starting and stopping engines of one DIR. Sourced by lib.sh.

# alive DIR NAME: the pid of that process, if it is there and ours.
alive() {
    local pid
    # No pipe: whoever writes into a grep that has seen enough is ended by a signal, which counts as a failure here.
    pid=$(cat "$1/$2/pid" 2>/dev/null) && [ -n "$pid" ] && grep -qaF "$1/" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port that nobody listens on, below the ones that the system gives out by itself.
free_port() {
    local port
    while :; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        busy "$port" || { echo "$port"; return; }
    done
}

# launch DIR NAME COMMAND…: starts the process apart from this shell, with its log; leaves its pid.
launch() {
    local home=$1/$2
    (cd "$home" && exec setsid "${@:3}") >"$home/log" 2>&1 </dev/null 9>&- &
    echo $! >"$home/pid"
}

# answers PORT PATH: any HTTP answer will do.
answers() { [ "$(curl -s -m 5 -o /dev/null -w '%{http_code}' --noproxy '*' "http://127.0.0.1:$1$2" 2>/dev/null)" != 000 ]; }

# await DIR NAME PORT PATH: until it answers; 1 if it has ended or does not come.
await() {
    local end=$((SECONDS + ${SLUICE_ENGINES_WAIT:-240})) pid
    pid=$(cat "$1/$2/pid")
    until answers "$3" "$4"; do
        kill -0 "$pid" 2>/dev/null || return 1
        [ "$SECONDS" -lt "$end" ] || { kill -9 "$pid"; return 1; }
        sleep 0.1
    done
}

# start DIR ENGINE: finds it running or starts it, on its port of before if it has one. The port may be taken by somebody between
# the look and the start, so a first start that fails takes another one.
start() {
    local home=$1/$2 attempt before began=$SECONDS
    mkdir -p "$home/data"
    exec 9>"$home/.lock"
    flock 9
    before=$(cat "$home/port" 2>/dev/null || true)
    for attempt in 1 2 3; do
        [ -n "$before" ] || free_port >"$home/port"
        if "start_$2" "$1" "$home" "$(cat "$home/port")"; then
            exec 9>&-
            say "$2 answers after $((SECONDS - began)) s on port $(cat "$home/port") (pid $(cat "$home/pid"))"
            return
        fi
        stop "$1" "$2"
    done
    exec 9>&-
    say "$2 does not start, see $home/log:"
    tail -n 10 "$home/log" >&2
    return 1
}

start_opensearch() {
    local dir=$1 home=$2 port=$3 program java as=() jars
    alive "$dir" opensearch >/dev/null || {
        program=$(program opensearch) java=$(find_java)
        mkdir -p "$home"/{config,logs,tmp}
        cp "$program/config/log4j2.properties" "$home/config/"
        cat >"$home/config/opensearch.yml" <<Y
cluster.name: sluice
node.name: sluice
discovery.type: single-node
network.host: 127.0.0.1
http.port: $port
transport.port: 0
path.data: $home/data
path.logs: $home/logs
action.auto_create_index: false
cluster.max_shards_per_node: 20000
cluster.routing.allocation.disk.threshold_enabled: false
Y
        if [ "$(id -u)" = 0 ]; then # It refuses to run as root: it gets a bare number, and its program by hard links where that number can reach it.
            [ -d "$home/program" ] || cp -al "$program" "$home/program" 2>/dev/null || { rm -rf "$home/program" && cp -a "$program" "$home/program"; }
            chmod 755 "$dir" "$home"
            chown -R 10920:10920 "$home"/{config,logs,tmp,data}
            as=(setpriv --reuid=10920 --regid=10920 --clear-groups) program=$home/program
            "${as[@]}" test -w "$home/data" || { say "uid 10920 cannot reach $home: a folder above it is closed" | tee "$home/log" >&2; return 1; }
        fi
        jars=$(printf '%s:' "$program"/lib/*.jar "$program"/agent/*.jar)
        # What bin/opensearch would run, without its helper JVMs, with a collector and a compiler that suit a short life on few cores.
        launch "$dir" opensearch "${as[@]}" env -i PATH="$PATH" LANG=C.UTF-8 HOME="$home" "$java/bin/java" \
            -Xms512m -Xmx512m -Xss1m -XX:MaxDirectMemorySize=256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
            -Xshare:auto -Xlog:cds=off -Xlog:aot=off -Djava.awt.headless=true -Djava.io.tmpdir="$home/tmp" -Djava.locale.providers=SPI,CLDR \
            -Djna.nosys=true -Djna.tmpdir="$home/tmp" -Dlog4j.shutdownHookEnabled=false -Dlog4j2.disable.jmx=true \
            -Dio.netty.noUnsafe=true -Dio.netty.noKeySetOptimization=true -Dio.netty.recycler.maxCapacityPerThread=0 -Dio.netty.allocator.numDirectArenas=0 \
            --add-opens=java.base/java.nio=ALL-UNNAMED --enable-native-access=ALL-UNNAMED \
            -Dopensearch.path.home="$program" -Dopensearch.path.conf="$home/config" -Dopensearch.distribution.type=zip -Dopensearch.bundled_jdk=false \
            -cp "$jars" org.opensearch.bootstrap.OpenSearch
    }
    await "$dir" opensearch "$port" "/_cluster/health" || return 1
    curl -fsS -m 60 -o /dev/null --noproxy '*' "http://127.0.0.1:$port/_cluster/health?wait_for_status=yellow&timeout=50s"
}

start_clickhouse() {
    alive "$1" clickhouse >/dev/null || launch "$1" clickhouse "$(program clickhouse)/bin/python" "$HERE/clickhouse.py" "$3" "$2/data"
    await "$1" clickhouse "$3" /ping
}

# Two processes: ElasticMQ, and the header fixer before it, whose address is the one to use.
start_sqs() {
    local raw=$1/elasticmq inner lib
    lib=$(program sqs)/lib
    mkdir -p "$raw"
    [ -f "$raw/port" ] || free_port >"$raw/port"
    inner=$(cat "$raw/port")
    alive "$1" elasticmq >/dev/null || launch "$1" elasticmq "$(find_java)/bin/java" -Xms64m -Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto \
        -Dsluice.dir="$raw/" -Dlogback.configurationFile="$lib/logback-quiet.xml" -Drest-sqs.bind-hostname=127.0.0.1 -Drest-sqs.bind-port="$inner" \
        -Dnode-address.host=127.0.0.1 -Dnode-address.port="$3" -Daws.region=us-east-1 -cp "$lib/*" org.elasticmq.server.Main
    await "$1" elasticmq "$inner" "/?Action=ListQueues" || { cp "$raw/log" "$2/log"; rm -f "$raw/port"; return 1; }
    alive "$1" sqs >/dev/null || launch "$1" sqs node "$HERE/sqs-front.js" "$3" "$inner" "$2/"
    await "$1" sqs "$3" "/?Action=ListQueues"
}

start_s3() {
    # A folder of the gateway is a bucket; this one is there for everybody.
    mkdir -p "$2/data/sluice" "$2/versions"
    alive "$1" s3 >/dev/null || launch "$1" s3 env ROOT_ACCESS_KEY=test ROOT_SECRET_KEY=testtest "$(program s3)/bin/versitygw" --port "127.0.0.1:$3" \
        --region us-east-1 --quiet --keep-alive --health /health posix --versioning-dir "$2/versions" "$2/data"
    await "$1" s3 "$3" /health
}

start_kinesis() {
    alive "$1" kinesis >/dev/null || launch "$1" kinesis env KINESIS_PORT="$3" "$(program kinesis)/kinesis" "$2/"
    await "$1" kinesis "$3" /_health/ready
}

start_kinesis2() {
    local tls
    tls=$(free_port)
    alive "$1" kinesis2 >/dev/null || launch "$1" kinesis2 env KINESIS_MOCK_PLAIN_PORT="$3" KINESIS_MOCK_TLS_PORT="$tls" LOG_LEVEL=ERROR SHARD_LIMIT=1000 \
        AWS_REGION=us-east-1 KINESIS_MOCK_CERT_PATH="$(program kinesis2)/node_modules/kinesis-local/server.json" \
        CREATE_STREAM_DURATION=50ms DELETE_STREAM_DURATION=50ms SPLIT_SHARD_DURATION=50ms MERGE_SHARDS_DURATION=50ms UPDATE_SHARD_COUNT_DURATION=50ms \
        node -r "$HERE/loopback.js" "$(program kinesis2)/node_modules/kinesis-local/main.js" "$2/"
    await "$1" kinesis2 "$3" /
}

# stop DIR ENGINE: ends what this folder has started, and nothing else. Data and port stay.
stop() {
    local name pid
    for name in $([ "$2" != sqs ] || echo elasticmq) "$2"; do
        pid=$(alive "$1" "$name") || { rm -f "$1/$name/pid"; continue; }
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 150); do
            [ -d "/proc/$pid" ] || break
            sleep 0.1
        done
        [ ! -d "/proc/$pid" ] || kill -9 "$pid" 2>/dev/null || true
        rm -f "$1/$name/pid"
    done
}
