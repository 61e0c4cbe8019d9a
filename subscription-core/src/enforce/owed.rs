//! What was admitted without the store, until the store has been told.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use hashbrown::{Equivalent, HashMap};

use crate::counter::Addition;
use crate::time::{HOUR, MINUTE, Timestamp, WindowKind};

/// Costs by tenant, scope and time. Older than two minutes they are kept by the hour, and older than two hours by the
/// month, since nobody asks for more: so an outage of any length costs some six numbers a tenant.
#[derive(Default)]
pub(super) struct Owed {
    costs: Mutex<HashMap<Key, Costs>>,
    /// Whether there are any: nearly always not, which requests find out without the lock.
    any: AtomicBool,
}

/// Tenant and scope.
type Key = (Box<str>, Box<str>);

/// By the start of a window.
type Costs = Vec<(Timestamp, i64)>;

/// A tenant itself, to look up without copying its name.
struct Name<'a>(&'a str);

impl Hash for Name<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0, "").hash(state);
    }
}

impl Equivalent<Key> for Name<'_> {
    fn equivalent(&self, (tenant, scope): &Key) -> bool {
        **tenant == *self.0 && scope.is_empty()
    }
}

/// One of them.
pub(super) struct Debt {
    pub(super) tenant: Box<str>,
    pub(super) scope: Box<str>,
    pub(super) at: Timestamp,
    pub(super) cost: i64,
}

impl Debt {
    pub(super) fn addition(&self) -> Addition<'_> {
        Addition { tenant: &self.tenant, scope: &self.scope, at: self.at, cost: self.cost }
    }
}

impl Owed {
    pub(super) fn push(&self, tenant: &str, scope: &str, at: Timestamp, cost: i64) {
        let mut all = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(true, Ordering::Release);
        let costs = all.entry((tenant.into(), scope.into())).or_default();
        let minute = WindowKind::Minute.start(at);
        match costs.iter_mut().find(|(time, _)| *time == minute) {
            Some((_, sum)) => *sum = sum.saturating_add(cost),
            None => {
                merge_old(costs, at);
                costs.push((minute, cost));
            }
        }
    }

    /// Whether there is anything of a tenant itself.
    pub(super) fn has(&self, tenant: &str) -> bool {
        self.any.load(Ordering::Acquire) && {
            let all = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
            all.contains_key(&Name(tenant))
        }
    }

    /// The tenants that are wanted.
    pub(super) fn tenants(&self, wanted: impl Fn(&str) -> bool) -> Vec<Box<str>> {
        let all = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().map(|(tenant, _)| tenant).filter(|tenant| wanted(tenant)).cloned().collect()
    }

    /// Takes out those of the tenants that are ready for it.
    pub(super) fn take(&self, ready: impl Fn(&str) -> bool) -> Vec<Debt> {
        let mut all = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        all.retain(|(tenant, scope), costs| {
            let ready = ready(tenant);
            if ready {
                let debts = costs.drain(..);
                taken.extend(debts.map(|(at, cost)| Debt { tenant: tenant.clone(), scope: scope.clone(), at, cost }));
            }
            !ready
        });
        self.any.store(!all.is_empty(), Ordering::Release);
        taken
    }
}

/// Puts what is old under its hour's or month's start.
fn merge_old(costs: &mut Costs, now: Timestamp) {
    for (time, _) in costs.iter_mut() {
        let age = now.millis().saturating_sub(time.millis());
        if age > 2 * HOUR {
            *time = WindowKind::Month.start(*time);
        } else if age > 2 * MINUTE {
            *time = WindowKind::Hour.start(*time);
        }
    }
    costs.sort_unstable_by_key(|(time, _)| *time);
    costs.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = earlier.1.saturating_add(later.1);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_outage_is_a_few_numbers_a_tenant() {
        let owed = Owed::default();
        let start = 1_767_225_600_000;
        // Three days, a request every ten seconds.
        for n in 0..3 * 8_640 {
            owed.push("acme", "", Timestamp::from_millis(start + n * 10_000), 2);
        }
        let now = Timestamp::from_millis(start + 3 * 24 * HOUR - 1);
        assert!(owed.take(|_| false).is_empty());
        let taken = owed.take(|tenant| tenant == "acme");
        assert!(taken.len() <= 7, "{}", taken.len());
        let within = |start: Timestamp| taken.iter().filter(|debt| debt.at >= start).map(|debt| debt.cost).sum::<i64>();
        assert_eq!(within(WindowKind::Month.start(now)), 2 * 3 * 8_640);
        assert_eq!(within(WindowKind::Hour.start(now)), 2 * 360);
        assert_eq!(within(WindowKind::Minute.start(now)), 2 * 6);
        assert!(owed.take(|_| true).is_empty());
    }
}
