#!/usr/bin/env python3
"""Lays out workspaces that build one version of the ABI each, with its library and its host probe.

    tests/abi-history/stage.py DIRECTORY NAME...

NAME is a recorded version (1.0), or is made from the sources in abi/:

    current           as they are
    next              one minor version later: every FFI trait has one more method, every prefix type one more field
    draft-a, draft-b  two versions of the future that put different things at the same place
    changed-...       what the policy forbids (see CHANGES)

A workspace has the crates abi, library and probe. Files are written only if they change, so cargo builds little; and
the crates lie in a folder with the workspace's name, because cargo tells crates of equal name and version apart by
their place *within* the workspace, and these share a target directory.
"""

import re
import sys
from pathlib import Path

HISTORY = Path(__file__).resolve().parent
ROOT = HISTORY.parent.parent
RECORDED = sorted(
    (path.parent.name for path in HISTORY.glob("*/Cargo.toml") if re.match(r"\d", path.parent.name)),
    key=lambda version: [int(number) for number in version.split(".")],
)


def read(folder, into):
    """The text files below a folder, by the path that they get."""
    return {
        f"{into}{path.relative_to(folder)}": path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "target" not in path.relative_to(folder).parts
    }


def edit(files, path, old, new):
    """Replaces what occurs exactly once: a source that has changed is noticed here, not by a test that means nothing."""
    if files[path].count(old) != 1:
        sys.exit(f"stage.py: {path} has {files[path].count(old)} times, not once: {old!r}")
    files[path] = files[path].replace(old, new)


def workspace_manifest():
    """The root manifest's shared values, without its members and profiles."""
    sections = re.split(r"(?m)^(?=\[)", (ROOT / "Cargo.toml").read_text())
    kept = [s for s in sections if re.match(r"\[workspace\.(package|dependencies|lints)", s)]
    return '[workspace]\nresolver = "3"\nmembers = ["*"]\n\n' + "".join(kept)


def next_version(files):
    major, minor = re.search(r'(?m)^version = "(\d+)\.(\d+)\.', files["abi/Cargo.toml"]).groups()
    version = f"{major}.{int(minor) + 1}.0"
    files["abi/Cargo.toml"] = re.sub(r'(?m)^version = ".*"', f'version = "{version}"', files["abi/Cargo.toml"], count=1)


def mirrored_traits(files):
    """(path, trait) of every `ffi_object!`."""
    for path, text in files.items():
        if path.startswith("abi/src/ffi/"):
            for trait in re.findall(r"ffi_object! \{\n(?:    ///.*\n)*    (\w+):", text):
                yield path, trait


def append_method(files, path, trait, name):
    """One method at the end of an FFI trait, and of the trait that authors see."""
    default = '{ Ok("default".to_owned()) }'
    method = f"    [1.1] call fn {name}() -> String => RString else {default};\n"
    files[path] = re.sub(rf"(ffi_object! \{{\n(?:    ///.*\n)*    {trait}:[\s\S]*?)(\n\}}\n)", rf"\1\n{method}}}\n", files[path])
    declaration = re.compile(rf"(\npub trait {trait}: [\s\S]*?)(\n\}}\n)")
    for author in ("abi/src/engine.rs", "abi/src/plugin.rs", "abi/src/services.rs"):
        if declaration.search(files[author]):
            addition = f"\n\n    /// Appended.\n    async fn {name}(&self) -> Result<String> {default}\n}}\n"
            files[author] = declaration.sub(lambda found: found[1] + addition, files[author])
            return
    sys.exit(f"stage.py: there is no trait {trait} for authors")


def append_field(files, name):
    """One function at the end of the root module, which answers what the host's diagnostics said."""
    library = "abi/src/ffi/library.rs"
    edit(files, library, "    pub set_log_level: extern \"C\" fn(level: u32),\n",
         "    pub set_log_level: extern \"C\" fn(level: u32),\n"
         f"    /// Appended.\n    pub {name}: extern \"C\" fn(options: RString) -> u32,\n")
    edit(files, library, "        set_log_level,\n    }", f"        set_log_level,\n        {name},\n    }}")
    files[library] += (
        f"\nextern \"C\" fn {name}(_options: RString) -> u32 {{\n    diagnostics::since_next()\n}}\n"
    )
    edit(files, "abi/src/host.rs", "    /// Changes the level that the library reports from.",
         "    /// Appended: `None` from an older library.\n"
         "    pub fn since_next(&self) -> Option<u32> {\n"
         f"        self.0.{name}().map(|function| function(no_options()))\n    }}\n\n"
         "    /// Changes the level that the library reports from.")


