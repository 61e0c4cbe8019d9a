//! A look at a payload for those who only route it.

use std::borrow::Cow;

use super::text_of;
use crate::json::{self, Value};
use crate::time::Timestamp;

/// What a source without keys and record timestamps of its own, such as a file, needs to know of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peeked<'a> {
    /// `tenant_id`, where the payload is a JSON object and it is a string, valid or not.
    pub tenant_id: Option<Cow<'a, str>>,
    /// `ingestion_timestamp`, where it is valid.
    pub ingestion_timestamp: Option<Timestamp>,
    /// `event_timestamp`, where it is valid.
    pub event_timestamp: Option<Timestamp>,
}

impl Peeked<'_> {
    /// The record timestamp of a payload whose source has none: `ingestion_timestamp`, else `event_timestamp`.
    pub fn record_timestamp(&self) -> Option<Timestamp> {
        self.ingestion_timestamp.or(self.event_timestamp)
    }
}

/// Looks at a payload without judging it. Of one that is no JSON object, or above
/// [`MAX_PAYLOAD_BYTES`](crate::MAX_PAYLOAD_BYTES), nothing is known.
///
/// Where a field is read cannot depend on what stands behind it (a repeated name, a missing brace), so the whole payload
/// is scanned, by the same scanner as [`judge`](crate::judge) uses, and the two agree by construction. What makes this
/// several times cheaper is all that is not done with the other fields.
///
/// ```
/// let peeked = subscription_core::peek(br#"{"tenant_id": "acme", "event_timestamp": "1970-01-01T00:00:01Z"}"#);
/// assert_eq!(peeked.tenant_id.as_deref(), Some("acme"));
/// assert_eq!(peeked.record_timestamp().unwrap().millis(), 1_000);
/// ```
pub fn peek(payload: &[u8]) -> Peeked<'_> {
    let Ok(text) = text_of(payload) else { return Peeked::default() };
    let (mut tenant_id, mut ingestion, mut event) = (None, None, None);
    let scanned = json::members(text, |name, value| match &*name.decode() {
        "tenant_id" => tenant_id = Some(value),
        "ingestion_timestamp" => ingestion = Some(value),
        "event_timestamp" => event = Some(value),
        _ => {}
    });
    if scanned.is_err() {
        return Peeked::default();
    }
    let string = |value| match value {
        Some(Value::String(string)) => Some(string.decode()),
        _ => None,
    };
    let time = |value| string(value).and_then(|text| Timestamp::parse_rfc3339(&text));
    Peeked { tenant_id: string(tenant_id), ingestion_timestamp: time(ingestion), event_timestamp: time(event) }
}
