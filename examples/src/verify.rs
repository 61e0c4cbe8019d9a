//! `pipeline verify`: recomputes from the rows what must hold of them.
//!
//! The rows are read in two passes at most. The first takes coordinates, keys and sums; only where Bronze has records that
//! are in no table of Silver, the second reads the payloads of those records and looks for the accepted rows that they repeat.
//! Each table counts up to the position that all tables concerned have reached, so a lake that a crash left is sound too.

mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use subscription_core::{Counter, Judged, Result, Table, Timestamp, WindowKind};
use subscription_delta::arrow::array::{Array, RecordBatch};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use crate::cells::{Columns, content_modes};
pub use verdict::{Check, Verdict};

/// Where a table stands in a partition, as its log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The table.
    pub table: Table,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The next offset.
    pub position: u64,
    /// The numbers kept beside it.
    pub counters: Vec<(Counter, i64)>,
}

type Key = u128;

/// Tables in the order in which [`Verifier::add`] wants them.
pub const ORDER: [Table; 9] = [
    Table::Silver,
    Table::Quarantine,
    Table::DeadLetter,
    Table::Bronze,
    Table::Alerts,
    Table::UsageMinute,
    Table::UsageHour,
    Table::EndpointHour,
    Table::UsageMonth,
];

/// The columns that [`Verifier::add`] needs of a table.
pub fn columns_of(table: Table) -> &'static [&'static str] {
    match table {
        Table::Silver => &["topic", "partition", "offset", "tenant_id", "event_id", "event_timestamp"],
        Table::Bronze | Table::DeadLetter | Table::Quarantine => &["topic", "partition", "offset"],
        Table::UsageMinute | Table::UsageHour => &["topic", "partition", "tenant_id", "window_start", "total_requests"],
        Table::UsageMonth => &["topic", "partition", "tenant_id", "window_start", "total_requests", "cost"],
        Table::EndpointHour => &[
            "topic",
            "partition",
            "tenant_id",
            "window_start",
            "total_requests",
            "endpoint",
            "http_method",
            "subscription_plan",
            "cost",
        ],
        Table::Alerts => &[
            "topic",
            "partition",
            "tenant_id",
            "window_kind",
            "window_start",
            "total_requests",
            "alert_type",
            "alert_id",
        ],
    }
}

/// The columns of Bronze that [`Verifier::add_payloads`] needs.
pub const PAYLOAD_COLUMNS: &[&str] = &["topic", "partition", "offset", "headers", "payload"];

/// The columns of Silver that [`Verifier::add_keys`] needs.
pub const KEY_COLUMNS: &[&str] = &["topic", "partition", "offset", "tenant_id", "event_id"];

/// Takes rows and finds what does not hold.
#[derive(Debug)]
pub struct Verifier {
    partitions: Vec<Partition>,
    index: BTreeMap<(Arc<str>, u32), usize>,
    /// Requests by window that Silver has and Gold was not seen to have, up to Gold's position.
    windows: FxHashMap<(Table, Key), i64>,
    /// Rows of Gold seen.
    rows: FxHashSet<(Table, Key)>,
    /// Alerts whose window was not seen: by window, what they say of its requests.
    alerts: FxHashMap<(Table, Key), Vec<(i64, String)>>,
    /// Cost by tenant and month, of endpoints less of months.
    costs: FxHashMap<Key, i128>,
    /// (tenant, id, event time) of each Silver row, and its place.
    keys: Vec<(Key, u32, u64)>,
    /// Duplicates by (tenant, id), with their places; found when an accepted row before them is.
    duplicates: FxHashMap<Key, Vec<(u32, u64)>>,
    own_place: Check,
    accepted_once: Check,
    duplicate: Check,
    gold: Check,
    alert: Check,
    cost: Check,
}

#[derive(Debug, Default)]
struct Partition {
    topic: Arc<str>,
    partition: u32,
    positions: [u64; Table::ALL.len()],
    counters: Vec<(Table, Counter, i64)>,
    /// Offsets by table of records.
    offsets: BTreeMap<Table, Vec<u64>>,
    /// Offsets of Bronze that are in neither table of Silver.
    orphans: Vec<u64>,
}

impl Partition {
    fn position(&self, table: Table) -> u64 {
        self.positions[table as usize]
    }

