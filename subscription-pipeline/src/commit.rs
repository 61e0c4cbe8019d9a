//! The two kinds of commit: a cut's Bronze and Silver, then its Gold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use subscription_core::{
    AlertRow, AlertSink, Clock, Commit, Committed, Counter, Counts, DeadLetterSink, Delivery, Error, ErrorKind,
    RangeId, Result, Sink, Table, TableCommit, TableSpan, TableStore,
};
use tokio::sync::oneshot;

use crate::partition::{Misrouted, PartitionCut};
use crate::retry::Retry;
use crate::worker::Cut;

/// The tables of the first commit, in order. The table of rejects goes first, so that it never stands behind the
/// table whose position decides where reading goes on.
pub(crate) const ROW_TABLES: [Table; 4] = [Table::DeadLetter, Table::Bronze, Table::Quarantine, Table::Silver];

/// Where the tables and the sinks of one partition stand.
#[derive(Clone, Default)]
pub(crate) struct Standing {
    /// By [`ROW_TABLES`].
    pub(crate) tables: [u64; ROW_TABLES.len()],
    /// By the pipeline's sinks.
    pub(crate) sinks: Vec<u64>,
    /// By its sinks of dead letters.
    pub(crate) letters: Vec<u64>,
    pub(crate) counts: Counts,
}

/// What both commits need.
#[derive(Clone)]
pub(crate) struct Committer {
    pub(crate) topic: Arc<str>,
    pub(crate) store: Arc<dyn TableStore>,
    pub(crate) sinks: Vec<Arc<dyn Sink>>,
    pub(crate) letter_sinks: Vec<Arc<dyn DeadLetterSink>>,
    pub(crate) alert_sinks: Vec<Arc<dyn AlertSink>>,
    pub(crate) retry: Retry,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A first commit that is durable.
pub(crate) struct RowsDone {
    pub(crate) standing: BTreeMap<u32, Standing>,
    pub(crate) tables: Vec<Table>,
    pub(crate) records: u64,
    /// Payload bytes that wait no longer.
    pub(crate) released: usize,
    pub(crate) committed: Committed,
    pub(crate) took: Duration,
    pub(crate) misrouted: Vec<(u32, Misrouted)>,
    pub(crate) gold: Option<GoldPart>,
    /// There is more Gold to be cut once that is committed.
    pub(crate) gold_left: bool,
}

/// The part of a cut that a Gold commit takes.
pub(crate) struct GoldPart {
    tables: Vec<TableCommit>,
    ranges: Vec<subscription_core::RangeWrite>,
    /// How many ranges each partition has, in the order of `ranges`.
    owners: Vec<(u32, usize)>,
    alerts: Vec<AlertRow>,
}

impl GoldPart {
    /// Leaves out what is of these partitions, but for alerts: they may be told twice, and not never.
    pub(crate) fn leave_out(&mut self, partitions: &[u32]) {
        for commit in &mut self.tables {
            commit.spans.retain(|span| !partitions.contains(&span.partition));
        }
        self.tables.retain(|commit| !commit.spans.is_empty());
        self.ranges.retain(|range| !partitions.contains(&range.partition));
        self.owners.retain(|(partition, _)| !partitions.contains(partition));
    }
}

/// A Gold commit that is durable.
pub(crate) struct GoldDone {
    pub(crate) ranges: Vec<(u32, Vec<RangeId>)>,
    pub(crate) tables: Vec<Table>,
    pub(crate) committed: Committed,
    pub(crate) took: Duration,
    pub(crate) alerts: Vec<AlertRow>,
}

impl Committer {
    /// Waits for the workers' cuts and makes their Bronze and Silver rows durable, then shows them to the sinks.
    pub(crate) async fn rows(
        &self,
        mut standing: BTreeMap<u32, Standing>,
        replies: Vec<oneshot::Receiver<Result<Cut>>>,
    ) -> Result<RowsDone> {
        let (mut cuts, mut gold_left) = (Vec::new(), false);
        for reply in replies {
            let gone = |_| Error::new(ErrorKind::Other, "a worker stopped before it handed over its rows");
            let cut = reply.await.map_err(gone)??;
            cuts.extend(cut.partitions);
            gold_left |= cut.gold_left;
        }
        let started = self.clock.monotonic_nanos();
        let tables: Vec<TableCommit> = (0..ROW_TABLES.len())
            .map(|i| TableCommit {
                table: ROW_TABLES[i],
                spans: cuts
                    .iter()
                    .filter_map(|cut| {
                        let from = standing.get(&cut.partition)?.tables[i];
                        let counters = counters(ROW_TABLES[i], cut);
                        (cut.to > from).then_some(TableSpan { partition: cut.partition, from, to: cut.to, counters })
                    })
                    .collect(),
            })
            .filter(|commit| !commit.spans.is_empty())
            .collect();
        let admitted: Vec<_> = cuts.iter().flat_map(|cut| cut.admitted.iter().cloned()).collect();
        let released = admitted.iter().map(|a| a.records.memory()).sum();
        let moved: Vec<_> = tables.iter().map(|commit| commit.table).collect();
        let mut committed = Committed::default();
        if !tables.is_empty() {
            let commit = Arc::new(Commit { topic: self.topic.clone(), tables, admitted, ranges: Vec::new() });
            committed = self.retry.run("commit rows", || self.store.commit(commit.clone())).await?;
        }
        let mut records = 0;
        for cut in &cuts {
            let Some(standing) = standing.get_mut(&cut.partition) else { continue };
            let silver = standing.tables[ROW_TABLES.len() - 1];
            records +=
                cut.admitted.iter().filter(|a| a.records.to() > silver).map(|a| a.records.len() as u64).sum::<u64>();
            for position in &mut standing.tables {
                *position = cut.to.max(*position);
            }
            standing.counts = cut.counts;
            self.deliver_letters(cut, standing).await?;
            for (sink, position) in self.sinks.iter().zip(&mut standing.sinks) {
                for admitted in &cut.admitted {
                    let (from, to) = (admitted.records.from().max(*position), admitted.records.to());
                    if to > *position {
                        self.deliver(sink, cut.partition, from, to, admitted.accepted.since(from)).await?;
                        *position = to;
                    }
                }
            }
        }
        let took = Duration::from_nanos(self.clock.monotonic_nanos() - started);
        let misrouted = cuts.iter_mut().filter_map(|cut| Some((cut.partition, cut.misrouted.take()?))).collect();
        let gold = gold_part(cuts);
        Ok(RowsDone { standing, tables: moved, records, released, committed, took, misrouted, gold, gold_left })
    }

