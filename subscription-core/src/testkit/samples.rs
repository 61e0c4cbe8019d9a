//! Rows with every field filled, and rows with none that may be absent.

use std::sync::Arc;

use uuid::Uuid;

use crate::decimal::{Money, Units};
use crate::event::ApiUsageEvent;
use crate::gold::{AlertRow, AlertType, EndpointRow, Severity, UsageRow};
use crate::record::{MAX_PAYLOAD_BYTES, RecordBatch};
use crate::rows::{Admitted, Counts, DeadLetter, EventBatch, EventBatchBuilder, EventRow, HttpMethod, Quarantined};
use crate::store::{GoldRows, RangeId, RangeWrite, Table};
use crate::time::{DAY, HOUR, MINUTE, Timestamp, WindowKind};

/// The ingestion time of the first record: 2024-02-29T23:58:00Z, so that rows lie on two days and in two months.
pub const SAMPLE_TIME: Timestamp = Timestamp::from_millis(1_709_251_080_000);

/// How many offsets [`admitted`] spans.
pub const SAMPLE_SPAN: u64 = 20;

/// An event with every field filled, or with none that may be absent.
pub fn event(builder: &mut EventBatchBuilder, offset: u64, tenant: &str, time: Timestamp, filled: bool) {
    let mut opt = |text: &str| filled.then(|| builder.text(text));
    let row = EventRow {
        schema_version: opt("1.0"),
        user_id: opt("Zoë \"Z\"\n\u{1f600}"),
        api_version: opt(""),
        ip_address: opt("2001:db8::1"),
        country_code: opt("SE"),
        region: opt("eu-north-1"),
        user_agent: opt("curl/8.5.0"),
        sdk_version: opt("4.1"),
        request_id: opt("r-1"),
        trace_id: opt("4bf92f3577b34da6a3ce929d0e0e4736"),
        emitter_id: opt("gw-1"),
        offset,
        ingestion_timestamp: SAMPLE_TIME.plus_millis(offset as i64 * 10_000),
        event_timestamp: time,
        is_late: filled,
        event_id: event_id(offset),
        tenant_id: builder.text(tenant),
        api_key_id: builder.text("key-ü"),
        endpoint: builder.text("/v1/orders"),
        http_method: HttpMethod::ALL[offset as usize % HttpMethod::ALL.len()],
        response_status_code: if filled { 599 } else { 100 },
        response_time_ms: if filled { 86_399_999.000_1 } else { 0.0 },
        subscription_plan: builder.text("pro"),
        risk_score: filled.then_some(0.1 + 0.2),
        velocity_last_1min: filled.then_some(0),
        velocity_last_5min: filled.then_some(7),
        velocity_last_1hour: filled.then_some(10_000_000),
        request_size_bytes: filled.then_some(0),
        response_size_bytes: filled.then_some(1 << 40),
        emitter_sequence: filled.then_some(i64::MAX),
        billable_units: filled.then_some(Units::from_raw(999_999_999_999_999_999)),
        quota_cost: filled.then_some(1_000_000_000),
        labels: filled.then(|| builder.labels([("team", "søk"), ("", ""), ("a.b", "x y")])),
    };
    builder.push(row);
}

/// The id that [`event`] gives at an offset.
pub fn event_id(offset: u64) -> Uuid {
    Uuid::from_u128(u128::from(offset) | 0xfedc_ba98_7654_4321_8000 << 64)
}

