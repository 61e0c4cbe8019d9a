//! The plan catalog: what each plan, and each tenant with terms of its own, is allowed and pays, and from when.

mod builder;
mod compare;
#[cfg(feature = "catalog")]
mod file;
#[cfg(feature = "catalog")]
mod json;

use std::fmt;

use rustc_hash::FxHashMap;

use crate::decimal::Price;
use crate::time::Timestamp;

pub use builder::CatalogBuilder;

/// The greatest limit or quota that a catalog may hold: 15 digits, which is what an integer of an HTTP structured
/// field can carry (RFC 9651, section 3.3.1) and what every double holds exactly.
pub const MAX_LIMIT: i64 = 999_999_999_999_999;

/// The greatest price of a thousand billable units: a billion.
pub const MAX_PRICE: Price = Price::from_raw(1_000_000_000 * 10i128.pow(Price::SCALE));

/// What a tenant has on a plan at a time: all of the catalog that a row of the lake depends on.
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

/// How requests are decided. It changes answers, never a row of the lake, and so may be changed at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Enforcement {
    /// How a minute's usage is measured.
    pub window: WindowAlgorithm,
    /// What becomes of requests while the counters cannot be reached.
    pub failure_policy: FailurePolicy,
}

/// How the usage of a minute is measured against `per_minute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WindowAlgorithm {
    /// The usage of the clock minute. Twice the limit may pass in the 60 seconds around a minute's end.
    Fixed,
    /// The usage of the last 60 seconds, estimated from the clock minute and the one before it as if the latter's had
    /// been spread evenly.
    #[default]
    Sliding,
}

impl WindowAlgorithm {
    /// `fixed` or `sliding`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Sliding => "sliding",
        }
    }

    /// The algorithm of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Fixed, Self::Sliding].into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

/// What becomes of requests while the counters cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FailurePolicy {
    /// All are allowed.
    Open,
    /// All are denied.
    Closed,
    /// Each gateway counts by itself, up to its share of the limit.
    #[default]
    Local,
}

impl FailurePolicy {
    /// `open`, `closed` or `local`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Local => "local",
        }
    }

    /// The policy of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Closed, Self::Local].into_iter().find(|policy| policy.as_str() == name)
    }
}

/// An entry of the catalog for a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Limits and price.
    pub terms: Terms,
    /// How requests are decided.
    pub enforcement: Enforcement,
}

impl Plan {
    /// A plan of these terms with the default enforcement.
    pub const fn new(per_minute: i64, per_hour: i64, per_month: i64, price: Price) -> Self {
        Self {
            terms: Terms { per_minute, per_hour, per_month, price },
            enforcement: Enforcement { window: WindowAlgorithm::Sliding, failure_policy: FailurePolicy::Local },
        }
    }
}

/// An entry of the catalog for a tenant: the values that it has instead of those of its plan, whichever that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Overrides {
    pub per_minute: Option<i64>,
    pub per_hour: Option<i64>,
    pub per_month: Option<i64>,
    /// The price of a thousand billable units.
    pub price: Option<Price>,
    pub window: Option<WindowAlgorithm>,
    pub failure_policy: Option<FailurePolicy>,
}

impl Overrides {
    /// Whether it overrides nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The plan with these values in place of its own.
    pub fn apply(&self, plan: &Plan) -> Plan {
        let Plan { terms, enforcement } = plan;
        Plan {
            terms: Terms {
                per_minute: self.per_minute.unwrap_or(terms.per_minute),
                per_hour: self.per_hour.unwrap_or(terms.per_hour),
                per_month: self.per_month.unwrap_or(terms.per_month),
                price: self.price.unwrap_or(terms.price),
            },
            enforcement: Enforcement {
                window: self.window.unwrap_or(enforcement.window),
                failure_policy: self.failure_policy.unwrap_or(enforcement.failure_policy),
            },
        }
    }
}

/// A value of the catalog, and when it holds: `valid_from ≤ time < valid_until`.
///
/// Who looks up a tenant's terms for every event may keep the answer and ask again only for a time outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Valid<T> {
    /// The value.
    pub value: T,
    /// The first time at which it holds; [`Timestamp::MIN`] if it always did.
    pub valid_from: Timestamp,
    /// The time from which on it may be another; [`Timestamp::MAX`] if it stays.
    pub valid_until: Timestamp,
}

impl<T> Valid<T> {
    /// Whether the value holds at `time`.
    pub fn contains(&self, time: Timestamp) -> bool {
        self.valid_from <= time && time < self.valid_until
    }
}

/// The entries of one plan or tenant by rising `effective_from`; each holds until the next begins.
#[derive(Clone, PartialEq, Eq)]
struct Timeline<T>(Vec<(Timestamp, T)>);

impl<T> Timeline<T> {
    const fn new() -> Self {
        Self(Vec::new())
    }

    /// The entry in force at `at`, `None` before the first, and when that is so.
    fn at(&self, at: Timestamp) -> Valid<Option<&T>> {
        // Nearly always there is one entry, in force from the beginning.
        let next = match &*self.0 {
            [(from, _)] => usize::from(*from <= at),
            entries => entries.partition_point(|(from, _)| *from <= at),
        };
        let current = next.checked_sub(1).map(|index| &self.0[index]);
        Valid {
            value: current.map(|(_, value)| value),
            valid_from: current.map_or(Timestamp::MIN, |(from, _)| *from),
            valid_until: self.0.get(next).map_or(Timestamp::MAX, |(from, _)| *from),
        }
    }

