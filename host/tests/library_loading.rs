//! Loading libraries: the good one, and one test for every way of being wrong that can be told before it runs.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{patched, vendor_library};
use tcw_host::library::{Diagnostics, Library, LibraryError, Loader, find, inspect};
use tempfile::TempDir;

/// A directory with a copy of the example plugin, and a loader with a store of its own.
struct Scene {
    directory: TempDir,
    loader: Loader,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("libraries")).unwrap();
        let loader = Loader::new(&directory.path().join("state"), Diagnostics::start());
        Scene { directory, loader }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("libraries").join(name)
    }

    fn plugin(&self) -> PathBuf {
        let path = self.path("libgreeting_plugin.so");
        fs::copy(greeting(), &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn load(&self, path: &Path) -> Result<Library, LibraryError> {
        self.loader.load(path)
    }

    /// The two lines that an operator reads, without the directory of this test.
    fn refusal(&self, path: &Path) -> String {
        match self.load(path) {
            Ok(_) => panic!("{} was loaded", path.display()),
            Err(error) => error
                .to_string()
                .replace(&self.path("").display().to_string(), "DIR/"),
        }
    }
}

fn greeting() -> PathBuf {
    vendor_library("greeting", "greeting_plugin")
}

#[tokio::test]
async fn a_library_is_loaded_from_the_store_and_its_providers_answer() {
    let scene = Scene::new();
    let library = scene.load(&scene.plugin()).unwrap();
    assert_eq!(library.manifest.name, "greeting");
    assert_eq!(library.manifest.plugins, ["greeting"]);
    assert_eq!(library.manifest.license, "MIT OR Apache-2.0");
    assert!(!library.manifest.engine);

    let provider = library.root.plugin_provider(0).await.unwrap();
    assert_eq!(provider.description().requires, ["environment"]);
    let Err(error) = library.root.engine_provider().await else {
        panic!("an engine")
    };
    assert_eq!(error.message(), "the library provides no engine");
    let Err(error) = library.root.plugin_provider(1).await else {
        panic!("a second plugin")
    };
    assert_eq!(error.message(), "the library provides no plugin number 1");

    let stored = scene
        .directory
        .path()
        .join("state/libraries")
        .join(&library.sha256)
        .join("libgreeting_plugin.so");
    assert_eq!(fs::read(stored).unwrap(), fs::read(greeting()).unwrap());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(
        !maps.contains("/libraries/libgreeting_plugin.so"),
        "the operator's own file is never mapped"
    );
}

#[tokio::test]
async fn replacing_the_file_loads_the_new_bytes_and_both_stay_usable() {
    let scene = Scene::new();
    let path = scene.plugin();
    let old = scene.load(&path).unwrap();
    patched(
        &greeting(),
        &path,
        b"{\"name\":\"greeting\"",
        b"{\"name\":\"greetinh\"",
    );
    let new = scene.load(&path).unwrap();
    assert_eq!(
        (old.manifest.name.as_str(), new.manifest.name.as_str()),
        ("greeting", "greetinh")
    );
    assert_ne!(old.sha256, new.sha256);
    assert!(old.root.plugin_provider(0).await.is_ok() && new.root.plugin_provider(0).await.is_ok());
}

#[tokio::test]
async fn a_stored_copy_that_was_damaged_is_replaced() {
    let scene = Scene::new();
    let path = scene.plugin();
    let first = scene.load(&path).unwrap();
    let stored = scene
        .directory
        .path()
        .join("state/libraries")
        .join(&first.sha256)
        .join("libgreeting_plugin.so");
    fs::remove_file(&stored).unwrap();
    fs::write(&stored, b"damaged").unwrap();
    assert_eq!(scene.load(&path).unwrap().sha256, first.sha256);
    assert_eq!(fs::read(stored).unwrap(), fs::read(greeting()).unwrap());
}

/// Under every name it is the same image: its statics are there once.
#[tokio::test]
async fn equal_bytes_under_several_names_are_stored_once_and_stay_where_they_are() {
    let scene = Scene::new();
    let path = scene.plugin();
    let link = scene.path("liblink.so");
    fs::hard_link(&path, &link).unwrap();
    let copy = scene.path("libcopy.so");
    fs::copy(&path, &copy).unwrap();
    let first = scene.load(&path).unwrap();
    for again in [&link, &copy, &path] {
        assert_eq!(scene.load(again).unwrap().sha256, first.sha256);
    }
    let stored = scene.directory.path().join("state/libraries").join(&first.sha256);
    let names: Vec<_> = fs::read_dir(stored)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["libgreeting_plugin.so"]);
}

#[tokio::test]
async fn a_directory_is_a_library_if_it_holds_one() {
    let scene = Scene::new();
    let package = scene.path("greeting");
    fs::create_dir(&package).unwrap();
    fs::copy(greeting(), package.join("libgreeting_plugin.so")).unwrap();
    fs::write(package.join("words.txt"), "Hello").unwrap();
    let library = scene.load(&package).unwrap();
    let stored = scene
        .directory
        .path()
        .join("state/libraries")
        .join(&library.sha256);
    assert_eq!(fs::read_to_string(stored.join("words.txt")).unwrap(), "Hello");
    assert_eq!(
        find::candidates(&scene.path("")).unwrap(),
        std::slice::from_ref(&package)
    );

    fs::copy(greeting(), package.join("libother.so")).unwrap();
    assert_eq!(
        scene.refusal(&package),
        "DIR/greeting: the directory holds several libraries, so it is not one library\n  \
         give the library's file, or use the directory with --plugins"
    );
}

