//! Libraries from elsewhere, and the commands that look at libraries, schemas and configurations.

mod support;

use std::fs;
use std::process::Command;

use support::cli::{Place, flags, with};
use support::{library, patched, vendor_library};

/// The example engine and the example plugin, each built as a workspace of its own.
fn vendors(place: &Place) -> Vec<String> {
    let plugins = place.plugins([
        vendor_library("greeting", "greeting_plugin"),
        library("env_plugin"),
        library("task_log_plugin"),
    ]);
    flags(&vendor_library("script-engine", "script_engine"), &plugins)
}

fn greeted(place: &Place) -> String {
    place.file("greet.yml", "payload: {script: 'echo $GREETING', greet: Ada}\n")
}

#[test]
fn an_engine_and_a_plugin_of_other_workspaces_run_a_task() {
    let place = Place::new();
    let exec = place.run(&with(&["exec", &greeted(&place)], &vendors(&place)));
    assert_eq!(
        (exec.code(), exec.out().as_str()),
        (
            0,
            "[taskcluster TIME] Task ID: TASK\n\
             [taskcluster TIME] === Task Starting ===\n\
             [taskcluster TIME] This task is greeted: Hello, Ada\n\
             Hello, Ada\n\
             [taskcluster TIME] === Task Finished ===\n\
             [taskcluster TIME] Task Duration: 0s\n"
        ),
        "{}",
        exec.stderr
    );
}

#[test]
fn submit_asks_the_worker_that_runs_here_where_the_task_belongs() {
    let place = Place::new();
    let worker = place.start(&with(&["run", "--number-of-tasks", "1"], &vendors(&place)));
    worker.says("waiting for tasks");
    let submitted = place.run(&["submit", &greeted(&place)]);
    assert_eq!((submitted.code(), submitted.err().as_str()), (0, ""));
    assert_eq!(worker.end().code(), 0);

    let worker = place.start(&with(&["run"], &vendors(&place)));
    worker.says("waiting for tasks");
    let wrong = place.file("wrong.yml", "payload: {script: 'true', greets: Ada}\n");
    let refused = place.run(&["submit", &wrong]);
    assert_eq!(
        (refused.code(), refused.out().as_str(), refused.err().as_str()),
        (
            2,
            "",
            "tcw-host: the queue refuses the task DIR/wrong.yml:\n\
             the payload does not fit its schema:\n  \
             * `greets` is not a known key; `greet` is the nearest\n\
             These are the rules of worker pool local/script; `tcw-host schema --explain` lists them.\n"
        )
    );
}

#[test]
fn a_plugin_is_configured_by_its_name() {
    let place = Place::new();
    let vendors = vendors(&place);
    let task = greeted(&place);
    let config = place.file("hi.yml", "plugins: {greeting: {word: Hi}}\n");
    let exec = place.run(&with(&["exec", &task, "--config", &config], &vendors));
    assert!(exec.stdout.contains("\nHi, Ada\n"), "{}", exec.stdout);

    let config = place.file("wrong.yml", "plugins: {greeting: {word: [Hi], tone: warm}}\n");
    place
        .run(&with(&["exec", &task, "--config", &config], &vendors))
        .refuses(
            73,
            "tcw-host: the configuration of plugin greeting (libgreeting_plugin.so) does not fit:\n  \
         plugins.greeting: `word` must be a string, not a list\n  \
         plugins.greeting: `tone` is not a known key; known here: word\n",
        );

    let config = place.file("off.yml", "plugins: {disabled: [greeting]}\n");
    let exec = place.run(&with(&["exec", &task, "--config", &config], &vendors));
    assert_eq!(exec.code(), 2);
    assert_eq!(
        exec.err(),
        "TIME  WARN isolation: none. Tasks run as this worker's own user and reach whatever it reaches: run only tasks \
         that you would run yourself engine=\"script\"\n\
         tcw-host: the queue refuses the task DIR/greet.yml:\n\
         the payload does not fit its schema:\n  \
         * `greet` is not a known key; known here: env, features, logs, script\n\
         These are the rules of worker pool local/exec-ID; `tcw-host schema --explain` lists them.\n"
    );
}

