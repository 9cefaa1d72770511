#!/usr/bin/env bash
# The official Taskcluster client for Python, unchanged, against a running tcw-host: it creates a task, which a real
# engine runs, and fetches its log.
#
#   tests/python/run.sh TARGET_DIR     (the debug build there; tests/run.sh calls this)
#
# The client comes from PyPI into a virtual environment in the target directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=${1:?usage: tests/python/run.sh TARGET_DIR}
client=taskcluster==113.2.0

environment=$target/test-work/python
if ! "$environment/bin/python" -c "import importlib.metadata as m; assert m.version('taskcluster') == '${client#*==}'" 2>/dev/null; then
    echo "installing $client into $environment"
    rm -rf "$environment"
    if ! python3 -m venv "$environment" 2>/dev/null; then
        if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
            echo "installing python3-venv"
            apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv
            python3 -m venv "$environment"
        else
            echo "tests/python/run.sh: python3 -m venv does not work; install it (Debian: apt-get install python3-venv)" >&2
            exit 1
        fi
    fi
    "$environment/bin/pip" install --quiet --disable-pip-version-check "$client"
fi

state=$(mktemp -d)
host=
stop() {
    if [ -n "$host" ]; then
        kill -TERM "$host" 2>/dev/null || true
        wait "$host" 2>/dev/null || true
    fi
    rm -rf "$state"
}
trap stop EXIT
mkdir "$state/plugins"
for plugin in env exit_status max_run_time artifacts task_log; do
    install -m 0755 "$target/debug/lib${plugin}_plugin.so" "$state/plugins/"
done
unset TASKCLUSTER_ROOT_URL TASKCLUSTER_CLIENT_ID TASKCLUSTER_ACCESS_TOKEN TASKCLUSTER_CERTIFICATE
mkfifo "$state/log"
"$target/debug/tcw-host" run --engine "$target/debug/libnative_engine.so" --plugins "$state/plugins" \
    --state-directory "$state/tcw" >/dev/null 2>"$state/log" &
host=$!
# It says when it is ready, or ends.
exec 3<"$state/log"
ready=no
while read -r line <&3; do
    case "$line" in *"waiting for tasks"*) ready=yes; break ;; *) echo "$line" ;; esac
done
[ "$ready" = yes ] || { echo "tcw-host did not start" >&2; exit 1; }
cat <&3 >"$state/rest.log" &

value() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$state/tcw/queue/credentials.json" "$1"; }
TASKCLUSTER_ROOT_URL=$(value rootUrl) TASKCLUSTER_CLIENT_ID=$(value clientId) \
    TASKCLUSTER_ACCESS_TOKEN=$(value accessToken) TCW_TEST_POOL=local/native \
    "$environment/bin/python" -m unittest -v tests/python/test_official_client.py tests/python/test_every_call.py
