//! Made-up traffic: the same records for the same seed, on every machine and in every version.
//!
//! ```
//! use subscription_core::testkit::traffic::{Traffic, TrafficConfig};
//! let mut lines = Vec::new();
//! let config = TrafficConfig { events: 3, ..TrafficConfig::steady(42) };
//! Traffic::new(config).write_ndjson(&mut lines).unwrap();
//! assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 3);
//! ```

mod broken;
mod event;
mod random;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::sync::Arc;

pub use broken::Broken;
use broken::{TenantIn, break_payload};
use event::{Call, EMITTERS, Mood, PLANS, Style, push_event, push_tenant};
use random::{Random, Zipf, hash, powers};

use crate::decimal::Price;
use crate::partition::murmur2_partition;
use crate::plan::{Catalog, Overrides, Plan};
use crate::record::{MAX_PAYLOAD_BYTES, RecordBatch, RecordBatchBuilder, TOO_LARGE_KEPT_BYTES};
use crate::time::{HOUR, MINUTE, SECOND, Timestamp};

/// What traffic is made. Shares are of 1; times are in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficConfig {
    /// Decides everything that the rest leaves open.
    pub seed: u64,
    /// How many records, those of all kinds together.
    pub events: u64,
    /// How many tenants: `tenant-000000` and so on, the busiest first.
    pub tenants: u32,
    /// The ingestion time of the first record.
    pub start: Timestamp,
    /// Records a second of ingestion time, but for bursts, in which they come 20 times as fast.
    pub rate: f64,
    /// Whose plans `free`, `starter`, `pro` and `enterprise` the tenants are on: bursts go by its limits.
    pub catalog: Catalog,
    /// Tenant k has a weight of k^-exponent; taken in steps of a quarter.
    pub zipf_exponent: f64,
    /// The busiest tenant has this share besides.
    pub hot_share: f64,
    /// The greatest number of API keys a tenant.
    pub api_keys: u32,
    /// Events that come late: nine in ten by one to three hours, the others by up to nearly 35 days.
    pub late_share: f64,
    /// Events that are sent again as they were.
    pub retry_share: f64,
    /// Events that are sent again with the same id and another event time.
    pub restamped_share: f64,
    /// Of the retries, those that come one to six hours after; the others come within five minutes.
    pub late_retry_share: f64,
    /// Records that are no valid events, by kind.
    pub broken: Vec<(Broken, f64)>,
    /// Chance of an event to begin a burst of its tenant, of half to twice its plan's limit a minute.
    pub burst_share: f64,
    /// Chance of an event to begin a burst of its tenant in which nearly all credentials are refused.
    pub auth_burst_share: f64,
    /// Chance of an event to begin a burst of its tenant that took place one to three hours before: the backlog of a gateway that
    /// was cut off.
    pub backlog_share: f64,
    /// Tenants whose every event has a risk score of 0.7 or more.
    pub high_risk_share: f64,
    /// Tenants that change between two plans every seven minutes.
    pub plan_change_share: f64,
    /// Events whose endpoint is one of 5,000, as a scanner calls them.
    pub scan_share: f64,
    /// Events written in unusual but valid ways: escapes, other forms of a time, `200.0`, unknown fields, nulls.
    pub odd_share: f64,
}

impl TrafficConfig {
    /// 100,000 events of 10,000 tenants, 500 a second, without trouble.
    pub fn steady(seed: u64) -> Self {
        Self {
            seed,
            events: 100_000,
            tenants: 10_000,
            start: Timestamp::from_millis(1_767_600_000_000), // 2026-01-05T08:00:00Z
            rate: 500.0,
            catalog: Catalog::default(),
            zipf_exponent: 1.0,
            hot_share: 0.0,
            api_keys: 5,
            late_share: 0.0,
            retry_share: 0.0,
            restamped_share: 0.0,
            late_retry_share: 0.0,
            broken: Vec::new(),
            burst_share: 0.0,
            auth_burst_share: 0.0,
            backlog_share: 0.0,
            high_risk_share: 0.0,
            plan_change_share: 0.0,
            scan_share: 0.0,
            odd_share: 0.0,
        }
    }

