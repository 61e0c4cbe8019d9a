//! Rows of the Gold tables: a file is one range of one partition.

use std::collections::HashSet;
use std::sync::Arc;

use deltalake::arrow::array::{
    Array as _, AsArray as _, BinaryBuilder, BooleanBuilder, Decimal128Builder, Float64Builder, Int32Builder,
    Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use deltalake::parquet::errors::ParquetError;
use subscription_core::{
    AlertRow, AlertType, EndpointRow, GoldRows, HttpMethod, Money, RangeWrite, Result, Severity, Table, Timestamp,
    Units, UsageRow, WindowKind,
};
use uuid::Uuid;

use crate::columns::{Rows, Texts, rows};
use crate::config::Compression;
use crate::error::Doing;
use crate::file::{Bounds, Content, Encoded, FileWriter, ROW_GROUP_ROWS, Range, RowGroup};
use crate::values::Values;

rows!(Usage {
    topic: StringBuilder,
    partition: Int32Builder,
    tenant_id: StringBuilder,
    window_start: TimestampMicrosecondBuilder,
    window_end: TimestampMicrosecondBuilder,
    r#final: BooleanBuilder,
    total_requests: Int64Builder,
    throttled_requests: Int64Builder,
    auth_failures: Int64Builder,
    client_errors: Int64Builder,
    server_errors: Int64Builder,
    admitted_requests: Int64Builder,
    quota_attempted: Int64Builder,
    quota_used: Int64Builder,
    billable_requests: Int64Builder,
    billable_units: Decimal128Builder,
    late_requests: Int64Builder,
    request_bytes: Int64Builder,
    response_bytes: Int64Builder,
    response_time_ms_sum: Decimal128Builder,
    response_time_ms_max: Float64Builder,
    response_time_ms_p50: Float64Builder,
    response_time_ms_p95: Float64Builder,
    response_time_ms_p99: Float64Builder,
    risk_score_mean: Float64Builder,
    risk_score_max: Float64Builder,
    distinct_api_keys: Int64Builder,
    subscription_plan: StringBuilder,
    plan_limit: Int64Builder,
    over_limit: BooleanBuilder,
    over_limit_count: Int64Builder,
    usage_ratio: Float64Builder,
    first_offset: Int64Builder,
    last_offset: Int64Builder,
    state: BinaryBuilder,
});

rows!(Bill { cost: Decimal128Builder, amount_due: Decimal128Builder, currency: StringBuilder });

rows!(Endpoint {
    topic: StringBuilder,
    partition: Int32Builder,
    tenant_id: StringBuilder,
    window_start: TimestampMicrosecondBuilder,
    window_end: TimestampMicrosecondBuilder,
    endpoint: StringBuilder,
    http_method: StringBuilder,
    subscription_plan: StringBuilder,
    r#final: BooleanBuilder,
    total_requests: Int64Builder,
    billable_requests: Int64Builder,
    billable_units: Decimal128Builder,
    server_errors: Int64Builder,
    response_time_ms_sum: Decimal128Builder,
    cost: Decimal128Builder,
});

rows!(Alerts {
    alert_id: StringBuilder,
    topic: StringBuilder,
    partition: Int32Builder,
    tenant_id: StringBuilder,
    alert_type: StringBuilder,
    severity: StringBuilder,
    window_kind: StringBuilder,
    window_start: TimestampMicrosecondBuilder,
    window_end: TimestampMicrosecondBuilder,
    subscription_plan: StringBuilder,
    total_requests: Int64Builder,
    admitted_requests: Int64Builder,
    quota_attempted: Int64Builder,
    quota_used: Int64Builder,
    plan_limit: Int64Builder,
    over_limit_count: Int64Builder,
    raised_late: BooleanBuilder,
    reasons: Texts,
    risk: Float64Builder,
    spike_ratio: Float64Builder,
});

/// The file of a range.
pub(crate) fn encode(
    topic: &Arc<str>,
    write: &RangeWrite,
    codec: Compression,
    now: Timestamp,
) -> Result<Encoded, ParquetError> {
    let start = write.first.window_start;
    let value = if write.table == Table::UsageMonth { start.month() } else { start.date() };
    let partition = write.partition;
    let mut bounds = Bounds::default();
    bounds.number("partition", partition, partition);
    bounds.time("window_start", write.first.window_start, write.last.window_start);
    let writer = FileWriter::new(write.table, value, write.rows.len(), codec)?;
    let groups = match &write.rows {
        GoldRows::Usage(rows) => {
            bound_tenants(&mut bounds, rows.iter().map(|row| &row.tenant_id));
            row_groups(&writer, rows, |(usage, bill): &mut (Usage, Option<Bill>), row| {
                usage.append(topic, partition, row);
                bill.iter_mut().for_each(|bill| bill.append(row));
            })
        }
        GoldRows::Endpoint(rows) => {
            bound_tenants(&mut bounds, rows.iter().map(|row| &row.tenant_id));
            row_groups(&writer, rows, |columns: &mut Endpoint, row| columns.append(topic, partition, row))
        }
        GoldRows::Alerts(rows) => {
            bound_tenants(&mut bounds, rows.iter().map(|row| &row.tenant_id));
            row_groups(&writer, rows, |columns: &mut Alerts, row| columns.append(topic, partition, row))
        }
    }?;
    let range = Range { partition, first: write.first.clone(), last: write.last.clone() };
    writer.finish(groups, &Content::Range(topic.clone(), range.into()), &bounds, now)
}

fn row_groups<R, C: Rows>(
    writer: &FileWriter,
    rows: &[R],
    append: impl Fn(&mut C, &R),
) -> Result<Vec<RowGroup>, ParquetError> {
    let append = |columns: &mut C, row: &R| {
        append(columns, row);
        Ok(())
    };
    let groups = rows.chunks(ROW_GROUP_ROWS).enumerate();
    groups.map(|(index, rows)| writer.row_group(index, rows, append)).collect()
}

fn bound_tenants<'a>(bounds: &mut Bounds, tenants: impl Iterator<Item = &'a Arc<str>> + Clone) {
    if let (Some(least), Some(greatest)) = (tenants.clone().min(), tenants.max()) {
        bounds.text("tenant_id", least, greatest);
    }
}

