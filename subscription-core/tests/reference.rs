//! The reference model on examples worked out by hand, and what must hold on any traffic.
#![cfg(feature = "testkit")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use subscription_core::testkit::reference::{Comparison, Reference, Snapshot};
use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig, cut};
use subscription_core::{
    AlertRow, AlertType, Catalog, Money, Overrides, Plan, Price, RecordBatch, RecordBatchBuilder, Routing, Rules,
    Severity, Timestamp, Units, UsageRow, WindowKind,
};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// 2026-01-05T08:00:00Z
const START: Timestamp = Timestamp::from_millis(1_767_600_000_000);

fn at(millis: i64) -> Timestamp {
    START.plus_millis(millis)
}

/// Records of partition 0 as they are written down.
struct Input {
    records: RecordBatchBuilder,
    next: u64,
    next_id: u128,
}

impl Input {
    fn new() -> Self {
        Self { records: RecordBatch::builder("usage".into(), 0, 0), next: 0, next_id: 1 }
    }

    fn payload(&mut self, ingestion: Timestamp, payload: &[u8]) -> &mut Self {
        self.records.push(self.next, ingestion, None, Some(payload));
        self.next += 1;
        self
    }

    /// A good event of tenant `acme` at `time` with `fields` in place of its own.
    fn event_at(&mut self, ingestion: Timestamp, time: Timestamp, fields: Value) -> &mut Self {
        let mut event = json!({
            "event_id": uuid::Uuid::from_u128(self.next_id).to_string(), "event_timestamp": time.to_string(),
            "tenant_id": "acme", "api_key_id": "key", "endpoint": "/a", "http_method": "GET",
            "response_status_code": 200, "response_time_ms": 5, "subscription_plan": "free",
        });
        self.next_id += 1;
        let fields: Map<String, Value> = serde_json::from_value(fields).unwrap();
        event.as_object_mut().unwrap().extend(fields);
        self.payload(ingestion, event.to_string().as_bytes())
    }

    /// One that is ingested when it happens.
    fn event(&mut self, millis: i64, fields: Value) -> &mut Self {
        self.event_at(at(millis), at(millis), fields)
    }

    fn reference(self) -> Reference {
        self.reference_with(&Rules::default(), &Catalog::default())
    }

    fn reference_with(self, rules: &Rules, catalog: &Catalog) -> Reference {
        let records = self.records.finish(self.next);
        Reference::of(&[records], rules, catalog, None)
    }

    fn tables(self) -> Snapshot {
        self.reference().tables
    }
}

fn of(rows: &[UsageRow], start: Timestamp) -> &UsageRow {
    rows.iter().find(|row| row.window_start == start).unwrap_or_else(|| panic!("no row at {start} in {rows:#?}"))
}

fn alerts(tables: &Snapshot, alert_type: AlertType) -> Vec<&AlertRow> {
    tables.alerts.iter().filter(|alert| alert.alert_type == alert_type).collect()
}

/// Offsets of the accepted records.
fn accepted(tables: &Snapshot) -> Vec<u64> {
    tables.silver.iter().flat_map(|rows| rows.events.rows().iter().map(|row| row.offset)).collect()
}

fn money(text: &str) -> Money {
    Money::parse_exact(text).unwrap()
}

#[test]
fn sixty_one_requests_of_a_plan_of_sixty() {
    let mut input = Input::new();
    for second in 0..60 {
        input.event(second * SECOND, json!({}));
    }
    input.event(59_999, json!({"response_status_code": 429}));
    input.event(MINUTE, json!({}));
    let tables = input.tables();

    let row = of(&tables.minute, START);
    assert_eq!((row.total_requests, row.admitted_requests, row.throttled_requests), (61, 60, 1));
    assert_eq!((row.quota_attempted, row.quota_used, row.plan_limit), (61, 60, 60));
    assert_eq!((row.over_limit, row.over_limit_count, row.usage_ratio), (true, 1, 61.0 / 60.0));
    assert_eq!((row.billable_requests, row.billable_units), (60, Units::from_raw(60_000_000)));
    assert_eq!((row.first_offset, row.last_offset), (0, 60));
    assert_eq!(of(&tables.minute, at(MINUTE)).total_requests, 1);
    let hour = of(&tables.hour, START);
    assert_eq!((hour.quota_used, hour.plan_limit, hour.over_limit), (61, 1_000, false));

    let [alert] = alerts(&tables, AlertType::OverLimit)[..] else { panic!("{:#?}", tables.alerts) };
    assert_eq!((alert.total_requests, alert.plan_limit, alert.over_limit_count), (61, 60, 1));
    // As Python's `uuid.uuid5(uuid.NAMESPACE_URL, "alert:acme/over_limit/1min/2026-01-05T08:00:00Z")` has it.
    assert_eq!(alert.alert_id.to_string(), "136ec490-b325-5cd9-9139-1b75ccb143ac");
    assert_eq!((alert.severity, alert.raised_late, alert.risk), (Severity::Critical, false, None));
    assert_eq!(alerts(&tables, AlertType::ApproachingLimit).len(), 1);
    assert_eq!(tables.alerts.len(), 2);
}

