//! Records that are no valid events, one kind for each code.

use super::random::Random;

/// What is wrong with a record, named by the code that it must get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Broken {
    EmptyPayload,
    TooLarge,
    InvalidUtf8,
    NotJson,
    NotAnObject,
    MissingField,
    NullField,
    WrongType,
    OutOfRange,
    NotInEnum,
    BadFormat,
    TooLong,
    EventAfterIngestion,
    EventTooOld,
    UnknownPlan,
    ImplausibleVelocity,
    /// In another partition than its tenant's; only where records are dealt to several as a topic does it.
    Misrouted,
}

impl Broken {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::EmptyPayload,
        Self::TooLarge,
        Self::InvalidUtf8,
        Self::NotJson,
        Self::NotAnObject,
        Self::MissingField,
        Self::NullField,
        Self::WrongType,
        Self::OutOfRange,
        Self::NotInEnum,
        Self::BadFormat,
        Self::TooLong,
        Self::EventAfterIngestion,
        Self::EventTooOld,
        Self::UnknownPlan,
        Self::ImplausibleVelocity,
        Self::Misrouted,
    ];

    /// The code of the dead letter, or the part before the colon of the code of the quarantined record.
    pub const fn code(self) -> &'static str {
        match self {
            Self::EmptyPayload => "empty_payload",
            Self::TooLarge => "too_large",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::MissingField => "missing_field",
            Self::NullField => "null_field",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::NotInEnum => "not_in_enum",
            Self::BadFormat => "bad_format",
            Self::TooLong => "too_long",
            Self::EventAfterIngestion => "event_after_ingestion",
            Self::EventTooOld => "event_too_old",
            Self::UnknownPlan => "unknown_plan",
            Self::ImplausibleVelocity => "implausible_velocity",
            Self::Misrouted => "misrouted",
        }
    }

    /// Whether the record is no JSON object: a dead letter.
    pub const fn is_dead(self) -> bool {
        matches!(self, Self::EmptyPayload | Self::TooLarge | Self::InvalidUtf8 | Self::NotJson | Self::NotAnObject)
    }
}

const REQUIRED: [&str; 9] = [
    "event_id",
    "event_timestamp",
    "tenant_id",
    "api_key_id",
    "endpoint",
    "http_method",
    "response_status_code",
    "response_time_ms",
    "subscription_plan",
];

const WRONG_TYPE: [(&str, &str); 9] = [
    ("tenant_id", "12"),
    ("event_id", "{}"),
    ("response_status_code", "\"200\""),
    ("response_status_code", "200.5"),
    ("response_time_ms", "true"),
    ("event_timestamp", "1700000000"),
    ("user_id", "[]"),
    ("labels", "{\"a\":1}"),
    ("emitter_sequence", "\"1\""),
];

const OUT_OF_RANGE: [(&str, &str); 9] = [
    ("response_status_code", "600"),
    ("response_status_code", "99"),
    ("response_time_ms", "-0.001"),
    ("response_time_ms", "86400000.5"),
    ("risk_score", "1.01"),
    ("request_size_bytes", "1099511627777"),
    ("velocity_last_1min", "-1"),
    ("quota_cost", "1000000001"),
    ("billable_units", "1e13"),
];

const BAD_FORMAT: [(&str, &str); 9] = [
    ("event_id", "\"not-a-uuid\""),
    ("event_timestamp", "\"2026-13-01T00:00:00Z\""),
    ("event_timestamp", "\"2026-01-01 00:00\""),
    ("tenant_id", "\"-starts-badly\""),
    ("api_key_id", "\"\""),
    ("endpoint", "\"v1/orders\""),
    ("ip_address", "\"203.0.113.256\""),
    ("country_code", "\"DEU\""),
    ("trace_id", "\"xyz\""),
];

