//! What is wrong is said in words that tell where and what to do, and in the exit status.

mod support;

use std::fs;
use std::net::TcpListener;

use rustix::process::Signal;
use support::cli::{Place, flags, with};
use support::{library, patched, vendor_library};

/// A task that would run if nothing else were wrong.
fn task(place: &Place) -> String {
    place.file(
        "task.yml",
        "payload: {maxRunTime: 60, command: [[echo, hello]]}\n",
    )
}

#[test]
fn task_files() {
    let place = Place::new();
    let refused = |name: &str, text: &str, said: &str| {
        let file = place.file(name, text);
        place.run(&["exec", &file]).refuses(64, said);
        place.run(&["submit", &file]).refuses(64, said);
    };
    refused(
        "list.yml",
        "- payload\n",
        "tcw-host: the task file DIR/list.yml: it has to be an object with at least `payload`\n",
    );
    refused(
        "none.yml",
        "metadata: {}\n",
        "tcw-host: the task file DIR/none.yml: it has no `payload`, which says what to run\n",
    );
    refused(
        "key.yml",
        "payload: {}\npriorty: high\n",
        "tcw-host: the task file DIR/key.yml: `priorty` is no key of a task; did you mean `priority`?\n",
    );
    refused(
        "top.yml",
        "payload: {}\ncommand: [ls]\n",
        "tcw-host: the task file DIR/top.yml: `command` is no key of a task; what the engine and the plugins understand \
         stands under `payload`\n",
    );
    refused(
        "yaml.yml",
        "payload: [1\nfoo: {\n",
        "tcw-host: the task file DIR/yaml.yml:2: illegal placement of ':' indicator at line 2, column 4\n",
    );
    place.run(&["exec", "missing.yml"]).refuses(
        64,
        "tcw-host: the task file missing.yml cannot be read: No such file or directory (os error 2); check the path and \
         its permissions\n",
    );
    fs::write(place.path("binary.yml"), [0xff, 0xfe, 0x00]).unwrap();
    place.run(&["exec", "binary.yml"]).refuses(
        64,
        "tcw-host: the task file binary.yml cannot be read: stream did not contain valid UTF-8; a task is a text in YAML \
         or JSON with at least `payload:`\n",
    );
}

#[test]
fn flags_that_are_not_there_or_make_no_sense() {
    let place = Place::new();
    let usage = "\nUsage: tcw-host [OPTIONS]\n       tcw-host [OPTIONS] <COMMAND>\n\nFor more information, try '--help'.\n";
    place.run(&["--frobnicate"]).refuses(
        64,
        &format!("error: unexpected argument '--frobnicate' found\n{usage}"),
    );
    place.run(&["frobnicate"]).refuses(
        64,
        &format!("error: unrecognized subcommand 'frobnicate'\n{usage}"),
    );
    place.run(&["run", "--capacity", "many"]).refuses(
        64,
        "error: invalid value 'many' for '--capacity <N>': invalid digit found in string\n\nFor more information, try \
         '--help'.\n",
    );
    place
        .run(&["run", "--capacity", "0"])
        .refuses(64, "tcw-host: --capacity: `worker.capacity` must be at least 1\n");
    place.run(&["run", "--idle-timeout", "soon"]).refuses(
        64,
        "tcw-host: --idle-timeout: `worker.idleTimeout` must be seconds, or text such as `90 s`, `20 min` or `1 day 2 \
         hours`\n",
    );
    place.run(&["cancel", "task"]).refuses(
        64,
        "tcw-host: \"task\" is not a task id: expected a slug of 22 characters from A-Z, a-z, 0-9, - and _\n",
    );
}

