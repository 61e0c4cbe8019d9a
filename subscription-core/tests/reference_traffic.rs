//! The traffic generator: the same bytes for the same seed for ever, and what it promises.
#![cfg(feature = "testkit")]

use subscription_core::testkit::traffic::{Traffic, TrafficConfig, TrafficRecord};
use subscription_core::testkit::traffic::*;
use subscription_core::testkit::reference::*;
use subscription_core::*;

#[test]
fn the_first_lines_of_a_seed_never_change() {
    let mut lines = Vec::new();
    Traffic::new(TrafficConfig { events: 3, odd_share: 0.4, ..TrafficConfig::trouble(7) }).write_ndjson(&mut lines).unwrap();
    println!("{}", String::from_utf8(lines.clone()).unwrap());
}
#[test]
fn size() {
    let n = Traffic::new(TrafficConfig::steady(1)).map(|r| r.payload.len()).sum::<usize>();
    println!("{}", n / 100_000);
    let mut r = TrafficRecord::default();
    let mut t = Traffic::new(TrafficConfig { events: 2_000_000, ..TrafficConfig::steady(1) });
    #[allow(clippy::disallowed_methods)]
    let at = std::time::Instant::now();
    while t.next_into(&mut r) {}
    println!("{:?}", at.elapsed());
    let at = std::time::Instant::now();
    let b = Traffic::new(TrafficConfig { events: 50_000, ..TrafficConfig::trouble(1) }).to_batches(3, Framing::Topic{gaps: 0.1}, 100);
    println!("{:?}", at.elapsed());
    let at = std::time::Instant::now();
    let r = Reference::of(&b, &Rules::default(), &Catalog::default(), Some(3));
    println!("{:?} {:?}", at.elapsed(), r.partitions);
    println!("{} {} {} {} {}", r.tables.minute.len(), r.tables.hour.len(), r.tables.endpoint.len(), r.tables.month.len(), r.tables.alerts.len());
    let mut a = std::collections::BTreeMap::new();
    for x in &r.tables.alerts { *a.entry((x.alert_type, x.raised_late, x.reasons.clone(), x.severity)).or_insert(0) += 1; }
    println!("{a:#?}");
    let at = std::time::Instant::now();
    Comparison::with_reference().compare(&r.tables, &r.tables).unwrap();
    println!("{:?}", at.elapsed());
}
