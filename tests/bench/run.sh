#!/usr/bin/env bash
# Measures what the issues promise: one JSON line a figure (name, value, unit, yardstick, ratio, target, met).
#
#   tests/bench/run.sh [--only NAME]...
#
# TCW_BENCH_PAIRS sets how many pairs are measured (9).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
only=()
while [ $# -gt 0 ]; do
    case "$1" in
        --only) only+=("${2:?--only needs the name of a figure}"); shift 2 ;;
        *) echo "usage: tests/bench/run.sh [--only NAME]..." >&2; exit 64 ;;
    esac
done
built=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release
cargo build --quiet --release --workspace
plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
for library in "$built"/lib*_plugin.so; do
    # That one is only measured, many times over.
    [ "${library##*/}" = libnothing_plugin.so ] || install -m 0755 "$library" "$plugins/"
done
"$built/tcw-bench" "$built" "$plugins" ${only[@]+"${only[@]}"}
