//! The JSON of an event that a log line tells of.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{Request, address, path_of};

#[derive(Serialize)]
struct Event<'a> {
    event_id: Uuid,
    #[serde(serialize_with = "display")]
    event_timestamp: subscription_core::Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status_code: Option<i64>,
    response_time_ms: f64,
    subscription_plan: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_size_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_size_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: Labels<'a>,
}

#[derive(Serialize)]
struct Labels<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<&'a str>,
}

impl Labels<'_> {
    fn is_empty(&self) -> bool {
        self.host.is_none() && self.protocol.is_none() && self.referer.is_none()
    }
}

fn display<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The longest `api_key_id`, in code points.
const MAX_KEY: usize = 128;

pub(super) fn write(json: &mut Vec<u8>, request: &Request<'_>, id: &Uuid, tenant: Option<&str>, plan: &str) {
    let key = request.user.as_deref().or(request.client.as_deref());
    let event = Event {
        event_id: *id,
        event_timestamp: request.time,
        tenant_id: tenant,
        api_key_id: key.map(|key| match key.char_indices().nth(MAX_KEY) {
            Some((end, _)) => Cow::Owned(key[..end].to_owned()),
            None => Cow::Borrowed(key),
        }),
        user_id: request.user.as_deref(),
        endpoint: request.target.as_deref().map(path_of),
        http_method: request.method.as_deref(),
        response_status_code: request.status,
        response_time_ms: request.response_time_ms,
        subscription_plan: plan,
        ip_address: request.client.as_deref().and_then(address).map(|address| address.to_string()),
        user_agent: request.user_agent.as_deref(),
        request_size_bytes: request.request_bytes,
        response_size_bytes: request.response_bytes,
        request_id: request.request_id.as_deref(),
        labels: Labels {
            host: request.host.as_deref(),
            protocol: request.protocol.as_deref(),
            referer: request.referer.as_deref(),
        },
    };
    serde_json::to_writer(json, &event).expect("strings and numbers go into memory");
}
