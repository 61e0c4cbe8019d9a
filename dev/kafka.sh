#!/usr/bin/env bash
# Apache Kafka on 127.0.0.1, without ZooKeeper and without containers. Called by dev/services.
#
#   dev/services up kafka [--brokers N] [--port P] [--dir D] [--sasl] [--set NAME=VALUE]... [--while PID]
#   dev/services status kafka [--dir D]
#   dev/services kill kafka BROKER [--dir D]    kill -9, as a crash does (brokers are numbered from 1)
#   dev/services start kafka BROKER [--dir D]   start a killed broker again, on the data that it left
#   dev/services down kafka [--dir D]
#
# Broker i listens at port P + 3(i - 1) (default 9092) and uses the two after it: for the controllers, and with --sasl for
# clients that say who they are (PLAIN; users admin, who may do all, and alice, who may do nothing; password NAME-secret).
# --dir is where data, logs and process ids are: tests give one of their own each. --while ends all when that process ends.
#
# The program is taken from KAFKA_HOME where set; else from Maven Central, once, into ~/.cache/subscription-sdk.
# It needs a Java runtime, 17 or later. KAFKA_JVM are options for it (default: -Xmx512m, serial collector).
set -euo pipefail

readonly VERSION=4.1.1
readonly CLUSTER=MkU3OEVBNTcwNTJENDM2Qk # any 16 bytes in base64

fail() { echo "kafka: $1" >&2; exit "${2:-1}"; }

command=$1
shift
broker='' brokers=1 port=${KAFKA_PORT:-9092} dir=${KAFKA_DIR:-$HOME/.cache/subscription-sdk/run/kafka} sasl='' parent='' settings=()
case $command in kill | start) broker=${1:?which broker}; shift ;; esac
while [ $# -gt 0 ]; do
    case $1 in
    --brokers) brokers=$2; shift 2 ;;
    --port) port=$2; shift 2 ;;
    --dir) dir=$2; shift 2 ;;
    --set) settings+=("$2"); shift 2 ;;
    --while) parent=$2; shift 2 ;;
    --sasl) sasl=1; shift ;;
    *) fail "unknown option $1" 2 ;;
    esac
done

# Sets `libs` to the folder of Kafka's jars.
find_kafka() {
    command -v java >/dev/null || fail "no Java runtime is here: install one, 17 or later (Debian: openjdk-17-jre-headless)" 3
    if [ -n "${KAFKA_HOME:-}" ]; then
        libs=$KAFKA_HOME/libs
        [ -d "$libs" ] || fail "KAFKA_HOME has no folder libs: $KAFKA_HOME" 3
        return
    fi
    local cache=$HOME/.cache/subscription-sdk/kafka-$VERSION
    libs=$cache/libs
    [ ! -d "$libs" ] || return 0
    command -v mvn >/dev/null || fail "neither KAFKA_HOME nor Maven is here: set KAFKA_HOME to an unpacked Kafka, or install Maven (Debian: maven)" 3
    mkdir -p "$cache"
    # Several tests may come here at once: one fetches, the others wait.
    exec 7>"$cache/lock"
    flock 7
    [ ! -d "$libs" ] || return 0
    echo "kafka: fetching $VERSION (43 MB, once)" >&2
    cat >"$cache/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>dev</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
    rm -rf "$cache/fetched"
    mvn -q -B -f "$cache/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$cache/fetched" >&2 ||
        fail "Maven could not fetch Kafka $VERSION; set KAFKA_HOME to an unpacked Kafka" 3
    mv "$cache/fetched" "$libs"
    flock -u 7
}

java_kafka() {
    # shellcheck disable=SC2086 # options are words
    java ${KAFKA_JVM:--Xmx512m -Xms128m -XX:+UseSerialGC -XX:-UsePerfData} \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true \
        -cp "$libs/*" "$@"
}