    /// Every kind of trouble, in a few thousand records of a few tenants over a few hours and the end of a month; with a catalog
    /// of small limits, which change at that end, and of tenants with terms of their own.
    pub fn trouble(seed: u64) -> Self {
        Self {
            catalog: small_catalog(),
            events: 5_000,
            tenants: 20,
            start: MONTH_END.plus_millis(-HOUR * 3 / 2),
            rate: 0.25,
            hot_share: 0.1,
            late_share: 0.05,
            retry_share: 0.05,
            restamped_share: 0.03,
            late_retry_share: 0.3,
            broken: Broken::ALL.map(|kind| (kind, 0.004)).into(),
            burst_share: 0.004,
            auth_burst_share: 0.001,
            backlog_share: 0.002,
            high_risk_share: 0.1,
            plan_change_share: 0.2,
            scan_share: 0.05,
            odd_share: 0.1,
            ..Self::steady(seed)
        }
    }

    /// One in five late: nine in ten of these by less than three hours, the oldest by 35 days.
    pub fn late_heavy(seed: u64) -> Self {
        Self { late_share: 0.2, ..Self::steady(seed) }
    }

    /// Every event is sent twice.
    pub fn twice(seed: u64) -> Self {
        Self { retry_share: 1.0, ..Self::steady(seed) }
    }

    /// 500,000 tenants.
    pub fn many_tenants(seed: u64) -> Self {
        Self { tenants: 500_000, zipf_exponent: 0.5, ..Self::steady(seed) }
    }

    /// One tenant has half the traffic.
    pub fn hot_tenant(seed: u64) -> Self {
        Self { hot_share: 0.5, ..Self::steady(seed) }
    }
}

/// The end of January 2026, in which [`TrafficConfig::trouble`] is.
const MONTH_END: Timestamp = Timestamp::from_millis(1_769_904_000_000);

fn small_catalog() -> Catalog {
    let plan = |minute, hour, month, price| Plan::new(minute, hour, month, Price::from_raw(price));
    Catalog::builder()
        .plan("free", plan(10, 40, 100, 0))
        .plan("starter", plan(30, 100, 400, 500_000))
        .plan("pro", plan(60, 300, 1_000, 400_000))
        .plan("enterprise", plan(200, 1_000, 5_000, 250_000))
        .plan_from("pro", MONTH_END.plus_millis(-HOUR / 2), plan(50, 250, 2_000, 333_333))
        .plan_from("starter", MONTH_END, plan(40, 90, 300, 1_234_567))
        .tenant("tenant-000000", Overrides { per_minute: Some(40), ..Overrides::default() })
        .tenant("tenant-000001", Overrides { price: Some(Price::from_raw(1)), ..Overrides::default() })
        .tenant_from("tenant-000002", MONTH_END, Overrides { per_hour: Some(20), ..Overrides::default() })
        .build()
        .expect("limits and prices within bounds")
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficRecord {
    /// Its payload; empty for a tombstone. Of one that is too large it is the beginning.
    pub payload: Vec<u8>,
    /// How long the payload is in all, in bytes.
    pub payload_len: u64,
    /// The tenant id in the payload, where one can be read: the record's key.
    pub key: Option<Vec<u8>>,
    /// Ingestion time; never goes back.
    pub timestamp: Timestamp,
    /// What is wrong with it.
    pub broken: Option<Broken>,
    /// Whether it is the repetition of a record before it.
    pub retry: bool,
}

/// How records come to partitions and offsets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Framing {
    /// As a file: an offset is the number of the line in the whole, blank lines count and are skipped, and a line that is no
    /// JSON object has the timestamp of the line before.
    File,
    /// As a topic: each partition counts its own offsets, and this share of them is missing, as after compaction or of
    /// transactions' markers. Records have headers now and then.
    Topic {
        /// Chance of a gap before a record.
        gaps: f64,
    },
}

impl Framing {
    /// The topic's name.
    pub fn topic(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Topic { .. } => "usage",
        }
    }
}

/// Generates records; see the [module](self).
#[derive(Debug)]
pub struct Traffic {
    config: TrafficConfig,
    style: Style,
    random: Random,
    zipf: Zipf,
    emitted: u64,
    /// Since the start, in nanoseconds.
    elapsed: u64,
    sequences: [u64; EMITTERS],
    /// Calls to send again, by the time at which.
    retries: BinaryHeap<Reverse<(i64, Call)>>,
    burst: Option<Burst>,
}

#[derive(Debug)]
struct Burst {
    tenant: u32,
    left: u64,
    /// How many calls pass before the gateway refuses the others.
    allowed: u64,
    mood: Mood,
    /// How long ago it was, in milliseconds.
    ago: i64,
}

