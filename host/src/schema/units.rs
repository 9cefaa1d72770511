//! Durations and sizes as people write them, and the formats `duration-text` and `size-text` of our schemas.

use std::time::Duration;

/// `20 min`, `1 day 2 hours`, `90s`, `1h30m`; a bare number is seconds. The error says what is accepted.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write seconds, or text such as `90 s`, `20 min` or `1 day 2 hours`".to_owned();
    let seconds = total(text, |unit| match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => Some(1),
        "m" | "min" | "mins" | "minute" | "minutes" => Some(60),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some(60 * 60),
        "d" | "day" | "days" => Some(24 * 60 * 60),
        "w" | "week" | "weeks" => Some(7 * 24 * 60 * 60),
        _ => None,
    });
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// `10 GiB`, `500 MB`; a bare number is bytes. The error says what is accepted.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || "write bytes, or text such as `500 MB` or `10 GiB`".to_owned();
    total(text, |unit| match unit.to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => Some(1),
        "kb" => Some(1000),
        "mb" => Some(1000_u64.pow(2)),
        "gb" => Some(1000_u64.pow(3)),
        "tb" => Some(1000_u64.pow(4)),
        "k" | "kib" => Some(1024),
        "m" | "mib" => Some(1024_u64.pow(2)),
        "g" | "gib" => Some(1024_u64.pow(3)),
        "t" | "tib" => Some(1024_u64.pow(4)),
        _ => None,
    })
    .ok_or_else(wrong)
}

/// The sum of `number unit` pairs; a single number may stand without one. `None` for anything else, and for what
/// does not fit.
fn total(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let mut rest = text.trim();
    let mut sum: Option<u64> = None;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let unit = &rest[..letters];
        rest = rest[letters..].trim_start();
        let factor = match unit {
            // `1 2` and `1 day 2` are more likely slips than sums.
            "" if sum.is_none() && rest.is_empty() => 1,
            unit => factor(unit)?,
        };
        sum = Some(sum.unwrap_or(0).checked_add(number.checked_mul(factor)?)?);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |text: &str| duration(text).ok().map(|duration| duration.as_secs());
        for (text, wanted) in [
            ("90", 90),
            ("20 min", 1200),
            (" 20min ", 1200),
            ("1 day 2 hours", 93_600),
            ("1h30m", 5400),
            ("0 s", 0),
        ] {
            assert_eq!(seconds(text), Some(wanted), "{text}");
        }
        for text in [
            "",
            "min",
            "20 mins ago",
            "1 2",
            "1 day 2",
            "-5 s",
            "1.5 h",
            "20 µs",
            "99999999999999999999",
            "9999999999999999 weeks",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("10 GiB"), Ok(10 * 1024 * 1024 * 1024));
        assert_eq!(size("500MB"), Ok(500_000_000));
        assert_eq!(size("12"), Ok(12));
        assert!(size("10 GX").is_err());
        assert!(size("99999999999 TiB").is_err());
    }
}
