//! The contract's own files: every fixture gives the codes it says, and the documents are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use subscription_core::{
    ApiUsageEvent, Catalog, ContentMode, EVENT_SCHEMA, EventBuilder, HttpMethod, Judged, Peeked, Routing, Rules,
    Timestamp, Units, check_business, judge, peek,
};

/// The workspace's `schemas/`; `None` in a packaged crate, which is tested without its surroundings.
fn schemas() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas");
    path.join("api_usage_event.schema.json").exists().then_some(path)
}

/// A payload in one of four forms, and what has to come of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    description: String,
    /// The payload is this object's text as it stands in the file.
    event: Option<Box<RawValue>>,
    payload: Option<String>,
    payload_hex: Option<String>,
    payload_repeat: Option<Repeat>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    ingestion_time: String,
    partition: Option<u32>,
    partitions: Option<u32>,
    table: String,
    codes: Vec<String>,
}

#[derive(Deserialize)]
struct Repeat {
    text: String,
    count: usize,
}

impl Fixture {
    fn bytes(&self) -> Vec<u8> {
        match (&self.event, &self.payload, &self.payload_hex, &self.payload_repeat) {
            (Some(event), None, None, None) => event.get().as_bytes().to_vec(),
            (None, Some(payload), None, None) => payload.clone().into_bytes(),
            (None, None, Some(hex), None) => {
                let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
                assert!(rest.is_empty(), "half a byte");
                let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
                pairs.iter().map(byte).collect()
            }
            (None, None, None, Some(repeat)) => repeat.text.repeat(repeat.count).into_bytes(),
            _ => panic!("one payload in one form"),
        }
    }

    /// The table that the record goes to, and the codes it gets there.
    fn verdict(&self) -> (&'static str, Vec<String>) {
        let payload = self.bytes();
        let mode = ContentMode::of(self.headers.iter().map(|(name, value)| (&**name, Some(value.as_bytes()))));
        let event = match mode.judge(&payload) {
            Judged::Dead { code, error } => {
                assert!(!error.is_empty());
                return ("dead_letter", vec![code.to_owned()]);
            }
            Judged::Invalid(invalid) => return ("quarantine_silver", invalid.errors),
            Judged::Valid(event) => event,
        };
        assert_eq!(mode.peek(&payload).tenant_id.as_deref(), Some(&*event.tenant_id));
        assert_eq!(mode.peek(&payload).event_timestamp, Some(event.event_timestamp));
        let ingestion = Timestamp::parse_rfc3339(&self.ingestion_time).expect("an ingestion time");
        let routing = self.partition.zip(self.partitions.map(Routing::murmur2));
        let codes = check_business(&event, ingestion, &Rules::default(), &Catalog::default(), routing);
        (if codes.is_empty() { "silver_api_usage" } else { "quarantine_silver" }, codes)
    }
}

