//! Two snapshots of the tables, compared to the last row, and where they differ in words.

use std::borrow::Cow;
use std::fmt;

use crate::decimal::{Money, Units};
use crate::gold::{AlertRow, EndpointRow, UsageRow};
use crate::rows::{EventBatch, EventRow};
use crate::store::Table;
use crate::time::Timestamp;

use super::snapshot::{DeadLetterRow, QuarantineRow, RecordRow, Snapshot};

/// How two snapshots are compared. `state` never is: it is the engine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    estimates: bool,
    coordinates: bool,
}

impl Comparison {
    /// An engine's tables with the reference's, which knows exactly what engines may estimate: percentiles are the same within 2 %
    /// (and a microsecond, their resolution), `distinct_api_keys` above 1,000 within 10 %. All else is the same to the bit.
    pub fn with_reference() -> Self {
        Self { estimates: true, coordinates: true }
    }

    /// The tables of two runs of an engine: all is the same to the bit.
    pub fn exact() -> Self {
        Self { estimates: false, coordinates: true }
    }

    /// Leaves out what depends on where records come from and in how many partitions: topic, partition and offsets, and with
    /// the watermark `is_final`.
    pub fn ignoring_coordinates(self) -> Self {
        Self { coordinates: false, ..self }
    }

    /// Compares all tables; the order of rows does not matter, how often each is there does.
    ///
    /// # Errors
    /// The differences, which print as a list.
    pub fn compare(self, got: &Snapshot, expected: &Snapshot) -> Result<(), Differences> {
        let mut differences = Differences::default();
        self.table(Table::Bronze, &got.bronze, &expected.bronze, &mut differences);
        if let (Some(got), Some(expected)) = (&got.dead_letter, &expected.dead_letter) {
            self.table(Table::DeadLetter, got, expected, &mut differences);
        }
        if let (Some(got), Some(expected)) = (&got.quarantine, &expected.quarantine) {
            self.table(Table::Quarantine, got, expected, &mut differences);
        }
        self.table(Table::Silver, silver(got), silver(expected), &mut differences);
        self.table(Table::UsageMinute, &got.minute, &expected.minute, &mut differences);
        self.table(Table::UsageHour, &got.hour, &expected.hour, &mut differences);
        self.table(Table::EndpointHour, &got.endpoint, &expected.endpoint, &mut differences);
        self.table(Table::UsageMonth, &got.month, &expected.month, &mut differences);
        self.table(Table::Alerts, &got.alerts, &expected.alerts, &mut differences);
        if differences.count == 0 { Ok(()) } else { Err(differences) }
    }

    fn table<'a, R: Row<'a>>(
        self,
        table: Table,
        got: impl IntoIterator<Item = R>,
        expected: impl IntoIterator<Item = R>,
        differences: &mut Differences,
    ) {
        let sorted = |rows: Vec<R>| {
            let mut rows = rows;
            rows.sort_by(|a, b| a.key(self.coordinates).cmp(&b.key(self.coordinates)));
            rows.into_iter().peekable()
        };
        let (mut got, mut expected) = (sorted(got.into_iter().collect()), sorted(expected.into_iter().collect()));
        loop {
            let order = match (got.peek(), expected.peek()) {
                (Some(got), Some(expected)) => got.key(self.coordinates).cmp(&expected.key(self.coordinates)),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return,
            };
            let got = if order.is_le() { got.next() } else { None };
            let expected = if order.is_ge() { expected.next() } else { None };
            match (got, expected) {
                (Some(got), Some(expected)) => self.row(table, got, expected, differences),
                (Some(row), None) => differences.add(table, row, "the row", "present", "absent"),
                (None, Some(row)) => differences.add(table, row, "the row", "absent", "present"),
                (None, None) => {}
            }
        }
    }

    fn row<'a, R: Row<'a>>(self, table: Table, got: R, expected: R, differences: &mut Differences) {
        for ((column, got_value), (_, value)) in got.columns().into_iter().zip(expected.columns()) {
            let ignored = !self.coordinates
                && matches!(column, "topic" | "partition" | "offset" | "first_offset" | "last_offset" | "is_final");
            if !ignored && !got_value.agrees(&value, self.estimates) {
                differences.add(table, expected, column, got_value, value);
            }
        }
    }
}

