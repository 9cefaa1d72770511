//! Files that cannot be used, through the program: left out of a worker with two lines that say why and what to do,
//! refused as an engine with the same, and listed as such. What there is about each beyond that is in
//! `library_loading.rs`.

mod support;
mod wrong_support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::cli::{Ended, Place, flags};
use support::{library, patched};
use wrong_support::{Author, IMPATIENT, PATIENT, Scene, processes_that_name, wrong};

/// Names of files and what is found in them; then what the operator is to do.
type Row = (&'static str, String, String);

/// A worker with these in its directory of plugins leaves all of them out, and works.
#[track_caller]
fn left_out(mut scene: Scene, rows: &[Row]) {
    scene.starts();
    Author::Completed.is(&scene.author_sees(""), "beside files that cannot be used");
    let ended = scene.interrupted();
    let said = ended.err();
    for (name, found, remedy) in rows {
        let line = format!("ERROR a library is left out: DIR/plugins/{name}: {found}");
        assert!(said.contains(&line), "{line:?} is not in\n{said}");
        assert!(
            said.contains(&format!("\n  {remedy}")),
            "{remedy:?} is not in\n{said}"
        );
    }
    assert_eq!(
        said.matches("a library is left out").count(),
        rows.len(),
        "{said}"
    );
    assert_eq!(ended.code(), 71);
    scene.leaves_nothing();
}

/// The same of one as an engine, without which there is no worker.
#[track_caller]
fn refused(place: &Place, row: &Row) -> Ended {
    let (name, found, remedy) = row;
    let file = place.path("plugins").join(name);
    let empty = place.path("empty");
    fs::create_dir_all(&empty).unwrap();
    let ended = place.run(&support::cli::with(&["run"], &flags(&file, &empty)));
    let said = ended.err();
    assert!(
        said.contains(&format!("tcw-host: DIR/plugins/{name}: {found}")),
        "{said}"
    );
    assert!(said.contains(&format!("\n  {remedy}")), "{said}");
    ended
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A good one in the directory of plugins, under another name.
fn good(place: &Place, name: &str) -> PathBuf {
    let path = place.plugins([]).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(wrong("late"), &path).unwrap();
    mode(&path, 0o755);
    path
}

fn altered(place: &Place, name: &str, from: &str, to: &str) {
    patched(&wrong("late"), &good(place, name), from.as_bytes(), to.as_bytes());
}

fn row(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Row {
    (name, found.into(), remedy.into())
}

#[test]
fn what_can_be_told_without_running_it_is_left_out() {
    let scene = Scene::with_plugins([], PATIENT);
    let place = &scene.place;
    let damaged = "the file is damaged or was made by hand: get it again from its vendor";
    let give = "give a library that was built with tcw-abi, such as libnative_engine.so";
    let target = tcw_abi::manifest::TARGET;

    fs::write(place.plugins([]).join("libtext.so"), "hello").unwrap();
    let source = place.file("nothing.c", "int answer(void) { return 42; }\n");
    let c_library = place.path("plugins/libplain.so").display().to_string();
    assert!(
        Command::new("cc")
            .args(["-shared", "-o", &c_library, &source])
            .status()
            .unwrap()
            .success()
    );
    altered(place, "libmagic.so", "tcw-manifest-1\n", "tcw-manifesto1\n");
    altered(place, "libjson.so", "{\"name\":\"late\"", "{\"name\";\"late\"");
    altered(
        place,
        "libmajor.so",
        "\"rust\",\"version\":\"1.",
        "\"rust\",\"version\":\"2.",
    );
    altered(
        place,
        "libtarget.so",
        "\"target\":\"x86_64-",
        "\"target\":\"x86_65-",
    );
    altered(place, "libglibc.so", "GLIBC_2.34", "GLIBC_9.34");
    mode(&good(place, "libwritable.so"), 0o757);
    symlink("/usr/lib/libx.so", place.path("plugins/liblink.so")).unwrap();
    good(place, "open/libinside.so");
    mode(&place.path("plugins/open"), 0o777);

    let rows = [
        row(
            "libtext.so",
            "it is not a dynamic library: Could not read file magic",
            give,
        ),
        row(
            "libplain.so",
            "it is a dynamic library without a tcw manifest",
            "build it with tcw_abi::export_library!, or give another file",
        ),
        row(
            "libmagic.so",
            "the section .tcwmf does not start with a manifest's magic",
            damaged,
        ),
        row(
            "libjson.so",
            "the manifest is not what a manifest has to be: expected `:` at line 1",
            damaged,
        ),
        row(
            "libmajor.so",
            "it speaks version 2.0.0 of the tcw ABI, and this host speaks 1.",
            "update tcw-host, or get a build of late for ABI 1.x",
        ),
        row(
            "libtarget.so",
            format!("it was built for x86_65-unknown-linux-gnu (Elf x86_64), and this host runs on {target}"),
            format!("get late 0.1.0 for {target}"),
        ),
        row(
            "libglibc.so",
            "it needs GLIBC 9.34, and this machine has 2.",
            "use a newer system, or a build of late for an older GLIBC",
        ),
        row(
            "libwritable.so",
            "others may write it (mode 0757), and so change what the worker runs",
            "chmod go-w DIR/plugins/libwritable.so",
        ),
        row(
            "liblink.so",
            "it is a symbolic link, which can be turned to another file between check and use",
            "give the path of the file itself",
        ),
        row(
            "open",
            "others may write it (mode 0777), and so change what the worker runs",
            "chmod go-w DIR/plugins/open",
        ),
    ];
    for row in &rows {
        assert_eq!(refused(place, row).code(), 73);
    }
    let listed = place.run(&["library", "list", "plugins"]);
    assert_eq!(listed.code(), 1);
    for (name, found, _) in rows
        .iter()
        .filter(|(name, ..)| !["libwritable.so", "open"].contains(name))
    {
        let line = listed
            .stdout
            .lines()
            .find(|line| line.ends_with(&format!("plugins/{name}")));
        assert!(
            line.is_some_and(|line| line.contains(&format!("refused: {found}"))),
            "{}",
            listed.stdout
        );
    }
    left_out(scene, &rows);
}

/// A newer SDK may write more than this host knows.
#[test]
fn unknown_keys_of_a_manifest_are_nobodys_business() {
    let mut scene = Scene::with_plugins([], PATIENT);
    altered(&scene.place, "liblate.so", "\"vendor\":\"", "\"vendro\":\"");
    scene.starts().says("library loaded library=\"late\"");
    Author::Completed.is(&scene.author_sees("wrong: nothing"), "unknown keys");
    assert_eq!(scene.interrupted().code(), 71);
}

#[test]
fn a_file_that_was_cut_off_is_left_out_wherever_that_was() {
    let scene = Scene::with_plugins([], PATIENT);
    let whole = fs::read(wrong("late")).unwrap();
    let directory = scene.place.plugins([]);
    let offsets: Vec<usize> = [0, 1, 4, 16, 63, 64, 65, 1000]
        .into_iter()
        .chain((1..10).map(|part| whole.len() / 10 * part))
        .chain([1000, 64, 1].map(|less| whole.len() - less))
        .collect();
    assert_eq!(offsets.len(), 20);
    for (index, offset) in offsets.iter().enumerate() {
        fs::write(directory.join(format!("libcut{index:02}.so")), &whole[..*offset]).unwrap();
    }
    let files: Vec<String> = (0..20)
        .map(|index| format!("plugins/libcut{index:02}.so"))
        .collect();
    let inspect: Vec<&str> = ["library", "inspect"]
        .into_iter()
        .chain(files.iter().map(String::as_str))
        .collect();
    let inspected = scene.place.run(&inspect);
    assert_eq!((inspected.code(), inspected.err().as_str()), (1, ""));
    assert_eq!(
        inspected.out().matches("  refused: plugins/libcut").count(),
        20,
        "{}",
        inspected.out()
    );

    let mut scene = scene;
    scene.starts();
    Author::Completed.is(&scene.author_sees(""), "cut");
    let ended = scene.interrupted();
    assert_eq!(
        ended
            .err()
            .matches("ERROR a library is left out: DIR/plugins/libcut")
            .count(),
        20,
        "{}",
        ended.err()
    );
    assert_eq!(ended.code(), 71);
    scene.leaves_nothing();
}

/// What shows when the system's loader is asked. It is asked by a process that may be lost.
#[test]
fn a_library_that_cannot_be_opened_is_left_out() {
    let scene = Scene::with_plugins(
        [
            "needs_symbol",
            "constructor_panics",
            "constructor_exits",
            "constructor_crashes",
        ]
        .map(wrong),
        PATIENT,
    );
    // The letters of one symbol in another order: nobody finds it any more.
    altered(
        &scene.place,
        "libno_root.so",
        "_1as_0lib_1header_0root_bmodule_bloader",
        "_1as_0lib_1header_0root_bmodule_bloadre",
    );
    let ended = "opening it ended the process, which was not the worker's yet";
    let quiet = "get a build from its vendor that does nothing when it is opened";
    let rows = [
        row(
            "libwrong_needs_symbol.so",
            "it cannot be opened: ",
            "install what it needs beside it or on this machine, or get another build",
        ),
        row(
            "libno_root.so",
            "it has a tcw manifest but does not export the symbol of tcw-abi 1.x",
            "build it as a cdylib with tcw_abi::export_library!",
        ),
        row(
            "libwrong_constructor_panics.so",
            format!("{ended} (signal: 6 (SIGABRT)"),
            quiet,
        ),
        row(
            "libwrong_constructor_exits.so",
            format!("{ended} (exit status: 0)"),
            quiet,
        ),
        row(
            "libwrong_constructor_crashes.so",
            format!("{ended} (signal: 6 (SIGABRT)"),
            quiet,
        ),
    ];
    for row in &rows {
        let code = refused(&scene.place, row).code();
        assert_eq!(code, 73, "{}", row.0);
    }
    let panicked = refused(&scene.place, &rows[2]).err();
    assert!(
        panicked.contains("; its last words: thread ") && panicked.contains("the constructor panics"),
        "{panicked}"
    );
    let needs = refused(&scene.place, &rows[0]).err();
    assert!(
        needs.contains("undefined symbol: tcw_no_library_has_this_function"),
        "{needs}"
    );
    left_out(scene, &rows);
}

#[test]
fn a_constructor_that_blocks_is_noticed_in_time() {
    let found = "opening it takes longer than 2 s: a constructor in it blocks";
    let rows = [row(
        "libwrong_constructor_blocks.so",
        found,
        "get a build from its vendor that does nothing when it is opened",
    )];
    let scene = Scene::with_plugins([wrong("constructor_blocks")], IMPATIENT);
    left_out(scene, &rows);

    // One that waits until it is in the worker holds the loader, so there is nothing that the worker could go on with.
    let scene = Scene::with_plugins([wrong("constructor_blocks")], IMPATIENT);
    scene.place.file("not-when-tried", "");
    let ended = scene.place.run(&scene.arguments(&["run"]));
    ended.refuses(
        69,
        "tcw-host: DIR/plugins/libwrong_constructor_blocks.so: opening it takes longer than 4 s: a constructor in it \
         blocks\n  take it out, get a build from its vendor that does nothing when it is opened, or raise \
         `libraries.startTimeout`\n",
    );
    scene.leaves_nothing();
}

/// Whoever ends the worker while it waits, ends what it waits for.
#[test]
fn a_library_that_is_being_tried_does_not_outlive_its_worker() {
    let scene = Scene::with_plugins([wrong("constructor_blocks")], PATIENT);
    let worker = scene.place.start(&scene.arguments(&["run"]));
    let tried = |is: bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        let marker = scene.place.path("state/libraries").display().to_string();
        while processes_that_name(&marker).is_empty() == is {
            assert!(
                Instant::now() < deadline,
                "the library is never {}",
                if is { "tried" } else { "let go" }
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    tried(true);
    // By a signal that it cannot heed.
    drop(worker);
    tried(false);
}

/// A worker that starts again does not try again.
#[test]
fn what_was_opened_once_is_not_tried_again() {
    let place = Place::new();
    let plugins = place.plugins([library("env_plugin")]);
    let schema = support::cli::with(&["schema"], &flags(&library("mock_engine"), &plugins));
    let tried = || -> Vec<String> {
        let store = fs::read_dir(place.path("state/libraries")).unwrap().flatten();
        store
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(".opened"))
            .collect()
    };
    assert_eq!(place.run(&schema).code(), 0);
    let first = tried();
    assert_eq!(first.len(), 2);
    let times = || {
        first.iter().map(|name| {
            fs::metadata(place.path("state/libraries").join(name))
                .unwrap()
                .modified()
                .unwrap()
        })
    };
    let before: Vec<_> = times().collect();
    assert_eq!(place.run(&schema).code(), 0);
    assert_eq!(before, times().collect::<Vec<_>>());
}

/// Nothing that one could load comes out of it.
#[test]
fn a_library_that_would_abort_on_a_panic_does_not_compile() {
    let target = support::build_directory();
    let profile = if target.ends_with("release") {
        "release"
    } else {
        "dev"
    };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let compiled = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace)
        .args([
            "rustc",
            "--offline",
            "-p",
            "tcw-wrong-libraries",
            "--example",
            "wrong_aborts",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target.parent().unwrap())
        .args(["--", "-C", "panic=abort"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(!compiled.status.success(), "{said}");
    assert!(
        said.contains("a tcw library needs `panic = \"unwind\"`: with \"abort\" one panic would end the worker and all its tasks"),
        "{said}"
    );
}
