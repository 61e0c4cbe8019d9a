//! Looking into a lake: the page of its summary, and its verification.

use std::collections::BTreeMap;

use clap::Args;
use rustc_hash::{FxHashMap, FxHashSet};
use subscription_core::{Counter, Counts, Money, Result, Table, Units};
use subscription_delta::arrow::array::{Array, RecordBatch, StringArray};
use subscription_delta::{DeltaConfig, DeltaStore, Scan, TableInfo};
use xxhash_rust::xxh3::xxh3_64;

use crate::cells::{Columns, decimal_text};
use crate::summary::{
    AlertCount, Bill, CodeCount, Ledger, PlanBill, Position, Reached, Summary, TableSummary, TenantUsage,
};
use crate::verify::{self, Standing, Verdict, Verifier};

/// Tenants on the page.
const TOP_TENANTS: usize = 10;

/// The lake to look at, on the command line.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Folder (or URL) of the tables
    #[arg(long, value_name = "DIR", env = "PIPELINE_LAKE")]
    lake: String,

    /// Name of the pipeline that fills it
    #[arg(long, value_name = "NAME", env = "PIPELINE_NAME", default_value = DEFAULT_NAME)]
    name: String,
}

/// The name of a pipeline that is given none.
pub const DEFAULT_NAME: &str = "pipeline";

impl Place {
    /// Where it is, as given.
    pub fn path(&self) -> &str {
        &self.lake
    }

    /// The pipeline's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens the lake to look at it.
    ///
    /// # Errors
    /// Those of [`DeltaStore::open_existing`].
    pub async fn open(&self) -> Result<DeltaStore> {
        DeltaStore::open_existing(DeltaConfig::new(&self.lake)?.pipeline(&self.name)).await
    }

    /// Opens the lake, which must be there, to change it.
    ///
    /// # Errors
    /// Those of [`DeltaStore::open_existing`].
    pub async fn open_to_write(&self) -> Result<DeltaStore> {
        self.open().await?;
        DeltaStore::open(DeltaConfig::new(&self.lake)?.pipeline(&self.name)).await
    }
}

/// Calls `each` with all rows of a table.
async fn rows(
    store: &DeltaStore,
    table: Table,
    columns: &[&str],
    mut each: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    use futures::TryStreamExt;
    let columns = Some(columns.iter().map(|&column| column.to_owned()).collect());
    let mut batches = store.scan(table, Scan { columns, ..Scan::default() }).await?;
    while let Some(batch) = batches.try_next().await? {
        each(&batch).map_err(|error| error.with("table", table.name()))?;
    }
    Ok(())
}

/// Where each table stands.
///
/// # Errors
/// What the storage says.
pub async fn standings(store: &DeltaStore) -> Result<Vec<Standing>> {
    let standings = store.info().await?.into_iter().flat_map(|info| {
        let table = info.table;
        info.positions.into_iter().map(move |at| Standing {
            table,
            topic: at.topic,
            partition: at.partition,
            position: at.position,
            counters: at.counters,
        })
    });
    Ok(standings.collect())
}

/// Recomputes what must hold; see [`Verifier`].
///
/// # Errors
/// What reading says.
pub async fn verify(store: &DeltaStore) -> Result<Verdict> {
    let mut verifier = Verifier::new(standings(store).await?);
    for table in verify::ORDER {
        rows(store, table, verify::columns_of(table), |batch| verifier.add(table, batch)).await?;
    }
    if verifier.needs_payloads() {
        rows(store, Table::Bronze, verify::PAYLOAD_COLUMNS, |batch| verifier.add_payloads(batch)).await?;
        rows(store, Table::Silver, verify::KEY_COLUMNS, |batch| verifier.add_keys(batch)).await?;
    }
    Ok(verifier.finish())
}

/// What each table holds, for people.
pub fn tables(infos: &[TableInfo]) -> Vec<TableSummary> {
    infos
        .iter()
        .map(|info| TableSummary {
            table: info.table.name(),
            rows: info.rows,
            version: info.version,
            files: info.files,
            bytes: info.bytes,
            positions: info
                .positions
                .iter()
                .map(|at| Position { topic: at.topic.clone(), partition: at.partition, position: at.position })
                .collect(),
        })
        .collect()
}

/// A counter of a table's commits, summed over partitions.
fn sum(infos: &[TableInfo], table: Table, counter: Counter) -> u64 {
    let positions = infos.iter().filter(|info| info.table == table).flat_map(|info| &info.positions);
    positions
        .filter_map(|at| at.counters.iter().find(|(kept, _)| *kept == counter))
        .map(|(_, n)| u64::try_from(*n).unwrap_or(0))
        .sum()
}

