//! What the authors of tasks read.

use tcw_abi::engine::Section;

use crate::options::Dialect;

const GENERIC_WORKER: &str = r#"When the task has ended, what its command wrote and what the worker has to say is published as the artifact
`public/logs/live_backing.log`, and `public/logs/live.log` leads to it. Both live as long as the task. Other names can be chosen:

```yaml
payload:
  logs:
    live: public/logs/live.log
    backing: public/logs/live_backing.log
  features:
    backingLog: true
```

With `backingLog: false` the log is not published.
"#;

const DOCKER_WORKER: &str = r#"When the task has ended, what its command wrote and what the worker has to say is published as an artifact, and
`public/logs/live.log` leads to it. Both live as long as the task. Another name can be chosen; the log itself has that name with
`_backing` before its extension:

```yaml
payload:
  log: public/logs/live.log
  features:
    bulkLog: true
```

With `bulkLog: false`, or `artifacts: false`, the log is not published.
"#;

const LINES: &str = r#"
Lines that begin with `[taskcluster` and a time are the worker's; `[taskcluster:error]` says why a task failed. A log that could not
be kept whole is published as far as it goes, and the run ends as `exception/resource-unavailable`."#;

/// The section for tasks of that dialect.
pub(crate) fn section(dialect: Dialect) -> Section {
    let text = match dialect {
        Dialect::GenericWorker => GENERIC_WORKER,
        Dialect::DockerWorker => DOCKER_WORKER,
    };
    Section {
        title: "The task log".into(),
        content: format!("{text}{LINES}"),
    }
}
