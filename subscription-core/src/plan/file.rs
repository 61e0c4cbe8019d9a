//! The catalog as a TOML file, with errors that name file, line and key.

use std::ops::Range;
use std::path::Path;

use chrono::{DateTime, FixedOffset, NaiveDate, TimeDelta};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::{Datetime, Offset};

use crate::decimal::Price;
use crate::error::{Error, ErrorKind, Result};
use crate::time::Timestamp;

use super::builder::{self, Problem};
use super::{Catalog, CatalogBuilder, FailurePolicy, Overrides, Plan, WindowAlgorithm};

const ENTRY_KEYS: [&str; 7] =
    ["effective_from", "per_minute", "per_hour", "per_month", "price_per_thousand_units", "window", "failure_policy"];

impl Catalog {
    /// Reads a catalog from a TOML file; see [`Catalog::from_toml`].
    ///
    /// # Errors
    /// Also [`ErrorKind::NotFound`] or [`ErrorKind::PermissionDenied`] where the file cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Configuration,
            };
            Error::new(kind, format!("{name}: cannot read the plan catalog: {error}"))
                .with_help("name a TOML file of plans that this user may read")
                .with_source(error)
        })?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::from_toml(text, &name),
            Err(error) => {
                let line = line_of(&bytes, error.valid_up_to());
                Err(Error::new(ErrorKind::Configuration, format!("{name}:{line}: the plan catalog is not UTF-8 text")))
            }
        }
    }

    /// Reads a catalog from TOML; `name` is what errors call the file.
    ///
    /// ```
    /// use subscription_core::{Catalog, Timestamp};
    ///
    /// let catalog = Catalog::from_toml(
    ///     r#"
    ///     currency = "EUR"
    ///     currency_digits = 2
    ///
    ///     [plans.basic]                       # in force from the beginning
    ///     per_minute = 100
    ///     per_hour = 2_000
    ///     per_month = 50_000
    ///     price_per_thousand_units = "0.30"   # text or number, exact, at most 6 decimal places
    ///     window = "sliding"                  # or "fixed"; sliding if not given
    ///     failure_policy = "local"            # or "open", "closed"; local if not given
    ///
    ///     [[tenants.acme]]                    # what acme has instead, whatever its plan
    ///     per_minute = 500
    ///
    ///     [[tenants.acme]]                    # replaces the entry above from this time on
    ///     effective_from = 2026-07-01T00:00:00Z
    ///     price_per_thousand_units = 0.25
    ///     "#,
    ///     "plans.toml",
    /// )?;
    /// assert_eq!(catalog.terms("acme", "basic", Timestamp::EPOCH).unwrap().per_minute, 500);
    ///
    /// let wrong = "[plans]\nbasic = { per_minute = 9, per_hour = \"ten\", per_month = 9, price_per_thousand_units = 0 }";
    /// let error = Catalog::from_toml(wrong, "plans.toml").unwrap_err().to_string();
    /// assert!(error.starts_with("plans.toml:2: plans.basic.per_hour: expected a whole number from 0 to"));
    /// # Ok::<(), subscription_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] with file, line and key of the first thing wrong, and how many more there are: what
    /// [`CatalogBuilder::build`] refuses, a key that is unknown or missing, a value of another type.
    pub fn from_toml(text: &str, name: &str) -> Result<Self> {
        let mut reader = Reader { text, problems: Vec::new() };
        let mut builder = CatalogBuilder::default();
        match DeTable::parse(text) {
            Ok(document) => reader.document(document.get_ref(), &mut builder),
            Err(error) => reader.problem(error.span().unwrap_or_default(), error.message().to_owned()),
        }
        reader.problems.sort_by_key(|(at, _)| *at);
        let Some((at, message)) = reader.problems.first() else { return Ok(builder.finish()) };
        let line = line_of(text.as_bytes(), *at);
        let mut error = Error::new(ErrorKind::Configuration, format!("{name}:{line}: {message}"))
            .with_help("correct the plan catalog; its format is described at `Catalog::from_toml`");
        if reader.problems.len() > 1 {
            error = error.with("further errors", reader.problems.len() - 1);
        }
        Err(error)
    }
}