write_properties() {
    local i=$1 voters='' n listener copies=$((brokers < 3 ? brokers : 3)) here
    for ((n = 1; n <= brokers; n++)); do voters+="${voters:+,}$n@127.0.0.1:$((port + 3 * (n - 1) + 1))"; done
    listener=$((port + 3 * (i - 1)))
    here=$dir/broker-$i
    cat >"$here/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$i
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:$listener,CONTROLLER://127.0.0.1:$((listener + 1))${sasl:+,SASL_PLAINTEXT://127.0.0.1:$((listener + 2))}
advertised.listeners=PLAINTEXT://127.0.0.1:$listener${sasl:+,SASL_PLAINTEXT://127.0.0.1:$((listener + 2))}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
log.dirs=$here/data
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=$copies
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=$copies
share.coordinator.state.topic.min.isr=1
# A group begins at once, and a test can make a member time out in seconds.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
PROPERTIES
    if [ -n "$sasl" ]; then
        cat >>"$here/server.properties" <<'PROPERTIES'
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_admin="admin-secret" user_alice="alice-secret";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:admin
PROPERTIES
    fi
    [ ${#settings[@]} -eq 0 ] || printf '%s\n' "${settings[@]}" >>"$here/server.properties"
}

pid_of() { cat "$dir/broker-$1/pid" 2>/dev/null || true; }

runs() {
    local pid
    pid=$(pid_of "$1")
    [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null
}

port_of() { sed -n 's/^advertised.listeners=PLAINTEXT:\/\/127.0.0.1:\([0-9]*\).*/\1/p' "$dir/broker-$1/server.properties"; }

start_broker() {
    local here=$dir/broker-$1
    # In a session of its own, so that a Ctrl-C meant for a test leaves it to the test to end its broker.
    ( exec 7>&- 8>&- 9>&-
      java() { exec setsid java "$@"; }
      java_kafka kafka.Kafka "$here/server.properties" >>"$here/log" 2>&1 </dev/null & echo $! >"$here/pid" )
}

wait_for() {
    local n=$1 tries
    for ((tries = 0; tries < 600; tries++)); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$(port_of "$n")") 2>/dev/null; then return 0; fi
        runs "$n" || { tail -20 "$dir/broker-$n/log" >&2; fail "broker $n ended; its log is $dir/broker-$n/log"; }
        sleep 0.1
    done
    fail "broker $n does not answer after 60 s; its log is $dir/broker-$n/log"
}

all_brokers() { for here in "$dir"/broker-*; do [ -d "$here" ] && echo "${here##*-}"; done; return 0; }

up() {
    find_kafka
    [ -z "$(all_brokers)" ] || { for n in $(all_brokers); do runs "$n" || start_broker "$n"; done
        for n in $(all_brokers); do wait_for "$n"; done; status; return; }
    local n pids=()
    for ((n = 1; n <= brokers; n++)); do
        mkdir -p "$dir/broker-$n"
        write_properties "$n"
        java_kafka kafka.tools.StorageTool format -t "$CLUSTER" -c "$dir/broker-$n/server.properties" >"$dir/broker-$n/log" 2>&1 &
        pids+=($!)
    done
    for n in "${pids[@]}"; do wait "$n" || { cat "$dir"/broker-*/log >&2; fail "cannot format the data folder"; }; done
    for ((n = 1; n <= brokers; n++)); do start_broker "$n"; done
    for ((n = 1; n <= brokers; n++)); do wait_for "$n"; done
    if [ -n "$parent" ]; then
        ( exec 7>&- 8>&- 9>&- >/dev/null 2>&1 </dev/null
          setsid bash -c 'while kill -0 "$1"; do sleep 1; done; exec bash "$0" down --dir "$2"' \
              "$(realpath "$0")" "$parent" "$dir" & )
    fi
    status
}

down() {
    local n pid
    for n in $(all_brokers); do
        pid=$(pid_of "$n")
        [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
    done
    # The data goes with it, so there is nothing to write out in an orderly stop.
    for n in $(all_brokers); do
        while runs "$n"; do sleep 0.05; done
        rm -rf "$dir/broker-$n"
    done
}

status() {
    local n
    [ -n "$(all_brokers)" ] || { echo "kafka: nothing runs in $dir"; return; }
    for n in $(all_brokers); do
        if runs "$n"; then echo "kafka: broker $n at 127.0.0.1:$(port_of "$n"), process $(pid_of "$n")"
        else echo "kafka: broker $n is dead"; fi
    done
}

known() { [ -d "$dir/broker-$broker" ] || fail "there is no broker $broker in $dir" 2; }

case $command in
up) up ;;
down) down ;;
status) status ;;
kill) known; kill -9 "$(pid_of "$broker")" 2>/dev/null || true; while runs "$broker"; do sleep 0.02; done ;;
start) known; find_kafka; runs "$broker" || start_broker "$broker"; wait_for "$broker" ;;
*) fail "unknown command $command; see dev/kafka.sh" 2 ;;
esac
