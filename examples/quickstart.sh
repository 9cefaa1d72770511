#!/usr/bin/env bash
# Builds tcw and runs the tasks in examples/tasks, each through libraries that are loaded at run time.
#
# Everything it makes is in target/quickstart; remove that directory to be rid of it. With
# TCW_QUICKSTART_PROFILE=dev it uses the debug build (the tests do).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${TCW_QUICKSTART_PROFILE:-release}
built=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
here=${CARGO_TARGET_DIR:-target}/quickstart
tasks=${TCW_QUICKSTART_TASKS:-examples/tasks}

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
missing() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

# --- what it needs -------------------------------------------------------------------------------------------------
if ! command -v cargo >/dev/null; then
    missing "cargo is not there. Install Rust 1.95 or newer: https://rustup.rs, or your system's packages"
fi
if ! command -v cc >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        say "Installing a C compiler (the SQLite in the host and one of the tasks need it)"
        apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev
    else
        missing "cc is not there. Install a C compiler (Debian: apt-get install gcc libc6-dev)"
    fi
fi

# --- build ---------------------------------------------------------------------------------------------------------
say "Building tcw ($profile; the first time this takes some minutes on two cores)"
packages=(-p tcw-host -p tcw-native-engine)
plugins=(env exit_status max_run_time artifacts task_log)
for plugin in "${plugins[@]}"; do packages+=(-p "tcw-${plugin//_/-}-plugin"); done
cargo build --profile "$profile" "${packages[@]}"

# An operator's layout: the engine where it is named, the plugins in one directory.
rm -rf "$here"
mkdir -p "$here/plugins"
chmod 0755 "$here" "$here/plugins"
install -m 0755 "$built/libnative_engine.so" "$here/"
for plugin in "${plugins[@]}"; do install -m 0755 "$built/lib${plugin}_plugin.so" "$here/plugins/"; done
unset TASKCLUSTER_ROOT_URL TASKCLUSTER_CLIENT_ID TASKCLUSTER_ACCESS_TOKEN TASKCLUSTER_CERTIFICATE
worker=("$built/tcw-host")
flags=(--engine "$here/libnative_engine.so" --plugins "$here/plugins" --state-directory "$here/state")

# --- run -----------------------------------------------------------------------------------------------------------
failures=0
expect() { # NAME WANTED ACTUAL
    if [ "$2" = "$3" ]; then
        printf -- '-- %s ended with exit status %s, as it should\n' "$1" "$3"
    else
        printf -- '-- %s ended with exit status %s, and should have with %s\n' "$1" "$3" "$2"
        failures=$((failures + 1))
    fi
}
run() { # NAME WANTED
    say "$1: ${worker[0]} exec $tasks/$1.yml"
    local status=0
    "${worker[@]}" exec "$tasks/$1.yml" --artifacts "$here/artifacts/$1" "${flags[@]}" || status=$?
    expect "$1" "$2" "$status"
}

run hello 0
run build-c 0
primes=$here/artifacts/build-c/public/build/primes
if [ -f "$primes" ]; then
    chmod u+x "$primes"
    printf -- '-- the program that this task built and published says: %s\n' "$("$primes" | tr '\n' ' ')"
fi
run fails 1
run malformed 2

say "cancelled: a task that would sleep for ten minutes, and Ctrl-C as soon as it runs"
status=0
"${worker[@]}" exec "$tasks/cancelled.yml" --artifacts "$here/artifacts/cancelled" "${flags[@]}" \
    >"$here/cancelled.log" 2>"$here/cancelled.err" &
task=$!
while kill -0 "$task" 2>/dev/null && ! grep -q 'Executing command 0' "$here/cancelled.log"; do read -rt 0.1 <> <(:) || true; done
kill -INT "$task" 2>/dev/null || true
wait "$task" || status=$?
cat "$here/cancelled.log" "$here/cancelled.err"
expect cancelled 2 "$status"

# --- and then ------------------------------------------------------------------------------------------------------
say "Where things are"
cat <<END
  logs and artifacts   $here/artifacts/<task>/public/...
  the embedded queue   $here/state/queue

Try next:
  # a worker that waits for tasks, with its queue in the same process (Ctrl-C ends it)
  ${worker[*]} run ${flags[*]}
  # and in another terminal
  ${worker[*]} submit $tasks/hello.yml --watch --state-directory $here/state

  # what a task's payload can hold, and which library each key comes from
  ${worker[*]} schema --explain ${flags[*]}
  # who a library is, without running any of it
  ${worker[*]} library inspect $here/plugins/libenv_plugin.so
  # write a plugin of your own: docs/src/vendors/your-first-plugin.md
END
if [ "$failures" != 0 ]; then
    printf '\nquickstart: %s of 5 tasks did not end as they should\n' "$failures" >&2
    exit 1
fi
