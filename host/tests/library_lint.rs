//! `tcw-host library lint`: what is wrong with a file is said, and what is right is not complained about.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::cli::{Ended, Place};
use support::{library, vendor_library};
use tcw_abi::manifest::{ABI_VERSION, FAMILY, TARGET};

/// Level and rule of each finding, and all messages.
fn findings(ended: &Ended) -> (Vec<(String, String)>, String) {
    let lines: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let (summary, findings) = lines.split_last().expect("a summary");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let rules: Vec<(String, String)> = findings
        .iter()
        .map(|finding| (text(&finding["level"]), text(&finding["rule"])))
        .collect();
    for (level, key) in [("error", "errors"), ("warning", "warnings"), ("note", "notes")] {
        let count = rules.iter().filter(|(of, _)| of == level).count();
        assert_eq!(summary["summary"][key], count, "{summary}");
    }
    let messages = findings
        .iter()
        .map(|finding| text(&finding["message"]) + "\n")
        .collect();
    (rules, messages)
}

#[test]
fn the_libraries_of_this_workspace_and_of_other_vendors_have_no_errors() {
    let place = Place::new();
    for built in [
        library("native_engine"),
        library("mock_engine"),
        library("env_plugin"),
        library("exit_status_plugin"),
        library("max_run_time_plugin"),
        library("artifacts_plugin"),
        library("task_log_plugin"),
        vendor_library("greeting", "greeting_plugin"),
        vendor_library("script-engine", "script_engine"),
    ] {
        let path = built.display().to_string();
        let ended = place.run(&["library", "lint", &path, "--json"]);
        assert_eq!((ended.code(), ended.err().as_str()), (0, ""), "{}", ended.stdout);
        let (rules, messages) = findings(&ended);
        let noted = |rule: &str| rules.contains(&("note".to_owned(), rule.to_owned()));
        assert!(noted("glibc"), "{path}: {messages}");
        // Built for debugging, which is said; and nothing else.
        for (level, rule) in &rules {
            let expected = level == "note" || ["size", "stripped", "documentation"].contains(&rule.as_str());
            assert!(expected, "{path}: {messages}");
        }
        assert!(!messages.contains("it exports more"), "{path}: {messages}");
    }
}

#[test]
fn what_the_vendor_promises_about_size_and_glibc_is_held_against_the_file() {
    let place = Place::new();
    let path = library("env_plugin").display().to_string();
    let ended = place.run(&["library", "lint", &path, "--glibc", "2.17", "--max-size", "1 MiB"]);
    assert_eq!((ended.code(), ended.err().as_str()), (1, ""));
    let out = ended.out();
    assert!(out.contains("error   size: it has "), "{out}");
    assert!(
        out.contains(" MiB, more than the 1.0 MiB that are allowed\n"),
        "{out}"
    );
    assert!(out.contains(", newer than 2.17, for "), "{out}");
    let last = out.lines().last().expect("a summary");
    assert!(last.starts_with("BUILT/libenv_plugin.so: 2 errors, "), "{last}");
    let wrong = place.run(&["library", "lint", &path, "--glibc", "new"]);
    assert_eq!(wrong.code(), 64);
    assert!(
        wrong.err().contains("write two numbers with a dot"),
        "{}",
        wrong.err()
    );
}

fn compile(source: &str, to: &Path, flags: &[&str]) {
    let input = to.with_extension("c");
    std::fs::write(&input, source).expect("it can be written");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-g", "-o"])
        .arg(to)
        .arg(&input)
        .args(flags)
        .output()
        .expect("tests/run.sh installs a C compiler");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    std::fs::remove_file(input).expect("it was there");
}

