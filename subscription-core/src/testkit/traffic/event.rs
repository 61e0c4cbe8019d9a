//! The JSON of one call, written by hand: the generator feeds benchmarks.

use super::random::{Random, hash};
use crate::time::Timestamp;

/// One API call of the simulated world: with the time it is reported at, all that its payload is made of. A retry is the same
/// call again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) time: Timestamp,
    pub(super) tenant: u32,
    pub(super) plan: u8,
    pub(super) mood: Mood,
    pub(super) sequence: u64,
    /// What is drawn for this call's fields.
    pub(super) seed: u64,
}

/// What decides a call's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mood {
    Usual,
    Throttled,
    Unauthorized,
}

/// What of the configuration a payload depends on.
#[derive(Debug, Clone)]
pub(super) struct Style {
    pub(super) odd_share: f64,
    pub(super) scan_share: f64,
    pub(super) high_risk_share: f64,
    pub(super) api_keys: u32,
    /// See [`super::random::powers`].
    pub(super) powers: [f64; 145],
}

/// Gateways that report; each counts its own events.
pub(super) const EMITTERS: usize = 8;
/// The plans that tenants are on.
pub(super) const PLANS: [&str; 4] = ["free", "starter", "pro", "enterprise"];

const ENDPOINTS: [&str; 20] = [
    "/v1/orders",
    "/v1/orders/{id}",
    "/v1/orders/{id}/items",
    "/v1/customers",
    "/v1/customers/{id}",
    "/v1/payments",
    "/v1/payments/{id}",
    "/v1/payments/{id}/refunds",
    "/v1/invoices",
    "/v1/invoices/{id}",
    "/v1/products",
    "/v1/products/{id}",
    "/v1/search",
    "/v1/webhooks",
    "/v1/reports/{year}/{month}",
    "/v2/orders",
    "/v2/customers",
    "/v2/usage",
    "/health",
    "/v1/übersicht",
];
const REGIONS: [(&str, &str); 8] = [
    ("DE", "eu-central-1"),
    ("US", "us-east-1"),
    ("US", "us-west-2"),
    ("FR", "eu-west-3"),
    ("JP", "ap-northeast-1"),
    ("BR", "sa-east-1"),
    ("IN", "ap-south-1"),
    ("GB", "eu-west-2"),
];
const AGENTS: [&str; 6] = [
    "acme-sdk-rust/1.4.2",
    "python-requests/2.32.3",
    "okhttp/4.12.0",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
    "curl/8.5.0",
    "Go-http-client/2.0",
];
/// Texts as JSON, with every way to write a character.
const ODD_TEXTS: [&str; 6] = [
    r#"say \"hello\" \/ \\ there"#,
    r"J\u00fcrgen",
    "Zoë Łukasz 東京",
    r"\ud83d\ude00 smile",
    r"tab\tline\nbell\u0007",
    "",
];

/// The name of a tenant.
pub(super) fn push_tenant(out: &mut Vec<u8>, tenant: u32) {
    out.extend_from_slice(b"tenant-");
    push_padded(out, u64::from(tenant), 6);
}

