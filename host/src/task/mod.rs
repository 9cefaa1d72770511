//! The lifecycle of one task.

mod control;
mod environment;
mod report;

pub use control::{TaskControl, TaskControlReceiver, TaskEvent, TaskState, TaskStatus, task_control};
pub use environment::{Deadlines, EngineSlot, PayloadCheck, PayloadParts, PluginSlot, TaskEnvironment};
pub use report::{Resolution, TaskReport, WorkerEffect};
