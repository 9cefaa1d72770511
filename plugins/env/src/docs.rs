//! What the authors of tasks read.

use std::fmt::Write as _;

use tcw_abi::engine::Section;

const TEXT: &str = r#"`env` sets environment variables for the task's command. Names and values are strings: a number is written in quotes.

```yaml
payload:
  env:
    BUILD_KIND: release
    JOBS: "4"
```

These are always set by the worker, and a value in `env` does not replace them:

| variable | value |
|---|---|
| `TASK_ID` | the id of the task |
| `RUN_ID` | the number of the run; 0 for the first |
| `TASK_GROUP_ID` | the id of the task's group |
| `TASKCLUSTER_ROOT_URL` | where the deployment is |
| `TASKCLUSTER_WORKER_POOL` | the worker pool, `<provisioner>/<worker type>` |
| `TASKCLUSTER_WORKER_GROUP` | the worker's group, if it has one |

Other parts of the worker may add more; their sections say which."#;

/// The section, with the names that the operator added. Their values stay out: they may be nobody's business.
pub(crate) fn section(extra: &[(String, String)]) -> Section {
    let mut content = TEXT.to_owned();
    if !extra.is_empty() {
        content.push_str("\n\nThis worker also sets the following, unless `env` does:\n");
        for (name, _) in extra {
            let _ = write!(content, "\n- `{name}`");
        }
    }
    Section {
        title: "Environment variables".into(),
        content,
    }
}