#[test]
fn approaching_begins_at_eighty_percent() {
    for (events, alerts) in [(47, 0), (48, 1)] {
        let mut input = Input::new();
        for second in 0..events {
            input.event(second * SECOND, json!({}));
        }
        assert_eq!(input.tables().alerts.len(), alerts, "{events} events");
    }
}

#[test]
fn late_events_count_but_raise_only_what_is_over() {
    let mut input = Input::new();
    input.event_at(at(HOUR), START, json!({}));
    for second in 1..61 {
        input.event_at(at(HOUR + second * SECOND + 1), at(second * SECOND - 1), json!({}));
    }
    let tables = input.tables();
    let row = of(&tables.minute, START);
    // The first came exactly an hour after it happened: not late.
    assert_eq!((row.total_requests, row.late_requests, row.is_final), (61, 60, false));
    let [alert] = &tables.alerts[..] else { panic!("{:#?}", tables.alerts) };
    assert_eq!((alert.alert_type, alert.raised_late), (AlertType::OverLimit, true));
}

#[test]
fn a_window_is_final_once_the_watermark_has_reached_its_end() {
    let mut input = Input::new();
    input.event(0, json!({})).event(MINUTE, json!({})).event(HOUR + MINUTE, json!({}));
    let reference = input.reference();
    assert_eq!(reference.partitions[&0].watermark, Some(at(MINUTE)));
    let tables = reference.tables;
    let finals: Vec<bool> = tables.minute.iter().map(|row| row.is_final).collect();
    assert_eq!(finals, [true, false, false]);
    assert!(tables.hour.iter().chain(&tables.month).all(|row| !row.is_final));
}

#[test]
fn duplicates_around_the_watermark() {
    let id = |n: u128| json!({"event_id": uuid::Uuid::from_u128(n << 64).to_string()});
    let now = at(3 * HOUR);
    let mut input = Input::new();
    for (millis, id) in [
        (0, id(1)),           // 0: accepted
        (0, id(1)),           // 1: the same again
        (10 * MINUTE, id(1)), // 2: restamped, both after the watermark: memory knows it
        (0, id(2)),           // 3: accepted
        (HOUR, id(3)),        // 4: accepted; the watermark is now at 0
        (20 * MINUTE, id(2)), // 5: the accepted one is at the watermark, so not before it: duplicate
        (2 * HOUR, id(4)),    // 6: accepted; the watermark is now at 1 h
        (HOUR, id(3)),        // 7: at the watermark, as the accepted one is: duplicate
        (90 * MINUTE, id(1)), // 8: after the watermark, the accepted one before it: forgotten, accepted
        (0, id(1)),           // 9: before the watermark: looked up at its very time, duplicate
        (MINUTE, id(1)),      // 10: before it, at another time: accepted
        (MINUTE, id(1)),      // 11: as 10: duplicate
        (95 * MINUTE, id(1)), // 12: 8 is after the watermark: duplicate
    ] {
        input.event_at(now, at(millis), id);
    }
    input.event_at(now, START, json!({"event_id": uuid::Uuid::from_u128(1 << 64).to_string(), "tenant_id": "other"}));
    let upper = json!({"event_id": uuid::Uuid::from_u128(0xabcd << 64).to_string().to_uppercase()});
    input.event_at(now, at(2 * HOUR), upper); // 14
    input.event_at(now, at(2 * HOUR), id(0xabcd)); // 15: the same 128 bits
    let reference = input.reference();
    assert_eq!(accepted(&reference.tables), [0, 3, 4, 6, 8, 10, 13, 14]);
    let counts = reference.partitions[&0].counts;
    assert_eq!((counts.read, counts.accepted, counts.duplicates, counts.quarantined), (16, 8, 8, 0));
}

