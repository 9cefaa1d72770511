//! `tcw-host queue`: one queue, workers in other processes, and clients that may do what they were made for.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use support::cli::{Place, Running, with};

/// A queue that serves, and where.
fn serve(place: &Place, more: &[&str]) -> (Running, String) {
    let queue = place.start(
        &[
            &[
                "queue",
                "serve",
                "--log-format",
                "json",
                "--listen",
                "127.0.0.1:0",
            ],
            more,
        ]
        .concat(),
    );
    let line = queue.says("\"serving;");
    let line: Value = serde_json::from_str(&line).expect("one object a line");
    let root_url = line["root_url"].as_str().expect("it says where").to_owned();
    (queue, root_url)
}

/// Makes a client; answers its configuration's path.
fn client(place: &Place, name: &str, more: &[&str]) -> String {
    let file = place
        .path(&format!("{}.yml", name.replace('/', "-")))
        .display()
        .to_string();
    let made = place.run(
        &[
            &["queue", "client", "create", name, "--output", file.as_str()],
            more,
        ]
        .concat(),
    );
    assert_eq!(
        (made.code(), made.err().as_str(), made.out().as_str()),
        (0, "", "")
    );
    let mode = std::fs::metadata(&file)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    file
}

/// A worker with a state of its own, for one task: told to stop, it would wait for its poll to end.
fn worker(place: &Place, config: &str, name: &str) -> Running {
    let state = place.path(name).display().to_string();
    let worker = place.start(&with(
        &[
            "run",
            "--config",
            config,
            "--worker-id",
            name,
            "--state-directory",
            &state,
            "--number-of-tasks",
            "1",
        ],
        &place.native(),
    ));
    worker.says("waiting for tasks");
    worker
}

/// A task that ends only while another one of its kind runs: it makes `mine` and waits for `theirs`.
fn one_of_two(place: &Place, mine: &str, theirs: &str) -> String {
    let (mine, theirs) = (place.path(mine), place.path(theirs));
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.02; done; echo met",
        mine.display(),
        theirs.display()
    );
    place.file(
        &format!("{}.yml", mine.file_name().expect("a name").to_string_lossy()),
        &format!("payload:\n  maxRunTime: 600\n  command:\n    - [/bin/sh, -c, '{script}']\n"),
    )
}

fn ends_well(queue: Running, signal: Signal) {
    queue.signal(signal);
    let ended = queue.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(
        !ended.stderr.contains("\"ERROR\"") && !ended.stderr.contains("panicked"),
        "{}",
        ended.stderr
    );
}