/// Records in a burst come so many times faster.
const BURST_SPEED: u64 = 20;

impl Traffic {
    /// The traffic of that configuration, from its beginning.
    pub fn new(config: TrafficConfig) -> Self {
        Self {
            style: Style {
                odd_share: config.odd_share,
                scan_share: config.scan_share,
                high_risk_share: config.high_risk_share,
                api_keys: config.api_keys,
                powers: powers(),
            },
            random: Random::new(config.seed),
            zipf: Zipf::new(config.tenants, config.zipf_exponent),
            emitted: 0,
            elapsed: 0,
            sequences: [0; EMITTERS],
            retries: BinaryHeap::new(),
            burst: None,
            config,
        }
    }

    /// Makes the next record in place of `record`, whose memory is used again; false at the end.
    pub fn next_into(&mut self, record: &mut TrafficRecord) -> bool {
        if self.emitted == self.config.events {
            return false;
        }
        let now = self.config.start.plus_millis((self.elapsed / 1_000_000) as i64);
        let step = (1e9 / self.config.rate) as u64;
        self.elapsed += if self.burst.is_some() { step / BURST_SPEED } else { step };
        self.emitted += 1;
        record.timestamp = now;
        record.payload.clear();
        record.retry = false;
        record.broken = None;
        if self.retries.peek().is_some_and(|Reverse((due, _))| *due <= now.millis()) {
            let Some(Reverse((_, call))) = self.retries.pop() else { return false };
            record.retry = true;
            self.write(record, &call);
        } else if let Some(broken) = self.pick_broken() {
            self.write_broken(record, broken);
        } else {
            let call = self.call(now);
            self.schedule_retries(now, call);
            self.write(record, &call);
        }
        true
    }

    fn write(&self, record: &mut TrafficRecord, call: &Call) {
        push_event(&mut record.payload, &self.style, call, record.timestamp);
        record.payload_len = record.payload.len() as u64;
        let key = record.key.get_or_insert_default();
        key.clear();
        push_tenant(key, call.tenant);
    }

    fn write_broken(&mut self, record: &mut TrafficRecord, broken: Broken) {
        let mut call = self.call(record.timestamp);
        match broken {
            Broken::EventAfterIngestion => {
                call.time = record.timestamp.plus_millis(self.random.between(5 * SECOND + 1, HOUR));
            }
            Broken::EventTooOld => {
                call.time = record.timestamp.plus_millis(-self.random.between(35 * 24 * HOUR + 1, 50 * 24 * HOUR));
            }
            _ => {}
        }
        self.write(record, &call);
        match break_payload(&mut record.payload, broken, &mut self.random) {
            TenantIn::Same => {}
            TenantIn::Other(tenant) => record.key = Some(tenant.into_bytes()),
            TenantIn::None => record.key = None,
        }
        record.broken = Some(broken);
        record.payload_len = record.payload.len() as u64;
        if broken == Broken::TooLarge {
            record.payload.resize(TOO_LARGE_KEPT_BYTES, b' ');
            record.payload_len = MAX_PAYLOAD_BYTES + 1 + self.random.below(1_000);
        }
    }

    /// A new call, reported at `now`.
    fn call(&mut self, now: Timestamp) -> Call {
        let (tenant, mood, ago) = self.pick_tenant();
        let ago = if ago == 0 && self.random.chance(self.config.late_share) { self.lateness() } else { ago };
        let time = now.plus_millis(-ago - self.random.between(0, 2 * SECOND));
        let seed = self.random.next();
        let plan = self.plan(tenant, time);
        let next = &mut self.sequences[(seed % EMITTERS as u64) as usize];
        let sequence = *next;
        *next += 1;
        Call { time, tenant, plan, mood, sequence, seed }
    }

    /// Who calls, how it goes, and how long ago it was.
    fn pick_tenant(&mut self) -> (u32, Mood, i64) {
        if self.burst.is_none() {
            self.burst = self.pick_burst();
        }
        if let Some(burst) = &mut self.burst
            && self.random.below(8) != 0
        {
            let mood = if burst.allowed == 0 { Mood::Throttled } else { burst.mood };
            let call = (burst.tenant, mood, burst.ago);
            burst.allowed = burst.allowed.saturating_sub(1);
            burst.left -= 1;
            if burst.left == 0 {
                self.burst = None;
            }
            return call;
        }
        let tenant = if self.random.chance(self.config.hot_share) { 0 } else { self.zipf.pick(&mut self.random) };
        (tenant, Mood::Usual, 0)
    }

