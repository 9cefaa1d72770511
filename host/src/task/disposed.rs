//! Resolved, then disposed: the slot is free, and everything that the task held is given back. The one order for
//! taking a task down, whatever became of it: the plugins, at one time, each exactly once; then what the engine made;
//! then the host's own.

use std::sync::Arc;

use super::call::{Callee, Calls};
use super::report::{Resolution, TaskReport};
use super::shared::Task;
use crate::services::context::Activity;

/// A task that the queue knows the end of, or need not be told.
pub(super) struct Resolved {
    task: Arc<Task>,
    resolution: Resolution,
    reported: bool,
}

impl Resolved {
    pub(super) fn new(task: Arc<Task>, resolution: Resolution, reported: bool) -> Self {
        let report = task.report(resolution, reported);
        tracing::info!(
            task_id = %task.claim.task_id(),
            run_id = task.claim.run_id.0,
            resolution = ?report.resolution,
            reported,
            incident = report.incident,
            "task resolved"
        );
        task.control.publish(report);
        Resolved {
            task,
            resolution,
            reported,
        }
    }

    /// For a task that was resolved before, and whose taking down did not get to its end.
    pub(super) fn again(task: Arc<Task>, report: &TaskReport) -> Self {
        Resolved {
            task,
            resolution: report.resolution,
            reported: report.reported,
        }
    }

    pub(super) async fn dispose(self) -> TaskReport {
        let task = self.task;
        let mut calls = Calls::new(&task);
        for member in task.remains.close() {
            let (task, stop) = (Arc::clone(&task), calls.stop.clone());
            calls.begin(async move {
                let callee = member.callee.clone();
                let bound = Some(task.env.deadlines.call);
                task.kept(&callee, "dispose", &stop, bound, member.dispose())
                    .await
            });
        }
        task.note(&calls.rest().await);

        let engine = Callee {
            library: task.env.engine.library.clone(),
            name: format!("engine '{}'", task.env.engine.name),
            activity: Arc::new(Activity::default()),
        };
        let stop = calls.stop.clone();
        let give_back = {
            let task = Arc::clone(&task);
            async move { task.remains.give_engine_back().await }
        };
        let bound = Some(task.env.deadlines.call);
        if let Err(fault) = task
            .kept(&engine, "giving the sandbox back", &stop, bound, give_back)
            .await
        {
            task.note(&[fault]);
        }

        task.end_log(&[]).await;
        task.services.dispose();
        task.look_for_leaks();
        task.remove_directory().await;
        let report = task.report(self.resolution, self.reported);
        task.control.publish_disposed(report.clone());
        report
    }
}
