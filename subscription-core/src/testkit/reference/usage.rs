//! One tenant of one partition: its windows, its endpoints, its bill.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, Utc};

use super::alerts::{Raised, raise};
use super::snapshot::Snapshot;
use crate::decimal::{Money, Units};
use crate::event::ApiUsageEvent;
use crate::gold::{AlertType, EndpointRow, UsageRow};
use crate::plan::{Catalog, Terms};
use crate::rows::HttpMethod;
use crate::rules::Rules;
use crate::time::{Timestamp, WindowKind};

pub(super) struct Tenant<'a> {
    pub(super) id: Arc<str>,
    pub(super) rules: &'a Rules,
    catalog: &'a Catalog,
    pub(super) minutes: BTreeMap<Timestamp, Window>,
    pub(super) hours: BTreeMap<Timestamp, Window>,
    pub(super) months: BTreeMap<Timestamp, Window>,
    /// By hour the endpoints that have rows of their own.
    endpoints: BTreeMap<Timestamp, BTreeSet<String>>,
    endpoint_hours: BTreeMap<(Timestamp, String, HttpMethod, String), EndpointHour>,
}

/// All that is counted of a tenant in a minute, an hour or a month.
#[derive(Default)]
pub(super) struct Window {
    pub(super) total: i64,
    throttled: i64,
    pub(super) auth_failures: i64,
    pub(super) client_errors: i64,
    server_errors: i64,
    pub(super) quota_attempted: i128,
    pub(super) quota_used: i128,
    billable: i64,
    billable_units: i128,
    late: i64,
    request_bytes: i128,
    response_bytes: i128,
    response_us: i128,
    response_times: Vec<f64>,
    risk_millionths: i128,
    risk_scores: i64,
    risk_max: Option<f64>,
    api_keys: HashSet<String>,
    /// Of the event with the greatest (event time, offset).
    newest: Option<(Timestamp, u64)>,
    pub(super) plan: String,
    pub(super) limit: i64,
    first_offset: u64,
    last_offset: u64,
    cost: i128,
    pub(super) alerts: BTreeMap<AlertType, Raised>,
}

#[derive(Default)]
struct EndpointHour {
    total: i64,
    billable: i64,
    billable_units: i128,
    server_errors: i64,
    response_us: i128,
    cost: i128,
}

/// What one event adds.
struct Share {
    /// The quota that it took or asked.
    quota: i64,
    billable: bool,
    units: i128,
    cost: i128,
    response_us: i128,
}

impl<'a> Tenant<'a> {
    pub(super) fn new(id: &str, rules: &'a Rules, catalog: &'a Catalog) -> Self {
        Self {
            id: id.into(),
            rules,
            catalog,
            minutes: BTreeMap::new(),
            hours: BTreeMap::new(),
            months: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            endpoint_hours: BTreeMap::new(),
        }
    }

    pub(super) fn take(&mut self, event: &ApiUsageEvent<'_>, offset: u64, is_late: bool) {
        let time = event.event_timestamp;
        // An event on an unknown plan is not accepted.
        let Some(terms) = self.catalog.terms(&self.id, &event.subscription_plan, time) else { return };
        let share = self.share(event, &terms);
        let minute = start(WindowKind::Minute, time);
        let hour = start(WindowKind::Hour, time);
        let month = start(WindowKind::Month, time);
        let windows = [
            (self.minutes.entry(minute).or_default(), terms.per_minute),
            (self.hours.entry(hour).or_default(), terms.per_hour),
            (self.months.entry(month).or_default(), terms.per_month),
        ];
        for (window, limit) in windows {
            window.take(event, &share, offset, is_late, limit);
        }
        self.take_endpoint(event, &share, hour);
        raise(self, minute, hour, month, is_late);
    }

    fn share(&self, event: &ApiUsageEvent<'_>, terms: &Terms) -> Share {
        let billing = &self.rules.billing;
        let status = event.response_status_code;
        let free = billing.free_status_codes.contains(&status)
            || (!billing.bill_server_errors && status / 100 == 5)
            || billing.free_methods.iter().any(|method| method == event.http_method.as_str());
        let units = if free { 0 } else { event.billable_units.map_or(1_000_000, Units::raw) };
        Share {
            quota: event.quota_cost.unwrap_or(1),
            billable: !free,
            units,
            // Millionths of units × millionths of the price of a thousand: 10^-15.
            cost: units * terms.price.raw(),
            response_us: (event.response_time_ms * 1_000.0).round_ties_even() as i128,
        }
    }

