//! The aggregate engine: the same rows however its input is cut, committed, lost and evicted; and worked examples.

mod gold_support;

use std::collections::BTreeMap;

use gold_support::{BASE, Event, Lake, MINUTE, Rows, batch};
use proptest::prelude::*;
use subscription_core::{AlertRow, AlertType, ErrorKind, HttpMethod, Rules, Severity, Table, Timestamp, WindowKind};

/// The rows of events that are applied at once and committed once.
fn rows_of(rules: &Rules, events: &[Event]) -> (Rows, Vec<AlertRow>) {
    let mut lake = Lake::default();
    let mut engine = lake.engine(rules, 8_192);
    let raised = lake.apply(&mut engine, &batch(events, 0), events.len() as u64 * 3);
    lake.finish(&mut engine);
    (lake.rows(), raised)
}

fn alert(rows: &[AlertRow], alert_type: AlertType, kind: WindowKind) -> Option<&AlertRow> {
    let mut found = rows.iter().filter(|row| row.alert_type == alert_type && row.window_kind == kind);
    let first = found.next();
    assert!(found.next().is_none(), "one alert of a type in these examples");
    first
}

#[test]
fn sixty_one_requests_on_the_free_plan() {
    let mut events = vec![Event::at(BASE); 61];
    events[60].status = 429;
    events.push(Event::at(BASE + MINUTE));
    let (rows, raised) = rows_of(&Rules::default(), &events);

    let minute = &rows.minutes[0];
    assert_eq!((minute.total_requests, minute.quota_attempted, minute.quota_used), (61, 61, 60));
    assert_eq!((minute.plan_limit, minute.over_limit, minute.over_limit_count), (60, true, 1));
    assert_eq!(minute.usage_ratio, 61.0 / 60.0);
    assert_eq!((minute.billable_requests, minute.billable_units.to_string()), (60, "60".into()));
    assert!(!minute.is_final);
    assert_eq!((rows.minutes[1].total_requests, rows.hours[0].total_requests), (1, 62));

    let over = alert(&rows.alerts, AlertType::OverLimit, WindowKind::Minute).unwrap();
    assert_eq!((over.quota_attempted, over.plan_limit, over.over_limit_count), (61, 60, 1));
    assert_eq!((over.severity, over.raised_late), (Severity::Critical, false));
    assert_eq!((over.reasons.len(), over.risk, over.spike_ratio), (0, None, None));
    // uuid5(NAMESPACE_URL, "alert:acme/over_limit/1min/2026-03-01T00:00:00Z"), as Python computes it.
    assert_eq!(over.alert_id.to_string(), "c49d9ae7-72e7-596a-8ca5-c965039b79a3");
    let approaching = alert(&rows.alerts, AlertType::ApproachingLimit, WindowKind::Minute).unwrap();
    assert_eq!(approaching.severity, Severity::Warning);
    assert_eq!(rows.alerts.len(), 2);

    // As they were when they were raised.
    assert_eq!(raised.len(), 2);
    assert_eq!((raised[0].alert_type, raised[0].quota_attempted), (AlertType::ApproachingLimit, 48));
    assert_eq!((raised[1].alert_type, raised[1].quota_attempted), (AlertType::OverLimit, 61));
}

#[test]
fn quotas_count_what_was_admitted() {
    let mut events: Vec<Event> = (0..1_001).map(|i| Event::at(BASE + i * 3_000)).collect();
    events.iter_mut().for_each(|event| event.units = Some("0.5"));
    let throttled = Event { status: 429, ..Event::at(BASE + 3_599_000) };
    events.splice(500..500, vec![throttled; 7]);
    let (rows, raised) = rows_of(&Rules::default(), &events);
    let exceeded = alert(&rows.alerts, AlertType::QuotaExceeded, WindowKind::Hour).unwrap();
    assert_eq!((exceeded.quota_used, exceeded.plan_limit, exceeded.over_limit_count), (1_001, 1_000, 1));
    assert_eq!(exceeded.total_requests, 1_008);
    assert_eq!(raised.len(), 1);
    assert_eq!(rows.months[0].billable_units.to_string(), "500.5");
}

