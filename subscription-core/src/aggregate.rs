//! The aggregate engine of one partition: accepted events in, rows of Gold and alerts out.

use std::sync::Arc;

use crate::alert::{Conditions, PRECEDING, raise};
use crate::distinct;
use crate::endpoint::{EndpointGroup, Name, Names};
use crate::error::{Error, ErrorKind, Result};
use crate::gold::{AlertRow, AlertType};
use crate::intern::{Plans, Tenants};
use crate::plan::{Catalog, Terms};
use crate::ranges::{GoldTable, Group, Written};
use crate::rows::{EventBatch, EventRow, HttpMethod};
use crate::rules::{BillingRules, Rules};
use crate::sketch;
use crate::store::{Counter, GoldRows, PartitionState, RangeId, RangeRef, RangeWrite, Table, TableSpan};
use crate::time::{MINUTE, Timestamp, WindowKind};
use crate::window::{Sample, UsageState, whole_micros};
use crate::{Money, Units};

/// Events whose groups are fetched from memory at once: what they read stays in the processor's cache.
const FETCHED_AHEAD: usize = 16;

/// What [`AggregateEngine::cut`] hands to the store.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GoldCut {
    /// The tables that move, in commit order. A table that stands further already, after a crash, is not among them.
    pub tables: Vec<(Table, TableSpan)>,
    /// What to write, by table in the same order.
    pub ranges: Vec<RangeWrite>,
}

/// An event that is about to be applied: where it is in its batch, and what its texts come to.
struct Event<'a> {
    tenant: u32,
    plan: u32,
    index: usize,
    endpoint: Name<'a>,
    key_hash: u64,
}

/// Turns the accepted events of one partition into the rows of the Gold tables.
///
/// A deterministic state machine without clock or I/O: the rows are a function of the configuration and of the events
/// in offset order, however these are cut into batches and whatever is committed, evicted, lost and read again between.
///
/// Each table has its own position, and an event changes a table only from that position on: after a crash the events
/// from [`AggregateEngine::least_position`] on are applied again, and tables that have them stay as they are. So each may
/// be cut at a pace of its own.
///
/// Rows are loaded when they are first needed. The order of calls, for each batch:
/// 1. [`lookups`](Self::lookups), and [`load`](Self::load) of what the store has for each of them;
/// 2. [`apply`](Self::apply);
/// 3. every commit interval: [`cut_lookups`](Self::cut_lookups), `load`, [`cut`](Self::cut), the commit, and when that
///    is durable [`committed`](Self::committed). Batches may be applied while a commit is under way;
/// 4. [`evict`](Self::evict) where memory is to be bounded.
///
/// After an error, and after a commit that failed, the engine is to be dropped: a new one goes on from the tables.
///
/// ```
/// use std::sync::Arc;
/// use subscription_core::{AggregateEngine, Catalog, EventBatch, PartitionState, Rules, Table};
///
/// # fn main() -> subscription_core::Result<()> {
/// let state = PartitionState::default(); // from the store
/// let mut engine = AggregateEngine::new(Arc::new(Rules::default()), Arc::new(Catalog::default()), 0, &state)?;
/// assert_eq!(engine.least_position(), 0);
/// engine.apply(&EventBatch::default(), 10)?; // ten records, none of them accepted
/// let cut = engine.cut(&Table::GOLD)?;
/// assert_eq!(cut.tables[0].0, Table::UsageMinute);
/// assert_eq!((cut.tables[0].1.from, cut.tables[0].1.to), (0, 10));
/// engine.committed(&[])?;
/// assert_eq!(engine.position(Table::UsageMinute), 10);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AggregateEngine {
    catalog: Arc<Catalog>,
    currency: (Arc<str>, u32),
    conditions: Conditions,
    billing: Billing,
    lateness_ms: i64,
    max_endpoints: usize,
    partition: u32,
    /// The next offset to apply, and the watermark there.
    position: u64,
    watermark: Option<Timestamp>,
    tenants: Tenants,
    plans: Plans,
    endpoint_names: Names,
    /// By [`WindowKind`].
    usage: [GoldTable<UsageState>; 3],
    endpoints: GoldTable<EndpointGroup>,
    alerts: GoldTable<AlertGroup>,
    /// Windows with alerts that were touched since the last cut; they are held in memory.
    alerting: Vec<(WindowKind, i64, u32)>,
    /// The cut under way: its tables, position and watermark.
    cut: Option<(Vec<Table>, u64, Option<Timestamp>)>,
    /// Counts batches, to tell what was used lately.
    now: u64,
    /// The month of the last event.
    month: (i64, i64),
}