fn fixtures(folder: &str) -> Vec<(PathBuf, Fixture)> {
    let Some(schemas) = schemas() else { return Vec::new() };
    let mut paths: Vec<_> =
        fs::read_dir(schemas.join("fixtures").join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let read = |path: PathBuf| {
        let fixture = serde_json::from_str(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, fixture)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn fixtures_give_their_codes() {
    for folder in ["valid", "invalid"] {
        for (path, fixture) in fixtures(folder) {
            let name = format!("{} ({})", path.display(), fixture.description);
            assert_eq!(fixture.codes.is_empty(), folder == "valid", "{name}");
            assert_eq!(fixture.verdict(), (fixture.table.as_str(), fixture.codes.clone()), "{name}");
        }
    }
}

#[test]
fn fixtures_cover_every_group_and_code() {
    if schemas().is_none() {
        return;
    }
    let schema: Value = serde_json::from_str(EVENT_SCHEMA).unwrap();
    let group = |field: &str| schema["properties"][field]["x-field-group"].as_str().map(str::to_owned);
    let all: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().filter_map(|field| group(field)).collect();
    assert_eq!(all.len(), 19);
    let mut shown = BTreeSet::new();
    for (path, fixture) in fixtures("valid") {
        let named = path.file_name().unwrap().to_str().unwrap().starts_with(|c: char| c.is_ascii_digit());
        if let (true, Some(event)) = (named, &fixture.event) {
            let event: serde_json::Map<String, Value> = serde_json::from_str(event.get()).unwrap();
            shown.extend(event.keys().filter_map(|field| group(field)));
        }
    }
    assert_eq!(shown, all);

    let given: BTreeSet<String> = fixtures("invalid").into_iter().flat_map(|(_, fixture)| fixture.codes).collect();
    let codes: BTreeSet<_> = given.iter().map(|code| code.split(':').next().unwrap()).collect();
    let known = BTreeSet::from([
        "empty_payload",
        "too_large",
        "invalid_utf8",
        "not_json",
        "not_an_object",
        "missing_field",
        "null_field",
        "wrong_type",
        "out_of_range",
        "not_in_enum",
        "bad_format",
        "too_long",
        "event_after_ingestion",
        "event_too_old",
        "unknown_plan",
        "implausible_velocity",
        "misrouted",
    ]);
    assert_eq!(codes, known);
}

#[test]
fn the_constant_is_the_file_and_the_documents_are_complete() {
    let Some(schemas) = schemas() else { return };
    assert_eq!(fs::read_to_string(schemas.join("api_usage_event.schema.json")).unwrap(), EVENT_SCHEMA);
    let readme = fs::read_to_string(schemas.join("README.md")).unwrap();
    let schema: Value = serde_json::from_str(EVENT_SCHEMA).unwrap();
    for (field, rules) in schema["properties"].as_object().unwrap() {
        let row = readme.lines().find(|line| line.contains(&format!("| `{field}` |")));
        let row = row.unwrap_or_else(|| panic!("schemas/README.md has no row of {field}"));
        let required = schema["required"].as_array().unwrap().iter().any(|name| name == field);
        assert_eq!(row.contains("| yes |"), required, "{row}");
        for text in ["title", "description"] {
            assert!(rules[text].as_str().is_some_and(|text| !text.is_empty()), "{field} has no {text}");
        }
        assert!(rules["examples"].as_array().is_some_and(|examples| !examples.is_empty()), "{field} has no example");
    }
    let topic: Value = serde_json::from_str(&fs::read_to_string(schemas.join("topic.json")).unwrap()).unwrap();
    for setting in topic["config"].as_object().unwrap().keys() {
        assert!(readme.contains(&format!("`{setting}`")), "schemas/README.md does not explain {setting}");
    }
}

/// The schema is a valid one, and what it gives as examples it accepts.
#[test]
fn the_schema_is_sound() {
    let schema: Value = serde_json::from_str(EVENT_SCHEMA).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    for (field, rules) in schema["properties"].as_object().unwrap() {
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true)
            .build(rules)
            .unwrap();
        for example in rules["examples"].as_array().unwrap() {
            assert!(validator.is_valid(example), "{field}: {example}");
        }
    }
}

/// A payload of the required fields, and `more` members.
fn event_with(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(
        r#"{{"event_id":"0f8fad5b-d9cb-469f-a165-70867728950e","event_timestamp":"2026-01-15T12:00:00Z","tenant_id":"acme",
        "api_key_id":"k","endpoint":"/","http_method":"GET","response_status_code":200,"response_time_ms":1,
        "subscription_plan":"free"{comma}{more}}}"#
    )
}

