//! A decision as HTTP tells it: values of header fields and the body of a 429, without any HTTP crate.
//!
//! `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-10 (September 2025): structured
//! fields (RFC 9651), a list of policies by name, `q` units in `w` seconds, and of the tightest one what remains (`r`)
//! and the seconds until there is more (`t`).

use crate::time::{HOUR, MINUTE, SECOND, Timestamp, WindowKind};

use super::{Decision, Limits, Reason};

/// The policies' names in header fields and problem bodies.
const fn policy(kind: WindowKind) -> &'static str {
    match kind {
        WindowKind::Minute => "minute",
        WindowKind::Hour => "hour",
        WindowKind::Month => "month",
    }
}

impl Limits {
    /// The value of `RateLimit-Policy`: all limits, with the length in seconds that their windows have at `at` (months
    /// differ).
    ///
    /// ```
    /// # use subscription_core::{Limits, Timestamp, WindowAlgorithm};
    /// let limits = Limits { per_minute: 60, per_hour: 1_000, per_month: 10_000, window: WindowAlgorithm::Sliding };
    /// assert_eq!(
    ///     limits.rate_limit_policy(Timestamp::EPOCH),
    ///     r#""minute";q=60;w=60, "hour";q=1000;w=3600, "month";q=10000;w=2678400"#,
    /// );
    /// ```
    pub fn rate_limit_policy(&self, at: Timestamp) -> String {
        let month = WindowKind::Month.start(at);
        let month_seconds = WindowKind::Month.end(month).millis().saturating_sub(month.millis()) / SECOND;
        let Self { per_minute, per_hour, per_month, .. } = self;
        format!(
            "\"minute\";q={per_minute};w={}, \"hour\";q={per_hour};w={}, \"month\";q={per_month};w={month_seconds}",
            MINUTE / SECOND,
            HOUR / SECOND,
        )
    }
}

impl Decision {
    /// The value of `RateLimit`: what remains of the binding limit.
    ///
    /// `t` is the reset, or the retry-after where that is sooner, as with sliding windows: the draft wants the seconds
    /// until there is more quota, and no `Retry-After` before them.
    ///
    /// ```
    /// # use subscription_core::{Limits, Timestamp, Usage, WindowAlgorithm, decide};
    /// # let limits = Limits { per_minute: 60, per_hour: 1_000, per_month: 10_000, window: WindowAlgorithm::Fixed };
    /// let at = Timestamp::from_millis(45_500);
    /// assert_eq!(decide(&limits, &Usage::default(), 1, at).rate_limit(), r#""minute";r=59;t=15"#);
    /// ```
    pub fn rate_limit(&self) -> String {
        let seconds = match self.retry_after_seconds {
            Some(retry_after) if !self.allowed => self.reset_seconds.min(retry_after),
            _ => self.reset_seconds,
        };
        format!("\"{}\";r={};t={seconds}", policy(self.binding), self.remaining)
    }

    /// The value of `Retry-After` (RFC 9110, section 10.2.3): `None` where the request is allowed, and where it never
    /// would be.
    pub fn retry_after(&self) -> Option<String> {
        self.retry_after_seconds.filter(|_| !self.allowed).map(|seconds| seconds.to_string())
    }

    /// The body of a 429, `application/problem+json` (RFC 9457), of the draft's type `quota-exceeded`; `None` where the
    /// request is allowed.
    ///
    /// ```
    /// # use subscription_core::{Limits, Timestamp, Usage, WindowAlgorithm, decide};
    /// # let limits = Limits { per_minute: 60, per_hour: 1_000, per_month: 10_000, window: WindowAlgorithm::Fixed };
    /// let usage = Usage { minute: 60, previous_minute: 0, hour: 60, month: 60 };
    /// let denied = decide(&limits, &usage, 1, Timestamp::from_millis(45_500));
    /// assert_eq!(
    ///     denied.problem_json().unwrap(),
    ///     concat!(
    ///         r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
    ///         r#""title":"Request cannot be satisfied as assigned quota has been exceeded","status":429,"#,
    ///         r#""detail":"the limit of 60 a minute is reached; try again in 15 s","violated-policies":["minute"]}"#,
    ///     ),
    /// );
    /// ```
    pub fn problem_json(&self) -> Option<String> {
        if self.allowed {
            return None;
        }
        let (limit, policy) = (self.limit, policy(self.binding));
        let article = if self.binding == WindowKind::Hour { "an" } else { "a" };
        let detail = match (self.reason, self.retry_after_seconds) {
            (Reason::StoreUnavailable, _) => "the limits cannot be checked now; try again soon".to_owned(),
            (Reason::CostAboveLimit, _) | (_, None) => {
                format!("the request costs more than the limit of {limit} {article} {policy}")
            }
            (_, Some(seconds)) => {
                format!("the limit of {limit} {article} {policy} is reached; try again in {seconds} s")
            }
        };
        // Nothing in it needs an escape.
        Some(format!(
            "{{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
             \"title\":\"Request cannot be satisfied as assigned quota has been exceeded\",\"status\":429,\
             \"detail\":\"{detail}\",\"violated-policies\":[\"{policy}\"]}}"
        ))
    }
}