impl AggregateEngine {
    /// An engine that goes on where the tables stand.
    ///
    /// # Errors
    /// `Corrupt` where stored ranges overlap.
    pub fn new(rules: Arc<Rules>, catalog: Arc<Catalog>, partition: u32, state: &PartitionState) -> Result<Self> {
        let usage = |table, kind| GoldTable::new(table, kind, partition, state);
        let least = Table::GOLD.into_iter().min_by_key(|table| state.position(*table)).unwrap_or(Table::Alerts);
        let (code, digits) = catalog.currency();
        Ok(Self {
            currency: (code.into(), digits),
            conditions: Conditions::new(&rules.alerts),
            billing: Billing::new(&rules.billing),
            lateness_ms: rules.lateness_ms,
            max_endpoints: rules.max_endpoints,
            partition,
            position: state.position(least),
            watermark: state.table(least).counter(Counter::Watermark).map(Timestamp::from_millis),
            tenants: Tenants::default(),
            plans: Plans::default(),
            endpoint_names: Names::default(),
            usage: [
                usage(Table::UsageMinute, WindowKind::Minute)?,
                usage(Table::UsageHour, WindowKind::Hour)?,
                usage(Table::UsageMonth, WindowKind::Month)?,
            ],
            endpoints: GoldTable::new(Table::EndpointHour, WindowKind::Hour, partition, state)?,
            alerts: GoldTable::new(Table::Alerts, WindowKind::Minute, partition, state)?,
            alerting: Vec::new(),
            cut: None,
            now: 0,
            month: (0, 0),
            catalog,
        })
    }

    /// Goes on with another catalog, which must give every event so far the terms that it had.
    pub fn set_catalog(&mut self, catalog: Arc<Catalog>) {
        let (code, digits) = catalog.currency();
        self.currency = (code.into(), digits);
        self.catalog = catalog;
        self.tenants.forget_terms();
    }

    /// Sets how many rows a stored range may have before it is split; 8,192 by default. A range is what is rewritten
    /// when one of its rows changes, and a file of its own. No row depends on it.
    pub fn set_range_rows(&mut self, rows: usize) {
        self.usage.iter_mut().for_each(|table| table.set_range_rows(rows));
        self.endpoints.set_range_rows(rows);
        self.alerts.set_range_rows(rows);
    }

    /// The next offset of a Gold table that is not durable yet; of other tables 0.
    pub fn position(&self, table: Table) -> u64 {
        match table {
            Table::UsageMinute => self.usage[0].position,
            Table::UsageHour => self.usage[1].position,
            Table::UsageMonth => self.usage[2].position,
            Table::EndpointHour => self.endpoints.position,
            Table::Alerts => self.alerts.position,
            _ => 0,
        }
    }

    /// The offset from which a new engine has to be given the events of Silver again.
    pub fn least_position(&self) -> u64 {
        Table::GOLD.into_iter().map(|table| self.position(table)).min().unwrap_or(0)
    }

    /// The next offset to apply.
    pub fn applied(&self) -> u64 {
        self.position
    }

    /// The partition's watermark at [`AggregateEngine::applied`].
    pub fn watermark(&self) -> Option<Timestamp> {
        self.watermark
    }

    /// `quota_used` of the window of `kind` that begins at `start`: an absolute value that never goes down. `None`
    /// where the tenant has no row there, or it is not in memory.
    pub fn quota_used(&self, tenant_id: &str, kind: WindowKind, start: Timestamp) -> Option<i64> {
        let tenant = self.tenants.find(tenant_id)?;
        self.usage[kind as usize].show(start.millis(), tenant, |state| state.used)
    }

    /// The stored ranges to load before `batch` is applied.
    pub fn lookups(&self, batch: &EventBatch) -> Vec<RangeRef> {
        self.range_refs(self.cold_for(batch, GoldTable::cold_near, GoldTable::cold_near))
    }

