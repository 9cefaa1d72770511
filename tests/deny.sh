#!/usr/bin/env bash
# Licences, sources and duplicates of every dependency: cargo deny with deny.toml. Part of tests/run.sh --full.
#
#   tests/deny.sh TARGET_DIR
#
# cargo-deny is built into the target directory if it is not there. Its database of advisories is fetched from the
# network where that can be reached; where not, that part is said to be skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${1:?usage: tests/deny.sh TARGET_DIR}
tools=$target/test-work/tools
deny=$tools/bin/cargo-deny
if command -v cargo-deny >/dev/null; then
    deny=$(command -v cargo-deny)
elif [ ! -x "$deny" ]; then
    echo "building cargo-deny into $tools (some minutes)"
    CARGO_TARGET_DIR=$target/test-work/deny-build cargo install --quiet --locked --root "$tools" cargo-deny
    rm -rf "$target/test-work/deny-build"
fi
"$deny" check licenses bans sources
if ! "$deny" check advisories; then
    if "$deny" fetch db >/dev/null 2>&1; then exit 1; fi
    echo "advisories: skipped: their database cannot be fetched here"
fi