#[test]
fn configurations() {
    let place = Place::new();
    let task = task(&place);
    let native = place.native();
    let refused = |name: &str, text: &str, code: i32, said: &str| {
        let file = place.file(name, text);
        for command in [vec!["run"], vec!["exec", &task], vec!["schema"], vec!["recover"]] {
            place
                .run(&with(&[&command[..], &["--config", &file]].concat(), &native))
                .refuses(code, said);
        }
    };
    refused(
        "keys.yml",
        "worker:\n  capasity: 3\nplugin: {}\n",
        64,
        "tcw-host: DIR/keys.yml:2: `worker.capasity` is not a known key; `worker.capacity` is the nearest\n\
         DIR/keys.yml:3: `plugin` is not a known key; `plugins` is the nearest\n",
    );
    refused(
        "plugin.yml",
        "plugins:\n  enviroment: {}\n",
        73,
        "tcw-host: the configuration names 'enviroment', and no library provides that; there are: artifacts, env, \
         exit-status, max-run-time, task-log. Take it out, or add its library to --plugins\n",
    );
    refused(
        "env.yml",
        "plugins:\n  env: {more: 1}\n",
        73,
        "tcw-host: the configuration of plugin env (libenv_plugin.so) does not fit:\n  \
         plugins.env: `more` is not a known key; known here: extra\n",
    );
    refused(
        "engine.yml",
        "engine: {more: 1}\n",
        73,
        "tcw-host: the configuration of engine native (libnative_engine.so) does not fit:\n  \
         engine: `more` is not a known key; known here: isolation, tasksDirectory\n",
    );
    refused(
        "required.yml",
        "libraries: {required: [greeting]}\n",
        73,
        "tcw-host: the configuration requires 'greeting', and no library of that name was found in the directories of \
         plugins\n",
    );
    place.run(&["run", "--config", "missing.yml"]).refuses(
        64,
        "tcw-host: missing.yml: it cannot be read: No such file or directory (os error 2)\n",
    );
}

#[test]
fn engines() {
    let place = Place::new();
    let plugins = place.plugins([library("env_plugin")]);
    let task = task(&place);
    let refused = |engine: &str, code: i32, said: &str| {
        let mut arguments = vec!["--plugins".to_owned(), plugins.display().to_string()];
        if !engine.is_empty() {
            arguments.extend(["--engine".to_owned(), engine.to_owned()]);
        }
        for command in [
            vec![],
            vec!["run"],
            vec!["exec", &task],
            vec!["schema"],
            vec!["docs"],
            vec!["recover"],
        ] {
            place.run(&with(&command, &arguments)).refuses(code, said);
        }
    };
    refused(
        "",
        64,
        "tcw-host: no engine is given: add --engine ./libnative_engine.so, or `libraries: {engine: ...}` in the \
         configuration\n",
    );
    refused(
        &plugins.join("libenv_plugin.so").display().to_string(),
        64,
        "tcw-host: DIR/plugins/libenv_plugin.so: the library 'env' provides no engine, only the plugins env\n  \
         give an engine's library with --engine, and this one with --plugins\n",
    );
    refused(
        &task,
        73,
        "tcw-host: DIR/task.yml: it is not a dynamic library: Unknown file magic\n  \
         give a library that was built with tcw-abi, such as libnative_engine.so\n",
    );
    refused(
        "missing.so",
        73,
        "tcw-host: missing.so: No such file or directory (os error 2)\n  \
         check the path; engines and plugins of this build are in target/release\n",
    );
    let major = place.path("libmajor_engine.so");
    patched(
        &library("native_engine"),
        &major,
        b"\"rust\",\"version\":\"1.",
        b"\"rust\",\"version\":\"2.",
    );
    refused(
        &major.display().to_string(),
        73,
        &format!(
            "tcw-host: DIR/libmajor_engine.so: it speaks version 2.0.0 of the tcw ABI, and this host speaks {}\n  \
             update tcw-host, or get a build of native for ABI 1.x\n",
            tcw_abi::manifest::ABI_VERSION
        ),
    );
    let machine = place.path("libmachine_engine.so");
    let mut bytes = fs::read(library("native_engine")).unwrap();
    bytes[18] = 183; // AArch64, in the ELF header.
    fs::write(&machine, bytes).unwrap();
    let here = tcw_abi::manifest::TARGET;
    refused(
        &machine.display().to_string(),
        73,
        &format!(
            "tcw-host: DIR/libmachine_engine.so: it was built for {here} (Elf aarch64), and this host runs on {here}\n  \
             get native 0.1.0 for {here}\n"
        ),
    );
}

