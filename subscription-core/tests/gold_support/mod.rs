//! Events in few words, and a lake in a map.
#![allow(unreachable_pub, reason = "a module of tests has no outside")]

use std::collections::BTreeMap;
use std::sync::Arc;

use subscription_core::{
    AggregateEngine, AlertRow, Catalog, Counter, EndpointRow, EventBatch, EventRow, GoldCut, GoldRows, HttpMethod,
    PartitionState, RangeId, RangeKey, RangeRef, Rules, Table, Timestamp, Units, UsageRow,
};
use uuid::Uuid;

/// 2026-03-01T00:00:00Z, where a month and a day begin.
pub const BASE: i64 = 1_772_323_200_000;
pub const MINUTE: i64 = 60_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub tenant: String,
    pub key: String,
    pub endpoint: String,
    pub method: HttpMethod,
    pub plan: &'static str,
    pub time: i64,
    pub late: bool,
    pub status: u16,
    pub ms: f64,
    pub risk: Option<f64>,
    pub units: Option<&'static str>,
    pub quota_cost: Option<i64>,
    pub bytes: Option<i64>,
}

impl Event {
    pub fn at(time: i64) -> Self {
        Self {
            tenant: "acme".into(),
            key: "key".into(),
            endpoint: "/v1/items".into(),
            method: HttpMethod::Get,
            plan: "free",
            time,
            late: false,
            status: 200,
            ms: 12.5,
            risk: None,
            units: None,
            quota_cost: None,
            bytes: None,
        }
    }
}

/// Events at the offsets from `from` on, every one 3 offsets from the last.
pub fn batch(events: &[Event], from: u64) -> EventBatch {
    let mut builder = EventBatch::builder();
    for (i, event) in events.iter().enumerate() {
        let row = EventRow {
            offset: (from + i as u64) * 3,
            ingestion_timestamp: Timestamp::from_millis(event.time),
            event_timestamp: Timestamp::from_millis(event.time),
            is_late: event.late,
            event_id: Uuid::from_u128(u128::from(from) + i as u128),
            schema_version: None,
            tenant_id: builder.text(&event.tenant),
            api_key_id: builder.text(&event.key),
            user_id: None,
            endpoint: builder.text(&event.endpoint),
            http_method: event.method,
            api_version: None,
            response_status_code: event.status,
            response_time_ms: event.ms,
            subscription_plan: builder.text(event.plan),
            risk_score: event.risk,
            velocity_last_1min: None,
            velocity_last_5min: None,
            velocity_last_1hour: None,
            ip_address: None,
            country_code: None,
            region: None,
            user_agent: None,
            sdk_version: None,
            request_size_bytes: event.bytes,
            response_size_bytes: event.bytes.map(|bytes| bytes / 2),
            request_id: None,
            trace_id: None,
            emitter_id: None,
            emitter_sequence: None,
            billable_units: event.units.and_then(Units::parse),
            quota_cost: event.quota_cost,
            labels: None,
        };
        builder.push(row);
    }
    builder.finish()
}

/// The Gold tables of one partition, as a store keeps them.
#[derive(Debug, Default, Clone)]
pub struct Lake {
    state: PartitionState,
    rows: BTreeMap<RangeId, GoldRows>,
    named: u64,
}

/// All rows, by table.
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Rows {
    pub minutes: Vec<UsageRow>,
    pub hours: Vec<UsageRow>,
    pub months: Vec<UsageRow>,
    pub endpoints: Vec<EndpointRow>,
    pub alerts: Vec<AlertRow>,
}

impl Lake {
    pub fn engine(&self, rules: &Rules, range_rows: usize) -> AggregateEngine {
        let (rules, catalog) = (Arc::new(rules.clone()), Arc::new(Catalog::default()));
        let mut engine = AggregateEngine::new(rules, catalog, 0, &self.state).unwrap();
        engine.set_range_rows(range_rows);
        engine
    }

    pub fn ranges(&self, table: Table) -> Vec<&RangeRef> {
        self.state.ranges.iter().filter(|range| range.table == table).collect()
    }

    pub fn load(&self, engine: &mut AggregateEngine, ranges: Vec<RangeRef>) {
        for range in ranges {
            engine.load(&range, self.rows[&range.id].clone()).unwrap();
        }
    }

    pub fn apply(&self, engine: &mut AggregateEngine, batch: &EventBatch, to: u64) -> Vec<AlertRow> {
        self.load(engine, engine.lookups(batch));
        engine.apply(batch, to).unwrap()
    }

