//! A comparison finds what differs, says where, and forgives what may differ.
#![cfg(feature = "testkit")]

use std::sync::LazyLock;

use subscription_core::testkit::reference::{Comparison, Differences, Reference, Snapshot};
use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig};
use subscription_core::{AlertType, EventBatch, HttpMethod, Money, Routing, Rules, Severity, Table, Timestamp, Units};

static TABLES: LazyLock<Snapshot> = LazyLock::new(|| {
    let config = TrafficConfig { events: 2_000, ..TrafficConfig::trouble(1) };
    let batches = Traffic::new(config.clone()).to_batches(2, Framing::Topic { gaps: 0.1 }, 100);
    Reference::of(&batches, &Rules::default(), &config.catalog, Some(Routing::murmur2(2))).tables
});

/// What `comparison` finds where the tables were changed so.
fn find(comparison: Comparison, change: impl FnOnce(&mut Snapshot)) -> Result<(), Differences> {
    let mut got = TABLES.clone();
    change(&mut got);
    comparison.compare(&got, &TABLES)
}

#[test]
fn the_same_is_the_same_in_any_order() {
    for comparison in [Comparison::exact(), Comparison::with_reference(), Comparison::exact().ignoring_coordinates()] {
        find(comparison, |tables| {
            tables.bronze.reverse();
            tables.silver.reverse();
            tables.minute.reverse();
            tables.alerts.reverse();
            tables.minute[0].state = vec![1, 2, 3];
        })
        .unwrap();
    }
}

#[test]
fn every_change_is_found_and_named() {
    type Change = fn(&mut Snapshot);
    let changes: &[(Table, &str, Change)] = &[
        (Table::Bronze, "payload", |t| t.bronze[3].payload = Some("{}".into())),
        (Table::Bronze, "record_timestamp", |t| t.bronze[3].timestamp = Timestamp::EPOCH),
        (Table::Bronze, "key", |t| t.bronze[3].key = None),
        (Table::Bronze, "headers", |t| t.bronze[3].headers.push(("a".into(), None))),
        (Table::Bronze, "the row", |t| drop(t.bronze.pop())),
        (Table::Bronze, "the row", |t| t.bronze.push(t.bronze[0].clone())),
        (Table::DeadLetter, "code", |t| t.dead_letter.as_mut().unwrap()[0].code = "other".into()),
        (Table::DeadLetter, "payload_len", |t| t.dead_letter.as_mut().unwrap()[0].payload_len += 1),
        (Table::Quarantine, "quality_check_errors", |t| t.quarantine.as_mut().unwrap()[0].errors.clear()),
        (Table::Quarantine, "event_id", |t| t.quarantine.as_mut().unwrap()[0].event_id = Some("x".into())),
        (Table::Quarantine, "tenant_id", |t| t.quarantine.as_mut().unwrap()[0].tenant_id = Some("x".into())),
        (Table::Silver, "the row", |t| t.silver.iter_mut().for_each(|rows| rows.partition = 0)),
        (Table::Silver, "the row", |t| t.silver.clear()),
        (Table::Silver, "user_agent", |t| t.silver[0].events = rebuilt(&t.silver[0].events)),
        (Table::UsageMinute, "is_final", |t| t.minute[0].is_final ^= true),
        (Table::UsageMinute, "total_requests", |t| t.minute[0].total_requests += 1),
        (Table::UsageMinute, "billable_units", |t| t.minute[0].billable_units = Units::from_raw(1)),
        (Table::UsageMinute, "response_time_us_sum", |t| t.minute[0].response_time_us_sum += 1),
        (Table::UsageMinute, "response_time_ms_max", |t| next_up(&mut t.minute[0].response_time_ms_max)),
        (Table::UsageMinute, "usage_ratio", |t| next_up(&mut t.minute[0].usage_ratio)),
        (Table::UsageMinute, "risk_score_mean", |t| t.minute[0].risk_score_mean = Some(0.123)),
        (Table::UsageMinute, "distinct_api_keys", |t| t.minute[0].distinct_api_keys += 1),
        (Table::UsageMinute, "response_time_ms_p50", |t| t.minute[0].response_time_ms_p50 *= 1.03),
        (Table::UsageMinute, "subscription_plan", |t| t.minute[0].subscription_plan = "gold".into()),
        (Table::UsageMinute, "last_offset", |t| t.minute[0].last_offset += 1),
        (Table::UsageHour, "over_limit_count", |t| t.hour[0].over_limit_count += 1),
        (Table::UsageHour, "the row", |t| drop(t.hour.pop())),
        (Table::UsageMonth, "cost", |t| t.month[0].cost = Some(Money::from_raw(7))),
        (Table::UsageMonth, "amount_due", |t| t.month[0].amount_due = None),
        (Table::UsageMonth, "currency", |t| t.month[0].currency = Some("EUR".into())),
        (Table::EndpointHour, "cost", |t| t.endpoint[0].cost = Money::from_raw(7)),
        (Table::EndpointHour, "billable_requests", |t| t.endpoint[0].billable_requests += 1),
        (Table::EndpointHour, "the row", |t| t.endpoint[0].http_method = HttpMethod::Trace),
        (Table::Alerts, "severity", |t| severity(&mut t.alerts[0].severity)),
        (Table::Alerts, "raised_late", |t| t.alerts[0].raised_late ^= true),
        (Table::Alerts, "reasons", |t| t.alerts[0].reasons.push("because")),
        (Table::Alerts, "risk", |t| t.alerts[0].risk = Some(0.123)),
        (Table::Alerts, "alert_id", |t| t.alerts[0].alert_id = Default::default()),
        (Table::Alerts, "the row", |t| t.alerts.push(t.alerts[0].clone())),
    ];
    for (n, (table, column, change)) in changes.iter().enumerate() {
        let differences = find(Comparison::with_reference(), change).expect_err(&format!("change {n} of {column}"));
        let found = differences.first.iter().any(|first| first.table == *table && first.column == *column);
        assert!(found, "change {n} of {column}: {differences}");
        assert!(differences.first.iter().all(|first| first.table == *table), "change {n} of {column}: {differences}");
    }
}

