//! The hand-written path against others' code: the JSON Schema, with the same codes, and `serde_json`, with the same verdict
//! on what is JSON.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use jsonschema::error::{TypeKind, ValidationErrorKind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::value::RawValue;
use serde_json::{Number, Value};
use subscription_core::{ApiUsageEvent, ContentMode, EVENT_SCHEMA, HttpMethod, Judged, Timestamp, Units, judge, peek};
use uuid::Uuid;

/// Members of an object as they will be written: name and value, each JSON.
type Members = Vec<(String, String)>;

// ---- What others say of a payload ----

/// The payload as the schema's validator gets it: numbers exact where 64 bits hold them, else the nearest double.
/// `None` where it is no JSON object.
///
/// `serde_json` alone would be off by an ulp in one of ten doubles, hence the way through their texts.
fn parsed(payload: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Value>(payload).ok()?;
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(payload).ok()?;
    let exact = |text: &str| -> Value {
        if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return serde_json::from_str(text).unwrap();
        }
        let number = text.parse().map(|n: u64| n.into()).or_else(|_| text.parse().map(|n: i64| n.into()));
        number.unwrap_or_else(|_| Number::from_f64(text.parse().unwrap()).unwrap()).into()
    };
    Some(members.iter().map(|(name, raw)| (name.clone(), exact(raw.get()))).collect::<serde_json::Map<_, _>>().into())
}

/// The codes of the first failing group as the schema's validator finds them.
fn codes_by_schema(validator: &jsonschema::Validator, event: &Value) -> Vec<String> {
    let (mut schema, mut value) = (BTreeSet::new(), BTreeSet::new());
    for error in validator.iter_errors(event) {
        let path = error.instance_path().to_string();
        let field = path.split('/').nth(1).unwrap_or_default().to_owned();
        match error.kind() {
            ValidationErrorKind::Required { property } => {
                schema.insert(format!("missing_field:{}", property.as_str().unwrap()));
            }
            ValidationErrorKind::Type { kind: TypeKind::Single(_) }
                if error.instance().is_null() && field != "labels" =>
            {
                schema.insert(format!("null_field:{field}"));
            }
            ValidationErrorKind::Type { .. } => {
                schema.insert(format!("wrong_type:{field}"));
            }
            ValidationErrorKind::Minimum { .. } | ValidationErrorKind::Maximum { .. } => {
                value.insert(format!("out_of_range:{field}"));
            }
            ValidationErrorKind::Enum { .. } => {
                value.insert(format!("not_in_enum:{field}"));
            }
            ValidationErrorKind::MaxLength { .. } => {
                value.insert(format!("too_long:{field}"));
            }
            ValidationErrorKind::Pattern { .. }
            | ValidationErrorKind::Format { .. }
            | ValidationErrorKind::AnyOf { .. }
            | ValidationErrorKind::MinLength { .. } => {
                value.insert(format!("bad_format:{field}"));
            }
            other => panic!("the schema has no such rule: {other:?}"),
        }
    }
    // The sets are sorted. A value of another type breaks only the rules of its type.
    (if schema.is_empty() { value } else { schema }).into_iter().collect()
}

fn validator() -> &'static jsonschema::Validator {
    static VALIDATOR: std::sync::LazyLock<jsonschema::Validator> = std::sync::LazyLock::new(|| {
        jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true)
            .build(&serde_json::from_str(EVENT_SCHEMA).unwrap())
            .unwrap()
    });
    &VALIDATOR
}