impl Usage {
    fn append(&mut self, topic: &str, partition: u32, row: &UsageRow) {
        self.topic.append_value(topic);
        self.partition.append_value(partition as i32);
        self.tenant_id.append_value(&row.tenant_id);
        self.window_start.append_value(row.window_start.micros());
        self.window_end.append_value(row.window_end.micros());
        self.r#final.append_value(row.is_final);
        self.total_requests.append_value(row.total_requests);
        self.throttled_requests.append_value(row.throttled_requests);
        self.auth_failures.append_value(row.auth_failures);
        self.client_errors.append_value(row.client_errors);
        self.server_errors.append_value(row.server_errors);
        self.admitted_requests.append_value(row.admitted_requests);
        self.quota_attempted.append_value(row.quota_attempted);
        self.quota_used.append_value(row.quota_used);
        self.billable_requests.append_value(row.billable_requests);
        self.billable_units.append_value(row.billable_units.raw());
        self.late_requests.append_value(row.late_requests);
        self.request_bytes.append_value(row.request_bytes);
        self.response_bytes.append_value(row.response_bytes);
        self.response_time_ms_sum.append_value(row.response_time_us_sum);
        self.response_time_ms_max.append_value(row.response_time_ms_max);
        self.response_time_ms_p50.append_value(row.response_time_ms_p50);
        self.response_time_ms_p95.append_value(row.response_time_ms_p95);
        self.response_time_ms_p99.append_value(row.response_time_ms_p99);
        self.risk_score_mean.append_option(row.risk_score_mean);
        self.risk_score_max.append_option(row.risk_score_max);
        self.distinct_api_keys.append_value(row.distinct_api_keys);
        self.subscription_plan.append_value(&row.subscription_plan);
        self.plan_limit.append_value(row.plan_limit);
        self.over_limit.append_value(row.over_limit);
        self.over_limit_count.append_value(row.over_limit_count);
        self.usage_ratio.append_value(row.usage_ratio);
        self.first_offset.append_value(row.first_offset as i64);
        self.last_offset.append_value(row.last_offset as i64);
        self.state.append_value(&row.state);
    }
}

