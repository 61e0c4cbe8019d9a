//! What a payload is: a dead letter, an invalid event or a valid one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use uuid::Uuid;

use crate::decimal::Units;
use crate::event::ApiUsageEvent;
use crate::json::{self, NotAnObject, RawStr, Value};
use crate::record::MAX_PAYLOAD_BYTES;
use crate::rows::HttpMethod;
use crate::time::Timestamp;

mod business;
mod content;
mod formats;
mod peek;

pub use business::check_business;
pub use content::ContentMode;
pub use peek::{Peeked, peek};

/// Code of the dead letter that an empty payload (a tombstone) is.
pub const EMPTY_PAYLOAD: &str = "empty_payload";
/// Code of the dead letter that a payload above [`MAX_PAYLOAD_BYTES`] is.
pub const TOO_LARGE: &str = "too_large";
/// Code of the dead letter that a payload is which is no UTF-8.
pub const INVALID_UTF8: &str = "invalid_utf8";
/// Code of the dead letter that a payload is which is no JSON.
pub const NOT_JSON: &str = "not_json";
/// Code of the dead letter that JSON other than an object is.
pub const NOT_AN_OBJECT: &str = "not_an_object";

/// The judgement of a payload by itself: groups 1 and 2 of the validation (schema and values).
#[derive(Debug, Clone, PartialEq)]
pub enum Judged<'a> {
    /// No JSON object: a dead letter.
    Dead {
        /// `empty_payload`, `too_large`, `invalid_utf8`, `not_json` or `not_an_object`.
        code: &'static str,
        /// What was wrong, and where.
        error: String,
    },
    /// A JSON object that is no event: quarantine.
    Invalid(Invalid),
    /// An event that the schema accepts.
    Valid(Box<ApiUsageEvent<'a>>),
}

/// What is known of an event that failed validation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invalid {
    /// `event_id` as given, where it is a string.
    pub event_id: Option<String>,
    /// `tenant_id` as given, where it is a string.
    pub tenant_id: Option<String>,
    /// `code:field`, sorted, all of the first failing group.
    pub errors: Vec<String>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid event: {}", self.errors.join(", "))
    }
}

impl std::error::Error for Invalid {}

/// Judges a payload by itself: it is [`Judged::Valid`] if and only if it is JSON and
/// [`EVENT_SCHEMA`](crate::EVENT_SCHEMA), with formats asserted, accepts it.
///
/// One pass over the payload; the event borrows from it.
///
/// ```
/// use subscription_core::{Judged, judge};
///
/// let Judged::Invalid(invalid) = judge(br#"{"tenant_id": "acme", "event_id": 7}"#) else { panic!("accepted") };
/// assert_eq!(invalid.tenant_id.as_deref(), Some("acme"));
/// assert!(invalid.errors.contains(&"wrong_type:event_id".to_owned()));
/// assert!(invalid.errors.contains(&"missing_field:endpoint".to_owned()));
///
/// let Judged::Dead { code, error } = judge(b"{\"tenant_id\": }") else { panic!("accepted") };
/// assert_eq!((code, &*error), ("not_json", "expected a value at byte 14"));
/// ```
pub fn judge(payload: &[u8]) -> Judged<'_> {
    let text = match text_of(payload) {
        Ok(text) => text,
        Err((code, error)) => return Judged::Dead { code, error },
    };
    let mut fields = Fields::default();
    let scanned = json::members(text, |name, value| {
        if let Some(slot) = fields.slot(&name.decode()) {
            *slot = Some(value);
        }
    });
    match scanned {
        Ok(()) => check(&fields),
        Err(NotAnObject::NotJson(error)) => Judged::Dead { code: NOT_JSON, error: error.to_string() },
        Err(NotAnObject::Other(kind)) => {
            Judged::Dead { code: NOT_AN_OBJECT, error: format!("{kind} instead of an object") }
        }
    }
}

/// The payload as a text worth scanning, else the code and error of its dead letter.
fn text_of(payload: &[u8]) -> Result<&str, (&'static str, String)> {
    if payload.is_empty() {
        return Err((EMPTY_PAYLOAD, "no payload".to_owned()));
    }
    if payload.len() as u64 > MAX_PAYLOAD_BYTES {
        return Err((TOO_LARGE, format!("{} bytes, at most {MAX_PAYLOAD_BYTES} are read", payload.len())));
    }
    std::str::from_utf8(payload)
        .map_err(|error| (INVALID_UTF8, format!("invalid UTF-8 at byte {}", error.valid_up_to())))
}

