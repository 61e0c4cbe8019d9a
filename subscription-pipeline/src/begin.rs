//! Where reading a partition begins: at its position in the lake, unless the source no longer has what comes next.

use subscription_core::{Error, ErrorKind, OffsetRange, Result, Table};

use crate::config::OnGap;
use crate::events::PipelineEvent;
use crate::retry::Tries;
use crate::run::{Run, nanos};
use crate::worker::Job;

/// A partition that could not be begun, for a reason that will pass.
pub(crate) struct Postponed {
    position: u64,
    /// When to try again, on the monotonic clock, in nanoseconds.
    at: u64,
    tries: Tries,
}

impl Run {
    /// Asks the source to begin a partition that has caught up with the lake to `position`.
    pub(crate) async fn begin(&mut self, partition: u32, position: u64) -> Result<()> {
        if !self.owned.contains_key(&partition) {
            return Ok(());
        }
        let position = match self.source.offsets(partition).await {
            Ok(Some(range)) => self.pass_gap(partition, position, range)?,
            Ok(None) => position,
            // Others go on meanwhile, and a partition that is taken away is let go.
            Err(error) => {
                let tries = || self.committer.retry.tries("ask for the offsets of a partition");
                let mut tries = self.postponed.remove(&partition).map_or_else(tries, |postponed| postponed.tries);
                let at = self.committer.clock.monotonic_nanos() + nanos(tries.pause(error)?);
                self.postponed.insert(partition, Postponed { position, at, tries });
                return Ok(());
            }
        };
        self.postponed.remove(&partition);
        let Some(owned) = self.owned.get_mut(&partition) else { return Ok(()) };
        let from = owned.expected.as_ref().map_or(position, |expected| expected.get(0).offset());
        owned.delivered = Some(from);
        self.source.start(partition, from).await?;
        self.events.send(PipelineEvent::CaughtUp { partition, position });
        Ok(())
    }

    /// Begins one of the partitions that could not be begun before, where it is time to.
    pub(crate) async fn begin_postponed(&mut self) -> Result<()> {
        let now = self.committer.clock.monotonic_nanos();
        match self.postponed.iter().find(|(_, postponed)| postponed.at <= now) {
            Some((&partition, postponed)) => self.begin(partition, postponed.position).await,
            None => Ok(()),
        }
    }

    /// After an error that records are gone while the source was read: looks for where, and passes them. Any other is
    /// answered.
    pub(crate) async fn pass_gaps(&mut self, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::Gap {
            return Err(error);
        }
        let started = self.owned.iter().filter_map(|(&partition, owned)| Some((partition, owned.delivered?)));
        let mut passed = false;
        for (partition, delivered) in started.collect::<Vec<_>>() {
            let position = self.owned[&partition].standing.tables[1].max(delivered);
            if self.offsets(partition).await?.is_some_and(|range| range.first > position || range.end < position) {
                self.begin(partition, position).await?;
                passed = true;
            }
        }
        if passed { Ok(()) } else { Err(error) }
    }

    async fn offsets(&mut self, partition: u32) -> Result<Option<OffsetRange>> {
        let mut tries = self.committer.retry.tries("ask for the offsets of a partition");
        loop {
            match self.source.offsets(partition).await {
                Ok(range) => return Ok(range),
                Err(error) => tries.failed(error).await?,
            }
        }
    }

    /// Where to begin, given what the source has. What is gone is skipped only where that was asked for.
    fn pass_gap(&mut self, partition: u32, position: u64, range: OffsetRange) -> Result<u64> {
        if range.end < position {
            return Err(shorter(partition, position, range));
        }
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.bounded = true;
            if owned.expected.as_ref().is_some_and(|expected| expected.get(0).offset() < range.first) {
                // Nothing is left to compare with.
                owned.expected = None;
            }
        }
        if range.first <= position {
            return Ok(position);
        }
        // What was gone when the lake was first filled never belonged to it.
        let missing_from = position.max(self.starts.get(&partition).copied().unwrap_or_default());
        let missing = range.first.saturating_sub(missing_from);
        if missing > 0 {
            if self.config.on_gap == OnGap::Fail {
                return Err(gap(partition, missing_from, missing, range));
            }
            self.events.send(PipelineEvent::Skipped { partition, from: missing_from, to: range.first });
        }
        self.worker(partition).send(Job::Skip { partition, to: range.first, counted: missing });
        self.rows_due = true;
        Ok(range.first)
    }
}

fn gap(partition: u32, position: u64, missing: u64, range: OffsetRange) -> Error {
    Error::new(ErrorKind::Gap, format!("{missing} records are gone from the source: its retention passed the position"))
        .with("partition", partition)
        .with("table", Table::Bronze.name())
        .with("position", position)
        .with("source begins at", range.first)
        .with_help(
            "if they can be had elsewhere, fill another lake with them; to go on without them, run with `--on-gap skip`: the \
             ledger then says how many were skipped",
        )
}

fn shorter(partition: u32, position: u64, range: OffsetRange) -> Error {
    Error::new(ErrorKind::Mismatch, "the source ends before the lake's position")
        .with("partition", partition)
        .with("table", Table::Bronze.name())
        .with("position", position)
        .with("source ends at", range.end)
        .with_help(
            "the topic was deleted and made again, or lost records that were acknowledged: its records are not those of this \
             lake; fill another lake from it",
        )
}