/// Two workers and a person, each with credentials of its own.
fn two_workers_share(place: &Place, queue_flags: &[&str]) {
    let pool = ["--worker-pool", "local/native"];
    let mine = |flags: &[&str]| {
        [flags, queue_flags]
            .concat()
            .iter()
            .map(|flag| (*flag).to_owned())
            .collect::<Vec<_>>()
    };
    let made = |name: &str, flags: &[&str]| {
        let flags = mine(flags);
        client(place, name, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let workers: Vec<Running> = ["one", "two"]
        .map(|name| worker(place, &made(&format!("worker/{name}"), &pool), name))
        .into();
    let person = made("people/anna", &["--submit-to", "local/native"]);
    // Neither ends before the other runs, and each worker runs one at a time.
    let tasks = [one_of_two(place, "a", "b"), one_of_two(place, "b", "a")];
    let watching: Vec<Running> = tasks
        .iter()
        .map(|task| {
            place.start(&[
                "submit",
                task,
                "--watch",
                "--config",
                &person,
                "--worker-pool",
                "local/native",
            ])
        })
        .collect();
    for watched in watching {
        let ended = watched.end();
        assert_eq!(ended.code(), 0, "{}\n{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.lines().any(|line| line == "met"), "{}", ended.stdout);
    }
    for worker in workers {
        assert_eq!(worker.end().code(), 0, "it was to run one task");
    }
}

#[test]
fn workers_and_people_use_a_queue_of_another_process() {
    let place = Place::new();
    let (queue, root_url) = serve(&place, &[]);
    assert!(root_url.starts_with("http://127.0.0.1:"), "{root_url}");
    two_workers_share(&place, &[]);

    // Whoever was deleted is out.
    let listed = place.run(&["queue", "client", "list"]);
    let (names, _): (Vec<&str>, Vec<&str>) = listed
        .stdout
        .lines()
        .filter_map(|line| line.split_once("  "))
        .unzip();
    assert_eq!(names, ["people/anna", "worker/one", "worker/two"]);
    let person = place.path("people-anna.yml").display().to_string();
    let submit = [
        "submit",
        &place.path("a.yml").display().to_string(),
        "--config",
        &person,
        "--worker-pool",
        "local/native",
    ];
    let submitted = place.run(&submit);
    assert_eq!(submitted.code(), 0, "{}", submitted.stderr);
    let deleted = place.run(&["queue", "client", "delete", "people/anna"]);
    assert_eq!(deleted.code(), 0, "{}", deleted.stderr);
    let refused = place.run(&submit);
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stderr.contains("there is no client \"people/anna\""),
        "{}",
        refused.stderr
    );
    // A client has what it was made for.
    let other = [
        "submit",
        &place.path("a.yml").display().to_string(),
        "--worker-pool",
        "local/native",
        "--config",
    ];
    let refused = place.run(&[&other[..], &[&place.path("worker-one.yml").display().to_string()]].concat());
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("queue:create-task"), "{}", refused.stderr);
    ends_well(queue, Signal::TERM);
}

/// The steps of the page, as they stand there.
#[test]
fn the_page_for_a_small_team_can_be_followed() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/queue.md");
    let page = std::fs::read_to_string(page).expect("it is there");
    let place = Place::new();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.local_addr().expect("it has one").port().to_string()
    };
    let here = |text: &str| {
        text.replace("queue.example.com", "localhost")
            .replace("0.0.0.0:8090", &format!("127.0.0.1:{port}"))
            .replace(":8090", &format!(":{port}"))
            .replace("/var/lib/", &format!("{}/", place.path("").display()))
    };
    let blocks = |language: &str| {
        let fence = format!("```{language}\n");
        let parts = page.split(&fence).skip(1);
        parts
            .map(|part| here(part.split("```").next().unwrap_or_default()))
            .collect::<Vec<String>>()
    };
    place.file("queue.yml", &blocks("yaml")[0]);
    place.file(
        "hello.yml",
        "payload:\n  maxRunTime: 60\n  command: [[/bin/echo, hello from afar]]\n",
    );
    place.native();
    let engine = support::library("native_engine");
    std::fs::copy(&engine, place.path("libnative_engine.so")).expect("it can be copied");
    let mut running = Vec::new();
    let mut steps = 0;
    for block in blocks("sh") {
        let background = [
            ("tcw-host queue serve ", "serving;"),
            ("tcw-host run ", "waiting for tasks"),
        ];
        let background = background
            .into_iter()
            .find(|(command, _)| block.starts_with(command));
        match background {
            Some((_, ready)) => {
                let line = block.replace("\\\n", " ");
                let words: Vec<&str> = line.split_whitespace().skip(1).collect();
                let process = place.start(&words);
                process.says(ready);
                running.push(process);
            }
            None => {
                let binary = Path::new(env!("CARGO_BIN_EXE_tcw-host"));
                let mut shell = Command::new("/bin/sh");
                let path = binary.parent().expect("a directory").display();
                shell
                    .args(["-ec", &format!("umask 022\n{block}")])
                    .env_clear()
                    .env("PATH", format!("{path}:/usr/local/bin:/usr/bin:/bin"))
                    .env("HOME", place.path("home"))
                    .current_dir(place.path(""));
                let ended = place.start_command(shell).end();
                assert_eq!(ended.code(), 0, "{block}\n{}\n{}", ended.stdout, ended.stderr);
                if block.contains(" submit ") {
                    assert!(
                        ended.stdout.lines().any(|line| line == "hello from afar"),
                        "{}",
                        ended.stdout
                    );
                }
            }
        }
        steps += 1;
    }
    assert_eq!(steps, 7, "each step of the page was met");
    // The worker first; the queue answers its poll when it ends itself.
    for process in running.iter().rev() {
        process.signal(Signal::TERM);
    }
    for process in running {
        let ended = process.end();
        assert!([0, 72].contains(&ended.code()), "{}", ended.stderr);
    }

    // Backup and restore, as the page has it; the schema refuses what does not fit.
    let copied = Command::new("cp")
        .arg("-a")
        .args([place.path("tcw-queue"), place.path("restored")])
        .status();
    assert!(copied.expect("cp runs").success());
    let restored = place.path("restored").display().to_string();
    let config = place.path("queue.yml").display().to_string();
    let at = ["--config", &config, "--state-directory", &restored];
    let schema = format!("local/native={}", place.path("native.json").display());
    let queue = place.start(&[&["queue", "serve", "--payload-schema", &schema], &at[..]].concat());
    queue.says("serving;");
    let listed = place.run(&[&["queue", "client", "list"], &at[..]].concat());
    assert!(
        listed.stdout.contains("worker/build-1"),
        "{}{}",
        listed.stdout,
        listed.stderr
    );
    let wrong = place.file(
        "wrong.yml",
        "payload:\n  maxRunTime: 60\n  comand: [[/bin/true]]\n",
    );
    let anna = place.path("anna.yml").display().to_string();
    let submit =
        |task: &str| place.run(&["submit", task, "--worker-pool", "local/native", "--config", &anna]);
    let refused = submit(&wrong);
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("comand"), "{}", refused.stderr);
    assert_eq!(submit(&place.path("hello.yml").display().to_string()).code(), 0);
    // What is not trusted is not talked to.
    let text = std::fs::read_to_string(&anna).expect("it is there");
    let distrusting: String = text
        .lines()
        .filter(|line| !line.contains("caCertificates"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&anna, distrusting).expect("it can be written");
    let refused = submit(&place.path("hello.yml").display().to_string());
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);
    let hello = place.path("hello.yml").display().to_string();
    let trusting = |task: &str| {
        let mut submit = place.tcw(&["submit", task, "--worker-pool", "local/native", "--config", &anna]);
        submit.env("SSL_CERT_FILE", place.path("authority.pem"));
        place.start_command(submit).end()
    };
    let submitted = trusting(&hello);
    assert_eq!(submitted.code(), 0, "{}", submitted.stderr);
    // A certificate that cannot be read does not replace the one in use.
    std::fs::rename(place.path("queue.pem"), place.path("moved.pem")).expect("it can be moved");
    queue.signal(Signal::HUP);
    queue.says("the certificate that was in use stays in use");
    // That says nothing about the schemas, and the other way round.
    queue.says("SIGHUP: payload schemas were read again");
    assert_eq!(
        place
            .run(&[&["queue", "client", "list"], &at[..]].concat())
            .code(),
        0
    );
    std::fs::rename(place.path("moved.pem"), place.path("queue.pem")).expect("it can be moved");
    let kept = std::fs::read_to_string(place.path("native.json")).expect("it is there");
    place.file("native.json", "{");
    queue.signal(Signal::HUP);
    queue.says("SIGHUP: the certificate was read again");
    queue.says("not all payload schemas were read again");
    assert_eq!(trusting(&wrong).code(), 2, "the one from before is in use");
    place.file("native.json", &kept);
    queue.signal(Signal::HUP);
    queue.says("certificate and payload schemas were read again");
    ends_well(queue, Signal::INT);
}

