#!/usr/bin/env python3
"""Follows the pages "Your first plugin" and "Your first engine" word for word.

    tests/pages.py TARGET_DIR

A page is obeyed from its top to its bottom. `<!-- file: PATH -->` in front of a block writes the block to that file,
`<!-- more: PATH -->` adds it, after an empty line. In a `console` block, lines after `$ ` are run by bash; the lines
below one have to appear in what it prints, in that order, where `...` stands for anything. In the end the files have
to be those of the example that the page is about.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = {"your-first-plugin": "greeting", "your-first-engine": "script-engine"}
FENCE = re.compile(r"^(?:<!-- (file|more): (\S+) -->\n)?```(\w+)[^\n]*\n(.*?)^```$", re.M | re.S)
# Longer than anything on a page takes; reached only by what would otherwise hang.
PATIENCE = 20 * 60


def fail(message):
    print(f"tests/pages.py: {message}", file=sys.stderr)
    sys.exit(1)


def commands(block):
    """The commands of a console block, each with the lines that it is said to print."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0] + "\n" + line, [])
        elif found:
            found[-1][1].append(line)
        else:
            fail(f"a console block begins with its output: {line}")
    return found


def printed(expected, output):
    """The first expected line that is not there."""
    lines = iter(output.splitlines())
    for line in expected:
        pattern = ".*".join(re.escape(re.sub(r" +", " ", part)) for part in line.split("..."))
        if not any(re.fullmatch(pattern, re.sub(r" +", " ", other)) for other in lines):
            return line
    return None


def follow(page, example, target):
    text = (ROOT / f"docs/src/vendors/{page}.md").read_text()
    # The same place each time, so that what was compiled there can be used again.
    place = target / "test-work" / "pages" / page
    shutil.rmtree(place, ignore_errors=True)
    checkout = place / "tcw"
    checkout.mkdir(parents=True)
    for entry in ("abi", "Cargo.toml"):
        (checkout / entry).symlink_to(ROOT / entry)
    (checkout / "target").symlink_to(target)

    kept = {"PATH", "HOME", "LANG", "TERM", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "CARGO_NET_OFFLINE"}
    environment = {name: value for name, value in os.environ.items() if name in kept or name.endswith("_proxy")}
    environment["TCW_STATE_DIRECTORY"] = str(place / "state")
    here, files, ran = place, {}, 0
    for does, path, language, block in FENCE.findall(text):
        if does:
            if does == "more":
                block = (here / path).read_text() + "\n" + block
            (here / path).write_text(block)
            files[path] = block
            if path == "Cargo.toml":
                # The versions that the example is locked to, and what is compiled of them already.
                shutil.copy(ROOT / f"examples/vendor/{example}/Cargo.lock", here)
                (here / "target").symlink_to(target / "vendor")
        for command, expected in commands(block) if language == "console" else ():
            print(f"$ {command}", flush=True)
            where = place / "where"
            ended = subprocess.run(
                ["bash", "-c", f"{command}\nstatus=$?; pwd >'{where}'; exit $status"],
                cwd=here, env=environment, text=True, timeout=PATIENCE,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            if ended.returncode != 0:
                fail(f"{page}: `{command}` ends with {ended.returncode}:\n{ended.stdout}")
            missing = printed(expected, ended.stdout)
            if missing is not None:
                fail(f"{page}: `{command}` does not print, where the page says so, `{missing}`:\n{ended.stdout}")
            here = pathlib.Path(where.read_text().strip())
            ran += 1

    sources = ROOT / f"examples/vendor/{example}"
    names = {"Cargo.toml"} | {f"src/{path.name}" for path in (sources / "src").iterdir()}
    for name in sorted(names):
        wanted = (sources / name).read_text().replace("../../../abi", "../tcw/abi")
        if files.get(name) != wanted:
            fail(f"{page}: its {name} is not that of examples/vendor/{example}: change both")
    shutil.rmtree(place)
    print(f"{page}: {ran} commands, {len(files)} files")
    if ran < 5:
        fail(f"{page}: fewer commands than the page has")


def main():
    if len(sys.argv) != 2:
        fail("usage: tests/pages.py TARGET_DIR")
    target = pathlib.Path(sys.argv[1]).resolve()
    if not (target / "debug/tcw-host").exists():
        fail(f"{target}/debug/tcw-host is not built: run cargo build --workspace, or tests/run.sh, which does")
    for page, example in PAGES.items():
        follow(page, example, target)


main()