#[test]
fn a_bill_is_rounded_once_and_half_to_even() {
    // 0.40 a thousand: each request is 0.0004, three and a half hundred 0.14.
    let pro = |n: i64, units| Event { plan: "pro", units, ..Event::at(BASE + n * 1_000) };
    let events: Vec<Event> = (0..350).map(|n| pro(n, None)).chain([pro(351, Some("12.5"))]).collect();
    let (rows, _) = rows_of(&Rules::default(), &events);
    let month = &rows.months[0];
    assert_eq!(month.cost.unwrap().to_string(), "0.145");
    assert_eq!(month.amount_due.unwrap().to_string(), "0.14");
    assert_eq!(month.currency.as_deref(), Some("USD"));
    assert_eq!(rows.endpoints.iter().map(|row| row.cost.raw()).sum::<i128>(), month.cost.unwrap().raw());
    assert_eq!(rows.hours[0].cost, None);
}

#[test]
fn a_late_event_raises_limits_only_and_what_was_raised_stays() {
    let mut events = vec![Event::at(BASE); 47];
    events.push(Event { late: true, quota_cost: Some(13), ..Event::at(BASE) });
    events.push(Event { late: true, ..Event::at(BASE) });
    let (rows, raised) = rows_of(&Rules::default(), &events);
    assert_eq!(raised.len(), 1);
    let over = alert(&rows.alerts, AlertType::OverLimit, WindowKind::Minute).unwrap();
    assert!(over.raised_late);
    assert_eq!(over.over_limit_count, 1);

    // The next event in time raises what its minute has come to; the plan's limit grows, and over_limit stays.
    events.push(Event { plan: "starter", quota_cost: Some(200), ..Event::at(BASE + 5) });
    let (rows, _) = rows_of(&Rules::default(), &events);
    assert!(alert(&rows.alerts, AlertType::ApproachingLimit, WindowKind::Minute).is_some());
    let over = alert(&rows.alerts, AlertType::OverLimit, WindowKind::Minute).unwrap();
    assert!(over.raised_late);
    assert_eq!((over.plan_limit, over.over_limit_count, &*over.subscription_plan), (300, 0, "starter"));
}

/// A minute with `n` events after `minutes` of the five before it had `before` events each.
fn busy(n: usize, minutes: i64, before: usize) -> Vec<Event> {
    let quiet = (1..=minutes).rev().flat_map(|m| vec![Event::at(BASE + (10 - m) * MINUTE); before]);
    quiet.chain(vec![Event::at(BASE + 10 * MINUTE); n]).collect()
}

#[test]
fn a_velocity_spike_is_abuse() {
    // The 30th: 30 ÷ max((3 × 2) ÷ 5, 6) = 5.
    let (rows, raised) = rows_of(&Rules::default(), &busy(35, 3, 2));
    let abuse = alert(&rows.alerts, AlertType::AbuseDetected, WindowKind::Minute).unwrap();
    assert_eq!((&abuse.reasons[..], abuse.spike_ratio, abuse.risk), (&["velocity_spike"][..], Some(5.0), Some(0.25)));
    assert_eq!((abuse.severity, abuse.total_requests), (Severity::Warning, 35));
    assert_eq!(raised.iter().find(|row| row.alert_type == AlertType::AbuseDetected).unwrap().total_requests, 30);

    for (events, why) in [
        (busy(35, 2, 2), "two minutes before are too few"),
        (busy(29, 3, 2), "29 requests are too few"),
        (busy(35, 5, 10), "3.5 times... the mean is 10, the 30th is 3 times it and the 35th 3.5"),
    ] {
        let (rows, _) = rows_of(&Rules::default(), &events);
        let found = alert(&rows.alerts, AlertType::AbuseDetected, WindowKind::Minute);
        assert_eq!(found.is_some(), why.starts_with("3.5"), "{why}");
    }
}

#[test]
fn high_risk_is_abuse_and_critical() {
    let risky = Event { risk: Some(0.5), status: 401, ..Event::at(BASE) };
    let (rows, _) = rows_of(&Rules::default(), &vec![risky; 30]);
    let abuse = alert(&rows.alerts, AlertType::AbuseDetected, WindowKind::Minute).unwrap();
    // 1 − (1 − 0.45)(1 − 0)(1 − 0.8)(1 − 0) = 0.89
    assert_eq!((&abuse.reasons[..], abuse.risk, abuse.spike_ratio), (&["high_risk"][..], Some(0.89), Some(0.0)));
    assert_eq!(abuse.severity, Severity::Critical);
}

