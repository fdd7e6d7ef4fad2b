//! `traceparent`, as [W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header) has it.
//!
//! Invariant: what is not exactly of its form is none. A malformed one is as if it were not there.

use std::fmt;

use cluster::trace::{SpanId, TraceContext, TraceId};

/// Where a message stands in a trace of its sender's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// The sender's step.
    pub context: TraceContext,
    /// Whether the trace is recorded: else nobody should trace on.
    pub sampled: bool,
}

/// `00-<32 digits>-<16 digits>-<2 digits>`, in bytes; versions to come may append to it after a dash.
const LENGTH: usize = 55;

impl Traceparent {
    /// Reads one; `None` if it is malformed, or of a version that is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (head, rest) = bytes.split_at_checked(LENGTH)?;
        let version = hex(&head[..2])?;
        let ends = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|byte| *byte == b'-') };
        if version == 0xff || !ends || [2, 35, 52].iter().any(|dash| head[*dash] != b'-') {
            return None;
        }
        let trace = u128::from(hex(&head[3..19])?) << 64 | u128::from(hex(&head[19..35])?);
        let span = SpanId(hex(&head[36..52])?.try_into().ok()?);
        let flags = hex(&head[53..])?;
        let context = TraceContext { trace: TraceId(trace.to_be_bytes()), span };
        (trace != 0).then_some(Self { context, sampled: flags & 1 == 1 })
    }
}

/// Up to 16 lower-case hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.context.trace, self.context.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_the_recommendation_shows_is_read() {
        let read = Traceparent::parse(GOOD).expect("well-formed");
        assert_eq!(read.context.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((read.context.span.to_string().as_str(), read.sampled), ("b7ad6b7169203331", true));
        assert_eq!(read.to_string(), GOOD);
        let flags = |flags: &str| Traceparent::parse(&format!("{}{flags}", &GOOD[..53])).map(|read| read.sampled);
        assert_eq!(
            [flags("00"), flags("02"), flags("03"), flags("ff")],
            [Some(false), Some(false), Some(true), Some(true)]
        );
    }

    #[test]
    fn later_versions_are_read_as_far_as_this_one_goes() {
        for (version, tail, good) in [
            ("01", "", true),
            ("cc", "-what-the-future-holds", true),
            ("cc", "-", true),
            ("cc", ".what", false),
            ("cc", "0", false),
            ("ff", "", false),
            ("00", "-more", false),
            ("00", "-", false),
        ] {
            let text = format!("{version}{}{tail}", &GOOD[2..]);
            assert_eq!(Traceparent::parse(&text).is_some(), good, "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_none() {
        let zero_trace = format!("00-{:032}-b7ad6b7169203331-01", 0);
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{:016}-01", 0);
        let upper = GOOD.to_uppercase();
        let spaced = format!(" {GOOD}");
        let mut bad = vec!["", "00", "-", &zero_trace, &zero_span, &upper, &spaced, &GOOD[..54]];
        // Every single character matters.
        let broken: Vec<String> = (0..GOOD.len())
            .flat_map(|place| {
                ["g", "-", "A", "é", ""].map(|with| format!("{}{with}{}", &GOOD[..place], &GOOD[place + 1..]))
            })
            .filter(|text| text != GOOD)
            .collect();
        bad.extend(broken.iter().map(String::as_str));
        for text in bad {
            assert_eq!(Traceparent::parse(text), None, "{text}");
        }
    }
}