/// Makes `payload`, an event of the generator, wrong in the way of `broken`; those that depend on time or place alone leave it as
/// it is. Answers the tenant id that a reader finds in it, where it is not the one that was there.
pub(super) fn break_payload(payload: &mut Vec<u8>, broken: Broken, random: &mut Random) -> TenantIn {
    let set = |payload: &mut Vec<u8>, (field, json): (&str, &str)| {
        replace(payload, field, json);
        match (field, json.strip_prefix('"')) {
            ("tenant_id", Some(text)) => TenantIn::Other(text.trim_end_matches('"').to_owned()),
            ("tenant_id", None) => TenantIn::None,
            _ => TenantIn::Same,
        }
    };
    let one =
        |random: &mut Random, from: &[(&'static str, &'static str)]| from[random.below(from.len() as u64) as usize];
    match broken {
        Broken::EmptyPayload => payload.clear(),
        Broken::TooLarge => {}
        Broken::InvalidUtf8 => {
            let at = random.below(payload.len() as u64 - 2) as usize + 1;
            payload[at] = 0xff;
        }
        Broken::NotJson => match random.below(3) {
            0 => payload.truncate(payload.len() - 1 - random.below(100) as usize),
            1 => payload.extend_from_slice(b" trailing"),
            _ => {
                payload.clear();
                payload.extend_from_slice(b"GET /v1/orders 200");
            }
        },
        Broken::NotAnObject => {
            let text = random.pick(&["[1,2,3]", "\"text\"", "42", "null", "true"]);
            payload.clear();
            payload.extend_from_slice(text.as_bytes());
        }
        Broken::MissingField => {
            let field = random.pick(&REQUIRED);
            let at = find(payload, field).expect("a required field");
            payload.splice(at..at, *b"x_");
            return if field == "tenant_id" { TenantIn::None } else { TenantIn::Same };
        }
        Broken::NullField => return set(payload, (random.pick(&REQUIRED), "null")),
        Broken::WrongType => return set(payload, one(random, &WRONG_TYPE)),
        Broken::OutOfRange => return set(payload, one(random, &OUT_OF_RANGE)),
        Broken::NotInEnum => return set(payload, ("http_method", random.pick(&["\"get\"", "\"FETCH\"", "\"\""]))),
        Broken::BadFormat => return set(payload, one(random, &BAD_FORMAT)),
        Broken::TooLong => {
            let field = random.pick(&["tenant_id", "api_key_id", "emitter_id"]);
            return set(payload, (field, &format!("\"{}\"", "x".repeat(129 + random.below(50) as usize))));
        }
        Broken::UnknownPlan => {
            return set(payload, ("subscription_plan", random.pick(&["\"gold\"", "\"\"", "\"Free\""])));
        }
        Broken::ImplausibleVelocity => match random.below(3) {
            0 => {
                replace(payload, "velocity_last_1min", "11");
                replace(payload, "velocity_last_5min", "10");
            }
            1 => {
                replace(payload, "velocity_last_5min", "11");
                replace(payload, "velocity_last_1hour", "10");
            }
            _ => {
                replace(payload, "velocity_last_1hour", "10000001");
            }
        },
        Broken::EventAfterIngestion | Broken::EventTooOld | Broken::Misrouted => {}
    }
    if broken.is_dead() { TenantIn::None } else { TenantIn::Same }
}

/// The tenant that a reader of a payload finds.
pub(super) enum TenantIn {
    Same,
    Other(String),
    None,
}

/// Where the name of a top-level field begins, without its quote. The generator's texts hold no `"name":` of a field.
fn find(payload: &[u8], field: &str) -> Option<usize> {
    let quoted = format!("\"{field}\"");
    payload.windows(quoted.len()).position(|window| window == quoted.as_bytes()).map(|at| at + 1)
}

/// Gives the field that value, at its place or else at the end.
fn replace(payload: &mut Vec<u8>, field: &str, json: &str) {
    let Some(name) = find(payload, field) else {
        payload.pop();
        payload.extend_from_slice(format!(",\"{field}\":{json}}}").as_bytes());
        return;
    };
    let colon = name + payload[name..].iter().position(|byte| *byte == b':').expect("a value behind the name");
    let mut end = colon + 1;
    while payload[end] == b' ' {
        end += 1;
    }
    let (mut depth, mut text) = (0, false);
    loop {
        match payload[end] {
            b'\\' => end += 1,
            b'"' => text = !text,
            b'{' | b'[' if !text => depth += 1,
            b',' | b'}' if !text && depth == 0 => break,
            b'}' | b']' if !text => depth -= 1,
            _ => {}
        }
        end += 1;
    }
    payload.splice(colon + 1..end, json.bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_values_of_every_shape() {
        for (before, field, after) in [
            (r#"{"a":1,"b":2}"#, "a", r#"{"a":0,"b":2}"#),
            (r#"{"a":1,"b":2}"#, "b", r#"{"a":1,"b":0}"#),
            (r#"{"a":"x,\"}","b":2}"#, "a", r#"{"a":0,"b":2}"#),
            (r#"{"a":{"c":[1,{}]},"b":2}"#, "a", r#"{"a":0,"b":2}"#),
            (r#"{"b":2}"#, "a", r#"{"b":2,"a":0}"#),
        ] {
            let mut payload = before.as_bytes().to_vec();
            replace(&mut payload, field, "0");
            assert_eq!(String::from_utf8(payload).unwrap(), after);
        }
    }
}