    pub fn cut(&self, engine: &mut AggregateEngine, tables: &[Table]) -> GoldCut {
        self.load(engine, engine.cut_lookups(tables));
        engine.cut(tables).unwrap()
    }

    /// Commits the first `tables` tables of a cut, as a crash leaves it, and checks what the store may rely on.
    pub fn commit(&mut self, cut: &GoldCut, tables: usize) -> Vec<RangeId> {
        let mut names = Vec::new();
        for (table, span) in cut.tables.iter().take(tables) {
            let position = &mut self.state.tables[*table as usize];
            assert_eq!(position.position, span.from, "{table:?}");
            assert!(span.to > span.from);
            for (counter, value) in &span.counters {
                assert!(position.counter(*counter).is_none_or(|before| before <= *value), "{table:?} {counter:?}");
            }
            assert!(span.counters.iter().all(|(counter, _)| *counter == Counter::Watermark));
            position.position = span.to;
            position.counters = span.counters.clone();
            let writes: Vec<_> = cut.ranges.iter().filter(|write| write.table == *table).collect();
            let gone: Vec<_> = writes.iter().flat_map(|write| &write.replaces).collect();
            for id in &gone {
                assert!(self.state.ranges.iter().any(|range| range.table == *table && range.id == **id), "{id:?}");
            }
            self.state.ranges.retain(|range| !gone.contains(&&range.id));
            for write in writes {
                self.named += 1;
                let id = RangeId(format!("{}/{}", table.name(), self.named).into());
                check(write.first.clone(), write.last.clone(), &write.rows);
                self.rows.insert(id.clone(), write.rows.clone());
                self.state.ranges.push(RangeRef {
                    table: *table,
                    partition: 0,
                    id: id.clone(),
                    first: write.first.clone(),
                    last: write.last.clone(),
                    rows: write.rows.len() as u32,
                });
                names.push(id);
            }
            let mut ranges = self.ranges(*table);
            ranges.sort_by(|a, b| a.first.cmp(&b.first));
            assert!(ranges.windows(2).all(|pair| pair[0].last < pair[1].first), "{table:?} {ranges:?}");
        }
        names
    }

    pub fn finish(&mut self, engine: &mut AggregateEngine) {
        self.commit_tables(engine, &Table::GOLD);
    }

    /// Cuts and commits these tables; answers how many rows of minutes were written.
    pub fn commit_tables(&mut self, engine: &mut AggregateEngine, tables: &[Table]) -> usize {
        let cut = self.cut(engine, tables);
        let names = self.commit(&cut, usize::MAX);
        engine.committed(&names).unwrap();
        cut.ranges.iter().filter(|write| write.table == Table::UsageMinute).map(|write| write.rows.len()).sum()
    }

    /// All rows, in the order of their keys.
    pub fn rows(&self) -> Rows {
        let mut all = Rows::default();
        let mut ranges: Vec<_> = self.state.ranges.iter().collect();
        ranges.sort_by(|a, b| a.first.cmp(&b.first));
        for range in ranges {
            match (range.table, self.rows[&range.id].clone()) {
                (Table::UsageMinute, GoldRows::Usage(rows)) => all.minutes.extend(rows),
                (Table::UsageHour, GoldRows::Usage(rows)) => all.hours.extend(rows),
                (Table::UsageMonth, GoldRows::Usage(rows)) => all.months.extend(rows),
                (Table::EndpointHour, GoldRows::Endpoint(rows)) => all.endpoints.extend(rows),
                (Table::Alerts, GoldRows::Alerts(rows)) => all.alerts.extend(rows),
                (table, _) => panic!("rows of another table in {table:?}"),
            }
        }
        all
    }
}

fn check(first: RangeKey, last: RangeKey, rows: &GoldRows) {
    let keys: Vec<RangeKey> = match rows {
        GoldRows::Usage(rows) => rows.iter().map(UsageRow::range_key).collect(),
        GoldRows::Endpoint(rows) => rows.iter().map(EndpointRow::range_key).collect(),
        GoldRows::Alerts(rows) => rows.iter().map(AlertRow::range_key).collect(),
    };
    assert!(keys.is_sorted());
    assert_eq!((keys.first(), keys.last()), (Some(&first), Some(&last)));
    assert_eq!(first.window_start.days(), last.window_start.days(), "a range lies in one date");
}

/// The units of an event that is billed.
pub fn units(event: &Event) -> Units {
    event.units.and_then(Units::parse).unwrap_or(Units::ONE)
}
