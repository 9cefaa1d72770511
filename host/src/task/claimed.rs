//! Claimed: the payload is checked, the plugins are created and prepare, the engine begins a sandbox builder.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tcw_abi::ErrorKind;
use tcw_abi::services::LogLevel;

use super::call::{Callee, Calls, Stop};
use super::environment::PayloadParts;
use super::exception::Interrupted;
use super::fault::{Cause, Fault};
use super::prepared::Prepared;
use super::remains::Member;
use super::shared::Task;
use crate::queue::ExceptionReason;

/// Waits for a sandbox of ours to end at most that long before the engine is asked again: others may use it, too.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A task that was taken from the queue.
pub(super) struct Claimed {
    task: Arc<Task>,
}

impl Claimed {
    pub(super) fn new(task: Arc<Task>) -> Self {
        Claimed { task }
    }

    pub(super) async fn prepare(self) -> Result<Prepared, Interrupted> {
        let task = self.task;
        let mut header = task.env.log_header.clone();
        header.push(format!("Task ID: {}", task.claim.task_id()));
        header.push("=== Task Starting ===".to_owned());
        task.say(LogLevel::Info, header.join("\n")).await;

        let mut calls = Calls::new(&task);
        let raw = &task.claim.task.payload;
        let parts = match task.env.payloads.check(raw) {
            Ok(parts) => parts,
            Err(violations) => {
                // The plugins are made all the same, so that the log is published; they are not asked to prepare.
                for index in 0..task.env.plugins.len() {
                    let stop = calls.stop.clone();
                    calls.begin(plugin(Arc::clone(&task), index, None, false, stop));
                }
                let malformed = tcw_abi::Error::malformed(violations.join("\n"));
                return Err(match all(&task, &mut calls).await {
                    // That the payload is malformed is decided; a library that fails on top of that is on record.
                    Ok(faults) => {
                        task.note(&faults);
                        let cause = Cause::Exception(ExceptionReason::MalformedPayload, malformed);
                        Interrupted::new(task, calls, cause)
                    }
                    Err(cause) => Interrupted::new(task, calls, cause),
                });
            }
        };
        let PayloadParts { engine, mut plugins } = parts;
        for (index, slot) in task.env.plugins.iter().enumerate() {
            let part = plugins
                .remove(&slot.name)
                .unwrap_or_else(|| Value::Object(Default::default()));
            let has_keys = overlaps(&part, raw);
            let stop = calls.stop.clone();
            calls.begin(plugin(Arc::clone(&task), index, Some(part), has_keys, stop));
        }
        let has_keys = overlaps(&engine, raw);
        let (context, activity) = task.view(&task.env.engine.library);
        let callee = Callee {
            library: task.env.engine.library.clone(),
            name: format!("engine '{}'", task.env.engine.name),
            activity,
        };
        let stop = calls.stop.clone();
        calls.begin({
            let (task, callee) = (Arc::clone(&task), callee.clone());
            async move {
                let place = task.clone();
                waiting_for_a_slot(&place, &stop, || {
                    let (task, context, payload) = (Arc::clone(&task), Arc::clone(&context), engine.clone());
                    let call = async move {
                        let builder = task
                            .env
                            .engine
                            .engine
                            .new_sandbox_builder(context, payload)
                            .await?;
                        task.remains.put_builder(builder).await
                    };
                    let bound = Some(place.env.deadlines.call);
                    place.kept(&callee, "new_sandbox_builder", &stop, bound, call)
                })
                .await
                .map_err(|fault| fault.with_payload(has_keys))
            }
        });
        match settle(&task, &mut calls).await {
            Ok(()) => Ok(Prepared {
                task,
                engine: callee,
                engine_has_keys: has_keys,
            }),
            Err(cause) => Err(Interrupted::new(task, calls, cause)),
        }
    }
}

