//! Alerts, looked at after every accepted event.

use uuid::Uuid;

use super::usage::{Tenant, Window};
use crate::gold::{AlertRow, AlertType, Severity, UsageRow};
use crate::rules::AlertRules;
use crate::time::{Timestamp, WindowKind};

/// What of an alert stays as it was when it was raised.
pub(super) struct Raised {
    severity: Severity,
    late: bool,
    reasons: Vec<&'static str>,
    risk: Option<f64>,
    spike_ratio: Option<f64>,
}

/// Raises what is to be raised in the windows of an event that was just counted.
pub(super) fn raise(tenant: &mut Tenant<'_>, minute: Timestamp, hour: Timestamp, month: Timestamp, late: bool) {
    let rules = &tenant.rules.alerts;
    let simple = |severity| Raised { severity, late, reasons: Vec::new(), risk: None, spike_ratio: None };
    let preceding: Vec<i64> = (1..=5)
        .filter_map(|back| tenant.minutes.get(&minute.plus_millis(-60_000 * back)))
        .map(|window| window.total)
        .collect();
    if let Some(window) = tenant.minutes.get_mut(&minute) {
        let limit = i128::from(window.limit);
        if !late && window.quota_attempted * 100 >= limit * i128::from(rules.approaching_percent) {
            window.alerts.entry(AlertType::ApproachingLimit).or_insert_with(|| simple(Severity::Warning));
        }
        if window.quota_attempted > limit {
            window.alerts.entry(AlertType::OverLimit).or_insert_with(|| simple(Severity::Critical));
        }
        if !late
            && !window.alerts.contains_key(&AlertType::AbuseDetected)
            && let Some(abuse) = abuse(rules, window, &preceding)
        {
            window.alerts.insert(AlertType::AbuseDetected, abuse);
        }
    }
    for window in [tenant.hours.get_mut(&hour), tenant.months.get_mut(&month)].into_iter().flatten() {
        if window.quota_used > i128::from(window.limit) {
            window.alerts.entry(AlertType::QuotaExceeded).or_insert_with(|| simple(Severity::Critical));
        }
    }
}

/// `preceding` are the totals of those of the five minutes before that have events.
fn abuse(rules: &AlertRules, window: &Window, preceding: &[i64]) -> Option<Raised> {
    let limit = i128::from(window.limit);
    let ratio = if preceding.len() >= rules.spike_min_minutes {
        let mean = preceding.iter().sum::<i64>() as f64 / 5.0;
        window.total as f64 / mean.max(window.limit as f64 * rules.spike_min_baseline)
    } else {
        0.0
    };
    let spike =
        ratio > rules.spike_ratio && window.quota_attempted * 100 >= limit * i128::from(rules.spike_min_percent);

    let of_admitted = |count: i64| if count == 0 { 0.0 } else { count as f64 / window.admitted() as f64 };
    let r = window.risk_mean().unwrap_or(0.0);
    let s = (ratio / rules.spike_scale).min(1.0);
    let a = of_admitted(window.auth_failures);
    let c = of_admitted(window.client_errors);
    let [wr, ws, wa, wc] = rules.weights;
    let risk = 1.0 - (1.0 - wr * r) * (1.0 - ws * s) * (1.0 - wa * a) * (1.0 - wc * c);
    let risk = (risk * 1e6).round_ties_even() / 1e6;

    let mut reasons = Vec::new();
    if risk >= rules.high_risk {
        reasons.push("high_risk");
    }
    if spike {
        reasons.push("velocity_spike");
    }
    if window.total < rules.abuse_min_requests || reasons.is_empty() {
        return None;
    }
    let critical = window.quota_attempted > limit || reasons.contains(&"high_risk");
    let severity = if critical { Severity::Critical } else { Severity::Warning };
    Some(Raised { severity, late: false, reasons, risk: Some(risk), spike_ratio: Some(ratio) })
}

impl Raised {
    /// The alert as its window's row stands in the end.
    pub(super) fn row(&self, alert_type: AlertType, window_kind: WindowKind, usage: &UsageRow) -> AlertRow {
        let kind = match window_kind {
            WindowKind::Minute => "1min",
            WindowKind::Hour => "1hour",
            WindowKind::Month => "1month",
        };
        let start = usage.window_start.to_rfc3339_seconds();
        let name = format!("alert:{}/{}/{kind}/{start}", usage.tenant_id, alert_type.as_str());
        AlertRow {
            alert_id: Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()),
            tenant_id: usage.tenant_id.clone(),
            alert_type,
            severity: self.severity,
            window_kind,
            window_start: usage.window_start,
            window_end: usage.window_end,
            subscription_plan: usage.subscription_plan.clone(),
            total_requests: usage.total_requests,
            admitted_requests: usage.admitted_requests,
            quota_attempted: usage.quota_attempted,
            quota_used: usage.quota_used,
            plan_limit: usage.plan_limit,
            over_limit_count: usage.over_limit_count,
            raised_late: self.late,
            reasons: self.reasons.clone(),
            risk: self.risk,
            spike_ratio: self.spike_ratio,
        }
    }
}
