//! Trace context as clients write it: nothing panics, and only what is of the form is read, as it was written.

use im_gateway::protocol::Traceparent;
use proptest::prelude::*;

/// Trace contexts, and what is nearly one: of any version and length, cut and with characters replaced.
fn nearly_one() -> impl Strategy<Value = String> {
    let good = "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}";
    let ours = "00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}";
    let longer = (good, any::<String>()).prop_map(|(text, more)| format!("{text}-{more}"));
    let hurt = (good, any::<prop::sample::Index>(), any::<char>()).prop_map(|(text, place, with)| {
        let place = place.index(text.len());
        format!("{}{with}{}", &text[..place], &text[place + 1..])
    });
    prop_oneof![good, ours, longer, hurt, any::<String>()]
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_written(text in nearly_one()) {
        let Some(read) = Traceparent::parse(&text) else { return Ok(()) };
        let again = read.to_string();
        prop_assert_eq!(Traceparent::parse(&again), Some(read));
        // All but the version, and flags that this version does not know.
        prop_assert_eq!(&again[2..53], &text[2..53]);
        prop_assert!(text[..2] != *"00" || text.len() == again.len());
    }

    #[test]
    fn every_one_of_this_version_is_read(trace in 1u128.., span in 1u64.., flags: u8) {
        let read = Traceparent::parse(&format!("00-{trace:032x}-{span:016x}-{flags:02x}"));
        let read = read.expect("well-formed");
        prop_assert_eq!(read.context.trace.to_string(), format!("{trace:032x}"));
        prop_assert_eq!(read.context.span.to_string(), format!("{span:016x}"));
        prop_assert_eq!(read.sampled, flags & 1 == 1);
    }
}