    /// The stored ranges to load before these tables are cut: rows that have become final, and those beside new alerts.
    pub fn cut_lookups(&self, tables: &[Table]) -> Vec<RangeRef> {
        self.range_refs(self.cold_for_cut(tables, GoldTable::cold_near))
    }

    /// Takes the rows of a stored range, as of its table's position. Of usage rows only `tenant_id`, `window_start`
    /// and `state` are read. A range that is loaded already is left as it is.
    ///
    /// # Errors
    /// `Corrupt` where the rows do not fit the range or their state cannot be read, `Mismatch` where a newer release
    /// wrote them, `Invariant` for a range that is not stored.
    pub fn load(&mut self, range: &RangeRef, rows: GoldRows) -> Result<()> {
        let Self { tenants, plans, now, .. } = self;
        let kind = match range.table {
            Table::UsageHour => WindowKind::Hour,
            Table::UsageMonth => WindowKind::Month,
            _ => WindowKind::Minute,
        };
        match (range.table, rows) {
            (Table::UsageMinute | Table::UsageHour | Table::UsageMonth, GoldRows::Usage(rows)) => {
                let table = &mut self.usage[kind as usize];
                let Some(at) = table.begin_load(range)? else { return Ok(()) };
                for row in rows {
                    let state = UsageState::decode(&row.state, row.window_start, plans).map_err(|error| {
                        error
                            .with("table", range.table.name())
                            .with("window", row.window_start)
                            .with("tenant", &row.tenant_id)
                    })?;
                    table.put(tenants, at, row.window_start.millis(), &row.tenant_id, state, *now)?;
                }
                table.end_load(at);
            }
            (Table::EndpointHour, GoldRows::Endpoint(rows)) => {
                let table = &mut self.endpoints;
                let Some(at) = table.begin_load(range)? else { return Ok(()) };
                for rows in rows.chunk_by(|a, b| (a.window_start, &a.tenant_id) == (b.window_start, &b.tenant_id)) {
                    let mut group = EndpointGroup::default();
                    if !rows.iter().all(|row| group.restore(row, plans)) {
                        return Err(table.corrupt(at, "a stored range has two rows of one endpoint"));
                    }
                    table.put(tenants, at, rows[0].window_start.millis(), &rows[0].tenant_id, group, *now)?;
                }
                table.end_load(at);
            }
            (Table::Alerts, GoldRows::Alerts(rows)) => {
                let table = &mut self.alerts;
                let Some(at) = table.begin_load(range)? else { return Ok(()) };
                for rows in rows.chunk_by(|a, b| (a.window_start, &a.tenant_id) == (b.window_start, &b.tenant_id)) {
                    let group = AlertGroup(rows.to_vec());
                    table.put(tenants, at, rows[0].window_start.millis(), &rows[0].tenant_id, group, *now)?;
                }
                table.end_load(at);
            }
            (table, _) => {
                return Err(Error::new(ErrorKind::Invariant, "rows of another table").with("table", table.name()));
            }
        }
        Ok(())
    }

