//! Durations as people write them.

use std::time::Duration;

/// Reads `250ms`, `90s`, `30m`, `1h`, `7d`, or plain seconds.
///
/// # Errors
/// Text that is none of these; says so.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a duration such as 250ms, 90s, 30m, 1h or 7d");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (count, unit) = text.split_at(digits);
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    count.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = |text| parse(text).map(|duration| duration.as_millis());
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("90"), Ok(90_000));
        assert_eq!(ms("1h"), Ok(3_600_000));
        assert_eq!(ms("7d"), Ok(604_800_000));
        for wrong in ["", "h", "1w", "-1s", "1.5h", "99999999999999999d"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
