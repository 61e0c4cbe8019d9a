//! Small integers for names that come again and again.

use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use crate::plan::{Terms, Valid};
use crate::time::Timestamp;

/// The tenants of a partition that have rows in memory. An id is given to another tenant once no row uses it.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    ids: HashTable<(u64, u32)>,
    slots: Vec<Tenant>,
    free: Vec<u32>,
    /// The place of each id in the order of the names; empty where it has to be found anew.
    ranks: Vec<u32>,
    name_bytes: usize,
}

#[derive(Debug)]
struct Tenant {
    name: Arc<str>,
    rows: u32,
    /// Terms by plan, as last looked up.
    terms: Vec<(u32, Valid<Terms>)>,
}

impl Tenants {
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        let hash = xxh3_64(name.as_bytes());
        let slots = &self.slots;
        self.ids.find(hash, |(h, id)| *h == hash && *slots[*id as usize].name == *name).map(|(_, id)| *id)
    }

    /// The id of a name, which is UTF-8: looked at as one only where it is new.
    pub(crate) fn intern(&mut self, name: &[u8]) -> u32 {
        let hash = xxh3_64(name);
        let slots = &self.slots;
        if let Some((_, id)) = self.ids.find(hash, |(h, id)| *h == hash && slots[*id as usize].name.as_bytes() == name)
        {
            return *id;
        }
        let tenant = Tenant { name: String::from_utf8_lossy(name).into(), rows: 0, terms: Vec::new() };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = tenant;
                id
            }
            None => {
                self.slots.push(tenant);
                self.slots.len() as u32 - 1
            }
        };
        self.ids.insert_unique(hash, (hash, id), |(hash, _)| *hash);
        self.name_bytes += name.len();
        self.ranks.clear();
        id
    }

    pub(crate) fn name(&self, id: u32) -> &Arc<str> {
        &self.slots[id as usize].name
    }

    /// A row more uses `id`.
    pub(crate) fn retain(&mut self, id: u32) {
        self.slots[id as usize].rows += 1;
    }

    /// A row less uses `id`.
    pub(crate) fn release(&mut self, id: u32) {
        let tenant = &mut self.slots[id as usize];
        tenant.rows -= 1;
        if tenant.rows == 0 {
            let hash = xxh3_64(tenant.name.as_bytes());
            if let Ok(entry) = self.ids.find_entry(hash, |(_, other)| *other == id) {
                entry.remove();
            }
            self.name_bytes -= tenant.name.len();
            *tenant = Tenant { name: Arc::default(), rows: 0, terms: Vec::new() };
            self.free.push(id);
        }
    }

    /// Sorts ids by the names behind them.
    pub(crate) fn sort(&mut self, ids: &mut [u32]) {
        if self.ranks.is_empty() {
            let mut order: Vec<u32> = (0..self.slots.len() as u32).collect();
            order.sort_unstable_by(|a, b| self.name(*a).cmp(self.name(*b)));
            self.ranks.resize(order.len(), 0);
            for (rank, id) in order.into_iter().enumerate() {
                self.ranks[id as usize] = rank as u32;
            }
        }
        ids.sort_unstable_by_key(|id| self.ranks[*id as usize]);
    }

    /// The terms of a tenant on a plan at a time, looked up where those at hand do not hold then.
    pub(crate) fn terms(
        &mut self,
        id: u32,
        plan: u32,
        time: Timestamp,
        look_up: impl FnOnce(&str) -> Option<Valid<Terms>>,
    ) -> Option<Terms> {
        let tenant = &mut self.slots[id as usize];
        let at = tenant.terms.iter().position(|(other, _)| *other == plan);
        if let Some((_, cached)) = at.map(|at| &tenant.terms[at])
            && cached.contains(time)
        {
            return Some(cached.value);
        }
        let found = look_up(&tenant.name)?;
        match at {
            Some(at) => tenant.terms[at].1 = found,
            None => tenant.terms.push((plan, found)),
        }
        Some(found.value)
    }

    /// Drops all terms at hand.
    pub(crate) fn forget_terms(&mut self) {
        self.slots.iter_mut().for_each(|tenant| tenant.terms.clear());
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Tenant>()
            + self.ids.capacity() * size_of::<(u64, u32)>()
            + self.slots.len() * (size_of::<(u32, Valid<Terms>)>() + 2 * size_of::<usize>())
            + self.name_bytes
    }
}

/// The names of plans: few, and never forgotten.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    names: Vec<Arc<str>>,
    /// The id that was asked for last.
    last: u32,
}

impl Plans {
    /// The id of a name, which is UTF-8.
    pub(crate) fn intern(&mut self, name: &[u8]) -> u32 {
        // A tenant's events come one after the other, and nearly all are on one plan.
        if self.names.get(self.last as usize).is_none_or(|last| last.as_bytes() != name) {
            let at = self.names.iter().position(|known| known.as_bytes() == name).unwrap_or_else(|| {
                self.names.push(String::from_utf8_lossy(name).into());
                self.names.len() - 1
            });
            self.last = at as u32;
        }
        self.last
    }

    pub(crate) fn name(&self, id: u32) -> &Arc<str> {
        &self.names[id as usize]
    }
}