fn next_up(value: &mut f64) {
    *value = value.next_up();
}

fn severity(value: &mut Severity) {
    *value = if *value == Severity::Critical { Severity::Warning } else { Severity::Critical };
}

/// The rows with another user agent.
fn rebuilt(events: &EventBatch) -> EventBatch {
    let mut builder = EventBatch::builder();
    for row in events.rows() {
        let mut again = *row;
        macro_rules! texts {
            ($($field:ident),*) => {$(again.$field = builder.text(events.text(row.$field));)*};
        }
        macro_rules! optional_texts {
            ($($field:ident),*) => {$(again.$field = builder.opt_text(events.opt_text(row.$field));)*};
        }
        texts!(tenant_id, api_key_id, endpoint, subscription_plan);
        optional_texts!(
            schema_version,
            user_id,
            api_version,
            ip_address,
            country_code,
            region,
            sdk_version,
            request_id,
            trace_id,
            emitter_id
        );
        again.user_agent = Some(builder.text("another"));
        again.labels = events.labels(row).map(|labels| builder.labels(labels.collect::<Vec<_>>()));
        builder.push(again);
    }
    builder.finish()
}

#[test]
fn only_the_changed_text_differs() {
    let differences = find(Comparison::exact(), |t| t.silver[0].events = rebuilt(&t.silver[0].events)).unwrap_err();
    assert!(differences.first.iter().all(|first| first.column == "user_agent"), "{differences}");
    assert_eq!(differences.count, TABLES.silver[0].events.rows().len());
}

#[test]
fn estimates_are_forgiven_within_their_bounds() {
    let p95 = |factor: f64| move |t: &mut Snapshot| t.minute[0].response_time_ms_p95 *= factor;
    find(Comparison::with_reference(), p95(1.019)).unwrap();
    find(Comparison::with_reference(), p95(0.981)).unwrap();
    find(Comparison::with_reference(), p95(1.03)).unwrap_err();
    find(Comparison::exact(), p95(1.019)).unwrap_err();

    let mut expected = TABLES.clone();
    for (exact, estimate, agrees) in [
        (1_000, 1_001, false),
        (1_001, 1_002, true),
        (2_000, 1_800, true),
        (2_000, 1_799, false),
        (2_000, 2_201, false),
    ] {
        expected.hour[0].distinct_api_keys = exact;
        let mut got = expected.clone();
        got.hour[0].distinct_api_keys = estimate;
        assert_eq!(Comparison::with_reference().compare(&got, &expected).is_ok(), agrees, "{estimate} of {exact}");
        Comparison::exact().compare(&got, &expected).unwrap_err();
    }
}

#[test]
fn coordinates_are_left_out_where_they_do_not_count() {
    let change = |t: &mut Snapshot| {
        t.bronze.iter_mut().for_each(|row| (row.partition, row.offset) = (9, row.offset * 2));
        t.silver.iter_mut().for_each(|rows| rows.partition = 9);
        t.minute[0].is_final ^= true;
        t.month[0].first_offset += 1;
        t.endpoint[0].is_final ^= true;
    };
    find(Comparison::exact().ignoring_coordinates(), change).unwrap();
    find(Comparison::exact(), change).unwrap_err();
    find(Comparison::exact().ignoring_coordinates(), |t| t.minute[0].total_requests += 1).unwrap_err();
}

#[test]
fn what_is_not_known_is_not_compared() {
    find(Comparison::exact(), |t| (t.dead_letter, t.quarantine) = (None, None)).unwrap();
}

#[test]
fn differences_read_well() {
    let alert = TABLES.alerts.iter().position(|alert| alert.alert_type == AlertType::OverLimit).unwrap();
    let differences = find(Comparison::exact(), |t| t.alerts[alert].total_requests += 1).unwrap_err();
    let AlertWords { key, total } = AlertWords::of(alert);
    assert_eq!(
        differences.to_string(),
        format!(
            "the tables differ in 1 value(s):\n  enforcement_alerts [{key}] total_requests: got {}, expected {total}",
            total + 1
        )
    );
}

struct AlertWords {
    key: String,
    total: i64,
}

impl AlertWords {
    fn of(index: usize) -> Self {
        let alert = &TABLES.alerts[index];
        Self { key: format!("{} {} 1min over_limit", alert.tenant_id, alert.window_start), total: alert.total_requests }
    }
}
