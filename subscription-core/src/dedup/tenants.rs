//! Tenants as small integers.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Chosen anew in each process, so that nobody can send ids that collide.
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));

/// The hash of a tenant's name in this process.
pub(super) fn tenant_hash(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), *SEED)
}

/// The tenants seen, numbered from 0.
#[derive(Debug, Clone, Default)]
pub(super) struct Tenants {
    table: HashTable<Tenant>,
    /// The hash of each, by number.
    hashes: Vec<u64>,
    names: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Tenant {
    hash: u64,
    /// The place of its name in `names`.
    start: usize,
    len: u32,
    number: u32,
}

impl Tenants {
    fn name(&self, tenant: &Tenant) -> &[u8] {
        &self.names[tenant.start..tenant.start + tenant.len as usize]
    }

    /// The number of a tenant that was seen.
    pub(super) fn get(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.table.find(hash, |tenant| tenant.hash == hash && self.name(tenant) == name).map(|tenant| tenant.number)
    }

    /// The number of a tenant, a new one if it was not seen.
    pub(super) fn intern(&mut self, hash: u64, name: &[u8]) -> u32 {
        if let Some(number) = self.get(hash, name) {
            return number;
        }
        // More than 2^32 names do not fit in memory.
        let number = self.hashes.len() as u32;
        let tenant = Tenant { hash, start: self.names.len(), len: name.len() as u32, number };
        self.hashes.push(hash);
        self.names.extend_from_slice(name);
        self.table.insert_unique(hash, tenant, |tenant| tenant.hash);
        number
    }

    /// The hash of the tenant of that number.
    pub(super) fn hash(&self, number: u32) -> u64 {
        self.hashes[number as usize]
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Forgets the tenants that are not `used`, and answers the new numbers of the others.
    pub(super) fn retain(&mut self, used: &[bool]) -> Vec<u32> {
        let old = std::mem::take(self);
        let mut numbers = vec![u32::MAX; old.len()];
        for tenant in old.table.iter().filter(|tenant| used[tenant.number as usize]) {
            numbers[tenant.number as usize] = self.intern(tenant.hash, old.name(tenant));
        }
        numbers
    }

    /// The memory held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size() + self.hashes.capacity() * size_of::<u64>() + self.names.capacity()
    }
}