#[test]
fn one_directory_is_for_one_queue() {
    let place = Place::new();
    let (queue, _) = serve(&place, &[]);
    let said = "tcw-host: the embedded queue's state in DIR/state/queue is in use by another process; stop that, or choose \
                another state directory\n";
    place
        .run(&["queue", "serve", "--listen", "127.0.0.1:0"])
        .refuses(73, said);
    place.run(&with(&["run"], &place.native())).refuses(73, said);
    ends_well(queue, Signal::INT);
    let (queue, _) = serve(&place, &[]);
    ends_well(queue, Signal::TERM);
}

/// Whoever does not want to wait for others says so twice.
#[test]
fn a_second_signal_does_not_wait() {
    let place = Place::new();
    let (queue, root_url) = serve(&place, &[]);
    let host = root_url.strip_prefix("http://").expect("it is plain");
    // A call that is under way, and stays so.
    let mut slow = std::net::TcpStream::connect(host).expect("it listens");
    let head = format!(
        "POST /api/queue/v1/tasks HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    );
    std::io::Write::write_all(&mut slow, head.as_bytes()).expect("it reads");
    let mut first = [0];
    std::io::Read::read_exact(&mut slow, &mut first).expect("it asks for the body");
    queue.signal(Signal::TERM);
    queue.says("SIGTERM: stopping");
    queue.signal(Signal::INT);
    assert_eq!(queue.end().code(), 72);
}

#[test]
fn settings_that_would_let_others_listen_in_are_refused() {
    let place = Place::new();
    let (certificate, key) = (
        place.file("queue.pem", "nonsense"),
        place.file("queue.key", "nonsense"),
    );
    let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
    let serve = |more: &[&str]| place.run(&[&["queue", "serve"], more].concat());
    for (flags, code, said) in [
        (&["--listen", "0.0.0.0:0"][..], 73, "`queue.embedded.tls`"),
        (
            &["--listen", "0.0.0.0:0", "--behind-proxy"],
            73,
            "`queue.embedded.rootUrl` is missing",
        ),
        (
            &["--listen", "127.0.0.1:0", "--behind-proxy"],
            73,
            "`queue.embedded.rootUrl` is missing",
        ),
        (
            &["--root-url", "https://queue.example.com"],
            73,
            "nothing speaks TLS",
        ),
        (
            &["--root-url", "queue.example.com"],
            73,
            "no more than an address",
        ),
        (
            &["--root-url", "https://queue.example.com/tc"],
            73,
            "no more than an address",
        ),
        (&["--listen", "here"], 73, "must be an address and a port"),
        (&["--tls-key", &key], 64, "--tls-certificate"),
        (
            &["--payload-schema", "local/native"],
            64,
            "local/native=schema.json",
        ),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--payload-schema",
                "local/native=nowhere.json",
            ],
            73,
            "nowhere.json",
        ),
        (&["--payload-schema", "nonsense=nowhere.json"], 73, "nonsense"),
    ] {
        let ended = serve(flags);
        assert_eq!(ended.code(), code, "{flags:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{flags:?}: {}", ended.stderr);
    }
    let mode =
        |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    let listen = ["--listen", "127.0.0.1:0"];
    for exposed in [0o644, 0o640, 0o604] {
        mode(exposed);
        let ended = serve(&[&listen[..], &tls].concat());
        assert_eq!(ended.code(), 77, "{}", ended.stderr);
        assert!(ended.stderr.contains("chmod 600"), "{}", ended.stderr);
    }
    mode(0o600);
    let ended = serve(&[&listen[..], &tls].concat());
    assert_eq!(
        (ended.code(), ended.stderr.contains("queue.pem")),
        (73, true),
        "{}",
        ended.stderr
    );
}