    fn pick_burst(&mut self) -> Option<Burst> {
        let TrafficConfig { burst_share, auth_burst_share, backlog_share, .. } = self.config;
        if burst_share + auth_burst_share + backlog_share == 0.0 {
            return None;
        }
        let drawn = self.random.unit();
        if drawn >= burst_share + auth_burst_share + backlog_share {
            return None;
        }
        let tenant = self.zipf.pick(&mut self.random);
        if drawn < auth_burst_share {
            let left = self.random.between(40, 80) as u64;
            return Some(Burst { tenant, left, allowed: u64::MAX, mood: Mood::Unauthorized, ago: 0 });
        }
        let limit = self.limit_per_minute(tenant);
        let left = self.random.between(limit / 2, limit * 2).clamp(1, 2_000) as u64;
        let ago =
            if drawn < auth_burst_share + backlog_share { self.random.between(HOUR + MINUTE, 3 * HOUR) } else { 0 };
        Some(Burst { tenant, left, allowed: limit as u64, mood: Mood::Usual, ago })
    }

    /// How late a late event is: more than an hour.
    fn lateness(&mut self) -> i64 {
        if self.random.below(10) < 9 {
            self.random.between(HOUR + SECOND, 3 * HOUR - 2 * SECOND)
        } else {
            // 3 h × 2^(130 ÷ 16) are 34.9 days.
            let steps = self.random.below(131) as usize;
            (3.0 * HOUR as f64 * self.style.powers[steps]) as i64
        }
    }

    /// The busiest one in a hundred tenants are on the largest plan, and so on, but for one in ten on any.
    fn plan(&self, tenant: u32, at: Timestamp) -> u8 {
        let drawn = hash(u64::from(tenant) ^ self.config.seed);
        let plan = if drawn.is_multiple_of(10) {
            drawn >> 8 & 3
        } else {
            match u64::from(tenant) * 100 / u64::from(self.config.tenants.max(1)) {
                0 => 3,
                1..11 => 2,
                11..41 => 1,
                _ => 0,
            }
        };
        let changes = ((drawn >> 32) as f64 / f64::from(u32::MAX)) < self.config.plan_change_share;
        let changed = changes && at.millis().div_euclid(7 * MINUTE) % 2 == 0;
        ((plan + u64::from(changed)) % PLANS.len() as u64) as u8
    }

    fn limit_per_minute(&self, tenant: u32) -> i64 {
        let plan = PLANS[self.plan(tenant, self.config.start) as usize];
        self.config.catalog.terms("", plan, self.config.start).map_or(60, |terms| terms.per_minute)
    }

    fn schedule_retries(&mut self, now: Timestamp, call: Call) {
        for (share, restamped) in [(self.config.retry_share, false), (self.config.restamped_share, true)] {
            if share == 0.0 || !self.random.chance(share) {
                continue;
            }
            let delay = if self.random.chance(self.config.late_retry_share) {
                self.random.between(HOUR, 6 * HOUR)
            } else if self.random.below(4) == 0 {
                self.random.between(0, 5 * MINUTE)
            } else {
                self.random.between(0, 5 * SECOND)
            };
            let again = match restamped {
                true => Call { time: call.time.plus_millis(1 + self.random.between(0, delay)), ..call },
                false => call,
            };
            self.retries.push(Reverse((now.millis() + delay, again)));
        }
    }

    fn pick_broken(&mut self) -> Option<Broken> {
        if self.config.broken.is_empty() {
            return None;
        }
        let mut at = self.random.unit();
        for (kind, share) in &self.config.broken {
            if at < *share {
                return Some(*kind);
            }
            at -= share;
        }
        None
    }