/// Every way of being wrong that shows before any code runs: name of the file, how it is made, the whole refusal.
#[tokio::test]
async fn what_is_wrong_is_refused_in_two_lines() {
    let scene = Scene::new();
    let c_library = scene.path("libc_only.so");
    let source = scene.path("c_only.c");
    fs::write(&source, "int answer(void) { return 42; }\n").unwrap();
    assert!(
        Command::new("cc")
            .args(["-shared", "-o"])
            .args([&c_library, &source])
            .status()
            .unwrap()
            .success()
    );
    fs::remove_file(source).unwrap();

    let wrong = BTreeMap::from([
        ("libtext.so", "hello".as_bytes().to_vec()),
        ("libempty.so", Vec::new()),
        ("libtruncated.so", fs::read(greeting()).unwrap()[..1000].to_vec()),
    ]);
    for (name, bytes) in wrong {
        fs::write(scene.path(name), bytes).unwrap();
    }
    let patches: [(&str, &str, &str); 5] = [
        ("libmagic.so", "tcw-manifest-1\n", "tcw-manifesto1\n"),
        ("libjson.so", "{\"name\":\"greeting\"", "{\"name\";\"greeting\""),
        (
            "libmajor.so",
            "\"rust\",\"version\":\"1.",
            "\"rust\",\"version\":\"2.",
        ),
        ("libfamily.so", "{\"family\":\"rust\"", "{\"family\":\"rest\""),
        ("libtarget.so", "\"target\":\"x86_64-", "\"target\":\"x86_65-"),
    ];
    for (name, from, to) in patches {
        patched(&greeting(), &scene.path(name), from.as_bytes(), to.as_bytes());
    }
    // The machine in the ELF header: 183 is AArch64.
    let mut other_machine = fs::read(greeting()).unwrap();
    other_machine[18] = 183;
    fs::write(scene.path("libmachine.so"), other_machine).unwrap();

    let give = "give a library that was built with tcw-abi, such as libnative_engine.so";
    let here = tcw_abi::manifest::TARGET;
    let abi = tcw_abi::manifest::ABI_VERSION;
    let expected = [
        (
            "libtext.so",
            format!("it is not a dynamic library: Could not read file magic\n  {give}"),
        ),
        ("libempty.so", format!("it is empty\n  {give}")),
        (
            "libc_only.so",
            "it is a dynamic library without a tcw manifest\n  \
             build it with tcw_abi::export_library!, or give another file"
                .to_owned(),
        ),
        (
            "libmagic.so",
            "the section .tcwmf does not start with a manifest's magic\n  \
             the file is damaged or was made by hand: get it again from its vendor"
                .to_owned(),
        ),
        (
            "libjson.so",
            "the manifest is not what a manifest has to be: expected `:` at line 1 column 8\n  \
             the file is damaged or was made by hand: get it again from its vendor"
                .to_owned(),
        ),
        (
            "libmajor.so",
            format!(
                "it speaks version 2.0.0 of the tcw ABI, and this host speaks {abi}\n  \
                 update tcw-host, or get a build of greeting for ABI 1.x"
            ),
        ),
        (
            "libfamily.so",
            "it speaks the ABI family 'rest', and this host speaks 'rust'\n  \
             use a host that knows this family, or a build of the library for tcw-abi 1.x"
                .to_owned(),
        ),
        (
            "libtarget.so",
            format!(
                "it was built for x86_65-unknown-linux-gnu (Elf x86_64), and this host runs on {here}\n  \
                 get greeting 0.1.0 for {here}"
            ),
        ),
        (
            "libmachine.so",
            format!(
                "it was built for {here} (Elf aarch64), and this host runs on {here}\n  get greeting 0.1.0 for {here}"
            ),
        ),
    ];
    for (name, text) in expected {
        assert_eq!(scene.refusal(&scene.path(name)), format!("DIR/{name}: {text}"));
    }
    assert!(
        scene
            .refusal(&scene.path("libtruncated.so"))
            .contains("it is not a dynamic library")
    );
    assert_eq!(
        scene.refusal(&scene.path("libmissing.so")),
        "DIR/libmissing.so: No such file or directory (os error 2)\n  \
         check the path; engines and plugins of this build are in target/release"
    );
    assert!(
        !scene.directory.path().join("state").exists(),
        "nothing of them was stored"
    );
}

#[tokio::test]
async fn what_others_could_change_is_refused() {
    let scene = Scene::new();
    let path = scene.plugin();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

    mode(&path, 0o757);
    assert_eq!(
        scene.refusal(&path),
        format!(
            "DIR/libgreeting_plugin.so: others may write it (mode 0757), and so change what the worker runs\n  \
             chmod go-w DIR/libgreeting_plugin.so"
        )
    );
    mode(&path, 0o755);

    mode(&scene.path(""), 0o777);
    assert!(scene.refusal(&path).contains("others may write it (mode 0777)"));
    mode(&scene.path(""), 0o755);

    let link = scene.path("liblink.so");
    symlink(&path, &link).unwrap();
    assert!(scene.refusal(&link).contains("give the path of the file itself"));
    assert!(scene.load(&path).is_ok());
}

#[test]
fn inspection_runs_nothing_and_says_what_the_file_needs() {
    let inspection = inspect::inspect_file(&greeting()).unwrap();
    assert_eq!(inspection.manifest.name, "greeting");
    assert_eq!(inspection.format, "Elf x86_64");
    assert!(
        inspection
            .needed
            .iter()
            .any(|library| library.starts_with("libc.so")),
        "{:?}",
        inspection.needed
    );
    assert!(
        inspection
            .glibc
            .is_some_and(|glibc| glibc >= inspect::Version(2, 2)),
        "{:?}",
        inspection.glibc
    );
    assert!(inspection.refuse_foreign().is_ok());
}
