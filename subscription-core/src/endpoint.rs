//! What each endpoint of one tenant took in one hour, and what it cost.

use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxHashMap;

use crate::decimal::{Money, Units};
use crate::gold::EndpointRow;
use crate::intern::Plans;
use crate::ranges::{Group, Written};
use crate::rows::HttpMethod;
use crate::varint::{self, Reader};
use crate::window::{Sample, decimal38};

/// What events of endpoints beyond the allowed number count under. No endpoint has that name: those begin with `/`.
pub(crate) const OTHER: &str = "(other)";

/// Rows up to which looking at each hash is quicker than an index.
const SCANNED: usize = 16;

/// The rows of `endpoint_usage_hourly` of one tenant and hour.
#[derive(Debug, Default)]
pub(crate) struct EndpointGroup {
    /// The hash of each row's key, beside the rows so that looking for one touches little memory.
    hashes: Vec<u64>,
    rows: Vec<Endpoint>,
    /// Rows by the hash of their key, and one row of each endpoint by its hash; once there are more than [`SCANNED`].
    index: Option<Box<(HashTable<u32>, HashTable<u32>)>>,
    /// Different endpoints, without [`OTHER`].
    endpoints: usize,
    /// Of names that it shares with no other group.
    text_bytes: usize,
}

#[derive(Debug)]
struct Endpoint {
    name: Arc<str>,
    name_hash: u64,
    method: HttpMethod,
    plan: u32,
    total: i64,
    billable_requests: i64,
    server_errors: i64,
    units: Units,
    cost: Money,
    response_us_sum: i128,
}

/// An endpoint's name, which is UTF-8, and its hash, worked out once for an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    text: &'a [u8],
    hash: u64,
    known: Option<&'a Arc<str>>,
}

impl<'a> Name<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, hash: xxhash_rust::xxh3::xxh3_64(text), known: None }
    }

    fn is(&self, name: &Arc<str>) -> bool {
        self.known.is_some_and(|known| Arc::ptr_eq(known, name)) || name.as_bytes() == self.text
    }
}

/// Names met lately, by their hash. What many tenants call is one text in memory, and known by where it lies.
#[derive(Debug, Default)]
pub(crate) struct Names(FxHashMap<u64, Arc<str>>);

impl Names {
    /// Beyond so many it begins anew: who invents names shall not fill the memory.
    const MOST: usize = 4_096;

    pub(crate) fn know<'a>(&'a mut self, name: Name<'a>) -> Name<'a> {
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        let known = self.0.entry(name.hash).or_insert_with(|| String::from_utf8_lossy(name.text).into());
        Name { known: (known.as_bytes() == name.text).then_some(known), ..name }
    }
}