    fn take_endpoint(&mut self, event: &ApiUsageEvent<'_>, share: &Share, hour: Timestamp) {
        let endpoints = self.endpoints.entry(hour).or_default();
        if endpoints.len() < self.rules.max_endpoints && !endpoints.contains(&*event.endpoint) {
            endpoints.insert(event.endpoint.to_string());
        }
        let endpoint = if endpoints.contains(&*event.endpoint) { &*event.endpoint } else { "(other)" };
        let key = (hour, endpoint.to_owned(), event.http_method, event.subscription_plan.to_string());
        let row = self.endpoint_hours.entry(key).or_default();
        row.total += 1;
        row.billable += i64::from(share.billable);
        row.billable_units += share.units;
        row.server_errors += i64::from(event.response_status_code / 100 == 5);
        row.response_us += share.response_us;
        row.cost += share.cost;
    }

    /// Adds all rows to the tables; `watermark` is the partition's last.
    pub(super) fn rows(&self, watermark: Option<Timestamp>, tables: &mut Snapshot) {
        let is_final = |window_end: Timestamp| watermark.is_some_and(|watermark| window_end <= watermark);
        for (kind, windows, rows) in [
            (WindowKind::Minute, &self.minutes, &mut tables.minute),
            (WindowKind::Hour, &self.hours, &mut tables.hour),
            (WindowKind::Month, &self.months, &mut tables.month),
        ] {
            for (window_start, window) in windows {
                let window_end = end(kind, *window_start);
                let mut row = window.row(kind, &self.id, *window_start, window_end);
                row.is_final = is_final(window_end);
                if kind == WindowKind::Month {
                    let (currency, digits) = self.catalog.currency();
                    row.cost = Some(Money::from_raw(window.cost));
                    row.amount_due = Some(Money::from_raw(round_half_even(window.cost, digits)));
                    row.currency = Some(currency.into());
                }
                for (alert, raised) in &window.alerts {
                    tables.alerts.push(raised.row(*alert, kind, &row));
                }
                rows.push(row);
            }
        }
        for ((hour, endpoint, http_method, plan), row) in &self.endpoint_hours {
            let window_end = end(WindowKind::Hour, *hour);
            tables.endpoint.push(EndpointRow {
                tenant_id: self.id.clone(),
                endpoint: endpoint.as_str().into(),
                http_method: *http_method,
                subscription_plan: plan.as_str().into(),
                window_start: *hour,
                window_end,
                is_final: is_final(window_end),
                total_requests: row.total,
                billable_requests: row.billable,
                billable_units: Units::from_raw(row.billable_units),
                server_errors: row.server_errors,
                response_time_us_sum: row.response_us,
                cost: Money::from_raw(row.cost),
            });
        }
    }
}

impl Window {
    fn take(&mut self, event: &ApiUsageEvent<'_>, share: &Share, offset: u64, is_late: bool, limit: i64) {
        if self.total == 0 {
            (self.first_offset, self.last_offset) = (offset, offset);
        }
        self.first_offset = self.first_offset.min(offset);
        self.last_offset = self.last_offset.max(offset);
        self.total += 1;
        match event.response_status_code {
            429 => self.throttled += 1,
            401 | 403 => self.auth_failures += 1,
            400..500 => self.client_errors += 1,
            500..600 => self.server_errors += 1,
            _ => {}
        }
        self.quota_attempted += i128::from(share.quota);
        if event.response_status_code != 429 {
            self.quota_used += i128::from(share.quota);
        }
        self.billable += i64::from(share.billable);
        self.billable_units += share.units;
        self.cost += share.cost;
        self.late += i64::from(is_late);
        self.request_bytes += i128::from(event.request_size_bytes.unwrap_or(0));
        self.response_bytes += i128::from(event.response_size_bytes.unwrap_or(0));
        self.response_us += share.response_us;
        self.response_times.push(event.response_time_ms);
        if let Some(risk) = event.risk_score {
            self.risk_millionths += (risk * 1e6).round_ties_even() as i128;
            self.risk_scores += 1;
            self.risk_max = Some(self.risk_max.map_or(risk, |max| max.max(risk)));
        }
        if !self.api_keys.contains(&*event.api_key_id) {
            self.api_keys.insert(event.api_key_id.to_string());
        }
        let place = (event.event_timestamp, offset);
        if self.newest.is_none_or(|newest| place > newest) {
            self.newest = Some(place);
            event.subscription_plan.as_ref().clone_into(&mut self.plan);
        }
        self.limit = self.limit.max(limit);
    }

