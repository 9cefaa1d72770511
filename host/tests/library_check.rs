//! `tcw-host library check` over every library of this workspace and over those of other vendors: all that applies
//! passes. What the command itself does beside that is here too; that the cases can fail is in `library_check_wrong`.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::cli::{Place, Running, processes_with};
use support::{library, vendor_library};

/// A file of the repository.
fn repository(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    root.join(path).display().to_string()
}

/// Checks a library and answers the summary, after asserting that nothing failed.
fn passes(library: &Path, config: &str) -> Value {
    let place = Place::new();
    let library = library.display().to_string();
    let config = repository(config);
    let ended = place.run(&["library", "check", &library, "--config", &config, "--json"]);
    let lines: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let failed: Vec<&Value> = lines.iter().filter(|line| line["outcome"] == "failed").collect();
    assert!(failed.is_empty(), "{library}: {failed:#?}");
    assert_eq!((ended.code(), ended.err().as_str()), (0, ""), "{library}");
    let summary = lines.last().expect("a summary")["summary"].clone();
    let counted: u64 = ["passed", "failed", "skipped", "notApplicable"]
        .iter()
        .map(|key| summary[key].as_u64().expect("a number"))
        .sum();
    assert_eq!(counted as usize, lines.len() - 1);
    summary
}

#[test]
fn the_native_engine_passes_everything_that_its_features_allow() {
    let summary = passes(&library("native_engine"), "engines/native/check.yml");
    assert!(summary["passed"].as_u64() >= Some(116), "{summary}");
    assert_eq!(summary["skipped"], 0);
}

#[test]
fn the_mock_engine_passes_everything_that_its_functions_can_serve() {
    let summary = passes(&library("mock_engine"), "engines/mock/check.yml");
    assert!(summary["passed"].as_u64() >= Some(132), "{summary}");
    assert_eq!(summary["skipped"], 0);
}

#[test]
fn every_plugin_of_this_workspace_passes() {
    for name in ["artifacts", "env", "exit-status", "max-run-time", "task-log"] {
        let built = library(&format!("{}_plugin", name.replace('-', "_")));
        let summary = passes(&built, &format!("plugins/{name}/check.yml"));
        assert!(summary["passed"].as_u64() >= Some(7), "{name}: {summary}");
        assert_eq!(summary["notApplicable"], 0);
    }
}

#[test]
fn libraries_of_other_vendors_pass() {
    let summary = passes(
        &vendor_library("script-engine", "script_engine"),
        "examples/vendor/script-engine/check.yml",
    );
    assert!(summary["passed"].as_u64() >= Some(57), "{summary}");
    let summary = passes(
        &vendor_library("greeting", "greeting_plugin"),
        "examples/vendor/greeting/check.yml",
    );
    assert!(summary["passed"].as_u64() >= Some(7), "{summary}");
}

#[test]
fn a_check_file_beside_the_library_is_found_and_only_what_was_asked_for_runs() {
    let place = Place::new();
    let copy = place
        .plugins([library("native_engine")])
        .join("libnative_engine.so");
    let path = copy.display().to_string();
    let only = ["library", "check", path.as_str(), "--only", "log/target-appears"];
    let without = place.run(&only);
    assert_eq!(
        (without.code(), without.out().lines().next()),
        (
            0,
            Some("n/a     log/target-appears: the check file has no payload for 'print'")
        )
    );
    place.file(
        "plugins/libnative_engine.check.yml",
        "script: {command: [[/bin/sh, -c, '{script}']]}\n\
         skip: [{case: log/live, why: the weather}]\n",
    );
    let with = place.run(&[only.as_slice(), &["--only", "log/live"]].concat());
    let expected = "passed  log/target-appears\nskipped log/live: the weather\nDIR/plugins/libnative_engine.so: \
                    1 passed, 0 failed, 1 skipped, 0 do not apply (";
    assert!(with.out().starts_with(expected), "{}", with.out());
    assert_eq!((with.code(), with.err().as_str()), (0, ""));
}