#[test]
fn what_is_rejected_neither_claims_an_id_nor_moves_the_watermark() {
    let id = json!({"event_id": uuid::Uuid::from_u128(7).to_string(), "subscription_plan": "gold"});
    let mut good = id.clone();
    good["subscription_plan"] = "free".into();
    let mut input = Input::new();
    input.next_id = 100;
    input.event(0, json!({})).event(5 * HOUR, id).event_at(at(5 * HOUR), at(MINUTE), good.clone());
    // A duplicate with a later time moves nothing either.
    good["event_timestamp"] = at(30 * MINUTE).to_string().into();
    input.event_at(at(5 * HOUR), at(30 * MINUTE), good);
    let reference = input.reference();
    assert_eq!(accepted(&reference.tables), [0, 2]);
    assert_eq!(reference.partitions[&0].watermark, Some(at(MINUTE - HOUR)));
    let quarantine = reference.tables.quarantine.unwrap();
    assert_eq!(quarantine[0].errors, ["unknown_plan:subscription_plan"]);
    assert_eq!(quarantine[0].tenant_id.as_deref(), Some("acme"));
}

#[test]
fn business_rules_at_their_bounds() {
    let day = 24 * HOUR;
    let velocities = |minute: Value, five: Value, hour: Value| json!({"velocity_last_1min": minute, "velocity_last_5min": five, "velocity_last_1hour": hour});
    let now = START;
    for (time, fields, errors) in [
        (at(5 * SECOND), json!({}), &[][..]),
        (at(5 * SECOND + 1), json!({}), &["event_after_ingestion:event_timestamp"]),
        (at(-35 * day), json!({}), &[]),
        (at(-35 * day - 1), json!({}), &["event_too_old:event_timestamp"]),
        (START, velocities(3.into(), 3.into(), 3.into()), &[]),
        (START, velocities(4.into(), 3.into(), 2.into()), &["implausible_velocity:velocity_last_1min"]),
        (START, velocities(2.into(), 3.into(), 2.into()), &["implausible_velocity:velocity_last_5min"]),
        (START, velocities(4.into(), Value::Null, 2.into()), &[]),
        (START, velocities(Value::Null, Value::Null, 10_000_000.into()), &[]),
        (START, velocities(Value::Null, Value::Null, 10_000_001.into()), &["implausible_velocity:velocity_last_1hour"]),
        (
            at(-36 * day),
            json!({"subscription_plan": "gold", "velocity_last_1min": 10_000_001}),
            &[
                "event_too_old:event_timestamp",
                "implausible_velocity:velocity_last_1min",
                "unknown_plan:subscription_plan",
            ],
        ),
    ] {
        let mut input = Input::new();
        input.event_at(now, time, fields.clone());
        let tables = input.tables();
        let got: Vec<String> = tables.quarantine.unwrap().into_iter().flat_map(|row| row.errors).collect();
        assert_eq!(got, errors, "{time} {fields}");
    }
}

#[test]
fn a_record_in_another_partition_than_its_tenants_is_misrouted() {
    let records = || {
        let mut input = Input::new();
        input.event(0, json!({}));
        [input.records.finish(1)]
    };
    let mut found = 0;
    for partitions in 1..9 {
        let misrouted = subscription_core::murmur2_partition(b"acme", partitions) != 0;
        let tables =
            Reference::of(&records(), &Rules::default(), &Catalog::default(), Some(Routing::murmur2(partitions)))
                .tables;
        let errors: Vec<String> = tables.quarantine.unwrap().into_iter().flat_map(|row| row.errors).collect();
        assert_eq!(errors, if misrouted { vec!["misrouted:tenant_id"] } else { vec![] });
        found += usize::from(misrouted);
    }
    assert!((1..8).contains(&found));
    let unchecked = Reference::of(&records(), &Rules::default(), &Catalog::default(), None).tables;
    assert_eq!(accepted_rows(&unchecked), 1);
}