    pub(super) fn admitted(&self) -> i64 {
        self.total - self.throttled
    }

    /// The double nearest to the exact mean.
    pub(super) fn risk_mean(&self) -> Option<f64> {
        (self.risk_scores > 0).then(|| self.risk_millionths as f64 / (self.risk_scores as f64 * 1e6))
    }

    fn row(&self, kind: WindowKind, tenant: &Arc<str>, window_start: Timestamp, window_end: Timestamp) -> UsageRow {
        let used = if kind == WindowKind::Minute { self.quota_attempted } else { self.quota_used };
        let mut times = self.response_times.clone();
        times.sort_by(f64::total_cmp);
        // Nearest rank: the value of which at least `percent` of all are not above it.
        let percentile = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
        UsageRow {
            tenant_id: tenant.clone(),
            window_start,
            window_end,
            is_final: false,
            total_requests: self.total,
            throttled_requests: self.throttled,
            auth_failures: self.auth_failures,
            client_errors: self.client_errors,
            server_errors: self.server_errors,
            admitted_requests: self.admitted(),
            quota_attempted: saturated(self.quota_attempted),
            quota_used: saturated(self.quota_used),
            billable_requests: self.billable,
            billable_units: Units::from_raw(self.billable_units),
            late_requests: self.late,
            request_bytes: saturated(self.request_bytes),
            response_bytes: saturated(self.response_bytes),
            response_time_us_sum: self.response_us,
            response_time_ms_max: percentile(100),
            response_time_ms_p50: percentile(50),
            response_time_ms_p95: percentile(95),
            response_time_ms_p99: percentile(99),
            risk_score_mean: self.risk_mean(),
            risk_score_max: self.risk_max,
            distinct_api_keys: self.api_keys.len() as i64,
            subscription_plan: self.plan.as_str().into(),
            plan_limit: self.limit,
            over_limit: used > i128::from(self.limit),
            over_limit_count: saturated((used - i128::from(self.limit)).max(0)),
            usage_ratio: if used == 0 { 0.0 } else { used as f64 / self.limit as f64 },
            first_offset: self.first_offset,
            last_offset: self.last_offset,
            cost: None,
            amount_due: None,
            currency: None,
            state: Vec::new(),
        }
    }
}

fn saturated(sum: i128) -> i64 {
    sum.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Money in 10^-15, rounded to `digits` places.
fn round_half_even(raw: i128, digits: u32) -> i128 {
    let unit = 10i128.pow(15 - digits.min(15));
    let below = raw.div_euclid(unit) * unit;
    let twice = (raw - below) * 2;
    let up = twice > unit || (twice == unit && (below / unit) % 2 != 0);
    if up { below + unit } else { below }
}

/// The start of the window of `time`.
pub(super) fn start(kind: WindowKind, time: Timestamp) -> Timestamp {
    let millis = time.millis();
    match kind {
        WindowKind::Minute => Timestamp::from_millis(millis - millis.rem_euclid(60_000)),
        WindowKind::Hour => Timestamp::from_millis(millis - millis.rem_euclid(3_600_000)),
        WindowKind::Month => midnight(month_of(time)),
    }
}

fn end(kind: WindowKind, start: Timestamp) -> Timestamp {
    match kind {
        WindowKind::Minute => start.plus_millis(60_000),
        WindowKind::Hour => start.plus_millis(3_600_000),
        WindowKind::Month => midnight(month_of(start).checked_add_months(Months::new(1)).unwrap_or(NaiveDate::MAX)),
    }
}

fn month_of(time: Timestamp) -> NaiveDate {
    let date = DateTime::<Utc>::from(time).date_naive();
    date.with_day(1).unwrap_or(date)
}

fn midnight(date: NaiveDate) -> Timestamp {
    Timestamp::from(date.and_time(NaiveTime::MIN).and_utc())
}
