# What the commands in this folder share; each sources it. Bash on Linux.
#
# CACHE   programs, one folder per engine and version; it appears whole (rename) or not at all, under a lock per engine
# DIR     one set of running engines: DIR/<engine>/{port,pid,log,data}; a pid counts as ours only if its command line names DIR
# Everything listens on 127.0.0.1, on a free port below the ephemeral range, which is kept in DIR for a start again.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${SLUICE_ENGINES:-$HOME/.cache/sluice/engines}
ALL="opensearch clickhouse sqs s3 kinesis kinesis2"

say() { echo "engines: $*" >&2; }
known() { case " $ALL " in *" $1 "*) ;; *) say "unknown engine \`$1\`; there are: $ALL"; return 64 ;; esac }
in_ci() { [ -n "${CI:-}${GITHUB_ACTIONS:-}" ]; }
address_name() { echo "SLUICE_TEST_${1^^}"; }

# The newest Java >= 21: its home. JAVA_HOME wins if it is new enough.
find_java() {
    local best='' most=20 home version
    for home in ${JAVA_HOME:-} /usr/lib/jvm/* "$HOME"/.sdkman/candidates/java/* /opt/java/*; do
        [ -x "$home/bin/java" ] || continue
        version=$("$home/bin/java" -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.specification.version = \([0-9]*\).*/\1/p')
        [ "${version:-0}" -gt "$most" ] || continue
        best=$home most=$version
        [ "$home" != "${JAVA_HOME:-}" ] || break
    done
    [ -n "$best" ] && echo "$best"
}

# missing COMMAND WHAT: says what to install if the command is not there; 1 then.
missing() { command -v "$1" >/dev/null && return 1; echo "$2"; }

# What is needed and not there, with what to install; nothing if all is there.
needs() {
    local tool
    for tool in curl flock setsid; do missing "$tool" "$tool (Debian: curl, util-linux)" || true; done
    case $1 in
    opensearch | sqs)
        find_java >/dev/null || echo "Java >= 21 (Debian: openjdk-21-jre-headless; or Temurin; or set JAVA_HOME)"
        [ -d "$(program "$1")" ] || missing mvn "Maven (Debian: maven)" || true ;;&
    opensearch) [ -d "$(program "$1")" ] || missing unzip "unzip (Debian: unzip)" || true ;;
    sqs | kinesis2) missing node "Node.js >= 18 (Debian: nodejs)" || true ;;&
    kinesis2) [ -d "$(program "$1")" ] || missing npm "npm (Debian: npm)" || true ;;
    s3) [ -d "$(program "$1")" ] || missing go "Go >= 1.21 (https://go.dev/dl; Debian: golang)" || true ;;
    kinesis) [ -d "$(program "$1")" ] || missing cargo "cargo (rustup)" || true ;;
    clickhouse)
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || echo "Python >= 3.9 (Debian: python3)"
        [ -d "$(program "$1")" ] || python3 -c 'import venv, ensurepip' 2>/dev/null || echo "Python's venv (Debian: python3-venv)" ;;
    esac
}

# Where the engine's program is, or will be.
program() {
    case $1 in
    opensearch) echo "$CACHE/opensearch-$OPENSEARCH" ;;
    clickhouse) echo "$CACHE/clickhouse-$CHDB" ;;
    sqs) echo "$CACHE/elasticmq-$ELASTICMQ" ;;
    s3) echo "$CACHE/versitygw-$VERSITYGW" ;;
    kinesis) echo "$CACHE/ferrokinesis-$FERROKINESIS" ;;
    kinesis2) echo "$CACHE/kinesis-local-$KINESIS_LOCAL" ;;
    boto3) echo "$CACHE/boto3-$BOTO3" ;;
    esac
}

. "$HERE/programs.sh"
. "$HERE/processes.sh"