impl Bill {
    fn append(&mut self, row: &UsageRow) {
        self.cost.append_option(row.cost.map(Money::raw));
        self.amount_due.append_option(row.amount_due.map(Money::raw));
        self.currency.append_option(row.currency.as_deref());
    }
}

impl Endpoint {
    fn append(&mut self, topic: &str, partition: u32, row: &EndpointRow) {
        self.topic.append_value(topic);
        self.partition.append_value(partition as i32);
        self.tenant_id.append_value(&row.tenant_id);
        self.window_start.append_value(row.window_start.micros());
        self.window_end.append_value(row.window_end.micros());
        self.endpoint.append_value(&row.endpoint);
        self.http_method.append_value(row.http_method.as_str());
        self.subscription_plan.append_value(&row.subscription_plan);
        self.r#final.append_value(row.is_final);
        self.total_requests.append_value(row.total_requests);
        self.billable_requests.append_value(row.billable_requests);
        self.billable_units.append_value(row.billable_units.raw());
        self.server_errors.append_value(row.server_errors);
        self.response_time_ms_sum.append_value(row.response_time_us_sum);
        self.cost.append_value(row.cost.raw());
    }
}

impl Alerts {
    fn append(&mut self, topic: &str, partition: u32, row: &AlertRow) {
        self.alert_id.append_value(row.alert_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        self.topic.append_value(topic);
        self.partition.append_value(partition as i32);
        self.tenant_id.append_value(&row.tenant_id);
        self.alert_type.append_value(row.alert_type.as_str());
        self.severity.append_value(row.severity.as_str());
        self.window_kind.append_value(row.window_kind.as_str());
        self.window_start.append_value(row.window_start.micros());
        self.window_end.append_value(row.window_end.micros());
        self.subscription_plan.append_value(&row.subscription_plan);
        self.total_requests.append_value(row.total_requests);
        self.admitted_requests.append_value(row.admitted_requests);
        self.quota_attempted.append_value(row.quota_attempted);
        self.quota_used.append_value(row.quota_used);
        self.plan_limit.append_value(row.plan_limit);
        self.over_limit_count.append_value(row.over_limit_count);
        self.raised_late.append_value(row.raised_late);
        self.reasons.append(row.reasons.iter().copied());
        self.risk.append_option(row.risk);
        self.spike_ratio.append_option(row.spike_ratio);
    }
}

/// The rows of a range, from its file's batches.
pub(crate) fn decode(table: Table, batches: &[RecordBatch], doing: Doing<'_>) -> Result<GoldRows> {
    let mut names = Names::default();
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    Ok(match table {
        Table::EndpointHour => {
            let mut all = Vec::with_capacity(rows);
            batches.iter().try_for_each(|batch| endpoints(batch, &mut names, &mut all, doing))?;
            GoldRows::Endpoint(all)
        }
        Table::Alerts => {
            let mut all = Vec::with_capacity(rows);
            batches.iter().try_for_each(|batch| alerts(batch, &mut names, &mut all, doing))?;
            GoldRows::Alerts(all)
        }
        _ => {
            let mut all = Vec::with_capacity(rows);
            let month = table == Table::UsageMonth;
            batches.iter().try_for_each(|batch| usage(month, batch, &mut names, &mut all, doing))?;
            GoldRows::Usage(all)
        }
    })
}

/// Texts that repeat, shared.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(name) = self.0.get(name) {
            return name.clone();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}

