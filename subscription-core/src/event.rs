//! The usage event: what a gateway reports of one API call.

use std::borrow::Cow;

use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::decimal::Units;
use crate::rows::HttpMethod;
use crate::time::Timestamp;
use crate::validate::{Invalid, Judged, judge};

mod builder;

pub use builder::EventBuilder;

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

impl<'a> ApiUsageEvent<'a> {
    /// An event to be filled in by an emitter.
    ///
    /// ```
    /// use subscription_core::{ApiUsageEvent, HttpMethod, Judged, Timestamp, judge};
    ///
    /// let event = ApiUsageEvent::builder()
    ///     .event_id("0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap())
    ///     .event_timestamp(Timestamp::from_millis(1_767_225_600_000))
    ///     .tenant_id("acme")
    ///     .api_key_id("key-1")
    ///     .endpoint("/v1/reports")
    ///     .http_method(HttpMethod::Get)
    ///     .response_status_code(200)
    ///     .response_time_ms(12.5)
    ///     .subscription_plan("pro")
    ///     .label("team", "search")
    ///     .build()?;
    ///
    /// let payload = event.to_json();
    /// assert_eq!(judge(payload.as_bytes()), Judged::Valid(Box::new(event)));
    /// # Ok::<(), subscription_core::Invalid>(())
    /// ```
    pub fn builder() -> EventBuilder<'a> {
        EventBuilder::default()
    }

    /// The payload that reports this event: compact JSON without the fields that are `None`.
    ///
    /// Of an event that [`ApiUsageEvent::validate`] accepts, [`judge`](crate::judge) makes this same event again.
    pub fn to_json(&self) -> String {
        // Strings, numbers and maps with string keys can all be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As [`ApiUsageEvent::to_json`], without `emitter_id` and `emitter_sequence`; `capacity` bytes are set aside for it.
    pub(crate) fn to_json_without_origin(&self, capacity: usize) -> String {
        struct WithoutOrigin<'e>(&'e ApiUsageEvent<'e>);
        impl Serialize for WithoutOrigin<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.write(serializer, false)
            }
        }
        let mut json = Vec::with_capacity(capacity);
        // As in `to_json`; and JSON is UTF-8.
        let _ = serde_json::to_writer(&mut json, &WithoutOrigin(self));
        String::from_utf8(json).unwrap_or_default()
    }

    /// Checks the event as the platform will: by judging its payload.
    ///
    /// # Errors
    /// The codes, `code:field`, for which the platform would put it into quarantine.
    pub fn validate(&self) -> Result<(), Invalid> {
        // JSON has no NaN and no infinity: they would arrive as null, which is no value, but no error either.
        if self.risk_score.is_some_and(|risk| !risk.is_finite()) {
            return Err(self.invalid("out_of_range:risk_score"));
        }
        if !self.response_time_ms.is_finite() {
            return Err(self.invalid("out_of_range:response_time_ms"));
        }
        match judge(self.to_json().as_bytes()) {
            Judged::Valid(_) => Ok(()),
            Judged::Invalid(invalid) => Err(invalid),
            // It is an object; all that is left is that it is too large.
            Judged::Dead { code, .. } => Err(self.invalid(code)),
        }
    }

    fn invalid(&self, error: &str) -> Invalid {
        Invalid {
            event_id: Some(self.event_id.to_string()),
            tenant_id: Some(self.tenant_id.clone().into_owned()),
            errors: vec![error.to_owned()],
        }
    }
}

impl Serialize for ApiUsageEvent<'_> {
    /// A map of the fields that are not `None`, under their names, as the schema wants it. `billable_units` is written
    /// digit for digit, which is a number in `serde_json` only.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(serializer, true)
    }
}

impl ApiUsageEvent<'_> {
    fn write<S: Serializer>(&self, serializer: S, with_origin: bool) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        macro_rules! given {
            ($($field:ident)*) => { $(if let Some(value) = &self.$field {
                map.serialize_entry(stringify!($field), value)?;
            })* };
        }
        map.serialize_entry("event_id", &self.event_id)?;
        given!(schema_version);
        map.serialize_entry("event_timestamp", &Rfc3339(self.event_timestamp))?;
        if let Some(time) = self.ingestion_timestamp {
            map.serialize_entry("ingestion_timestamp", &Rfc3339(time))?;
        }
        map.serialize_entry("tenant_id", &self.tenant_id)?;
        map.serialize_entry("api_key_id", &self.api_key_id)?;
        given!(user_id);
        map.serialize_entry("endpoint", &self.endpoint)?;
        map.serialize_entry("http_method", self.http_method.as_str())?;
        given!(api_version);
        map.serialize_entry("response_status_code", &self.response_status_code)?;
        map.serialize_entry("response_time_ms", &self.response_time_ms)?;
        map.serialize_entry("subscription_plan", &self.subscription_plan)?;
        given!(risk_score velocity_last_1min velocity_last_5min velocity_last_1hour ip_address country_code region);
        given!(user_agent sdk_version request_size_bytes response_size_bytes request_id trace_id);
        if with_origin {
            given!(emitter_id emitter_sequence);
        }
        if let Some(units) = self.billable_units {
            let number = RawValue::from_string(units.to_string()).map_err(S::Error::custom)?;
            map.serialize_entry("billable_units", &number)?;
        }
        given!(quota_cost);
        if let Some(labels) = &self.labels {
            map.serialize_entry("labels", &Labels(labels))?;
        }
        map.end()
    }
}

struct Rfc3339(Timestamp);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct Labels<'a>(&'a [(Cow<'a, str>, Cow<'a, str>)]);

impl Serialize for Labels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