/// Appends the payload of `call`, reported at `ingestion`.
pub(super) fn push_event(out: &mut Vec<u8>, style: &Style, call: &Call, ingestion: Timestamp) {
    let mut random = Random::new(call.seed);
    let odd = random.chance(style.odd_share);
    let who = hash(u64::from(call.tenant));

    out.extend_from_slice(if odd && random.below(4) == 0 { b"{ \"event_id\" : \"" } else { b"{\"event_id\":\"" });
    push_uuid(out, random.next(), random.next(), odd && random.below(4) == 0);
    out.extend_from_slice(b"\",\"schema_version\":\"1.0\",\"event_timestamp\":\"");
    push_time(out, call.time, if odd { random.below(6) } else { 0 });
    out.extend_from_slice(b"\",\"ingestion_timestamp\":\"");
    push_time(out, ingestion, 0);
    out.extend_from_slice(b"\",\"tenant_id\":\"");
    push_tenant(out, call.tenant);
    out.extend_from_slice(b"\",\"api_key_id\":\"key-");
    push_padded(out, u64::from(call.tenant), 6);
    out.push(b'-');
    push_number(out, random.below(1 + who % u64::from(style.api_keys.max(1))));
    out.extend_from_slice(b"\",\"endpoint\":\"");
    if style.scan_share > 0.0 && random.chance(style.scan_share) {
        out.extend_from_slice(b"/scan/");
        push_number(out, random.below(5_000));
    } else {
        // Squared, so that some endpoints are called more.
        let u = random.unit();
        out.extend_from_slice(ENDPOINTS[(u * u * ENDPOINTS.len() as f64) as usize].as_bytes());
    }
    out.extend_from_slice(b"\",\"http_method\":\"");
    out.extend_from_slice(match random.below(100) {
        0..65 => b"GET",
        65..85 => b"POST",
        85..90 => b"PUT",
        90..93 => b"PATCH",
        93..96 => b"DELETE",
        96..98 => b"OPTIONS",
        98 => b"HEAD",
        _ => [&b"CONNECT"[..], b"TRACE"][random.below(2) as usize],
    });
    out.extend_from_slice(b"\",\"response_status_code\":");
    push_status(out, &mut random, call.mood);
    if odd && random.below(4) == 0 {
        out.extend_from_slice(b".0");
    }
    out.extend_from_slice(b",\"response_time_ms\":");
    let steps: u64 = (0..4).map(|_| random.below(32)).sum();
    push_micros_as_millis(out, (1_000.0 * style.powers[steps as usize]) as u64 + random.below(1_000));
    out.extend_from_slice(b",\"subscription_plan\":\"");
    out.extend_from_slice(PLANS[call.plan as usize].as_bytes());
    out.push(b'"');

    let present = random.next();
    let given = |bit: u32| present >> bit & 1 == 1;
    if given(0) {
        push_text_field(out, &mut random, odd, b"user_id", |out, random| {
            out.extend_from_slice(b"user-");
            push_number(out, random.below(100_000));
        });
    } else if odd {
        out.extend_from_slice(b",\"user_id\":null");
    }
    if given(1) {
        out.extend_from_slice(b",\"api_version\":\"v1\"");
    }
    let risky = (who >> 32) as f64 / f64::from(u32::MAX) < style.high_risk_share;
    if risky || given(2) {
        out.extend_from_slice(b",\"risk_score\":0.");
        push_padded(out, if risky { 700_000 + random.below(300_000) } else { random.below(300_000) }, 6);
    }
    if given(3) {
        let minute = random.below(50);
        let five = minute + random.below(200);
        push_number_field(out, b"velocity_last_1min", minute);
        push_number_field(out, b"velocity_last_5min", five);
        push_number_field(out, b"velocity_last_1hour", five + random.below(2_000));
    }
    if given(4) {
        push_address(out, &mut random);
        let (country, region) = REGIONS[random.below(REGIONS.len() as u64) as usize];
        push_plain_field(out, b"country_code", country);
        push_plain_field(out, b"region", region);
    }
    if given(6) {
        push_text_field(out, &mut random, odd, b"user_agent", |out, random| {
            out.extend_from_slice(random.pick(&AGENTS).as_bytes());
        });
    }
    if given(8) && given(9) {
        out.extend_from_slice(b",\"sdk_version\":\"1.4.2\"");
    }
    if given(10) {
        push_number_field(out, b"request_size_bytes", random.below(4_096));
        push_number_field(out, b"response_size_bytes", random.below(65_536));
    }
    if given(12) {
        out.extend_from_slice(b",\"request_id\":\"req-");
        push_hex(out, random.next(), 16, false);
        out.push(b'"');
    }
    if given(13) {
        out.extend_from_slice(b",\"trace_id\":\"");
        push_hex(out, random.next(), 16, false);
        push_hex(out, random.next(), 16, false);
        out.push(b'"');
    }
    out.extend_from_slice(b",\"emitter_id\":\"gw-");
    push_number(out, call.seed % EMITTERS as u64);
    out.push(b'"');
    push_number_field(out, b"emitter_sequence", call.sequence);
    if given(14) && given(15) {
        out.extend_from_slice(b",\"billable_units\":");
        match random.below(4) {
            0 => push_number(out, random.below(10)),
            1 => out.extend_from_slice(random.pick(&["0.000001", "1e1", "2.50", "0.1234565", "12345678.9"]).as_bytes()),
            _ => {
                push_number(out, random.below(20));
                out.push(b'.');
                push_padded(out, random.below(1_000), 3);
            }
        }
    }
    if given(16) && given(17) && given(18) {
        push_number_field(out, b"quota_cost", random.below(11));
    }
    if given(19) && given(20) {
        out.extend_from_slice(b",\"labels\":{\"env\":\"prod\"");
        if odd {
            push_text_field(out, &mut random, true, b"note", |out, _| out.extend_from_slice(b"plain"));
        }
        out.push(b'}');
    }
    if odd && given(21) {
        out.extend_from_slice(br#","extension":{"nested":[1,2.5e3,{"deep":null}],"ok":true}"#);
    }
    out.push(b'}');
}

fn push_status(out: &mut Vec<u8>, random: &mut Random, mood: Mood) {
    out.extend_from_slice(match (mood, random.below(1_000)) {
        (Mood::Throttled, _) | (_, 980..985) => b"429",
        (Mood::Unauthorized, 0..500) | (_, 985..990) => b"401",
        (Mood::Unauthorized, 500..950) | (_, 990..993) => b"403",
        (_, 993..997) => b"500",
        (_, 997..) => b"503",
        (_, 960..970) => b"404",
        (_, 970..975) => b"400",
        (_, 975..980) => b"422",
        (_, 930..960) => b"304",
        (_, 850..930) => b"201",
        _ => b"200",
    });
}

fn push_address(out: &mut Vec<u8>, random: &mut Random) {
    out.extend_from_slice(b",\"ip_address\":\"");
    if random.below(5) == 0 {
        out.extend_from_slice(b"2001:db8::");
        push_hex(out, 1 + random.below(0xfffe), 4, false);
    } else {
        out.extend_from_slice(b"203.0.113.");
        push_number(out, random.below(256));
    }
    out.push(b'"');
}

/// `,"name":"text"`, where the text is now and then one with escapes.
fn push_text_field(
    out: &mut Vec<u8>,
    random: &mut Random,
    odd: bool,
    name: &[u8],
    plain: impl FnOnce(&mut Vec<u8>, &mut Random),
) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name);
    out.extend_from_slice(b"\":\"");
    if odd {
        out.extend_from_slice(random.pick(&ODD_TEXTS).as_bytes());
    } else {
        plain(out, random);
    }
    out.push(b'"');
}

