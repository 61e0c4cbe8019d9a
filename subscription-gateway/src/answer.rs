//! What the gateway answers itself, and what it adds to answers.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use subscription_core::{Decision, Limits};

use crate::body::GatewayBody;
use crate::usage::Usage;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Why a request goes no further.
pub(crate) enum Refusal {
    UnknownKey,
    Suspended,
    /// Identities cannot be looked up now.
    NoIdentity,
    /// The operator's mistake: a tenant's id or plan that nobody knows.
    Misconfigured,
    /// A method that no usage event can tell.
    Method,
}

impl Refusal {
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::UnknownKey => StatusCode::UNAUTHORIZED,
            Self::Suspended => StatusCode::FORBIDDEN,
            Self::NoIdentity => StatusCode::SERVICE_UNAVAILABLE,
            Self::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Method => StatusCode::NOT_IMPLEMENTED,
        }
    }

    const fn detail(&self) -> &'static str {
        match self {
            Self::UnknownKey => "the request shows no API key that is known",
            Self::Suspended => "the account is suspended",
            Self::NoIdentity => "API keys cannot be checked now; try again soon",
            Self::Misconfigured => "the account is not set up for this service",
            Self::Method => "the request's method is unknown",
        }
    }
}

/// The answer to a request that is refused, as `application/problem+json` (RFC 9457).
pub(crate) fn refused<B: Body<Data = Bytes>>(
    request: &Parts,
    refusal: &Refusal,
    usage: Option<Usage>,
) -> Response<GatewayBody<B>> {
    let status = refusal.status();
    let title = status.canonical_reason().unwrap_or_default();
    let body = format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{},\"detail\":\"{}\"}}",
        status.as_u16(),
        refusal.detail()
    );
    let mut answer = answer(request, status, refusal.detail(), body, usage);
    if status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// The answer to a request that was denied; `scope` is the name of the narrower limit that did, if it was one.
pub(crate) fn denied<B: Body<Data = Bytes>>(
    request: &Parts,
    decision: &Decision,
    scope: &str,
    usage: Option<Usage>,
) -> Response<GatewayBody<B>> {
    const POLICIES: &str = "\"violated-policies\":[\"";
    let mut body = decision.problem_json().unwrap_or_default();
    if !scope.is_empty() {
        body = body.replacen(POLICIES, &format!("{POLICIES}{scope}-"), 1);
    }
    answer(request, StatusCode::TOO_MANY_REQUESTS, "the limit is reached", body, usage)
}

/// As gRPC has it where the request is of that: its clients look at no other status.
fn answer<B: Body<Data = Bytes>>(
    request: &Parts,
    status: StatusCode,
    message: &'static str,
    body: String,
    usage: Option<Usage>,
) -> Response<GatewayBody<B>> {
    let content_type = request.headers.get(CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let body = if is_grpc { String::new() } else { body };
    let mut response = Response::new(GatewayBody::own(Bytes::from(body), usage, status.as_u16()));
    let headers = response.headers_mut();
    if is_grpc {
        let code = match status {
            StatusCode::UNAUTHORIZED => "16",
            StatusCode::FORBIDDEN => "7",
            StatusCode::TOO_MANY_REQUESTS => "8",
            StatusCode::SERVICE_UNAVAILABLE => "14",
            StatusCode::NOT_IMPLEMENTED => "12",
            _ => "13",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(code));
        headers.insert("grpc-message", HeaderValue::from_static(message));
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        *response.status_mut() = status;
    }
    response
}

/// Adds what the decision says; `scope` is the name of the narrower limit that decided.
pub(crate) fn add_headers(headers: &mut HeaderMap, decision: &Decision, limits: &Limits, scope: &str) {
    let mut rate_limit = decision.rate_limit();
    let mut policy = limits.rate_limit_policy(decision.at);
    if !scope.is_empty() {
        // Policies are told apart by their names: "key-minute".
        rate_limit = rate_limit.replacen('"', &format!("\"{scope}-"), 1);
        policy = policy
            .split(", ")
            .filter(|item| !item.contains(UNLIMITED))
            .map(|item| item.replacen('"', &format!("\"{scope}-"), 1))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let mut insert = |name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    insert(RATE_LIMIT, rate_limit);
    insert(RATE_LIMIT_POLICY, policy);
    if let Some(seconds) = decision.retry_after() {
        insert(RETRY_AFTER, seconds);
    }
}

/// How the policy of a window that is not limited looks.
const UNLIMITED: &str = ";q=999999999999999;";