    /// Shows alerts to their sinks and makes the rows of Gold durable.
    pub(crate) async fn gold(&self, part: GoldPart) -> Result<GoldDone> {
        let started = self.clock.monotonic_nanos();
        if !part.alerts.is_empty() {
            for sink in &self.alert_sinks {
                self.retry
                    .run("notify of alerts", || sink.notify(&part.alerts))
                    .await
                    .map_err(|e| e.with("sink", sink.name()))?;
            }
        }
        let tables: Vec<_> = part.tables.iter().map(|commit| commit.table).collect();
        let commit = Arc::new(Commit {
            topic: self.topic.clone(),
            tables: part.tables,
            admitted: Vec::new(),
            ranges: part.ranges,
        });
        let mut committed = Committed::default();
        if !commit.tables.is_empty() {
            committed = self.retry.run("commit windows", || self.store.commit(commit.clone())).await?;
        }
        let mut names = committed.ranges.iter().cloned();
        let ranges =
            part.owners.into_iter().map(|(partition, n)| (partition, names.by_ref().take(n).collect())).collect();
        let took = Duration::from_nanos(self.clock.monotonic_nanos() - started);
        Ok(GoldDone { ranges, tables, committed, took, alerts: part.alerts })
    }

    /// Brings the sinks of a partition to where Silver stands.
    pub(crate) async fn catch_up_sinks(&self, partition: u32, silver: u64) -> Result<Vec<u64>> {
        let mut positions = Vec::new();
        for sink in &self.sinks {
            let ask = || sink.position(&self.topic, partition);
            let mut at = self.retry.run("ask a sink for its position", ask).await?.unwrap_or(0);
            while at < silver {
                const ROWS: usize = 32_768;
                let read = || self.store.read_silver(&self.topic, partition, at, silver, ROWS);
                let events = self.retry.run("read silver", read).await?;
                let to = match events.rows().last() {
                    Some(last) if events.rows().len() >= ROWS => last.offset + 1,
                    _ => silver,
                };
                self.deliver(sink, partition, at, to, events).await?;
                at = to;
            }
            positions.push(at);
        }
        Ok(positions)
    }