#[test]
fn dead_letters() {
    let mut input = Input::new();
    input.payload(START, b"[]").payload(START, b"{").payload(START, b"\xff").payload(START, b"");
    input.records.push_truncated(4, START, Some(b"key"), Some(&[b' '; 5_000]), 16 * 1024 * 1024 + 1);
    input.next = 5;
    input.event(0, json!({}));
    let reference = input.reference();
    let dead = reference.tables.dead_letter.unwrap();
    let codes: Vec<&str> = dead.iter().map(|row| &*row.code).collect();
    assert_eq!(codes, ["not_an_object", "not_json", "invalid_utf8", "empty_payload", "too_large"]);
    assert_eq!(dead[4].record.payload.as_ref().map(|payload| payload.len()), Some(4_096));
    assert_eq!(dead[4].payload_len, 16 * 1024 * 1024 + 1);
    assert_eq!((reference.tables.bronze.len(), reference.tables.bronze[0].offset), (1, 5));
}

#[test]
fn further_endpoints_are_other() {
    let mut input = Input::new();
    for (endpoint, method, plan, status) in [
        ("/a", "GET", "free", 200),
        ("/b", "GET", "free", 200),
        ("/c", "GET", "free", 200),
        ("/a", "POST", "free", 500),
        ("/d", "GET", "free", 503),
        ("/d", "GET", "pro", 200),
    ] {
        let fields = json!({
            "endpoint": endpoint, "http_method": method, "subscription_plan": plan, "response_status_code": status,
        });
        input.event(0, fields);
    }
    input.event(HOUR, json!({"endpoint": "/c"}));
    let rules = Rules { max_endpoints: 2, ..Rules::default() };
    let mut tables = input.reference_with(&rules, &Catalog::default()).tables;
    tables
        .endpoint
        .sort_by_key(|row| (row.window_start, row.endpoint.clone(), row.http_method, row.subscription_plan.clone()));
    let rows: Vec<_> = tables
        .endpoint
        .iter()
        .map(|row| {
            let counts = (row.total_requests, row.billable_requests, row.server_errors);
            (row.window_start, &*row.endpoint, row.http_method.as_str(), &*row.subscription_plan, counts)
        })
        .collect();
    assert_eq!(
        rows,
        [
            (START, "(other)", "GET", "free", (2, 1, 1)),
            (START, "(other)", "GET", "pro", (1, 1, 0)),
            (START, "/a", "GET", "free", (1, 1, 0)),
            (START, "/a", "POST", "free", (1, 0, 1)),
            (START, "/b", "GET", "free", (1, 1, 0)),
            (at(HOUR), "/c", "GET", "free", (1, 1, 0)),
        ]
    );
}

#[test]
fn a_downgrade_takes_nothing_back() {
    let mut input = Input::new();
    input.event(10 * SECOND, json!({"subscription_plan": "pro"}));
    input.event(20 * SECOND, json!({"subscription_plan": "free"}));
    input.event(15 * SECOND, json!({"subscription_plan": "starter"}));
    let tables = input.tables();
    let row = of(&tables.minute, START);
    assert_eq!((row.plan_limit, &*row.subscription_plan), (1_000, "free"));
    assert_eq!(of(&tables.hour, START).plan_limit, 50_000);
    assert_eq!(tables.month[0].plan_limit, 5_000_000);

    // Of the same event time the greater offset counts.
    let mut input = Input::new();
    input.event(0, json!({"subscription_plan": "starter"})).event(0, json!({"subscription_plan": "free"}));
    assert_eq!(&*input.tables().minute[0].subscription_plan, "free");
}

#[test]
fn months_end_at_midnight() {
    let millis = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().map(Timestamp::from).unwrap();
    let mut input = Input::new();
    for time in ["2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00.000Z", "2028-02-29T12:00:00Z"] {
        input.event_at(millis(time), millis(time), json!({}));
    }
    let months: Vec<(String, String)> =
        input.tables().month.iter().map(|row| (row.window_start.to_string(), row.window_end.to_string())).collect();
    let expected = [
        ("2026-12-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"),
        ("2027-01-01T00:00:00.000Z", "2027-02-01T00:00:00.000Z"),
        ("2028-02-01T00:00:00.000Z", "2028-03-01T00:00:00.000Z"),
    ];
    assert_eq!(months, expected.map(|(start, end)| (start.to_owned(), end.to_owned())));
}

