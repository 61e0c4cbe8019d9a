//! The usage event of a request.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use subscription_core::{ApiUsageEvent, Clock, EventEmitter, HttpMethod, Timestamp};
use uuid::Uuid;

use crate::identity::Principal;
use crate::velocity::Rates;

/// What is known of a request once it was decided.
pub(crate) struct Usage {
    pub(crate) emitter: Arc<dyn EventEmitter>,
    pub(crate) clock: Arc<dyn Clock>,
    /// On the monotonic clock.
    pub(crate) started: u64,
    /// When it was decided, by the counters' clock.
    pub(crate) at: Timestamp,
    pub(crate) principal: Arc<Principal>,
    pub(crate) route: String,
    pub(crate) method: HttpMethod,
    pub(crate) cost: u32,
    pub(crate) origin: Origin,
    pub(crate) rates: Rates,
}

/// What the request says of itself.
pub(crate) struct Origin {
    user_agent: Option<String>,
    request_id: Option<String>,
    trace_id: Option<String>,
    request_size: Option<i64>,
    address: Option<IpAddr>,
}

impl Origin {
    pub(crate) fn of(request: &Parts, address: Option<IpAddr>) -> Self {
        let text = |name: &str| text(&request.headers, name);
        let trace_id = text("traceparent").and_then(|parent| {
            let id = parent.split('-').nth(1)?;
            (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
        });
        Self {
            user_agent: text("user-agent").map(|agent| agent.chars().take(512).collect()),
            request_id: text("x-request-id").map(|id| id.chars().take(128).collect()),
            trace_id,
            request_size: text("content-length").and_then(|length| length.parse().ok()),
            address,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl Usage {
    /// Reports the request, as answered now.
    pub(crate) fn report(&self, status: u16, response_bytes: u64) {
        let nanos = self.clock.monotonic_nanos().saturating_sub(self.started);
        let Origin { user_agent, request_id, trace_id, request_size, address } = &self.origin;
        let mut event = ApiUsageEvent::builder()
            .event_id(Uuid::new_v4())
            .schema_version("1.0")
            .event_timestamp(self.at)
            .tenant_id(self.principal.tenant_id.as_str())
            .api_key_id(self.principal.api_key_id.as_str())
            .endpoint(if self.route.starts_with('/') { self.route.clone() } else { format!("/{}", self.route) })
            .http_method(self.method)
            // HTTP has no others; a service can send what it likes.
            .response_status_code(status.clamp(100, 599))
            .response_time_ms((nanos as f64 / 1e6).min(86_400_000.0))
            .subscription_plan(self.principal.plan.as_str())
            .response_size_bytes(i64::try_from(response_bytes).unwrap_or(i64::MAX).min(1 << 40))
            .quota_cost(i64::from(self.cost).min(MOST_COST))
            .velocity_last_1min(self.rates.minute)
            .velocity_last_5min(self.rates.five_minutes)
            .velocity_last_1hour(self.rates.hour);
        if let Some(user) = &self.principal.user_id {
            event = event.user_id(user.as_str());
        }
        if let Some(agent) = user_agent {
            event = event.user_agent(agent.as_str());
        }
        if let Some(id) = request_id {
            event = event.request_id(id.as_str());
        }
        if let Some(id) = trace_id {
            event = event.trace_id(id.as_str());
        }
        if let Some(address) = address {
            event = event.ip_address(address.to_string());
        }
        if let Some(size) = request_size.filter(|size| (0..=1 << 40).contains(size)) {
            event = event.request_size_bytes(size);
        }
        let emitted = match event.build() {
            Ok(event) => self.emitter.emit(&event).map_err(|error| error.to_string()),
            Err(invalid) => Err(invalid.to_string()),
        };
        if let Err(error) = emitted {
            metrics::counter!("subscription.gateway.events.refused").increment(1);
            tracing::error!(error, "subscription.tenant_id" = %self.principal.tenant_id, "a usage event was not taken");
        }
        let labels = [
            ("http.request.method", self.method.as_str().to_owned()),
            ("http.route", self.route.clone()),
            ("http.response.status_code", status.to_string()),
        ];
        metrics::histogram!("http.server.request.duration", &labels).record(nanos as f64 / 1e9);
    }
}

/// The most that a usage event takes for a cost.
const MOST_COST: i64 = 1_000_000_000;

/// What a usage event takes for a key's id.
pub(crate) fn is_api_key_id(id: &str) -> bool {
    (1..=128).contains(&id.chars().count())
}

/// What a usage event takes for a tenant's id.
pub(crate) fn is_tenant_id(id: &str) -> bool {
    id.len() <= 128
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}