/// The members of an object that an event may have; of a repeated name the last.
#[derive(Default)]
struct Fields<'a> {
    event_id: Option<Value<'a>>,
    schema_version: Option<Value<'a>>,
    event_timestamp: Option<Value<'a>>,
    ingestion_timestamp: Option<Value<'a>>,
    tenant_id: Option<Value<'a>>,
    api_key_id: Option<Value<'a>>,
    user_id: Option<Value<'a>>,
    endpoint: Option<Value<'a>>,
    http_method: Option<Value<'a>>,
    api_version: Option<Value<'a>>,
    response_status_code: Option<Value<'a>>,
    response_time_ms: Option<Value<'a>>,
    subscription_plan: Option<Value<'a>>,
    risk_score: Option<Value<'a>>,
    velocity_last_1min: Option<Value<'a>>,
    velocity_last_5min: Option<Value<'a>>,
    velocity_last_1hour: Option<Value<'a>>,
    ip_address: Option<Value<'a>>,
    country_code: Option<Value<'a>>,
    region: Option<Value<'a>>,
    user_agent: Option<Value<'a>>,
    sdk_version: Option<Value<'a>>,
    request_size_bytes: Option<Value<'a>>,
    response_size_bytes: Option<Value<'a>>,
    request_id: Option<Value<'a>>,
    trace_id: Option<Value<'a>>,
    emitter_id: Option<Value<'a>>,
    emitter_sequence: Option<Value<'a>>,
    billable_units: Option<Value<'a>>,
    quota_cost: Option<Value<'a>>,
    labels: Option<Value<'a>>,
}

impl<'a> Fields<'a> {
    /// Where the value of that name goes; `None` for a name that means nothing here.
    fn slot(&mut self, name: &str) -> Option<&mut Option<Value<'a>>> {
        // By length first: a few comparisons of words instead of dozens of lengths.
        Some(match name.len() {
            6 => match name {
                "region" => &mut self.region,
                "labels" => &mut self.labels,
                _ => return None,
            },
            7 if name == "user_id" => &mut self.user_id,
            8 => match name {
                "event_id" => &mut self.event_id,
                "endpoint" => &mut self.endpoint,
                "trace_id" => &mut self.trace_id,
                _ => return None,
            },
            9 if name == "tenant_id" => &mut self.tenant_id,
            10 => match name {
                "api_key_id" => &mut self.api_key_id,
                "risk_score" => &mut self.risk_score,
                "ip_address" => &mut self.ip_address,
                "user_agent" => &mut self.user_agent,
                "request_id" => &mut self.request_id,
                "emitter_id" => &mut self.emitter_id,
                "quota_cost" => &mut self.quota_cost,
                _ => return None,
            },
            11 => match name {
                "http_method" => &mut self.http_method,
                "api_version" => &mut self.api_version,
                "sdk_version" => &mut self.sdk_version,
                _ => return None,
            },
            12 if name == "country_code" => &mut self.country_code,
            14 => match name {
                "schema_version" => &mut self.schema_version,
                "billable_units" => &mut self.billable_units,
                _ => return None,
            },
            15 if name == "event_timestamp" => &mut self.event_timestamp,
            16 => match name {
                "response_time_ms" => &mut self.response_time_ms,
                "emitter_sequence" => &mut self.emitter_sequence,
                _ => return None,
            },
            17 if name == "subscription_plan" => &mut self.subscription_plan,
            18 => match name {
                "velocity_last_1min" => &mut self.velocity_last_1min,
                "velocity_last_5min" => &mut self.velocity_last_5min,
                "request_size_bytes" => &mut self.request_size_bytes,
                _ => return None,
            },
            19 => match name {
                "ingestion_timestamp" => &mut self.ingestion_timestamp,
                "velocity_last_1hour" => &mut self.velocity_last_1hour,
                "response_size_bytes" => &mut self.response_size_bytes,
                _ => return None,
            },
            20 if name == "response_status_code" => &mut self.response_status_code,
            _ => return None,
        })
    }
}

