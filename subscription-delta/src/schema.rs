//! The tables: their columns, what partitions them, their properties.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use deltalake::arrow::datatypes::{DataType as Arrow, Field, FieldRef, Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow as _;
use deltalake::kernel::{ArrayType, DataType, MapType, Metadata, Protocol, StructField, StructType};
use deltalake::parquet::arrow::ArrowSchemaConverter;
use deltalake::parquet::schema::types::SchemaDescPtr;
use deltalake::schema::MetadataValue;
use subscription_core::{Error, ErrorKind, Money, Result, Table, Units};

/// A column as it is handed to the writer. Bronze's payloads are most of all bytes: views of where they are anyway.
/// Silver's texts are slices of payloads that were found to be UTF-8: as bytes nobody checks them again.
fn as_written(table: Table, field: &FieldRef) -> FieldRef {
    match table {
        Table::Bronze if field.name() == "payload" => Field::clone(field).with_data_type(Arrow::BinaryView).into(),
        Table::Silver if *field.data_type() == Arrow::Utf8 => Field::clone(field).with_data_type(Arrow::Binary).into(),
        _ => field.clone(),
    }
}

/// Decimal places of `response_time_ms_sum`: whole microseconds.
pub(crate) const RESPONSE_TIME_SCALE: u32 = 3;

/// How one table is laid out.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) table: Table,
    /// What one row is.
    pub(crate) row: &'static str,
    /// All columns, the partition column last.
    pub(crate) columns: StructType,
    /// The columns as they are in memory.
    pub(crate) arrow: SchemaRef,
    /// Those that are in the data files, as they are handed to the writer: all but the partition column, whose value is
    /// in the log.
    pub(crate) file: SchemaRef,
    /// The schema of the data files.
    pub(crate) parquet: SchemaDescPtr,
    /// The columns with statistics in the log, which readers prune by.
    pub(crate) statistics: &'static [&'static str],
    /// The column of time among them.
    pub(crate) time: &'static str,
    /// Table properties.
    pub(crate) properties: BTreeMap<&'static str, String>,
}