    /// Adds an entry; false if there is one with the same `from`.
    fn insert(&mut self, from: Timestamp, value: T) -> bool {
        match self.0.binary_search_by_key(&from, |(from, _)| *from) {
            Ok(_) => false,
            Err(index) => {
                self.0.insert(index, (from, value));
                true
            }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Timeline<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(from, value)| (from, value))).finish()
    }
}

/// The plans, what single tenants have instead, and the currency of the prices.
///
/// Entries have a time from which they hold (without one, from the beginning) and hold until the next entry of the
/// same plan or tenant begins; an event meets the entry in force at its event time. An entry replaces the one before
/// it as a whole: a plan's has all its values, and what a later entry of a tenant does not override is its plan's again.
///
/// [`Catalog::default`] has the plans free, starter, pro and enterprise, in US dollars. Others come from a file
/// ([`Catalog::load`], feature `catalog`) or from a program:
///
/// ```
/// use subscription_core::{Catalog, Overrides, Plan, Price, Timestamp};
///
/// let catalog = Catalog::builder()
///     .currency("EUR", 2)
///     .plan("basic", Plan::new(100, 2_000, 50_000, Price::parse("0.30").unwrap()))
///     .tenant("acme", Overrides { per_minute: Some(500), ..Overrides::default() })
///     .build()?;
/// let acme = catalog.terms("acme", "basic", Timestamp::EPOCH).unwrap();
/// assert_eq!((acme.per_minute, acme.per_hour), (500, 2_000));
/// assert!(catalog.terms("acme", "platinum", Timestamp::EPOCH).is_none());
/// # Ok::<(), subscription_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    currency: String,
    currency_digits: u32,
    plans: FxHashMap<Box<str>, Timeline<Plan>>,
    tenants: FxHashMap<Box<str>, Timeline<Overrides>>,
}

impl Default for Catalog {
    fn default() -> Self {
        let plan = |name: &str, per_minute, per_hour, per_month, price| {
            let plan = Plan::new(per_minute, per_hour, per_month, Price::from_raw(price));
            (name.into(), Timeline(vec![(Timestamp::MIN, plan)]))
        };
        Self {
            currency: "USD".to_owned(),
            currency_digits: 2,
            plans: [
                plan("free", 60, 1_000, 10_000, 0),
                plan("starter", 300, 10_000, 500_000, 500_000),
                plan("pro", 1_000, 50_000, 5_000_000, 400_000),
                plan("enterprise", 5_000, 250_000, 100_000_000, 250_000),
            ]
            .into_iter()
            .collect(),
            tenants: FxHashMap::default(),
        }
    }
}

impl Catalog {
    /// An empty catalog to fill.
    pub fn builder() -> CatalogBuilder {
        CatalogBuilder::default()
    }

    /// What `tenant` has on `plan` at `at`; `None` where the catalog has no such plan then.
    pub fn terms(&self, tenant: &str, plan: &str, at: Timestamp) -> Option<Terms> {
        self.terms_until(tenant, plan, at).map(|valid| valid.value)
    }

    /// As [`Catalog::terms`], with the times between which the answer is the same.
    pub fn terms_until(&self, tenant: &str, plan: &str, at: Timestamp) -> Option<Valid<Terms>> {
        let Valid { value, valid_from, valid_until } = self.plan_until(tenant, plan, at)?;
        Some(Valid { value: value.terms, valid_from, valid_until })
    }

    /// Terms and enforcement of `tenant` on `plan` at `at`; `None` where the catalog has no such plan then.
    pub fn plan(&self, tenant: &str, plan: &str, at: Timestamp) -> Option<Plan> {
        self.plan_until(tenant, plan, at).map(|valid| valid.value)
    }

    /// As [`Catalog::plan`], with the times between which the answer is the same.
    pub fn plan_until(&self, tenant: &str, plan: &str, at: Timestamp) -> Option<Valid<Plan>> {
        let plan = self.plans.get(plan)?.at(at);
        let value = *plan.value?;
        let Some(own) = self.tenants.get(tenant) else {
            return Some(Valid { value, valid_from: plan.valid_from, valid_until: plan.valid_until });
        };
        let own = own.at(at);
        Some(Valid {
            value: own.value.map_or(value, |overrides| overrides.apply(&value)),
            valid_from: plan.valid_from.max(own.valid_from),
            valid_until: plan.valid_until.min(own.valid_until),
        })
    }

    /// The names of all plans, sorted.
    pub fn plan_names(&self) -> Vec<&str> {
        sorted(&self.plans)
    }

    /// The tenants that have entries of their own, sorted.
    pub fn tenant_ids(&self) -> Vec<&str> {
        sorted(&self.tenants)
    }

    /// The currency as ISO 4217 code, and its digits behind the point.
    pub fn currency(&self) -> (&str, u32) {
        (&self.currency, self.currency_digits)
    }
}

fn sorted<T>(map: &FxHashMap<Box<str>, T>) -> Vec<&str> {
    let mut names: Vec<&str> = map.keys().map(|name| &**name).collect();
    names.sort_unstable();
    names
}