/// One thing that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Difference {
    pub table: Table,
    /// The row, by its key.
    pub row: String,
    pub column: &'static str,
    pub got: String,
    pub expected: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, row, column, got, expected } = self;
        write!(f, "{} [{row}] {column}: got {got}, expected {expected}", table.name())
    }
}

/// How two snapshots differ: how often, and the first cases of each table.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Differences {
    /// All differences.
    pub count: usize,
    /// The first of each table.
    pub first: Vec<Difference>,
}

impl Differences {
    const KEPT: usize = 5;

    fn add<'a>(
        &mut self,
        table: Table,
        row: impl Row<'a>,
        column: &'static str,
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) {
        self.count += 1;
        if self.first.iter().filter(|difference| difference.table == table).count() < Self::KEPT {
            let (row, got, expected) = (row.name(), got.to_string(), expected.to_string());
            self.first.push(Difference { table, row, column, got, expected });
        }
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the tables differ in {} value(s):", self.count)?;
        self.first.iter().try_for_each(|difference| write!(f, "\n  {difference}"))
    }
}

impl fmt::Debug for Differences {
    /// As [`fmt::Display`], for `unwrap` in tests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Differences {}

/// What a column holds.
enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    /// A float that an engine may estimate within 2 %.
    Percentile(f64),
    /// A count that an engine may estimate within 10 % where it is above 1,000.
    Distinct(i64),
    Units(Units),
    Money(Money),
    Time(Timestamp),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    /// Not compared.
    Any,
}

impl Value<'_> {
    fn agrees(&self, expected: &Self, estimates: bool) -> bool {
        match (self, expected) {
            (Self::Null, Self::Null) | (Self::Any, _) | (_, Self::Any) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Percentile(a), Self::Percentile(b)) if estimates => (a - b).abs() <= 0.02 * b + 0.001,
            (Self::Distinct(a), Self::Distinct(b)) if estimates && *b > 1_000 => {
                a.abs_diff(*b) * 10 <= b.unsigned_abs()
            }
            (Self::Distinct(a), Self::Distinct(b)) => a == b,
            // Zero has two forms of which no table distinguishes one.
            (Self::Float(a) | Self::Percentile(a), Self::Float(b) | Self::Percentile(b)) => {
                a == b || a.to_bits() == b.to_bits()
            }
            (Self::Units(a), Self::Units(b)) => a == b,
            (Self::Money(a), Self::Money(b)) => a == b,
            (Self::Time(a), Self::Time(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.agrees(b, estimates))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Any => f.write_str("anything"),
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) | Self::Percentile(value) => value.fmt(f),
            Self::Distinct(value) => value.fmt(f),
            Self::Units(value) => value.fmt(f),
            Self::Money(value) => value.fmt(f),
            Self::Time(value) => value.fmt(f),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::Bytes(value) => write!(f, "{:?}", String::from_utf8_lossy(value)),
            Self::List(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}

macro_rules! value_from {
    ($($type:ty => |$value:ident| $into:expr),* $(,)?) => {$(
        impl<'a> From<$type> for Value<'a> {
            fn from($value: $type) -> Self {
                $into
            }
        }
    )*};
}
value_from! {
    bool => |value| Self::Bool(value),
    u16 => |value| Self::Integer(value.into()),
    u32 => |value| Self::Integer(value.into()),
    u64 => |value| Self::Integer(value.into()),
    i64 => |value| Self::Integer(value.into()),
    i128 => |value| Self::Integer(value),
    f64 => |value| Self::Float(value),
    Units => |value| Self::Units(value),
    Money => |value| Self::Money(value),
    Timestamp => |value| Self::Time(value),
    &'a str => |value| Self::Text(value.into()),
    &'a [u8] => |value| Self::Bytes(value),
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, T::into)
    }
}

type Columns<'a> = Vec<(&'static str, Value<'a>)>;

/// A row of some table.
trait Row<'a>: Copy {
    type Key: Ord;

    /// What rows are paired by: where `coordinates` count they alone, or else what there is of content.
    fn key(self, coordinates: bool) -> Self::Key;

    /// How a reader finds the row.
    fn name(self) -> String;

    fn columns(self) -> Columns<'a>;
}

/// The fields of `$row` as columns of their names.
macro_rules! columns {
    ($row:expr => $($field:ident),* $(,)?) => {
        vec![$((stringify!($field), Value::from($row.$field))),*]
    };
}

