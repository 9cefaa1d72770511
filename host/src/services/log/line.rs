//! The worker's own lines in a task log, in generic-worker's form, which people's tools parse.

use chrono::{DateTime, Utc};
use tcw_abi::services::LogLevel;

use crate::queue::format_time;

/// The lines of `text`, each with the prefix of its level.
pub(super) fn format(level: LogLevel, text: &str, now: DateTime<Utc>) -> String {
    let prefix = match level {
        LogLevel::Info => format!("[taskcluster {}] ", format_time(now)),
        LogLevel::Warning => format!("[taskcluster:warn {}] ", format_time(now)),
        LogLevel::Error => "[taskcluster:error] ".to_owned(),
    };
    let mut lines = String::with_capacity(prefix.len() + text.len() + 1);
    let text = text.strip_suffix('\n').unwrap_or(text);
    for line in text.split('\n') {
        lines.push_str(&prefix);
        lines.push_str(line.strip_suffix('\r').unwrap_or(line));
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_gets_the_prefix_of_its_level() {
        let now = DateTime::from_timestamp_millis(1_485_387_073_787).unwrap();
        assert_eq!(
            format(LogLevel::Info, "a\r\nb\n", now),
            "[taskcluster 2017-01-25T23:31:13.787Z] a\n[taskcluster 2017-01-25T23:31:13.787Z] b\n"
        );
        assert_eq!(
            format(LogLevel::Warning, "", now),
            "[taskcluster:warn 2017-01-25T23:31:13.787Z] \n"
        );
        assert_eq!(
            format(LogLevel::Error, "x\n\ny", now),
            "[taskcluster:error] x\n[taskcluster:error] \n[taskcluster:error] y\n"
        );
    }
}
