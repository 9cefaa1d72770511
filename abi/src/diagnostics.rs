//! The tracing bridge: a library's events, carried to the host with their fields.
//!
//! A library has its own copy of `tracing`, whose events would go nowhere. The SDK installs a subscriber there that
//! hands each event to the host as a [`Record`]. The host's level is pushed down, so that what nobody wants is never
//! formatted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// 1 error, 2 warning, 3 information, 4 debug, 5 trace. Unknown numbers count as 3.
    pub level: u32,
    /// Usually the module.
    pub target: String,
    /// The text.
    pub message: String,
    /// The event's own fields and those of the spans around it; the inner one wins.
    #[serde(default)]
    pub fields: BTreeMap<String, Value>,
}

/// Where records go. Must not block.
pub trait Sink: Send + Sync + 'static {
    /// Takes one.
    fn record(&self, record: Record);
}

/// The number of a level, as it crosses the boundary.
pub fn level_code(level: Level) -> u32 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// The highest level code that the host wants. 0 is silence.
static LEVEL: AtomicU32 = AtomicU32::new(3);

/// Takes the host's level over.
pub(crate) fn set_level(code: u32) {
    LEVEL.store(code, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// Makes this copy of `tracing` report to `sink`, and panics too. Answers whether it took effect; a second library
/// version in the same image cannot happen, so a second call is one of the library's own subscriber.
pub(crate) fn install(sink: Arc<dyn Sink>) -> bool {
    let for_panics = Arc::clone(&sink);
    let installed =
        tracing::subscriber::set_global_default(Registry::default().with(Bridge { sink })).is_ok();
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = std::backtrace::Backtrace::capture().to_string();
        for_panics.record(Record {
            level: 1,
            target: "panic".into(),
            message: panic.to_string().replace(":\n", ": "),
            fields: BTreeMap::from([("backtrace".to_owned(), Value::String(backtrace))]),
        });
    }));
    installed
}

struct Bridge {
    sink: Arc<dyn Sink>,
}

/// The fields of a span, kept with it.
#[derive(Default)]
struct Fields(BTreeMap<String, Value>);

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        level_code(*metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match LEVEL.load(Ordering::Relaxed) {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.0.extend(
                    of_span
                        .0
                        .iter()
                        .map(|(name, value)| (name.clone(), value.clone())),
                );
            }
        }
        event.record(&mut fields);
        let message = match fields.0.remove("message") {
            Some(Value::String(message)) => message,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        self.sink.record(Record {
            level: level_code(*event.metadata().level()),
            target: event.metadata().target().to_owned(),
            message,
            fields: fields.0,
        });
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .insert(field.name().to_owned(), Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), json!(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Record>>);

    impl Sink for Kept {
        fn record(&self, record: Record) {
            self.0.lock().unwrap().push(record);
        }
    }

    #[test]
    fn an_event_carries_its_fields_and_those_of_its_spans() {
        let kept = Arc::new(Kept::default());
        let subscriber = Registry::default().with(Bridge { sink: kept.clone() });
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("task", task_id = "abc", run_id = 0).entered();
            tracing::warn!(run_id = 1, "gone");
        });
        assert_eq!(
            *kept.0.lock().unwrap(),
            [Record {
                level: 2,
                target: "tcw_abi::diagnostics::tests".into(),
                message: "gone".into(),
                fields: BTreeMap::from([("task_id".into(), json!("abc")), ("run_id".into(), json!(1))]),
            }]
        );
    }
}
