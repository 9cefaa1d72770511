//! Built: the sandbox is started.

use std::sync::Arc;

use super::call::{Callee, Calls};
use super::claimed::{settle, waiting_for_a_slot};
use super::control::TaskState;
use super::exception::Interrupted;
use super::prepared::lost;
use super::running::Running;
use super::shared::Task;

/// A task whose sandbox is ready to start.
pub(super) struct Built {
    pub(super) task: Arc<Task>,
    pub(super) engine: Callee,
    pub(super) engine_has_keys: bool,
}

impl Built {
    pub(super) async fn start(self) -> Result<Running, Interrupted> {
        let Built {
            task,
            engine,
            engine_has_keys,
        } = self;
        task.control.enter(TaskState::Built);
        let mut calls = Calls::new(&task);
        let Some(builder) = task.remains.builder() else {
            return Err(lost(task, calls, "sandbox builder"));
        };
        let stop = calls.stop.clone();
        calls.begin({
            let (task, engine) = (Arc::clone(&task), engine.clone());
            async move {
                let place = task.clone();
                waiting_for_a_slot(&place, &stop, || {
                    let (task, builder) = (Arc::clone(&task), Arc::clone(&builder));
                    let call = async move {
                        let sandbox = builder.start().await?;
                        task.remains.put_sandbox(sandbox).await
                    };
                    let bound = Some(place.env.deadlines.call);
                    place.kept(&engine, "start", &stop, bound, call)
                })
                .await
                .map_err(|fault| fault.with_payload(engine_has_keys))
            }
        });
        if let Err(cause) = settle(&task, &mut calls).await {
            return Err(Interrupted::new(task, calls, cause));
        }
        match task.remains.sandbox() {
            Some(sandbox) => Ok(Running {
                task,
                engine,
                sandbox,
            }),
            None => Err(lost(task, calls, "sandbox")),
        }
    }
}