    /// Applies all accepted events before `to` that were not applied yet, and answers the alerts that they raise, as
    /// they are when they are raised, in the order of the events that do.
    ///
    /// # Errors
    /// `Invariant` where a range is needed and was not loaded (then nothing was applied) or an event lies behind `to`;
    /// `Mismatch` where the catalog does not have an event's plan.
    pub fn apply(&mut self, batch: &EventBatch, to: u64) -> Result<Vec<AlertRow>> {
        if let Some(range) =
            self.range_refs(self.cold_for(batch, GoldTable::cold_around, GoldTable::cold_around)).first()
        {
            return Err(not_loaded(range));
        }
        // No row depends on events of two tenants. Tenant by tenant, each in offset order, most of what an event touches
        // is in the processor's cache from the event before. Its texts are not: they are read in the order in which they
        // lie in memory, before that.
        let mut events = Vec::with_capacity(batch.rows().len());
        for (index, row) in batch.rows().iter().enumerate().filter(|(_, row)| row.offset >= self.position) {
            if row.offset >= to {
                return Err(Error::new(ErrorKind::Invariant, "an event lies behind the span that it is applied with")
                    .with("partition", self.partition)
                    .with("offset", row.offset)
                    .with("span ends at", to));
            }
            events.push(Event {
                tenant: self.tenants.intern(batch.bytes(row.tenant_id)),
                plan: self.plans.intern(batch.bytes(row.subscription_plan)),
                index,
                endpoint: Name::new(batch.bytes(row.endpoint)),
                key_hash: distinct::hash(batch.bytes(row.api_key_id)),
            });
        }
        events.sort_unstable_by_key(|event| (event.tenant, event.index));
        self.now += 1;
        let mut raised = Vec::new();
        for events in events.chunks(FETCHED_AHEAD) {
            // A group is a few hops away, each of which waits for memory: many are under way at once here, and the loop
            // below finds them in the cache.
            std::hint::black_box(events.iter().fold(0, |read, event| read ^ self.fetch(batch, event)));
            for event in events {
                self.apply_event(batch, event, &mut raised)?;
            }
        }
        self.position = self.position.max(to);
        raised.sort_by_key(|(offset, _)| *offset);
        Ok(raised.into_iter().map(|(_, alert)| alert).collect())
    }

    /// Reads what applying the event will read and change.
    fn fetch(&self, batch: &EventBatch, event: &Event<'_>) -> u64 {
        let time = batch.rows()[event.index].event_timestamp;
        let [minute, hour] = [WindowKind::Minute, WindowKind::Hour].map(|kind| kind.start(time).millis());
        self.usage[0].fetch(minute, event.tenant)
            ^ self.usage[1].fetch(hour, event.tenant)
            ^ self.usage[2].fetch(self.month.0, event.tenant)
            ^ self.endpoints.fetch(hour, event.tenant)
    }

    fn apply_event(&mut self, batch: &EventBatch, event: &Event<'_>, raised: &mut Vec<(u64, AlertRow)>) -> Result<()> {
        let Event { tenant, plan, index, endpoint, key_hash } = *event;
        let row = &batch.rows()[index];
        let (time, catalog) = (row.event_timestamp, &self.catalog);
        let look_up = |tenant: &str| catalog.terms_until(tenant, batch.text(row.subscription_plan), time);
        let Some(terms) = self.tenants.terms(tenant, plan, time, look_up) else {
            return Err(Error::new(ErrorKind::Mismatch, "the catalog does not have the plan of an accepted event")
                .with("plan", batch.text(row.subscription_plan))
                .with("event time", row.event_timestamp)
                .with("partition", self.partition)
                .with("offset", row.offset)
                .with_help("use the catalog that the lake was filled with"));
        };
        let billed = self.billing.bills(row).then(|| row.billable_units.unwrap_or(Units::ONE));
        let response_us = whole_micros(row.response_time_ms);
        let sample = Sample {
            offset: row.offset,
            time: time.millis(),
            late: row.is_late,
            status: row.response_status_code,
            quota_cost: row.quota_cost.unwrap_or(1).max(0),
            billed,
            cost: billed.map_or(Money::ZERO, |units| units.cost(terms.price)),
            request_bytes: row.request_size_bytes.unwrap_or(0).max(0),
            response_bytes: row.response_size_bytes.unwrap_or(0).max(0),
            // `-0` is 0.
            response_ms: row.response_time_ms + 0.0,
            response_us,
            response_bucket: sketch::bucket(response_us),
            risk: row.risk_score.map(|risk| risk + 0.0),
            key_hash,
            plan,
        };
        let watermark = row.event_timestamp.plus_millis(self.lateness_ms.saturating_neg());
        self.watermark = self.watermark.max(Some(watermark));

        let hour = WindowKind::Hour.start(row.event_timestamp).millis();
        self.apply_usage(
            WindowKind::Minute,
            WindowKind::Minute.start(row.event_timestamp).millis(),
            tenant,
            &sample,
            terms,
            raised,
        );
        self.apply_usage(WindowKind::Hour, hour, tenant, &sample, terms, raised);
        let month = self.month_start(row.event_timestamp);
        self.apply_usage(WindowKind::Month, month, tenant, &sample, terms, raised);
        if row.offset >= self.endpoints.position {
            let max = self.max_endpoints;
            let names = (&mut self.tenants, &mut self.plans);
            let endpoint = self.endpoint_names.know(endpoint);
            self.endpoints.change(names, (hour, tenant), self.now, EndpointGroup::default, |group, _| {
                group.add(endpoint, row.http_method, &sample, max);
            });
        }
        Ok(())
    }

