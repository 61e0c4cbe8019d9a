//! What a lake holds, in one page: for people, and as JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use subscription_core::Counts;

use crate::text::{self, Align, amount, bar, bytes, columns, count, cut, decimal, duration, percent, rate};

/// The page. Its JSON is stable: keys may be added, none is renamed or removed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Where the tables lie.
    pub lake: String,
    /// The run that just ended; `None` where the lake is only looked at.
    pub run: Option<RunSummary>,
    /// Every table, in the order in which records reach them.
    pub tables: Vec<TableSummary>,
    /// What became of all records.
    pub ledger: Ledger,
    /// Dead letters by code, most first.
    pub dead_letters: Vec<CodeCount>,
    /// Quarantined records by code, most first; a record may have several.
    pub quarantine: Vec<CodeCount>,
    /// Alerts by type and severity.
    pub alerts: Vec<AlertCount>,
    /// The bill of each calendar month, oldest first.
    pub bills: Vec<Bill>,
    /// The tenants that used the most quota in the latest month, most first.
    pub top_tenants: Vec<TenantUsage>,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    /// Whether the input was read to its end; else the run was asked to stop.
    pub ended: bool,
    /// How long it took.
    pub seconds: f64,
    /// Records read.
    pub read: u64,
    /// What the run added to each layer.
    pub layers: Vec<Layer>,
}

/// What a run added to a layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// `bronze`, `silver` or `gold`.
    pub layer: &'static str,
    /// Records that are durable in it.
    pub records: u64,
    /// Records a second; null where no time passed.
    pub per_second: Option<f64>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableSummary {
    /// Its name.
    pub table: &'static str,
    /// Its rows.
    pub rows: u64,
    /// The number of its last commit.
    pub version: u64,
    /// Its data files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The next offset of each partition.
    pub positions: Vec<Position>,
}

/// Where a table stands in a partition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Position {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The next offset.
    pub position: u64,
}

/// What became of all records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Ledger {
    /// Records read.
    pub read: u64,
    /// Records in `dead_letter`.
    pub dead_lettered: u64,
    /// Records in Bronze.
    pub bronze: u64,
    /// Records in Silver.
    pub accepted: u64,
    /// Records that are duplicates.
    pub duplicates: u64,
    /// Records in quarantine.
    pub quarantined: u64,
    /// Offsets skipped because the source no longer had their records. They are in no equation: nobody read them.
    pub skipped: u64,
    /// Whether both equations hold: read = bronze + dead_lettered, bronze = accepted + duplicates + quarantined.
    pub balanced: bool,
}

impl From<Counts> for Ledger {
    fn from(counts: Counts) -> Self {
        Self {
            read: counts.read,
            dead_lettered: counts.dead_lettered,
            bronze: counts.read.saturating_sub(counts.dead_lettered),
            accepted: counts.accepted,
            duplicates: counts.duplicates,
            quarantined: counts.quarantined,
            skipped: 0,
            balanced: counts.balanced(),
        }
    }
}

/// Records with a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CodeCount {
    /// The code; in quarantine with the field.
    pub code: String,
    /// How many records.
    pub records: u64,
}

/// Alerts of a type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AlertCount {
    /// The type.
    pub alert_type: String,
    /// `warning` or `critical`.
    pub severity: String,
    /// How many.
    pub alerts: u64,
    /// Of how many tenants.
    pub tenants: u64,
}

/// The bill of a month. Amounts are decimal text, exact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bill {
    /// `YYYY-MM`.
    pub month: String,
    /// Tenants with usage.
    pub tenants: u64,
    /// Requests.
    pub requests: u64,
    /// Billable units.
    pub billable_units: String,
    /// The sum of what each tenant owes.
    pub amount_due: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The plans of the tenants, by name.
    pub plans: Vec<PlanBill>,
}

/// What the tenants of a plan owe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanBill {
    /// The plan.
    pub plan: String,
    /// Tenants on it.
    pub tenants: u64,
    /// Billable units.
    pub billable_units: String,
    /// The sum of what they owe.
    pub amount_due: String,
}

/// A tenant's month.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantUsage {
    /// The tenant.
    pub tenant_id: String,
    /// `YYYY-MM`.
    pub month: String,
    /// The plan.
    pub subscription_plan: String,
    /// Requests.
    pub total_requests: i64,
    /// Quota used.
    pub quota_used: i64,
    /// The month's quota.
    pub plan_limit: i64,
    /// Used ÷ limit; null where only the limit is 0.
    pub usage_ratio: f64,
    /// What the tenant owes.
    pub amount_due: String,
}

