#!/usr/bin/env bash
# Redis or Valkey on loopback, for tests and for trying things out: an installed one, else the distribution's package.
#
#   dev/redis.sh up [--cluster [--replicas N] | --sentinel] [--dir DIR] [--port PORT|random] [-- SETTING VALUE …]
#   dev/redis.sh down|status [--dir DIR]
#
# One server on port 6379; with --cluster three (and N replicas of each) on the ports from there on; with --sentinel a
# primary, two replicas and three Sentinels. `up` prints the URL. All files are in DIR (default: a folder under /tmp);
# `down` ends the servers and deletes it. Settings after `--` are the server's, as on its command line without dashes.
# Exit code 3: there is no server, and none can be installed.
set -euo pipefail

usage() { sed -n '2,/^set/{/^# \{0,1\}/{s///;p}}' "$0" >&2; exit 2; }
die() { printf '%s\n' "$@" >&2; exit 1; }

action=${1:-}; [ $# -gt 0 ] && shift
mode=single dir="${TMPDIR:-/tmp}/subscription-sdk-redis-$(id -u)" port=6379 replicas=0 settings=()
while [ $# -gt 0 ]; do
    case $1 in
        --cluster) mode=cluster ;;
        --sentinel) mode=sentinel ;;
        --replicas) replicas=${2:?a number}; shift ;;
        --dir) dir=${2:?a folder}; shift ;;
        --port) port=${2:?a port}; shift ;;
        --) shift; settings=("$@"); break ;;
        *) usage ;;
    esac
    shift
done

# Sets server and cli to the installed programs; installs them where that can be done without a question.
find_programs() {
    local name
    for _ in installed package; do
        for name in valkey redis; do
            if command -v "$name-server" >/dev/null && command -v "$name-cli" >/dev/null; then
                server=$name-server cli=$name-cli
                return
            fi
        done
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || break
        echo 'installing redis-server' >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends redis-server; } \
            >&2 || break
    done
    printf '%s\n' 'neither redis-server nor valkey-server is installed' \
        'get one: apt-get install redis-server, dnf install valkey, brew install redis' >&2
    exit 3
}

free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The first of N ports in a row that nobody listens on, nor on those 10,000 above them, where nodes of a cluster meet; all of
# them below those that the system gives to outgoing connections.
random_port() {
    local first i
    for _ in {1..200}; do
        first=$((20000 + RANDOM % 450 * 6))
        for ((i = 0; i < $1; i++)); do
            free $((first + i)) && free $((first + i + 10000)) || continue 2
        done
        echo "$first"
        return
    done
    die 'no free ports between 20000 and 22700'
}

start() { # port, settings…
    local port=$1 folder="$dir/$1"
    shift
    free "$port" || die "port $port is in use" "end what listens there, or give another --port"
    mkdir -p "$folder"
    "$server" --port "$port" --bind 127.0.0.1 --dir "$folder" --pidfile "$folder/pid" --daemonize yes \
        --logfile "$folder/log" --save '' --appendonly no "$@" >/dev/null 9>&- || die "$server did not start: see $folder/log"
    for _ in {1..100}; do
        # Any answer will do: it may want a password.
        [ -n "$("$cli" -p "$port" ping 2>/dev/null)" ] && return
        sleep 0.05
    done
    die "$server did not answer" "$(tail -n 5 "$folder/log")"
}

# What a Sentinel knows of the primary: port, name of the value.
known() { "$cli" -p "$1" sentinel master main 2>/dev/null | grep -A 1 -x "$2" | tail -n 1; }

dashed=()
for ((i = 0; i + 1 < ${#settings[@]}; i += 2)); do dashed+=("--${settings[i]}" "${settings[i + 1]}"); done

up() {
    find_programs
    [ -z "$(pids)" ] || die "servers of $dir are running" "end them: $0 down --dir $dir"
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    local url count=1 i nodes=()
    [ "$mode" = single ] || count=$((3 + 3 * replicas))
    [ "$mode" = sentinel ] && count=6
    # Others that start at the same time must not choose the same ports.
    if [ "$port" = random ]; then
        if command -v flock >/dev/null; then exec 9>"${TMPDIR:-/tmp}/subscription-sdk-redis.lock"; flock 9; fi
        port=$(random_port "$count")
    fi
    trap '[ $? = 0 ] || down' EXIT
    case $mode in
        single)
            start "$port" ${dashed[@]+"${dashed[@]}"}
            url="redis://127.0.0.1:$port" ;;
        cluster)
            for ((i = 0; i < count; i++)); do
                start $((port + i)) --cluster-enabled yes --cluster-node-timeout 2000 ${dashed[@]+"${dashed[@]}"}
                nodes+=("127.0.0.1:$((port + i))")
            done
            "$cli" --cluster create "${nodes[@]}" --cluster-replicas "$replicas" --cluster-yes >"$dir/create.log" \
                || die 'the cluster was not made' "$(tail -n 5 "$dir/create.log")"
            for ((i = 0; i < count; i++)); do
                until "$cli" -p $((port + i)) cluster info | grep -q cluster_state:ok; do sleep 0.05; done
                # A replica that has never been in step cannot take over.
                while "$cli" -p $((port + i)) info replication | grep -q master_link_status:down; do sleep 0.05; done
            done
            url="redis-cluster://$(IFS=,; echo "${nodes[*]}")" ;;
        sentinel)
            start "$port" ${dashed[@]+"${dashed[@]}"}
            for i in 1 2; do start $((port + i)) --replicaof 127.0.0.1 "$port" ${dashed[@]+"${dashed[@]}"}; done
            for i in 3 4 5; do
                mkdir -p "$dir/$((port + i))"
                printf 'sentinel monitor main 127.0.0.1 %d 2\nsentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n' \
                    "$port" >"$dir/$((port + i))/sentinel.conf"
                # Sentinel rewrites its file: it needs one of its own.
                (cd "$dir/$((port + i))" && "$server" "$PWD/sentinel.conf" --sentinel --port $((port + i)) --bind 127.0.0.1 \
                    --dir "$PWD" --pidfile "$PWD/pid" --daemonize yes --logfile "$PWD/log" >/dev/null 9>&-)
                nodes+=("127.0.0.1:$((port + i))")
            done
            for i in 3 4 5; do
                until [ "$(known $((port + i)) num-slaves) $(known $((port + i)) num-other-sentinels)" = '2 2' ]; do
                    sleep 0.1
                done
            done
            url="redis-sentinel://$(IFS=,; echo "${nodes[*]}")/main" ;;
    esac
    echo "$url" | tee "$dir/url"
}

pids() { local file; for file in "$dir"/*/pid; do [ -f "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null && cat "$file"; done; true; }

down() {
    local pid
    for pid in $(pids); do kill -CONT "$pid"; kill -9 "$pid"; done
    # Only what `up` made.
    [ -f "$dir/url" ] || [ -n "$(ls -d "$dir"/*/log 2>/dev/null)" ] && rm -rf "$dir"
    true
}

case $action in
    up) up ;;
    down) down ;;
    status)
        if [ -n "$(pids)" ]; then cat "$dir/url"; else echo 'not running'; exit 1; fi ;;
    *) usage ;;
esac