def append_diagnostics(files):
    """One method at the end of the one FFI trait that is written by hand. An older host is a 0, a newer one a 7."""
    mirror = "abi/src/ffi/diagnostics.rs"
    edit(files, mirror, "    fn record(&self, record: RString);\n",
         "    fn record(&self, record: RString);\n\n"
         "    fn since_next(&self, options: RString) -> u32 {\n        drop(options);\n        0\n    }\n")
    edit(files, mirror, "            self.0.record(record);\n        }\n    }\n",
         "            self.0.record(record);\n        }\n    }\n\n"
         "    fn since_next(&self, _options: RString) -> u32 {\n        self.0.since_next()\n    }\n")
    edit(files, mirror, "            self.0.record(text.into());\n        }\n    }\n",
         "            self.0.record(text.into());\n        }\n    }\n\n"
         "    fn since_next(&self) -> u32 {\n        self.0.since_next(\"{}\".into())\n    }\n")
    authors = "abi/src/diagnostics.rs"
    edit(files, authors, "    fn record(&self, record: Record);\n",
         "    fn record(&self, record: Record);\n\n    /// Appended.\n    fn since_next(&self) -> u32 {\n        7\n    }\n")
    edit(files, authors, "/// Makes this copy of `tracing` report",
         "static SINCE_NEXT: AtomicU32 = AtomicU32::new(u32::MAX);\n\n"
         "/// What the host's diagnostics answered to the appended method.\n"
         "pub fn since_next() -> u32 {\n    SINCE_NEXT.load(Ordering::Relaxed)\n}\n\n"
         "/// Makes this copy of `tracing` report")
    edit(files, authors, "    let for_panics = Arc::clone(&sink);\n",
         "    SINCE_NEXT.store(sink.since_next(), Ordering::Relaxed);\n    let for_panics = Arc::clone(&sink);\n")


def make_next(files):
    next_version(files)
    for path, trait in list(mirrored_traits(files)):
        append_method(files, path, trait, "since_next")
    append_diagnostics(files)
    append_field(files, "since_next")
    for path in files:
        if path.endswith(".rs") and not path.startswith("abi/"):
            files[path] = files[path].replace("// next: ", "")


def make_draft(files, name):
    next_version(files)
    append_diagnostics(files)
    append_method(files, "abi/src/ffi/engine.rs", "Engine", name)
    append_field(files, name)


CHANGES = {
    "changed-return": [
        ("abi/src/ffi/volume.rs", "size() -> u64 => u64", "size() -> u32 => u32"),
        ("abi/src/engine.rs", "async fn size(&self) -> Result<u64>", "async fn size(&self) -> Result<u32>"),
    ],
    "changed-parameters": [
        ("abi/src/ffi/shell.rs", "size: TerminalSize => RString)", "size: TerminalSize => RString, again: bool => bool)"),
        ("abi/src/engine.rs", "fn set_size(&self, size: TerminalSize)", "fn set_size(&self, size: TerminalSize, again: bool)"),
    ],
    "changed-method-order": [
        ("abi/src/ffi/shell.rs", "    call fn set_size(size: TerminalSize => RString) -> () => Nothing;\n", ""),
        ("abi/src/ffi/shell.rs", "abort() -> () => Nothing;\n",
         "abort() -> () => Nothing;\n    call fn set_size(size: TerminalSize => RString) -> () => Nothing;\n"),
    ],
    "changed-field-order": [
        ("abi/src/ffi/wire.rs", "    pub kind: u32,\n    pub fallback: u32,\n", "    pub fallback: u32,\n    pub kind: u32,\n"),
    ],
}


def sources(name):
    probe = read(HISTORY / "probe", "probe/") | read(ROOT / "host/src/library", "probe/src/library/")
    lock = {"Cargo.lock": (ROOT / "Cargo.lock").read_text()}
    if name in RECORDED:
        recorded = read(HISTORY / name, "")
        return {path: text for path, text in recorded.items() if "/" in path or path == "Cargo.toml"} | probe | lock
    files = read(ROOT / "abi", "abi/") | read(HISTORY / RECORDED[-1] / "library", "library/") | probe | lock
    files["Cargo.toml"] = workspace_manifest()
    if name == "next":
        make_next(files)
    elif name.startswith("draft-"):
        make_draft(files, name.replace("-", "_"))
    elif name in CHANGES:
        for path, old, new in CHANGES[name]:
            edit(files, path, old, new)
    elif name != "current":
        sys.exit(f"stage.py: there is no {name}; recorded are {', '.join(RECORDED)}")
    return files


def write(directory, name, files):
    manifest = files["Cargo.toml"].replace('members = ["*"]', f'members = ["{name}/*"]')
    top = {"Cargo.toml": manifest.replace('path = "abi"', f'path = "{name}/abi"'), "Cargo.lock": files["Cargo.lock"]}
    files = top | {f"{name}/{path}": text for path, text in files.items() if "/" in path}
    for path, text in files.items():
        target = directory / path
        # Cargo completes the lock file: it is written once.
        if target.exists() and (path == "Cargo.lock" or target.read_text() == text):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for target in directory.rglob("*"):
        if target.is_file() and str(target.relative_to(directory)) not in files:
            target.unlink()


if len(sys.argv) < 3:
    sys.exit(__doc__)
for name in sys.argv[2:]:
    write(Path(sys.argv[1]) / name, name, sources(name))