/// How many records have reached each layer.
///
/// # Errors
/// What reading says.
pub async fn reached(store: &DeltaStore) -> Result<Reached> {
    let infos = store.info().await?;
    let decided = [Counter::Accepted, Counter::Duplicates, Counter::Quarantined];
    // The month is the last window to be committed, and has the fewest rows.
    let mut gold = 0;
    rows(store, Table::UsageMonth, &["total_requests"], |batch| {
        gold += batch.longs("total_requests")?.values().iter().sum::<i64>();
        Ok(())
    })
    .await?;
    Ok(Reached {
        bronze: sum(&infos, Table::Bronze, Counter::Read),
        silver: decided.into_iter().map(|counter| sum(&infos, Table::Silver, counter)).sum(),
        gold: u64::try_from(gold).unwrap_or(0),
    })
}

/// What became of all records, as the tables' commits say.
pub fn ledger(infos: &[TableInfo]) -> Ledger {
    let counts = Counts {
        read: sum(infos, Table::Bronze, Counter::Read),
        dead_lettered: sum(infos, Table::Bronze, Counter::DeadLettered),
        accepted: sum(infos, Table::Silver, Counter::Accepted),
        duplicates: sum(infos, Table::Silver, Counter::Duplicates),
        quarantined: sum(infos, Table::Silver, Counter::Quarantined),
    };
    let at = |table: Table| {
        let info = infos.iter().find(|info| info.table == table);
        info.map(|info| info.positions.iter().map(|at| (&at.topic, at.partition, at.position)).collect::<Vec<_>>())
    };
    let mut ledger = Ledger::from(counts);
    ledger.skipped = sum(infos, Table::Bronze, Counter::Skipped);
    if at(Table::Bronze) != at(Table::Silver) {
        // Silver is behind, as a crash may leave it: it cannot have more than Bronze.
        ledger.balanced = counts.accepted + counts.duplicates + counts.quarantined <= ledger.bronze;
    }
    ledger
}

/// The page of a lake.
///
/// # Errors
/// What reading says.
pub async fn summarize(store: &DeltaStore) -> Result<Summary> {
    let infos = store.info().await?;
    let (mut dead, mut quarantine) = (FxHashMap::default(), FxHashMap::default());
    rows(store, Table::DeadLetter, &["error_code"], |batch| {
        count_texts(&mut dead, batch.texts("error_code")?);
        Ok(())
    })
    .await?;
    rows(store, Table::Quarantine, &["quality_check_errors"], |batch| {
        let lists = batch.lists("quality_check_errors")?;
        if let Some(codes) = lists.values().as_any().downcast_ref::<StringArray>() {
            count_texts(&mut quarantine, codes);
        }
        Ok(())
    })
    .await?;
    let mut alerts = Alerts::default();
    rows(store, Table::Alerts, &["alert_type", "severity", "tenant_id"], |batch| alerts.add(batch)).await?;
    let mut months = Months::default();
    rows(store, Table::UsageMonth, MONTH_COLUMNS, |batch| months.add(batch)).await?;
    let (bills, top_tenants) = months.finish();
    Ok(Summary {
        lake: store.path(),
        run: None,
        tables: tables(&infos),
        ledger: ledger(&infos),
        dead_letters: most_first(dead),
        quarantine: most_first(quarantine),
        alerts: alerts.finish(),
        bills,
        top_tenants,
    })
}

fn count_texts(counts: &mut FxHashMap<String, u64>, texts: &StringArray) {
    for text in texts.iter().flatten() {
        match counts.get_mut(text) {
            Some(n) => *n += 1,
            None => {
                counts.insert(text.to_owned(), 1);
            }
        }
    }
}

fn most_first(counts: FxHashMap<String, u64>) -> Vec<CodeCount> {
    let mut counts: Vec<_> = counts.into_iter().map(|(code, records)| CodeCount { code, records }).collect();
    counts.sort_by(|a, b| (b.records, &a.code).cmp(&(a.records, &b.code)));
    counts
}

#[derive(Default)]
struct Alerts(BTreeMap<(String, String), (u64, FxHashSet<u64>)>);

impl Alerts {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let (types, severities) = (batch.texts("alert_type")?, batch.texts("severity")?);
        let tenants = batch.texts("tenant_id")?;
        for row in 0..batch.num_rows() {
            let key = (types.value(row).to_owned(), severities.value(row).to_owned());
            let (alerts, of) = self.0.entry(key).or_default();
            *alerts += 1;
            of.insert(xxh3_64(tenants.value(row).as_bytes()));
        }
        Ok(())
    }

    fn finish(self) -> Vec<AlertCount> {
        let counts = self.0.into_iter().map(|((alert_type, severity), (alerts, tenants))| AlertCount {
            alert_type,
            severity,
            alerts,
            tenants: tenants.len() as u64,
        });
        counts.collect()
    }
}

