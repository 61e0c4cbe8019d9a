//! Tenants as small integers.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Chosen anew in each process, so that nobody can send ids that collide.
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));

/// The hash of a tenant's name in this process.
pub(crate) fn tenant_hash(name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), *SEED)
}

/// The tenants seen, numbered from 0.
#[derive(Debug, Clone, Default)]
pub(super) struct Tenants {
    numbers: HashTable<u32>,
    hashes: Vec<u64>,
    /// Where each name ends in `names`.
    ends: Vec<usize>,
    names: String,
}

impl Tenants {
    fn name(&self, number: u32) -> &str {
        let number = number as usize;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.names[start..self.ends[number]]
    }

    /// The number of a tenant that was seen.
    pub(super) fn get(&self, hash: u64, name: &str) -> Option<u32> {
        self.numbers.find(hash, |n| self.hashes[*n as usize] == hash && self.name(*n) == name).copied()
    }

    /// The number of a tenant, a new one if it was not seen.
    pub(super) fn intern(&mut self, hash: u64, name: &str) -> u32 {
        if let Some(number) = self.get(hash, name) {
            return number;
        }
        // More than 2^32 names do not fit in memory.
        let number = self.hashes.len() as u32;
        self.hashes.push(hash);
        self.names.push_str(name);
        self.ends.push(self.names.len());
        self.numbers.insert_unique(hash, number, |n| self.hashes[*n as usize]);
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
        (0..old.len() as u32)
            .map(|n| if used[n as usize] { self.intern(old.hash(n), old.name(n)) } else { u32::MAX })
            .collect()
    }

    /// The memory held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.numbers.allocation_size()
            + self.hashes.capacity() * size_of::<u64>()
            + self.ends.capacity() * size_of::<usize>()
            + self.names.capacity()
    }
}
