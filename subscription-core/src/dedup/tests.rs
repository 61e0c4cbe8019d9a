//! The memory against a list of all that was accepted.

use proptest::prelude::*;

use super::*;
use crate::time::MINUTE;

/// An event: tenant, id, minutes of event time.
type Event = (u8, u8, i64);

/// What the lake and a reader of it would know: every accepted event, with the position after its batch.
#[derive(Default)]
struct Model {
    accepted: Vec<(u64, u8, u8, Timestamp)>,
    watermark: Option<Timestamp>,
}

const LATENESS: i64 = 60 * MINUTE;

impl Model {
    /// Decides as the definition says, with all that was accepted before at hand.
    fn accepts(&mut self, batch: u64, (tenant, id, minute): Event) -> bool {
        let time = Timestamp::from_millis(minute * MINUTE);
        let watermark = self.watermark.unwrap_or(Timestamp::MIN);
        let known = self.accepted.iter().any(|(_, t, i, at)| {
            (*t, *i) == (tenant, id) && if time >= watermark { *at >= watermark } else { *at == time }
        });
        if !known {
            self.accepted.push((batch, tenant, id, time));
            self.watermark = self.watermark.max(Some(time.plus_millis(-LATENESS)));
        }
        !known
    }
}

/// Ids, each with its tenant and time.
fn batch(ids: impl IntoIterator<Item = (String, Uuid, Timestamp)>) -> BatchIds {
    let mut batch = BatchIds::default();
    ids.into_iter().for_each(|(tenant, id, time)| batch.push(&tenant, id, time));
    batch
}

fn uuid(id: u8) -> Uuid {
    Uuid::from_u128(u128::from(id))
}

fn name(tenant: u8) -> String {
    format!("tenant-{tenant}")
}

fn streams() -> impl Strategy<Value = Vec<Vec<Event>>> {
    // Time moves on by some minutes a batch, with jumps; events lie around it, some far behind.
    let event = (0u8..3, 0u8..12, prop_oneof![6 => -70i64..10, 2 => -400i64..0, 1 => -80_000i64..0]);
    let batch =
        (prop_oneof![8 => 0i64..30, 1 => 60i64..200, 1 => 60_000i64..120_000], prop::collection::vec(event, 0..40));
    prop::collection::vec(batch, 1..25).prop_map(|batches| {
        let mut now = 0;
        batches
            .into_iter()
            .map(|(step, events)| {
                now += step;
                events.into_iter().map(|(tenant, id, at)| (tenant, id, now + at)).collect()
            })
            .collect()
    })
}

fn limits() -> impl Strategy<Value = AdmitLimits> {
    (prop_oneof![0usize..30, Just(1_000_000)], prop_oneof![0usize..2_000, Just(1 << 20)])
        .prop_map(|(max_ids, max_filter_bytes)| AdmitLimits::new(max_ids, max_filter_bytes, 1))
}

proptest! {
    /// The same verdicts whatever the limits, however far the lake lags behind, and after restarts.
    #[test]
    fn agrees_with_the_definition(
        batches in streams(),
        limits in limits(),
        lags in prop::collection::vec(0u64..4, 25),
        restarts in prop::collection::vec(prop::bool::weighted(0.1), 25),
    ) {
        let mut model = Model::default();
        let mut memory = IdMemory::new(limits.clone(), LATENESS, None);
        let mut visible = 0;
        for (number, events) in batches.iter().enumerate() {
            let batch = number as u64;
            if restarts[number] {
                visible = batch;
                memory = IdMemory::new(limits.clone(), LATENESS, model.watermark);
                let accepted = model.accepted.iter().filter(|row| Some(row.3) >= model.watermark);
                memory.remember(&super::tests::batch(accepted.map(|(_, t, i, at)| (name(*t), uuid(*i), *at))));
                memory.end_batch(batch, model.watermark);
            }
            memory.visible(visible);
            let before = model.watermark;
            // What the lake shows when it is asked.
            let lake: Vec<_> = model.accepted.iter().filter(|row| row.0 < visible).copied().collect();
            let at = |minute: i64| Timestamp::from_millis(minute * MINUTE);
            let ids = super::tests::batch(events.iter().map(|(t, i, minute)| (name(*t), uuid(*i), at(*minute))));
            let answers: Vec<Vec<Timestamp>> = events.iter().enumerate().map(|(index, (tenant, id, minute))| {
                let time = at(*minute);
                let key = memory.key(&ids, index);
                memory.unknown(&key, time, before).map_or(Vec::new(), |(from, to)| {
                    lake.iter().filter(|(_, t, i, at)| (t, i) == (tenant, id) && (from..=to).contains(at)).map(|row| row.3).collect()
                })
            }).collect();
            // Rows become visible while the answers are under way.
            visible = visible.max((batch + 1).saturating_sub(lags[number]));
            memory.visible(visible);
            for (index, ((tenant, id, minute), answer)) in events.iter().zip(answers).enumerate() {
                let time = at(*minute);
                let watermark = model.watermark.unwrap_or(Timestamp::MIN);
                let key = memory.key(&ids, index);
                let known = if time >= watermark {
                    memory.has_since(&key, watermark) || answer.iter().any(|at| *at >= watermark)
                } else {
                    memory.has_at(&key, time) || answer.contains(&time)
                };
                prop_assert_eq!(!known, model.accepts(batch, (*tenant, *id, *minute)));
                if !known {
                    let after = model.watermark.unwrap();
                    memory.accept(&ids, index, key, after);
                }
            }
            memory.end_batch(batch + 1, model.watermark);
            prop_assert!(memory.filters.bytes() <= limits.max_filter_bytes);
            prop_assert!(memory.table.len() <= limits.max_ids);
        }
    }
}