/// Every kind of record, with the rows that they become: a span of [`SAMPLE_SPAN`] offsets from `from`, with a gap.
///
/// Offsets 0, 1, 8 and 13 are accepted events of `tenant-a` (13: `tenant-b`); 2, 3, 4 and 5 dead letters; 6 and 7 in
/// quarantine; 9 is a duplicate.
pub fn admitted(topic: &str, partition: u32, from: u64) -> Admitted {
    let mut records = RecordBatch::builder(topic.into(), partition, from);
    let at = |n: u64| SAMPLE_TIME.plus_millis((from + n) as i64 * 10_000);
    let json = "{\"text\": \"\u{1f600}\\u0000\", \"n\": 1}\n".as_bytes();
    let every_byte: Vec<u8> = (0..=255).collect();
    records.push(from, at(0), Some(&every_byte), Some(json));
    records.push_header("traceparent", Some(b"00-1"));
    records.push_header("binary", Some(&every_byte));
    records.push_header("traceparent", Some(b""));
    records.push_header("", None);
    records.push(from + 1, at(1), None, Some(b"{}"));
    records.push(from + 2, at(2), Some(b"tombstone"), None);
    records.push_header("why", None);
    records.push(from + 3, at(3), Some(b""), Some(b""));
    records.push(from + 4, at(4), None, Some(&every_byte));
    records.push_truncated(from + 5, at(5), None, Some(&[b'x'; 10_000]), MAX_PAYLOAD_BYTES + 1);
    for n in 6..10 {
        records.push(from + n, at(n), Some(b"tenant-a"), Some(format!(" {{\"n\": {n}}}").as_bytes()));
    }
    records.push(from + 13, at(13), Some(b"tenant-b"), Some(b"{\"last\": true}"));

    let dead = [(2, "empty_payload"), (3, "empty_payload"), (4, "invalid_utf8"), (5, "too_large")];
    let dead = dead.map(|(index, code)| DeadLetter { index, code, error: format!("{code} \u{fffd}") });
    let quarantined = vec![
        Quarantined { index: 6, event_id: None, tenant_id: None, errors: vec!["missing_field:event_id".into()] },
        Quarantined {
            index: 7,
            event_id: Some("NOT-AN-ID".into()),
            tenant_id: Some(String::new()),
            errors: vec!["bad_format:event_id".into(), "bad_format:tenant_id".into()],
        },
    ];
    let mut accepted = EventBatch::builder();
    event(&mut accepted, from, "tenant-a", at(0), true);
    event(&mut accepted, from + 1, "tenant-a", at(1).plus_millis(-30 * DAY), false);
    event(&mut accepted, from + 8, "tenant-a", at(8).plus_millis(-2 * HOUR), true);
    event(&mut accepted, from + 13, "tenant-b", at(13).plus_millis(MINUTE), false);
    let spans = from / SAMPLE_SPAN + 1;
    Admitted {
        records: records.finish(from + SAMPLE_SPAN),
        dead: dead.into(),
        quarantined,
        accepted: accepted.finish(),
        counts: Counts {
            read: 11 * spans,
            dead_lettered: 4 * spans,
            accepted: 4 * spans,
            duplicates: spans,
            quarantined: 2 * spans,
        },
        watermark: Some(at(13).plus_millis(MINUTE - HOUR)),
    }
}

/// A usage row with every field filled, or with none that may be absent.
pub fn usage_row(kind: WindowKind, tenant: &str, start: Timestamp, filled: bool) -> UsageRow {
    let n = i64::from(filled);
    let month = kind == WindowKind::Month;
    UsageRow {
        tenant_id: tenant.into(),
        window_start: start,
        window_end: kind.end(start),
        is_final: filled,
        total_requests: 11 * n,
        throttled_requests: 12 * n,
        auth_failures: 13 * n,
        client_errors: 14 * n,
        server_errors: 15 * n,
        admitted_requests: 16 * n,
        quota_attempted: 17 * n,
        quota_used: 18 * n,
        billable_requests: 19 * n,
        billable_units: Units::from_raw(10i128.pow(30) * i128::from(n) + 1),
        late_requests: 20 * n,
        request_bytes: i64::MAX * n,
        response_bytes: 21 * n,
        response_time_us_sum: 123_456_789_012 * i128::from(n),
        response_time_ms_max: 0.1 * n as f64,
        response_time_ms_p50: 1.5 * n as f64,
        response_time_ms_p95: 2.5 * n as f64,
        response_time_ms_p99: 3.5 * n as f64,
        risk_score_mean: filled.then_some(0.1 + 0.2),
        risk_score_max: filled.then_some(1.0),
        distinct_api_keys: 22 * n,
        subscription_plan: if filled { "größte".into() } else { "free".into() },
        plan_limit: 23 * n,
        over_limit: filled,
        over_limit_count: 24 * n,
        usage_ratio: if filled { 0.75 } else { 0.0 },
        first_offset: 25 * n as u64,
        last_offset: (1 << 62) * n as u64,
        cost: (month && filled).then_some(Money::from_raw(-(10i128.pow(37)) + 1)),
        amount_due: (month && filled).then_some(Money::from_raw(10i128.pow(37))),
        currency: (month && filled).then(|| "SEK".into()),
        state: if filled { (0..=255).cycle().take(5_000).collect() } else { Vec::new() },
    }
}

/// A row of `endpoint_usage_hourly`.
pub fn endpoint_row(tenant: &str, endpoint: &str, start: Timestamp, filled: bool) -> EndpointRow {
    let n = i64::from(filled);
    EndpointRow {
        tenant_id: tenant.into(),
        endpoint: endpoint.into(),
        http_method: if filled { HttpMethod::Trace } else { HttpMethod::Connect },
        subscription_plan: "enterprise".into(),
        window_start: start,
        window_end: WindowKind::Hour.end(start),
        is_final: filled,
        total_requests: 31 * n,
        billable_requests: 32 * n,
        billable_units: Units::from_raw(i128::from(n)),
        server_errors: 33 * n,
        response_time_us_sum: 34_567_890_123 * i128::from(n),
        cost: Money::from_raw(10i128.pow(36) * i128::from(n)),
    }
}