    async fn deliver(
        &self,
        sink: &Arc<dyn Sink>,
        partition: u32,
        from: u64,
        to: u64,
        events: subscription_core::EventBatch,
    ) -> Result<()> {
        let delivery = Delivery { topic: self.topic.clone(), partition, from, to, events };
        self.retry.run("write to a sink", || sink.write(&delivery)).await.map_err(|e| e.with("sink", sink.name()))
    }
}

fn counters(table: Table, cut: &PartitionCut) -> Vec<(Counter, i64)> {
    let mut counters = Vec::new();
    let mut keep = |counter, value: i64| counters.push((counter, value));
    if let (Table::Silver, Some(watermark)) = (table, cut.watermark) {
        keep(Counter::Watermark, watermark.millis());
    }
    if let (Table::Bronze | Table::Silver, Some(time)) = (table, cut.ingestion_time) {
        keep(Counter::IngestionTime, time.millis());
    }
    match table {
        Table::Bronze => {
            keep(Counter::Read, cut.counts.read as i64);
            keep(Counter::DeadLettered, cut.counts.dead_lettered as i64);
            if cut.skipped > 0 {
                keep(Counter::Skipped, cut.skipped as i64);
            }
        }
        Table::DeadLetter => keep(Counter::DeadLettered, cut.counts.dead_lettered as i64),
        Table::Quarantine => keep(Counter::Quarantined, cut.counts.quarantined as i64),
        _ => {
            keep(Counter::Accepted, cut.counts.accepted as i64);
            keep(Counter::Duplicates, cut.counts.duplicates as i64);
            keep(Counter::Quarantined, cut.counts.quarantined as i64);
        }
    }
    counters
}

/// The Gold of a cut, in the order of the tables; `None` where no partition handed over any.
fn gold_part(cuts: Vec<PartitionCut>) -> Option<GoldPart> {
    let mut spans: BTreeMap<Table, Vec<TableSpan>> = BTreeMap::new();
    let mut part = GoldPart { tables: Vec::new(), ranges: Vec::new(), owners: Vec::new(), alerts: Vec::new() };
    for cut in cuts {
        part.alerts.extend(cut.alerts);
        let Some(gold) = cut.gold else { continue };
        for (table, span) in gold.tables {
            spans.entry(table).or_default().push(span);
        }
        part.owners.push((cut.partition, gold.ranges.len()));
        part.ranges.extend(gold.ranges);
    }
    part.tables = spans.into_iter().map(|(table, spans)| TableCommit { table, spans }).collect();
    (!part.owners.is_empty()).then_some(part)
}

#[cfg(test)]
mod tests {
    use subscription_core::{GoldRows, RangeKey, RangeWrite, Timestamp};

    use super::*;

    #[test]
    fn what_was_taken_away_is_left_out_of_gold() {
        let table = Table::UsageHour;
        let span = |partition| TableSpan { partition, from: 0, to: 9, counters: Vec::new() };
        let range = |partition| {
            let key = RangeKey { window_start: Timestamp::EPOCH, tenant_id: "acme".into() };
            let rows = GoldRows::Usage(Vec::new());
            RangeWrite { table, partition, replaces: Vec::new(), first: key.clone(), last: key, rows }
        };
        let mut part = GoldPart {
            tables: vec![
                TableCommit { table, spans: vec![span(1), span(2)] },
                TableCommit { table: Table::Alerts, spans: vec![span(1)] },
            ],
            ranges: vec![range(1), range(1), range(2)],
            owners: vec![(1, 2), (2, 1)],
            alerts: Vec::new(),
        };
        part.leave_out(&[1, 7]);
        assert_eq!(part.tables, vec![TableCommit { table, spans: vec![span(2)] }]);
        assert_eq!((part.ranges, part.owners), (vec![range(2)], vec![(2, 1)]));
    }
}