/// A late event that nobody sent before costs no question, as long as the filters reach back.
#[test]
fn filters_spare_the_lake() {
    let mut memory = IdMemory::new(AdmitLimits::default(), LATENESS, None);
    let at = |minute: i64| Timestamp::from_millis(minute * MINUTE);
    let watermark = |minute: i64| at(minute).plus_millis(-LATENESS);
    let id = |n: u64| Uuid::from_u64_pair(n, n.wrapping_mul(0x9e37_79b9));
    for minute in 0..600 {
        let ids = batch((0..100).map(|n| ("acme".to_owned(), id(minute as u64 * 100 + n), at(minute))));
        for index in 0..ids.len() {
            memory.accept(&ids, index, memory.key(&ids, index), watermark(minute));
        }
        memory.visible(minute as u64);
        memory.end_batch(minute as u64 + 1, Some(watermark(minute)));
    }
    assert!(memory.table.len() < 7_000 && memory.pending.len() <= 2, "{} ids held", memory.table.len());
    let asks = |n: u64, minute: i64| {
        let key = memory.key(&batch([("acme".to_owned(), id(n), at(minute))]), 0);
        memory.unknown(&key, at(minute), Some(watermark(599))).is_some()
    };
    assert!((0..50_000).all(|n| asks(n, n as i64 / 100)), "a retry is asked for");
    let asked = (0..50_000).filter(|n| asks(1_000_000 + n, *n as i64 / 100)).count();
    assert!(asked < 1_500, "{asked} of 50,000 new ones are asked for");
    assert!(!asks(0, -100_000), "nothing was accepted then");
}

/// A partition with many events holds what the others leave of the limit, and gives it back when they need it.
#[test]
fn what_others_leave_is_shared() {
    let at = |second: i64| Timestamp::from_millis(second * 1_000);
    let limits = AdmitLimits::new(1_000, 1 << 20, 10);
    let mut engines: Vec<_> = (0..10).map(|_| IdMemory::new(limits.clone(), LATENESS, None)).collect();
    let mut sent = 0;
    let mut batch_of = |memory: &mut IdMemory, events: i64, second: i64| {
        let ids = (0..events).map(|n| Uuid::from_u128((sent + n) as u128));
        let ids = batch(ids.map(|id| ("acme".to_owned(), id, at(second))));
        sent += events;
        for index in 0..ids.len() {
            memory.accept(&ids, index, memory.key(&ids, index), at(second).plus_millis(-LATENESS));
        }
        memory.visible(second as u64);
        memory.end_batch(second as u64 + 1, Some(at(second).plus_millis(-LATENESS)));
        memory.table.len()
    };
    assert_eq!((0..9).map(|second| batch_of(&mut engines[0], 100, second)).last(), Some(900), "nine shares");
    // One hundred are left: each of the others takes fifty, four times its first ten.
    for second in 9..14 {
        for engine in &mut engines[1..] {
            batch_of(engine, 10, second);
        }
    }
    assert_eq!(limits.held.ids.load(Ordering::Relaxed), 900 + 9 * 50);
    let large = batch_of(&mut engines[0], 0, 14);
    assert_eq!(large, 400, "three quarters of what the others leave, by whole seconds");
    assert!(engines[1..].iter().all(|engine| engine.table.len() == 50), "nobody else gives anything");
    drop(engines);
    assert_eq!(limits.held.ids.load(Ordering::Relaxed), 0, "those that are gone hold nothing");
    assert_eq!(limits.held.filter_bytes.load(Ordering::Relaxed), 0);
}

/// Tenants that left are forgotten, and those that stay keep their ids.
#[test]
fn forgets_tenants() {
    let mut memory = IdMemory::new(AdmitLimits::default(), LATENESS, None);
    let at = |minute: i64| Timestamp::from_millis(minute * MINUTE);
    for minute in 0..300 {
        let tenant = |n: u64| if n == 0 { "stays".to_owned() } else { format!("tenant-{minute}-{n}") };
        let ids = batch((0..100).map(|n| (tenant(n), Uuid::from_u128(minute as u128), at(minute))));
        for index in 0..ids.len() {
            memory.accept(&ids, index, memory.key(&ids, index), at(minute).plus_millis(-LATENESS));
        }
        memory.visible(minute as u64);
        memory.end_batch(minute as u64 + 1, Some(at(minute).plus_millis(-LATENESS)));
    }
    assert!(memory.tenants.len() < 15_000, "{} tenants", memory.tenants.len());
    for minute in 245..300 {
        let key = memory.key(&batch([("stays".to_owned(), Uuid::from_u128(minute as u128), at(minute))]), 0);
        assert!(memory.has_at(&key, at(minute)), "minute {minute}");
    }
}