/// An alert with every field filled, or with none that may be absent.
pub fn alert_row(kind: WindowKind, tenant: &str, start: Timestamp, filled: bool) -> AlertRow {
    let n = i64::from(filled);
    let alert_type = if filled { AlertType::AbuseDetected } else { AlertType::QuotaExceeded };
    let name = format!("alert:{tenant}/{}/{kind}/{}", alert_type.as_str(), start.to_rfc3339_seconds());
    AlertRow {
        alert_id: Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()),
        tenant_id: tenant.into(),
        alert_type,
        severity: if filled { Severity::Critical } else { Severity::Warning },
        window_kind: kind,
        window_start: start,
        window_end: kind.end(start),
        subscription_plan: "pro".into(),
        total_requests: 41 * n,
        admitted_requests: 42 * n,
        quota_attempted: 43 * n,
        quota_used: 44 * n,
        plan_limit: 45 * n,
        over_limit_count: 46 * n,
        raised_late: filled,
        reasons: if filled { vec!["high_risk", "velocity_spike"] } else { Vec::new() },
        risk: filled.then_some(0.912_345),
        spike_ratio: filled.then_some(12.5),
    }
}

/// A range of the Gold table with a row for each tenant, which must be sorted: all in the window that holds `at`, the
/// first with every field filled and every other one after it.
///
/// # Panics
/// If `table` is no Gold table, or `tenants` is empty.
pub fn range(table: Table, partition: u32, at: Timestamp, tenants: &[&str], replaces: &[RangeId]) -> RangeWrite {
    let kind = match table {
        Table::UsageMinute | Table::Alerts => WindowKind::Minute,
        Table::UsageMonth => WindowKind::Month,
        _ => WindowKind::Hour,
    };
    let start = kind.start(at);
    let rows = tenants.iter().enumerate().map(|(index, tenant)| (*tenant, index % 2 == 0));
    let rows = match table {
        Table::UsageMinute | Table::UsageHour | Table::UsageMonth => {
            GoldRows::Usage(rows.map(|(tenant, filled)| usage_row(kind, tenant, start, filled)).collect())
        }
        Table::EndpointHour => GoldRows::Endpoint(
            rows.flat_map(|(tenant, filled)| ["(other)", "/v1"].map(|path| endpoint_row(tenant, path, start, filled)))
                .collect(),
        ),
        Table::Alerts => {
            GoldRows::Alerts(rows.map(|(tenant, filled)| alert_row(kind, tenant, start, filled)).collect())
        }
        _ => panic!("{} is no Gold table", table.name()),
    };
    let key = |tenant: &str| crate::RangeKey { window_start: start, tenant_id: Arc::from(tenant) };
    let [first, .., last] = tenants else {
        let only = key(tenants.first().expect("a tenant"));
        return RangeWrite { table, partition, replaces: replaces.to_vec(), first: only.clone(), last: only, rows };
    };
    RangeWrite { table, partition, replaces: replaces.to_vec(), first: key(first), last: key(last), rows }
}

/// The `n`-th event of a tenant, as a gateway reports it: about 600 bytes of payload.
pub fn usage_event(n: u64, tenant: &str) -> ApiUsageEvent<'_> {
    let millis = i64::try_from(n).unwrap_or_default();
    let event = ApiUsageEvent::builder()
        .event_id(event_id(n))
        .schema_version("1.0")
        .event_timestamp(SAMPLE_TIME.plus_millis(millis))
        .tenant_id(tenant)
        .api_key_id("key-7f3a")
        .user_id("user-42")
        .endpoint("/v1/orders/{order_id}/items")
        .http_method(HttpMethod::Get)
        .api_version("v1")
        .response_status_code(200)
        .response_time_ms(12.5)
        .subscription_plan("pro")
        .ip_address("203.0.113.7")
        .country_code("SE")
        .region("eu-north-1")
        .user_agent("acme-sdk/2.1 (linux)")
        .request_size_bytes(512)
        .response_size_bytes(20_480)
        .request_id("req-7f3a2b1c")
        .trace_id("4bf92f3577b34da6a3ce929d0e0e4736")
        .quota_cost(1);
    event.build().expect("a valid event")
}