fn push_plain_field(out: &mut Vec<u8>, name: &[u8], text: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name);
    out.extend_from_slice(b"\":\"");
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn push_number_field(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name);
    out.extend_from_slice(b"\":");
    push_number(out, value);
}

fn push_number(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// With zeros in front to at least `width` (up to 20) digits.
fn push_padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut limit = 10u64;
    for _ in 1..width {
        if value < limit {
            out.push(b'0');
        }
        limit *= 10;
    }
    // Zeros were pushed from the right of the number to its left, which for zeros is the same.
    push_number(out, value);
}

fn push_micros_as_millis(out: &mut Vec<u8>, micros: u64) {
    push_number(out, micros / 1_000);
    if !micros.is_multiple_of(1_000) {
        out.push(b'.');
        push_padded(out, micros % 1_000, 3);
    }
}

fn push_hex(out: &mut Vec<u8>, value: u64, digits: u32, upper: bool) {
    let alphabet: &[u8; 16] = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    for i in (0..digits).rev() {
        out.push(alphabet[(value >> (4 * i) & 0xf) as usize]);
    }
}

/// A version 4 UUID (RFC 9562) of these random bits.
fn push_uuid(out: &mut Vec<u8>, high: u64, low: u64, upper: bool) {
    let high = high & !0xf000 | 0x4000;
    let low = low & !(3 << 62) | 1 << 63;
    push_hex(out, high >> 32, 8, upper);
    out.push(b'-');
    push_hex(out, high >> 16, 4, upper);
    out.push(b'-');
    push_hex(out, high, 4, upper);
    out.push(b'-');
    push_hex(out, low >> 48, 4, upper);
    out.push(b'-');
    push_hex(out, low, 12, upper);
}

/// RFC 3339, in one of the forms that it allows.
fn push_time(out: &mut Vec<u8>, time: Timestamp, form: u64) {
    const OFFSET_MINUTES: i64 = 330;
    let millis = if form == 1 { time.millis() + OFFSET_MINUTES * 60_000 } else { time.millis() };
    let (days, of_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000) as u64);
    let (year, month, day) = civil(days);
    push_padded(out, year as u64, 4);
    out.push(b'-');
    push_padded(out, month, 2);
    out.push(b'-');
    push_padded(out, day, 2);
    out.push(if form == 2 { b't' } else { b'T' });
    push_padded(out, of_day / 3_600_000, 2);
    out.push(b':');
    push_padded(out, of_day / 60_000 % 60, 2);
    out.push(b':');
    push_padded(out, of_day / 1_000 % 60, 2);
    if form != 3 || of_day % 1_000 != 0 {
        out.push(b'.');
        push_padded(out, of_day % 1_000, 3);
    }
    out.extend_from_slice(match form {
        1 => b"+05:30",
        2 => b"z",
        4 => b"987Z",
        5 => b"-00:00",
        _ => b"Z",
    });
}

/// Year, month and day of a day since the epoch: Howard Hinnant, "chrono-compatible low-level date algorithms".
fn civil(days: i64) -> (i64, u64, u64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    (year_of_era + era * 400 + i64::from(month <= 2), month as u64, day as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_chrono() {
        for millis in (0..4_000_000_000_000).step_by(86_400_000 * 7 + 12_345_679) {
            let time = Timestamp::from_millis(millis);
            let mut out = Vec::new();
            push_time(&mut out, time, 0);
            assert_eq!(String::from_utf8(out).unwrap(), time.to_string());
        }
    }

    #[test]
    fn numbers_are_padded() {
        for (value, width, text) in [(0, 1, "0"), (7, 3, "007"), (1234, 3, "1234"), (999, 3, "999"), (10, 6, "000010")]
        {
            let mut out = Vec::new();
            push_padded(&mut out, value, width);
            assert_eq!(out, text.as_bytes());
        }
    }
}