    /// Writes all that is left, one record a line. Records that are too large are filled up with spaces, and tombstones are
    /// blank lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_ndjson(mut self, out: &mut impl Write) -> io::Result<()> {
        let mut record = TrafficRecord::default();
        while self.next_into(&mut record) {
            record.payload.resize(record.payload_len as usize, b' ');
            record.payload.push(b'\n');
            out.write_all(&record.payload)?;
        }
        Ok(())
    }

    /// All that is left as batches of at most `batch_len` records: those of a partition follow each other, and those of
    /// different ones are mixed as a source would deliver them.
    ///
    /// # Panics
    /// If `partitions` or `batch_len` is 0.
    pub fn to_batches(mut self, partitions: u32, framing: Framing, batch_len: usize) -> Vec<RecordBatch> {
        assert!(partitions > 0 && batch_len > 0, "no partition or no record a batch");
        let topic: Arc<str> = framing.topic().into();
        let mut random = Random::new(self.config.seed ^ 0x746f_7069_6373);
        let mut open: Vec<RecordBatchBuilder> =
            (0..partitions).map(|partition| RecordBatch::builder(topic.clone(), partition, 0)).collect();
        let mut next = vec![0u64; partitions as usize];
        let mut batches = Vec::new();
        let mut record = TrafficRecord::default();
        let (mut line, mut before) = (0, Timestamp::EPOCH);
        while self.next_into(&mut record) {
            let mut partition = record.key.as_deref().map_or(0, |key| murmur2_partition(key, partitions));
            let (mut payload, mut timestamp) = (Some(&record.payload[..]), record.timestamp);
            let offset = match framing {
                Framing::File => {
                    line += 1;
                    if record.payload.is_empty() {
                        continue;
                    }
                    if record.broken.is_some_and(Broken::is_dead) {
                        timestamp = before;
                    }
                    before = timestamp;
                    line - 1
                }
                Framing::Topic { gaps } => {
                    if record.broken == Some(Broken::Misrouted) {
                        partition = (partition + 1) % partitions;
                    }
                    payload = payload.filter(|payload| !payload.is_empty());
                    let gap = if random.chance(gaps) { 1 + random.below(5) } else { 0 };
                    next[partition as usize] + gap
                }
            };
            let builder = &mut open[partition as usize];
            let topic_headers = if framing == Framing::File { u64::MAX } else { random.below(20) };
            let enveloped = topic_headers == 0 && !record.broken.is_some_and(Broken::is_dead);
            if enveloped {
                envelope(&mut record.payload);
                builder.push(offset, timestamp, record.key.as_deref(), Some(&record.payload));
                builder.push_header("content-type", Some(b"application/cloudevents+json; charset=UTF-8"));
            } else {
                builder.push_truncated(offset, timestamp, record.key.as_deref(), payload, record.payload_len);
            }
            if topic_headers == 1 {
                builder.push_header("content-type", Some(b"application/json"));
                builder.push_header("ce_specversion", Some(b"1.0"));
                builder.push_header("trace", None);
            }
            next[partition as usize] = offset + 1;
            if builder.len() >= batch_len {
                let empty = RecordBatch::builder(topic.clone(), partition, offset + 1);
                batches.push(std::mem::replace(builder, empty).finish(offset + 1));
            }
        }
        for (builder, next) in open.into_iter().zip(next) {
            let to = if framing == Framing::File { line } else { next };
            if !builder.is_empty() || framing == Framing::File {
                batches.push(builder.finish(to));
            }
        }
        batches
    }
}

/// Makes an event the data of a CloudEvent.
fn envelope(payload: &mut Vec<u8>) {
    let head = br#"{"specversion":"1.0","id":"1","source":"/gateway","type":"api.usage","data": "#;
    payload.splice(..0, *head);
    payload.extend_from_slice(br#","time":"2026-01-05T08:00:00Z"}"#);
}

impl Iterator for Traffic {
    type Item = TrafficRecord;

    fn next(&mut self) -> Option<TrafficRecord> {
        let mut record = TrafficRecord::default();
        self.next_into(&mut record).then_some(record)
    }
}

/// The same records cut elsewhere: each batch is split into parts of the lengths that `length` answers (at least 1).
pub fn cut(batches: &[RecordBatch], mut length: impl FnMut() -> usize) -> Vec<RecordBatch> {
    let mut parts = Vec::new();
    for batch in batches {
        let (mut index, mut from) = (0usize, batch.from());
        loop {
            let end = index.saturating_add(length().max(1)).min(batch.len());
            let mut builder = RecordBatch::builder(batch.topic().clone(), batch.partition(), from);
            for record in batch.iter().skip(index).take(end - index) {
                builder.push_truncated(
                    record.offset(),
                    record.timestamp(),
                    record.key(),
                    record.payload(),
                    record.payload_len(),
                );
                record.headers().for_each(|(name, value)| builder.push_header(name, value));
            }
            from = if end < batch.len() { batch.get(end).offset() } else { batch.to() };
            index = end;
            parts.push(builder.finish(from));
            if end == batch.len() {
                break;
            }
        }
    }
    parts
}
