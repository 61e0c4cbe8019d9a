//! What the admit engine makes of a batch of records: the rows of Bronze and Silver.

use bytes::Bytes;
use uuid::Uuid;

use crate::Units;
use crate::record::{Record, RecordBatch, Text};
use crate::time::Timestamp;
use crate::validate::{EMPTY_PAYLOAD, INVALID_UTF8, NOT_AN_OBJECT, NOT_JSON, TOO_LARGE};

/// The HTTP methods an event may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum HttpMethod {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Trace,
}

impl HttpMethod {
    /// Every method, in the order of their names.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Delete,
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Patch,
        Self::Post,
        Self::Put,
        Self::Trace,
    ];

    /// The method's name, in capitals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
        }
    }

    /// The method of that name, in capitals; `None` for any other.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }
}

/// Accepted events of one partition in offset order, with all that Silver holds of them.
///
/// Rows are small and point into the bytes of the batch; cloning copies no text.
#[derive(Debug, Clone, Default)]
pub struct EventBatch {
    /// The payloads that most texts point into, and behind them, as if appended, the texts that had to be built
    /// (strings with escapes).
    pub(crate) base: Bytes,
    pub(crate) extra: Bytes,
    pub(crate) rows: Vec<EventRow>,
    pub(crate) labels: Vec<(Text, Text)>,
}

/// One accepted event. Texts are read with [`EventBatch::text`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct EventRow {
    pub offset: u64,
    /// The record timestamp, which is the ingestion time.
    pub ingestion_timestamp: Timestamp,
    pub event_timestamp: Timestamp,
    pub is_late: bool,
    pub event_id: Uuid,
    pub schema_version: Option<Text>,
    pub tenant_id: Text,
    pub api_key_id: Text,
    pub user_id: Option<Text>,
    pub endpoint: Text,
    pub http_method: HttpMethod,
    pub api_version: Option<Text>,
    pub response_status_code: u16,
    pub response_time_ms: f64,
    pub subscription_plan: Text,
    pub risk_score: Option<f64>,
    pub velocity_last_1min: Option<i64>,
    pub velocity_last_5min: Option<i64>,
    pub velocity_last_1hour: Option<i64>,
    pub ip_address: Option<Text>,
    pub country_code: Option<Text>,
    pub region: Option<Text>,
    pub user_agent: Option<Text>,
    pub sdk_version: Option<Text>,
    pub request_size_bytes: Option<i64>,
    pub response_size_bytes: Option<i64>,
    pub request_id: Option<Text>,
    pub trace_id: Option<Text>,
    pub emitter_id: Option<Text>,
    pub emitter_sequence: Option<i64>,
    /// As given; an event that gives none counts 1.
    pub billable_units: Option<Units>,
    /// As given; an event that gives none counts 1.
    pub quota_cost: Option<i64>,
    /// The labels' place in the batch, see [`EventBatch::labels`]; `None` where the event gives none.
    pub labels: Option<Text>,
}

impl EventRow {
    /// What the event counts against quotas: nothing if the request was denied.
    pub fn quota_used(&self) -> i64 {
        if self.response_status_code == 429 { 0 } else { self.quota_cost.unwrap_or(1).max(0) }
    }
}

impl EventBatch {
    /// An empty batch that owns its texts, to be filled by a store that reads rows back.
    pub fn builder() -> EventBatchBuilder {
        EventBatchBuilder::default()
    }