/// One plugin: created, and asked to prepare if there is a payload for it.
async fn plugin(
    task: Arc<Task>,
    index: usize,
    payload: Option<Value>,
    has_keys: bool,
    stop: Stop,
) -> Result<(), Fault> {
    let prepares = payload.is_some();
    let slot = &task.env.plugins[index];
    let (context, activity) = task.view(&slot.library);
    let callee = Callee {
        library: slot.library.clone(),
        name: format!("plugin '{}'", slot.name),
        activity,
    };
    let made = {
        let (plugin, task, callee) = (Arc::clone(&slot.plugin), Arc::clone(&task), callee.clone());
        async move {
            let plugin = plugin
                .new_task_plugin(context, payload.unwrap_or_default())
                .await?;
            let member = Arc::new(Member::new(callee, plugin, has_keys));
            task.remains.put_member(Arc::clone(&member)).await?;
            Ok(member)
        }
    };
    let bound = Some(task.env.deadlines.call);
    let member = task
        .kept(&callee, "new_task_plugin", &stop, bound, made)
        .await
        .map_err(|fault| fault.with_payload(has_keys))?;
    if !prepares {
        return Ok(());
    }
    let hook = async { member.plugin.prepare().await };
    task.hook(&callee, "prepare", &stop, hook)
        .await
        .map_err(|fault| fault.with_payload(has_keys))
}

/// Makes a call again as long as the engine has no room: the queue never hears of that.
pub(super) async fn waiting_for_a_slot<T, F, C>(task: &Task, stop: &Stop, call: C) -> Result<T, Fault>
where
    C: Fn() -> F,
    F: Future<Output = Result<T, Fault>>,
{
    let mut said = false;
    loop {
        let released = task.env.engine.occupancy.released.notified();
        let mut released = std::pin::pin!(released);
        // From here on no release is missed, also not one during the call.
        released.as_mut().enable();
        let fault = match call().await {
            Err(fault) if fault.error.kind() == ErrorKind::MaxConcurrencyExceeded => fault,
            other => return other,
        };
        if !said {
            said = true;
            tracing::info!(
                task_id = %task.claim.task_id(),
                run_id = task.claim.run_id.0,
                in_use = task.env.engine.in_use(),
                "the engine has no room: the task waits for one of its sandboxes to end ({})",
                fault.error.message()
            );
        }
        tokio::select! {
            () = released => {}
            () = tokio::time::sleep(ASK_AGAIN) => {}
            () = stop.heard() => return Err(Fault::given_up(&task.env.engine.library, "waiting for the engine")),
        }
    }
}

/// Waits for all calls, or for what ends the task. An error of ours is not waited for others with; what the author did
/// wrong is, so that all of it is said at once.
pub(super) async fn all(task: &Task, calls: &mut Calls) -> Result<Vec<Fault>, Cause> {
    let mut faults = Vec::new();
    loop {
        tokio::select! {
            biased;
            event = task.control.given_up() => return Err(Cause::Event(event)),
            end = calls.next() => match end {
                None => return Ok(faults),
                Some(None) => {}
                Some(Some(fault)) => {
                    let internal = fault.is_internal();
                    faults.push(fault);
                    if internal && let Some(cause) = task.cause(std::mem::take(&mut faults)) {
                        return Err(cause);
                    }
                }
            },
        }
    }
}

/// [`all`], where any fault ends the task.
pub(super) async fn settle(task: &Task, calls: &mut Calls) -> Result<(), Cause> {
    let faults = all(task, calls).await?;
    match task.cause(faults) {
        Some(cause) => Err(cause),
        None => Ok(()),
    }
}

/// Whether the author wrote any of a provider's keys: others may be there by default, and several providers may have
/// keys within one object.
fn overlaps(part: &Value, raw: &Value) -> bool {
    let (Value::Object(part), Value::Object(raw)) = (part, raw) else {
        return true;
    };
    part.iter().any(|(key, value)| {
        let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        raw.get(key).is_some_and(|raw| empty || overlaps(value, raw))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_not_the_authors_keys() {
        let raw = json!({"command": ["true"], "features": {"chainOfTrust": true}});
        assert!(overlaps(&json!({"command": ["true"]}), &raw));
        assert!(overlaps(&json!({"features": {"chainOfTrust": true}}), &raw));
        assert!(!overlaps(
            &json!({"features": {"liveLog": true}, "env": {}}),
            &raw
        ));
        assert!(!overlaps(&json!({}), &raw));
        assert!(overlaps(&json!({"mounts": {}}), &json!({"mounts": {}})));
    }
}