/// All that there is to agree on.
fn agree(payload: &[u8]) -> Result<(), TestCaseError> {
    let shown = String::from_utf8_lossy(payload);
    let (event, peeked) = (parsed(payload), peek(payload));
    let text = |name: &str| event.as_ref().and_then(|event| event.get(name)?.as_str());
    match judge(payload) {
        Judged::Dead { code, error } => {
            prop_assert_eq!(&event, &None, "{}: {}", &shown, error);
            let expected = if payload.is_empty() {
                "empty_payload"
            } else if std::str::from_utf8(payload).is_err() {
                "invalid_utf8"
            } else if serde_json::from_slice::<Value>(payload).is_err() {
                "not_json"
            } else {
                "not_an_object"
            };
            prop_assert_eq!(code, expected, "{}", &shown);
        }
        Judged::Invalid(invalid) => {
            let Some(event) = &event else { return Err(TestCaseError::fail(format!("no JSON object: {shown}"))) };
            prop_assert_eq!(&invalid.errors, &codes_by_schema(validator(), event), "{}", &shown);
            prop_assert!(!invalid.errors.is_empty());
            prop_assert_eq!(invalid.event_id.as_deref(), text("event_id"));
            prop_assert_eq!(invalid.tenant_id.as_deref(), text("tenant_id"));
        }
        Judged::Valid(valid) => {
            let Some(event) = &event else { return Err(TestCaseError::fail(format!("no JSON object: {shown}"))) };
            prop_assert_eq!(codes_by_schema(validator(), event), Vec::<String>::new(), "{}", &shown);
            prop_assert_eq!(Some(&*valid.tenant_id), text("tenant_id"));
            prop_assert_eq!(peeked.event_timestamp, Some(valid.event_timestamp));
            prop_assert_eq!(peeked.ingestion_timestamp, valid.ingestion_timestamp);
            same_texts(&valid, event)?;
            // What was read can be written, and is read again as the same; but for times that an offset puts outside of
            // the years that RFC 3339 can write in UTC.
            let payload = valid.to_json();
            let years = -62_167_219_200_000..253_402_300_800_000;
            if [Some(valid.event_timestamp), valid.ingestion_timestamp]
                .iter()
                .flatten()
                .all(|t| years.contains(&t.millis()))
            {
                prop_assert_eq!(judge(payload.as_bytes()), Judged::Valid(valid.clone()), "{}", &shown);
            } else {
                prop_assert!(valid.validate().is_err());
            }
        }
    }
    prop_assert_eq!(peeked.tenant_id.as_deref(), text("tenant_id"), "{}", &shown);
    prop_assert_eq!(peeked.event_timestamp, text("event_timestamp").and_then(Timestamp::parse_rfc3339));
    prop_assert_eq!(peeked.ingestion_timestamp, text("ingestion_timestamp").and_then(Timestamp::parse_rfc3339));
    Ok(())
}

/// Every field of the typed event is that of the parsed payload.
fn same_texts(event: &ApiUsageEvent<'_>, parsed: &Value) -> Result<(), TestCaseError> {
    let written: Value = serde_json::from_str(&event.to_json()).unwrap();
    for (name, value) in parsed.as_object().unwrap() {
        let written = &written[name];
        match value {
            // Times and ids have more than one spelling; they are compared as what they mean, elsewhere.
            Value::String(_) if name == "event_timestamp" || name == "ingestion_timestamp" => {
                prop_assert!(written.is_string())
            }
            Value::String(text) if name == "event_id" => {
                prop_assert!(written.as_str().is_some_and(|id| id.eq_ignore_ascii_case(text)));
            }
            _ if validator_knows(name) && name != "billable_units" => match value.as_f64() {
                Some(number) => prop_assert_eq!(Some(number), written.as_f64(), "{}", name),
                None => prop_assert_eq!(value, written, "{}", name),
            },
            _ => {}
        }
    }
    Ok(())
}

fn validator_knows(name: &str) -> bool {
    static FIELDS: std::sync::LazyLock<Value> =
        std::sync::LazyLock::new(|| serde_json::from_str::<Value>(EVENT_SCHEMA).unwrap()["properties"].take());
    FIELDS.get(name).is_some()
}

// ---- Payloads ----

fn quoted(text: impl AsRef<str>) -> String {
    serde_json::to_string(text.as_ref()).unwrap()
}

