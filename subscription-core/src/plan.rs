//! The plan catalog.

use crate::decimal::Price;
use crate::time::Timestamp;

/// What a tenant has on a plan at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Requests (units of quota) a minute.
    pub per_minute: i64,
    /// Quota an hour.
    pub per_hour: i64,
    /// Quota a calendar month.
    pub per_month: i64,
    /// The price of a thousand billable units.
    pub price: Price,
}

/// The plans, and what single tenants have instead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {}

impl Catalog {
    /// What `tenant` has on `plan` at `at`; `None` where the catalog has no such plan then.
    pub fn terms(&self, _tenant: &str, plan: &str, _at: Timestamp) -> Option<Terms> {
        let (per_minute, per_hour, per_month, price) = match plan {
            "free" => (60, 1_000, 10_000, 0),
            "starter" => (300, 10_000, 500_000, 500_000),
            "pro" => (1_000, 50_000, 5_000_000, 400_000),
            "enterprise" => (5_000, 250_000, 100_000_000, 250_000),
            _ => return None,
        };
        Some(Terms { per_minute, per_hour, per_month, price: Price::from_raw(price) })
    }

    /// The currency as ISO 4217 code, and its digits behind the point.
    pub fn currency(&self) -> (&str, u32) {
        ("USD", 2)
    }
}
