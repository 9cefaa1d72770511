#!/usr/bin/env bash
# All that a pipeline has to run, whichever it is: form, tests, the release build, and tcw's own checks of the file.
#
# Needs cargo and tcw-host. TCW_HOST says where tcw-host is, if it is not on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
host=${TCW_HOST:-tcw-host}
library=${CARGO_TARGET_DIR:-target}/release/lib{{crate_name}}.so

cargo fmt --check
cargo clippy --all-targets -- -D warnings
cargo test
cargo build --release
"$host" library inspect "$library"
"$host" library lint "$library"
"$host" library check "$library" --config check.yml
