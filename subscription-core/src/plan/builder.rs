//! Building a catalog, and what every catalog must fulfil, wherever it comes from.

use std::fmt::Display;

use crate::decimal::Price;
use crate::error::{Error, ErrorKind, Result};
use crate::time::Timestamp;

use super::{Catalog, MAX_LIMIT, MAX_PRICE, Overrides, Plan, Timeline};

/// The most digits behind the point that a currency of ISO 4217 has.
pub(super) const MAX_CURRENCY_DIGITS: i64 = 4;

/// What is wrong, and with which key of an entry.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) key: &'static str,
    pub(super) message: String,
}

/// Builds a [`Catalog`]. What is wrong is reported by [`CatalogBuilder::build`].
#[derive(Debug)]
pub struct CatalogBuilder {
    catalog: Catalog,
    error: Option<Error>,
}

impl Default for CatalogBuilder {
    /// No plans yet, in US dollars.
    fn default() -> Self {
        let catalog = Catalog { plans: Default::default(), ..Catalog::default() };
        Self { catalog, error: None }
    }
}

impl CatalogBuilder {
    /// The currency of all prices: its ISO 4217 code, and the digits behind the point that an amount due has.
    #[must_use]
    pub fn currency(self, code: &str, digits: u32) -> Self {
        self.with("currency", |builder| builder.set_currency(code, i64::from(digits)))
    }

    /// A plan from the beginning.
    #[must_use]
    pub fn plan(self, name: &str, plan: Plan) -> Self {
        self.plan_from(name, Timestamp::MIN, plan)
    }

    /// A plan from `effective_from` on, in place of what it was before.
    #[must_use]
    pub fn plan_from(self, name: &str, effective_from: Timestamp, plan: Plan) -> Self {
        self.with(format_args!("plans.{name}"), |builder| builder.add_plan(name, effective_from, plan))
    }

    /// What a tenant has instead of its plan's values, from the beginning.
    #[must_use]
    pub fn tenant(self, id: &str, overrides: Overrides) -> Self {
        self.tenant_from(id, Timestamp::MIN, overrides)
    }

    /// What a tenant has instead of its plan's values from `effective_from` on, in place of what it had before.
    #[must_use]
    pub fn tenant_from(self, id: &str, effective_from: Timestamp, overrides: Overrides) -> Self {
        self.with(format_args!("tenants.{id}"), |builder| builder.add_tenant(id, effective_from, overrides))
    }

    /// The catalog.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`], naming the entry: a limit outside 0 to [`MAX_LIMIT`], a price outside 0 to
    /// [`MAX_PRICE`], two entries of the same time, a tenant that overrides nothing, a name or a currency that cannot
    /// be, or no plan at all.
    pub fn build(self) -> Result<Catalog> {
        if let Some(error) = self.error {
            return Err(error);
        }
        match self.problems().into_iter().next() {
            None => Ok(self.catalog),
            Some((path, message)) => Err(Error::new(ErrorKind::Configuration, format!("{path}: {message}"))),
        }
    }

    fn with(mut self, path: impl Display, add: impl FnOnce(&mut Self) -> Result<(), Problem>) -> Self {
        if self.error.is_none() {
            self.error = add(&mut self).err().map(|Problem { key, message }| {
                Error::new(ErrorKind::Configuration, format!("{path}: {key}: {message}"))
            });
        }
        self
    }

    pub(super) fn set_currency(&mut self, code: &str, digits: i64) -> Result<(), Problem> {
        check_currency(code).map_err(|message| Problem { key: "code", message })?;
        check_digits(digits).map_err(|message| Problem { key: "digits", message })?;
        self.catalog.currency = code.to_owned();
        self.catalog.currency_digits = digits as u32;
        Ok(())
    }

    pub(super) fn add_plan(&mut self, name: &str, from: Timestamp, plan: Plan) -> Result<(), Problem> {
        let Plan { terms, .. } = plan;
        check_effective_from(from)?;
        check_plan_name(name).map_err(|message| Problem { key: "name", message })?;
        check_terms(Some(terms.per_minute), Some(terms.per_hour), Some(terms.per_month), Some(terms.price))?;
        let entries = self.catalog.plans.entry(name.into()).or_insert(Timeline::new());
        inserted(entries.insert(from, plan), from)
    }