#[test]
fn an_engine_that_does_not_start_stops_the_worker_with_its_reason() {
    let place = Place::new();
    let mock = flags(&library("mock_engine"), &place.plugins([]));
    let started = |name: &str, fault: &str| {
        let config = place.file(
            name,
            &format!("engine: {{faults: [{{at: new-engine, {fault}}}]}}\n"),
        );
        place.run(&with(&["run", "--config", &config], &mock))
    };
    started("error.yml", "do: error, message: the daemon does not answer").refuses(
        69,
        "tcw-host: engine mock (libmock_engine.so) does not start: the daemon does not answer\n",
    );
    let panicked = started("panic.yml", "do: panic");
    assert_eq!(panicked.code(), 69);
    assert!(
        panicked.err().ends_with(
            "tcw-host: engine mock (libmock_engine.so) does not start: EngineProvider.new_engine panicked: a fault at \
             NewEngine, as it was asked for\n"
        ),
        "{}",
        panicked.err()
    );
}

/// Each is left out with its reason, and the others serve the task.
#[test]
fn plugins_that_are_no_libraries_are_left_out_visibly() {
    let place = Place::new();
    let native = place.native();
    let plugins = place.path("plugins");
    fs::write(plugins.join("libtext.so"), "text").unwrap();
    patched(
        &library("env_plugin"),
        &plugins.join("libenv_plugin.so"),
        b"tcw-manifest-1\n",
        b"tcw-manifesto1\n",
    );
    let exec = place.run(&with(&["exec", &task(&place)], &native));
    assert_eq!(
        (exec.code(), exec.err()),
        (
            0,
            "TIME ERROR a library is left out: DIR/plugins/libenv_plugin.so: the section .tcwmf does not start with a \
             manifest's magic\n  \
             the file is damaged or was made by hand: get it again from its vendor\n\
             TIME ERROR a library is left out: DIR/plugins/libtext.so: it is not a dynamic library: Could not read file \
             magic\n  \
             give a library that was built with tcw-abi, such as libnative_engine.so\n\
             TIME  WARN isolation: none. Tasks run as this worker's own user and reach whatever it reaches: run only \
             tasks that you would run yourself engine=\"native\"\n\
             \n\
             task TASK: completed\n\
             artifacts (--artifacts DIR puts them there):\n  \
             public/logs/live.log (text/plain; charset=utf-8)\n  \
             public/logs/live_backing.log (text/plain; charset=utf-8)\n"
                .to_owned()
        )
    );
}

#[test]
fn two_libraries_of_one_name_are_both_named() {
    let place = Place::new();
    let greeting = vendor_library("greeting", "greeting_plugin");
    let plugins = place.plugins([greeting.clone()]);
    let script = flags(&vendor_library("script-engine", "script_engine"), &plugins);
    // Another build of the same.
    let copy = plugins.join("libgreeting2_plugin.so");
    let mut bytes = fs::read(&greeting).unwrap();
    bytes.push(0);
    fs::write(&copy, bytes).unwrap();
    place.run(&with(&["schema"], &script)).refuses(
        73,
        "tcw-host: the libraries do not go together:\n  \
         plugin greeting (libgreeting2_plugin.so) and plugin greeting (libgreeting_plugin.so) have the same name: leave \
         one of them out\n",
    );
}