/// The event that the fields make, or what is wrong with them.
fn check<'a>(fields: &Fields<'a>) -> Judged<'a> {
    const TEBIBYTE: i64 = 1 << 40;
    let c = &mut Checker::default();
    let event = ApiUsageEvent {
        event_id: c.required("event_id", fields.event_id, Checker::uuid).unwrap_or_default(),
        schema_version: c.text("schema_version", fields.schema_version),
        event_timestamp: c.required("event_timestamp", fields.event_timestamp, Checker::time).unwrap_or_default(),
        ingestion_timestamp: c.time("ingestion_timestamp", fields.ingestion_timestamp),
        tenant_id: c
            .required("tenant_id", fields.tenant_id, |c, field, value| {
                c.long_text(field, value, 128, formats::is_tenant_id)
            })
            .unwrap_or_default(),
        api_key_id: c
            .required("api_key_id", fields.api_key_id, |c, field, value| {
                c.long_text(field, value, 128, |text| !text.is_empty())
            })
            .unwrap_or_default(),
        user_id: c.text("user_id", fields.user_id),
        endpoint: c
            .required("endpoint", fields.endpoint, |c, field, value| {
                c.long_text(field, value, 2_048, |text| text.starts_with('/'))
            })
            .unwrap_or_default(),
        http_method: c.required("http_method", fields.http_method, Checker::method).unwrap_or(HttpMethod::Get),
        api_version: c.text("api_version", fields.api_version),
        response_status_code: c
            .required("response_status_code", fields.response_status_code, |c, field, value| {
                c.integer(field, value, 100, 599)
            })
            .unwrap_or_default() as u16,
        response_time_ms: c
            .required("response_time_ms", fields.response_time_ms, |c, field, value| {
                c.number(field, value, 86_400_000.0)
            })
            .unwrap_or_default(),
        subscription_plan: c.required("subscription_plan", fields.subscription_plan, Checker::text).unwrap_or_default(),
        risk_score: c.number("risk_score", fields.risk_score, 1.0),
        velocity_last_1min: c.integer("velocity_last_1min", fields.velocity_last_1min, 0, i64::MAX),
        velocity_last_5min: c.integer("velocity_last_5min", fields.velocity_last_5min, 0, i64::MAX),
        velocity_last_1hour: c.integer("velocity_last_1hour", fields.velocity_last_1hour, 0, i64::MAX),
        ip_address: c.formatted("ip_address", fields.ip_address, formats::is_ip_address),
        country_code: c.formatted("country_code", fields.country_code, formats::is_country_code),
        region: c.text("region", fields.region),
        user_agent: c.text("user_agent", fields.user_agent),
        sdk_version: c.text("sdk_version", fields.sdk_version),
        request_size_bytes: c.integer("request_size_bytes", fields.request_size_bytes, 0, TEBIBYTE),
        response_size_bytes: c.integer("response_size_bytes", fields.response_size_bytes, 0, TEBIBYTE),
        request_id: c.text("request_id", fields.request_id),
        trace_id: c.formatted("trace_id", fields.trace_id, formats::is_trace_id),
        emitter_id: c.long_text("emitter_id", fields.emitter_id, 128, |text| !text.is_empty()),
        emitter_sequence: c.integer("emitter_sequence", fields.emitter_sequence, 0, i64::MAX),
        billable_units: c.units("billable_units", fields.billable_units),
        quota_cost: c.integer("quota_cost", fields.quota_cost, 0, 1_000_000_000),
        labels: c.labels("labels", fields.labels),
    };
    let mut errors = std::mem::take(if c.schema.is_empty() { &mut c.value } else { &mut c.schema });
    if errors.is_empty() {
        return Judged::Valid(Box::new(event));
    }
    errors.sort_unstable();
    let given = |value| match value {
        Some(Value::String(string)) => Some(RawStr::decode(string).into_owned()),
        _ => None,
    };
    Judged::Invalid(Invalid { event_id: given(fields.event_id), tenant_id: given(fields.tenant_id), errors })
}

/// Turns values into what they mean, and keeps what is wrong with them. Null is as if absent.
#[derive(Default)]
struct Checker {
    /// Codes of group 1.
    schema: Vec<String>,
    /// Codes of group 2.
    value: Vec<String>,
}

type Field = &'static str;

impl Checker {
    #[cold]
    fn wrong_type<T>(&mut self, field: Field) -> Option<T> {
        self.schema.push(format!("wrong_type:{field}"));
        None
    }

    #[cold]
    fn wrong_value<T>(&mut self, code: &str, field: Field) -> Option<T> {
        self.value.push(format!("{code}:{field}"));
        None
    }

    #[inline]
    fn required<'a, T>(
        &mut self,
        field: Field,
        value: Option<Value<'a>>,
        read: impl FnOnce(&mut Self, Field, Option<Value<'a>>) -> Option<T>,
    ) -> Option<T> {
        match value {
            None => self.schema.push(format!("missing_field:{field}")),
            Some(Value::Null) => self.schema.push(format!("null_field:{field}")),
            Some(_) => return read(self, field, value),
        }
        None
    }