    pub(super) fn add_tenant(&mut self, id: &str, from: Timestamp, own: Overrides) -> Result<(), Problem> {
        check_effective_from(from)?;
        check_tenant_id(id).map_err(|message| Problem { key: "name", message })?;
        check_terms(own.per_minute, own.per_hour, own.per_month, own.price)?;
        let entries = self.catalog.tenants.entry(id.into()).or_insert(Timeline::new());
        inserted(entries.insert(from, own), from)
    }

    /// What can only be seen once all is there: path and message.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if self.catalog.plans.is_empty() {
            problems.push(("plans".to_owned(), "expected at least one plan".to_owned()));
        }
        for id in self.catalog.tenant_ids() {
            // A later entry without values is how overrides end; a first one says nothing.
            if self.catalog.tenants[id].0[0].1.is_empty() {
                problems.push((format!("tenants.{id}"), "the tenant's first entry overrides nothing".to_owned()));
            }
        }
        problems
    }

    /// The catalog, once [`Self::problems`] has found none.
    #[cfg(feature = "catalog")]
    pub(super) fn finish(self) -> Catalog {
        self.catalog
    }
}

fn inserted(inserted: bool, from: Timestamp) -> Result<(), Problem> {
    let when = if from == Timestamp::MIN { "no effective_from".to_owned() } else { format!("effective_from {from}") };
    let message = format!("another entry has {when} too");
    if inserted { Ok(()) } else { Err(Problem { key: "effective_from", message }) }
}

/// The beginning, or a time that RFC 3339 can write.
fn check_effective_from(from: Timestamp) -> Result<(), Problem> {
    const YEARS_0_TO_9999: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;
    if from == Timestamp::MIN || YEARS_0_TO_9999.contains(&from.millis()) {
        return Ok(());
    }
    let message = format!("expected a time of the years 0 to 9999, found {} ms", from.millis());
    Err(Problem { key: "effective_from", message })
}

/// Limits are not compared with each other: an hour's quota below a minute's limit, or a month's below an hour's, is a
/// small allowance that may be used up at once, as trials have.
fn check_terms(
    per_minute: Option<i64>,
    per_hour: Option<i64>,
    per_month: Option<i64>,
    price: Option<Price>,
) -> Result<(), Problem> {
    for (key, limit) in [("per_minute", per_minute), ("per_hour", per_hour), ("per_month", per_month)] {
        if let Some(limit) = limit.filter(|limit| !limit_is_valid(*limit)) {
            return Err(Problem { key, message: format!("{}, found {limit}", limit_expected()) });
        }
    }
    if let Some(price) = price.filter(|price| !price_is_valid(*price)) {
        let message = format!("{}, found {price}", price_expected());
        return Err(Problem { key: "price_per_thousand_units", message });
    }
    Ok(())
}

pub(super) fn limit_is_valid(limit: i64) -> bool {
    (0..=MAX_LIMIT).contains(&limit)
}

pub(super) fn limit_expected() -> String {
    format!("expected a whole number from 0 to {MAX_LIMIT}")
}

pub(super) fn price_is_valid(price: Price) -> bool {
    (Price::ZERO..=MAX_PRICE).contains(&price)
}

pub(super) fn price_expected() -> String {
    format!("expected a number from 0 to {MAX_PRICE} with at most {} decimal places", Price::SCALE)
}

pub(super) fn check_currency(code: &str) -> Result<(), String> {
    if code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase()) {
        return Ok(());
    }
    Err(format!("expected an ISO 4217 code as \"USD\", found {code:?}"))
}

pub(super) fn check_digits(digits: i64) -> Result<(), String> {
    if (0..=MAX_CURRENCY_DIGITS).contains(&digits) {
        return Ok(());
    }
    Err(format!("expected a whole number from 0 to {MAX_CURRENCY_DIGITS}, found {digits}"))
}

pub(super) fn check_plan_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if (1..=128).contains(&length) && name.trim() == name && !name.contains(char::is_control) {
        return Ok(());
    }
    Err(format!("expected a plan's name of 1 to 128 characters without spaces around it, found {name:?}"))
}

/// The pattern that events must match: an entry for another tenant could never be met.
pub(super) fn check_tenant_id(id: &str) -> Result<(), String> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
    if id.len() <= 128 && id.bytes().all(valid) && id.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(format!("expected a tenant id: 1 to 128 of A-Z a-z 0-9 . _ : -, the first a letter or digit; found {id:?}"))
}
