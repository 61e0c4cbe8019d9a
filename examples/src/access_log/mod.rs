//! Access logs as usage events: each line is translated to an event's JSON.
//!
//! Three formats are read, line by line: Apache's and nginx's Common and Combined formats, also with the virtual host
//! in front (`vhost_combined`) or with further fields behind, and nginx's JSON with the usual field names.
//!
//! **Event ids.** A log has none, so one is made: the UUIDv5, in the URL namespace, of `access-log:{n}:{line}`, where
//! the line is the `n`-th of exactly these bytes in its input. Reading a log again, under another name, behind
//! others or after it was rotated, makes the same ids, so the events are duplicates; two equal lines in one log are two
//! requests and stay two events. Equal lines that lie more than a million lines apart count as the same request.
//!
//! **What becomes of the fields.** The event time is the log's, cut to milliseconds. The endpoint is the path without
//! query string. `-` for the bytes sent is 0. A log without request times gives 0 ms. The key is the user where
//! the log has one, else the client address. Referer, virtual host and protocol are labels. What the log has no value for stays
//! out of the event, so a request line that is none (a TLS handshake, a timeout) is quarantined, with its reasons.

mod combined;
mod event;
mod json;
mod plans;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use subscription_core::Timestamp;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

pub use plans::TenantPlans;

/// Which part of a request names the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TenantBy {
    /// The client's address.
    #[default]
    Address,
    /// The authenticated user.
    User,
    /// The virtual host.
    Host,
    /// A segment of the path, counted from 1.
    Path(usize),
}

impl FromStr for TenantBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "address" => Ok(Self::Address),
            "user" => Ok(Self::User),
            "host" => Ok(Self::Host),
            _ => match text.strip_prefix("path:").and_then(|n| n.parse().ok()) {
                Some(n @ 1..) => Ok(Self::Path(n)),
                _ => Err("expected address, user, host or path:N with N from 1".to_owned()),
            },
        }
    }
}

impl std::fmt::Display for TenantBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address => f.write_str("address"),
            Self::User => f.write_str("user"),
            Self::Host => f.write_str("host"),
            Self::Path(n) => write!(f, "path:{n}"),
        }
    }
}

/// How the lines of access logs become events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Which part of a request names the tenant.
    pub tenant_by: TenantBy,
    /// The tenant of requests that name none; without it they have no `tenant_id` and are quarantined.
    pub default_tenant: Option<String>,
    /// The plan of each tenant.
    pub plans: TenantPlans,
}

/// A request as a log tells of it.
#[derive(Debug, Default, PartialEq)]
struct Request<'a> {
    /// When it came (nginx: when it was answered).
    time: Timestamp,
    /// The client as the log names it: an address or a name.
    client: Option<Cow<'a, str>>,
    user: Option<Cow<'a, str>>,
    host: Option<Cow<'a, str>>,
    method: Option<Cow<'a, str>>,
    /// The request target with its query string.
    target: Option<Cow<'a, str>>,
    protocol: Option<Cow<'a, str>>,
    status: Option<i64>,
    request_bytes: Option<i64>,
    response_bytes: Option<i64>,
    response_time_ms: f64,
    referer: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
    request_id: Option<Cow<'a, str>>,
}

/// A line that became an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Translated<'a> {
    /// The event's JSON.
    pub json: &'a [u8],
    /// The event's `tenant_id`.
    pub tenant: Option<&'a str>,
    /// The event's time.
    pub time: Timestamp,
}

/// Translates the lines of one input.
#[derive(Debug)]
pub struct Translator {
    options: Arc<LogOptions>,
    seen: Occurrences,
    json: Vec<u8>,
    tenant: Option<String>,
}

impl Translator {
    /// A translator that has seen no line.
    pub fn new(options: Arc<LogOptions>) -> Self {
        Self { options, seen: Occurrences::new(GENERATION_LINES), json: Vec::new(), tenant: None }
    }

    /// The event that a line tells of; `None` for a line that is none of an access log.
    pub fn translate(&mut self, line: &[u8]) -> Option<Translated<'_>> {
        let occurrence = self.seen.count(line);
        let request = parse(line)?;
        let options = &self.options;
        let name = options.tenant_name(&request);
        self.tenant = name.as_deref().or(options.default_tenant.as_deref()).and_then(tenant_id);
        let plan = options.plans.of(name.as_deref(), self.tenant.as_deref());
        self.json.clear();
        event::write(&mut self.json, &request, &event_id(line, occurrence), self.tenant.as_deref(), plan);
        Some(Translated { json: &self.json, tenant: self.tenant.as_deref(), time: request.time })
    }

    /// Passes over a line, which is counted as if it had been translated.
    pub fn skip(&mut self, line: &[u8]) {
        self.seen.count(line);
    }
}