    #[inline]
    fn text<'a>(&mut self, field: Field, value: Option<Value<'a>>) -> Option<Cow<'a, str>> {
        match value {
            None | Some(Value::Null) => None,
            Some(Value::String(string)) => Some(string.decode()),
            Some(_) => self.wrong_type(field),
        }
    }

    #[inline]
    fn formatted<'a>(
        &mut self,
        field: Field,
        value: Option<Value<'a>>,
        is_right: fn(&str) -> bool,
    ) -> Option<Cow<'a, str>> {
        let text = self.text(field, value)?;
        if is_right(&text) { Some(text) } else { self.wrong_value("bad_format", field) }
    }

    #[inline]
    fn long_text<'a>(
        &mut self,
        field: Field,
        value: Option<Value<'a>>,
        max: usize,
        is_right: impl FnOnce(&str) -> bool,
    ) -> Option<Cow<'a, str>> {
        let text = self.text(field, value)?;
        if !is_right(&text) {
            self.wrong_value::<()>("bad_format", field);
        }
        if !formats::is_at_most(&text, max) {
            self.wrong_value::<()>("too_long", field);
        }
        Some(text)
    }

    fn uuid(&mut self, field: Field, value: Option<Value<'_>>) -> Option<Uuid> {
        let text = self.text(field, value)?;
        formats::uuid(&text).or_else(|| self.wrong_value("bad_format", field))
    }

    fn time(&mut self, field: Field, value: Option<Value<'_>>) -> Option<Timestamp> {
        let text = self.text(field, value)?;
        Timestamp::parse_rfc3339(&text).or_else(|| self.wrong_value("bad_format", field))
    }

    fn method(&mut self, field: Field, value: Option<Value<'_>>) -> Option<HttpMethod> {
        let text = self.text(field, value)?;
        HttpMethod::from_name(&text).or_else(|| self.wrong_value("not_in_enum", field))
    }

    #[inline]
    fn numeral<'a>(&mut self, field: Field, value: Option<Value<'a>>) -> Option<&'a str> {
        match value {
            None | Some(Value::Null) => None,
            Some(Value::Number(text)) => Some(text),
            Some(_) => self.wrong_type(field),
        }
    }

    /// A number from 0 to `max`.
    fn number(&mut self, field: Field, value: Option<Value<'_>>, max: f64) -> Option<f64> {
        let number = double(self.numeral(field, value)?);
        if !(0.0..=max).contains(&number) {
            return self.wrong_value("out_of_range", field);
        }
        // -0.0 is in range; nobody downstream wants to meet it.
        Some(number + 0.0)
    }

    fn integer(&mut self, field: Field, value: Option<Value<'_>>, min: i64, max: i64) -> Option<i64> {
        let text = self.numeral(field, value)?;
        // Nearly all are a few digits and nothing else. A number of 18 digits is none that overflows.
        let few = if text.len() <= 18 { formats::digits(text.as_bytes()) } else { None };
        let integer = if few.is_some() {
            few
        } else if text.bytes().all(|byte| byte != b'.' && byte | 0x20 != b'e') {
            // No such number can be read but for its size.
            text.parse().ok()
        } else {
            // With a point or an exponent it is the double that it denotes, as it is to the schema.
            let number = double(text);
            if number.fract() != 0.0 {
                return self.wrong_type(field);
            }
            // -2^63 and 2^63 are doubles; `i64::MAX` is none.
            (i64::MIN as f64..-(i64::MIN as f64)).contains(&number).then_some(number as i64)
        };
        match integer {
            Some(integer) if (min..=max).contains(&integer) => Some(integer),
            _ => self.wrong_value("out_of_range", field),
        }
    }

    /// Bounds are compared as doubles, but what is kept never was one.
    fn units(&mut self, field: Field, value: Option<Value<'_>>) -> Option<Units> {
        let text = self.numeral(field, value)?;
        if !(0.0..=1e12).contains(&double(text)) {
            return self.wrong_value("out_of_range", field);
        }
        Units::parse(text).or_else(|| self.wrong_value("out_of_range", field))
    }

    fn labels<'a>(&mut self, field: Field, value: Option<Value<'a>>) -> Option<Vec<(Cow<'a, str>, Cow<'a, str>)>> {
        let text = match value {
            None | Some(Value::Null) => return None,
            Some(Value::Object(text)) => text,
            Some(_) => return self.wrong_type(field),
        };
        let mut labels: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        // Where names are; only kept from where a look at each of them would take longer.
        let mut places: HashMap<Cow<'a, str>, usize> = HashMap::new();
        // The text was scanned as part of the payload: it is an object.
        let _ = json::members(text, |name, value| {
            const FEW: usize = 16;
            let name = name.decode();
            let place = if labels.len() <= FEW {
                labels.iter().position(|(other, _)| *other == name)
            } else {
                if places.is_empty() {
                    places = labels.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
                }
                places.get(&name).copied()
            };
            match place {
                Some(place) => labels[place].1 = value,
                None => {
                    if !places.is_empty() {
                        places.insert(name.clone(), labels.len());
                    }
                    labels.push((name, value));
                }
            }
        });
        let strings = labels.into_iter().map(|(name, value)| match value {
            Value::String(string) => Some((name, string.decode())),
            _ => None,
        });
        strings.collect::<Option<_>>().or_else(|| self.wrong_type(field))
    }
}

/// The double nearest to a JSON number.
fn double(text: &str) -> f64 {
    // Every JSON number can be read; NaN would be in no range.
    text.parse().unwrap_or(f64::NAN)
}