#[test]
fn of_many_repeated_labels_the_last_counts_at_the_first_place() {
    for names in [1, 15, 16, 17, 18, 100] {
        let label = |round: usize, name: usize| {
            format!(r#""n{name}":{}"#, if round == 0 { "0".into() } else { format!("\"{round}\"") })
        };
        let members: Vec<_> = (0..3).flat_map(|round| (0..names).map(move |name| label(round, name))).collect();
        let payload = event_with(&format!(r#""labels":{{{}}}"#, members.join(",")));
        let Judged::Valid(event) = judge(payload.as_bytes()) else { panic!("{payload}") };
        let expected: Vec<_> = (0..names).map(|name| (format!("n{name}").into(), "2".into())).collect();
        assert_eq!(event.labels, Some(expected));
    }
}

#[test]
fn numbers_are_bounded_by_the_greatest_double() {
    for (number, is_json) in [
        ("1.7976931348623157e308", true),
        ("-1.7976931348623158e308", true),
        ("1.7976931348623159e308", false),
        ("1e309", false),
        ("1e-999999999999", true),
        (&*"9".repeat(308), true),
        (&*"9".repeat(309), false),
        (&*format!("0.{}", "0".repeat(400)), true),
    ] {
        let payload = event_with(&format!(r#""x":{number}"#));
        assert_eq!(matches!(judge(payload.as_bytes()), Judged::Valid(_)), is_json, "{number}");
    }
}

#[test]
fn units_are_never_doubles() {
    for (number, raw) in [
        ("0.1", 100_000),
        ("123456789012.123456", 123_456_789_012_123_456),
        ("0.0000025", 2),
        ("0.0000035", 4),
        ("1000000000000.00001", 1_000_000_000_000_000_010),
        ("1e12", 1_000_000_000_000_000_000),
        ("-0", 0),
    ] {
        let payload = event_with(&format!(r#""billable_units":{number}"#));
        let Judged::Valid(event) = judge(payload.as_bytes()) else { panic!("{number}") };
        assert_eq!(event.billable_units.map(Units::raw), Some(raw), "{number}");
    }
}

#[test]
fn dead_letters_say_where() {
    for (payload, says) in [
        ("{", "unexpected end at byte 1"),
        ("{}}", "something behind the value at byte 2"),
        ("{'a':1}", "expected a name in quotes at byte 1"),
        (r#"{"a" 1}"#, "expected `:` at byte 5"),
        (r#"{"a":1 "b":2}"#, "expected `,` or `}` at byte 7"),
        ("{\"a\":\"\t\"}", "control character in a string at byte 6"),
        (r#"{"a":"\x"}"#, "unknown escape at byte 6"),
        (r#"{"a":"\udc00"}"#, "escape of a lone surrogate at byte 6"),
        (r#"{"a":1e999}"#, "number beyond the range of a double at byte 5"),
        ("[1 2]", "expected `,` or `]` at byte 3"),
        ("\"a\"", "a string instead of an object"),
    ] {
        let Judged::Dead { error, .. } = judge(payload.as_bytes()) else { panic!("{payload}") };
        assert_eq!(error, says, "{payload}");
    }
}

#[test]
fn velocities_are_compared_with_the_next_one_given() {
    for (minute, five, hour, wrong) in [
        (None, None, None, None),
        (Some(1), Some(1), Some(1), None),
        (Some(10_000_000), None, None, None),
        (Some(10_000_001), None, None, Some("velocity_last_1min")),
        (Some(2), Some(1), None, Some("velocity_last_1min")),
        (Some(2), Some(1), Some(0), Some("velocity_last_1min")),
        (Some(2), None, Some(1), None),
        (None, Some(2), Some(1), Some("velocity_last_5min")),
        (None, None, Some(10_000_001), Some("velocity_last_1hour")),
        (Some(1), Some(2), Some(i64::MAX), Some("velocity_last_1hour")),
    ] {
        let payload = event_with("");
        let Judged::Valid(mut event) = judge(payload.as_bytes()) else { panic!("{payload}") };
        (event.velocity_last_1min, event.velocity_last_5min, event.velocity_last_1hour) = (minute, five, hour);
        let time = event.event_timestamp;
        let codes = check_business(&event, time, &Rules::default(), &Catalog::default(), None);
        assert_eq!(codes, wrong.map(|field| format!("implausible_velocity:{field}")).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn builders_say_what_the_platform_would() {
    let errors = |builder: EventBuilder<'_>| builder.build().map(|_| ()).unwrap_err().errors;
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap();
    let builder = ApiUsageEvent::builder().event_id(id).event_timestamp(Timestamp::EPOCH).tenant_id("acme");
    assert_eq!(
        errors(builder.clone()),
        [
            "missing_field:api_key_id",
            "missing_field:endpoint",
            "missing_field:http_method",
            "missing_field:response_status_code",
            "missing_field:response_time_ms",
            "missing_field:subscription_plan"
        ]
    );
    let builder = builder.api_key_id("k").endpoint("/").http_method(HttpMethod::Get).response_status_code(200);
    let builder = builder.response_time_ms(1.0).subscription_plan("free");
    assert!(builder.clone().build().is_ok());
    for (builder, wrong) in [
        (builder.clone().tenant_id("-").endpoint("v1"), vec!["bad_format:endpoint", "bad_format:tenant_id"]),
        (builder.clone().response_time_ms(f64::NAN), vec!["out_of_range:response_time_ms"]),
        (builder.clone().risk_score(f64::INFINITY), vec!["out_of_range:risk_score"]),
        (builder.clone().event_timestamp(Timestamp::MAX), vec!["bad_format:event_timestamp"]),
        (builder.clone().billable_units(Units::from_raw(-1)), vec!["out_of_range:billable_units"]),
        (builder.user_agent("x".repeat(16 << 20)), vec!["too_large"]),
    ] {
        assert_eq!(errors(builder), wrong);
    }
}

/// A look at a payload says what the whole of it says, and nothing where that is no object.
#[test]
fn what_comes_last_counts_for_a_look_too() {
    let start = r#"{"event_timestamp":"1970-01-01T00:00:01Z","tenant_id":"first""#;
    for (rest, tenant, millis) in [
        (r#","other":1}"#, "first", 1_000),
        (r#","tenant_id":"second"}"#, "second", 1_000),
        (r#","tenant\u005fid":"second"}"#, "second", 1_000),
        (r#","other":"\\","t\u0065nant_id":"second"}"#, "second", 1_000),
        (r#","event_timestamp":"1970-01-01T00:00:02Z"}"#, "first", 2_000),
        (r#","ingestion_timestamp":"1970-01-01T00:00:03Z"}"#, "first", 3_000),
        (r#","ingestion_timestam\u0070":"1970-01-01T00:00:03Z"}"#, "first", 3_000),
        (r#","labels":{"tenant_id":"inner","event_timestamp":"1970-01-01T00:00:09Z"}}"#, "first", 1_000),
        (r#","other":["tenant_id","event_timestamp"]}"#, "first", 1_000),
    ] {
        let payload = format!("{start}{rest}");
        let peeked = peek(payload.as_bytes());
        assert_eq!(peeked.tenant_id.as_deref(), Some(tenant), "{payload}");
        assert_eq!(peeked.record_timestamp(), Some(Timestamp::from_millis(millis)), "{payload}");
        let Judged::Invalid(invalid) = judge(payload.as_bytes()) else { panic!("an event is more: {payload}") };
        assert_eq!(invalid.tenant_id.as_deref(), Some(tenant), "{payload}");
    }
    for rest in ["", ",", r#","tenant_id":}"#, "}}"] {
        let payload = format!("{start}{rest}");
        assert!(matches!(judge(payload.as_bytes()), Judged::Dead { .. }), "{payload}");
        assert_eq!(peek(payload.as_bytes()), Peeked::default(), "{payload}");
    }
}
