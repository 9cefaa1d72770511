//! Figure and yardstick in turns, and what becomes of the pairs.

use std::time::Duration;

use serde_json::{Value, json};

/// What a figure has to be.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// At most this much.
    AtMost(f64),
    /// At least this much.
    AtLeast(f64),
    /// At most this many times the yardstick.
    RatioAtMost(f64),
    /// At least this many times the yardstick.
    RatioAtLeast(f64),
}

/// A measured figure.
pub(crate) struct Figure {
    value: f64,
    unit: &'static str,
    yardstick: Option<(f64, f64)>,
    target: Target,
}

impl Figure {
    /// A figure that has no yardstick: it is not a time.
    pub(crate) fn alone(value: f64, unit: &'static str, target: Target) -> Self {
        Figure {
            value,
            unit,
            yardstick: None,
            target,
        }
    }

    /// Measures `count` pairs. The value and the yardstick are their medians, the ratio is the median of the ratios.
    pub(crate) fn pairs(
        count: usize,
        unit: &'static str,
        target: Target,
        mut figure: impl FnMut() -> f64,
        mut yardstick: impl FnMut() -> f64,
    ) -> Self {
        // The first of each warms caches and is thrown away.
        figure();
        yardstick();
        let pairs: Vec<(f64, f64)> = (0..count).map(|_| (figure(), yardstick())).collect();
        let value = median(pairs.iter().map(|pair| pair.0).collect());
        let other = median(pairs.iter().map(|pair| pair.1).collect());
        let ratio = median(pairs.iter().map(|pair| pair.0 / pair.1).collect());
        Figure {
            value,
            unit,
            yardstick: Some((other, ratio)),
            target,
        }
    }

    /// The line that is printed.
    pub(crate) fn line(&self, name: &str) -> Value {
        let (yardstick, ratio) = self.yardstick.unzip();
        let (target, met) = match self.target {
            Target::AtMost(bound) => (format!("<= {bound} {}", self.unit), self.value <= bound),
            Target::AtLeast(bound) => (format!(">= {bound} {}", self.unit), self.value >= bound),
            Target::RatioAtMost(bound) => (
                format!("<= {bound} of the yardstick"),
                ratio.is_some_and(|ratio| ratio <= bound),
            ),
            Target::RatioAtLeast(bound) => (
                format!(">= {bound} of the yardstick"),
                ratio.is_some_and(|ratio| ratio >= bound),
            ),
        };
        json!({
            "name": name,
            "value": rounded(self.value),
            "unit": self.unit,
            "yardstick": yardstick.map(rounded),
            "ratio": ratio.map(rounded),
            "target": target,
            "met": met,
        })
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