    /// Records of a table before an offset.
    fn before(&self, table: Table, offset: u64) -> i64 {
        self.offsets.get(&table).map_or(0, |offsets| offsets.partition_point(|&o| o < offset)) as i64
    }

    fn name(&self, offset: u64) -> String {
        format!("{}/{} offset {offset}", self.topic, self.partition)
    }
}

impl Verifier {
    /// A verifier of tables that stand there.
    pub fn new(standings: impl IntoIterator<Item = Standing>) -> Self {
        let mut verifier = Self {
            partitions: Vec::new(),
            index: BTreeMap::new(),
            windows: FxHashMap::default(),
            rows: FxHashSet::default(),
            alerts: FxHashMap::default(),
            costs: FxHashMap::default(),
            keys: Vec::new(),
            duplicates: FxHashMap::default(),
            own_place: Check::new("each record is in its place once"),
            accepted_once: Check::new("no event is accepted twice"),
            duplicate: Check::new("each duplicate repeats an accepted event before it"),
            gold: Check::new("Gold counts each accepted event once"),
            alert: Check::new("each alert agrees with its window"),
            cost: Check::new("months cost what their endpoints do"),
        };
        for standing in standings {
            let partition = verifier.partition(&standing.topic, standing.partition);
            let partition = &mut verifier.partitions[partition];
            partition.positions[standing.table as usize] = standing.position;
            partition.counters.extend(standing.counters.into_iter().map(|(counter, n)| (standing.table, counter, n)));
        }
        verifier
    }

    fn partition(&mut self, topic: &str, partition: u32) -> usize {
        let key = (topic.into(), partition);
        *self.index.entry(key).or_insert_with_key(|(topic, partition)| {
            self.partitions.push(Partition { topic: topic.clone(), partition: *partition, ..Partition::default() });
            self.partitions.len() - 1
        })
    }

    /// The partition of each row.
    fn partitions_of(&mut self, batch: &RecordBatch) -> Result<Vec<usize>> {
        let (topics, partitions) = (batch.texts("topic")?, batch.integers("partition")?);
        let mut last: Option<(&str, i32, usize)> = None;
        Ok((0..batch.num_rows())
            .map(|row| {
                let (topic, partition) = (topics.value(row), partitions.value(row));
                match last {
                    Some((t, p, found)) if t == topic && p == partition => found,
                    _ => {
                        let found = self.partition(topic, partition as u32);
                        last = Some((topic, partition, found));
                        found
                    }
                }
            })
            .collect())
    }

    /// Takes rows of a table, the tables in [`ORDER`].
    ///
    /// # Errors
    /// Where a column is missing or of another type.
    pub fn add(&mut self, table: Table, batch: &RecordBatch) -> Result<()> {
        match table {
            Table::Silver => self.add_silver(batch),
            Table::Bronze | Table::DeadLetter | Table::Quarantine => self.add_records(table, batch),
            Table::Alerts => self.add_alerts(batch),
            Table::UsageMinute | Table::UsageHour | Table::UsageMonth | Table::EndpointHour => {
                self.add_gold(table, batch)
            }
        }
    }

    fn add_records(&mut self, table: Table, batch: &RecordBatch) -> Result<()> {
        let (places, offsets) = (self.partitions_of(batch)?, batch.longs("offset")?);
        for (&place, offset) in places.iter().zip(offsets.values()) {
            self.partitions[place].offsets.entry(table).or_default().push(*offset as u64);
        }
        Ok(())
    }

