//! When a window raises an alert, and what is kept of it.

use std::sync::Arc;

use uuid::Uuid;

use crate::gold::{AlertRow, AlertType, Severity};
use crate::intern::Plans;
use crate::rules::AlertRules;
use crate::time::{Timestamp, WindowKind};
use crate::varint::{self, Reader};
use crate::window::UsageState;

const HIGH_RISK: u8 = 1;
const VELOCITY_SPIKE: u8 = 2;

/// The minutes before a minute that its velocity is compared with.
pub(crate) const PRECEDING: i64 = 5;

/// What stays of an alert as it was when it was raised; the rest follows its window's row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Raised {
    pub(crate) alert_type: AlertType,
    severity: Severity,
    late: bool,
    reasons: u8,
    risk: f64,
    spike_ratio: f64,
}

impl Raised {
    fn new(alert_type: AlertType, severity: Severity, late: bool) -> Self {
        Self { alert_type, severity, late, reasons: 0, risk: 0.0, spike_ratio: 0.0 }
    }

    /// One byte of flags, type in the lowest two bits; of abuse also risk (in millionths) and spike ratio.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let code = AlertType::ALL.iter().position(|known| *known == self.alert_type).unwrap_or_default() as u8;
        let critical = u8::from(self.severity == Severity::Critical);
        out.push(code | critical << 2 | u8::from(self.late) << 3 | self.reasons << 4);
        if self.alert_type == AlertType::AbuseDetected {
            varint::put_scaled(out, self.risk, 1e6);
            out.extend_from_slice(&self.spike_ratio.to_le_bytes());
        }
    }

    pub(crate) fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let flags = from.byte()?;
        let alert_type = AlertType::ALL[usize::from(flags & 3)];
        let severity = if flags & 4 == 0 { Severity::Warning } else { Severity::Critical };
        let mut raised = Self::new(alert_type, severity, flags & 8 != 0);
        raised.reasons = flags >> 4;
        if raised.reasons > HIGH_RISK | VELOCITY_SPIKE {
            return None;
        }
        if alert_type == AlertType::AbuseDetected {
            raised.risk = from.scaled(1e6)?;
            raised.spike_ratio = from.f64()?;
        }
        Some(raised)
    }

    /// The alert's row, for a window that stands at `state`.
    pub(crate) fn to_row(
        self,
        state: &UsageState,
        kind: WindowKind,
        tenant_id: Arc<str>,
        start: Timestamp,
        plans: &Plans,
    ) -> AlertRow {
        let abuse = self.alert_type == AlertType::AbuseDetected;
        let reasons = [(HIGH_RISK, "high_risk"), (VELOCITY_SPIKE, "velocity_spike")];
        AlertRow {
            alert_id: alert_id(&tenant_id, self.alert_type, kind, start),
            tenant_id,
            alert_type: self.alert_type,
            severity: self.severity,
            window_kind: kind,
            window_start: start,
            window_end: kind.end(start),
            subscription_plan: plans.name(state.plan()).clone(),
            total_requests: state.total,
            admitted_requests: state.admitted(),
            quota_attempted: state.attempted,
            quota_used: state.used,
            plan_limit: state.limit,
            over_limit_count: state.over_limit_count(kind),
            raised_late: self.late,
            reasons: reasons.iter().filter(|(bit, _)| self.reasons & bit != 0).map(|(_, name)| *name).collect(),
            risk: abuse.then_some(self.risk),
            spike_ratio: abuse.then_some(self.spike_ratio),
        }
    }
}

/// The same alert has the same id wherever and however often it is computed: a UUID of version 5 (RFC 9562) in the URL
/// namespace.
fn alert_id(tenant: &str, alert_type: AlertType, kind: WindowKind, start: Timestamp) -> Uuid {
    let name = format!("alert:{tenant}/{}/{kind}/{}", alert_type.as_str(), start.to_rfc3339_seconds());
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
}

/// The alert rules, with what can be worked out of them beforehand.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    rules: AlertRules,
    /// Whether every factor of the risk lies in [0, 1], so that the risk cannot fall while the spike ratio rises.
    bounded: bool,
}

impl Conditions {
    pub(crate) fn new(rules: &AlertRules) -> Self {
        let bounded = rules.weights.iter().all(|weight| (0.0..=1.0).contains(weight)) && rules.spike_scale > 0.0;
        Self { rules: rules.clone(), bounded }
    }

