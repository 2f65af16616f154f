//! Times, sizes and counts as people read them.

use crate::time::UnixTime;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// `in 29 d`, `3 min ago`, `just now`: one number, rounded to the nearest.
pub fn relative(at: UnixTime, now: UnixTime) -> String {
    let (past, micros) =
        if at > now { (false, at.as_micros() - now.as_micros()) } else { (true, now.as_micros() - at.as_micros()) };
    let text = span((micros + 500_000) / 1_000_000);
    match (text, past) {
        (None, true) => "just now".to_owned(),
        (None, false) => "now".to_owned(),
        (Some(text), true) => format!("{text} ago"),
        (Some(text), false) => format!("in {text}"),
    }
}

/// `3 d`, `5 h`: a number of seconds in the unit that suits it; `None` for none at all.
pub fn span(secs: u64) -> Option<String> {
    // Each unit lasts until the next gives a number that is not too coarse.
    let (unit, name) = match secs {
        0 => return None,
        s if s < MINUTE => (1, "s"),
        s if s < HOUR => (MINUTE, "min"),
        s if s < 2 * DAY => (HOUR, "h"),
        s if s < 2 * YEAR => (DAY, "d"),
        _ => (YEAR, "y"),
    };
    Some(format!("{} {name}", (secs + unit / 2) / unit))
}

/// `2026-12-22 17:42:09Z`: to the second, in UTC.
pub fn absolute(at: UnixTime) -> String {
    let text = at.to_string();
    let seconds = text.split_once('.').map_or(text.as_str(), |(seconds, _)| seconds);
    format!("{}Z", seconds.replacen('T', " ", 1))
}

/// Both: `2026-12-22 17:42:09Z (in 29 d)`.
pub fn both(at: UnixTime, now: UnixTime) -> String {
    format!("{} ({})", absolute(at), relative(at, now))
}

/// `17:42:09` of today, `11-22 17:42` of another day of the last half year, `2025-01-31` of before.
pub fn stamp(at: UnixTime, now: UnixTime) -> String {
    let text = absolute(at);
    let (date, time) = text.split_once(' ').expect("date and time are two words");
    if absolute(now).starts_with(date) {
        time.trim_end_matches('Z').to_owned()
    } else if at < now && now.since(at).as_secs() < YEAR / 2 {
        format!("{} {}", &date[5..], &time[..5])
    } else {
        date.to_owned()
    }
}

/// `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `13.0 MiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 token`, `2 tokens`.
pub fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn relative_times() {
        let now = UnixTime::from_secs(1_800_000_000);
        for (secs, past, future) in [
            (0, "just now", "just now"),
            (1, "1 s ago", "in 1 s"),
            (59, "59 s ago", "in 59 s"),
            (60, "1 min ago", "in 1 min"),
            (185, "3 min ago", "in 3 min"),
            (3_600, "1 h ago", "in 1 h"),
            (47 * 3_600, "47 h ago", "in 47 h"),
            (2 * 86_400, "2 d ago", "in 2 d"),
            (30 * 86_400 - 1, "30 d ago", "in 30 d"),
            (366 * 86_400, "366 d ago", "in 366 d"),
            (3 * 365 * 86_400, "3 y ago", "in 3 y"),
        ] {
            let away = Duration::from_secs(secs);
            assert_eq!(relative(now.saturating_sub(away), now), past);
            assert_eq!(relative(now.saturating_add(away), now), future);
        }
        assert_eq!(relative(UnixTime::MAX, now), "in 7978 y");
        assert_eq!(relative(UnixTime::EPOCH, now), "57 y ago");
    }

    #[test]
    fn stamps_say_no_more_than_is_needed() {
        let now: UnixTime = "2026-11-23T17:42:09.123456Z".parse().unwrap();
        assert_eq!(absolute(now), "2026-11-23 17:42:09Z");
        assert_eq!(stamp("2026-11-23T00:00:01Z".parse().unwrap(), now), "00:00:01");
        assert_eq!(stamp("2026-11-22T23:59:59Z".parse().unwrap(), now), "11-22 23:59");
        assert_eq!(stamp("2025-11-23T17:42:09Z".parse().unwrap(), now), "2025-11-23");
        assert_eq!(stamp("2027-01-01T17:42:09Z".parse().unwrap(), now), "2027-01-01");
    }

    #[test]
    fn numbers_are_grouped_and_sizes_rounded() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 1_023, 1_024, 1_048_575, 1_048_576, 13_631_488].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.0 MiB", "13.0 MiB"]
        );
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }
}