fn coordinates((partition, offset): (u32, u64)) -> String {
    format!("partition {partition}, offset {offset}")
}

type RecordKey<'a> = (Option<(u32, u64)>, Option<(Timestamp, Option<&'a [u8]>, Option<&'a [u8]>)>);

impl RecordRow {
    fn place(&self) -> (u32, u64) {
        (self.partition, self.offset)
    }
}

impl<'a> Row<'a> for &'a RecordRow {
    type Key = RecordKey<'a>;

    fn key(self, coordinates: bool) -> Self::Key {
        match coordinates {
            true => (Some(self.place()), None),
            false => (None, Some((self.timestamp, self.payload.as_deref(), self.key.as_deref()))),
        }
    }

    fn name(self) -> String {
        coordinates(self.place())
    }

    fn columns(self) -> Columns<'a> {
        let headers = self.headers.iter().flat_map(|(name, value)| [(&**name).into(), value.as_deref().into()]);
        vec![
            ("topic", (&*self.topic).into()),
            ("partition", self.partition.into()),
            ("offset", self.offset.into()),
            ("record_timestamp", self.timestamp.into()),
            ("key", self.key.as_deref().into()),
            ("payload", self.payload.as_deref().into()),
            ("headers", Value::List(headers.collect())),
        ]
    }
}

impl<'a> Row<'a> for &'a DeadLetterRow {
    type Key = RecordKey<'a>;

    fn key(self, coordinates: bool) -> Self::Key {
        (&self.record).key(coordinates)
    }

    fn name(self) -> String {
        (&self.record).name()
    }

    fn columns(self) -> Columns<'a> {
        let error = if self.code == "too_large" { Value::Any } else { (&*self.error).into() };
        let mut columns = (&self.record).columns();
        columns.push(("payload_len", self.payload_len.into()));
        columns.push(("code", (&*self.code).into()));
        columns.push(("error", error));
        columns
    }
}

impl<'a> Row<'a> for &'a QuarantineRow {
    type Key = RecordKey<'a>;

    fn key(self, coordinates: bool) -> Self::Key {
        match coordinates {
            true => (Some((self.partition, self.offset)), None),
            false => (None, Some((self.timestamp, Some(&self.payload), None))),
        }
    }

    fn name(self) -> String {
        coordinates((self.partition, self.offset))
    }

    fn columns(self) -> Columns<'a> {
        vec![
            ("partition", self.partition.into()),
            ("offset", self.offset.into()),
            ("record_timestamp", self.timestamp.into()),
            ("payload", self.payload[..].into()),
            ("event_id", self.event_id.as_deref().into()),
            ("tenant_id", self.tenant_id.as_deref().into()),
            ("quality_check_errors", Value::List(self.errors.iter().map(|error| (&**error).into()).collect())),
        ]
    }
}

/// A row of Silver and the batch that holds its texts.
#[derive(Clone, Copy)]
struct SilverRow<'a> {
    partition: u32,
    batch: &'a EventBatch,
    row: &'a EventRow,
}

fn silver(tables: &Snapshot) -> impl Iterator<Item = SilverRow<'_>> {
    tables.silver.iter().flat_map(|rows| {
        let (partition, batch) = (rows.partition, &rows.events);
        batch.rows().iter().map(move |row| SilverRow { partition, batch, row })
    })
}