#[test]
fn a_file_in_which_everything_is_wrong_is_told_so() {
    let place = Place::new();
    let directory = place.path("bad");
    std::fs::create_dir(&directory).expect("it can be made");
    compile(
        "int helper(void) { return 1; }",
        &directory.join("libhelper.so"),
        &[],
    );
    let manifest = format!(
        r#"tcw-manifest-1\n{{\"name\":\"bad\",\"version\":\"0.0.0\",\"plugins\":[\"bad\"],\"abi\":{{\"family\":\"{FAMILY}\",\"version\":\"{ABI_VERSION}\"}},\"target\":\"{TARGET}\"}}"#
    );
    let source = format!(
        r#"
        #include <stdlib.h>
        #include <sys/stat.h>
        #include <unistd.h>
        int helper(void);
        __attribute__((section(".tcwmf"), used)) static const char manifest[] = "{manifest}";
        __attribute__((constructor)) static void first(void) {{ }}
        __attribute__((constructor)) static void second(void) {{ }}
        __attribute__((destructor)) static void last(void) {{ }}
        int not_hidden(void) {{
            umask(0);
            setenv("A", "b", 1);
            if (chdir("/")) exit(helper());
            return system("true");
        }}
        "#
    );
    compile(
        &source,
        &directory.join("libbad.so"),
        &[
            "-L",
            &directory.display().to_string(),
            "-lhelper",
            "-Wl,-rpath,/opt/build",
            "-Wl,-z,execstack",
        ],
    );
    let path = directory.display().to_string();
    let ended = place.run(&["library", "lint", &path, "--json"]);
    assert_eq!((ended.code(), ended.err().as_str()), (1, ""), "{}", ended.stdout);
    let (mut rules, messages) = findings(&ended);
    rules.dedup();
    let expected = [
        ("error", "exports"),
        ("error", "panic"),
        ("error", "search-path"),
        ("error", "needed"),
        ("error", "memory"),
        ("error", "loading"),
        ("warning", "manifest"),
        ("warning", "exports"),
        ("warning", "stripped"),
        ("warning", "constructors"),
        ("note", "size"),
        ("note", "glibc"),
        ("note", "shared-state"),
    ];
    let expected: Vec<(String, String)> = expected
        .map(|(level, rule)| (level.to_owned(), rule.to_owned()))
        .to_vec();
    assert_eq!(rules, expected, "{messages}");
    for part in [
        "it does not export _1as_0lib_1header_0root_bmodule_bloader",
        "it exports more than it has to: not_hidden.",
        "panic = \"abort\"",
        "its RUNPATH has '/opt/build'",
        "it needs libhelper.so, which lies beside it and is not found there",
        "an executable stack",
        "the manifest says no vendor",
        "the manifest says no licence",
        "the version is 0.0.0",
        "1 functions of its own run when it is loaded",
        "1 functions of its own run when the process ends",
        "it imports umask: the umask is the process's",
        "it imports setenv: the environment is the process's",
        "it imports chdir: the working directory is the process's",
        "it imports system: a fork",
        "debug information",
    ] {
        assert!(messages.contains(part), "{part}\nis not in\n{messages}");
    }
}

#[test]
fn a_crash_while_it_is_loaded_is_a_finding_and_a_file_that_is_no_library_is_refused() {
    let place = Place::new();
    let engine = library("mock_engine").display().to_string();
    let config = place.file(
        "crash.yml",
        "engine: { faults: [{ at: new-engine, do: crash }] }\n",
    );
    let ended = place.run(&["library", "lint", &engine, "--config", &config, "--json"]);
    assert_eq!((ended.code(), ended.err().as_str()), (1, ""));
    let (rules, messages) = findings(&ended);
    assert_eq!(rules[0], ("error".to_owned(), "loading".to_owned()));
    assert!(
        messages.contains("it cannot be loaded: the process that ran it was ended by signal 6 (SIGABRT)"),
        "{messages}"
    );
    let text = place.file("text.so", "no library at all");
    let refused = place.run(&["library", "lint", &text]);
    assert_eq!(refused.code(), 73);
    assert!(
        refused.err().contains("it is not a dynamic library"),
        "{}",
        refused.err()
    );
}