    fn apply_usage(
        &mut self,
        kind: WindowKind,
        start: i64,
        tenant: u32,
        sample: &Sample,
        terms: Terms,
        raised: &mut Vec<(u64, AlertRow)>,
    ) {
        let Self { tenants, plans, conditions, now, .. } = self;
        let table = &mut self.usage[kind as usize];
        let key = (start, tenant);
        let alerting = if sample.offset >= table.position {
            let limit = match kind {
                WindowKind::Minute => terms.per_minute,
                WindowKind::Hour => terms.per_hour,
                WindowKind::Month => terms.per_month,
            };
            let new = || UsageState::new(sample);
            let (mut news, mut alerting, ask) = table.change((tenants, plans), key, *now, new, |state, held| {
                state.add(sample, limit);
                let [a, b] = conditions.limits(state, kind, sample.late);
                let ask = kind == WindowKind::Minute && !sample.late && conditions.may_be_abuse(state);
                ([a, b, None], !held && !state.raised.is_empty(), ask)
            });
            if ask {
                let before: Vec<i64> = (1..=PRECEDING)
                    .filter_map(|n| Some(table.find(start - n * MINUTE, tenant, plans)?.total))
                    .collect();
                if let Some(state) = table.get(start, tenant)
                    && let Some(abuse) = conditions.abuse(state, before)
                {
                    alerting |=
                        table.change((tenants, plans), key, *now, new, |state, held| raise(state, abuse) && !held);
                    news[2] = Some(AlertType::AbuseDetected);
                }
            }
            if news.iter().any(Option::is_some)
                && let Some(state) = table.get(start, tenant)
            {
                let is_new = |alert_type| news.contains(&Some(alert_type));
                raised.extend(state.raised.iter().filter(|alert| is_new(alert.alert_type)).map(|alert| {
                    let name = tenants.name(tenant).clone();
                    (sample.offset, alert.to_row(state, kind, name, Timestamp::from_millis(start), plans))
                }));
            }
            alerting
        } else {
            // The row has the event already, but its alerts may not have been projected since.
            table.find(start, tenant, plans).is_some_and(|state| !state.raised.is_empty())
        };
        if alerting && sample.offset >= self.alerts.position && table.hold(start, tenant) {
            self.alerting.push((kind, start, tenant));
        }
    }

    fn month_start(&mut self, time: Timestamp) -> i64 {
        if !(self.month.0..self.month.1).contains(&time.millis()) {
            let start = WindowKind::Month.start(time);
            self.month = (start.millis(), WindowKind::Month.end(start).millis());
        }
        self.month.0
    }

    /// All that changed in these tables since they were last cut, and the position and watermark up to which events were
    /// applied. The commit replaces the ranges named, and moves the tables, in one step a table.
    ///
    /// # Errors
    /// `Invariant` where a range of [`AggregateEngine::cut_lookups`] was not loaded, or a cut is under way.
    pub fn cut(&mut self, tables: &[Table]) -> Result<GoldCut> {
        if self.cut.is_some() {
            return Err(Error::new(ErrorKind::Invariant, "a cut is under way").with("partition", self.partition));
        }
        if let Some(range) = self.range_refs(self.cold_for_cut(tables, GoldTable::cold_around)).first() {
            return Err(not_loaded(range));
        }
        if tables.contains(&Table::Alerts) {
            self.project_alerts();
        }
        let (to, watermark) = (self.position, self.watermark);
        let counters: Vec<_> = watermark.iter().map(|mark| (Counter::Watermark, mark.millis())).collect();
        let mut cut = GoldCut::default();
        for table in Table::GOLD.into_iter().filter(|table| tables.contains(table)) {
            let from = self.position(table);
            if from < to {
                cut.ranges.extend(self.cut_table(table)?);
                let span = TableSpan { partition: self.partition, from, to, counters: counters.clone() };
                cut.tables.push((table, span));
            }
        }
        self.cut = Some((cut.tables.iter().map(|(table, _)| *table).collect(), to, watermark));
        Ok(cut)
    }

