//! Libraries that answer every call, but do what they should not: what the operator sees, what the task's author sees,
//! and that tasks beside it do not notice. The libraries are in `tests/fixtures/wrong`.

mod support;
mod wrong_support;

use wrong_support::{Author, IMPATIENT, PATIENT, Scene, harmless, operator_reads};

#[test]
fn every_object_answers_a_late_call_with_a_violation() {
    let mut scene = Scene::with_plugin("misuses", PATIENT);
    scene.starts();
    let go = scene.place.path("go").display().to_string();
    let work =
        format!("maxRunTime: 600\n  command: [[/bin/sh, -c, 'while [ ! -e {go} ]; do sleep 0.02; done']]");
    let watched = scene.author_watches(&work);
    scene.worker().says("a shell is open");
    scene.ends("go");
    let seen = watched.end();
    Author::Completed.is(&seen, "misuses");
    for line in [
        "] early closed log: ContractViolation\n",
        "] the host's own: wait ContractViolation, abort ContractViolation\n",
        "] late builder: 8 x ContractViolation\n",
        "] the host's own: dispose ContractViolation\n",
        "] late sandbox: 7 x ContractViolation\n",
        "] late shell: 3 x ContractViolation\n",
    ] {
        assert!(seen.out().contains(line), "{line:?} is not in\n{}", seen.out());
    }
    let ended = scene.interrupted();
    operator_reads(
        &ended,
        &[
            "WARN late log: line ContractViolation, handle ContractViolation",
            "WARN a directory as artifact: ",
            "WARN late results: 4 x ContractViolation",
            "WARN late context: 9 x ContractViolation",
        ],
        "misuses",
    );
    assert_eq!(ended.code(), 71);
    scene.leaves_nothing();
}

/// The host starts a builder, once, and nobody else does.
#[test]
fn a_sandbox_builder_is_not_started_by_a_plugin_however_often_it_tries() {
    let mut scene = Scene::with_plugin("starts_twice", PATIENT);
    scene.starts();
    let seen = scene.author_sees("");
    Author::Completed.is(&seen, "starts_twice");
    let line = "] start: ContractViolation, discard: ContractViolation\n";
    assert_eq!(seen.out().matches(line).count(), 2, "{}", seen.out());
    assert_eq!(
        seen.out().matches("\nthe task itself\n").count(),
        1,
        "{}",
        seen.out()
    );
    assert_eq!(scene.interrupted().code(), 71);
    scene.leaves_nothing();
}

/// The log ends with the task, whoever still holds it; and nothing that a library keeps holds the worker.
#[test]
fn tasks_and_descriptors_that_a_library_keeps_hold_nobody() {
    let configuration = format!("{IMPATIENT}\nworker: {{capacity: 2, cancellationInterval: 1}}");
    let mut scene = Scene::with_plugin("leaks", &configuration);
    scene.starts();
    let beside = scene.begins("beside", "");
    let cancelled = scene.begins("cancelled", "wrong: started");
    assert_eq!(scene.place.run(&["cancel", &cancelled]).code(), 0);
    scene.worker().says(&format!("task resolved task_id={cancelled}"));
    // Its context and its log are still held when the next one runs, and when the worker ends.
    let seen = scene.author_sees("wrong: prepare");
    Author::Completed.is(&seen, "leaks");
    let id = seen.stdout.lines().next().expect("its id");
    for task in [id, &cancelled] {
        scene.worker().says(&format!(
            "the library still holds a task that ended 2 s ago: it may leak threads, descriptors and memory \
             task_id={task} run_id=0 library=\"libwrong_leaks.so\""
        ));
    }
    Author::Completed.is(&scene.author_sees(""), "leaks");
    scene.ends("beside");
    let ended = scene.interrupted();
    assert_eq!(ended.code(), 71, "{}", ended.err());
    assert_eq!(
        ended.err().matches("still holds a task").count(),
        2,
        "{}",
        ended.err()
    );
    assert_eq!(
        (
            scene.afterwards(&beside).as_str(),
            scene.afterwards(&cancelled).as_str()
        ),
        ("completed", "exception (canceled)")
    );
    scene.leaves_nothing();
}