    /// The rows in offset order.
    pub fn rows(&self) -> &[EventRow] {
        &self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The same batch without the rows before offset `from`.
    pub fn since(&self, from: u64) -> Self {
        let first = self.rows.partition_point(|row| row.offset < from);
        self.with_rows(self.rows[first..].to_vec())
    }

    /// The same batch with these of its rows.
    pub(crate) fn with_rows(&self, rows: Vec<EventRow>) -> Self {
        Self { base: self.base.clone(), extra: self.extra.clone(), rows, labels: self.labels.clone() }
    }

    /// A text of one of this batch's rows.
    ///
    /// # Panics
    /// May panic, or answer another text, for one of another batch.
    pub fn text(&self, text: Text) -> &str {
        // Checked again rather than `unsafe`: it costs a few nanoseconds, and `bytes` is there for who has none.
        std::str::from_utf8(self.bytes(text)).expect("texts are UTF-8")
    }

    /// The bytes of a text of one of this batch's rows: always UTF-8, since texts are only made from `str`s.
    ///
    /// # Panics
    /// May panic, or answer another text's, for one of another batch.
    pub fn bytes(&self, text: Text) -> &[u8] {
        let range = text.range();
        match range.start.checked_sub(self.base.len()) {
            None => &self.base[range],
            Some(start) => &self.extra[start..start + text.len()],
        }
    }

    /// As [`EventBatch::text`], for an optional field.
    pub fn opt_text(&self, text: Option<Text>) -> Option<&str> {
        text.map(|text| self.text(text))
    }

    /// The labels of a row, by name in the order they were given; `None` where it gives none.
    pub fn labels(&self, row: &EventRow) -> Option<impl ExactSizeIterator<Item = (&str, &str)>> {
        row.labels
            .map(|span| self.labels[span.range()].iter().map(|(name, value)| (self.text(*name), self.text(*value))))
    }

    /// How many bytes the texts of a row have, labels included; none of them is looked at for it.
    pub fn text_bytes(&self, row: &EventRow) -> usize {
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
        ];
        let required = [row.tenant_id, row.api_key_id, row.endpoint, row.subscription_plan];
        let labels =
            self.labels[row.labels.unwrap_or_default().range()].iter().map(|(name, value)| name.len() + value.len());
        optional.into_iter().flatten().chain(required).map(Text::len).chain(labels).sum()
    }

    /// The memory of the rows, in bytes, without that of the records they point into.
    pub fn memory(&self) -> usize {
        self.rows.len() * size_of::<EventRow>() + self.extra.len() + self.labels.len() * size_of::<(Text, Text)>()
    }
}

/// Builds an [`EventBatch`] that owns its texts.
#[derive(Debug, Default)]
pub struct EventBatchBuilder {
    data: Vec<u8>,
    rows: Vec<EventRow>,
    labels: Vec<(Text, Text)>,
}

impl EventBatchBuilder {
    /// Keeps a text.
    ///
    /// # Panics
    /// If the batch passes 4 GiB.
    pub fn text(&mut self, text: &str) -> Text {
        let kept = Text::new(self.data.len(), text.len());
        self.data.extend_from_slice(text.as_bytes());
        kept
    }

    /// Keeps an optional text.
    pub fn opt_text(&mut self, text: Option<&str>) -> Option<Text> {
        text.map(|text| self.text(text))
    }

    /// Keeps labels, to be put in [`EventRow::labels`].
    pub fn labels<'a>(&mut self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Text {
        let start = self.labels.len();
        for (name, value) in labels {
            let label = (self.text(name), self.text(value));
            self.labels.push(label);
        }
        Text::new(start, self.labels.len() - start)
    }

    /// Adds a row whose texts this builder made.
    pub fn push(&mut self, row: EventRow) {
        self.rows.push(row);
    }

    /// Adds a copy of a row of another batch, with its texts.
    pub fn push_copy(&mut self, from: &EventBatch, row: &EventRow) {
        let mut opt = |text| self.opt_text(from.opt_text(text));
        let copy = EventRow {
            schema_version: opt(row.schema_version),
            user_id: opt(row.user_id),
            api_version: opt(row.api_version),
            ip_address: opt(row.ip_address),
            country_code: opt(row.country_code),
            region: opt(row.region),
            user_agent: opt(row.user_agent),
            sdk_version: opt(row.sdk_version),
            request_id: opt(row.request_id),
            trace_id: opt(row.trace_id),
            emitter_id: opt(row.emitter_id),
            tenant_id: self.text(from.text(row.tenant_id)),
            api_key_id: self.text(from.text(row.api_key_id)),
            endpoint: self.text(from.text(row.endpoint)),
            subscription_plan: self.text(from.text(row.subscription_plan)),
            labels: from.labels(row).map(|labels| self.labels(labels)),
            ..*row
        };
        self.push(copy);
    }

    /// The batch.
    pub fn finish(self) -> EventBatch {
        EventBatch { base: self.data.into(), extra: Bytes::new(), rows: self.rows, labels: self.labels }
    }
}