fn line_of(text: &[u8], at: usize) -> usize {
    1 + text[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

type Value<'t> = Spanned<DeValue<'t>>;

/// An entry of a plan or a tenant, and where it is.
struct Entry<'a, 't> {
    span: Range<usize>,
    values: &'a DeTable<'t>,
}

/// Reads on after an error, so that the first one in the order of the file can be reported.
struct Reader<'t> {
    text: &'t str,
    /// Where, and what.
    problems: Vec<(usize, String)>,
}

impl<'t> Reader<'t> {
    fn problem(&mut self, span: Range<usize>, message: String) {
        self.problems.push((span.start, message));
    }

    /// The value as the file has it, cut to one short line.
    fn found(&self, value: &Value<'t>) -> String {
        let source = self.text.get(value.span()).unwrap_or_default();
        match value.get_ref() {
            DeValue::Table(_) => "a table".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            _ if source.contains('\n') || source.chars().count() > 60 => "a long text".to_owned(),
            _ => source.to_owned(),
        }
    }

    fn expected(&mut self, path: &str, value: &Value<'t>, what: &str) {
        let message = format!("{path}: expected {what}, found {}", self.found(value));
        self.problem(value.span(), message);
    }

    fn document(&mut self, document: &DeTable<'t>, builder: &mut CatalogBuilder) {
        self.known_keys("", document, &["currency", "currency_digits", "plans", "tenants"]);
        self.currency(document, builder);
        match document.get("plans") {
            None => self.problem(0..0, "plans: expected at least one plan, as [plans.basic]".to_owned()),
            Some(plans) => self.entries("plans", plans, |reader, path, name, entry| {
                let (from, own) = reader.entry(path, entry);
                let plan = reader.complete(path, entry, &own);
                plan.zip(from).map_or(Ok(()), |(plan, from)| builder.add_plan(name, from, plan))
            }),
        }
        if let Some(tenants) = document.get("tenants") {
            self.entries("tenants", tenants, |reader, path, id, entry| {
                let (from, own) = reader.entry(path, entry);
                from.map_or(Ok(()), |from| builder.add_tenant(id, from, own))
            });
        }
        if self.problems.is_empty() {
            for (path, message) in builder.problems() {
                let at = path.split_once('.').and_then(|(kind, name)| self.place(document, kind, name));
                self.problem(at.unwrap_or_default(), format!("{path}: {message}"));
            }
        }
    }

    fn place(&self, document: &DeTable<'t>, kind: &str, name: &str) -> Option<Range<usize>> {
        let (key, _) = document.get(kind)?.get_ref().as_table()?.get_key_value(name)?;
        Some(key.span())
    }

    fn currency(&mut self, document: &DeTable<'t>, builder: &mut CatalogBuilder) {
        let (code, digits) = match (document.get("currency"), document.get("currency_digits")) {
            (None, None) => return,
            (Some(code), Some(digits)) => (code, digits),
            (Some(one), None) => return self.problem(one.span(), "currency: currency_digits is missing".to_owned()),
            (None, Some(one)) => return self.problem(one.span(), "currency_digits: currency is missing".to_owned()),
        };
        let expected = format!("a whole number from 0 to {}", builder::MAX_CURRENCY_DIGITS);
        let count = integer(digits).filter(|digits| builder::check_digits(*digits).is_ok());
        let text = code.get_ref().as_str().filter(|code| builder::check_currency(code).is_ok());
        match (text, count) {
            (Some(text), Some(count)) => builder.set_currency(text, count).expect("checked"),
            (None, _) => self.expected("currency", code, "an ISO 4217 code as \"USD\""),
            (_, None) => self.expected("currency_digits", digits, &expected),
        }
    }

    /// Calls `add` with each entry of each name: a table, or an array of tables with a time each.
    fn entries(
        &mut self,
        kind: &str,
        value: &Value<'t>,
        mut add: impl FnMut(&mut Self, &str, &str, &Entry<'_, 't>) -> Result<(), Problem>,
    ) {
        let Some(names) = value.get_ref().as_table() else { return self.expected(kind, value, "a table") };
        for (name, value) in names {
            let path = format!("{kind}.{}", name.get_ref());
            let items: Vec<&Value<'t>> = match value.get_ref() {
                DeValue::Array(items) => items.iter().collect(),
                _ => vec![value],
            };
            if items.is_empty() {
                self.problem(value.span(), format!("{path}: expected at least one entry"));
            }
            for item in items {
                let DeValue::Table(values) = item.get_ref() else {
                    self.expected(&path, item, "a table");
                    continue;
                };
                let entry = Entry { span: item.span(), values };
                if let Err(Problem { key, message }) = add(self, &path, name.get_ref(), &entry) {
                    let at = if key == "name" {
                        name.span()
                    } else {
                        values.get_key_value(key).map_or(entry.span, |(key, _)| key.span())
                    };
                    self.problem(at, format!("{path}: {key}: {message}"));
                }
            }
        }
    }

    /// An entry's time, unless it is wrong, and its values.
    fn entry(&mut self, path: &str, entry: &Entry<'_, 't>) -> (Option<Timestamp>, Overrides) {
        let entry = entry.values;
        self.known_keys(path, entry, &ENTRY_KEYS);
        let from = match entry.get("effective_from") {
            None => Some(Timestamp::MIN),
            Some(value) => self.effective_from(path, value),
        };
        let own = Overrides {
            per_minute: self.limit(path, entry, "per_minute"),
            per_hour: self.limit(path, entry, "per_hour"),
            per_month: self.limit(path, entry, "per_month"),
            price: self.price(path, entry),
            window: self.name(path, entry, "window", "\"sliding\" or \"fixed\"", WindowAlgorithm::from_name),
            failure_policy: self.name(
                path,
                entry,
                "failure_policy",
                "\"open\", \"closed\" or \"local\"",
                FailurePolicy::from_name,
            ),
        };
        (from, own)
    }

    /// The plan of an entry, which must have limits and price; what is there but wrong has been reported.
    fn complete(&mut self, path: &str, entry: &Entry<'_, 't>, own: &Overrides) -> Option<Plan> {
        let required = ["per_minute", "per_hour", "per_month", "price_per_thousand_units"];
        for key in required.into_iter().filter(|key| !entry.values.contains_key(*key)) {
            self.problem(entry.span.clone(), format!("{path}.{key}: missing"));
        }
        let plan = Plan::new(own.per_minute?, own.per_hour?, own.per_month?, own.price?);
        Some(Overrides { window: own.window, failure_policy: own.failure_policy, ..Overrides::default() }.apply(&plan))
    }

    fn limit(&mut self, path: &str, entry: &DeTable<'t>, key: &str) -> Option<i64> {
        let value = entry.get(key)?;
        let limit = integer(value).filter(|limit| builder::limit_is_valid(*limit));
        if limit.is_none() {
            let message = format!("{path}.{key}: {}, found {}", builder::limit_expected(), self.found(value));
            self.problem(value.span(), message);
        }
        limit
    }

    /// From the digits of the file: no float is made of them.
    fn price(&mut self, path: &str, entry: &DeTable<'t>) -> Option<Price> {
        let value = entry.get("price_per_thousand_units")?;
        let price = match value.get_ref() {
            DeValue::String(text) => Price::parse_exact(text),
            DeValue::Float(number) => Price::parse_exact(unsigned(number.as_str())),
            DeValue::Integer(number) if number.radix() == 10 => Price::parse_exact(unsigned(number.as_str())),
            _ => None,
        };
        let price = price.filter(|price| builder::price_is_valid(*price));
        if price.is_none() {
            let message =
                format!("{path}.price_per_thousand_units: {}, found {}", builder::price_expected(), self.found(value));
            self.problem(value.span(), message);
        }
        price
    }

    fn name<T>(
        &mut self,
        path: &str,
        entry: &DeTable<'t>,
        key: &str,
        what: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = entry.get(key)?;
        let known = value.get_ref().as_str().and_then(read);
        if known.is_none() {
            self.expected(&format!("{path}.{key}"), value, what);
        }
        known
    }

    fn effective_from(&mut self, path: &str, value: &Value<'t>) -> Option<Timestamp> {
        let time = match value.get_ref() {
            DeValue::Datetime(time) => timestamp(time),
            DeValue::String(text) => DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc().into()),
            _ => None,
        };
        if time.is_none() {
            let what = "a date and time with its zone as 2026-07-01T00:00:00Z";
            self.expected(&format!("{path}.effective_from"), value, what);
        }
        time
    }

    fn known_keys(&mut self, path: &str, table: &DeTable<'t>, known: &[&str]) {
        for (key, value) in table {
            if known.contains(&&**key.get_ref()) {
                continue;
            }
            let dot = if path.is_empty() { "" } else { "." };
            let name = key.get_ref();
            // `[tenants.acme.com]` is a table in a table.
            let help = match path.split_once('.') {
                Some((kind, outer)) if value.get_ref().is_table() => {
                    format!("; a name with a dot is written [{kind}.\"{outer}.{name}\"]")
                }
                _ => format!("; known are {}", known.join(", ")),
            };
            self.problem(key.span(), format!("{path}{dot}{name}: unknown key{help}"));
        }
    }
}

fn integer(value: &Value<'_>) -> Option<i64> {
    let number = value.get_ref().as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Numbers of TOML may have a plus sign.
fn unsigned(text: &str) -> &str {
    text.strip_prefix('+').unwrap_or(text)
}

/// A time with date and zone; `None` for one that lacks them: midnight is another moment in every zone.
fn timestamp(time: &Datetime) -> Option<Timestamp> {
    let (date, clock) = (time.date?, time.time?);
    let offset = match time.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i32::from(minutes),
    };
    let (second, nano) = (u32::from(clock.second.unwrap_or(0)), clock.nanosecond.unwrap_or(0));
    // A leap second is the second after.
    let local = NaiveDate::from_ymd_opt(date.year.into(), date.month.into(), date.day.into())?
        .and_hms_nano_opt(clock.hour.into(), clock.minute.into(), second.min(59), nano)?
        .checked_add_signed(TimeDelta::seconds(i64::from(second.saturating_sub(59))))?;
    let zone = FixedOffset::east_opt(offset * 60)?;
    Some(local.and_local_timezone(zone).single()?.to_utc().into())
}