/// How wide bars are.
const BAR: usize = 20;

/// Digits behind the point that amounts are shown with at least.
const AMOUNT_DIGITS: usize = 2;

impl Summary {
    /// The page for people.
    pub fn render(&self) -> String {
        let mut page = String::new();
        if let Some(run) = &self.run {
            section_run(&mut page, run);
        }
        section_ledger(&mut page, &self.ledger);
        section_codes(&mut page, "Dead letters by code", &self.dead_letters, self.ledger.dead_lettered);
        section_codes(&mut page, "Quarantine by code", &self.quarantine, self.ledger.quarantined);
        section_tenants(&mut page, &self.top_tenants);
        section_alerts(&mut page, &self.alerts);
        section_bills(&mut page, &self.bills);
        section_tables(&mut page, self);
        page
    }

    /// The page for programs: one JSON object.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers go into memory")
    }
}

fn heading(page: &mut String, text: &str) {
    if !page.is_empty() {
        page.push('\n');
    }
    page.push_str(text);
    page.push('\n');
}

fn section_run(page: &mut String, run: &RunSummary) {
    let time = Duration::try_from_secs_f64(run.seconds).unwrap_or_default();
    let how = if run.ended { "Read to the end" } else { "Stopped; all that was read is committed" };
    heading(page, &format!("{how}: {} records in {}, {}", count(run.read), duration(time), rate(run.read, time)));
    let rows: Vec<_> = run
        .layers
        .iter()
        .map(|layer| {
            let rate =
                layer.per_second.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", count(rate.round() as i128)));
            vec![layer.layer.to_owned(), format!("+{}", count(layer.records)), rate]
        })
        .collect();
    page.push_str(&columns(&[Align::Left, Align::Right, Align::Right], &rows));
}

/// The ledger as its two equations.
pub(crate) fn section_ledger(page: &mut String, ledger: &Ledger) {
    let verdict = if ledger.balanced { "closed" } else { "BROKEN" };
    heading(page, &format!("Ledger ({verdict})"));
    let row = |n: u64, sign: &str, text: &str| vec![count(n), sign.to_owned(), text.to_owned()];
    let rows = [
        row(ledger.read, "", "read"),
        row(ledger.bronze, "=", "bronze"),
        row(ledger.dead_lettered, "+", "dead letters"),
        vec![],
        row(ledger.bronze, "", "bronze"),
        row(ledger.accepted, "=", "silver"),
        row(ledger.duplicates, "+", "duplicates"),
        row(ledger.quarantined, "+", "quarantine"),
    ];
    let lines = columns(&[Align::Right, Align::Left, Align::Left], &rows);
    let lines: Vec<&str> = lines.lines().collect();
    // The two equations side by side.
    let (left, right) = lines.split_at(4);
    let width = left.iter().map(|line| line.chars().count()).max().unwrap_or(0) + 2;
    for (left, right) in left.iter().zip(right) {
        let blank = " ".repeat(width - left.chars().count());
        let _ = writeln!(page, "{}", format!("{left}{blank}{right}").trim_end());
    }
    if ledger.skipped > 0 {
        let _ =
            writeln!(page, "{} offsets were skipped: the source no longer had their records", count(ledger.skipped));
    }
}

fn section_codes(page: &mut String, title: &str, codes: &[CodeCount], of: u64) {
    if codes.is_empty() {
        return;
    }
    heading(page, title);
    const SHOWN: usize = 10;
    let rows: Vec<_> = codes
        .iter()
        .take(SHOWN)
        .map(|code| {
            let share = code.records as f64 / of.max(1) as f64;
            vec![cut(&code.code, 48), count(code.records), bar(share, BAR)]
        })
        .collect();
    page.push_str(&columns(&[Align::Left, Align::Right, Align::Left], &rows));
    more(page, codes.len(), SHOWN, "codes");
}

fn more(page: &mut String, all: usize, shown: usize, what: &str) {
    if all > shown {
        let _ = writeln!(page, "  and {} more {what}", count((all - shown) as u64));
    }
}