fn usage(
    month: bool,
    batch: &RecordBatch,
    names: &mut Names,
    rows: &mut Vec<UsageRow>,
    doing: Doing<'_>,
) -> Result<()> {
    let values = Values::new(batch, doing);
    let tenant_id = values.texts("tenant_id")?;
    let window_start = values.times("window_start")?;
    let window_end = values.times("window_end")?;
    let is_final = values.booleans("final")?;
    let total_requests = values.longs("total_requests")?;
    let throttled_requests = values.longs("throttled_requests")?;
    let auth_failures = values.longs("auth_failures")?;
    let client_errors = values.longs("client_errors")?;
    let server_errors = values.longs("server_errors")?;
    let admitted_requests = values.longs("admitted_requests")?;
    let quota_attempted = values.longs("quota_attempted")?;
    let quota_used = values.longs("quota_used")?;
    let billable_requests = values.longs("billable_requests")?;
    let billable_units = values.decimals("billable_units")?;
    let late_requests = values.longs("late_requests")?;
    let request_bytes = values.longs("request_bytes")?;
    let response_bytes = values.longs("response_bytes")?;
    let response_time_us_sum = values.decimals("response_time_ms_sum")?;
    let response_time_ms_max = values.doubles("response_time_ms_max")?;
    let response_time_ms_p50 = values.doubles("response_time_ms_p50")?;
    let response_time_ms_p95 = values.doubles("response_time_ms_p95")?;
    let response_time_ms_p99 = values.doubles("response_time_ms_p99")?;
    let risk_score_mean = values.doubles("risk_score_mean")?;
    let risk_score_max = values.doubles("risk_score_max")?;
    let distinct_api_keys = values.longs("distinct_api_keys")?;
    let subscription_plan = values.texts("subscription_plan")?;
    let plan_limit = values.longs("plan_limit")?;
    let over_limit = values.booleans("over_limit")?;
    let over_limit_count = values.longs("over_limit_count")?;
    let usage_ratio = values.doubles("usage_ratio")?;
    let first_offset = values.longs("first_offset")?;
    let last_offset = values.longs("last_offset")?;
    let state = values.bytes("state")?;
    let bill = if month {
        Some((values.decimals("cost")?, values.decimals("amount_due")?, values.texts("currency")?))
    } else {
        None
    };
    for i in 0..batch.num_rows() {
        rows.push(UsageRow {
            tenant_id: names.get(tenant_id.value(i)),
            window_start: window_start.at(i),
            window_end: window_end.at(i),
            is_final: is_final.value(i),
            total_requests: total_requests.value(i),
            throttled_requests: throttled_requests.value(i),
            auth_failures: auth_failures.value(i),
            client_errors: client_errors.value(i),
            server_errors: server_errors.value(i),
            admitted_requests: admitted_requests.value(i),
            quota_attempted: quota_attempted.value(i),
            quota_used: quota_used.value(i),
            billable_requests: billable_requests.value(i),
            billable_units: Units::from_raw(billable_units.value(i)),
            late_requests: late_requests.value(i),
            request_bytes: request_bytes.value(i),
            response_bytes: response_bytes.value(i),
            response_time_us_sum: response_time_us_sum.value(i),
            response_time_ms_max: response_time_ms_max.value(i),
            response_time_ms_p50: response_time_ms_p50.value(i),
            response_time_ms_p95: response_time_ms_p95.value(i),
            response_time_ms_p99: response_time_ms_p99.value(i),
            risk_score_mean: risk_score_mean.is_valid(i).then(|| risk_score_mean.value(i)),
            risk_score_max: risk_score_max.is_valid(i).then(|| risk_score_max.value(i)),
            distinct_api_keys: distinct_api_keys.value(i),
            subscription_plan: names.get(subscription_plan.value(i)),
            plan_limit: plan_limit.value(i),
            over_limit: over_limit.value(i),
            over_limit_count: over_limit_count.value(i),
            usage_ratio: usage_ratio.value(i),
            first_offset: first_offset.value(i) as u64,
            last_offset: last_offset.value(i) as u64,
            cost: bill.and_then(|(cost, ..)| cost.is_valid(i).then(|| Money::from_raw(cost.value(i)))),
            amount_due: bill.and_then(|(_, due, _)| due.is_valid(i).then(|| Money::from_raw(due.value(i)))),
            currency: bill.and_then(|(.., currency)| currency.is_valid(i).then(|| names.get(currency.value(i)))),
            state: state.value(i).to_vec(),
        });
    }
    Ok(())
}

