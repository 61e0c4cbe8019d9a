use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/32.0.1700.77 Safari/537.36";

fn translator(tenant_by: TenantBy) -> Translator {
    Translator::new(Arc::new(LogOptions { tenant_by, ..LogOptions::default() }))
}

/// The event of a line without its id.
fn event_by(tenant_by: TenantBy, line: &[u8]) -> Option<Value> {
    let mut translator = translator(tenant_by);
    let translated = translator.translate(line)?;
    let mut event: Value = serde_json::from_slice(translated.json).expect("the event is JSON");
    assert_eq!(event.get("tenant_id").and_then(Value::as_str), translated.tenant);
    assert_eq!(event["event_timestamp"], translated.time.to_string());
    assert_eq!(time_of(line), Some(translated.time));
    assert!(event.as_object_mut().expect("an object").remove("event_id").is_some());
    Some(event)
}

fn event(line: &str) -> Value {
    event_by(TenantBy::Address, line.as_bytes()).unwrap_or_else(|| panic!("not translated: {line}"))
}

#[test]
fn combined() {
    let line = format!(
        r#"203.0.113.9 - joe [17/May/2015:10:05:03 +0200] "GET /v1/items?token=secret HTTP/1.1" 200 203023 "http://example.com/a?b" "{AGENT}""#
    );
    assert_eq!(
        event(&line),
        json!({
            "event_timestamp": "2015-05-17T08:05:03.000Z", "tenant_id": "203.0.113.9", "api_key_id": "joe", "user_id": "joe",
            "endpoint": "/v1/items", "http_method": "GET", "response_status_code": 200, "response_time_ms": 0.0,
            "subscription_plan": "free", "ip_address": "203.0.113.9", "user_agent": AGENT, "response_size_bytes": 203023,
            "labels": {"protocol": "HTTP/1.1", "referer": "http://example.com/a?b"}
        })
    );
}