/// Values that lie on the corners of one rule or another.
fn corners() -> Vec<String> {
    let texts = [
        "",
        "a",
        "/",
        "/v1",
        "v1",
        "-acme",
        "acme",
        "a b",
        "acme\n",
        "ä",
        "GET",
        "get",
        "GET ",
        "TRACE",
        "free",
        "\u{0}",
        "🙂",
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        "0F8FAD5B-D9CB-469F-A165-70867728950E",
        "0f8fad5bd9cb469fa16570867728950e",
        "{0f8fad5b-d9cb-469f-a165-70867728950e}",
        "urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e",
        "0f8fad5b-d9cb-469f-a165-70867728950é",
        "0f8fad5b-d9cb-469f-a165-70867728950g",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "4bf92f3577b34da6a3ce929d0e0e473６",
        "4BF92F3577B34DA6A3CE929D0E0E473",
        "2026-01-15T12:00:00Z",
        "2026-01-15t12:00:00.123456789z",
        "2026-01-15T12:00:00+23:59",
        "2026-01-15T12:00:00-00:00",
        "2026-01-15T12:00:00+24:00",
        "2026-01-15T12:00:00+0100",
        "2026-01-15 12:00:00Z",
        "2026-01-15T12:00:00",
        "2026-01-15T12:00:00.Z",
        "2026-02-29T12:00:00Z",
        "2024-02-29T12:00:00Z",
        "2026-01-15T24:00:00Z",
        "2026-01-15T23:59:60Z",
        "2026-01-15T23:58:60Z",
        "2026-01-16T00:59:60+01:00",
        "2026-01-15T23:59:60+01:00",
        "2026-01-15T12:29:60.9-11:30",
        "2026-01-15T00:29:60+00:30",
        "2026-01-15T12:00:61Z",
        "0000-01-01T00:00:00Z",
        "0000-01-01T00:00:00+00:01",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59.999Z",
        "9999-12-31T23:59:59Z",
        "2026-01-15T12:00:00Z\n",
        "２026-01-15T12:00:00Z",
        "20260115T120000Z",
        "127.0.0.1",
        "127.0.0.01",
        "256.0.0.1",
        "1.2.3",
        "1.2.3.4.5",
        "0x7f.0.0.1",
        "::",
        "::1",
        "1::2::3",
        "::ffff:1.2.3.4",
        "::ffff:01.2.3.4",
        "fe80::1%eth0",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7::",
        "1:2:3:4:5:6:7::8",
        "12345::",
        "[::1]",
        "DE",
        "de",
        "D",
        "DEU",
        "D1",
        "ДЕ",
        "D\n",
    ];
    let numbers = [
        "0",
        "-0",
        "-0.0",
        "0e5",
        "1",
        "1.0",
        "1e0",
        "10e-1",
        "0.1",
        "1.5",
        "-1",
        "-1e-400",
        "1e-400",
        "-1e-300",
        "99",
        "100",
        "599",
        "599.0",
        "5.99e2",
        "599.5",
        "600",
        "1e2",
        "1E2",
        "1e+2",
        "200.0",
        "200.00000000000000000001",
        "1.0000000000000001",
        "1.0000000000000002",
        "0.99999999999999999999",
        "86400000",
        "86400000.000000001",
        "86400000.00000001",
        "86400001",
        "1099511627776",
        "1099511627777",
        "1099511627776.5",
        "1000000000",
        "1000000001",
        "1e9",
        "1e12",
        "1000000000000",
        "1000000000000.00001",
        "1000000000000.0001",
        "1000000000001",
        "0.0000005",
        "2.5",
        "9223372036854775807",
        "9223372036854775808",
        "9223372036854775807.0",
        "9223372036854774784.0",
        "9007199254740993",
        "9007199254740993.0",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "-9223372036854775809",
        "1e18",
        "1e19",
        "1e300",
        "1e308",
        "123456789012345678901234567890",
    ];
    let others = [
        "null",
        "true",
        "false",
        "[]",
        "{}",
        "[1,[2]]",
        r#"{"a":"b"}"#,
        r#"{"a":1}"#,
        r#"{"a":null}"#,
        r#"{"a":1,"a":"b"}"#,
        r#"{"a":"b","a":1}"#,
        r#"{"":""}"#,
        r#"{"\u0061":1,"a":"x"}"#,
        r#""\ud83d\ude42""#,
        r#""\u0000""#,
        r#""\/v1""#,
        r#""\u0041cme""#,
        r#""GE\u0054""#,
        r#""\"\\\/\b\f\n\r\t""#,
        r#""2026-01-15\u005412:00:00Z""#,
    ];
    let long = [
        ("a", 31),
        ("a", 32),
        ("a", 33),
        ("é", 32),
        ("é", 128),
        ("🙂", 128),
        ("🙂", 129),
        ("-", 129),
        ("_", 128),
        ("a", 127),
    ];
    let longer = [("a", 127), ("a", 128), ("/", 2_047), ("/", 2_048), ("a", 2_048)];
    let texts = texts.map(quoted).into_iter();
    let texts = texts.chain(long.map(|(text, count)| quoted(text.repeat(count))));
    let texts = texts.chain(longer.map(|(first, count)| quoted(format!("{first}{}", "x".repeat(count)))));
    texts.chain(numbers.map(str::to_owned)).chain(others.map(str::to_owned)).collect()
}