#[test]
fn endpoints_beyond_the_limit_are_other() {
    let rules = Rules { max_endpoints: 2, ..Rules::default() };
    let to = |endpoint: &str, method| Event { endpoint: endpoint.into(), method, ..Event::at(BASE) };
    let events = [
        to("/a", HttpMethod::Get),
        to("/b", HttpMethod::Get),
        to("/c", HttpMethod::Get),
        to("/a", HttpMethod::Post),
        to("/d", HttpMethod::Get),
    ];
    let (rows, _) = rows_of(&rules, &events);
    let found: Vec<_> =
        rows.endpoints.iter().map(|row| (&*row.endpoint, row.http_method, row.total_requests)).collect();
    assert_eq!(
        found,
        [
            ("(other)", HttpMethod::Get, 2),
            ("/a", HttpMethod::Get, 1),
            ("/a", HttpMethod::Post, 1),
            ("/b", HttpMethod::Get, 1)
        ]
    );
}

#[test]
fn many_endpoints_of_many_methods() {
    let events: Vec<Event> = (0..5_000)
        .map(|n| Event {
            endpoint: format!("/{}", n * 7 % 1_500),
            method: HttpMethod::ALL[n % 9],
            ..Event::at(BASE + n as i64)
        })
        .collect();
    let (rows, _) = rows_of(&Rules::default(), &events);
    let mut known: Vec<&str> = Vec::new();
    let mut counts: BTreeMap<(String, HttpMethod), i64> = BTreeMap::new();
    for event in &events {
        if !known.contains(&&*event.endpoint) && known.len() < 1_000 {
            known.push(&event.endpoint);
        }
        let name = if known.contains(&&*event.endpoint) { &event.endpoint } else { "(other)" };
        *counts.entry((name.to_owned(), event.method)).or_default() += 1;
    }
    let found: BTreeMap<_, _> =
        rows.endpoints.iter().map(|row| ((row.endpoint.to_string(), row.http_method), row.total_requests)).collect();
    assert_eq!(found, counts);
}

#[test]
fn rows_become_final_without_a_further_event_of_theirs() {
    let mut lake = Lake::default();
    let mut engine = lake.engine(&Rules::default(), 1);
    lake.apply(&mut engine, &batch(&[Event::at(BASE)], 0), 10);
    lake.finish(&mut engine);
    engine.evict(0);
    assert!(lake.rows().minutes.iter().all(|row| !row.is_final));
    // 61 minutes later the watermark is at the end of the minute, not yet of its hour.
    let other = Event { tenant: "zeta".into(), ..Event::at(BASE + 61 * MINUTE) };
    lake.apply(&mut engine, &batch(&[other], 10), 40);
    assert_eq!(engine.watermark(), Some(Timestamp::from_millis(BASE + MINUTE)));
    assert_eq!(engine.cut(&Table::GOLD).unwrap_err().kind(), ErrorKind::Invariant, "the evicted minute is needed");
    lake.finish(&mut engine);
    let rows = lake.rows();
    assert_eq!(rows.minutes.iter().map(|row| row.is_final).collect::<Vec<_>>(), [true, false]);
    assert!(rows.hours.iter().all(|row| !row.is_final));
}

#[test]
fn rows_that_changed_are_packed_and_written_as_they_are() {
    let tenants = 50;
    let minute = |from: u64, at: i64| {
        let event = |n| Event { tenant: format!("tenant-{n}"), ms: 1.5 + n as f64, risk: Some(0.25), ..Event::at(at) };
        batch(&(0..tenants).map(event).collect::<Vec<_>>(), from)
    };
    let fill = |evict: Option<usize>| {
        let mut lake = Lake::default();
        let mut engine = lake.engine(&Rules::default(), 8_192);
        for n in 0..8 {
            let from = n as u64 * tenants;
            lake.apply(&mut engine, &minute(from, BASE + n * MINUTE), (from + tenants) * 3);
            evict.into_iter().for_each(|bytes| engine.evict(bytes));
        }
        let dirty = engine.dirty_bytes(&Table::GOLD);
        // The state of a packed row is told, and another event adds to it.
        let used = engine.quota_used("tenant-7", WindowKind::Minute, Timestamp::from_millis(BASE));
        assert_eq!(used, Some(1));
        lake.apply(&mut engine, &minute(8 * tenants, BASE), 9 * tenants * 3);
        lake.finish(&mut engine);
        (dirty, lake.rows())
    };
    let (open, rows) = fill(None);
    let (packed, same) = fill(Some(open / 2));
    assert!(packed < open * 3 / 4, "{packed} of {open} bytes");
    assert_eq!(same, rows);
    assert_eq!(rows.minutes[0].total_requests, 2);
}