    fn cut_table(&mut self, table: Table) -> Result<Vec<RangeWrite>> {
        let Self { tenants, plans, currency, watermark, .. } = self;
        let kind = match table {
            Table::EndpointHour => {
                return self.endpoints.cut(
                    (tenants, plans),
                    *watermark,
                    |written, (tenants, plans), out| {
                        written.group.to_rows(tenants.name(written.tenant), written, plans, out);
                    },
                    GoldRows::Endpoint,
                );
            }
            Table::UsageHour => WindowKind::Hour,
            Table::UsageMonth => WindowKind::Month,
            Table::UsageMinute => WindowKind::Minute,
            // Alerts are never final.
            _ => {
                let emit = |written: &Written<'_, AlertGroup>, _: (&Tenants, &Plans), out: &mut Vec<_>| {
                    out.extend_from_slice(&written.group.0);
                };
                return self.alerts.cut((tenants, plans), None, emit, GoldRows::Alerts);
            }
        };
        self.usage[kind as usize].cut(
            (tenants, plans),
            *watermark,
            |written, (tenants, plans), out| {
                let name = tenants.name(written.tenant).clone();
                out.push(written.group.to_row(kind, name, written, plans, (&currency.0, currency.1)));
            },
            GoldRows::Usage,
        )
    }

    /// Brings the rows of `enforcement_alerts` to where their windows are.
    fn project_alerts(&mut self) {
        for (kind, start, tenant) in std::mem::take(&mut self.alerting) {
            let table = &mut self.usage[kind as usize];
            table.unhold(start, tenant);
            let Some(state) = table.get(start, tenant) else { continue };
            let (name, window) = (self.tenants.name(tenant).clone(), Timestamp::from_millis(start));
            let rows: Vec<AlertRow> = (state.raised.iter())
                .map(|alert| alert.to_row(state, kind, name.clone(), window, &self.plans))
                .collect();
            let names = (&mut self.tenants, &mut self.plans);
            self.alerts.change(names, (start, tenant), self.now, AlertGroup::default, |group, _| {
                rows.into_iter().for_each(|row| group.put(row));
            });
        }
    }

    /// The cut under way is durable, with its ranges stored under `ids`, in the order of [`GoldCut::ranges`].
    ///
    /// # Errors
    /// `Invariant` where no cut is under way, or it has another number of ranges.
    pub fn committed(&mut self, ids: &[RangeId]) -> Result<()> {
        let writing =
            self.usage.iter().map(GoldTable::writing).sum::<usize>() + self.endpoints.writing() + self.alerts.writing();
        let Some((tables, to, watermark)) = self.cut.take().filter(|_| writing == ids.len()) else {
            return Err(Error::new(ErrorKind::Invariant, "what was committed is not what was cut")
                .with("partition", self.partition)
                .with("ranges cut", writing)
                .with("ranges committed", ids.len()));
        };
        let mut ids = ids.iter();
        for table in tables {
            match table {
                Table::EndpointHour => self.endpoints.committed(&mut ids, to, watermark),
                Table::Alerts => self.alerts.committed(&mut ids, to, watermark),
                Table::UsageHour => self.usage[1].committed(&mut ids, to, watermark),
                Table::UsageMonth => self.usage[2].committed(&mut ids, to, watermark),
                _ => self.usage[0].committed(&mut ids, to, watermark),
            }
        }
        Ok(())
    }

    /// Packs and then drops rows that were not used for longest until no more than `max_bytes` of memory are in use, as far
    /// as that goes: rows that changed since the last commit are packed, but stay. They are packed early, once they take a
    /// quarter of that memory, as their size is what a commit has to be made for. To be called after a batch was applied,
    /// not between its `lookups` and its `apply`.
    pub fn evict(&mut self, max_bytes: usize) {
        let changed_much = |engine: &Self| engine.dirty_bytes(&Table::GOLD) > max_bytes / 4;
        if self.memory_bytes() <= max_bytes && !changed_much(self) {
            return;
        }
        // Room for some batches to come, as this looks at every window.
        let enough = max_bytes - max_bytes / 16;
        let mut idle: Vec<(u64, usize, i64)> = Vec::new();
        for (at, table) in self.usage.iter().enumerate() {
            idle.extend(table.idle(self.now).map(|(used, start)| (used, at, start)));
        }
        idle.extend(self.endpoints.idle(self.now).map(|(used, start)| (used, self.usage.len(), start)));
        idle.sort_unstable();
        for (_, at, start) in idle {
            match self.usage.get_mut(at) {
                Some(table) => table.pack(start, &self.plans),
                None => self.endpoints.pack(start, &self.plans),
            }
            if self.memory_bytes() <= enough && !changed_much(self) {
                return;
            }
        }
        if self.memory_bytes() <= max_bytes {
            return;
        }
        let mut candidates: Vec<(u64, Table, usize)> = Vec::new();
        for (table, kind) in [Table::UsageMinute, Table::UsageHour, Table::UsageMonth].into_iter().zip(&self.usage) {
            candidates.extend(kind.evictable().map(|(used, at)| (used, table, at)));
        }
        candidates.extend(self.endpoints.evictable().map(|(used, at)| (used, Table::EndpointHour, at)));
        candidates.extend(self.alerts.evictable().map(|(used, at)| (used, Table::Alerts, at)));
        candidates.sort_unstable();
        for (_, table, at) in candidates {
            match table {
                Table::EndpointHour => self.endpoints.evict(at, &mut self.tenants),
                Table::Alerts => self.alerts.evict(at, &mut self.tenants),
                Table::UsageHour => self.usage[1].evict(at, &mut self.tenants),
                Table::UsageMonth => self.usage[2].evict(at, &mut self.tenants),
                _ => self.usage[0].evict(at, &mut self.tenants),
            }
            if self.memory_bytes() <= enough {
                break;
            }
        }
        self.usage.iter_mut().for_each(GoldTable::find_cold);
        self.endpoints.find_cold();
        self.alerts.find_cold();
    }

    /// The memory of all rows, in bytes, as near as it is counted.
    pub fn memory_bytes(&self) -> usize {
        self.usage.iter().map(GoldTable::memory_bytes).sum::<usize>()
            + self.endpoints.memory_bytes()
            + self.alerts.memory_bytes()
            + self.tenants.memory_bytes()
    }

    /// The memory of rows of these tables that changed since they were last cut, in bytes: what a cut makes evictable.
    pub fn dirty_bytes(&self, tables: &[Table]) -> usize {
        let changed = |table: &Table| match table {
            Table::UsageMinute => self.usage[0].changed_bytes(),
            Table::UsageHour => self.usage[1].changed_bytes(),
            Table::UsageMonth => self.usage[2].changed_bytes(),
            Table::EndpointHour => self.endpoints.changed_bytes(),
            Table::Alerts => self.alerts.changed_bytes(),
            _ => 0,
        };
        tables.iter().map(changed).sum()
    }

    /// The cold ranges that `usage` and `endpoints` find for the keys of a batch; and those around the minutes before
    /// them, which decide on abuse.
    fn cold_for(
        &self,
        batch: &EventBatch,
        usage: fn(&GoldTable<UsageState>, i64, &str) -> Option<usize>,
        endpoints: fn(&GoldTable<EndpointGroup>, i64, &str) -> Option<usize>,
    ) -> Vec<(Table, usize)> {
        let tables = self.usage.iter().map(GoldTable::warm_from).chain([self.endpoints.warm_from()]);
        let warm_from = tables.max().unwrap_or(i64::MIN).saturating_add(PRECEDING * MINUTE);
        let mut found = Vec::new();
        for row in batch.rows() {
            if row.event_timestamp.millis() >= warm_from || row.offset < self.position {
                continue;
            }
            let tenant = batch.text(row.tenant_id);
            let projected = row.offset >= self.alerts.position;
            for (kind, name) in
                WindowKind::ALL.into_iter().zip([Table::UsageMinute, Table::UsageHour, Table::UsageMonth])
            {
                let table = &self.usage[kind as usize];
                let start = kind.start(row.event_timestamp).millis();
                if (row.offset >= table.position || projected) && table.may_be_cold(start) {
                    found.extend(usage(table, start, tenant).map(|at| (name, at)));
                }
                if kind == WindowKind::Minute && row.offset >= table.position && !row.is_late {
                    for start in (1..=PRECEDING).map(|n| start - n * MINUTE).filter(|start| table.may_be_cold(*start)) {
                        found.extend(table.cold_around(start, tenant).map(|at| (name, at)));
                    }
                }
            }
            let start = WindowKind::Hour.start(row.event_timestamp).millis();
            if row.offset >= self.endpoints.position && self.endpoints.may_be_cold(start) {
                found.extend(endpoints(&self.endpoints, start, tenant).map(|at| (Table::EndpointHour, at)));
            }
        }
        found
    }

    /// The cold ranges with rows that become final, and those that `alerts` finds for what is to be projected.
    fn cold_for_cut(
        &self,
        tables: &[Table],
        alerts: fn(&GoldTable<AlertGroup>, i64, &str) -> Option<usize>,
    ) -> Vec<(Table, usize)> {
        let mut found = Vec::new();
        for table in tables.iter().copied().filter(|table| self.position(*table) < self.position) {
            let cold = match table {
                Table::UsageMinute => self.usage[0].cold_to_finish(self.watermark),
                Table::UsageHour => self.usage[1].cold_to_finish(self.watermark),
                Table::UsageMonth => self.usage[2].cold_to_finish(self.watermark),
                Table::EndpointHour => self.endpoints.cold_to_finish(self.watermark),
                // Alerts are never final.
                _ => Vec::new(),
            };
            found.extend(cold.into_iter().map(|at| (table, at)));
        }
        for (_, start, tenant) in self.alerting.iter().filter(|_| tables.contains(&Table::Alerts)) {
            found.extend(alerts(&self.alerts, *start, self.tenants.name(*tenant)).map(|at| (Table::Alerts, at)));
        }
        found
    }

    fn range_refs(&self, mut found: Vec<(Table, usize)>) -> Vec<RangeRef> {
        found.sort_unstable();
        found.dedup();
        let range_ref = |(table, at)| match table {
            Table::EndpointHour => self.endpoints.range_ref(at),
            Table::Alerts => self.alerts.range_ref(at),
            Table::UsageHour => self.usage[1].range_ref(at),
            Table::UsageMonth => self.usage[2].range_ref(at),
            _ => self.usage[0].range_ref(at),
        };
        found.into_iter().map(range_ref).collect()
    }
}

