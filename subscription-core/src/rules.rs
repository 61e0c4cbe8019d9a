//! Every number that decides which rows come out, with the defaults.

use serde::{Deserialize, Serialize};

/// The configuration of the engines. A lake keeps the rules that it was filled with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// How far an event's time may be ahead of its ingestion time, in milliseconds.
    pub clock_skew_ms: i64,
    /// How far an event's time may be behind its ingestion time, in milliseconds.
    pub max_age_ms: i64,
    /// The greatest plausible velocity.
    pub max_velocity: i64,
    /// How far the watermark is behind the greatest event time accepted, in milliseconds.
    pub lateness_ms: i64,
    /// Different endpoints a tenant and hour that get rows of their own.
    pub max_endpoints: usize,
    /// Which events are billed.
    pub billing: BillingRules,
    /// When alerts are raised.
    pub alerts: AlertRules,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            clock_skew_ms: 5_000,
            max_age_ms: 35 * 24 * 3_600_000,
            max_velocity: 10_000_000,
            lateness_ms: 3_600_000,
            max_endpoints: 1_000,
            billing: BillingRules::default(),
            alerts: AlertRules::default(),
        }
    }
}

/// Which events are billed: those that none of these excludes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BillingRules {
    /// Status codes that are not billed.
    pub free_status_codes: Vec<u16>,
    /// Whether 5xx are billed.
    pub bill_server_errors: bool,
    /// HTTP methods that are not billed.
    pub free_methods: Vec<String>,
}

impl Default for BillingRules {
    fn default() -> Self {
        Self {
            free_status_codes: vec![401, 403, 429],
            bill_server_errors: false,
            free_methods: vec!["OPTIONS".to_owned()],
        }
    }
}

/// Thresholds and weights of alerts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertRules {
    /// `approaching_limit`: the share of the limit, in percent.
    pub approaching_percent: u32,
    /// `abuse_detected`: the least `total_requests` of the minute.
    pub abuse_min_requests: i64,
    /// `abuse_detected`: the least risk.
    pub high_risk: f64,
    /// Velocity spike: the spike ratio is above this.
    pub spike_ratio: f64,
    /// Velocity spike: how many of the five preceding minutes have events, at least.
    pub spike_min_minutes: usize,
    /// Velocity spike: the least baseline, as a share of the limit.
    pub spike_min_baseline: f64,
    /// Velocity spike: the least `quota_attempted`, as a share of the limit in percent.
    pub spike_min_percent: u32,
    /// Spike ratio at which its part of the risk is whole.
    pub spike_scale: f64,
    /// Weights of risk score, spike, auth failures and client errors in the risk.
    pub weights: [f64; 4],
}

impl Default for AlertRules {
    fn default() -> Self {
        Self {
            approaching_percent: 80,
            abuse_min_requests: 30,
            high_risk: 0.7,
            spike_ratio: 3.0,
            spike_min_minutes: 3,
            spike_min_baseline: 0.1,
            spike_min_percent: 50,
            spike_scale: 10.0,
            weights: [0.9, 0.5, 0.8, 0.4],
        }
    }
}