/// A corner, or anything else of its kind.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => select(corners()),
        1 => any::<String>().prop_map(quoted),
        1 => any::<f64>().prop_filter("JSON", |n| n.is_finite()).prop_map(|n| format!("{n:?}")),
        1 => any::<i64>().prop_map(|n| n.to_string()),
        1 => "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?",
        1 => (0i64..1 << 42).prop_map(|n| n.to_string()),
        1 => (0.0..2.0).prop_map(|n: f64| n.to_string()),
    ]
}

/// An event of which everything is right, with any of the optional fields.
fn event() -> impl Strategy<Value = ApiUsageEvent<'static>> {
    let text = || proptest::option::of(any::<String>().prop_map(Cow::Owned));
    let count = || proptest::option::of(prop_oneof![0..100i64, 0..=i64::MAX]);
    let size = || proptest::option::of(0..=1i64 << 40);
    let time = || (-62_167_219_200_000..253_402_300_800_000i64).prop_map(Timestamp::from_millis);
    let required = (
        any::<u128>().prop_map(Uuid::from_u128),
        time(),
        "[A-Za-z0-9][A-Za-z0-9._:-]{0,127}",
        ".{1,128}",
        "/.{0,100}",
        select(HttpMethod::ALL.to_vec()),
        100..600u16,
        prop_oneof![0.0..1_000.0, 0.0..=86_400_000.0],
        any::<String>(),
    );
    let texts = (text(), text(), text(), text(), text(), text(), text());
    let network = (
        proptest::option::of(any::<std::net::IpAddr>().prop_map(|ip| Cow::Owned(ip.to_string()))),
        proptest::option::of("[A-Za-z]{2}".prop_map(Cow::Owned)),
        proptest::option::of("[0-9A-Fa-f]{32}".prop_map(Cow::Owned)),
        proptest::option::of(".{1,128}".prop_map(Cow::Owned)),
    );
    let numbers = (
        proptest::option::of(0.0..=1.0),
        [count(), count(), count(), count()],
        [size(), size()],
        proptest::option::of((0..=1_000_000_000_000_000_000i128).prop_map(Units::from_raw)),
        proptest::option::of(0..=1_000_000_000i64),
        proptest::option::of(time()),
        proptest::option::of(proptest::collection::hash_map(any::<String>(), any::<String>(), 0..40)),
    );
    (required, texts, network, numbers).prop_map(|(required, texts, network, numbers)| {
        let (event_id, event_timestamp, tenant_id, api_key_id, endpoint, http_method, status, latency, plan) = required;
        let mut builder = ApiUsageEvent::builder()
            .event_id(event_id)
            .event_timestamp(event_timestamp)
            .tenant_id(tenant_id)
            .api_key_id(api_key_id)
            .endpoint(endpoint)
            .http_method(http_method)
            .response_status_code(status)
            .response_time_ms(latency)
            .subscription_plan(plan);
        for (name, value) in numbers.6.iter().flatten() {
            builder = builder.label(name.clone(), value.clone());
        }
        let required = builder.build().unwrap();
        let [velocity_last_1min, velocity_last_5min, velocity_last_1hour, emitter_sequence] = numbers.1;
        let [request_size_bytes, response_size_bytes] = numbers.2;
        ApiUsageEvent {
            schema_version: texts.0,
            user_id: texts.1,
            api_version: texts.2,
            region: texts.3,
            user_agent: texts.4,
            sdk_version: texts.5,
            request_id: texts.6,
            ip_address: network.0,
            country_code: network.1,
            trace_id: network.2,
            emitter_id: network.3,
            risk_score: numbers.0,
            velocity_last_1min,
            velocity_last_5min,
            velocity_last_1hour,
            emitter_sequence,
            request_size_bytes,
            response_size_bytes,
            billable_units: numbers.3,
            quota_cost: numbers.4,
            ingestion_timestamp: numbers.5,
            ..required
        }
    })
}