#[test]
fn a_range_that_is_needed_and_not_loaded_is_an_error() {
    let mut lake = Lake::default();
    let mut engine = lake.engine(&Rules::default(), 8_192);
    lake.apply(&mut engine, &batch(&[Event::at(BASE)], 0), 3);
    lake.finish(&mut engine);
    let mut engine = lake.engine(&Rules::default(), 8_192);
    let next = batch(&[Event::at(BASE)], 1);
    assert_eq!(engine.lookups(&next).len(), 4);
    assert_eq!(engine.apply(&next, 6).unwrap_err().kind(), ErrorKind::Invariant);
    lake.apply(&mut engine, &next, 6);
    assert_eq!(engine.quota_used("acme", WindowKind::Hour, Timestamp::from_millis(BASE)), Some(2));
    lake.finish(&mut engine);
    assert_eq!(lake.rows().months[0].total_requests, 2);
    assert_eq!(lake.ranges(Table::UsageMonth).len(), 1);
}

/// How many rows each range of minutes has, in their order.
fn sizes(lake: &Lake) -> Vec<u32> {
    let mut ranges = lake.ranges(Table::UsageMinute);
    ranges.sort_by(|a, b| a.first.cmp(&b.first));
    ranges.iter().map(|range| range.rows).collect()
}

#[test]
fn ranges_are_split_in_equal_parts_and_the_last_window_has_its_own() {
    let mut lake = Lake::default();
    let mut engine = lake.engine(&Rules::default(), 8);
    let events: Vec<Event> = (0..20).map(|n| Event::at(BASE + n * 2 * MINUTE)).collect();
    lake.apply(&mut engine, &batch(&events, 0), 60);
    lake.finish(&mut engine);
    assert_eq!(sizes(&lake), [7, 7, 5, 1]);
    let inside = [1, 3].map(|n| Event::at(BASE + n * MINUTE));
    lake.apply(&mut engine, &batch(&inside, 20), 66);
    lake.finish(&mut engine);
    assert_eq!(sizes(&lake), [5, 4, 7, 5, 1]);
    // A restart goes on with the last range, which is small.
    let mut engine = lake.engine(&Rules::default(), 64);
    lake.apply(&mut engine, &batch(&[Event::at(BASE + 39 * MINUTE)], 22), 69);
    lake.finish(&mut engine);
    assert_eq!(sizes(&lake), [5, 4, 7, 5, 2]);
}

/// What a commit writes does not grow with the day, and what is over lies in few files.
#[test]
fn ranges_are_small_while_they_change_and_large_once_they_are_over() {
    const TENANTS: u64 = 10;
    let mut lake = Lake::default();
    let mut engine = lake.engine(&Rules::default(), 640);
    let mut written = Vec::new();
    for minute in 0..600 {
        for half in 0..2 {
            let from = (minute * 2 + half) * TENANTS;
            let at = BASE + (minute * 2 + half) as i64 * MINUTE / 2;
            let event = |n| Event { tenant: format!("tenant-{n}"), ..Event::at(at) };
            let events: Vec<Event> = (0..TENANTS).map(event).collect();
            lake.apply(&mut engine, &batch(&events, from), (from + TENANTS) * 3);
            written.push(lake.commit_tables(&mut engine, &[Table::UsageMinute]));
        }
    }
    // Of a minute's rows half a range that is still small, once an hour later as they become final, some more as that is merged.
    let hour = |n: usize| written[n * 120..(n + 1) * 120].iter().sum::<usize>() as u64 / (60 * TENANTS);
    assert!((2..15).contains(&hour(2)), "{} rows written for each", hour(2));
    assert!(hour(9) <= hour(2) + 1, "{} rows written for each, and {} hours before", hour(9), hour(2));
    let sizes = sizes(&lake);
    let (over, changing): (Vec<u32>, Vec<u32>) = sizes.iter().partition(|rows| **rows > 100);
    assert!(over.iter().sum::<u32>() > 530 * TENANTS as u32, "{sizes:?}");
    assert!(over.len() <= 16 && changing.len() <= 20, "{sizes:?}");
}

