//! nginx's JSON log, one object a line, with the usual field names.

use std::borrow::Cow;

use chrono::DateTime;
use serde_json::{Map, Value};
use subscription_core::Timestamp;

use super::Request;
use super::combined::{fraction_millis, given, in_four_digit_years, request_parts, time};

const CLIENT: &[&str] = &["remote_addr", "remote_ip", "client_ip", "clientip", "client"];
const USER: &[&str] = &["remote_user", "user"];
const HOST: &[&str] = &["host", "http_host", "server_name", "vhost"];
const REQUEST: &[&str] = &["request"];
const METHOD: &[&str] = &["request_method", "method"];
const TARGET: &[&str] = &["request_uri", "uri", "path", "url"];
const PROTOCOL: &[&str] = &["server_protocol", "protocol"];
const STATUS: &[&str] = &["status", "status_code", "response"];
const SENT: &[&str] = &["body_bytes_sent", "bytes_sent", "bytes", "size"];
const RECEIVED: &[&str] = &["request_length"];
const SECONDS: &[&str] = &["request_time"];
const REFERER: &[&str] = &["http_referer", "http_referrer", "referer", "referrer"];
const AGENT: &[&str] = &["http_user_agent", "user_agent", "agent"];
const REQUEST_ID: &[&str] = &["request_id"];
/// Those of finer digits first.
const TIME: &[&str] = &["msec", "time_iso8601", "@timestamp", "timestamp", "time_local", "time"];

/// A request, of an object that has a time, a client and a request or a status.
pub(super) fn parse(line: &[u8]) -> Option<Request<'static>> {
    let fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
    // An event has a client address and a status under other names; it is not to be taken for a log line.
    if fields.contains_key("event_id") {
        return None;
    }
    let text = |names: &[&str]| names.iter().find_map(|name| text_of(fields.get(*name)?));
    let time = TIME.iter().find_map(|name| time_of(fields.get(*name)?))?;
    let client = text(CLIENT)?;
    let status = text(STATUS).and_then(|status| status.parse().ok());
    let (mut method, mut target, mut protocol) = text(REQUEST).map_or((None, None, None), request_parts);
    if text(REQUEST).is_none() && text(METHOD).is_none() && status.is_none() {
        return None;
    }
    method = method.or_else(|| text(METHOD));
    target = target.or_else(|| text(TARGET));
    protocol = protocol.or_else(|| text(PROTOCOL));
    Some(Request {
        time,
        client: Some(client),
        user: text(USER),
        host: text(HOST),
        method,
        target,
        protocol,
        status,
        request_bytes: text(RECEIVED).and_then(|n| n.parse().ok()),
        response_bytes: Some(text(SENT).and_then(|n| n.parse().ok()).unwrap_or(0)),
        response_time_ms: text(SECONDS).and_then(|seconds| milliseconds(&seconds)).unwrap_or(0.0),
        referer: text(REFERER),
        user_agent: text(AGENT),
        request_id: text(REQUEST_ID),
    })
}

fn text_of(value: &Value) -> Option<Cow<'static, str>> {
    match value {
        Value::String(text) => given(Cow::Owned(text.clone())),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

/// Seconds, as `0.005`, in milliseconds; decimal digits are moved, so that 0.005 is 5 and not 5.000000000000001.
fn milliseconds(seconds: &str) -> Option<f64> {
    let seconds: f64 = seconds.parse().ok().filter(|s: &f64| s.is_finite() && *s >= 0.0)?;
    Some((seconds * 1e6).round() / 1e3)
}

/// `1431857103.123`, RFC 3339 or the Common log's format.
fn time_of(value: &Value) -> Option<Timestamp> {
    let text = text_of(value)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    if whole.len() <= 12 && !whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit()) {
        let seconds: i64 = whole.parse().ok()?;
        return in_four_digit_years(Timestamp::from_millis(seconds * 1_000 + fraction_millis(fraction)?));
    }
    let rfc3339 = DateTime::parse_from_rfc3339(&text).ok().map(|time| Timestamp::from_millis(time.timestamp_millis()));
    rfc3339.and_then(in_four_digit_years).or_else(|| time(text.as_bytes()))
}