#[test]
fn explain_says_where_each_key_comes_from_and_why_others_are_missing() {
    let place = Place::new();
    let mut vendors = vendors(&place);
    place.plugins([library("artifacts_plugin")]);
    let explained = place.run(&with(&["schema", "--explain"], &vendors));
    assert_eq!((explained.code(), explained.err().as_str()), (0, ""));
    let (keys, missing) = explained
        .stdout
        .split_once("\nNOT AVAILABLE\n")
        .expect("something is missing");
    let sources: Vec<(&str, &str)> = keys
        .lines()
        .skip(1)
        .filter(|line| !line.starts_with(' '))
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.next().unwrap(), words.next_back().unwrap())
        })
        .collect();
    assert_eq!(
        sources,
        [
            ("env", "libenv_plugin.so"),
            ("features", "libtask_log_plugin.so"),
            ("features.backingLog", "libtask_log_plugin.so"),
            ("greet", "libgreeting_plugin.so"),
            ("logs", "libtask_log_plugin.so"),
            ("logs.backing", "libtask_log_plugin.so"),
            ("logs.live", "libtask_log_plugin.so"),
            ("script", "libscript_engine.so"),
        ]
    );
    assert_eq!(
        missing,
        "(keys not known)\n    plugin artifacts (libartifacts_plugin.so) needs engine feature 'artifacts', which engine \
         script does not have\n"
    );

    vendors.push("--config".into());
    vendors.push(place.file("required.yml", "libraries: {required: [artifacts]}\n"));
    place.run(&with(&["schema"], &vendors)).refuses(
        73,
        "tcw-host: the configuration requires the library of plugin artifacts (libartifacts_plugin.so), which needs what \
         engine script does not have: the features 'artifacts'; choose another engine, or take the library out of \
         `libraries.required`\n",
    );
}

#[test]
fn a_key_that_two_libraries_mean_differently_names_both() {
    let place = Place::new();
    let plugins = place.plugins([]);
    // Its key `greet` becomes `delay`, a text; the mock engine has a `delay` too, a number.
    patched(
        &vendor_library("greeting", "greeting_plugin"),
        &plugins.join("libdelaying_plugin.so"),
        b"greet",
        b"delay",
    );
    place
        .run(&with(&["schema"], &flags(&library("mock_engine"), &plugins)))
        .refuses(
            73,
            "tcw-host: the libraries do not go together:\n  \
             engine mock (libmock_engine.so) and plugin delaying (libdelaying_plugin.so) both define the payload key \
             `delay`, differently: leave one of them out\n",
        );
}

#[test]
fn the_schema_is_json_and_the_documentation_markdown() {
    let place = Place::new();
    let native = place.native();
    let schema = place.run(&with(&["schema"], &native));
    assert_eq!((schema.code(), schema.err().as_str()), (0, ""));
    let schema: serde_json::Value = serde_json::from_str(&schema.stdout).unwrap();
    assert_eq!(
        (
            &schema["type"],
            &schema["additionalProperties"],
            &schema["required"]
        ),
        (
            &"object".into(),
            &false.into(),
            &serde_json::json!(["command", "maxRunTime"])
        )
    );
    let docs = place.run(&with(&["docs"], &native));
    assert_eq!((docs.code(), docs.err().as_str()), (0, ""));
    assert!(
        docs.stdout.starts_with("# Tasks for the engine native\n\n## "),
        "{}",
        docs.stdout
    );
    assert!(docs.stdout.contains("\n*Plugin task-log*\n"), "{}", docs.stdout);
    assert_eq!(place.exec_directories(), 0);
}

