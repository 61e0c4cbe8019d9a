//! The usage event: what a gateway reports of one API call.

use std::borrow::Cow;

use uuid::Uuid;

use crate::decimal::Units;
use crate::rows::HttpMethod;
use crate::time::Timestamp;

/// One API call, as its gateway reported it; texts borrow from the payload where they can.
///
/// The fields, their meaning and their bounds are those of `schemas/api_usage_event.schema.json`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct ApiUsageEvent<'a> {
    pub event_id: Uuid,
    pub schema_version: Option<Cow<'a, str>>,
    pub event_timestamp: Timestamp,
    pub ingestion_timestamp: Option<Timestamp>,
    pub tenant_id: Cow<'a, str>,
    pub api_key_id: Cow<'a, str>,
    pub user_id: Option<Cow<'a, str>>,
    pub endpoint: Cow<'a, str>,
    pub http_method: HttpMethod,
    pub api_version: Option<Cow<'a, str>>,
    pub response_status_code: u16,
    pub response_time_ms: f64,
    pub subscription_plan: Cow<'a, str>,
    pub risk_score: Option<f64>,
    pub velocity_last_1min: Option<i64>,
    pub velocity_last_5min: Option<i64>,
    pub velocity_last_1hour: Option<i64>,
    pub ip_address: Option<Cow<'a, str>>,
    pub country_code: Option<Cow<'a, str>>,
    pub region: Option<Cow<'a, str>>,
    pub user_agent: Option<Cow<'a, str>>,
    pub sdk_version: Option<Cow<'a, str>>,
    pub request_size_bytes: Option<i64>,
    pub response_size_bytes: Option<i64>,
    pub request_id: Option<Cow<'a, str>>,
    pub trace_id: Option<Cow<'a, str>>,
    pub emitter_id: Option<Cow<'a, str>>,
    pub emitter_sequence: Option<i64>,
    /// Absent counts as 1.
    pub billable_units: Option<Units>,
    /// Absent counts as 1.
    pub quota_cost: Option<i64>,
    /// In the order given; of a repeated name the last value, at the place of the first.
    pub labels: Option<Vec<(Cow<'a, str>, Cow<'a, str>)>>,
}
