//! The catalog as one line of JSON, which a lake keeps of how it was filled.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde::{Deserialize, Serialize};

use crate::decimal::Price;
use crate::error::{Error, ErrorKind, Result};
use crate::time::Timestamp;

use super::builder::Problem;
use super::{Catalog, CatalogBuilder, FailurePolicy, Overrides, Plan, Terms, Timeline, WindowAlgorithm};

/// Fields in the order of their names, so that equal catalogs are equal texts.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    currency: String,
    currency_digits: u32,
    plans: BTreeMap<String, Vec<Entry>>,
    tenants: BTreeMap<String, Vec<Entry>>,
}

/// An entry of a plan, which has every value, or of a tenant, which has some.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_hour: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_minute: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_month: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price_per_thousand_units: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<String>,
}

impl Catalog {
    /// The catalog as JSON in one line, sorted, with every value spelled out: equal catalogs give equal texts.
    pub fn to_canonical_json(&self) -> String {
        let document = Document {
            currency: self.currency.clone(),
            currency_digits: self.currency_digits,
            plans: self.plans.iter().map(|(name, entries)| (name.to_string(), plan_entries(entries))).collect(),
            tenants: self.tenants.iter().map(|(id, entries)| (id.to_string(), tenant_entries(entries))).collect(),
        };
        serde_json::to_string(&document).expect("strings and numbers under string keys")
    }

    /// The catalog that [`Catalog::to_canonical_json`] was made from.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the text is none of its.
    pub fn from_canonical_json(text: &str) -> Result<Self> {
        let corrupt = |message: String| Error::new(ErrorKind::Corrupt, format!("stored catalog: {message}"));
        let document: Document = serde_json::from_str(text).map_err(|e| corrupt(e.to_string()))?;
        document.read().map_err(|Problem { key, message }| corrupt(format!("{key}: {message}")))
    }
}

impl Document {
    fn read(self) -> Result<Catalog, Problem> {
        let mut builder = CatalogBuilder::default();
        builder.set_currency(&self.currency, i64::from(self.currency_digits))?;
        for (name, entries) in &self.plans {
            for entry in entries {
                let (from, own) = entry.read()?;
                let plan = plan(&own).ok_or(Problem { key: "plans", message: format!("{name} lacks a value") })?;
                builder.add_plan(name, from, plan)?;
            }
        }
        for (id, entries) in &self.tenants {
            for entry in entries {
                let (from, own) = entry.read()?;
                builder.add_tenant(id, from, own)?;
            }
        }
        match builder.problems().into_iter().next() {
            None => Ok(builder.finish()),
            Some((path, message)) => Err(Problem { key: "catalog", message: format!("{path}: {message}") }),
        }
    }
}

/// The plan of an entry that has every value.
fn plan(own: &Overrides) -> Option<Plan> {
    let mut plan = Plan::new(own.per_minute?, own.per_hour?, own.per_month?, own.price?);
    plan.enforcement.window = own.window?;
    plan.enforcement.failure_policy = own.failure_policy?;
    Some(plan)
}

fn plan_entries(entries: &Timeline<Plan>) -> Vec<Entry> {
    let entry = |(from, plan): &(Timestamp, Plan)| {
        let Plan { terms: Terms { per_minute, per_hour, per_month, price }, enforcement } = *plan;
        let own = Overrides {
            per_minute: Some(per_minute),
            per_hour: Some(per_hour),
            per_month: Some(per_month),
            price: Some(price),
            window: Some(enforcement.window),
            failure_policy: Some(enforcement.failure_policy),
        };
        Entry::new(*from, &own)
    };
    entries.0.iter().map(entry).collect()
}

fn tenant_entries(entries: &Timeline<Overrides>) -> Vec<Entry> {
    entries.0.iter().map(|(from, own)| Entry::new(*from, own)).collect()
}

impl Entry {
    fn new(from: Timestamp, own: &Overrides) -> Self {
        Self {
            effective_from: (from != Timestamp::MIN).then(|| from.to_string()),
            failure_policy: own.failure_policy.map(|policy| policy.as_str().to_owned()),
            per_hour: own.per_hour,
            per_minute: own.per_minute,
            per_month: own.per_month,
            price_per_thousand_units: own.price.map(|price| price.to_string()),
            window: own.window.map(|window| window.as_str().to_owned()),
        }
    }

    fn read(&self) -> Result<(Timestamp, Overrides), Problem> {
        let from = known(&self.effective_from, "effective_from", |text| {
            DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc().into())
        })?;
        let own = Overrides {
            per_minute: self.per_minute,
            per_hour: self.per_hour,
            per_month: self.per_month,
            price: known(&self.price_per_thousand_units, "price_per_thousand_units", Price::parse_exact)?,
            window: known(&self.window, "window", WindowAlgorithm::from_name)?,
            failure_policy: known(&self.failure_policy, "failure_policy", FailurePolicy::from_name)?,
        };
        Ok((from.unwrap_or(Timestamp::MIN), own))
    }
}

fn known<T>(
    text: &Option<String>,
    key: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(text) = text else { return Ok(None) };
    match read(text) {
        Some(value) => Ok(Some(value)),
        None => Err(Problem { key, message: format!("cannot read {text:?}") }),
    }
}
