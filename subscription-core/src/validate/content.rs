//! Where in a record its event is: the payload itself, or the `data` of a CloudEvent.

use super::{Invalid, Judged, NOT_AN_OBJECT, NOT_JSON, Peeked, TOO_LARGE, judge, peek, text_of};
use crate::json::{self, NotAnObject, RawStr, Value};
use crate::record::{Header, MAX_PAYLOAD_BYTES, Record};

/// How a record carries its event, in the terms of CloudEvents 1.0 (Kafka protocol binding, §3).
///
/// The record's `content-type` header decides, as the binding says: where it begins with `application/cloudevents`, in
/// either case, the content is structured; without that header, or with another, the payload is the event. Of a header
/// that comes more than once the last counts. Nothing else of an envelope is read: its attributes stay in Bronze's payload
/// or headers.
///
/// ```
/// use subscription_core::{ContentMode, Judged};
///
/// let headers = [("content-type", Some(&b"application/cloudevents+json; charset=UTF-8"[..]))];
/// let mode = ContentMode::of(headers);
/// assert_eq!(mode, ContentMode::Structured);
///
/// let payload = br#"{"specversion": "1.0", "id": "1", "source": "/gateway", "type": "usage", "data": {"tenant_id": "acme"}}"#;
/// assert_eq!(mode.peek(payload).tenant_id.as_deref(), Some("acme"));
/// let Judged::Invalid(invalid) = mode.judge(br#"{"specversion": "1.0"}"#) else { panic!("no data") };
/// assert_eq!(invalid.errors, ["missing_field:data"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ContentMode {
    /// The payload is the event: a plain one, or a CloudEvent whose attributes are headers (`ce_id` and so on).
    #[default]
    Binary,
    /// The payload is a CloudEvent in JSON, whose member `data` is the event.
    Structured,
}

impl ContentMode {
    /// The mode that a record's headers tell.
    #[inline]
    pub fn of<'a>(headers: impl IntoIterator<Item = Header<'a>>) -> Self {
        const STRUCTURED: &[u8] = b"application/cloudevents";
        let mut mode = Self::Binary;
        for (name, value) in headers {
            if name.eq_ignore_ascii_case("content-type") {
                let start = value.unwrap_or_default().trim_ascii_start().get(..STRUCTURED.len());
                let structured = start.is_some_and(|start| start.eq_ignore_ascii_case(STRUCTURED));
                mode = if structured { Self::Structured } else { Self::Binary };
            }
        }
        mode
    }

    /// As [`judge`], of a payload in this mode. A CloudEvent whose `data` is absent, null or no object is
    /// [`Judged::Invalid`] with `missing_field:data`, `null_field:data` or `wrong_type:data`.
    #[inline]
    pub fn judge(self, payload: &[u8]) -> Judged<'_> {
        match self {
            Self::Binary => judge(payload),
            Self::Structured => judge_envelope(payload),
        }
    }

    /// As [`peek`], of a payload in this mode.
    pub fn peek(self, payload: &[u8]) -> Peeked<'_> {
        match self {
            Self::Binary => peek(payload),
            Self::Structured => match text_of(payload).map(data_of) {
                Ok(Ok(Some(Value::Object(event)))) => peek(event.as_bytes()),
                _ => Peeked::default(),
            },
        }
    }
}

impl<'a> Record<'a> {
    /// How the record carries its event.
    #[inline]
    pub fn content_mode(&self) -> ContentMode {
        ContentMode::of(self.headers())
    }

    /// Judges the record's event, in whatever mode it is carried: groups 1 and 2 of the validation.
    pub fn judge(&self) -> Judged<'a> {
        if self.payload_len() > MAX_PAYLOAD_BYTES {
            let error = format!("{} bytes, more than {MAX_PAYLOAD_BYTES}", self.payload_len());
            return Judged::Dead { code: TOO_LARGE, error };
        }
        self.content_mode().judge(self.payload().unwrap_or_default())
    }
}

#[cold]
fn judge_envelope(payload: &[u8]) -> Judged<'_> {
    let text = match text_of(payload) {
        Ok(text) => text,
        Err((code, error)) => return Judged::Dead { code, error },
    };
    let error = match data_of(text) {
        Ok(Some(Value::Object(event))) => return judge(event.as_bytes()),
        Ok(None) => "missing_field:data",
        Ok(Some(Value::Null)) => "null_field:data",
        Ok(Some(_)) => "wrong_type:data",
        Err(NotAnObject::NotJson(error)) => return Judged::Dead { code: NOT_JSON, error: error.to_string() },
        Err(NotAnObject::Other(kind)) => {
            return Judged::Dead { code: NOT_AN_OBJECT, error: format!("{kind} instead of an object") };
        }
    };
    Judged::Invalid(Invalid { event_id: None, tenant_id: None, errors: vec![error.to_owned()] })
}

/// The value of the last member `data`.
fn data_of(text: &str) -> Result<Option<Value<'_>>, NotAnObject> {
    let mut data = None;
    json::members(text, |name, value| {
        if RawStr::decode(name) == "data" {
            data = Some(value);
        }
    })?;
    Ok(data)
}
