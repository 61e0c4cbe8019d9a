//! Batches and commits to try a lake with, and a store that fails where it is told to.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use subscription_core::{
    Admitted, AlertRow, AlertType, Commit, Counter, Counts, DeadLetter, EndpointRow, EventBatch, EventRow, GoldRows,
    HttpMethod, Money, Quarantined, RangeId, RangeKey, RangeWrite, RecordBatch, Severity, Table, TableCommit,
    TableSpan, Timestamp, Units, UsageRow, WindowKind,
};
use subscription_delta::object_store::path::Path;
use subscription_delta::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use subscription_delta::{DeltaConfig, DeltaStore};
use uuid::Uuid;

pub(crate) const TOPIC: &str = "usage";
/// 2024-02-29T23:30:00Z: half an hour before a day and a month end.
pub(crate) const START: i64 = 1_709_249_400_000;

pub(crate) const BRONZE: [Table; 2] = [Table::DeadLetter, Table::Bronze];
pub(crate) const SILVER: [Table; 2] = [Table::Quarantine, Table::Silver];

pub(crate) fn config(dir: &std::path::Path) -> DeltaConfig {
    DeltaConfig::new(dir.join("lake").to_str().unwrap()).unwrap()
}

pub(crate) async fn open(dir: &std::path::Path) -> DeltaStore {
    DeltaStore::open(config(dir)).await.unwrap()
}

/// The id of the event at an offset.
pub(crate) fn id(partition: u32, offset: u64) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("{partition}/{offset}").as_bytes())
}

/// When the event at an offset happened: a second later each, but every seventh three hours earlier.
pub(crate) fn event_time(offset: u64) -> Timestamp {
    let late = if offset % 7 == 6 { 3 * 3_600_000 } else { 0 };
    Timestamp::from_millis(START + offset as i64 * 1_000 - late)
}

pub(crate) fn tenant(offset: u64) -> String {
    format!("tenant-{}", offset % 5)
}