    /// Raises what a window's own counts raise after an event; answers which alerts are new.
    pub(crate) fn limits(&self, state: &mut UsageState, kind: WindowKind, late: bool) -> [Option<AlertType>; 2] {
        let over = state.usage(kind) > state.limit;
        if kind == WindowKind::Minute {
            let approaching = !late && at_least(state.attempted, self.rules.approaching_percent, state.limit);
            [
                (approaching, Raised::new(AlertType::ApproachingLimit, Severity::Warning, late)),
                (over, Raised::new(AlertType::OverLimit, Severity::Critical, late)),
            ]
            .map(|(holds, alert)| (holds && raise(state, alert)).then_some(alert.alert_type))
        } else {
            let alert = Raised::new(AlertType::QuotaExceeded, Severity::Critical, late);
            [(over && raise(state, alert)).then_some(alert.alert_type), None]
        }
    }

    /// Whether [`Conditions::abuse`] has to be asked after an event that is not late. Only says no where abuse is
    /// certainly not to be raised: the mean of the preceding minutes can but lower the spike ratio, and rounded
    /// arithmetic is monotone.
    pub(crate) fn may_be_abuse(&self, state: &UsageState) -> bool {
        let rules = &self.rules;
        if state.total < rules.abuse_min_requests || raised(state, AlertType::AbuseDetected) {
            return false;
        }
        let ratio = state.total as f64 / (rules.spike_min_baseline * state.limit as f64).max(0.0);
        !self.bounded
            || self.risk(state, ratio) >= rules.high_risk
            || (ratio > rules.spike_ratio && at_least(state.attempted, rules.spike_min_percent, state.limit))
    }

    /// The abuse that a minute shows, if it does and was not raised before. `preceding` are the totals of those of the
    /// five minutes before it that have events.
    pub(crate) fn abuse(&self, state: &UsageState, preceding: impl IntoIterator<Item = i64>) -> Option<Raised> {
        let rules = &self.rules;
        if state.total < rules.abuse_min_requests || raised(state, AlertType::AbuseDetected) {
            return None;
        }
        let (minutes, sum) =
            preceding.into_iter().fold((0, 0i64), |(n, sum), total| (n + 1, sum.saturating_add(total)));
        let spike_ratio = if minutes >= rules.spike_min_minutes {
            let baseline = (sum as f64 / PRECEDING as f64).max(rules.spike_min_baseline * state.limit as f64);
            if baseline > 0.0 { state.total as f64 / baseline } else { 0.0 }
        } else {
            0.0
        };
        let spike = spike_ratio > rules.spike_ratio && at_least(state.attempted, rules.spike_min_percent, state.limit);
        let risk = self.risk(state, spike_ratio);
        let high = risk >= rules.high_risk;
        if !spike && !high {
            return None;
        }
        let critical = high || state.attempted > state.limit;
        let severity = if critical { Severity::Critical } else { Severity::Warning };
        let reasons = (u8::from(high) * HIGH_RISK) | (u8::from(spike) * VELOCITY_SPIKE);
        Some(Raised { alert_type: AlertType::AbuseDetected, severity, late: false, reasons, risk, spike_ratio })
    }

    /// The chance that at least one of four independent signs is right ("noisy or": Pearl, Probabilistic Reasoning in
    /// Intelligent Systems, 1988), rounded to 6 places.
    fn risk(&self, state: &UsageState, spike_ratio: f64) -> f64 {
        let share = |count: i64| if count == 0 { 0.0 } else { count as f64 / state.admitted() as f64 };
        let [score, spike, auth, client] = self.rules.weights;
        let r = state.risk_mean().unwrap_or(0.0);
        let s = (spike_ratio / self.rules.spike_scale).min(1.0);
        let (a, c) = (share(state.auth_failures), share(state.client_errors));
        let risk = 1.0 - (1.0 - score * r) * (1.0 - spike * s) * (1.0 - auth * a) * (1.0 - client * c);
        (risk * 1e6).round_ties_even() / 1e6
    }
}

/// Whether `value` is at least `percent` of `limit`.
fn at_least(value: i64, percent: u32, limit: i64) -> bool {
    i128::from(value) * 100 >= i128::from(limit) * i128::from(percent)
}

fn raised(state: &UsageState, alert_type: AlertType) -> bool {
    state.raised.iter().any(|raised| raised.alert_type == alert_type)
}

/// Keeps an alert, unless one of its type was raised before. Answers whether it is new.
pub(crate) fn raise(state: &mut UsageState, alert: Raised) -> bool {
    let place = state.raised.binary_search_by_key(&alert.alert_type, |raised| raised.alert_type);
    if let Err(at) = place {
        state.raised.insert(at, alert);
    }
    place.is_err()
}