#[test]
fn money_is_exact_and_rounded_once() {
    let pro = |units: &str| {
        let units: Value = serde_json::from_str(units).unwrap();
        json!({"subscription_plan": "pro", "billable_units": units})
    };
    for (units, cost, due) in [
        (&["2.5", "0.000001"][..], "0.0010000004", "0"),
        (&["312.5"], "0.125", "0.12"),
        (&["337.5"], "0.135", "0.14"),
        (&["312.5", "0.000001"], "0.1250000004", "0.13"),
        // Each rounded for itself would be nothing.
        (&["10", "10", "10"], "0.012", "0.01"),
        (&["1000000000000"], "400000000", "400000000"),
    ] {
        let mut input = Input::new();
        for units in units {
            input.event(0, pro(units));
        }
        let tables = input.tables();
        let month = &tables.month[0];
        assert_eq!((month.cost, month.amount_due), (Some(money(cost)), Some(money(due))), "{units:?}");
        assert_eq!(month.currency.as_deref(), Some("USD"));
        assert_eq!(tables.endpoint.iter().map(|row| row.cost.raw()).sum::<i128>(), money(cost).raw());
        assert_eq!((tables.minute[0].cost, tables.hour[0].amount_due), (None, None));
    }
}

#[test]
fn an_event_is_priced_by_the_terms_at_its_time() {
    let plan = |price| Plan::new(10, 10, 10, Price::parse_exact(price).unwrap());
    let catalog = Catalog::builder()
        .plan("pro", plan("1"))
        .plan_from("pro", at(MINUTE), plan("3"))
        .tenant("cheap", Overrides { price: Price::parse_exact("0.5"), ..Overrides::default() })
        .currency("JPY", 0)
        .build()
        .unwrap();
    let units = json!({"subscription_plan": "pro", "billable_units": 500});
    let mut cheap = units.clone();
    cheap["tenant_id"] = "cheap".into();
    let mut input = Input::new();
    input.event(MINUTE, units.clone()).event(MINUTE - 1, units).event(MINUTE, cheap);
    let tables = input.reference_with(&Rules::default(), &catalog).tables;
    let mut costs: Vec<_> = tables.month.iter().map(|row| (&*row.tenant_id, row.cost, row.amount_due)).collect();
    costs.sort();
    let due = |cost, due| (Some(money(cost)), Some(money(due)));
    let ((acme, acme_due), (cheap, cheap_due)) = (due("2", "2"), due("0.25", "0"));
    assert_eq!(costs, [("acme", acme, acme_due), ("cheap", cheap, cheap_due)]);
    assert_eq!(tables.month[0].currency.as_deref(), Some("JPY"));
}

#[test]
fn what_is_not_billed() {
    for (status, method, billed) in [
        (200, "GET", true),
        (404, "GET", true),
        (401, "GET", false),
        (403, "GET", false),
        (429, "GET", false),
        (500, "GET", false),
        (599, "GET", false),
        (200, "OPTIONS", false),
        (200, "HEAD", true),
    ] {
        let mut input = Input::new();
        input.event(0, json!({"response_status_code": status, "http_method": method, "billable_units": 3}));
        let row = &input.tables().minute[0];
        let units = if billed { 3_000_000 } else { 0 };
        assert_eq!((row.billable_requests, row.billable_units.raw()), (i64::from(billed), units), "{method} {status}");
    }
}

#[test]
fn quotas_count_what_was_used() {
    let mut input = Input::new();
    input.event(0, json!({"quota_cost": 1_000}));
    input.event(1, json!({"quota_cost": 5_000, "response_status_code": 429}));
    let tables = input.tables();
    let hour = &tables.hour[0];
    assert_eq!((hour.quota_attempted, hour.quota_used, hour.usage_ratio), (6_000, 1_000, 1.0));
    assert!(alerts(&tables, AlertType::QuotaExceeded).is_empty());
    assert_eq!(tables.minute[0].over_limit_count, 5_940);

    let mut input = Input::new();
    input.event(0, json!({"quota_cost": 1_000})).event(1, json!({"quota_cost": 9_001}));
    let tables = input.tables();
    let quotas: Vec<_> = alerts(&tables, AlertType::QuotaExceeded)
        .into_iter()
        .map(|alert| (alert.window_kind, alert.quota_used, alert.plan_limit, alert.over_limit_count))
        .collect();
    assert_eq!(quotas, [(WindowKind::Hour, 10_001, 1_000, 9_001), (WindowKind::Month, 10_001, 10_000, 1)]);
    let month = alerts(&tables, AlertType::QuotaExceeded)[1].alert_id.to_string();
    // uuid5 of "alert:acme/quota_exceeded/1month/2026-01-01T00:00:00Z"
    assert_eq!(month, "bbb244b1-55c6-5524-9cbc-fab15dddf5c4");
}

