//! A month of the calendar, in UTC.

use std::fmt;
use std::str::FromStr;

use time::{Date, OffsetDateTime, Time};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Month(Date);

impl FromStr for Month {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a month such as 2026-10");
        let (year, month) = text.split_once('-').filter(|(_, month)| month.len() == 2).ok_or_else(wrong)?;
        let year: i32 = year.parse().map_err(|_| wrong())?;
        let month = month.parse::<u8>().ok().and_then(|month| time::Month::try_from(month).ok()).ok_or_else(wrong)?;
        let first = Date::from_calendar_date(year, month, 1).map_err(|_| wrong())?;
        if (1970..=9999).contains(&year) { Ok(Self(first)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.month(), self.0.year())
    }
}

impl Month {
    /// Its first second, since the Unix epoch.
    pub fn start_s(self) -> i64 {
        OffsetDateTime::new_utc(self.0, Time::MIDNIGHT).unix_timestamp()
    }

    /// Its days.
    pub fn days(self) -> u32 {
        u32::from(self.0.month().length(self.0.year()))
    }

    /// The second after its last, since the Unix epoch.
    pub fn end_s(self) -> i64 {
        self.start_s() + i64::from(self.days()) * 86_400
    }
}

/// A moment for people: day, hour and minute in UTC.
pub fn moment(unix_s: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(unix_s).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let month: String = at.month().to_string().chars().take(3).collect();
    format!("{month} {} {:02}:{:02}", at.day(), at.hour(), at.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_have_their_days() {
        let month = |text: &str| text.parse::<Month>();
        let october = month("2026-10").expect("a month");
        assert_eq!(
            (october.start_s(), october.days(), october.to_string()),
            (1_790_812_800, 31, "October 2026".into())
        );
        assert_eq!(month("2028-02").expect("a month").days(), 29);
        assert_eq!(month("2026-12").expect("a month").end_s(), month("2027-01").expect("a month").start_s());
        for wrong in ["2026", "2026-13", "2026-1", "26-10-01", "2026-00", "", "1969-12"] {
            assert!(month(wrong).is_err(), "{wrong}");
        }
        assert_eq!(moment(october.start_s() + 14 * 86_400 + 3 * 3_600 + 25 * 60), "Oct 15 03:25");
    }
}
