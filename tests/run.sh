#!/usr/bin/env bash
# Runs every test. Installs what they need (it says so), starts what they talk to and stops it again.
#
#   tests/run.sh          everything that is quick: at most 30 minutes on two cores from nothing
#   tests/run.sh --full   the slow ones too: benchmarks, licences, other compilers, shuffled layouts
#
# With TASKCLUSTER_REFERENCES=.../references.json the contract tests against Taskcluster's published references run too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

full=no
case "${1:-}" in
    "") ;;
    --full) full=yes ;;
    *) echo "usage: tests/run.sh [--full]" >&2; exit 64 ;;
esac

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target
work=$target/test-work
mkdir -p "$work"
results=$work/results
: >"$results"
failed=0
started=$SECONDS

say() { printf '\n== [%4ss] %s\n' "$((SECONDS - started))" "$*"; }
# A step that is one check of its own: counts as one test.
check() { # NAME COMMAND...
    local name=$1
    shift
    say "$name"
    if "$@"; then echo "passed 1" >>"$results"; else
        printf 'FAILED: %s\n' "$name"
        echo "failed 1" >>"$results"
        failed=1
    fi
}
# cargo test, its totals added up.
cargo_tests() { # NAME ARGUMENTS...
    local name=$1 log=$work/cargo-test.log
    shift
    say "$name"
    if ! cargo test "$@" 2>&1 | tee "$log"; then failed=1; fi
    sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/passed \1\nfailed \2\nignored \3/p' \
        "$log" >>"$results"
    # A test that does not compile, or a process that dies, has no line of totals.
    if ! grep -q '^test result:' "$log"; then echo "failed 1" >>"$results"; failed=1; fi
}

# --- what the tests need -------------------------------------------------------------------------------------------
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null && return
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        say "installing $2 (for $1)"
        apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2"
    else
        echo "tests/run.sh: $1 is not there; install it (Debian: apt-get install $2)" >&2
        exit 1
    fi
}
if ! command -v cargo >/dev/null; then
    echo "tests/run.sh: cargo is not there; install Rust 1.95 or newer with rustfmt and clippy (https://rustup.rs)" >&2
    exit 1
fi
need cc gcc
need python3 python3
need openssl openssl
need setsid util-linux

# --- form ----------------------------------------------------------------------------------------------------------
check "rustfmt" cargo fmt --all -- --check
check "clippy, warnings are errors" cargo clippy --workspace --all-targets --all-features -- -D warnings

# --- build, libraries of vendors too -------------------------------------------------------------------------------
check "build" cargo build --workspace
for vendor in greeting script-engine; do
    check "build examples/vendor/$vendor, a workspace of its own" \
        cargo build --manifest-path "examples/vendor/$vendor/Cargo.toml" --target-dir "$target/vendor"
done

# --- tests ---------------------------------------------------------------------------------------------------------
cargo_tests "unit and integration tests" --workspace --no-fail-fast
cargo_tests "the ABI with everything it can do" -p tcw-abi --all-features
if [ -n "${TASKCLUSTER_REFERENCES:-}" ]; then
    cargo_tests "contract tests against the published references" -p tcw-host --test queue_contract -- --ignored
else
    say "contract tests: skipped: TASKCLUSTER_REFERENCES is not set"
fi

check "the first pages for vendors, followed word for word" tests/pages.py "$target"
check "the templates for vendors" tests/templates.sh "$target"
check "ABI evolution" tests/abi-history/run.sh "$target"

# --- as a user -----------------------------------------------------------------------------------------------------
check "the quickstart, with the debug build" env TCW_QUICKSTART_PROFILE=dev examples/quickstart.sh
check "the official Python client against a running worker" tests/python/run.sh "$target"

# --- what is slow --------------------------------------------------------------------------------------------------
if [ "$full" = yes ]; then
    check "licences, sources, duplicates (cargo deny)" tests/deny.sh "$target"
    check "the embedded queue and its model, 300 cases" \
        env TCW_TEST_SEEDS=300 cargo test -p tcw-host --test queue_model
    check "a plugin built by rustc 1.85 and by 1.96" tests/compilers.sh "$target"
    check "the templates for vendors, expanded by cargo-generate" tests/templates.sh "$target" --cargo-generate
    check "ABI evolution: shipped and shuffled libraries" tests/abi-history/run.sh "$target" --slow
    cargo_tests "the worker behind a queue that stands still" -p tcw-host --test queue_world_worker -- --ignored
    cargo_tests "load: thousands of tasks" -p tcw-host --test load -- --ignored --test-threads 1
    need curl curl
    cargo_tests "killed at every point, and what takes a queue's patience" -p tcw-host --test recovery_kill \
        --test recovery_state --test disk_full -- --ignored
    check "the embedded queue under 40,000 requests that no client would send" \
        cargo test -p tcw-host --test queue_fuzz -- --ignored --nocapture
    check "the lifecycle under fire, 3000 cases" env TCW_FIRE_CASES=3000 TCW_FIRE_SEED=random \
        cargo test -p tcw-host --test task_lifecycle -- under_fire --nocapture
    check "every way to stop at every time, and while the queue is away" \
        cargo test -p tcw-host --test cli_stopping --test cli_stopping_away --test cli_claims -- --ignored
    check "benchmarks" tests/bench/run.sh
    # Benchmarks have built the release. The debug build shows that the pattern finds what it looks for.
    check "fault points are in a debug build, and not in a release" sh -c \
        'grep -aq TCW_FAULT_POINT "$0/debug/tcw-host" && test -x "$0/release/tcw-host" &&
         ! grep -aq TCW_FAULT_POINT "$0/release/tcw-host"' "$target"
fi

sum() { awk -v kind="$1" '$1 == kind { total += $2 } END { print total + 0 }' "$results"; }
say "done"
printf '%s passed, %s failed, %s skipped\n' "$(sum passed)" "$(sum failed)" "$(sum ignored)"
[ "$failed" = 0 ] && [ "$(sum failed)" = 0 ]