/// Each of them is in the task's log. In the worker's log, what could not be written in time is counted.
#[test]
fn a_library_that_logs_100000_lines_loses_none_of_the_tasks_and_slows_nobody() {
    let mut scene = Scene::with_plugin("logs", PATIENT);
    scene.starts();
    let beside = scene.begins("beside", "");
    let seen = scene.author_sees("wrong: started");
    Author::Completed.is(&seen, "logs");
    let lines: Vec<&str> = seen
        .stdout
        .lines()
        .filter_map(|line| line.split("] line ").nth(1))
        .collect();
    let all: Vec<String> = (0..50_000).map(|line| line.to_string()).collect();
    assert!(lines == all, "{} lines of 50000", lines.len());
    assert!(
        seen.stdout.contains(&"x".repeat(1 << 20)),
        "the long line is not whole"
    );
    Author::Completed.is(&scene.author_sees(""), "after it");
    scene.ends("beside");
    let ended = scene.interrupted();
    let said = ended.err();
    let kept = said.matches("the library has something to say").count();
    let lost: usize = said
        .lines()
        .filter(|line| line.contains("libraries logged faster than the host could write"))
        .filter_map(|line| line.rsplit_once("lost=")?.1.parse::<usize>().ok())
        .sum();
    assert_eq!(kept + lost, 50_000, "{kept} kept and {lost} said to be lost");
    assert_eq!(scene.afterwards(&beside), "completed");
    scene.leaves_nothing();
}

/// What it takes is the worker's memory, and comes back.
#[test]
fn two_gibibytes_are_given_back() {
    let mut scene = Scene::with_plugin("allocates", PATIENT);
    scene.starts();
    let beside = scene.begins("beside", "");
    Author::Completed.is(&scene.author_sees("wrong: prepare"), "allocates");
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.worker().id())).unwrap();
    let kilobytes = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':')
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    };
    assert!(kilobytes("VmHWM") > 2 << 20, "it never had them: {status}");
    assert!(kilobytes("VmRSS") < 1 << 20, "it still has them: {status}");
    scene.ends("beside");
    assert_eq!(scene.interrupted().code(), 71);
    assert_eq!(scene.afterwards(&beside), "completed");
    scene.leaves_nothing();
}

/// The error stands; of its detail nothing does.
#[test]
fn an_error_whose_detail_cannot_be_read_is_the_error_that_it_says() {
    harmless(
        Scene::with_plugin("nests", PATIENT),
        "wrong: prepare",
        Author::Incident,
        &[
            "ERROR plugin 'nests-plugin', prepare: wrong in prepare, with a detail task_id=TASK",
            "library=\"libwrong_nests.so\" kind=\"NonFatalInternal\" detail=null unhealthy=false",
        ],
    );
}

#[test]
fn a_configuration_that_does_not_fit_stops_the_worker_at_its_start() {
    let scene = Scene::with_plugin(
        "late",
        &format!("{PATIENT}\nplugins: {{late-plugin: {{wrong: 7, right: 8}}}}"),
    );
    scene.place.run(&scene.arguments(&["run"])).refuses(
        73,
        "tcw-host: the configuration of plugin late-plugin (libwrong_late.so) does not fit:\n  \
         plugins.late-plugin: `wrong` must be a string, not a number\n  \
         plugins.late-plugin: `right` is not a known key; known here: wrong\n",
    );
    let scene = Scene::with_engine("late", &format!("{PATIENT}\nengine: {{wrong: []}}"));
    scene.place.run(&scene.arguments(&["run"])).refuses(
        73,
        "tcw-host: the configuration of engine late (libwrong_late.so) does not fit:\n  \
         engine: `wrong` must be a string, not a list\n",
    );
}