#[test]
fn abuse_by_velocity() {
    let mut input = Input::new();
    // Two events in each of three of the five minutes before; and five in the sixth before, which does not count.
    for minute in [-6, -5, -3, -1] {
        for second in 0..if minute == -6 { 5 } else { 2 } {
            input.event_at(START, at(minute * MINUTE + second * SECOND), json!({}));
        }
    }
    for second in 0..40 {
        input.event(second * SECOND, json!({}));
    }
    let tables = input.tables();
    let [alert] = alerts(&tables, AlertType::AbuseDetected)[..] else { panic!("{:#?}", tables.alerts) };
    // The mean of the five is 1.2, less than 10 % of the limit of 60; 30 ÷ 6 = 5. Risk = 1 − (1 − 0.5 × 5 ÷ 10).
    assert_eq!((alert.spike_ratio, alert.risk, &alert.reasons[..]), (Some(5.0), Some(0.25), &["velocity_spike"][..]));
    assert_eq!((alert.severity, alert.total_requests, alert.over_limit_count), (Severity::Warning, 40, 0));
}

#[test]
fn a_quiet_customers_first_busy_minute_is_no_abuse() {
    let mut input = Input::new();
    for minute in [-5, -3] {
        input.event_at(START, at(minute * MINUTE), json!({}));
    }
    for second in 0..59 {
        input.event(second * SECOND, json!({}));
    }
    assert!(alerts(&input.tables(), AlertType::AbuseDetected).is_empty());
}

#[test]
fn abuse_by_risk() {
    // Of 30 events: status of the first, of the others; risk score of all; risk by hand.
    for (first, of, rest, score, risk) in [
        // 1 − (1 − 0.8)
        (401, 30, 200, None, Some(0.8)),
        // 1 − (1 − 0.9 × 0.8)
        (200, 30, 200, Some(0.8), Some(0.72)),
        // 1 − (1 − 0.9 × 0.5)(1 − 0.8 ÷ 3) = 1 − 0.55 × 0.7333… = 0.596666…
        (403, 10, 200, Some(0.5), None),
        // 1 − (1 − 0.9 × 0.5)(1 − 0.4) = 0.67
        (404, 30, 200, Some(0.5), None),
        // 1 − (1 − 0.9 × 0.6)(1 − 0.4 × 2 ÷ 3) = 1 − 0.46 × 0.7333… = 0.662666…; with 0.7: 0.728666…
        (404, 20, 200, Some(0.6), None),
        (404, 20, 200, Some(0.7), Some(0.728667)),
        // 10 are admitted, all of them refused: 1 − (1 − 0.9 × 0.5)(1 − 0.8)
        (401, 10, 429, Some(0.5), Some(0.89)),
    ] {
        let mut input = Input::new();
        for n in 0..30 {
            let status = if n < of { first } else { rest };
            let mut fields = json!({"response_status_code": status});
            if let Some(score) = score {
                fields["risk_score"] = score.into();
            }
            input.event(n * SECOND, fields);
        }
        let tables = input.tables();
        let raised = alerts(&tables, AlertType::AbuseDetected);
        assert_eq!(raised.first().map(|alert| alert.risk), risk.map(Some), "{first} {of} {score:?}");
        if let Some(alert) = raised.first() {
            assert_eq!((alert.severity, &alert.reasons[..]), (Severity::Critical, &["high_risk"][..]));
            assert_eq!(alert.spike_ratio, Some(0.0));
        }
    }
}