fn field_names() -> Vec<String> {
    let schema: Value = serde_json::from_str(EVENT_SCHEMA).unwrap();
    schema["properties"].as_object().unwrap().keys().cloned().collect()
}

/// A valid event's members, then changed: dropped, replaced by a corner, repeated, added, shuffled.
fn changed_members() -> impl Strategy<Value = Members> {
    let change = (0..6u8, any::<prop::sample::Index>(), select(field_names()), value());
    (event(), vec(change, 0..5)).prop_map(|(event, changes)| {
        let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&event.to_json()).unwrap();
        let mut members: Members = members.iter().map(|(name, raw)| (quoted(name), raw.get().to_owned())).collect();
        for (kind, index, field, value) in changes {
            let at = index.index(members.len().max(1));
            match kind {
                0 if !members.is_empty() => drop(members.remove(at)),
                1 | 2 if !members.is_empty() => members[at].1 = value,
                3 => members.insert(at, (quoted(field), value)),
                4 => members.push((quoted(field), value)),
                // The name with its first character as an escape.
                _ => members.push((format!("\"\\u{:04x}{}\"", field.as_bytes()[0], &field[1..]), value)),
            }
        }
        members
    })
}

fn rendered(members: &Members, space: &str) -> String {
    let members: Vec<_> =
        members.iter().map(|(name, value)| format!("{space}{name}{space}:{space}{value}{space}")).collect();
    format!("{space}{{{}}}{space}", members.join(","))
}