fn not_loaded(range: &RangeRef) -> Error {
    Error::new(ErrorKind::Invariant, "a stored range is needed and was not loaded")
        .with("table", range.table.name())
        .with("partition", range.partition)
        .with("range", &range.id.0)
}

/// The alerts of one tenant for the windows that begin at one time.
#[derive(Debug, Default)]
struct AlertGroup(Vec<AlertRow>);

impl AlertGroup {
    /// Puts a row in the place of the one of its window and type.
    fn put(&mut self, row: AlertRow) {
        match self.0.binary_search_by_key(&(row.window_kind, row.alert_type), |r| (r.window_kind, r.alert_type)) {
            Ok(at) => self.0[at] = row,
            Err(at) => self.0.insert(at, row),
        }
    }
}

impl Group for AlertGroup {
    fn rows(&self) -> usize {
        self.0.len()
    }

    fn heap_bytes(&self) -> usize {
        self.0.capacity() * size_of::<AlertRow>()
    }
}

/// The billing rules as tables.
#[derive(Debug)]
struct Billing {
    free_status: Vec<u16>,
    server_errors: bool,
    free_methods: Vec<HttpMethod>,
}

impl Billing {
    fn new(rules: &BillingRules) -> Self {
        Self {
            free_status: rules.free_status_codes.clone(),
            server_errors: rules.bill_server_errors,
            free_methods: rules.free_methods.iter().filter_map(|name| HttpMethod::from_name(name)).collect(),
        }
    }

    fn bills(&self, row: &EventRow) -> bool {
        let status = row.response_status_code;
        (self.server_errors || status < 500)
            && !self.free_status.contains(&status)
            && !self.free_methods.contains(&row.http_method)
    }
}