/// Mixes method and plan into the hash of an endpoint's name.
fn key_hash(name: u64, method: HttpMethod, plan: u32) -> u64 {
    let rest = (u64::from(plan) << 8) | method as u64;
    (name ^ rest.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

impl EndpointGroup {
    /// Adds an event, under [`OTHER`] where it would be an endpoint more than `max`.
    pub(crate) fn add(&mut self, name: Name<'_>, method: HttpMethod, sample: &Sample, max: usize) {
        let row = match self.find(name, method, sample.plan) {
            Some(row) => row,
            None if self.endpoints < max || self.has(name) => self.insert(name, method, sample.plan),
            None => {
                let other = Name::new(OTHER.as_bytes());
                match self.find(other, method, sample.plan) {
                    Some(row) => row,
                    None => self.insert(other, method, sample.plan),
                }
            }
        };
        let row = &mut self.rows[row];
        row.total += 1;
        row.server_errors += i64::from(sample.status >= 500);
        row.response_us_sum += i128::from(sample.response_us);
        if let Some(units) = sample.billed {
            row.billable_requests += 1;
            row.units = row.units.plus(units);
            row.cost = row.cost.plus(sample.cost);
        }
    }

    /// Takes a stored row. `false` where its key is there already.
    pub(crate) fn restore(&mut self, row: &EndpointRow, plans: &mut Plans) -> bool {
        let (name, plan) = (Name::new(row.endpoint.as_bytes()), plans.intern(row.subscription_plan.as_bytes()));
        if self.find(name, row.http_method, plan).is_some() {
            return false;
        }
        let at = self.insert(name, row.http_method, plan);
        let kept = &mut self.rows[at];
        kept.total = row.total_requests;
        kept.billable_requests = row.billable_requests;
        kept.server_errors = row.server_errors;
        kept.units = row.billable_units;
        kept.cost = row.cost;
        kept.response_us_sum = row.response_time_us_sum;
        true
    }

    fn find(&self, name: Name<'_>, method: HttpMethod, plan: u32) -> Option<usize> {
        let hash = key_hash(name.hash, method, plan);
        let same = |at: usize| {
            let row = &self.rows[at];
            self.hashes[at] == hash && row.method == method && row.plan == plan && name.is(&row.name)
        };
        match &self.index {
            None => (0..self.rows.len()).find(|at| same(*at)),
            Some(index) => index.0.find(hash, |at| same(*at as usize)).map(|at| *at as usize),
        }
    }

    /// Whether the endpoint has a row of its own, of whatever method and plan.
    fn has(&self, name: Name<'_>) -> bool {
        let same = |row: &Endpoint| row.name_hash == name.hash && name.is(&row.name);
        match &self.index {
            None => self.rows.iter().any(same),
            Some(index) => index.1.find(name.hash, |at| same(&self.rows[*at as usize])).is_some(),
        }
    }

    fn insert(&mut self, name: Name<'_>, method: HttpMethod, plan: u32) -> usize {
        let new = !self.has(name);
        self.endpoints += usize::from(new && name.text != OTHER.as_bytes());
        let shared = name.known.cloned().unwrap_or_else(|| {
            self.text_bytes += name.text.len() + 2 * size_of::<usize>();
            String::from_utf8_lossy(name.text).into()
        });
        let at = self.rows.len();
        if at == self.rows.capacity() {
            // By a quarter, not to twice the size: there are as many groups as tenants.
            let more = (at / 4).max(4);
            self.hashes.reserve_exact(more);
            self.rows.reserve_exact(more);
        }
        self.hashes.push(key_hash(name.hash, method, plan));
        self.rows.push(Endpoint {
            name: shared,
            name_hash: name.hash,
            method,
            plan,
            total: 0,
            billable_requests: 0,
            server_errors: 0,
            units: Units::ZERO,
            cost: Money::ZERO,
            response_us_sum: 0,
        });
        if self.index.is_some() {
            self.put_in_index(at, new);
        } else if self.rows.len() > SCANNED {
            self.index = Some(Box::default());
            for at in 0..self.rows.len() {
                let name_hash = self.rows[at].name_hash;
                let new =
                    !self.rows[..at].iter().any(|row| row.name_hash == name_hash && row.name == self.rows[at].name);
                self.put_in_index(at, new);
            }
        }
        at
    }

    fn put_in_index(&mut self, at: usize, new: bool) {
        let Self { hashes, rows, index: Some(index), .. } = self else { return };
        index.0.insert_unique(hashes[at], at as u32, |at| hashes[*at as usize]);
        if new {
            index.1.insert_unique(rows[at].name_hash, at as u32, |at| rows[*at as usize].name_hash);
        }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// A short form, for memory only: the number of rows, then of each its key and its numbers. Ids of plans mean something
    /// only in this process.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.rows.len() * 24 + self.text_bytes);
        varint::put(&mut out, self.rows.len() as u64);
        for row in &self.rows {
            varint::put(&mut out, row.name.len() as u64);
            out.extend_from_slice(row.name.as_bytes());
            out.push(row.method as u8);
            for count in [i64::from(row.plan), row.total, row.billable_requests, row.server_errors] {
                varint::put(&mut out, count as u64);
            }
            for sum in [row.units.raw(), row.cost.raw(), row.response_us_sum] {
                varint::put_i128(&mut out, sum);
            }
        }
        out
    }

    /// How many rows there are in a short form.
    pub(crate) fn encoded_rows(encoded: &[u8]) -> Option<usize> {
        usize::try_from(Reader(encoded).u64()?).ok()
    }

    /// What [`EndpointGroup::encode`] made shorter.
    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        let mut from = Reader(encoded);
        let mut group = Self::default();
        for _ in 0..from.u64()? {
            let len = usize::try_from(from.u64()?).ok()?;
            let name = Name::new(from.bytes(len)?);
            let method = *HttpMethod::ALL.get(usize::from(from.byte()?))?;
            let plan = u32::try_from(from.u64()?).ok()?;
            let at = group.insert(name, method, plan);
            let row = &mut group.rows[at];
            (row.total, row.billable_requests, row.server_errors) = (from.count()?, from.count()?, from.count()?);
            (row.units, row.cost) = (Units::from_raw(from.i128()?), Money::from_raw(from.i128()?));
            row.response_us_sum = from.i128()?;
        }
        Some(group)
    }

    /// Appends the rows of the hour that is written, sorted by endpoint, method and plan.
    pub(crate) fn to_rows(
        &self,
        tenant: &Arc<str>,
        written: &Written<'_, Self>,
        plans: &Plans,
        out: &mut Vec<EndpointRow>,
    ) {
        let from = out.len();
        out.extend(self.rows.iter().map(|row| EndpointRow {
            tenant_id: tenant.clone(),
            endpoint: row.name.clone(),
            http_method: row.method,
            subscription_plan: plans.name(row.plan).clone(),
            window_start: written.start,
            window_end: written.end,
            is_final: written.is_final,
            total_requests: row.total,
            billable_requests: row.billable_requests,
            billable_units: Units::from_raw(decimal38(row.units.raw())),
            server_errors: row.server_errors,
            response_time_us_sum: row.response_us_sum,
            cost: Money::from_raw(decimal38(row.cost.raw())),
        }));
        out[from..].sort_unstable_by(|a, b| {
            (&a.endpoint, a.http_method, &a.subscription_plan).cmp(&(&b.endpoint, b.http_method, &b.subscription_plan))
        });
    }
}

impl Group for EndpointGroup {
    fn rows(&self) -> usize {
        self.len()
    }

    fn heap_bytes(&self) -> usize {
        let indexed = self.index.as_ref().map_or(0, |index| index.0.capacity() + index.1.capacity());
        self.hashes.capacity() * size_of::<u64>()
            + self.rows.capacity() * size_of::<Endpoint>()
            + indexed * size_of::<u32>()
            + self.text_bytes
    }

    /// Reads where looking for a row begins.
    fn fetch(&self) -> u64 {
        self.hashes.first().copied().unwrap_or_default() ^ self.rows.first().map_or(0, |row| row.name_hash)
    }

    fn pack(&self, _: i64, _: &Plans) -> Option<Box<[u8]>> {
        Some(self.encode().into())
    }

    fn packed_rows(packed: &[u8]) -> usize {
        Self::encoded_rows(packed).unwrap_or_default()
    }

    fn unpack(packed: &[u8], _: i64, _: &mut Plans) -> Option<Self> {
        Self::decode(packed)
    }
}