impl Layout {
    /// The layout of a table.
    pub(crate) fn of(table: Table) -> &'static Self {
        static LAYOUTS: LazyLock<Vec<Layout>> = LazyLock::new(|| Table::ALL.into_iter().map(Layout::build).collect());
        &LAYOUTS[table as usize]
    }

    fn build(table: Table) -> Self {
        let (row, fields) = match table {
            Table::Bronze => ("one record whose payload is a JSON object, byte for byte", bronze()),
            Table::DeadLetter => ("one record that is no JSON object", dead_letter()),
            Table::Silver => ("one accepted event", silver()),
            Table::Quarantine => ("one rejected record", quarantine()),
            Table::UsageMinute => ("the usage of one tenant in one minute", usage(false)),
            Table::UsageHour => ("the usage of one tenant in one hour", usage(false)),
            Table::UsageMonth => ("the usage of one tenant in one calendar month (UTC): the bill", usage(true)),
            Table::EndpointHour => ("the usage of one endpoint by one tenant in one hour, with its cost", endpoint()),
            Table::Alerts => ("one alert about one tenant and one window", alerts()),
        };
        let (statistics, time): (&[&str], _) = match table {
            Table::Bronze | Table::DeadLetter | Table::Quarantine => {
                (&["partition", "offset", "record_timestamp"], "record_timestamp")
            }
            Table::Silver => (&["partition", "offset", "event_timestamp"], "event_timestamp"),
            _ => (&["partition", "tenant_id", "window_start"], "window_start"),
        };
        let properties = BTreeMap::from([
            ("delta.checkpointInterval", "100".to_owned()),
            ("delta.logRetentionDuration", "interval 7 days".to_owned()),
            // Gold is replaced every few seconds, and a day's commits are tens of thousands of files to compact: what was
            // replaced would fill the checkpoints for a week.
            ("delta.deletedFileRetentionDuration", "interval 3 hours".to_owned()),
            ("delta.dataSkippingStatsColumns", statistics.join(",")),
        ]);
        let columns = StructType::try_new(fields).expect("columns of different names");
        let arrow: Schema = (&columns).try_into_arrow().expect("types that Arrow has");
        let in_files = || arrow.fields().iter().filter(|field| field.name() != table.partition_column());
        let file = Schema::new(in_files().map(|field| as_written(table, field)).collect::<Vec<_>>());
        let parquet = ArrowSchemaConverter::new().convert(&Schema::new(in_files().cloned().collect::<Vec<_>>()));
        Self {
            table,
            row,
            columns,
            file: file.into(),
            parquet: parquet.expect("types that Parquet has").into(),
            arrow: arrow.into(),
            statistics,
            time,
            properties,
        }
    }

    /// Whether a table that is there can be written by the rules of the protocol that is known here.
    ///
    /// # Errors
    /// `Mismatch`.
    pub(crate) fn check_protocol(&self, protocol: &Protocol, path: &str) -> Result<()> {
        if protocol.min_reader_version() > 1 || protocol.min_writer_version() > 2 {
            let message = format!(
                "the table asks for Delta reader {} and writer {}, and this program is 1 and 2",
                protocol.min_reader_version(),
                protocol.min_writer_version()
            );
            return Err(self
                .mismatch(path, message)
                .with_help("another tool has enabled a table feature: disable it (DROP FEATURE), or use a new lake"));
        }
        Ok(())
    }

    fn mismatch(&self, path: &str, message: String) -> Error {
        Error::new(ErrorKind::Mismatch, message).with("table", self.table.name()).with("path", path)
    }

    /// Whether a table that is there has the same columns.
    ///
    /// # Errors
    /// `Mismatch`, naming the column.
    pub(crate) fn check_columns(&self, metadata: &Metadata, path: &str) -> Result<()> {
        let mismatch = |message| self.mismatch(path, message);
        let help = "this lake was filled by another version or another program: use a new lake, or that version";
        let found = metadata.parse_schema().map_err(|error| {
            mismatch("the table's schema cannot be read".to_owned()).with_source(error).with_help(help)
        })?;
        for expected in self.columns.fields() {
            let Some(column) = found.field(expected.name()) else {
                return Err(mismatch(format!("the table has no column `{}`", expected.name()))
                    .with("column", expected.name())
                    .with_help(help));
            };
            if column.data_type() != expected.data_type() || column.is_nullable() != expected.is_nullable() {
                return Err(mismatch(format!(
                    "column `{}` is {}, not {}",
                    expected.name(),
                    describe(column),
                    describe(expected)
                ))
                .with("column", expected.name())
                .with_help(help));
            }
        }
        if let Some(other) = found.fields().find(|field| self.columns.field(field.name()).is_none()) {
            return Err(mismatch(format!("the table has a column `{}` that is not known", other.name()))
                .with("column", other.name())
                .with_help(help));
        }
        let by = metadata.partition_columns();
        if *by != [self.table.partition_column()] {
            return Err(mismatch(format!(
                "the table is partitioned by [{}], not by [{}]",
                by.join(", "),
                self.table.partition_column()
            ))
            .with("column", self.table.partition_column())
            .with_help(help));
        }
        Ok(())
    }
}

/// A column's type in words.
pub(crate) fn describe(field: &StructField) -> String {
    let null = if field.is_nullable() { "" } else { " not null" };
    format!("{}{null}", type_name(field.data_type()))
}

fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Array(array) => format!("array<{}>", type_name(array.element_type())),
        DataType::Map(map) => format!("map<{}, {}>", type_name(map.key_type()), type_name(map.value_type())),
        DataType::Struct(fields) => {
            let fields = fields.fields().map(|field| format!("{}: {}", field.name(), type_name(field.data_type())));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn column(name: &str, data_type: impl Into<DataType>, nullable: bool, comment: &str) -> StructField {
    StructField::new(name, data_type, nullable).with_metadata([("comment", MetadataValue::String(comment.to_owned()))])
}

fn required(name: &str, data_type: impl Into<DataType>, comment: &str) -> StructField {
    column(name, data_type, false, comment)
}

fn optional(name: &str, data_type: impl Into<DataType>, comment: &str) -> StructField {
    column(name, data_type, true, comment)
}

fn decimal(scale: u32) -> DataType {
    let scale = u8::try_from(scale).expect("a small scale");
    DataType::decimal(38, scale).expect("a scale of at most 38")
}

fn coordinates() -> Vec<StructField> {
    vec![
        required("topic", DataType::STRING, "The topic that the record came from; `file` for files."),
        required("partition", DataType::INTEGER, "The partition of the topic."),
        required("offset", DataType::LONG, "The record's offset in the partition."),
        required("record_timestamp", DataType::TIMESTAMP, "The record's timestamp, which is its ingestion time."),
    ]
}

fn key_and_headers() -> [StructField; 2] {
    let header = StructType::try_new([
        StructField::new("name", DataType::STRING, false),
        StructField::new("value", DataType::BINARY, true),
    ])
    .expect("two names");
    [
        optional("key", DataType::BINARY, "The record's key, as it came."),
        required("headers", ArrayType::new(DataType::from(header), false), "The record's headers, in their order."),
    ]
}

fn bronze() -> Vec<StructField> {
    let mut fields = coordinates();
    fields.extend(key_and_headers());
    fields.extend([
        required("payload", DataType::STRING, "The record's payload, byte for byte."),
        required("ingestion_date", DataType::DATE, "The UTC date of `record_timestamp`."),
    ]);
    fields
}

fn dead_letter() -> Vec<StructField> {
    let mut fields = coordinates();
    fields.extend(key_and_headers());
    fields.extend([
        optional(
            "payload",
            DataType::BINARY,
            "The payload as it came, null for a tombstone; the first 4 KiB of one above 16 MiB.",
        ),
        required("payload_length", DataType::LONG, "The payload's length at its source, in bytes."),
        required(
            "error_code",
            DataType::STRING,
            "`empty_payload`, `too_large`, `invalid_utf8`, `not_json` or `not_an_object`.",
        ),
        required("error", DataType::STRING, "What was wrong, and where."),
        required("ingestion_date", DataType::DATE, "The UTC date of `record_timestamp`."),
    ]);
    fields
}

fn quarantine() -> Vec<StructField> {
    let mut fields = coordinates();
    fields.extend([
        required("payload", DataType::STRING, "The record's payload, byte for byte."),
        optional("event_id", DataType::STRING, "`event_id` as given, where it is a string."),
        optional("tenant_id", DataType::STRING, "`tenant_id` as given, where it is a string."),
        required(
            "quality_check_errors",
            ArrayType::new(DataType::STRING, false),
            "The checks that failed, as `code:field`, sorted; all of the first failing group.",
        ),
        required("quarantine_timestamp", DataType::TIMESTAMP, "The ingestion time."),
        required("reprocessed", DataType::BOOLEAN, "Whether the record was taken in again; false when it is written."),
        required("quarantine_date", DataType::DATE, "The UTC date of `quarantine_timestamp`."),
    ]);
    fields
}

fn silver() -> Vec<StructField> {
    let mut fields = coordinates();
    fields.extend([
        required("ingestion_timestamp", DataType::TIMESTAMP, "The ingestion time: the record's timestamp."),
        required("event_timestamp", DataType::TIMESTAMP, "When the call happened, by the gateway's clock."),
        required("is_late", DataType::BOOLEAN, "Whether the event came in more than an hour after it happened."),
        required("event_id", DataType::STRING, "The event's id: a UUID in lower case."),
        optional("schema_version", DataType::STRING, "The version of the event's schema."),
        required("tenant_id", DataType::STRING, "The customer."),
        required("api_key_id", DataType::STRING, "The credential; never the secret itself."),
        optional("user_id", DataType::STRING, "The principal behind the credential."),
        required("endpoint", DataType::STRING, "The path that was called, without its query."),
        required("http_method", DataType::STRING, "The HTTP method."),
        optional("api_version", DataType::STRING, "The version of the API."),
        required("response_status_code", DataType::INTEGER, "The HTTP status, 100 to 599."),
        required("response_time_ms", DataType::DOUBLE, "How long the answer took, in milliseconds."),
        required("subscription_plan", DataType::STRING, "The plan that the tenant was on."),
        optional("risk_score", DataType::DOUBLE, "The gateway's judgement, 0 to 1."),
        optional("velocity_last_1min", DataType::LONG, "Requests of the last minute, as the gateway saw it."),
        optional("velocity_last_5min", DataType::LONG, "Requests of the last five minutes, as the gateway saw it."),
        optional("velocity_last_1hour", DataType::LONG, "Requests of the last hour, as the gateway saw it."),
        optional("ip_address", DataType::STRING, "The client's address."),
        optional("country_code", DataType::STRING, "The client's country, two letters."),
        optional("region", DataType::STRING, "The client's region."),
        optional("user_agent", DataType::STRING, "The client's `User-Agent`."),
        optional("sdk_version", DataType::STRING, "The version of the client's SDK."),
        optional("request_size_bytes", DataType::LONG, "The size of the request, in bytes."),
        optional("response_size_bytes", DataType::LONG, "The size of the answer, in bytes."),
        optional("request_id", DataType::STRING, "The id of the request."),
        optional("trace_id", DataType::STRING, "The id of the trace, 32 hex digits."),
        optional("emitter_id", DataType::STRING, "One start of one emitting process."),
        optional("emitter_sequence", DataType::LONG, "Counts that emitter's events from 0."),
        optional("billable_units", decimal(Units::SCALE), "As given; an event that gives none counts 1."),
        optional("quota_cost", DataType::LONG, "What the request took, or asked, of its limits; null counts 1."),
        optional("labels", MapType::new(DataType::STRING, DataType::STRING, false), "Free labels by name."),
        required("event_date", DataType::DATE, "The UTC date of `event_timestamp`."),
    ]);
    fields
}

fn window() -> [StructField; 5] {
    [
        required("topic", DataType::STRING, "The topic that the tenant's records come from."),
        required("partition", DataType::INTEGER, "The partition that the tenant's records come in."),
        required("tenant_id", DataType::STRING, "The customer."),
        required("window_start", DataType::TIMESTAMP, "The window's start, inclusive (UTC)."),
        required("window_end", DataType::TIMESTAMP, "The window's end, exclusive (UTC)."),
    ]
}

fn window_date() -> StructField {
    required("window_date", DataType::DATE, "The UTC date of `window_start`.")
}

fn usage(month: bool) -> Vec<StructField> {
    let count = |name: &str, comment: &str| required(name, DataType::LONG, comment);
    let mut fields = Vec::from(window());
    fields.extend([
        required("final", DataType::BOOLEAN, "Whether the watermark has reached the window's end."),
        count("total_requests", "All accepted events of the window."),
        count("throttled_requests", "Those with status 429."),
        count("auth_failures", "Those with status 401 or 403."),
        count("client_errors", "Those with another 4xx."),
        count("server_errors", "Those with 5xx."),
        count("admitted_requests", "Total without throttled."),
        count("quota_attempted", "The sum of `quota_cost` over all."),
        count("quota_used", "The sum of `quota_cost` over the admitted."),
        count("billable_requests", "Those that are billed."),
        required("billable_units", decimal(Units::SCALE), "The units of those that are billed."),
        count("late_requests", "Those that came in late."),
        count("request_bytes", "The sum of `request_size_bytes`."),
        count("response_bytes", "The sum of `response_size_bytes`."),
        required(
            "response_time_ms_sum",
            decimal(RESPONSE_TIME_SCALE),
            "The sum of response times, exact to the microsecond.",
        ),
        required("response_time_ms_max", DataType::DOUBLE, "The longest response time."),
        required("response_time_ms_p50", DataType::DOUBLE, "The median response time, relative error at most 2 %."),
        required("response_time_ms_p95", DataType::DOUBLE, "The 95th percentile, relative error at most 2 %."),
        required("response_time_ms_p99", DataType::DOUBLE, "The 99th percentile, relative error at most 2 %."),
        optional("risk_score_mean", DataType::DOUBLE, "The mean over the events that gave one."),
        optional("risk_score_max", DataType::DOUBLE, "The greatest over the events that gave one."),
        count("distinct_api_keys", "Different `api_key_id`s; exact up to 1,000, then an estimate."),
        required("subscription_plan", DataType::STRING, "The plan of the latest event."),
        count("plan_limit", "The greatest limit, or quota, among the plans of the events."),
        required("over_limit", DataType::BOOLEAN, "Whether more was used than the limit."),
        count("over_limit_count", "By how much."),
        required("usage_ratio", DataType::DOUBLE, "Used ÷ limit."),
        count("first_offset", "The least offset among the events."),
        count("last_offset", "The greatest offset among the events."),
        required("state", DataType::BINARY, "What the row needs to take a later event; its form is the engine's."),
    ]);
    if month {
        fields.extend([
            optional("cost", decimal(Money::SCALE), "The exact sum of `cost` in `endpoint_usage_hourly`."),
            optional(
                "amount_due",
                decimal(Money::SCALE),
                "`cost` rounded half to even to the currency's digits, once.",
            ),
            optional("currency", DataType::STRING, "The currency of `cost`, as ISO 4217 code."),
        ]);
    }
    fields.push(if month {
        required("month", DataType::STRING, "The month, as `YYYY-MM` (UTC).")
    } else {
        window_date()
    });
    fields
}

fn endpoint() -> Vec<StructField> {
    let mut fields = Vec::from(window());
    fields.extend([
        required("endpoint", DataType::STRING, "The endpoint; `(other)` beyond the first 1,000 of a tenant and hour."),
        required("http_method", DataType::STRING, "The HTTP method."),
        required("subscription_plan", DataType::STRING, "The plan that the events carried, which priced them."),
        required("final", DataType::BOOLEAN, "Whether the watermark has reached the window's end."),
        required("total_requests", DataType::LONG, "All accepted events."),
        required("billable_requests", DataType::LONG, "Those that are billed."),
        required("billable_units", decimal(Units::SCALE), "The units of those that are billed."),
        required("server_errors", DataType::LONG, "Those with 5xx."),
        required(
            "response_time_ms_sum",
            decimal(RESPONSE_TIME_SCALE),
            "The sum of response times, exact to the microsecond.",
        ),
        required("cost", decimal(Money::SCALE), "Units × price ÷ 1000, exact."),
        window_date(),
    ]);
    fields
}

fn alerts() -> Vec<StructField> {
    let [topic, partition, tenant, start, end] = window();
    let count = |name: &str, comment: &str| required(name, DataType::LONG, comment);
    vec![
        required("alert_id", DataType::STRING, "UUIDv5 of tenant, type and window."),
        topic,
        partition,
        tenant,
        required(
            "alert_type",
            DataType::STRING,
            "`approaching_limit`, `over_limit`, `quota_exceeded` or `abuse_detected`.",
        ),
        required("severity", DataType::STRING, "`warning` or `critical`, as it was when the alert was raised."),
        required("window_kind", DataType::STRING, "`1min`, `1hour` or `1month`."),
        start,
        end,
        required("subscription_plan", DataType::STRING, "As in the window's row."),
        count("total_requests", "As in the window's row."),
        count("admitted_requests", "As in the window's row."),
        count("quota_attempted", "As in the window's row."),
        count("quota_used", "As in the window's row."),
        count("plan_limit", "As in the window's row."),
        count("over_limit_count", "As in the window's row."),
        required("raised_late", DataType::BOOLEAN, "Whether a late event raised it."),
        required(
            "reasons",
            ArrayType::new(DataType::STRING, false),
            "Of `abuse_detected`: `high_risk`, `velocity_spike`; sorted.",
        ),
        optional("risk", DataType::DOUBLE, "Of `abuse_detected`: the risk of the minute when it was raised."),
        optional("spike_ratio", DataType::DOUBLE, "Of `abuse_detected`: the spike ratio when it was raised."),
        window_date(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden files of every schema, and the documentation that is made from the same source.
    /// `UPDATE_GOLDEN=1 cargo test -p subscription-delta` writes them anew.
    #[test]
    fn schemas_are_those_of_the_golden_files() {
        let update = std::env::var_os("UPDATE_GOLDEN").is_some();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let check = |path: std::path::PathBuf, text: String| {
            if update {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(golden, text, "{} differs: UPDATE_GOLDEN=1 writes it anew", path.display());
        };
        for table in Table::ALL {
            let layout = Layout::of(table);
            let golden = serde_json::json!({
                "partitioned_by": table.partition_column(),
                "properties": layout.properties,
                "schema": layout.columns,
            });
            let text = serde_json::to_string_pretty(&golden).unwrap() + "\n";
            check(root.join("tests/golden").join(format!("{}.json", table.name())), text);
        }
        check(root.join("../docs/tables.md"), documentation());
    }

    fn documentation() -> String {
        use std::fmt::Write as _;
        let mut text = "# The tables\n\n\
            <!-- Made from subscription-delta/src/schema.rs: UPDATE_GOLDEN=1 cargo test -p subscription-delta schemas -->\n\n\
            Every table is a Delta Lake table (reader version 1, writer version 2) that any Delta reader opens. Times are UTC,\n\
            stored in microseconds, of whole milliseconds. A column may be null only where it says so. Positions and counters\n\
            are transaction identifiers in the log: `{pipeline}/{topic}/{partition}` is the next offset, and\n\
            `{pipeline}/{topic}/{partition}/{counter}` the counters `watermark`, `ingestion_time`, `read`, `dead_lettered`,\n\
            `accepted`, `duplicates`, `quarantined`, `skipped`, as of that offset.\n"
            .to_owned();
        for table in [Table::Bronze, Table::DeadLetter, Table::Silver, Table::Quarantine].into_iter().chain(Table::GOLD)
        {
            let layout = Layout::of(table);
            let _ = write!(
                text,
                "\n## `{}`\nOne row is {}. Partitioned by `{}`.\n\n| column | type | meaning |\n|---|---|---|\n",
                table.name(),
                layout.row,
                table.partition_column()
            );
            for field in layout.columns.fields() {
                let comment = match field.metadata().get("comment") {
                    Some(MetadataValue::String(comment)) => comment.as_str(),
                    _ => panic!("{} has no meaning", field.name()),
                };
                let null = if field.is_nullable() { ", or null" } else { "" };
                let _ = writeln!(text, "| `{}` | {}{null} | {comment} |", field.name(), type_name(field.data_type()));
            }
        }
        text
    }

    #[test]
    fn lists_and_maps_are_named_as_delta_readers_expect() {
        let bronze = format!("{:?}", Layout::of(Table::Bronze).file.field_with_name("headers").unwrap());
        assert!(bronze.contains("element"), "{bronze}");
        let silver = format!("{:?}", Layout::of(Table::Silver).file.field_with_name("labels").unwrap());
        assert!(silver.contains("key_value"), "{silver}");
    }
}