/// Any JSON, more or less.
fn loose_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        value(),
        select(vec![
            "1e308",
            "1e309",
            "-1e999",
            "1e-999",
            "01",
            "1.",
            ".5",
            "+1",
            "-",
            "1e",
            "nul",
            "tru",
            "NaN",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\\ud83d\\ude42\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\t\"",
            "\"\u{7f}\"",
            "'a'",
            ""
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(|values| format!("[{}]", values.join(","))),
            vec((any::<String>(), inner), 0..5).prop_map(|members| {
                let members: Vec<_> =
                    members.into_iter().map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
}

proptest! {
    /// What an emitter builds is accepted, and arrives as it was sent.
    #[test]
    fn events_make_the_round_trip(event in event()) {
        prop_assert_eq!(event.validate(), Ok(()));
        let payload = event.to_json();
        prop_assert_eq!(judge(payload.as_bytes()), Judged::Valid(Box::new(event)));
        agree(payload.as_bytes())?;
    }

    #[test]
    fn changed_events_agree(members in changed_members(), space in select(vec!["", " ", "\r\n\t"])) {
        agree(rendered(&members, space).as_bytes())?;
    }

    #[test]
    fn broken_events_agree(
        members in changed_members(),
        changes in vec((any::<prop::sample::Index>(), 0..4u8, prop_oneof![any::<u8>(), select(b"{}[]\",:\\0ue-. \n".to_vec())]), 1..4),
    ) {
        let mut payload = rendered(&members, "").into_bytes();
        for (index, kind, byte) in changes {
            let at = index.index(payload.len().max(1));
            match kind {
                0 => payload.truncate(at),
                1 if !payload.is_empty() => drop(payload.remove(at)),
                2 if !payload.is_empty() => payload[at] = byte,
                _ => payload.insert(at.min(payload.len()), byte),
            }
        }
        agree(&payload)?;
    }

    #[test]
    fn loose_json_agrees(payload in loose_json(), name in select(field_names())) {
        agree(payload.as_bytes())?;
        agree(format!("{{\"x\":{payload}}}").as_bytes())?;
        agree(format!("{{{}:{payload}}}", quoted(name)).as_bytes())?;
    }

    #[test]
    fn arbitrary_bytes_agree(payload in vec(any::<u8>(), 0..64), text in any::<String>()) {
        agree(&payload)?;
        agree(text.as_bytes())?;
        agree(quoted(text).as_bytes())?;
    }
}

/// The payload as the data of a CloudEvent, between members that change nothing.
fn enveloped(payload: &[u8], space: &str, other: &str) -> Vec<u8> {
    let head = format!(r#"{{"data":7,"specversion":"1.0",{space}"{other}":{{"data":1}},"d\u0061ta":{space}"#);
    [head.as_bytes(), payload, space.as_bytes(), br#","type":"usage"}"#].concat()
}

proptest! {
    /// The data of a CloudEvent is judged as a payload of its own would be, and its texts lie where it does.
    #[test]
    fn cloud_events_agree(
        members in changed_members(),
        space in select(vec!["", " ", "\r\n\t"]),
        other in "[a-z]{0,3}",
        cut in any::<prop::sample::Index>(),
    ) {
        let payload = rendered(&members, space).into_bytes();
        let envelope = enveloped(&payload, space, &other);
        prop_assert_eq!(ContentMode::Structured.judge(&envelope), judge(&payload));
        prop_assert_eq!(ContentMode::Structured.peek(&envelope), peek(&payload));
        if let Judged::Valid(event) = ContentMode::Structured.judge(&envelope)
            && let Cow::Borrowed(tenant) = event.tenant_id
        {
            prop_assert!(envelope.as_ptr_range().contains(&tenant.as_ptr()));
        }
        // Cut anywhere it is no JSON, whatever is left of the event.
        let cut = cut.index(envelope.len() - 1) + 1;
        let judged = ContentMode::Structured.judge(&envelope[..cut]);
        prop_assert!(matches!(judged, Judged::Dead { code: "not_json" | "invalid_utf8", .. }), "{:?}", judged);
    }

    /// What is no JSON object is a dead letter of the same code in either mode.
    #[test]
    fn dead_letters_need_no_mode(payload in vec(any::<u8>(), 0..64), json in loose_json()) {
        for payload in [&payload[..], json.as_bytes()] {
            let structured = ContentMode::Structured.judge(payload);
            match judge(payload) {
                Judged::Dead { code, error } => prop_assert_eq!(structured, Judged::Dead { code, error }),
                _ => prop_assert!(!matches!(structured, Judged::Dead { .. }), "{:?}", structured),
            }
        }
    }

    #[test]
    fn modes_are_told_by_the_last_content_type(types in vec(select(vec![
        "application/json", "application/cloudevents+json", "APPLICATION/CloudEvents", " application/cloudevents+avro",
        "application/cloudevent", "",
    ]), 0..4)) {
        let headers: Vec<_> = types.iter().flat_map(|t| [("content-type", Some(t.as_bytes())), ("x", None)]).collect();
        let last = types.last().map(|t| t.trim_start().to_lowercase()).unwrap_or_default();
        let expected = if last.starts_with("application/cloudevents") { ContentMode::Structured } else { ContentMode::Binary };
        prop_assert_eq!(ContentMode::of(headers), expected);
    }
}

#[test]
fn nesting_agrees_at_the_limit() {
    for levels in 120..140 {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            let inner = format!("{}1{}", open.repeat(levels), close.repeat(levels));
            agree(inner.as_bytes()).unwrap();
            agree(format!("{{\"x\":{inner}}}").as_bytes()).unwrap();
            agree(format!("{{\"labels\":{inner}}}").as_bytes()).unwrap();
        }
    }
    let deep = "[".repeat(1_000_000);
    assert!(matches!(judge(deep.as_bytes()), Judged::Dead { code: "not_json", .. }));
}

/// Each corner in each field of a small event.
#[test]
fn corners_agree() {
    let small = ApiUsageEvent::builder()
        .event_id(Uuid::nil())
        .event_timestamp(Timestamp::EPOCH)
        .tenant_id("t")
        .api_key_id("k")
        .endpoint("/")
        .http_method(HttpMethod::Get)
        .response_status_code(200)
        .response_time_ms(1.0)
        .subscription_plan("free")
        .build()
        .unwrap()
        .to_json();
    for field in field_names() {
        for value in corners() {
            let payload = format!("{},{}:{value}}}", small.strip_suffix('}').unwrap(), quoted(&field));
            agree(payload.as_bytes()).unwrap_or_else(|error| panic!("{field} {value}: {error}"));
        }
    }
}
