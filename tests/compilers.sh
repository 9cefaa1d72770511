#!/usr/bin/env bash
# An engine and a plugin that another compiler built run in this host, unoptimised and as they are shipped (optimised
# as one, stripped): Debian's rustc 1.85 (the oldest that tcw-abi promises) and 1.96. Part of tests/run.sh --full.
#
#   tests/compilers.sh TARGET_DIR
#
# The compilers are unpacked below the target directory, not installed. One that cannot be had fails the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${1:?usage: tests/compilers.sh TARGET_DIR}
work=$target/test-work/compilers
mkdir -p "$work"

unpack() { # VERSION
    local version=$1 prefix=$work/$1 package full name
    [ -x "$prefix/usr/bin/rustc" ] && return
    rm -rf "$prefix"
    mkdir -p "$prefix/debs"
    local packages=(rustc-web libstd-rust-web-dev "libstd-rust-web-${version%.*}")
    for package in "${packages[@]}"; do
        full=$(apt-cache madison "$package" | awk -v v="$version" 'index($3, v) == 1 { print $3; exit }')
        if [ -z "$full" ]; then
            echo "tests/compilers.sh: Debian has no $package $version here; this needs bookworm's sources" >&2
            return 1
        fi
        (cd "$prefix/debs" && apt-get download -qq -o APT::Sandbox::User=root "$package=$full")
    done
    # The compiler's own back end is a package of another name.
    package=$(dpkg-deb -f "$prefix/debs/libstd-rust-web-${version%.*}"_*.deb Depends | grep -oE 'libllvm[0-9]+')
    (cd "$prefix/debs" && apt-get download -qq -o APT::Sandbox::User=root "$package")
    for name in "$prefix"/debs/*.deb; do dpkg -x "$name" "$prefix"; done
}

state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
unset TASKCLUSTER_ROOT_URL TASKCLUSTER_CLIENT_ID TASKCLUSTER_ACCESS_TOKEN TASKCLUSTER_CERTIFICATE
cat >"$state/task.yml" <<'TASK'
payload: {script: 'echo "said: $GREETING"', greet: Ada}
TASK

apt-cache madison rustc-web >/dev/null 2>&1 || { echo "tests/compilers.sh: apt-cache is not there; this needs Debian" >&2; exit 1; }
[ -n "$(apt-cache madison rustc-web)" ] || apt-get update -qq
for version in 1.85.0 1.96.0; do
    echo "-- rustc $version"
    unpack "$version"
    compiler=$work/$version/usr
    for profile in dev release; do
        # The cargo at hand drives it: what matters is who compiles.
        for library in greeting script-engine; do
            env -u RUSTFLAGS RUSTC="$compiler/bin/rustc" LD_LIBRARY_PATH="$compiler/lib/x86_64-linux-gnu" \
                CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 CARGO_PROFILE_RELEASE_STRIP=true \
                cargo build --quiet --profile "$profile" --manifest-path "examples/vendor/$library/Cargo.toml" \
                --target-dir "$work/target-$version"
        done
        built=$work/target-$version/${profile/dev/debug}
        rm -rf "$state/plugins"
        mkdir "$state/plugins"
        install -m 0755 "$built/libgreeting_plugin.so" "$state/plugins/"
        for file in "$state/plugins/libgreeting_plugin.so" "$built/libscript_engine.so"; do
            "$target/debug/tcw-host" library inspect "$file" | grep -E "compiler .*$version"
        done
        # With an engine of the same compiler, and with one of the toolchain's own.
        for engine in "$built/libscript_engine.so" "$target/vendor/debug/libscript_engine.so"; do
            "$target/debug/tcw-host" exec "$state/task.yml" --engine "$engine" \
                --plugins "$state/plugins" --state-directory "$state/tcw" 2>/dev/null | grep -Fx "said: Hello, Ada"
        done
    done
done
