//! The rows of the Gold tables.

use std::sync::Arc;

use uuid::Uuid;

use crate::decimal::{Money, Units};
use crate::rows::HttpMethod;
use crate::store::RangeKey;
use crate::time::{Timestamp, WindowKind};

/// A row of `tenant_usage_1min`, `tenant_usage_hourly` or `tenant_usage_monthly`.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageRow {
    /// The tenant.
    pub tenant_id: Arc<str>,
    /// The window's start, inclusive.
    pub window_start: Timestamp,
    /// The window's end, exclusive.
    pub window_end: Timestamp,
    /// Whether the partition's watermark has reached the window's end.
    pub is_final: bool,
    /// All accepted events.
    pub total_requests: i64,
    /// Status 429.
    pub throttled_requests: i64,
    /// Status 401 and 403.
    pub auth_failures: i64,
    /// Other 4xx.
    pub client_errors: i64,
    /// 5xx.
    pub server_errors: i64,
    /// Total − throttled.
    pub admitted_requests: i64,
    /// Sum of `quota_cost` over all.
    pub quota_attempted: i64,
    /// Sum of `quota_cost` over the admitted.
    pub quota_used: i64,
    /// Events that are billed.
    pub billable_requests: i64,
    /// Their units.
    pub billable_units: Units,
    /// Events with `is_late`.
    pub late_requests: i64,
    /// Sum of `request_size_bytes`; saturates.
    pub request_bytes: i64,
    /// Sum of `response_size_bytes`; saturates.
    pub response_bytes: i64,
    /// Sum of response times, in microseconds.
    pub response_time_us_sum: i128,
    /// The greatest response time, in milliseconds.
    pub response_time_ms_max: f64,
    /// Nearest-rank percentiles of the response time in milliseconds, relative error ≤ 2 %.
    pub response_time_ms_p50: f64,
    /// See `response_time_ms_p50`.
    pub response_time_ms_p95: f64,
    /// See `response_time_ms_p50`.
    pub response_time_ms_p99: f64,
    /// Over the events that gave one.
    pub risk_score_mean: Option<f64>,
    /// Over the events that gave one.
    pub risk_score_max: Option<f64>,
    /// Exact up to 1,000, then an estimate.
    pub distinct_api_keys: i64,
    /// Of the event with the greatest (event time, offset).
    pub subscription_plan: Arc<str>,
    /// The greatest limit of the window's kind among the plans that its events carried.
    pub plan_limit: i64,
    /// Whether `used` is above the limit.
    pub over_limit: bool,
    /// max(0, used − limit).
    pub over_limit_count: i64,
    /// used ÷ limit; 0 where both are 0, infinite where only the limit is.
    pub usage_ratio: f64,
    /// The least offset among its events.
    pub first_offset: u64,
    /// The greatest offset among its events.
    pub last_offset: u64,
    /// The exact sum of the rows' cost in `endpoint_usage_hourly`; months only.
    pub cost: Option<Money>,
    /// `cost` rounded half to even to the currency's digits; months only.
    pub amount_due: Option<Money>,
    /// The currency of `cost`, as ISO 4217 code; months only.
    pub currency: Option<Arc<str>>,
    /// All that the row needs to take a later event, from which the row can be made anew (with `tenant_id`,
    /// `window_start` and the catalog).
    pub state: Vec<u8>,
}

/// A row of `endpoint_usage_hourly`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct EndpointRow {
    pub tenant_id: Arc<str>,
    pub endpoint: Arc<str>,
    pub http_method: HttpMethod,
    pub subscription_plan: Arc<str>,
    pub window_start: Timestamp,
    pub window_end: Timestamp,
    pub is_final: bool,
    pub total_requests: i64,
    pub billable_requests: i64,
    pub billable_units: Units,
    pub server_errors: i64,
    /// Sum of response times, in microseconds.
    pub response_time_us_sum: i128,
    pub cost: Money,
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AlertType {
    /// `abuse_detected`
    AbuseDetected,
    /// `approaching_limit`
    ApproachingLimit,
    /// `over_limit`
    OverLimit,
    /// `quota_exceeded`
    QuotaExceeded,
}

impl AlertType {
    /// Every type, in the order of their names.
    pub const ALL: [Self; 4] = [Self::AbuseDetected, Self::ApproachingLimit, Self::OverLimit, Self::QuotaExceeded];

    /// The type's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AbuseDetected => "abuse_detected",
            Self::ApproachingLimit => "approaching_limit",
            Self::OverLimit => "over_limit",
            Self::QuotaExceeded => "quota_exceeded",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|alert| alert.as_str() == name)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// `warning`
    Warning,
    /// `critical`
    Critical,
}

impl Severity {
    /// The severity's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// The severity of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Warning, Self::Critical].into_iter().find(|severity| severity.as_str() == name)
    }
}

/// A row of `enforcement_alerts`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct AlertRow {
    pub alert_id: Uuid,
    pub tenant_id: Arc<str>,
    pub alert_type: AlertType,
    pub severity: Severity,
    pub window_kind: WindowKind,
    pub window_start: Timestamp,
    pub window_end: Timestamp,
    pub subscription_plan: Arc<str>,
    pub total_requests: i64,
    pub admitted_requests: i64,
    pub quota_attempted: i64,
    pub quota_used: i64,
    pub plan_limit: i64,
    pub over_limit_count: i64,
    /// Whether a late event raised it.
    pub raised_late: bool,
    /// Sorted, of `high_risk` and `velocity_spike`; empty for other types than `abuse_detected`.
    pub reasons: Vec<&'static str>,
    /// Null for other types than `abuse_detected`.
    pub risk: Option<f64>,
    /// Null for other types than `abuse_detected`.
    pub spike_ratio: Option<f64>,
}

macro_rules! range_key {
    ($($row:ty),*) => {$(
        impl $row {
            /// The row's place in its table.
            pub fn range_key(&self) -> RangeKey {
                RangeKey { window_start: self.window_start, tenant_id: self.tenant_id.clone() }
            }
        }
    )*};
}
range_key!(UsageRow, EndpointRow, AlertRow);
