//! Arbitrary bytes: nothing panics, `judge` and `peek` agree, what is JSON is what `serde_json` takes for it, and an
//! accepted event is accepted again after it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use subscription_core::{ContentMode, Judged, judge, peek};

fuzz_target!(|payload: &[u8]| {
    let peeked = peek(payload);
    let is_object = serde_json::from_slice::<serde_json::Value>(payload).is_ok_and(|value| value.is_object());
    // A CloudEvent is dead where a plain event is, and its data is what is judged.
    let structured = ContentMode::Structured.judge(payload);
    assert_eq!(matches!(structured, Judged::Dead { .. }), matches!(judge(payload), Judged::Dead { .. }));
    if is_object {
        let envelope = [br#"{"data":"#, payload, b"}"].concat();
        // One level deeper it may be one too many.
        let judged = ContentMode::Structured.judge(&envelope);
        assert!(judged == judge(payload) || matches!(judged, Judged::Dead { code: "not_json", .. }));
    }
    match judge(payload) {
        Judged::Dead { .. } => {
            assert_eq!(peeked, Default::default());
            assert!(!is_object);
        }
        Judged::Invalid(invalid) => {
            assert_eq!(peeked.tenant_id.as_deref(), invalid.tenant_id.as_deref());
            assert!(is_object && !invalid.errors.is_empty());
        }
        Judged::Valid(event) => {
            assert!(is_object);
            assert_eq!(peeked.tenant_id.as_deref(), Some(&*event.tenant_id));
            assert_eq!(peeked.event_timestamp, Some(event.event_timestamp));
            assert_eq!(peeked.ingestion_timestamp, event.ingestion_timestamp);
            if event.validate().is_ok() {
                let again = event.to_json();
                assert_eq!(judge(again.as_bytes()), Judged::Valid(event));
            }
        }
    }
});