#[test]
fn greatest_values_saturate() {
    let huge = Event {
        ms: 86_400_000.0,
        risk: Some(1.0),
        units: Some("1000000000000"),
        quota_cost: Some(i64::MAX),
        bytes: Some(i64::MAX),
        ..Event::at(BASE)
    };
    let (rows, _) = rows_of(&Rules::default(), &vec![huge; 3]);
    assert_eq!(rows.minutes[0].quota_attempted, i64::MAX);
    assert_eq!(rows.minutes[0].request_bytes, i64::MAX);
    assert_eq!(rows.minutes[0].response_time_us_sum, 3 * 86_400_000_000);
    assert_eq!(rows.minutes[0].risk_score_mean, Some(1.0));
}

// Any cuts, crashes and evictions.

fn rules() -> Rules {
    let mut rules = Rules { max_endpoints: 2, ..Rules::default() };
    rules.alerts.abuse_min_requests = 3;
    rules.alerts.spike_min_baseline = 0.02;
    rules.alerts.spike_ratio = 1.2;
    rules.alerts.spike_min_minutes = 2;
    rules.alerts.high_risk = 0.5;
    rules
}

prop_compose! {
    fn event()(
        tenant in 0..5u8, key in 0..4u8, endpoint in 0..4u8, method in 0..3usize, plan in 0..2usize,
        back in prop_oneof![8 => 0..4i64, 2 => 0..600i64], ahead in prop_oneof![9 => 0..2i64, 1 => 0..90i64],
        ms in 0..30_000i64, (status, response) in (0..6usize, 0..1_000_000u32), risk in 0..2_500_000u32, units in 0..4usize,
        quota in prop_oneof![Just(None), (0..30i64).prop_map(Some)], bytes in prop_oneof![Just(None), (0..1i64 << 40).prop_map(Some)],
    ) -> (i64, i64, Event) {
        (ahead, back, Event {
            tenant: format!("tenant-{tenant}"),
            key: format!("key-{key}"),
            endpoint: format!("/{endpoint}"),
            method: HttpMethod::ALL[method + 2],
            plan: ["free", "starter"][plan],
            time: ms,
            late: false,
            status: [200, 200, 429, 401, 404, 500][status],
            ms: f64::from(response) / 700.0,
            risk: (risk < 1_000_000).then_some(f64::from(risk) / 999_999.5),
            units: [None, Some("0.000001"), Some("2.5"), Some("0")][units],
            quota_cost: quota,
            bytes,
        })
    }
}

/// A stream that begins before the end of a month; one event in five is up to ten hours behind.
fn stream() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..120).prop_map(|drawn| {
        let mut now = BASE - 200 * MINUTE;
        let event = |(ahead, back, event): (i64, i64, Event)| {
            now += ahead * MINUTE;
            Event { time: now - back * MINUTE + event.time, late: back * MINUTE > 3_600_000 + event.time, ..event }
        };
        drawn.into_iter().map(event).collect()
    })
}