#[test]
fn credentials_are_asked_for_in_words() {
    let place = Place::new();
    let nobody = place.run(&["queue", "client", "list"]);
    assert_eq!(nobody.code(), 1);
    assert!(
        nobody.stderr.contains("no embedded queue runs"),
        "{}",
        nobody.stderr
    );
    let (queue, root_url) = serve(&place, &[]);
    let create = |more: &[&str]| place.run(&[&["queue", "client", "create"], more].concat());
    for (flags, code, said) in [
        (&["a"][..], 64, "--worker-pool"),
        (&["a b", "--scope", "a"], 1, "is not a client's id"),
        (&["tcw/a", "--scope", "a"], 1, "choose another"),
        (&["a", "--worker-pool", "nonsense"], 64, "nonsense"),
        (&["a", "--scope", "a", "--expires", "soon"], 64, "--expires"),
        (
            &["a", "--scope", "a", "--output", "/nonexistent/a.yml"],
            1,
            "/nonexistent/a.yml",
        ),
    ] {
        let ended = create(flags);
        assert_eq!(ended.code(), code, "{flags:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{flags:?}: {}", ended.stderr);
    }
    let made = create(&[
        "a",
        "--scope",
        "x:y",
        "--expires",
        "30 days",
        "--description",
        "for\u{1b}[31m a",
    ]);
    assert_eq!(made.code(), 0, "{}", made.stderr);
    assert!(
        made.stdout.contains(&root_url) && made.stdout.contains("clientId: \"a\""),
        "{}",
        made.stdout
    );
    let listed = place.run(&["queue", "client", "list"]);
    assert!(listed.stdout.starts_with("a  until 20"), "{}", listed.stdout);
    assert!(!listed.stdout.contains('\u{1b}'), "{:?}", listed.stdout);
    let token = |text: &str| {
        text.lines()
            .find(|line| line.contains("accessToken"))
            .map(str::to_owned)
    };
    let reset = place.run(&["queue", "client", "reset", "a"]);
    assert!(token(&reset.stdout).is_some() && token(&reset.stdout) != token(&made.stdout));
    ends_well(queue, Signal::TERM);
}

/// A deployment has many pools: none goes without saying.
#[test]
fn submit_asks_for_the_pool_of_a_deployment() {
    let place = Place::new();
    let (queue, _) = serve(&place, &[]);
    let config = client(&place, "people/anna", &["--submit-to", "local/native"]);
    let task = place.file("task.yml", "payload: {}\n");
    place.run(&["submit", &task, "--config", &config]).refuses(
        64,
        "tcw-host: the task file DIR/task.yml: it does not say which worker pool it is for, and a deployment has many: add \
         `--worker-pool PROVISIONER/WORKER-TYPE`, or `taskQueueId:` to the file\n",
    );
    let whole = place.file("whole.yml", "taskQueueId: local/native\npayload: {}\n");
    let submitted = place.run(&["submit", &whole, "--config", &config]);
    assert_eq!(submitted.code(), 0, "{}", submitted.stderr);
    let id = submitted.stdout.trim();
    assert_eq!(
        place.run(&["cancel", id, "--config", &config]).code(),
        0,
        "cancelling needs no pool at all"
    );
    ends_well(queue, Signal::TERM);
}