#[test]
fn measures_of_a_window() {
    let mut input = Input::new();
    for n in 1..=100 {
        let mut fields = json!({
            "response_time_ms": 101 - n, "api_key_id": format!("key-{}", n % 7), "request_size_bytes": n,
        });
        if n > 98 {
            fields["risk_score"] = json!(f64::from(n) / 1_000.0);
        }
        input.event(i64::from(n) * 500, fields);
    }
    let tables = input.tables();
    let row = &tables.minute[0];
    let times =
        (row.response_time_ms_p50, row.response_time_ms_p95, row.response_time_ms_p99, row.response_time_ms_max);
    assert_eq!(times, (50.0, 95.0, 99.0, 100.0));
    assert_eq!((row.response_time_us_sum, row.distinct_api_keys), (5_050_000, 7));
    assert_eq!((row.request_bytes, row.response_bytes), (5_050, 0));
    assert_eq!((row.risk_score_mean, row.risk_score_max), (Some(0.0995), Some(0.1)));

    let mut input = Input::new();
    // Half microseconds go to the even one: 0 + 2 + 2.
    for ms in [0.0005, 0.0015, 0.0025] {
        input.event(0, json!({"response_time_ms": ms}));
    }
    let row = &input.tables().minute[0];
    assert_eq!((row.response_time_us_sum, row.risk_score_mean), (4, None));
    assert_eq!((row.response_time_ms_p50, row.response_time_ms_p99), (0.0015, 0.0025));
}

#[test]
fn silver_has_all_groups() {
    let mut input = Input::new();
    let labels = r#"{"env":"prod","ü":"\"x\""}"#;
    let payload = format!(
        r#"{{"event_id":"00000000-0000-0000-0000-00000000000A","event_timestamp":"2026-01-05T09:30:00.123999+01:30",
        "tenant_id":"acme","api_key_id":"k","endpoint":"/a","http_method":"PUT","response_status_code":2e2,
        "response_time_ms":1.5,"subscription_plan":"pro","risk_score":0.25,"country_code":"DE","emitter_id":"gw",
        "emitter_sequence":4,"billable_units":0.1234565,"quota_cost":3,"labels":{labels},"user_id":"J\u00fcrgen"}}"#
    );
    input.payload(at(HOUR + 124), payload.as_bytes());
    let tables = input.tables();
    let events = &tables.silver[0].events;
    let row = &events.rows()[0];
    assert_eq!((row.event_timestamp, row.ingestion_timestamp, row.is_late), (at(123), at(HOUR + 124), true));
    assert_eq!((events.text(row.tenant_id), events.opt_text(row.user_id)), ("acme", Some("Jürgen")));
    assert_eq!((row.response_status_code, row.risk_score, row.quota_cost), (200, Some(0.25), Some(3)));
    assert_eq!(row.billable_units, Some(Units::from_raw(123_456)));
    let labels: Vec<_> = events.labels(row).unwrap().collect();
    assert_eq!(labels, [("env", "prod"), ("ü", "\"x\"")]);
}

fn trouble(seed: u64, partitions: u32, framing: Framing) -> (TrafficConfig, Vec<RecordBatch>) {
    let config = TrafficConfig { events: 2_000, ..TrafficConfig::trouble(seed) };
    let batches = Traffic::new(config.clone()).to_batches(partitions, framing, 200);
    (config, batches)
}