/// A record that is no JSON object: a row of `dead_letter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its index in the batch of records.
    pub index: u32,
    /// `empty_payload`, `too_large`, `invalid_utf8`, `not_json` or `not_an_object`.
    pub code: &'static str,
    /// What was wrong, and where.
    pub error: String,
}

impl DeadLetter {
    /// The code of that name, where it is one.
    pub fn code_named(name: &str) -> Option<&'static str> {
        [EMPTY_PAYLOAD, TOO_LARGE, INVALID_UTF8, NOT_JSON, NOT_AN_OBJECT].into_iter().find(|code| *code == name)
    }
}

/// Dead letters of a span of one partition.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    /// The records. They are all the dead letters of the batch's span, of which there may be none.
    pub records: RecordBatch,
    /// What is wrong with each of them, in their order.
    pub letters: Vec<DeadLetter>,
}

impl DeadLetters {
    /// Those among records that were admitted, from offset `from` on.
    ///
    /// # Panics
    /// If `from` is not in the span of the records or its end.
    pub fn of(admitted: &Admitted, from: u64) -> Self {
        let records = &admitted.records;
        assert!((records.from()..=records.to()).contains(&from), "offset {from} is not in the span");
        let mut builder = RecordBatch::builder(records.topic().clone(), records.partition(), from);
        let mut letters = Vec::new();
        for dead in &admitted.dead {
            let record = records.get(dead.index as usize);
            if record.offset() >= from {
                builder.push_record(&record);
                letters.push(DeadLetter { index: letters.len() as u32, ..dead.clone() });
            }
        }
        Self { records: builder.finish(records.to()), letters }
    }

    /// Each record, and what is wrong with it.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Record<'_>, &DeadLetter)> {
        self.letters.iter().map(|letter| (self.records.get(letter.index as usize), letter))
    }
}

/// A record that failed validation: a row of `quarantine_silver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its index in the batch of records.
    pub index: u32,
    /// `event_id` as given, where it is a string.
    pub event_id: Option<String>,
    /// `tenant_id` as given, where it is a string.
    pub tenant_id: Option<String>,
    /// `code:field`, sorted.
    pub errors: Vec<String>,
}

/// How the records of a span were judged, cumulative from the beginning of the partition.
///
/// The ledger holds where `read = bronze + dead_lettered` and `bronze = accepted + duplicates + quarantined`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records read.
    pub read: u64,
    /// Records that are no JSON object.
    pub dead_lettered: u64,
    /// Records that have a Silver row.
    pub accepted: u64,
    /// Valid records whose key was accepted before.
    pub duplicates: u64,
    /// Records that failed validation.
    pub quarantined: u64,
}

impl Counts {
    /// Records in Bronze.
    pub fn bronze(&self) -> u64 {
        self.read - self.dead_lettered
    }

    /// Whether both equations of the ledger hold.
    pub fn balanced(&self) -> bool {
        self.read >= self.dead_lettered && self.bronze() == self.accepted + self.duplicates + self.quarantined
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.dead_lettered += other.dead_lettered;
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.quarantined += other.quarantined;
    }
}

/// What became of a batch of records. Records that are in none of the three lists are duplicates.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The records. Those not in `dead` are the rows of Bronze.
    pub records: RecordBatch,
    /// The rows of `dead_letter`, by rising index.
    pub dead: Vec<DeadLetter>,
    /// The rows of `quarantine_silver`, by rising index.
    pub quarantined: Vec<Quarantined>,
    /// The rows of `silver_api_usage`.
    pub accepted: EventBatch,
    /// The partition's counts after this batch.
    pub counts: Counts,
    /// The partition's watermark after this batch; `None` before the first accepted event.
    pub watermark: Option<Timestamp>,
}