#[test]
fn names_that_are_not_there_and_files_that_are_no_libraries_are_refused() {
    let place = Place::new();
    let engine = library("mock_engine").display().to_string();
    place
        .run(&["library", "check", &engine, "--only", "log/liev"])
        .refuses(
            64,
            "tcw-host: there is no case or group of cases named 'log/liev'; did you mean 'log/live'?\n",
        );
    let config = place.file("x.yml", "enigne: {}\n");
    place
        .run(&["library", "check", &engine, "--config", &config])
        .refuses(
            64,
            "tcw-host: the check file DIR/x.yml: it does not fit:\n  `enigne` is not a known key; `engine` is the \
             nearest\n",
        );
    let skip = place.file("skip.yml", "skip: [{case: log/nothing-such, why: x}]\n");
    let ended = place.run(&["library", "check", &engine, "--config", &skip]);
    assert_eq!(ended.code(), 64);
    assert!(
        ended.err().contains("`skip` in the check file: there is no case"),
        "{}",
        ended.err()
    );
    let plugin = library("env_plugin").display().to_string();
    for (config, drives) in [
        ("plugins: {evn: {}}\n", "a plugin 'evn'"),
        ("engine: {a: 1}\n", "an engine"),
    ] {
        let config = place.file("other.yml", config);
        for command in ["check", "lint"] {
            place.run(&["library", command, &plugin, "--config", &config]).refuses(
                64,
                &format!(
                    "tcw-host: the check file drives {drives}, which BUILT/libenv_plugin.so does not have; it provides \
                     plugin 'env'\n"
                ),
            );
        }
    }
    let text = place.file("not-a-library.so", "text");
    place.run(&["library", "check", &text]).refuses(
        73,
        "tcw-host: DIR/not-a-library.so: it is not a dynamic library: Could not read file magic\n  give a library that was \
         built with tcw-abi, such as libnative_engine.so\n",
    );
}

#[test]
fn the_list_and_the_explanation_name_every_case_and_purpose() {
    let place = Place::new();
    let engine = library("mock_engine").display().to_string();
    let list = place.run(&["library", "check", &engine, "--list"]);
    assert_eq!((list.code(), list.err().as_str()), (0, ""));
    for case in tcw_abi::testing::conformance::cases() {
        let entry = format!("{}\n    {}\n", case.name, case.about);
        assert!(list.stdout.contains(&entry), "{}", case.name);
    }
    let explained = place.run(&["library", "check", "--explain"]);
    assert_eq!((explained.code(), explained.err().as_str()), (0, ""));
    for purpose in tcw_abi::testing::conformance::purpose::ALL {
        let entry = format!("  {}\n      {}", purpose.name, purpose.about);
        assert!(explained.stdout.contains(&entry), "{}", purpose.name);
    }
}

/// A check whose tasks run until they are ended, with `marker` among their arguments, in a temporary directory of its
/// own. Returns when a task runs.
fn endless(place: &Place, marker: &str) -> (Running, PathBuf) {
    let config = place.file(
        "endless.yml",
        &format!("script: {{command: [[/bin/sh, -c, 'true {{script}}; exec sleep {marker}']]}}\n"),
    );
    let temporary = place.path("temporary");
    std::fs::create_dir(&temporary).expect("it can be made");
    let engine = library("native_engine").display().to_string();
    let mut command = place.tcw(&["library", "check", &engine, "--config", &config, "--only", "log"]);
    command.env("TMPDIR", &temporary);
    let running = place.start_command(command);
    until("a task is started", || !processes_with(marker).is_empty());
    (running, temporary)
}

/// Nothing tells of other processes' ends, so this looks again and again.
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "it is not so that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ctrl_c_ends_everything_and_leaves_nothing() {
    let place = Place::new();
    let marker = format!("86400.{}", std::process::id());
    let (running, temporary) = endless(&place, &marker);
    running.signal(rustix::process::Signal::INT);
    let ended = running.end();
    assert_eq!(
        (ended.code(), ended.err().as_str()),
        (130, "tcw-host: interrupted; everything that ran is ended\n")
    );
    assert_eq!(processes_with(&marker), Vec::<u32>::new());
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn a_check_that_is_killed_leaves_no_process_and_no_file_either() {
    let place = Place::new();
    let marker = format!("86401.{}", std::process::id());
    let (running, temporary) = endless(&place, &marker);
    running.signal(rustix::process::Signal::KILL);
    assert_eq!(running.end().code(), 128 + 9);
    until("the task is ended", || processes_with(&marker).is_empty());
    until("the files are gone", || {
        std::fs::read_dir(&temporary).is_ok_and(|entries| entries.count() == 0)
    });
}