#[test]
fn configurations_are_checked_and_described() {
    let place = Place::new();
    let config = place.file(
        "tcw.yml",
        "queue: {rootUrl: 'https://tc.example.com', clientId: me, accessToken: {$env: TOKEN}}\n\
         worker: {workerPool: a/b, workerGroup: g, workerId: i}\n",
    );
    let mut check = place.tcw(&["config", "check", "--config", &config]);
    check.env("TOKEN", "the-secret-itself");
    let checked = place.start_command(check).end();
    assert_eq!((checked.code(), checked.err().as_str()), (0, ""));
    let effective: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(effective["worker"]["workerPool"], "a/b");
    assert!(
        !checked.stdout.contains("the-secret-itself"),
        "{}",
        checked.stdout
    );

    let schema = place.run(&["config", "schema"]);
    let document: serde_json::Value = serde_json::from_str(&schema.stdout).unwrap();
    assert_eq!(document["type"], "object");
    let reference = place.run(&["config", "reference"]);
    assert!(
        reference.stdout.contains("`worker.capacity`"),
        "{}",
        reference.stdout
    );
}

#[test]
fn libraries_are_listed_and_inspected_without_running_them() {
    let place = Place::new();
    let vendors = vendors(&place);
    let plugins = place.path("plugins");
    fs::write(plugins.join("libtext.so"), "text").unwrap();
    let listed = place.run(&["library", "list", "plugins", &vendors[1], "missing"]);
    let rows: Vec<Vec<String>> = listed
        .out()
        .lines()
        .map(|line| {
            line.split("  ")
                .filter(|cell| !cell.is_empty())
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect();
    assert_eq!(
        (listed.code(), rows, listed.err().as_str()),
        (
            1,
            [
                vec!["NAME", "VERSION", "ABI", "PROVIDES", "STATE", "PATH"],
                vec![
                    "env",
                    "0.1.0",
                    "1.0.0",
                    "plugin env",
                    "loadable",
                    "plugins/libenv_plugin.so"
                ],
                vec![
                    "greeting",
                    "0.1.0",
                    "1.0.0",
                    "plugin greeting",
                    "loadable",
                    "plugins/libgreeting_plugin.so"
                ],
                vec![
                    "task-log",
                    "0.1.0",
                    "1.0.0",
                    "plugin task-log",
                    "loadable",
                    "plugins/libtask_log_plugin.so"
                ],
                vec![
                    "-",
                    "-",
                    "-",
                    "-",
                    "refused: it is not a dynamic library: Could not read file magic",
                    "plugins/libtext.so"
                ],
                vec!["script", "0.1.0", "1.0.0", "engine script", "loadable", "VENDOR"],
                vec![
                    "-",
                    "-",
                    "-",
                    "-",
                    "refused: No such file or directory (os error 2)",
                    "missing"
                ],
            ]
            .map(|row| {
                let vendor = vendors[1].clone();
                row.into_iter()
                    .map(|cell| {
                        if cell == "VENDOR" {
                            vendor.clone()
                        } else {
                            cell.to_owned()
                        }
                    })
                    .collect()
            })
            .to_vec(),
            ""
        )
    );

    let inspected = place.run(&[
        "library",
        "inspect",
        "plugins/libgreeting_plugin.so",
        "plugins/libtext.so",
    ]);
    assert_eq!((inspected.code(), inspected.err().as_str()), (1, ""));
    for line in [
        "greeting 0.1.0\n",
        "  provides  plugin greeting\n",
        "  vendor    Example Vendor\n",
        "  this host can load it\n",
        "  refused: plugins/libtext.so: it is not a dynamic library: Could not read file magic\n",
    ] {
        assert!(
            inspected.stdout.contains(line),
            "{line:?} is not in\n{}",
            inspected.stdout
        );
    }

    let inspected = place.run(&["library", "inspect", "--json", "plugins/libgreeting_plugin.so"]);
    let json: serde_json::Value = serde_json::from_str(&inspected.stdout).unwrap();
    assert_eq!(
        (
            &json["manifest"]["name"],
            &json["manifest"]["plugins"],
            &json["refused"]
        ),
        (
            &"greeting".into(),
            &serde_json::json!(["greeting"]),
            &serde_json::Value::Null
        )
    );

    fs::create_dir(place.path("empty")).unwrap();
    let none = place.run(&["library", "list", "empty"]);
    assert_eq!(
        (none.code(), none.out().as_str(), none.err().as_str()),
        (0, "", "tcw-host: there are no libraries in empty\n")
    );
}

#[test]
fn every_command_has_help_that_names_its_flags() {
    let place = Place::new();
    let worker = [
        "--engine <FILE>",
        "--plugins <DIR>",
        "--config <FILE>",
        "--state-directory <DIR>",
    ];
    let helps: [(&[&str], &[&str]); 13] = [
        (
            &[],
            &["Exit statuses:", "TASKCLUSTER_ROOT_URL", "library", "recover"],
        ),
        (&["run"], &worker),
        (&["exec"], &["<TASK.yml>", "--artifacts <DIR>", "--engine <FILE>"]),
        (
            &["submit"],
            &["<TASK.yml>", "--watch", "0 completed, 1 failed, 2 exception"],
        ),
        (&["cancel"], &["<TASK-ID>"]),
        (&["status"], &["--json", "--state-directory <DIR>"]),
        (&["schema"], &["--explain", "--plugins <DIR>"]),
        (&["docs"], &worker),
        (&["config"], &["check", "schema", "reference"]),
        (&["library"], &["list", "inspect", "release"]),
        (&["library", "release"], &["<NAME>", "--state-directory <DIR>"]),
        (&["library", "inspect"], &["<FILE>...", "--json"]),
        (&["recover"], &worker),
    ];
    for (command, parts) in helps {
        let help = place.run(&[command, &["--help"]].concat());
        assert_eq!((help.code(), help.err().as_str()), (0, ""), "{command:?}");
        for part in parts {
            assert!(
                help.stdout.contains(part),
                "{part:?} is not in the help of {command:?}:\n{}",
                help.stdout
            );
        }
    }
    let version = place.run(&["--version"]);
    assert_eq!(
        (version.code(), version.stdout.as_str()),
        (0, concat!("tcw-host ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

/// As in `tcw-host schema | head -n 1`, but the reader has gone before the first byte.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let native = place.native().join(" ");
    let commands = [
        "--help".to_owned(),
        "config reference".to_owned(),
        "config schema".to_owned(),
        format!("config check {native}"),
        format!("schema {native}"),
        format!("schema --explain {native}"),
        format!("docs {native}"),
        "library list plugins".to_owned(),
        "library inspect plugins/libenv_plugin.so plugins/libtask_log_plugin.so".to_owned(),
        format!("recover {native}"),
    ];
    for command in commands {
        let line = format!(
            "set -o pipefail; {} {command} 2>err | exec 0<&-; echo ${{PIPESTATUS[0]}}; cat err",
            env!("CARGO_BIN_EXE_tcw-host")
        );
        let mut shell = Command::new("/bin/bash");
        shell
            .args(["-c", &line])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TCW_STATE_DIRECTORY", place.path("state"))
            .current_dir(place.path(""));
        let ended = place.start_command(shell).end();
        assert_eq!(ended.out(), "0\n", "{command}");
    }
}

/// The worker goes on without anybody who reads its log.
#[test]
fn a_worker_whose_log_nobody_reads_works() {
    let place = Place::new();
    let line = format!(
        "{} run -v --idle-timeout 1s {} 2>&1 | head -n 1; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_tcw-host"),
        place.native().join(" ")
    );
    let mut shell = Command::new("/bin/bash");
    shell
        .args(["-c", &line])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TCW_STATE_DIRECTORY", place.path("state"))
        .current_dir(place.path(""));
    let ended = place.start_command(shell).end();
    assert_eq!(ended.out().lines().last(), Some("68"), "{}", ended.stdout);
}