    fn add_silver(&mut self, batch: &RecordBatch) -> Result<()> {
        self.add_records(Table::Silver, batch)?;
        let (places, offsets) = (self.partitions_of(batch)?, batch.longs("offset")?);
        let (tenants, ids, times) =
            (batch.texts("tenant_id")?, batch.texts("event_id")?, batch.times("event_timestamp")?);
        for (row, &place) in places.iter().enumerate() {
            let (offset, tenant) = (offsets.value(row) as u64, tenants.value(row));
            let time = times.value(row);
            let id = Uuid::try_parse(ids.value(row)).unwrap_or_default();
            self.keys.push((hash(&[tenant.as_bytes(), id.as_bytes(), &time.to_le_bytes()]), place as u32, offset));
            let time = Timestamp::from_millis(time.div_euclid(1_000));
            for table in [Table::UsageMinute, Table::UsageHour, Table::EndpointHour, Table::UsageMonth] {
                if offset < self.partitions[place].position(table) {
                    let start = window(table).start(time).micros();
                    *self.windows.entry((table, window_key(tenant, start))).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    fn add_alerts(&mut self, batch: &RecordBatch) -> Result<()> {
        let places = self.partitions_of(batch)?;
        let (tenants, kinds, starts) =
            (batch.texts("tenant_id")?, batch.texts("window_kind")?, batch.times("window_start")?);
        let (totals, types, ids) =
            (batch.longs("total_requests")?, batch.texts("alert_type")?, batch.texts("alert_id")?);
        for (row, &place) in places.iter().enumerate() {
            let (tenant, kind, start) = (tenants.value(row), kinds.value(row), starts.value(row));
            let name = || format!("{} of {tenant} in {kind} {}", types.value(row), show(start));
            let key = hash(&[ids.value(row).as_bytes()]);
            self.alert.expect(self.rows.insert((Table::Alerts, key)), || format!("{} is there twice", name()));
            let table = match kind {
                "1min" => Table::UsageMinute,
                "1hour" => Table::UsageHour,
                _ => Table::UsageMonth,
            };
            let partition = &self.partitions[place];
            if partition.position(table) == partition.position(Table::Alerts) {
                let said = (totals.value(row), name());
                self.alerts.entry((table, window_key(tenant, start))).or_default().push(said);
            }
        }
        Ok(())
    }

    fn add_gold(&mut self, table: Table, batch: &RecordBatch) -> Result<()> {
        let places = self.partitions_of(batch)?;
        let (tenants, starts) = (batch.texts("tenant_id")?, batch.times("window_start")?);
        let totals = batch.longs("total_requests")?;
        let endpoint = match table {
            Table::EndpointHour => {
                Some((batch.texts("endpoint")?, batch.texts("http_method")?, batch.texts("subscription_plan")?))
            }
            _ => None,
        };
        let costs = match table {
            Table::EndpointHour | Table::UsageMonth => Some(batch.decimals("cost")?),
            _ => None,
        };
        for (row, &place) in places.iter().enumerate() {
            let (tenant, start, total) = (tenants.value(row), starts.value(row), totals.value(row));
            let key = window_key(tenant, start);
            let name = || format!("{}: {tenant} {}", table.name(), show(start));
            let row_key = match endpoint {
                Some((endpoints, methods, plans)) => hash(&[
                    &key.to_le_bytes(),
                    endpoints.value(row).as_bytes(),
                    methods.value(row).as_bytes(),
                    plans.value(row).as_bytes(),
                ]),
                None => key,
            };
            self.gold.expect(self.rows.insert((table, row_key)), || format!("{} is there twice", name()));
            if endpoint.is_some() {
                *self.windows.entry((table, key)).or_default() -= total;
            } else {
                let silver = self.windows.remove(&(table, key)).unwrap_or(0);
                self.gold.expect(silver == total, || format!("{} has {total} requests, Silver has {silver}", name()));
            }
            for (said, alert) in self.alerts.remove(&(table, key)).unwrap_or_default() {
                self.alert.expect(said == total, || format!("{alert} says {said} requests, its window has {total}"));
            }
            let partition = &self.partitions[place];
            if let Some(costs) = costs
                && partition.position(Table::EndpointHour) == partition.position(Table::UsageMonth)
            {
                let month = WindowKind::Month.start(Timestamp::from_millis(start.div_euclid(1_000))).micros();
                let cost = if costs.is_null(row) { 0 } else { costs.value(row) };
                let sign = if table == Table::EndpointHour { 1 } else { -1 };
                *self.costs.entry(window_key(tenant, month)).or_default() += sign * cost;
                self.cost.checked += 1;
            }
        }
        Ok(())
    }

    /// Ends the first pass; whether a second is needed.
    pub fn needs_payloads(&mut self) -> bool {
        for partition in &mut self.partitions {
            partition.offsets.values_mut().for_each(|offsets| offsets.sort_unstable());
            let of = |table| partition.offsets.get(&table).map_or(&[][..], Vec::as_slice);
            let decided = partition.position(Table::Silver).min(partition.position(Table::Quarantine));
            let mut orphans = Vec::new();
            let (mut silver, mut quarantine) =
                (of(Table::Silver).iter().peekable(), of(Table::Quarantine).iter().peekable());
            for offset in of(Table::Bronze).iter().take_while(|offset| **offset < decided) {
                while silver.next_if(|o| *o < offset).is_some() {}
                while quarantine.next_if(|o| *o < offset).is_some() {}
                if silver.peek() != Some(&offset) && quarantine.peek() != Some(&offset) {
                    orphans.push(*offset);
                }
            }
            partition.orphans = orphans;
        }
        self.partitions.iter().any(|partition| !partition.orphans.is_empty())
    }

    /// Second pass: takes rows of Bronze with their payloads.
    ///
    /// # Errors
    /// Where a column is missing or of another type.
    pub fn add_payloads(&mut self, batch: &RecordBatch) -> Result<()> {
        let (places, offsets, payloads) = (self.partitions_of(batch)?, batch.longs("offset")?, batch.texts("payload")?);
        let modes = content_modes(batch)?;
        for (row, &place) in places.iter().enumerate() {
            let (partition, offset) = (&self.partitions[place], offsets.value(row) as u64);
            if partition.orphans.binary_search(&offset).is_err() {
                continue;
            }
            match modes[row].judge(payloads.value(row).as_bytes()) {
                Judged::Valid(event) => {
                    let key = hash(&[event.tenant_id.as_bytes(), event.event_id.as_bytes()]);
                    self.duplicates.entry(key).or_default().push((place as u32, offset));
                }
                _ => {
                    let name = partition.name(offset);
                    self.duplicate.fail(1, || format!("{name} is no valid event, and in neither table of Silver"));
                }
            }
            self.duplicate.checked += 1;
        }
        Ok(())
    }

    /// Second pass: takes rows of Silver, after all of Bronze.
    ///
    /// # Errors
    /// Where a column is missing or of another type.
    pub fn add_keys(&mut self, batch: &RecordBatch) -> Result<()> {
        let (places, offsets) = (self.partitions_of(batch)?, batch.longs("offset")?);
        let (tenants, ids) = (batch.texts("tenant_id")?, batch.texts("event_id")?);
        for (row, &place) in places.iter().enumerate() {
            let id = Uuid::try_parse(ids.value(row)).unwrap_or_default();
            if let Some(left) = self.duplicates.get_mut(&hash(&[tenants.value(row).as_bytes(), id.as_bytes()])) {
                let (place, offset) = (place as u32, offsets.value(row) as u64);
                left.retain(|&(p, duplicate)| p != place || duplicate < offset);
            }
        }
        Ok(())
    }

    /// What was found.
    pub fn finish(mut self) -> Verdict {
        let ledger = self.ledger();
        self.places();
        self.keys.sort_unstable();
        self.accepted_once.checked = self.keys.len() as u64;
        for pair in self.keys.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let [(_, a, first), (_, b, second)] = [pair[0], pair[1]];
            let (a, b) = (self.partitions[a as usize].name(first), self.partitions[b as usize].name(second));
            self.accepted_once.fail(1, || format!("{a} and {b} are the same event"));
        }
        let mut left: Vec<_> = self.duplicates.values().flatten().copied().collect();
        left.sort_unstable();
        for (place, offset) in left {
            let name = self.partitions[place as usize].name(offset);
            self.duplicate.fail(1, || format!("{name} is in neither table of Silver, and repeats nothing"));
        }
        let mut missing: BTreeMap<Table, (u64, i64)> = BTreeMap::new();
        for ((table, _), left) in self.windows.iter().filter(|(_, left)| **left != 0) {
            let entry = missing.entry(*table).or_default();
            *entry = (entry.0 + 1, entry.1 + left);
        }
        for (table, (windows, requests)) in missing {
            self.gold.fail(windows, || {
                let table = table.name();
                format!("{table}: {windows} windows of Silver are missing or differ, by {requests} requests in all")
            });
        }
        for (said, alert) in std::mem::take(&mut self.alerts).into_values().flatten() {
            self.alert.expect(false, || format!("{alert} says {said} requests, and its window has no row"));
        }
        let differing = self.costs.values().filter(|left| **left != 0).count() as u64;
        self.cost.fail(differing, || format!("the months of {differing} tenants cost other than their endpoints"));
        let checks = vec![ledger, self.own_place, self.accepted_once, self.duplicate, self.gold, self.alert, self.cost];
        Verdict { sound: checks.iter().all(|check| check.broken == 0), checks }
    }

    /// The counters that each commit kept, against the rows before its position.
    fn ledger(&self) -> Check {
        let mut check = Check::new("the ledger's counters agree with the rows");
        for partition in &self.partitions {
            for &(table, counter, kept) in &partition.counters {
                let position = partition.position(table);
                let rows = |table| partition.before(table, position);
                use Table::{Bronze, DeadLetter, Quarantine, Silver};
                let (needs, counted): (&[Table], i64) = match counter {
                    Counter::Watermark | Counter::IngestionTime | Counter::Skipped => continue,
                    Counter::Read => (&[Bronze, DeadLetter], rows(Bronze) + rows(DeadLetter)),
                    Counter::DeadLettered => (&[DeadLetter], rows(DeadLetter)),
                    Counter::Accepted => (&[Silver], rows(Silver)),
                    Counter::Quarantined => (&[Quarantine], rows(Quarantine)),
                    Counter::Duplicates => {
                        (&[Bronze, Silver, Quarantine], rows(Bronze) - rows(Silver) - rows(Quarantine))
                    }
                };
                if needs.iter().all(|table| partition.position(*table) >= position) {
                    check.expect(counted == kept, || {
                        let (topic, table) = (&partition.topic, table.name());
                        format!(
                            "{topic}/{} {table}: {} is {kept}, the rows say {counted}",
                            partition.partition,
                            counter.name()
                        )
                    });
                }
            }
        }
        check
    }

    /// Each record once in a table, before its position, in one of Bronze and `dead_letter`, and in Silver only from Bronze.
    fn places(&mut self) {
        let check = &mut self.own_place;
        for partition in &self.partitions {
            for (&table, offsets) in &partition.offsets {
                let position = partition.position(table);
                check.checked += offsets.len() as u64;
                for pair in offsets.windows(2).filter(|pair| pair[0] == pair[1]) {
                    check.fail(1, || format!("{} is in {} twice", partition.name(pair[0]), table.name()));
                }
                for &beyond in offsets.iter().filter(|offset| **offset >= position) {
                    check.fail(1, || {
                        format!("{} is in {} beyond its position {position}", partition.name(beyond), table.name())
                    });
                }
            }
            let has = |table: Table, offset: u64| {
                partition.offsets.get(&table).is_some_and(|offsets| offsets.binary_search(&offset).is_ok())
            };
            let of = |table| partition.offsets.get(&table).into_iter().flatten().copied();
            for offset in of(Table::DeadLetter).filter(|offset| has(Table::Bronze, *offset)) {
                check.fail(1, || format!("{} is in Bronze and dead_letter", partition.name(offset)));
            }
            for offset in of(Table::Quarantine).filter(|offset| has(Table::Silver, *offset)) {
                check.fail(1, || format!("{} is in Silver and quarantine", partition.name(offset)));
            }
            for table in [Table::Silver, Table::Quarantine] {
                for offset in of(table).filter(|offset| !has(Table::Bronze, *offset)) {
                    check.fail(1, || format!("{} is in {} and not in Bronze", partition.name(offset), table.name()));
                }
            }
        }
    }
}

fn window(table: Table) -> WindowKind {
    match table {
        Table::UsageMinute => WindowKind::Minute,
        Table::UsageMonth => WindowKind::Month,
        _ => WindowKind::Hour,
    }
}

fn window_key(tenant: &str, start_micros: i64) -> Key {
    hash(&[tenant.as_bytes(), &start_micros.to_le_bytes()])
}

/// Of parts with their lengths, so that `ab`, `c` is not `a`, `bc`.
fn hash(parts: &[&[u8]]) -> Key {
    let mut state = Xxh3::new();
    for part in parts {
        state.update(&(part.len() as u64).to_le_bytes());
        state.update(part);
    }
    state.digest128()
}

fn show(micros: i64) -> String {
    Timestamp::from_millis(micros.div_euclid(1_000)).to_rfc3339_seconds()
}

#[cfg(test)]
mod tests;
