#!/usr/bin/env bash
# The templates for vendors: expanded, they build, their tests pass, and a host runs what comes out.
#
#   tests/templates.sh TARGET_DIR                    expanded by a few lines of Python
#   tests/templates.sh TARGET_DIR --cargo-generate   and by cargo-generate, which has to give the same (part of --full)
#
# cargo-generate is built into the target directory if it is not there (some minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath "${1:?usage: tests/templates.sh TARGET_DIR [--cargo-generate]}")
root=$PWD
work=$target/test-work/templates
host=$target/debug/tcw-host
rm -rf "$work"
mkdir -p "$work"
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
unset TASKCLUSTER_ROOT_URL TASKCLUSTER_CLIENT_ID TASKCLUSTER_ACCESS_TOKEN TASKCLUSTER_CERTIFICATE
export TCW_STATE_DIRECTORY=$state/tcw CARGO_TARGET_DIR=$target/vendor TCW_HOST=$host

fail() { echo "tests/templates.sh: $*" >&2; exit 1; }

# --- expanding -----------------------------------------------------------------------------------------------------
expand() { # KIND DIRECTORY NAME
    python3 - "templates/$1" "$2" "$3" "$root/abi" <<'PYTHON'
import pathlib, re, sys, tomllib

template, to, name, abi = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
values = {
    "project-name": name, "crate_name": name.replace("-", "_"), "library_name": name,
    "abi_source": "path", "abi_path": abi, "vendor": "Example Vendor", "license": "MIT OR Apache-2.0",
}
asked = tomllib.loads((template / "cargo-generate.toml").read_text())["placeholders"]
for key, placeholder in asked.items():
    right = placeholder.get("choices") or re.search(placeholder["regex"], values[key])
    if not right or "choices" in placeholder and values[key] not in right:
        sys.exit(f'"{values[key]}" is not a valid value for {key}')

def expanded(text):
    def chosen(match):
        for condition, body in re.findall(r"\{% (.*?) %\}(.*?)(?=\{% |$)", match[0], re.S):
            _, _, wanted = condition.partition(" == ")
            if condition == "else" or wanted.strip('"') == values["abi_source"]:
                return body
    text = re.sub(r"\{% if .*?\{% endif %\}", chosen, text, flags=re.S)
    return re.sub(r"\{\{(.*?)\}\}", lambda match: values[match[1]], text)

for path in sorted(template.rglob("*")):
    inside = path.relative_to(template)
    if path.is_dir() or path.name == "cargo-generate.toml":
        continue
    there = to / (inside.with_suffix("") if path.suffix == ".liquid" else inside)
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text(expanded(path.read_text()))
    there.chmod(path.stat().st_mode & 0o777)
PYTHON
}

generate() { # KIND DIRECTORY NAME LIBRARY-NAME
    mkdir -p "$2"
    RUST_BACKTRACE=0 "$generator" generate --silent --vcs none --path "templates/$1" --destination "$2" --name "$3" \
        -d "library_name=$4" -d abi_source=path -d "abi_path=$root/abi" 2>&1
}

if [ "${2:-}" = --cargo-generate ]; then
    tools=$target/test-work/tools
    generator=$tools/bin/cargo-generate
    if [ ! -x "$generator" ]; then
        # Not the newest: that needs a newer compiler than this workspace.
        echo "building cargo-generate into $tools (some minutes)"
        CARGO_TARGET_DIR=$target/test-work/generate-build cargo install --quiet --locked --debug --no-default-features \
            --root "$tools" --version 0.23.14 cargo-generate
        rm -rf "$target/test-work/generate-build"
    fi
fi

# --- what is in them -----------------------------------------------------------------------------------------------
# The source is that of the examples, which the book explains; only the name differs.
for pair in plugin:greeting:greeting engine:script-engine:script; do
    IFS=: read -r kind example name <<<"$pair"
    mkdir -p "$work/source/$kind"
    cp "templates/$kind"/src/*.rs "$work/source/$kind/"
    sed -i "s/{{library_name}}/$name/" "$work/source/$kind/lib.rs"
    diff -r "$work/source/$kind" "examples/vendor/$example/src" ||
        fail "templates/$kind/src is not examples/vendor/$example/src: change both"
    diff "templates/$kind/rustfmt.toml" examples/vendor/rustfmt.toml
done

for wrong in My-Plugin "" 1st a_b "a b" -a; do
    for kind in plugin engine; do
        if said=$(expand "$kind" "$work/wrong" "$wrong" 2>&1); then fail "the name '$wrong' is taken by $kind"; fi
        grep -qF "\"$wrong\" is not a valid value for library_name" <<<"$said" || fail "'$wrong': $said"
        if [ -n "${generator:-}" ]; then
            if said=$(generate "$kind" "$work/wrong-$kind" crate "$wrong"); then fail "the name '$wrong' is taken by $kind"; fi
            grep -qF "\"$wrong\" is not a valid value for library_name" <<<"$said" || fail "'$wrong': $said"
            rm -rf "$work/wrong-$kind"
        fi
    done
done
[ ! -e "$work/wrong" ] || fail "something was made for a wrong name"

# --- expanded, built, tested, run ----------------------------------------------------------------------------------
for kind in plugin engine; do
    crate=my-$kind
    library=$target/vendor/debug/libmy_$kind.so
    expand "$kind" "$work/$crate" "$crate"
    if [ -n "${generator:-}" ]; then
        generate "$kind" "$work/generated" "$crate" "$crate" >/dev/null
        diff -r "$work/generated/$crate" "$work/$crate" || fail "cargo-generate makes something else of templates/$kind"
    fi
    if grep -rn '{{\|{%' "$work/$crate"; then fail "a placeholder is left in $crate"; fi
    # The versions that are compiled already. Cargo puts the package's own name in.
    [ "$kind" = plugin ] && example=greeting || example=script-engine
    cp "examples/vendor/$example/Cargo.lock" "$work/$crate/"
    (
        cd "$work/$crate"
        cargo fmt --check
        cargo test --quiet
        cargo build --quiet
        if "$host" library --help | grep -qw lint; then ./check.sh; fi
    )
    "$host" library inspect "$library" | grep -x "  provides  $kind my-$kind"
done

mkdir -m 755 "$state/plugins"
install -m 0755 "$target/vendor/debug/libmy_plugin.so" "$state/plugins/"
"$host" exec "$work/my-plugin/task.yml" --engine "$target/debug/libnative_engine.so" --plugins "$state/plugins" \
    2>/dev/null | grep -x "Hello, Ada"
"$host" exec "$work/my-engine/task.yml" --engine "$target/vendor/debug/libmy_engine.so" 2>/dev/null |
    grep -x "hello from a script"
# And with each other.
printf 'payload: {script: "echo $GREETING", greet: Bob}\n' >"$state/both.yml"
"$host" exec "$state/both.yml" --engine "$target/vendor/debug/libmy_engine.so" --plugins "$state/plugins" \
    2>/dev/null | grep -x "Hello, Bob"