impl<'a> Row<'a> for SilverRow<'a> {
    type Key = (Option<(u32, u64)>, Option<(&'a str, [u8; 16], Timestamp, Timestamp)>);

    fn key(self, coordinates: bool) -> Self::Key {
        let row = self.row;
        match coordinates {
            true => (Some((self.partition, row.offset)), None),
            false => {
                let tenant = self.batch.text(row.tenant_id);
                (None, Some((tenant, row.event_id.into_bytes(), row.event_timestamp, row.ingestion_timestamp)))
            }
        }
    }

    fn name(self) -> String {
        coordinates((self.partition, self.row.offset))
    }

    fn columns(self) -> Columns<'a> {
        let Self { partition, batch, row } = self;
        let mut columns = columns!(row =>
            offset, ingestion_timestamp, event_timestamp, is_late, response_status_code, response_time_ms,
            risk_score, velocity_last_1min, velocity_last_5min, velocity_last_1hour, request_size_bytes,
            response_size_bytes, emitter_sequence, billable_units, quota_cost,
        );
        macro_rules! texts {
            ($($field:ident),*) => {$(columns.push((stringify!($field), batch.text(row.$field).into()));)*};
        }
        macro_rules! optional_texts {
            ($($field:ident),*) => {$(columns.push((stringify!($field), batch.opt_text(row.$field).into()));)*};
        }
        texts!(tenant_id, api_key_id, endpoint, subscription_plan);
        optional_texts!(
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
            emitter_id
        );
        columns.push(("partition", partition.into()));
        columns.push(("event_id", Value::Text(row.event_id.to_string().into())));
        columns.push(("http_method", row.http_method.as_str().into()));
        columns.push((
            "labels",
            batch.labels(row).map_or(Value::Null, |labels| {
                Value::List(labels.flat_map(|(name, value)| [name.into(), value.into()]).collect())
            }),
        ));
        columns
    }
}

impl<'a> Row<'a> for &'a UsageRow {
    type Key = (&'a str, Timestamp);

    fn key(self, _: bool) -> Self::Key {
        (&self.tenant_id, self.window_start)
    }

    fn name(self) -> String {
        format!("{} {}", self.tenant_id, self.window_start)
    }

    fn columns(self) -> Columns<'a> {
        let mut columns = columns!(self =>
            window_start, window_end, is_final, total_requests, throttled_requests, auth_failures, client_errors,
            server_errors, admitted_requests, quota_attempted, quota_used, billable_requests, billable_units,
            late_requests, request_bytes, response_bytes, response_time_us_sum, response_time_ms_max,
            risk_score_mean, risk_score_max, plan_limit, over_limit, over_limit_count, usage_ratio, first_offset,
            last_offset, cost, amount_due,
        );
        columns.extend([
            ("tenant_id", (&*self.tenant_id).into()),
            ("response_time_ms_p50", Value::Percentile(self.response_time_ms_p50)),
            ("response_time_ms_p95", Value::Percentile(self.response_time_ms_p95)),
            ("response_time_ms_p99", Value::Percentile(self.response_time_ms_p99)),
            ("distinct_api_keys", Value::Distinct(self.distinct_api_keys)),
            ("subscription_plan", (&*self.subscription_plan).into()),
            ("currency", self.currency.as_deref().into()),
        ]);
        columns
    }
}

impl<'a> Row<'a> for &'a EndpointRow {
    type Key = (&'a str, Timestamp, &'a str, &'static str, &'a str);

    fn key(self, _: bool) -> Self::Key {
        (&self.tenant_id, self.window_start, &self.endpoint, self.http_method.as_str(), &self.subscription_plan)
    }

    fn name(self) -> String {
        let EndpointRow { tenant_id, window_start, endpoint, http_method, subscription_plan, .. } = self;
        format!("{tenant_id} {window_start} {} {endpoint} {subscription_plan}", http_method.as_str())
    }

    fn columns(self) -> Columns<'a> {
        columns!(self =>
            window_start, window_end, is_final, total_requests, billable_requests, billable_units, server_errors,
            response_time_us_sum, cost,
        )
    }
}

impl<'a> Row<'a> for &'a AlertRow {
    type Key = (&'a str, Timestamp, &'static str, &'static str);

    fn key(self, _: bool) -> Self::Key {
        (&self.tenant_id, self.window_start, self.window_kind.as_str(), self.alert_type.as_str())
    }

    fn name(self) -> String {
        let AlertRow { tenant_id, window_start, window_kind, alert_type, .. } = self;
        format!("{tenant_id} {window_start} {window_kind} {}", alert_type.as_str())
    }

    fn columns(self) -> Columns<'a> {
        let mut columns = columns!(self =>
            window_end, total_requests, admitted_requests, quota_attempted, quota_used, plan_limit, over_limit_count,
            raised_late, risk, spike_ratio,
        );
        columns.extend([
            ("alert_id", Value::Text(self.alert_id.to_string().into())),
            ("severity", self.severity.as_str().into()),
            ("subscription_plan", (&*self.subscription_plan).into()),
            ("reasons", Value::List(self.reasons.iter().map(|reason| (*reason).into()).collect())),
        ]);
        columns
    }
}