fn endpoints(batch: &RecordBatch, names: &mut Names, rows: &mut Vec<EndpointRow>, doing: Doing<'_>) -> Result<()> {
    let values = Values::new(batch, doing);
    let tenant_id = values.texts("tenant_id")?;
    let endpoint = values.texts("endpoint")?;
    let http_method = values.texts("http_method")?;
    let subscription_plan = values.texts("subscription_plan")?;
    let window_start = values.times("window_start")?;
    let window_end = values.times("window_end")?;
    let is_final = values.booleans("final")?;
    let total_requests = values.longs("total_requests")?;
    let billable_requests = values.longs("billable_requests")?;
    let billable_units = values.decimals("billable_units")?;
    let server_errors = values.longs("server_errors")?;
    let response_time_us_sum = values.decimals("response_time_ms_sum")?;
    let cost = values.decimals("cost")?;
    for i in 0..batch.num_rows() {
        rows.push(EndpointRow {
            tenant_id: names.get(tenant_id.value(i)),
            endpoint: names.get(endpoint.value(i)),
            http_method: known(HttpMethod::from_name, http_method.value(i), doing)?,
            subscription_plan: names.get(subscription_plan.value(i)),
            window_start: window_start.at(i),
            window_end: window_end.at(i),
            is_final: is_final.value(i),
            total_requests: total_requests.value(i),
            billable_requests: billable_requests.value(i),
            billable_units: Units::from_raw(billable_units.value(i)),
            server_errors: server_errors.value(i),
            response_time_us_sum: response_time_us_sum.value(i),
            cost: Money::from_raw(cost.value(i)),
        });
    }
    Ok(())
}

fn alerts(batch: &RecordBatch, names: &mut Names, rows: &mut Vec<AlertRow>, doing: Doing<'_>) -> Result<()> {
    let values = Values::new(batch, doing);
    let alert_id = values.texts("alert_id")?;
    let tenant_id = values.texts("tenant_id")?;
    let alert_type = values.texts("alert_type")?;
    let severity = values.texts("severity")?;
    let window_kind = values.texts("window_kind")?;
    let window_start = values.times("window_start")?;
    let window_end = values.times("window_end")?;
    let subscription_plan = values.texts("subscription_plan")?;
    let total_requests = values.longs("total_requests")?;
    let admitted_requests = values.longs("admitted_requests")?;
    let quota_attempted = values.longs("quota_attempted")?;
    let quota_used = values.longs("quota_used")?;
    let plan_limit = values.longs("plan_limit")?;
    let over_limit_count = values.longs("over_limit_count")?;
    let raised_late = values.booleans("raised_late")?;
    let reasons = values.lists("reasons")?;
    let risk = values.doubles("risk")?;
    let spike_ratio = values.doubles("spike_ratio")?;
    for i in 0..batch.num_rows() {
        let texts = reasons.value(i);
        let texts = texts.as_string_opt::<i32>().ok_or_else(|| doing.corrupt("`reasons` holds no texts"))?;
        let reasons = texts.iter().flatten().map(|reason| known(reason_name, reason, doing)).collect::<Result<_>>()?;
        rows.push(AlertRow {
            alert_id: known(|id| Uuid::try_parse(id).ok(), alert_id.value(i), doing)?,
            tenant_id: names.get(tenant_id.value(i)),
            alert_type: known(AlertType::from_name, alert_type.value(i), doing)?,
            severity: known(Severity::from_name, severity.value(i), doing)?,
            window_kind: known(window_kind_name, window_kind.value(i), doing)?,
            window_start: window_start.at(i),
            window_end: window_end.at(i),
            subscription_plan: names.get(subscription_plan.value(i)),
            total_requests: total_requests.value(i),
            admitted_requests: admitted_requests.value(i),
            quota_attempted: quota_attempted.value(i),
            quota_used: quota_used.value(i),
            plan_limit: plan_limit.value(i),
            over_limit_count: over_limit_count.value(i),
            raised_late: raised_late.value(i),
            reasons,
            risk: risk.is_valid(i).then(|| risk.value(i)),
            spike_ratio: spike_ratio.is_valid(i).then(|| spike_ratio.value(i)),
        });
    }
    Ok(())
}

fn reason_name(name: &str) -> Option<&'static str> {
    ["high_risk", "velocity_spike"].into_iter().find(|reason| *reason == name)
}

fn window_kind_name(name: &str) -> Option<WindowKind> {
    WindowKind::ALL.into_iter().find(|kind| kind.as_str() == name)
}

fn known<T>(read: impl FnOnce(&str) -> Option<T>, text: &str, doing: Doing<'_>) -> Result<T> {
    read(text).ok_or_else(|| doing.corrupt(format_args!("`{text}` is not known here")))
}