#[test]
fn common_and_what_logs_leave_out() {
    let event = event(r#"2001:DB8:0::7 - - [31/Dec/2019:23:59:60 -0030] "HEAD /" 304 -"#);
    assert_eq!(
        event,
        json!({
            "event_timestamp": "2020-01-01T00:30:00.000Z", "tenant_id": "2001:db8::7", "api_key_id": "2001:DB8:0::7",
            "endpoint": "/", "http_method": "HEAD", "response_status_code": 304, "response_time_ms": 0.0,
            "subscription_plan": "free", "ip_address": "2001:db8::7", "response_size_bytes": 0
        })
    );
}

/// Each line with members that its event must have; null for those that it must not.
#[test]
fn lines_as_real_logs_have_them() {
    let cases: &[(&str, Value)] = &[
        // No request came: a timeout, a TLS handshake at the wrong port, a bare word.
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "-" 408 - "-" "-""#,
            json!({"endpoint": null, "http_method": null, "response_status_code": 408, "user_agent": null, "labels": null}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "" 400 0 "-" "-""#,
            json!({"endpoint": null, "http_method": null}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "\x16\x03\x01" 400 226 "-" "-""#,
            json!({"endpoint": null, "http_method": "\u{16}\u{3}\u{1}"}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "PROPFIND /dav HTTP/1.1" 405 12"#,
            json!({"http_method": "PROPFIND", "endpoint": "/dav"}),
        ),
        (r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET /x HTTP/1.1" - -"#, json!({"response_status_code": null})),
        (r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET /x HTTP/1.1" 000 0"#, json!({"response_status_code": 0})),
        // Targets: with blanks, absolute, with a fragment, of a proxy, of the server itself.
        (r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET /a b  c HTTP/1.1" 200 1"#, json!({"endpoint": "/a b  c"})),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET http://www.example.com/a?b=/c HTTP/1.1" 200 1"#,
            json!({"endpoint": "/a"}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET http://www.example.com HTTP/1.1" 200 1"#,
            json!({"endpoint": "/"}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET /go?to=http://a/b HTTP/2.0" 200 1"#,
            json!({"endpoint": "/go"}),
        ),
        (r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET /a#b HTTP/1.1" 200 1"#, json!({"endpoint": "/a"})),
        (r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "OPTIONS * HTTP/1.0" 200 1"#, json!({"endpoint": "*"})),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "CONNECT a.example:443 HTTP/1.1" 405 1"#,
            json!({"endpoint": "a.example:443"}),
        ),
        // Quotes and escapes.
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET /a\"b\\c HTTP/1.1" 200 1 "-" "x \"y\" z""#,
            json!({"endpoint": "/a\"b\\c", "user_agent": "x \"y\" z"}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET /a"b HTTP/1.1" 200 1 "-" "x"y""#,
            json!({"endpoint": "/a\"b", "user_agent": "x\"y"}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET /\xC3\xA4\xFF HTTP/1.1" 200 1 "-" "\x22q\x22 \q\""#,
            json!(null),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET /\xC3\xA4\xFF HTTP/1.1" 200 1 "-" "\x22q\x22 \q \t""#,
            json!({"endpoint": "/ä\u{fffd}", "user_agent": "\"q\" \\q \t"}),
        ),
        // Users: none, with blanks, with letters that no tenant has.
        (r#"192.0.2.1 - "" [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 401 1"#, json!({"user_id": null})),
        (
            r#"192.0.2.1 - John Q. Public [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"user_id": "John Q. Public"}),
        ),
        (r#"192.0.2.1 - a [b] [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#, json!({"user_id": "a [b]"})),
        // Clients: a name, a port, a list, an address of IPv4 in IPv6, the loopback.
        (
            r#"Host-7.example.com - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"tenant_id": "host-7.example.com", "ip_address": null}),
        ),
        (
            r#"192.0.2.1:5510 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"tenant_id": "192.0.2.1", "ip_address": "192.0.2.1"}),
        ),
        (
            r#"[2001:db8::1]:443 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"tenant_id": "2001:db8::1"}),
        ),
        (
            r#"198.51.100.4, 192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"tenant_id": "198.51.100.4", "labels": {"protocol": "HTTP/1.1"}}),
        ),
        (
            r#"::ffff:192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"tenant_id": "192.0.2.1"}),
        ),
        (
            r#"::1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"tenant_id": "0::1", "ip_address": "::1"}),
        ),
        (
            r#"- - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"tenant_id": null, "api_key_id": null}),
        ),
        // The virtual host in front, and fields behind.
        (
            r#"www.example.com:80 192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-""#,
            json!({"tenant_id": "192.0.2.1", "labels": {"host": "www.example.com:80", "protocol": "HTTP/1.1"}}),
        ),
        (
            r#"www.example.com:80 client.example.net - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"tenant_id": "client.example.net"}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-" "198.51.100.7" rt=0.004"#,
            json!({"user_agent": null}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1 5121"#,
            json!({"response_size_bytes": 1}),
        ),
        (
            r#"192.0.2.1 - - [01/Jan/2024:00:00:00.9876 +0000] "GET / HTTP/1.1" 200 1"#,
            json!({"event_timestamp": "2024-01-01T00:00:00.987Z"}),
        ),
        (
            r#"192.0.2.1 - - [29/feb/2024:00:00:00 +1245] "GET / HTTP/1.1" 200 1"#,
            json!({"event_timestamp": "2024-02-28T11:15:00.000Z"}),
        ),
    ];
    for (line, members) in cases {
        let event = event_by(TenantBy::Address, line.as_bytes());
        let Some(members) = members.as_object() else {
            assert_eq!(event, None, "{line}");
            continue;
        };
        let event = event.unwrap_or_else(|| panic!("not translated: {line}"));
        for (name, value) in members {
            assert_eq!(event.get(name).unwrap_or(&Value::Null), value, "{name} of {line}");
        }
    }
}

#[test]
fn lines_that_are_no_log_lines() {
    for line in [
        "",
        "hello",
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200"#,
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1 200 1"#,
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" abc 1"#,
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 -1"#,
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 99999999999999999999"#,
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "cut"#,
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-"#,
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "\"#,
        r#"192.0.2.1 - - [32/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
        r#"192.0.2.1 - - [30/Feb/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
        r#"192.0.2.1 - - [01/Jan/2024:24:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00] "GET / HTTP/1.1" 200 1"#,
        r#"192.0.2.1 - - [01/Jan/2024:00:00:00 0000] "GET / HTTP/1.1" 200 1"#,
        r#"192.0.2.1 - - [01/Jan/0000:00:00:00 +0900] "GET / HTTP/1.1" 200 1"#,
        r#"192.0.2.1 - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#,
        r#"{"time": "17/May/2015:08:05:32 +0000"}"#,
        r#"{"time": "yesterday", "remote_ip": "192.0.2.1", "request": "GET / HTTP/1.1"}"#,
        r#"{"time": 1, "remote_ip": "192.0.2.1", "request": "GET / HTTP/1.1""#,
        r#"{"event_id": "x", "time": 1, "client": "192.0.2.1", "status": 200}"#,
        "[1]",
    ] {
        assert_eq!(event_by(TenantBy::Address, line.as_bytes()), None, "{line}");
        assert_eq!(time_of(line.as_bytes()), None, "{line}");
    }
}

#[test]
fn nginx_json() {
    let line = json!({
        "time_iso8601": "2024-03-01T12:00:00+01:00", "msec": "1709290800.4567", "remote_addr": "198.51.100.20", "remote_user": "",
        "request_method": "POST", "request_uri": "/v2/orders?x=1", "server_protocol": "HTTP/2.0", "status": "201", "request_length": "812",
        "body_bytes_sent": "77", "request_time": "0.005", "http_referer": "-", "http_user_agent": "curl/8.5.0", "host": "API.example.com",
        "request_id": "f0e1"
    });
    assert_eq!(
        event(&line.to_string()),
        json!({
            "event_timestamp": "2024-03-01T11:00:00.456Z", "tenant_id": "198.51.100.20", "api_key_id": "198.51.100.20",
            "endpoint": "/v2/orders", "http_method": "POST", "response_status_code": 201, "response_time_ms": 5.0,
            "subscription_plan": "free", "ip_address": "198.51.100.20", "user_agent": "curl/8.5.0", "request_size_bytes": 812,
            "response_size_bytes": 77, "request_id": "f0e1", "labels": {"host": "API.example.com", "protocol": "HTTP/2.0"}
        })
    );
    // The names of Elastic's example.
    let line = r#"{"time": "17/May/2015:08:05:32 +0000", "remote_ip": "93.180.71.3", "remote_user": "-", "request": "GET /downloads/product_1 HTTP/1.1", "response": 304, "bytes": 0, "referrer": "-", "agent": "Debian APT-HTTP/1.3"}"#;
    let event = event(line);
    assert_eq!(event["event_timestamp"], "2015-05-17T08:05:32.000Z");
    assert_eq!((&event["endpoint"], &event["response_status_code"]), (&json!("/downloads/product_1"), &json!(304)));
}

#[test]
fn who_the_tenant_is() {
    let line = br#"Shop.Example.com:443 192.0.2.1 - joe@example.com [01/Jan/2024:00:00:00 +0000] "GET /acme//v1/x?y HTTP/1.1" 200 1"#;
    let tenant = |by| event_by(by, line).expect("translated")["tenant_id"].clone();
    assert_eq!(tenant(TenantBy::Address), "192.0.2.1");
    assert_eq!(tenant(TenantBy::Host), "shop.example.com");
    assert_eq!(tenant(TenantBy::Path(1)), "acme");
    assert_eq!(tenant(TenantBy::Path(2)), "v1");
    assert_eq!(tenant(TenantBy::Path(4)), Value::Null);
    let joe = tenant(TenantBy::User);
    assert!(joe.as_str().expect("text").starts_with("joe_example.com-"), "{joe}");

    let options =
        LogOptions { tenant_by: TenantBy::Path(4), default_tenant: Some("nobody".to_owned()), ..LogOptions::default() };
    let mut translator = Translator::new(Arc::new(options));
    assert_eq!(translator.translate(line).expect("translated").tenant, Some("nobody"));

    for text in ["address", "user", "host", "path:3"] {
        assert_eq!(text.parse::<TenantBy>().expect(text).to_string(), text);
    }
    for text in ["", "path", "path:0", "path:x", "Address"] {
        assert!(text.parse::<TenantBy>().is_err(), "{text}");
    }
}

#[test]
fn plans_by_mapping() {
    let plans = TenantPlans::new("starter")
        .with_mapping("# customers\n\"joe@example.com\" = \"pro\"\nann = \"enterprise\"\n", "plans")
        .expect("a mapping");
    let mut translator = Translator::new(Arc::new(LogOptions {
        tenant_by: TenantBy::User,
        plans: plans.clone(),
        ..LogOptions::default()
    }));
    for (user, plan) in [("joe@example.com", "pro"), ("ann", "enterprise"), ("bob", "starter")] {
        let line = format!(r#"192.0.2.1 - {user} [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#);
        let event: Value =
            serde_json::from_slice(translator.translate(line.as_bytes()).expect("translated").json).expect("JSON");
        assert_eq!(event["subscription_plan"], plan, "{user}");
    }
    assert!(plans.check(|plan| plan != "gold").is_ok());
    let error = plans.check(|plan| plan != "pro").expect_err("unknown plan");
    assert_eq!(error.to_string(), "unknown plan `pro` (tenant: joe@example.com)");
    let error = plans.check(|plan| plan != "starter").expect_err("unknown plan");
    assert_eq!(error.to_string(), "unknown plan `starter` (setting: default_plan)");
    let error = TenantPlans::default().with_mapping("a = \"free\"\nb = 3\n", "plans.toml").expect_err("no mapping");
    assert!(error.to_string().ends_with("(file: plans.toml, line: 2)"), "{error}");
    assert_ne!(plans.fingerprint(), TenantPlans::new("starter").fingerprint());
}

#[test]
fn ids_are_the_same_each_time_and_equal_lines_stay_two_events() {
    let line = br#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 1"#;
    let other = br#"192.0.2.1 - - [01/Jan/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 2"#;
    let id = |translator: &mut Translator, line: &[u8]| {
        let event: Value = serde_json::from_slice(translator.translate(line).expect("translated").json).expect("JSON");
        event["event_id"].as_str().expect("text").to_owned()
    };
    let mut whole = translator(TenantBy::Address);
    let ids: Vec<_> = [&line[..], other, line, line].iter().map(|line| id(&mut whole, line)).collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 4);
    // Stable for ever: a lake that was filled by an older release must know the same line again.
    assert_eq!(ids[0], "7807ef2b-02a4-597a-9d21-58dfdc5bef4d");

    // The same log behind another one, and one that is gone on with after two lines.
    let mut rotated = translator(TenantBy::Address);
    assert_eq!(id(&mut rotated, other), ids[1]);
    let mut resumed = translator(TenantBy::Address);
    resumed.skip(line);
    resumed.skip(other);
    assert_eq!([id(&mut resumed, line), id(&mut resumed, line)], ids[2..]);
}

#[test]
fn counting_lines_takes_bounded_memory() {
    let mut seen = Occurrences::new(10);
    assert_eq!((seen.count(b"x"), seen.count(b"x")), (0, 1));
    for i in 0..15u8 {
        assert_eq!(seen.count(&[i]), 0);
    }
    assert_eq!(seen.count(b"x"), 2, "remembered for a generation at least");
    for i in 0..100u8 {
        seen.count(&[b'-', i]);
        assert!(seen.current.len() + seen.previous.len() <= 20);
    }
    assert_eq!(seen.count(b"x"), 0, "forgotten after two");
}

#[test]
fn tenant_ids_are_of_the_allowed_letters_and_stay_apart() {
    for same in ["acme", "A.b_c:d-e", "2001:db8::1", "0"] {
        assert_eq!(tenant_id(same).as_deref(), Some(same));
    }
    assert_eq!(tenant_id(""), None);
    assert_ne!(tenant_id("a b"), tenant_id("a_b"));
    assert_ne!(tenant_id("a b"), tenant_id("a@b"));
    assert_ne!(tenant_id(&"x".repeat(200)), tenant_id(&"x".repeat(201)));
}

fn is_tenant_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.as_bytes()[0].is_ascii_alphanumeric()
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// Bytes that are nearly a log line.
fn mutated_line() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just(format!(r#"192.0.2.1 - joe [17/May/2015:10:05:03 +0200] "GET /a\x41?b HTTP/1.1" 200 12 "-" "{AGENT}""#)),
        Just(r#"h:80 2001:db8::1 - - [17/May/2015:10:05:03 -0200] "GET / HTTP/1.1" 200 -"#.to_owned()),
        Just(r#"{"time": 1709290800.5, "remote_addr": "::1", "request": "GET / HTTP/1.1", "status": 200}"#.to_owned()),
    ];
    let change = (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..3), 0usize..4);
    (line, prop::collection::vec(change, 0..4)).prop_map(|(line, changes)| {
        let mut line = line.into_bytes();
        for (at, with, len) in changes {
            let at = at.index(line.len() + 1);
            let end = (at + len).min(line.len());
            line.splice(at..end, with);
        }
        line
    })
}

proptest! {
    #[test]
    fn any_bytes_are_translated_or_not(
        line in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), mutated_line()],
        by in prop_oneof![Just(TenantBy::Address), Just(TenantBy::User), Just(TenantBy::Host), (1usize..3).prop_map(TenantBy::Path)],
    ) {
        if let Some(event) = event_by(by, &line) {
            if let Some(tenant) = event.get("tenant_id") {
                prop_assert!(is_tenant_id(tenant.as_str().expect("text")), "{tenant}");
            }
            let time = event["event_timestamp"].as_str().expect("text");
            prop_assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
        }
    }

    #[test]
    fn any_name_becomes_a_tenant_id(name in "\\PC{1,200}") {
        let id = tenant_id(&name).expect("a name");
        prop_assert!(is_tenant_id(&id), "{id}");
    }
}
