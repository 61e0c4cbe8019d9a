//! What a source must know of a payload: its key and its time.

use std::borrow::Cow;

use chrono::DateTime;
use serde_json::{Map, Value};
use subscription_core::{MAX_PAYLOAD_BYTES, Timestamp};

/// Key and time of a payload.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Peeked<'a> {
    pub(super) tenant_id: Option<Cow<'a, str>>,
    timestamp: Option<Timestamp>,
}

impl Peeked<'_> {
    pub(super) fn record_timestamp(&self) -> Option<Timestamp> {
        self.timestamp
    }
}

pub(super) fn peek(payload: &[u8]) -> Peeked<'_> {
    if payload.len() as u64 > MAX_PAYLOAD_BYTES {
        return Peeked::default();
    }
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(payload) else { return Peeked::default() };
    let time = |name: &str| {
        let time = DateTime::parse_from_rfc3339(fields.get(name)?.as_str()?).ok()?;
        Some(Timestamp::from_millis(time.timestamp_millis()))
    };
    Peeked {
        tenant_id: fields.get("tenant_id").and_then(Value::as_str).map(|tenant| tenant.to_owned().into()),
        timestamp: time("ingestion_timestamp").or_else(|| time("event_timestamp")),
    }
}