/// The event time of a line, if it is one of an access log.
pub fn time_of(line: &[u8]) -> Option<Timestamp> {
    parse(line).map(|request| request.time)
}

/// The longest line that is looked into; servers take no request a hundredth of this.
const MAX_LINE_BYTES: usize = 1 << 20;

fn parse(line: &[u8]) -> Option<Request<'_>> {
    if line.len() > MAX_LINE_BYTES {
        return None;
    }
    match line.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') => json::parse(line),
        _ => combined::parse(line),
    }
}

fn event_id(line: &[u8], occurrence: u32) -> Uuid {
    let mut name = format!("access-log:{occurrence}:").into_bytes();
    name.extend_from_slice(line);
    Uuid::new_v5(&Uuid::NAMESPACE_URL, &name)
}

impl LogOptions {
    /// The tenant as the log names it.
    fn tenant_name<'a>(&self, request: &'a Request<'_>) -> Option<Cow<'a, str>> {
        match self.tenant_by {
            TenantBy::Address => request.client.as_deref().map(address_name),
            TenantBy::User => request.user.as_deref().map(Cow::Borrowed),
            TenantBy::Host => request.host.as_deref().map(host_name),
            TenantBy::Path(n) => {
                let path = path_of(request.target.as_deref()?);
                path.split('/').filter(|segment| !segment.is_empty()).nth(n - 1).map(Cow::Borrowed)
            }
        }
    }
}

/// The address, if it is one; a port behind it is not part of it.
fn address(client: &str) -> Option<IpAddr> {
    let bare = client.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(client);
    let address = bare.parse().or_else(|_| SocketAddr::from_str(client).map(|with_port| with_port.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

/// One spelling for each address; names in small letters.
fn address_name(client: &str) -> Cow<'_, str> {
    match address(client) {
        Some(address) => {
            let text = address.to_string();
            // `::1` written so that it begins as a tenant id must.
            Cow::Owned(if text.starts_with(':') { format!("0{text}") } else { text })
        }
        None => Cow::Owned(client.to_ascii_lowercase()),
    }
}

/// A virtual host without its port, in small letters.
fn host_name(host: &str) -> Cow<'_, str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.contains(':') => name,
        _ => host,
    };
    Cow::Owned(name.to_ascii_lowercase())
}

/// The path of a request target: without query and fragment, and without scheme and host, which a proxy gets.
fn path_of(target: &str) -> &str {
    let target = &target[..target.find(['?', '#']).unwrap_or(target.len())];
    match target.find("://") {
        Some(at) if at > 0 && target[..at].bytes().all(|b| b.is_ascii_alphanumeric()) => {
            let rest = &target[at + 3..];
            rest.find('/').map_or("/", |slash| &rest[slash..])
        }
        _ => target,
    }
}

/// The longest tenant id.
const MAX_TENANT_ID: usize = 128;

/// A tenant id of the allowed letters. A name with others gets `_` in their place and a hash of the name behind it, so
/// that different names stay different tenants. `None` for an empty name.
fn tenant_id(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    let first_allowed = name.chars().next()?.is_ascii_alphanumeric();
    if first_allowed && name.len() <= MAX_TENANT_ID && name.chars().all(allowed) {
        return Some(name.to_owned());
    }
    let hash = format!("-{:08x}", xxh3_64(name.as_bytes()) as u32);
    let mut id = String::with_capacity(MAX_TENANT_ID);
    if !first_allowed {
        id.push('x');
    }
    id.extend(name.chars().map(|c| if allowed(c) { c } else { '_' }).take(MAX_TENANT_ID - hash.len() - id.len()));
    Some(id + &hash)
}

/// How many lines a generation of [`Occurrences`] has.
const GENERATION_LINES: usize = 1_000_000;

/// Counts equal lines, by a hash. Lines are remembered for one to two generations: equal lines of a log have the
/// same time in them, and so lie near each other.
#[derive(Debug)]
struct Occurrences {
    generation: usize,
    current: FxHashMap<u64, u32>,
    previous: FxHashMap<u64, u32>,
}

impl Occurrences {
    fn new(generation: usize) -> Self {
        Self { generation, current: FxHashMap::default(), previous: FxHashMap::default() }
    }

    /// The how-manieth this line is, from 0.
    fn count(&mut self, line: &[u8]) -> u32 {
        let hash = xxh3_64(line);
        if self.current.len() >= self.generation {
            self.previous = std::mem::take(&mut self.current);
        }
        let before = self.current.get(&hash).or_else(|| self.previous.get(&hash)).copied().unwrap_or(0);
        self.current.insert(hash, before + 1);
        before
    }
}

#[cfg(test)]
mod tests;