const MONTH_COLUMNS: &[&str] = &[
    "month",
    "tenant_id",
    "subscription_plan",
    "total_requests",
    "quota_used",
    "plan_limit",
    "usage_ratio",
    "billable_units",
    "amount_due",
    "currency",
];

/// Bills, and the largest tenants of the latest month.
#[derive(Default)]
struct Months {
    bills: BTreeMap<String, BillSum>,
    latest: String,
    top: Vec<TenantUsage>,
}

#[derive(Default)]
struct BillSum {
    requests: u64,
    currency: String,
    plans: BTreeMap<String, PlanSum>,
}

#[derive(Default, Clone, Copy)]
struct PlanSum {
    tenants: u64,
    units: Units,
    due: Money,
}

impl Months {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let (months, tenants, plans) =
            (batch.texts("month")?, batch.texts("tenant_id")?, batch.texts("subscription_plan")?);
        let (totals, used, limits) =
            (batch.longs("total_requests")?, batch.longs("quota_used")?, batch.longs("plan_limit")?);
        let (ratios, units) = (batch.doubles("usage_ratio")?, batch.decimals("billable_units")?);
        let (due, currencies) = (batch.decimals("amount_due")?, batch.texts("currency")?);
        for row in 0..batch.num_rows() {
            let month = months.value(row);
            let owed = if due.is_null(row) { 0 } else { due.value(row) };
            if !self.bills.contains_key(month) {
                self.bills.insert(month.to_owned(), BillSum::default());
            }
            let bill = self.bills.get_mut(month).expect("just inserted");
            bill.requests += totals.value(row) as u64;
            if bill.currency.is_empty() && !currencies.is_null(row) {
                currencies.value(row).clone_into(&mut bill.currency);
            }
            let plan = match bill.plans.get_mut(plans.value(row)) {
                Some(plan) => plan,
                None => bill.plans.entry(plans.value(row).to_owned()).or_default(),
            };
            plan.tenants += 1;
            plan.units = plan.units.plus(Units::from_raw(units.value(row)));
            plan.due = plan.due.plus(Money::from_raw(owed));

            if month > self.latest.as_str() {
                month.clone_into(&mut self.latest);
                self.top.clear();
            }
            let place = (used.value(row), tenants.value(row));
            let least = self.top.last().map(|last| (last.quota_used, last.tenant_id.as_str()));
            let full = self.top.len() == TOP_TENANTS;
            if month == self.latest && (!full || least.is_some_and(|least| before(place, least))) {
                self.top.truncate(TOP_TENANTS - 1);
                let at = self.top.partition_point(|t| before((t.quota_used, &t.tenant_id), place));
                let tenant = TenantUsage {
                    tenant_id: place.1.to_owned(),
                    month: month.to_owned(),
                    subscription_plan: plans.value(row).to_owned(),
                    total_requests: totals.value(row),
                    quota_used: place.0,
                    plan_limit: limits.value(row),
                    usage_ratio: ratios.value(row),
                    amount_due: decimal_text(owed, Money::SCALE as i8),
                };
                self.top.insert(at, tenant);
            }
        }
        Ok(())
    }

    fn finish(self) -> (Vec<Bill>, Vec<TenantUsage>) {
        let bills = self.bills.into_iter().map(|(month, bill)| {
            let total = bill.plans.values().fold(PlanSum::default(), |sum, plan| PlanSum {
                tenants: sum.tenants + plan.tenants,
                units: sum.units.plus(plan.units),
                due: sum.due.plus(plan.due),
            });
            let plans = bill.plans.into_iter().map(|(plan, sum)| PlanBill {
                plan,
                tenants: sum.tenants,
                billable_units: sum.units.to_string(),
                amount_due: sum.due.to_string(),
            });
            Bill {
                month,
                tenants: total.tenants,
                requests: bill.requests,
                billable_units: total.units.to_string(),
                amount_due: total.due.to_string(),
                currency: bill.currency,
                plans: plans.collect(),
            }
        });
        (bills.collect(), self.top)
    }
}

/// The order of the top: most used first, then by name.
fn before(a: (i64, &str), b: (i64, &str)) -> bool {
    a.0 > b.0 || a.0 == b.0 && a.1 < b.1
}