/// Offsets `from..to` of a partition: every 10th is a dead letter, every 10th quarantined, every 10th a duplicate,
/// the others accepted.
pub(crate) fn admitted(partition: u32, from: u64, to: u64) -> Arc<Admitted> {
    let mut records = RecordBatch::builder(TOPIC.into(), partition, from);
    let (mut dead, mut quarantined) = (Vec::new(), Vec::new());
    let mut events = EventBatch::builder();
    for offset in from..to {
        let time = Timestamp::from_millis(START + offset as i64 * 1_000 + 250);
        let index = (offset - from) as u32;
        let key = format!("tenant-{}", offset % 5);
        match offset % 10 {
            3 if offset % 20 == 3 => records.push(offset, time, None, None),
            3 => records.push(offset, time, Some(key.as_bytes()), Some(b"\xff\x00 no json")),
            _ => {
                let payload = format!(r#"{{"offset":{offset},"filler":"{}"}}"#, "x".repeat(50));
                records.push(offset, time, Some(key.as_bytes()), Some(payload.as_bytes()));
            }
        }
        if offset % 4 == 1 {
            records.push_header("trace", Some(&offset.to_be_bytes()));
            records.push_header("none", None);
        }
        match offset % 10 {
            3 => dead.push(DeadLetter { index, code: "not_json", error: format!("at {offset}") }),
            4 => quarantined.push(Quarantined {
                index,
                event_id: (offset % 20 == 4).then(|| "given".to_owned()),
                tenant_id: None,
                errors: vec!["missing_field:endpoint".into(), "wrong_type:labels".into()],
            }),
            5 => {}
            _ => {
                let row = event(&mut events, partition, offset, time);
                events.push(row);
            }
        }
    }
    Arc::new(Admitted {
        records: records.finish(to),
        dead,
        quarantined,
        accepted: events.finish(),
        counts: Counts::default(),
        watermark: Some(Timestamp::from_millis(START + to as i64 * 1_000 - 3_600_000)),
    })
}

fn event(events: &mut subscription_core::EventBatchBuilder, partition: u32, offset: u64, time: Timestamp) -> EventRow {
    let some = offset.is_multiple_of(2);
    let mut opt = |name: &str| some.then(|| events.text(&format!("{name}-{offset}-ü")));
    let optional = [
        opt("schema_version"),
        opt("user_id"),
        opt("api_version"),
        opt("ip"),
        opt("country"),
        opt("region"),
        opt("agent"),
        opt("sdk"),
        opt("request"),
        opt("trace"),
        opt("emitter"),
    ];
    let [
        schema_version,
        user_id,
        api_version,
        ip_address,
        country_code,
        region,
        user_agent,
        sdk_version,
        request_id,
        trace_id,
        emitter_id,
    ] = optional;
    EventRow {
        offset,
        ingestion_timestamp: time,
        event_timestamp: event_time(offset),
        is_late: time.millis() - event_time(offset).millis() > 3_600_000,
        event_id: id(partition, offset),
        schema_version,
        tenant_id: events.text(&tenant(offset)),
        api_key_id: events.text("key"),
        user_id,
        endpoint: events.text("/v1/things"),
        http_method: HttpMethod::ALL[offset as usize % HttpMethod::ALL.len()],
        api_version,
        response_status_code: 200 + (offset % 300) as u16,
        response_time_ms: offset as f64 / 3.0,
        subscription_plan: events.text("pro"),
        risk_score: some.then_some(0.25),
        velocity_last_1min: some.then_some(1),
        velocity_last_5min: some.then_some(2),
        velocity_last_1hour: some.then_some(3),
        ip_address,
        country_code,
        region,
        user_agent,
        sdk_version,
        request_size_bytes: some.then_some(offset as i64),
        response_size_bytes: some.then_some(1 << 40),
        request_id,
        trace_id,
        emitter_id,
        emitter_sequence: some.then_some(i64::MAX),
        billable_units: some.then(|| Units::from_raw(1_000_000_000_000_000_000 - i128::from(offset))),
        quota_cost: some.then_some(7),
        labels: match offset % 3 {
            0 => None,
            1 => Some(events.labels([])),
            _ => Some(events.labels([("b", "2"), ("a", "")])),
        },
    }
}

/// An event with its texts, to compare.
pub(crate) fn shown(batch: &EventBatch) -> Vec<String> {
    let show = |row: &EventRow| {
        let required =
            [row.tenant_id, row.api_key_id, row.endpoint, row.subscription_plan].map(|text| batch.text(text));
        let optional = [
            row.schema_version,
            row.user_id,
            row.api_version,
            row.ip_address,
            row.country_code,
            row.region,
            row.user_agent,
            row.sdk_version,
            row.request_id,
            row.trace_id,
            row.emitter_id,
        ]
        .map(|text| batch.opt_text(text));
        let labels = batch.labels(row).map(|labels| labels.collect::<Vec<_>>());
        let numbers = (
            row.offset,
            row.ingestion_timestamp,
            row.event_timestamp,
            row.is_late,
            row.event_id,
            row.http_method,
            row.response_status_code,
            row.response_time_ms,
            row.risk_score,
        );
        let more = (
            row.velocity_last_1min,
            row.velocity_last_5min,
            row.velocity_last_1hour,
            row.request_size_bytes,
            row.response_size_bytes,
            row.emitter_sequence,
            row.billable_units,
            row.quota_cost,
        );
        format!("{numbers:?} {more:?} {required:?} {optional:?} {labels:?}")
    };
    batch.rows().iter().map(show).collect()
}

pub(crate) type ShownRecord = (u64, Timestamp, Option<Vec<u8>>, u64, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

/// A batch's records, to compare.
pub(crate) fn shown_records(batch: &RecordBatch) -> Vec<ShownRecord> {
    let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    batch
        .iter()
        .map(|record| {
            let headers = record.headers().map(|(name, value)| (name.to_owned(), own(value))).collect();
            (
                record.offset(),
                record.timestamp(),
                own(record.payload()),
                record.payload_len(),
                own(record.key()),
                headers,
            )
        })
        .collect()
}

/// A commit of a stage: these tables, these spans, from these rows.
pub(crate) fn commit(tables: &[Table], spans: &[(u32, u64, u64)], rows: &[Arc<Admitted>]) -> Commit {
    let table_commit = |&table| TableCommit {
        table,
        spans: spans
            .iter()
            .map(|&(partition, from, to)| TableSpan {
                partition,
                from,
                to,
                counters: vec![(Counter::Read, to as i64), (Counter::Watermark, START + to as i64)],
            })
            .collect(),
    };
    Commit {
        topic: TOPIC.into(),
        tables: tables.iter().map(table_commit).collect(),
        admitted: rows.to_vec(),
        ranges: Vec::new(),
    }
}

/// A commit of Bronze or Silver of one partition.
pub(crate) fn step(tables: &[Table], partition: u32, from: u64, to: u64) -> Arc<Commit> {
    commit(tables, &[(partition, from, to)], &[admitted(partition, from, to)]).into()
}

pub(crate) fn key(minute: i64, tenant: &str) -> RangeKey {
    RangeKey { window_start: Timestamp::from_millis(START + minute * 60_000), tenant_id: tenant.into() }
}

pub(crate) fn usage(table: Table, key: &RangeKey, n: i64) -> UsageRow {
    let kind = match table {
        Table::UsageMinute => WindowKind::Minute,
        Table::UsageHour => WindowKind::Hour,
        _ => WindowKind::Month,
    };
    let month = (table == Table::UsageMonth).then_some(());
    UsageRow {
        tenant_id: key.tenant_id.clone(),
        window_start: key.window_start,
        window_end: kind.end(kind.start(key.window_start)),
        is_final: n % 2 == 0,
        total_requests: n,
        throttled_requests: n + 1,
        auth_failures: n + 2,
        client_errors: n + 3,
        server_errors: n + 4,
        admitted_requests: n + 5,
        quota_attempted: n + 6,
        quota_used: n + 7,
        billable_requests: n + 8,
        billable_units: Units::from_raw(i128::from(n) * 1_234_567_890_123),
        late_requests: n + 9,
        request_bytes: i64::MAX,
        response_bytes: n + 10,
        response_time_us_sum: i128::from(n) * 10_i128.pow(30) + 1,
        response_time_ms_max: 0.1,
        response_time_ms_p50: 0.2,
        response_time_ms_p95: 0.3,
        response_time_ms_p99: 0.4,
        risk_score_mean: (n % 2 == 0).then_some(0.5),
        risk_score_max: (n % 2 == 0).then_some(0.75),
        distinct_api_keys: n + 11,
        subscription_plan: "pro".into(),
        plan_limit: n + 12,
        over_limit: n % 3 == 0,
        over_limit_count: n + 13,
        usage_ratio: if n == 1 { f64::INFINITY } else { 0.5 },
        first_offset: n as u64,
        last_offset: n as u64 + 14,
        cost: month.map(|()| Money::from_raw(i128::from(n) * 10_i128.pow(20) + 3)),
        amount_due: month.map(|()| Money::from_raw(5)),
        currency: month.map(|()| "USD".into()),
        state: (0..n as u8).collect(),
    }
}

pub(crate) fn endpoint(key: &RangeKey, n: i64) -> EndpointRow {
    EndpointRow {
        tenant_id: key.tenant_id.clone(),
        endpoint: format!("/v1/{n}").into(),
        http_method: HttpMethod::Get,
        subscription_plan: "free".into(),
        window_start: key.window_start,
        window_end: key.window_start.plus_millis(3_600_000),
        is_final: n % 2 == 1,
        total_requests: n,
        billable_requests: n + 1,
        billable_units: Units::from_raw(-1),
        server_errors: n + 2,
        response_time_us_sum: 1,
        cost: Money::from_raw(i128::from(n) + 10_i128.pow(33)),
    }
}

pub(crate) fn alert(key: &RangeKey, n: i64) -> AlertRow {
    AlertRow {
        alert_id: id(0, n as u64),
        tenant_id: key.tenant_id.clone(),
        alert_type: AlertType::ALL[n as usize % 4],
        severity: if n % 2 == 0 { Severity::Warning } else { Severity::Critical },
        window_kind: WindowKind::ALL[n as usize % 3],
        window_start: key.window_start,
        window_end: key.window_start.plus_millis(60_000),
        subscription_plan: "pro".into(),
        total_requests: n,
        admitted_requests: n + 1,
        quota_attempted: n + 2,
        quota_used: n + 3,
        plan_limit: n + 4,
        over_limit_count: n + 5,
        raised_late: n % 2 == 0,
        reasons: if n % 4 == 0 { vec!["high_risk", "velocity_spike"] } else { vec![] },
        risk: (n % 4 == 0).then_some(0.875),
        spike_ratio: (n % 4 == 0).then_some(4.0),
    }
}

/// A range of usage rows with these keys.
pub(crate) fn range(table: Table, partition: u32, keys: &[(i64, &str)], n: i64, replaces: &[RangeId]) -> RangeWrite {
    let keys: Vec<RangeKey> = keys.iter().map(|&(minute, tenant)| key(minute, tenant)).collect();
    let rows = match table {
        Table::EndpointHour => GoldRows::Endpoint(keys.iter().map(|key| endpoint(key, n)).collect()),
        Table::Alerts => GoldRows::Alerts(keys.iter().zip(n..).map(|(key, n)| alert(key, n)).collect()),
        table => GoldRows::Usage(keys.iter().zip(n..).map(|(key, n)| usage(table, key, n)).collect()),
    };
    RangeWrite {
        table,
        partition,
        replaces: replaces.to_vec(),
        first: keys[0].clone(),
        last: keys[keys.len() - 1].clone(),
        rows,
    }
}

/// What a faulty store does at one of its puts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is written, and an error answered.
    Before,
    /// It is written, and an error answered.
    After,
    /// Nothing is written, and "already exists" answered.
    Phantom,
    /// Waits until told to go on.
    Wait,
}

/// A local store that has a fault at the nth put (from now on) of a file whose path contains a text.
pub(crate) struct Faulty {
    inner: subscription_delta::object_store::local::LocalFileSystem,
    plan: Mutex<Option<(String, usize, Fault)>>,
    pub(crate) reached: tokio::sync::Semaphore,
    pub(crate) go: tokio::sync::Semaphore,
    pub(crate) puts: AtomicUsize,
}

impl Faulty {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: subscription_delta::object_store::local::LocalFileSystem::new(),
            plan: Mutex::new(None),
            reached: tokio::sync::Semaphore::new(0),
            go: tokio::sync::Semaphore::new(0),
            puts: AtomicUsize::new(0),
        })
    }

    pub(crate) fn plan(&self, contains: &str, nth: usize, fault: Fault) {
        *self.plan.lock().unwrap() = Some((contains.to_owned(), nth, fault));
    }

    fn due(&self, location: &Path) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        let (contains, nth, fault) = plan.as_mut()?;
        if !location.as_ref().contains(contains.as_str()) {
            return None;
        }
        *nth -= 1;
        let fault = (*nth == 0).then_some(*fault);
        if fault.is_some() {
            *plan = None;
        }
        fault
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn broken() -> Error {
    Error::Generic { store: "Faulty", source: "the line is dead".into() }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        match self.due(location) {
            Some(Fault::Before) => Err(broken()),
            Some(Fault::After) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(broken())
            }
            Some(Fault::Phantom) => {
                Err(Error::AlreadyExists { path: location.to_string(), source: "409 Conflict".into() })
            }
            Some(Fault::Wait) => {
                self.reached.add_permits(1);
                self.go.acquire().await.unwrap().forget();
                self.inner.put_opts(location, payload, options).await
            }
            None => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: futures::stream::BoxStream<'static, Result<Path>>,
    ) -> futures::stream::BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> futures::stream::BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
