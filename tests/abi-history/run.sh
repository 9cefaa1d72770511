#!/usr/bin/env bash
# Hosts and libraries of different versions of the ABI meet. Part of tests/run.sh.
#
#   tests/abi-history/run.sh TARGET_DIR          every combination, with the toolchain at hand
#   tests/abi-history/run.sh TARGET_DIR --slow   libraries as they are shipped, and with their layouts shuffled
#
# Builds below the target directory, all dependencies once. Installs nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=$(realpath -m "${1:?usage: tests/abi-history/run.sh TARGET_DIR [--slow]}")
work=$target/test-work/abi-history
history=tests/abi-history
recorded=()
for manifest in "$history"/[0-9]*/Cargo.toml; do recorded+=("$(basename "$(dirname "$manifest")")"); done
export CARGO_TARGET_DIR=$work/target CARGO_PROFILE_DEV_DEBUG=false CARGO_PROFILE_DEV_STRIP=true CARGO_INCREMENTAL=0
unset RUSTFLAGS
# The loader hashes every library and compares every layout: unoptimised, that is most of the time.
fast=(--config 'profile.dev.package.sha2.opt-level=3' --config 'profile.dev.package.abi_stable.opt-level=1')

library() { # NAME DESTINATION CARGO_ARGUMENTS...: builds one, and puts it where the probe looks
    local name=$1 destination=$2
    shift 2
    # All of them have one file name, so what cargo built last lies there: each is linked anew.
    touch "$work/$name/$name/library/src/lib.rs"
    cargo build --quiet "${fast[@]}" --manifest-path "$work/$name/$name/library/Cargo.toml" "$@"
    local profile=debug
    [[ " $* " == *" --release "* ]] && profile=release
    mkdir -p "$destination/$name"
    install -m 0755 "$CARGO_TARGET_DIR/$profile/librecorded_library.so" "$destination/$name/"
}
host() { # NAME LIBRARIES TESTS...: runs the host probe of a version
    local name=$1 libraries=$2
    shift 2
    echo "-- host $name, libraries in ${libraries#"$work"/}"
    TCW_HOST=$name TCW_HISTORY=$libraries TCW_RECORDED="${recorded[*]}" \
        cargo test --quiet "${fast[@]}" --manifest-path "$work/$name/$name/probe/Cargo.toml" --test history -- "$@"
}

if [ "${2:-}" = --slow ]; then
    "$history/stage.py" "$work" "${recorded[@]}" next
    # As vendors ship: optimised as one, stripped.
    for name in "${recorded[@]}" next; do
        CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 CARGO_PROFILE_RELEASE_STRIP=true \
            library "$name" "$work/shipped" --release
    done
    for name in "${recorded[@]}" next; do host "$name" "$work/shipped" combinations; done
    # What is not repr(C) lies elsewhere in every build: nothing may depend on it. Each side has a seed of its own, and
    # the last ones meet the host with its layouts as they are.
    shuffle() { # SEED COMMAND...
        local seed=$1
        shift
        RUSTFLAGS="-Zrandomize-layout -Zlayout-seed=$seed" CARGO_TARGET_DIR=$work/shuffled-target \
            RUSTUP_TOOLCHAIN=nightly "$@"
    }
    for seed in 1 20 300; do
        for name in "${recorded[@]}" next; do shuffle "$seed" library "$name" "$work/shuffled-$seed"; done
    done
    for name in "${recorded[@]}" next; do
        shuffle 7 host "$name" "$work/shuffled-1" combinations
        shuffle 7 host "$name" "$work/shuffled-20" combinations
        host "$name" "$work/shuffled-300" combinations
    done
else
    changes=(changed-return changed-parameters changed-method-order changed-field-order)
    names=("${recorded[@]}" next draft-a draft-b "${changes[@]}")
    "$history/stage.py" "$work" "${names[@]}" current
    for name in "${names[@]}"; do library "$name" "$work/libraries"; done
    # A test of one and the same library under many names would mean nothing.
    if sha256sum "$work"/libraries/*/*.so | awk '{ print $1 }' | sort | uniq -d | grep -q .; then
        echo "run.sh: two libraries are the same" >&2
        exit 1
    fi
    for name in "${recorded[@]}" current next; do host "$name" "$work/libraries"; done
fi