#[test]
fn trouble_has_every_alert_and_every_verdict() {
    let mut alerts = BTreeSet::new();
    let mut reasons = BTreeSet::new();
    let (mut duplicates, mut late, mut over_all, mut finals) = (0, 0, 0, 0);
    for seed in 0..4 {
        let config = TrafficConfig::trouble(seed);
        let batches = Traffic::new(config.clone()).to_batches(2, Framing::Topic { gaps: 0.1 }, 200);
        let rules = Rules { max_endpoints: 5, ..Rules::default() };
        let reference = Reference::of(&batches, &rules, &config.catalog, Some(Routing::murmur2(2)));
        duplicates += reference.partitions.values().map(|end| end.counts.duplicates).sum::<u64>();
        let tables = reference.tables;
        late += tables.month.iter().map(|row| row.late_requests).sum::<i64>();
        over_all += tables.endpoint.iter().filter(|row| &*row.endpoint == "(other)").count();
        finals += tables.minute.iter().filter(|row| row.is_final).count();
        assert!(tables.month.iter().map(|row| row.window_start).collect::<BTreeSet<_>>().len() > 1);
        for alert in tables.alerts {
            alerts.insert((alert.alert_type, alert.window_kind, alert.raised_late));
            reasons.insert((alert.reasons, alert.severity));
        }
    }
    for (alert_type, kind, late) in [
        (AlertType::ApproachingLimit, WindowKind::Minute, false),
        (AlertType::OverLimit, WindowKind::Minute, false),
        (AlertType::OverLimit, WindowKind::Minute, true),
        (AlertType::AbuseDetected, WindowKind::Minute, false),
        (AlertType::QuotaExceeded, WindowKind::Hour, false),
        (AlertType::QuotaExceeded, WindowKind::Hour, true),
        (AlertType::QuotaExceeded, WindowKind::Month, false),
    ] {
        assert!(alerts.contains(&(alert_type, kind, late)), "no {alert_type:?} of {kind}, late: {late}");
    }
    for expected in [
        (vec!["velocity_spike"], Severity::Warning),
        (vec!["velocity_spike"], Severity::Critical),
        (vec!["high_risk"], Severity::Critical),
        (vec!["high_risk", "velocity_spike"], Severity::Critical),
    ] {
        assert!(reasons.contains(&expected), "no abuse like {expected:?}");
    }
    assert!(
        duplicates > 200 && late > 500 && over_all > 100 && finals > 100,
        "{duplicates} {late} {over_all} {finals}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn nothing_is_lost(seed: u64, partitions in 1..5u32) {
        let (config, batches) = trouble(seed, partitions, Framing::Topic { gaps: 0.1 });
        let reference = Reference::of(&batches, &Rules::default(), &config.catalog, Some(Routing::murmur2(partitions)));
        let tables = &reference.tables;
        prop_assert!(reference.partitions.values().all(|end| end.counts.balanced()));
        let sum = |count: fn(&subscription_core::Counts) -> u64| {
            reference.partitions.values().map(|end| count(&end.counts)).sum::<u64>()
        };
        prop_assert_eq!(sum(|counts| counts.read), config.events);
        prop_assert_eq!(sum(|counts| counts.bronze()), tables.bronze.len() as u64);
        prop_assert_eq!(sum(|counts| counts.quarantined), tables.quarantine.as_ref().unwrap().len() as u64);
        let accepted = sum(|counts| counts.accepted);
        prop_assert_eq!(accepted, accepted_rows(tables));
        for rows in [&tables.minute, &tables.hour, &tables.month] {
            prop_assert_eq!(accepted, rows.iter().map(|row| row.total_requests as u64).sum::<u64>());
        }
        prop_assert_eq!(accepted, tables.endpoint.iter().map(|row| row.total_requests as u64).sum::<u64>());
        let cost = |rows: &mut dyn Iterator<Item = Money>| rows.map(Money::raw).sum::<i128>();
        prop_assert_eq!(
            cost(&mut tables.endpoint.iter().map(|row| row.cost)),
            cost(&mut tables.month.iter().filter_map(|row| row.cost))
        );
    }

    #[test]
    fn no_cut_changes_a_row(seed: u64, lengths in prop::collection::vec(1..200usize, 1..10)) {
        let (config, batches) = trouble(seed, 3, Framing::Topic { gaps: 0.1 });
        let mut lengths = lengths.into_iter().cycle();
        let mut parts = cut(&batches, || lengths.next().unwrap());
        parts.reverse();
        let of = |batches: &[RecordBatch]| Reference::of(batches, &Rules::default(), &config.catalog, Some(Routing::murmur2(3)));
        let (whole, parts) = (of(&batches), of(&parts));
        Comparison::exact().compare(&parts.tables, &whole.tables).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(parts.partitions, whole.partitions);
    }

    #[test]
    fn the_number_of_partitions_changes_no_row(seed: u64) {
        let config = TrafficConfig { events: 2_000, restamped_share: 0.0, ..TrafficConfig::trouble(seed) };
        let of = |partitions| {
            let batches = Traffic::new(config.clone()).to_batches(partitions, Framing::File, 200);
            Reference::of(&batches, &Rules::default(), &config.catalog, None).tables
        };
        let one = of(1);
        for other in [of(3), of(8)] {
            let compared = Comparison::with_reference().ignoring_coordinates().compare(&other, &one);
            compared.map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(Comparison::exact().compare(&other, &one).is_err());
        }
    }
}

fn accepted_rows(tables: &Snapshot) -> u64 {
    tables.silver.iter().map(|rows| rows.events.rows().len() as u64).sum()
}