#[derive(Debug, Clone)]
enum Step {
    Apply(usize),
    /// A commit of these tables.
    Commit(Vec<Table>),
    /// One during which so many events are applied.
    CommitBeside(Vec<Table>, usize),
    /// A crash, after so many tables of a commit.
    Crash(usize),
    Evict(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let tables = || {
        prop_oneof![Just(Table::GOLD.to_vec()), prop::sample::subsequence(Table::GOLD.to_vec(), 1..=Table::GOLD.len()),]
    };
    prop_oneof![
        6 => (1..20usize).prop_map(Step::Apply),
        3 => tables().prop_map(Step::Commit),
        2 => (tables(), 1..20usize).prop_map(|(tables, n)| Step::CommitBeside(tables, n)),
        2 => (0..5usize).prop_map(Step::Crash),
        3 => (0..20_000usize).prop_map(Step::Evict),
    ]
}

/// The lake that a run of these steps leaves, and the alerts it told of.
fn run(events: &[Event], steps: &[Step], range_rows: usize) -> (Lake, Vec<AlertRow>) {
    let rules = rules();
    let (mut lake, mut told) = (Lake::default(), Vec::new());
    let mut engine = lake.engine(&rules, range_rows);
    let mut next = 0;
    let mut steps = steps.iter().cycle();
    // Steps without progress must not go round for ever.
    for _ in 0..1_000 {
        let step = if next < events.len() { steps.next().unwrap_or(&Step::Apply(7)) } else { break };
        let mut apply = |lake: &Lake, engine: &mut _, n: usize| {
            let end = (next + n).min(events.len());
            told.extend(lake.apply(engine, &batch(&events[next..end], next as u64), end as u64 * 3));
            next = end;
        };
        match step {
            Step::Apply(n) => apply(&lake, &mut engine, *n),
            Step::Commit(tables) => {
                lake.commit_tables(&mut engine, tables);
            }
            Step::CommitBeside(tables, n) => {
                let cut = lake.cut(&mut engine, tables);
                apply(&lake, &mut engine, *n);
                engine.evict(*n * 1_000);
                let names = lake.commit(&cut, usize::MAX);
                engine.committed(&names).unwrap();
            }
            Step::Crash(tables) => {
                let cut = lake.cut(&mut engine, &Table::GOLD);
                lake.commit(&cut, *tables);
                engine = lake.engine(&rules, range_rows);
                next = (engine.least_position() / 3) as usize;
            }
            Step::Evict(bytes) => engine.evict(*bytes),
        }
        assert!(engine.dirty_bytes(&Table::GOLD) <= engine.memory_bytes());
    }
    told.extend(lake.apply(&mut engine, &batch(&events[next..], next as u64), events.len() as u64 * 3));
    lake.finish(&mut engine);
    (lake, told)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_same_rows_whatever_happens(
        events in stream(), steps in prop::collection::vec(step(), 0..60), range_rows in 1..40usize,
    ) {
        let (expected, raised) = rows_of(&rules(), &events);
        let (lake, told) = run(&events, &steps, range_rows);
        prop_assert_eq!(&lake.rows(), &expected);
        // Each alert was told of, as it was when it was raised, and none that is not in the table.
        for alert in &raised {
            prop_assert!(told.contains(alert), "{alert:?}");
        }
        prop_assert!(told.iter().all(|alert| raised.contains(alert)));
        prop_assert_eq!(raised.len(), expected.alerts.len());
    }

    #[test]
    fn rows_are_what_plain_loops_make_of_the_events(events in stream()) {
        let (rows, _) = rows_of(&rules(), &events);
        naive::check(&rules(), &events, &rows);
    }
}

/// The same numbers from plain loops over all events.
mod naive {
    use std::collections::{BTreeMap, BTreeSet};

    use subscription_core::{Catalog, Rules, Timestamp, UsageRow, WindowKind};

    use crate::gold_support::{Event, MINUTE, Rows};

    type Key<'a> = (WindowKind, i64, &'a str);

    #[derive(Default)]
    struct Sums<'a> {
        events: Vec<(u64, &'a Event)>,
        limit: i64,
    }