fn section_tenants(page: &mut String, tenants: &[TenantUsage]) {
    let Some(first) = tenants.first() else { return };
    heading(page, &format!("Top tenants of {}, quota used against plan", first.month));
    let rows: Vec<_> = tenants
        .iter()
        .map(|tenant| {
            vec![
                cut(&tenant.tenant_id, 40),
                tenant.subscription_plan.clone(),
                count(tenant.quota_used),
                "of".to_owned(),
                count(tenant.plan_limit),
                bar(tenant.usage_ratio, BAR),
                percent(tenant.usage_ratio),
            ]
        })
        .collect();
    use Align::{Left, Right};
    page.push_str(&columns(&[Left, Left, Right, Left, Right, Left, Right], &rows));
}

fn section_alerts(page: &mut String, alerts: &[AlertCount]) {
    if alerts.is_empty() {
        return;
    }
    heading(page, "Alerts by type");
    let rows: Vec<_> = alerts
        .iter()
        .map(|alert| {
            let tenants = format!("of {} tenant{}", count(alert.tenants), if alert.tenants == 1 { "" } else { "s" });
            vec![alert.alert_type.clone(), alert.severity.clone(), count(alert.alerts), tenants]
        })
        .collect();
    page.push_str(&columns(&[Align::Left, Align::Left, Align::Right, Align::Left], &rows));
}

fn section_bills(page: &mut String, bills: &[Bill]) {
    let Some(latest) = bills.last() else { return };
    heading(page, &format!("Bill of {}", latest.month));
    let row = |name: &str, tenants: u64, units: &str, due: &str| {
        vec![
            cut(name, 40),
            count(tenants),
            "tenants".to_owned(),
            decimal(units),
            "units".to_owned(),
            amount(due, AMOUNT_DIGITS),
            latest.currency.clone(),
        ]
    };
    let mut rows: Vec<_> =
        latest.plans.iter().map(|plan| row(&plan.plan, plan.tenants, &plan.billable_units, &plan.amount_due)).collect();
    if rows.len() != 1 {
        rows.push(row("total", latest.tenants, &latest.billable_units, &latest.amount_due));
    }
    use Align::{Left, Right};
    page.push_str(&columns(&[Left, Right, Left, Right, Left, Right, Left], &rows));
    for bill in bills.iter().rev().skip(1).take(11) {
        let _ = writeln!(
            page,
            "  {} before: {} requests, {} {}",
            bill.month,
            count(bill.requests),
            amount(&bill.amount_due, AMOUNT_DIGITS),
            bill.currency
        );
    }
}

fn section_tables(page: &mut String, summary: &Summary) {
    heading(page, &format!("Tables in {}", summary.lake));
    page.push_str(&table_columns(&summary.tables));
    let lake = quoted(&summary.lake);
    let table = if summary.ledger.accepted > 0 { "tenant_usage_hourly" } else { "dead_letter" };
    heading(page, "Look further");
    let _ = writeln!(page, "  pipeline show {table} --lake {lake} --limit 20");
    let _ = writeln!(page, "  pipeline verify --lake {lake}");
}

/// Rows, files and bytes of each table.
pub(crate) fn table_columns(tables: &[TableSummary]) -> String {
    let mut rows = vec![["table", "rows", "version", "files", "bytes"].map(str::to_owned).to_vec()];
    rows.extend(tables.iter().map(|table| {
        let (version, files) = (count(table.version), count(table.files));
        vec![table.table.to_owned(), count(table.rows), version, files, bytes(table.bytes)]
    }));
    columns(&[Align::Left, Align::Right, Align::Right, Align::Right, Align::Right], &rows)
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+=@%".contains(c);
    if !path.is_empty() && path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

/// What a run added: the difference of two looks at the tables, with rates.
///
/// Records are in Bronze with their payload or as dead letters, decided in Silver (accepted, duplicate or rejected), and
/// counted in Gold where they were accepted.
pub fn layers(before: &Reached, after: &Reached, time: Duration) -> Vec<Layer> {
    let layer = |layer, before: u64, after: u64| {
        let records = after.saturating_sub(before);
        Layer { layer, records, per_second: text::per_second(records, time) }
    };
    vec![
        layer("bronze", before.bronze, after.bronze),
        layer("silver", before.silver, after.silver),
        layer("gold", before.gold, after.gold),
    ]
}

/// How many records have reached each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reached {
    /// In Bronze or `dead_letter`.
    pub bronze: u64,
    /// Accepted, rejected, or known as duplicates.
    pub silver: u64,
    /// Accepted, and counted in the windows.
    pub gold: u64,
}

#[cfg(test)]
mod tests;
