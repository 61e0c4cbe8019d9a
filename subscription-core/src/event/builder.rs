//! Building events for those who emit them.

use std::borrow::Cow;

use uuid::Uuid;

use super::ApiUsageEvent;
use crate::decimal::Units;
use crate::rows::HttpMethod;
use crate::time::Timestamp;
use crate::validate::Invalid;

/// Builds an [`ApiUsageEvent`]: one setter a field, checked as a whole by [`EventBuilder::build`].
#[derive(Debug, Clone)]
pub struct EventBuilder<'a> {
    event: ApiUsageEvent<'a>,
    /// The required fields not yet given.
    missing: Vec<&'static str>,
}

impl Default for EventBuilder<'_> {
    fn default() -> Self {
        Self {
            event: ApiUsageEvent {
                event_id: Uuid::nil(),
                schema_version: None,
                event_timestamp: Timestamp::EPOCH,
                ingestion_timestamp: None,
                tenant_id: Cow::Borrowed(""),
                api_key_id: Cow::Borrowed(""),
                user_id: None,
                endpoint: Cow::Borrowed(""),
                http_method: HttpMethod::Get,
                api_version: None,
                response_status_code: 0,
                response_time_ms: 0.0,
                subscription_plan: Cow::Borrowed(""),
                risk_score: None,
                velocity_last_1min: None,
                velocity_last_5min: None,
                velocity_last_1hour: None,
                ip_address: None,
                country_code: None,
                region: None,
                user_agent: None,
                sdk_version: None,
                request_size_bytes: None,
                response_size_bytes: None,
                request_id: None,
                trace_id: None,
                emitter_id: None,
                emitter_sequence: None,
                billable_units: None,
                quota_cost: None,
                labels: None,
            },
            missing: REQUIRED.to_vec(),
        }
    }
}

/// In the order of their names.
const REQUIRED: [&str; 9] = [
    "api_key_id",
    "endpoint",
    "event_id",
    "event_timestamp",
    "http_method",
    "response_status_code",
    "response_time_ms",
    "subscription_plan",
    "tenant_id",
];

/// `required` and `optional` setters: of texts (`text`), of times and numbers (`value`).
macro_rules! setters {
    ($($(#[$doc:meta])* $need:ident $field:ident: $kind:ident $(($type:ty))?;)*) => { $(
        $(#[$doc])*
        pub fn $field(mut self, value: setters!(@type $kind $($type)?)) -> Self {
            setters!(@set self $need $field, value.into());
            self
        }
    )* };
    (@type text) => { impl Into<Cow<'a, str>> };
    (@type value $type:ty) => { $type };
    (@set $self:ident required $field:ident, $value:expr) => {
        $self.missing.retain(|field| *field != stringify!($field));
        $self.event.$field = $value;
    };
    (@set $self:ident optional $field:ident, $value:expr) => {
        $self.event.$field = Some($value);
    };
}

impl<'a> EventBuilder<'a> {
    setters! {
        /// Required. The event's own id; a retry carries the same one.
        required event_id: value(Uuid);
        /// The version of the contract that the emitter follows.
        optional schema_version: text;
        /// Required. When the call happened.
        required event_timestamp: value(Timestamp);
        /// When the event was taken in, for transports that do not say so themselves.
        optional ingestion_timestamp: value(Timestamp);
        /// Required. Whose usage it is.
        required tenant_id: text;
        /// Required. The credential of the call (its id, never the secret).
        required api_key_id: text;
        /// Who made the call.
        optional user_id: text;
        /// Required. The path or route that was called, without query string.
        required endpoint: text;
        /// Required. The method of the call.
        required http_method: value(HttpMethod);
        /// The version of the API that was called.
        optional api_version: text;
        /// Required. The HTTP status that was answered.
        required response_status_code: value(u16);
        /// Required. How long the answer took, in milliseconds.
        required response_time_ms: value(f64);
        /// Required. The tenant's plan at the time of the call.
        required subscription_plan: text;
        /// The gateway's estimate that the call is abusive, 0 to 1.
        optional risk_score: value(f64);
        /// The tenant's calls in the minute before.
        optional velocity_last_1min: value(i64);
        /// The tenant's calls in the five minutes before.
        optional velocity_last_5min: value(i64);
        /// The tenant's calls in the hour before.
        optional velocity_last_1hour: value(i64);
        /// The client's IPv4 or IPv6 address.
        optional ip_address: text;
        /// The client's country, ISO 3166-1 alpha-2.
        optional country_code: text;
        /// The client's or the gateway's region.
        optional region: text;
        /// The `User-Agent` header.
        optional user_agent: text;
        /// Name and version of the client library.
        optional sdk_version: text;
        /// The size of the request's body, in bytes.
        optional request_size_bytes: value(i64);
        /// The size of the response's body, in bytes.
        optional response_size_bytes: value(i64);
        /// The gateway's id of the request.
        optional request_id: text;
        /// The W3C trace id, 32 hex digits.
        optional trace_id: text;
        /// One start of one emitting process.
        optional emitter_id: text;
        /// The number of this event among those of its emitter, from 0.
        optional emitter_sequence: value(i64);
        /// What the call counts on the bill; 1 where it is not given.
        optional billable_units: value(Units);
        /// What the call took, or asked, of its limits; 1 where it is not given.
        optional quota_cost: value(i64);
    }

    /// Adds a label; of a repeated name the last value counts.
    pub fn label(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        let (name, value) = (name.into(), value.into());
        let labels = self.event.labels.get_or_insert_default();
        match labels.iter_mut().find(|(other, _)| *other == name) {
            Some(label) => label.1 = value,
            None => labels.push((name, value)),
        }
        self
    }

    /// The event.
    ///
    /// # Errors
    /// `missing_field:` for each required field that was not given; else what [`ApiUsageEvent::validate`] finds.
    pub fn build(self) -> Result<ApiUsageEvent<'a>, Invalid> {
        if !self.missing.is_empty() {
            let given = |field: &str| !self.missing.contains(&field);
            return Err(Invalid {
                event_id: given("event_id").then(|| self.event.event_id.to_string()),
                tenant_id: given("tenant_id").then(|| self.event.tenant_id.into_owned()),
                errors: self.missing.iter().map(|field| format!("missing_field:{field}")).collect(),
            });
        }
        self.event.validate()?;
        Ok(self.event)
    }
}
