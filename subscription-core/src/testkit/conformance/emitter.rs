//! The contract of [`EventEmitter`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::samples;
use crate::emit::EventEmitter;
use crate::validate::{Judged, judge};

/// Longer than any receiver takes.
const LONG: Duration = Duration::from_secs(60);

/// Runs all checks of an [`EventEmitter`] whose receiver is there.
///
/// `fresh` makes an emitter with a name of its choice; two of them may have one receiver. `received` answers the payloads
/// that the receiver has of an emitter so far, by its id, in the order they came.
///
/// # Panics
/// If the emitter breaks the contract.
pub fn emitter<E: EventEmitter>(fresh: impl Fn() -> E, received: impl Fn(&E) -> Vec<Vec<u8>>) {
    const THREADS: u64 = 4;
    const EVENTS: u64 = 250;
    let emitter = fresh();
    assert!((1..=128).contains(&emitter.id().chars().count()), "an id of 1 to 128 characters");
    assert_eq!(emitter.counts(), Default::default(), "nothing was emitted");
    emitter.flush(Duration::ZERO).expect("nothing to wait for");
    let other = fresh();
    assert_ne!(emitter.id(), other.id(), "each start has an id of its own");
    drop(other);

    // Each thread emits for two tenants of its own.
    let tenants: Vec<String> = (0..THREADS * 2).map(|n| format!("tenant-{n}")).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (emitter, tenants) = (&emitter, &tenants);
            scope.spawn(move || {
                for n in 0..EVENTS {
                    let tenant = &tenants[(thread * 2 + n % 2) as usize];
                    let event = samples::usage_event(thread * EVENTS + n, tenant);
                    // Who has an origin gets another.
                    let event = if n % 3 == 0 {
                        crate::ApiUsageEvent { emitter_id: Some("other".into()), emitter_sequence: Some(7), ..event }
                    } else {
                        event
                    };
                    emitter.emit(&event).expect("an event is taken");
                }
            });
        }
    });
    emitter.flush(LONG).expect("all is delivered");
    let total = THREADS * EVENTS;
    let counts = emitter.counts();
    assert_eq!((counts.accepted, counts.delivered, counts.pending()), (total, total, 0), "{counts:?}");
    assert_eq!((counts.refused, counts.lost), (0, 0), "{counts:?}");

    let payloads = received(&emitter);
    let mut by_number = BTreeMap::new();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for payload in &payloads {
        let Judged::Valid(event) = judge(payload) else {
            panic!("an event that is none: {}", String::from_utf8_lossy(payload))
        };
        assert_eq!(event.emitter_id.as_deref(), Some(emitter.id()), "stamped with the emitter's id");
        let number = event.emitter_sequence.expect("stamped with a number");
        let before = last.insert(event.tenant_id.to_string(), number);
        assert!(before < Some(number), "{number} of {} after {before:?}", event.tenant_id);
        let n = (0..total).find(|n| samples::event_id(*n) == event.event_id).expect("an event that was emitted");
        let tenant = &tenants[(n / EVENTS * 2 + n % EVENTS % 2) as usize];
        let mut expected = samples::usage_event(n, tenant);
        expected.emitter_id = event.emitter_id.clone();
        expected.emitter_sequence = event.emitter_sequence;
        assert_eq!(*event, expected, "the event as it was emitted");
        assert_eq!(by_number.insert(number, n), None, "number {number} twice");
    }
    assert_eq!(by_number.len() as u64, total, "every event is delivered");
    assert!(by_number.keys().copied().eq(0..total as i64), "numbers without a gap from 0");
    for thread in 0..THREADS {
        let of_thread: Vec<u64> = by_number.values().copied().filter(|n| n / EVENTS == thread).collect();
        assert!(of_thread.is_sorted(), "numbers in the order of the calls");
    }

    emitter.close(LONG).expect("nothing is left");
    let error = emitter.emit(&samples::usage_event(0, "acme")).expect_err("closed");
    assert!(!error.is_retryable(), "it stays closed");
    assert_eq!(emitter.counts().refused, 1, "a refusal is counted");
    emitter.close(LONG).expect("closed again");
    assert_eq!(received(&emitter).len() as u64, total, "what is refused is not delivered");
}
