//! Whether one catalog can take the place of another without repricing the past.

use crate::time::Timestamp;

use super::{Catalog, Terms};

impl Catalog {
    /// The first difference in [`Terms`], for any tenant on any plan, that is in force at any time up to and including
    /// `time`; also a difference of the currency, which has no time. `None` if this catalog can take the place of
    /// `other` for a lake that holds events up to `time`: differences that begin later are no matter, and neither are
    /// those of [`Enforcement`](super::Enforcement), which change no row.
    ///
    /// ```
    /// use subscription_core::{Catalog, Plan, Price, Timestamp};
    /// let (old, new) = (Plan::new(60, 1_000, 10_000, Price::ZERO), Plan::new(90, 1_000, 10_000, Price::ZERO));
    /// let (june, july) = (Timestamp::from_millis(1_780_272_000_000), Timestamp::from_millis(1_782_864_000_000));
    /// let before = Catalog::builder().plan("free", old).build()?;
    /// let after = Catalog::builder().plan("free", old).plan_from("free", july, new).build()?;
    /// assert_eq!(after.differs_before(&before, june), None);
    /// assert_eq!(
    ///     after.differs_before(&before, july).unwrap(),
    ///     "plan free, from 2026-07-01T00:00:00.000Z: per_minute is 90, was 60",
    /// );
    /// # Ok::<(), subscription_core::Error>(())
    /// ```
    pub fn differs_before(&self, other: &Self, time: Timestamp) -> Option<String> {
        if self.currency() != other.currency() {
            let ((code, digits), (old_code, old_digits)) = (self.currency(), other.currency());
            return Some(format!("currency: is {code} with {digits} digits, was {old_code} with {old_digits}"));
        }
        let plans = union(self.plan_names(), other.plan_names());
        let tenants = union(self.tenant_ids(), other.tenant_ids());
        // No tenant has the empty id: it stands for all those without an entry.
        for tenant in std::iter::once("").chain(tenants) {
            for plan in &plans {
                if let Some((from, difference)) = self.differs_for(other, tenant, plan, time) {
                    let whom =
                        if tenant.is_empty() { format!("plan {plan}") } else { format!("tenant {tenant} on {plan}") };
                    let when = if from == Timestamp::MIN { "always".to_owned() } else { format!("from {from}") };
                    return Some(format!("{whom}, {when}: {difference}"));
                }
            }
        }
        None
    }

    fn differs_for(&self, other: &Self, tenant: &str, plan: &str, time: Timestamp) -> Option<(Timestamp, String)> {
        let mut starts: Vec<Timestamp> = [self, other]
            .into_iter()
            .flat_map(|catalog| {
                let plans = catalog.plans.get(plan).into_iter().flat_map(|entries| entries.0.iter().map(|e| e.0));
                let tenants = catalog.tenants.get(tenant).into_iter().flat_map(|own| own.0.iter().map(|e| e.0));
                plans.chain(tenants)
            })
            .filter(|from| *from <= time)
            .collect();
        // Terms change at these times only.
        starts.push(Timestamp::MIN);
        starts.sort_unstable();
        starts.dedup();
        starts.into_iter().find_map(|from| {
            let (new, old) = (self.terms(tenant, plan, from), other.terms(tenant, plan, from));
            difference(new, old).map(|difference| (from, difference))
        })
    }
}

fn difference(new: Option<Terms>, old: Option<Terms>) -> Option<String> {
    let (new, old) = match (new, old) {
        (None, None) => return None,
        (Some(_), None) => return Some("is new".to_owned()),
        (None, Some(_)) => return Some("is gone".to_owned()),
        (Some(new), Some(old)) => (new, old),
    };
    [
        ("per_minute", new.per_minute, old.per_minute),
        ("per_hour", new.per_hour, old.per_hour),
        ("per_month", new.per_month, old.per_month),
    ]
    .into_iter()
    .find(|(_, new, old)| new != old)
    .map(|(key, new, old)| format!("{key} is {new}, was {old}"))
    .or_else(|| {
        (new.price != old.price).then(|| format!("price_per_thousand_units is {}, was {}", new.price, old.price))
    })
}

fn union<'a>(mut names: Vec<&'a str>, others: Vec<&'a str>) -> Vec<&'a str> {
    names.extend(others);
    names.sort_unstable();
    names.dedup();
    names
}
