//! A look at a payload for those who only route it.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use memchr::arch::all::packedpair::HeuristicFrequencyRank;
use memchr::memmem::{Finder, FinderBuilder};

use super::text_of;
use crate::json::{self, RawStr, Value};
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

/// Looks at a payload without judging it, to route it. What is told of a JSON object is what [`judge`](crate::judge) finds
/// in it. Of one above [`MAX_PAYLOAD_BYTES`](crate::MAX_PAYLOAD_BYTES) nothing is known, and of what is no JSON object
/// either nothing or what it begins with.
///
/// Where a field stands last is what counts, so the whole payload matters. It is scanned, by the scanner of `judge`, until
/// tenant and event time are known; where what is behind cannot name one of the fields again, it need not be scanned.
///
/// ```
/// let peeked = subscription_core::peek(br#"{"tenant_id": "acme", "event_timestamp": "1970-01-01T00:00:01Z"}"#);
/// assert_eq!(peeked.tenant_id.as_deref(), Some("acme"));
/// assert_eq!(peeked.record_timestamp().unwrap().millis(), 1_000);
/// ```
pub fn peek(payload: &[u8]) -> Peeked<'_> {
    let Ok(text) = text_of(payload) else { return Peeked::default() };
    let mut fields = Fields::default();
    let scanned = json::members_until(text, |name, value| match fields.take(name, value) {
        true if fields.tenant_id.is_some() && fields.event.is_some() => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    match scanned {
        Ok(Some(rest)) if may_name_fields(rest.as_bytes()) => {}
        Ok(_) => return fields.peeked(),
        Err(_) => return Peeked::default(),
    }
    let mut fields = Fields::default();
    let take = |name, value| {
        fields.take(name, value);
    };
    match json::members(text, take) {
        Ok(()) => fields.peeked(),
        Err(_) => Peeked::default(),
    }
}

/// The values of the fields that are looked at; of a repeated name the last.
#[derive(Default)]
struct Fields<'a> {
    tenant_id: Option<Value<'a>>,
    ingestion: Option<Value<'a>>,
    event: Option<Value<'a>>,
}

impl<'a> Fields<'a> {
    /// Whether it is one of them.
    #[inline]
    fn take(&mut self, name: RawStr<'a>, value: Value<'a>) -> bool {
        let field = match &*name.decode() {
            "tenant_id" => &mut self.tenant_id,
            "ingestion_timestamp" => &mut self.ingestion,
            "event_timestamp" => &mut self.event,
            _ => return false,
        };
        *field = Some(value);
        true
    }

    fn peeked(&self) -> Peeked<'a> {
        let string = |value| match value {
            Some(Value::String(string)) => Some(string.decode()),
            _ => None,
        };
        let time = |value| string(value).and_then(|text| Timestamp::parse_rfc3339(&text));
        Peeked {
            tenant_id: string(self.tenant_id),
            ingestion_timestamp: time(self.ingestion),
            event_timestamp: time(self.event),
        }
    }
}

/// Whether a member in there may have the name of one of [`Fields`]: it is there as it is, or something is escaped.
fn may_name_fields(text: &[u8]) -> bool {
    static NAMES: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| {
        let finder = |name| FinderBuilder::new().build_forward_with_ranker(RareInEvents, name);
        [finder("tenant_id\""), finder("_timestamp\"")]
    });
    memchr::memchr(b'\\', text).is_some() || NAMES.iter().any(|name| name.find(text).is_some())
}

/// A search looks for the two rarest bytes of a name first. Quotes and underscores, rare elsewhere, are everywhere in events.
struct RareInEvents;

impl HeuristicFrequencyRank for RareInEvents {
    fn rank(&self, byte: u8) -> u8 {
        if b"dmnp".contains(&byte) { 0 } else { u8::MAX }
    }
}