#[test]
fn state_directories() {
    let place = Place::new();
    let native = place.native();
    place.file("file", "");
    for command in [vec!["run"], vec!["schema"], vec!["recover"]] {
        place
            .run(&with(&[&command[..], &["--state-directory", "file"]].concat(), &native))
            .refuses(
                73,
                "tcw-host: the state directory file is not a directory; move away what is there, or choose another one \
                 with --state-directory\n",
            );
        // Nobody can write there, not even root.
        place
            .run(&with(&[&command[..], &["--state-directory", "/proc/tcw"]].concat(), &native))
            .refuses(
                73,
                "tcw-host: the state directory /proc/tcw cannot be used: No such file or directory (os error 2); make it \
                 writable for the worker, or choose another one with --state-directory\n",
            );
    }
}

#[test]
fn a_port_that_is_in_use() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = place.file(
        "tcw.yml",
        &format!("queue: {{embedded: {{listen: \"{address}\"}}}}\n"),
    );
    place.run(&with(&["run", "--config", &config], &place.native())).refuses(
        73,
        "tcw-host: the embedded queue cannot listen on HOST (Address already in use (os error 98)); choose another port, \
         or 0 for any free one\n",
    );
}

#[test]
fn submit_without_a_queue() {
    let place = Place::new();
    let task = task(&place);
    place.run(&["submit", &task]).refuses(
        1,
        "tcw-host: no embedded queue runs with the state directory DIR/state: DIR/state/queue/credentials.json cannot be \
         read (No such file or directory (os error 2)); start one with `tcw-host run --engine ...` or \
         `tcw-host queue serve`, or name a deployment with TASKCLUSTER_ROOT_URL\n",
    );
    // A queue was there, and is not any more.
    let ended = place.run(&with(&["exec", &task], &place.native()));
    assert_eq!(ended.code(), 0);
    place.run(&["submit", &task]).refuses(
        1,
        "tcw-host: no embedded queue runs with the state directory DIR/state: nothing answers at http://HOST any more \
         (Connection refused (os error 111)); start one with `tcw-host run --engine ...` or `tcw-host queue serve`, \
         or name a deployment with TASKCLUSTER_ROOT_URL\n",
    );
}

#[test]
fn a_deployment_that_is_not_there() {
    let place = Place::new();
    let task = task(&place);
    let deployment = |arguments: &[&str], credentials: bool| {
        let mut command = place.tcw(&with(
            &[
                arguments,
                &["--worker-pool", "a/b", "--worker-group", "g", "--worker-id", "i"],
            ]
            .concat(),
            &place.native(),
        ));
        command.env("TASKCLUSTER_ROOT_URL", "http://127.0.0.1:1");
        if credentials {
            command
                .env("TASKCLUSTER_CLIENT_ID", "tester")
                .env("TASKCLUSTER_ACCESS_TOKEN", "a-token-of-the-tester");
        }
        place.start_command(command)
    };
    for command in [
        vec!["run"],
        vec!["exec", &task],
        vec!["submit", &task],
        vec!["recover"],
    ] {
        deployment(&command, false).end().refuses(
            73,
            "tcw-host: configuration: http://HOST asks for credentials: set `queue.clientId` and `queue.accessToken`, or \
             TASKCLUSTER_CLIENT_ID and TASKCLUSTER_ACCESS_TOKEN\n",
        );
    }
    deployment(&["submit", &task], true).end().refuses(
        1,
        "tcw-host: PUT http://HOST/api/queue/v1/task/TASK did not work after 5 attempts: error sending request: client \
         error (Connect): tcp connect error: Connection refused (os error 111); check that the queue runs and can be \
         reached\n",
    );
    // A worker goes on trying, and says so.
    let worker = deployment(&["run"], true);
    let says = worker.says("nothing could be claimed; trying again");
    assert!(
        says.contains("Connection refused (os error 111); check that the queue runs and can be reached"),
        "{says}"
    );
    worker.signal(Signal::INT);
    assert_eq!(worker.end().code(), 71);
}