    impl Sums<'_> {
        fn count(&self, of: impl Fn(&Event) -> bool) -> i64 {
            self.events.iter().filter(|(_, event)| of(event)).count() as i64
        }
        fn quota(&self, of: impl Fn(&Event) -> bool) -> i64 {
            self.events.iter().filter(|(_, event)| of(event)).map(|(_, event)| event.quota_cost.unwrap_or(1)).sum()
        }
        fn risk_mean(&self) -> Option<f64> {
            let risks: Vec<f64> =
                self.events.iter().filter_map(|(_, e)| e.risk).map(|r| (r * 1e6).round_ties_even()).collect();
            (!risks.is_empty()).then(|| risks.iter().sum::<f64>() / (risks.len() as f64 * 1e6))
        }
    }

    fn billed(event: &Event) -> bool {
        !matches!(event.status, 401 | 403 | 429 | 500..) && event.method.as_str() != "OPTIONS"
    }

    pub(crate) fn check(rules: &Rules, events: &[Event], rows: &Rows) {
        let catalog = Catalog::default();
        let mut windows: BTreeMap<Key<'_>, Sums<'_>> = BTreeMap::new();
        let mut alerts: BTreeMap<(Key<'_>, &str), (bool, Vec<&str>)> = BTreeMap::new();
        for (i, event) in events.iter().enumerate() {
            let time = Timestamp::from_millis(event.time);
            let terms = catalog.terms(&event.tenant, event.plan, time).unwrap();
            for (kind, limit) in WindowKind::ALL.into_iter().zip([terms.per_minute, terms.per_hour, terms.per_month]) {
                let key = (kind, kind.start(time).millis(), &*event.tenant);
                let sums = windows.entry(key).or_default();
                sums.events.push((i as u64 * 3, event));
                sums.limit = sums.limit.max(limit);
                let sums = &windows[&key];
                let (attempted, used) = (sums.quota(|_| true), sums.quota(|e| e.status != 429));
                let mut raise = |name, reasons| {
                    alerts.entry((key, name)).or_insert((event.late, reasons));
                };
                if kind != WindowKind::Minute {
                    if used > sums.limit {
                        raise("quota_exceeded", vec![]);
                    }
                    continue;
                }
                if attempted > sums.limit {
                    raise("over_limit", vec![]);
                }
                if event.late {
                    continue;
                }
                if attempted as f64 >= 0.8 * sums.limit as f64 {
                    raise("approaching_limit", vec![]);
                }
                let totals: Vec<f64> = (1..=5)
                    .filter_map(|m| windows.get(&(kind, key.1 - m * MINUTE, key.2)))
                    .map(|sums| sums.events.len() as f64)
                    .collect();
                let rule = &rules.alerts;
                let total = sums.events.len() as f64;
                let mean = totals.iter().sum::<f64>() / 5.0;
                let ratio = if totals.len() >= rule.spike_min_minutes {
                    total / mean.max(rule.spike_min_baseline * sums.limit as f64)
                } else {
                    0.0
                };
                let admitted = sums.count(|e| e.status != 429) as f64;
                let share = |n: i64| if n == 0 { 0.0 } else { n as f64 / admitted };
                let risk = 1.0
                    - (1.0 - 0.9 * sums.risk_mean().unwrap_or(0.0))
                        * (1.0 - 0.5 * (ratio / 10.0).min(1.0))
                        * (1.0 - 0.8 * share(sums.count(|e| e.status == 401)))
                        * (1.0 - 0.4 * share(sums.count(|e| e.status == 404)));
                let mut reasons = vec![];
                if (risk * 1e6).round_ties_even() / 1e6 >= rule.high_risk {
                    reasons.push("high_risk");
                }
                if ratio > rule.spike_ratio && attempted as f64 >= 0.5 * sums.limit as f64 {
                    reasons.push("velocity_spike");
                }
                if total >= rule.abuse_min_requests as f64 && !reasons.is_empty() {
                    raise("abuse_detected", reasons);
                }
            }
        }
        let found: BTreeMap<_, _> = rows
            .alerts
            .iter()
            .map(|row| {
                let key = (row.window_kind, row.window_start.millis(), &*row.tenant_id);
                ((key, row.alert_type.as_str()), (row.raised_late, row.reasons.clone()))
            })
            .collect();
        assert_eq!(found, alerts);

        let watermark = events.iter().map(|event| event.time).max().unwrap() - rules.lateness_ms;
        let all = rows.minutes.iter().map(|row| (WindowKind::Minute, row));
        let all = all.chain(rows.hours.iter().map(|row| (WindowKind::Hour, row)));
        let all: Vec<_> = all.chain(rows.months.iter().map(|row| (WindowKind::Month, row))).collect();
        assert_eq!(all.len(), windows.len());
        for (kind, row) in all {
            let sums = &windows[&(kind, row.window_start.millis(), &*row.tenant_id)];
            assert_eq!(row.is_final, row.window_end.millis() <= watermark);
            same(kind, row, sums);
        }

        type EndpointKey<'a> = (i64, &'a str, &'a str, &'a str, &'a str);
        let mut endpoints: BTreeMap<EndpointKey<'_>, (i64, i128)> = BTreeMap::new();
        let mut known: BTreeMap<(i64, &str), BTreeSet<&str>> = BTreeMap::new();
        let mut cost: BTreeMap<(i64, &str), i128> = BTreeMap::new();
        for event in events {
            let time = Timestamp::from_millis(event.time);
            let hour = WindowKind::Hour.start(time).millis();
            let names = known.entry((hour, &event.tenant)).or_default();
            if names.len() < rules.max_endpoints {
                names.insert(&event.endpoint);
            }
            let name = names.get(&*event.endpoint).copied().unwrap_or("(other)");
            let row = endpoints.entry((hour, &event.tenant, name, event.method.as_str(), event.plan)).or_default();
            row.0 += 1;
            if billed(event) {
                let price = catalog.terms(&event.tenant, event.plan, time).unwrap().price;
                let units = super::gold_support::units(event);
                row.1 += units.raw() * price.raw();
                *cost.entry((WindowKind::Month.start(time).millis(), &event.tenant)).or_default() +=
                    units.raw() * price.raw();
            }
        }
        let found: BTreeMap<_, _> = rows
            .endpoints
            .iter()
            .map(|row| {
                let (hour, method) = (row.window_start.millis(), row.http_method.as_str());
                let key = (hour, &*row.tenant_id, &*row.endpoint, method, &*row.subscription_plan);
                (key, (row.total_requests, row.cost.raw()))
            })
            .collect();
        assert_eq!(found, endpoints);
        for month in &rows.months {
            let expected = cost.get(&(month.window_start.millis(), &*month.tenant_id)).copied().unwrap_or(0);
            assert_eq!(month.cost.unwrap().raw(), expected);
        }
    }

    fn same(kind: WindowKind, row: &UsageRow, sums: &Sums<'_>) {
        let events = &sums.events;
        assert_eq!(row.total_requests, events.len() as i64);
        assert_eq!(row.throttled_requests, sums.count(|e| e.status == 429));
        assert_eq!(row.auth_failures, sums.count(|e| e.status == 401));
        assert_eq!(row.client_errors, sums.count(|e| e.status == 404));
        assert_eq!(row.server_errors, sums.count(|e| e.status == 500));
        assert_eq!(row.admitted_requests, row.total_requests - row.throttled_requests);
        assert_eq!(row.quota_attempted, sums.quota(|_| true));
        assert_eq!(row.quota_used, sums.quota(|e| e.status != 429));
        assert_eq!(row.billable_requests, sums.count(billed));
        let units = events.iter().filter(|(_, e)| billed(e)).map(|(_, e)| super::gold_support::units(e).raw());
        assert_eq!(row.billable_units.raw(), units.sum::<i128>());
        assert_eq!(row.late_requests, sums.count(|e| e.late));
        assert_eq!(row.request_bytes, events.iter().filter_map(|(_, e)| e.bytes).sum::<i64>());
        assert_eq!(row.response_bytes, events.iter().filter_map(|(_, e)| e.bytes).map(|b| b / 2).sum::<i64>());
        let micros = events.iter().map(|(_, e)| (e.ms * 1_000.0).round_ties_even() as i128);
        assert_eq!(row.response_time_us_sum, micros.sum::<i128>());
        let mut times: Vec<f64> = events.iter().map(|(_, e)| e.ms).collect();
        times.sort_by(f64::total_cmp);
        assert_eq!(row.response_time_ms_max, times[times.len() - 1]);
        for (percent, found) in
            [(50, row.response_time_ms_p50), (95, row.response_time_ms_p95), (99, row.response_time_ms_p99)]
        {
            let exact = times[(times.len() * percent).div_ceil(100) - 1];
            assert!((found - exact).abs() <= 0.02 * exact + 0.001, "p{percent} {found} for {exact}");
        }
        assert_eq!(row.risk_score_mean, sums.risk_mean());
        assert_eq!(row.risk_score_max, events.iter().filter_map(|(_, e)| e.risk).max_by(f64::total_cmp));
        let keys: BTreeSet<&str> = events.iter().map(|(_, e)| &*e.key).collect();
        assert_eq!(row.distinct_api_keys, keys.len() as i64);
        let newest = events.iter().max_by_key(|(offset, e)| (e.time, *offset)).unwrap().1;
        assert_eq!(&*row.subscription_plan, newest.plan);
        let used = if kind == WindowKind::Minute { row.quota_attempted } else { row.quota_used };
        assert_eq!(row.plan_limit, sums.limit);
        assert_eq!(row.over_limit, used > sums.limit);
        assert_eq!(row.over_limit_count, (used - sums.limit).max(0));
        assert_eq!(row.usage_ratio, used as f64 / sums.limit as f64);
        assert_eq!((row.first_offset, row.last_offset), (events[0].0, events[events.len() - 1].0));
    }
}
