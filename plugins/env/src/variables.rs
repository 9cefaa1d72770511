//! Which variables a task gets, and from whom.

use std::collections::BTreeMap;

use tcw_abi::engine::VariableClass;
use tcw_abi::serde_json::Value;
use tcw_abi::services::TaskInfo;

/// One variable, as the sandbox builder takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) class: VariableClass,
}

/// All variables of one task, and what is wrong with those that it asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Variables {
    /// Each name once: those that would lose are not even sent.
    pub(crate) all: Vec<Variable>,
    /// A sentence each.
    pub(crate) flaws: Vec<String>,
}

impl Variables {
    /// The variables of `task`, whose payload has `env`, on a worker that adds `extra`.
    pub(crate) fn of_task(task: &TaskInfo, env: &Value, extra: &[(String, String)]) -> Self {
        let mut all: BTreeMap<String, (String, VariableClass)> = BTreeMap::new();
        let mut flaws = Vec::new();
        for (name, value) in extra {
            all.insert(name.clone(), (value.clone(), VariableClass::Default));
        }
        for (name, value) in strings(env) {
            match flaw(&name, &value) {
                Some(flaw) => flaws.push(format!("payload key env: {flaw}")),
                None => drop(all.insert(name, (value, VariableClass::Payload))),
            }
        }
        for (name, value) in guaranteed(task) {
            all.insert(name.to_owned(), (value, VariableClass::Forced));
        }
        let all = all
            .into_iter()
            .map(|(name, (value, class))| Variable { name, value, class })
            .collect();
        Variables { all, flaws }
    }
}

/// What every task has, whatever its payload says: the names are generic-worker's and docker-worker's.
fn guaranteed(task: &TaskInfo) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("TASK_ID", task.task_id.clone()),
        ("RUN_ID", task.run_id.to_string()),
        ("TASK_GROUP_ID", task.task_group_id.clone()),
        ("TASKCLUSTER_ROOT_URL", task.root_url.clone()),
        ("TASKCLUSTER_WORKER_POOL", task.worker_pool_id.clone()),
        ("TASKCLUSTER_WORKER_GROUP", task.worker_group.clone()),
    ];
    // An empty variable would tell a script that there is a group (or an URL) and that it has no name.
    variables.retain(|(_, value)| !value.is_empty());
    variables
}

/// What no operating system can pass on.
pub(crate) fn flaw(name: &str, value: &str) -> Option<String> {
    if name.is_empty() {
        Some("a variable needs a name".into())
    } else if name.contains(['=', '\0']) {
        Some(format!(
            "{name:?} cannot be the name of a variable: it contains '=' or NUL"
        ))
    } else if value.contains('\0') {
        Some(format!(
            "the value of {name:?} contains NUL, which would end it early"
        ))
    } else {
        None
    }
}

/// The pairs of an object of strings; none of anything else.
pub(crate) fn strings(object: &Value) -> Vec<(String, String)> {
    object
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}
