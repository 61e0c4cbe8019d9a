//! The end of a run: what there was to read is in the lake.

use std::time::Duration;

use subscription_core::{Error, ErrorKind, Result, Table};

use crate::events::PipelineEvent;
use crate::run::{Run, nanos, other_inputs};

/// How often it is looked whether other processes are done.
const LOOK: Duration = Duration::from_millis(500);

/// What is waited for at the end.
#[derive(Default)]
pub(crate) struct Waiting {
    /// The partitions that others still have to commit.
    partitions: Vec<u32>,
    /// When to look again, on the monotonic clock, in nanoseconds.
    look: u64,
}

impl Run {
    /// This process has read its part; answers whether that was all. Where partitions are shared it is all once the lake has
    /// it: the others' parts may come to this process yet, as those of one that has died do.
    pub(crate) async fn reached_end(&mut self) -> Result<bool> {
        self.check_end()?;
        if self.source.ends().is_none() {
            return Ok(true);
        }
        // Others may wait for it in turn.
        self.commit_all().await?;
        self.waiting.get_or_insert_default().look = 0;
        self.others_are_done().await
    }

    /// Where others are waited for: whether they are done.
    pub(crate) async fn others_are_done(&mut self) -> Result<bool> {
        let now = self.committer.clock.monotonic_nanos();
        let Some(waiting) = self.waiting.as_mut().filter(|waiting| waiting.look <= now) else { return Ok(false) };
        waiting.look = now + nanos(LOOK);
        let ends = self.source.ends().unwrap_or_default();
        let all: Vec<u32> = (0..).take(ends.len()).collect();
        let read = || self.committer.store.state(&self.committer.topic, &all);
        let states = self.committer.retry.run("read positions", read).await?;
        let behind: Vec<u32> = (all.iter().zip(&ends).zip(&states))
            .filter(|((_, end), state)| Table::ALL.iter().any(|table| state.position(*table) < **end))
            .map(|((partition, _), _)| *partition)
            .collect();
        let done = behind.is_empty();
        if !done && behind != waiting.partitions {
            waiting.partitions.clone_from(&behind);
            self.events.send(PipelineEvent::WaitingForOthers { partitions: behind });
        }
        Ok(done)
    }

    /// At the end of the input every partition must have come at least to where the lake stands.
    fn check_end(&self) -> Result<()> {
        // Where the source said which offsets it has, that was looked at before it began.
        for (&partition, owned) in self.owned.iter().filter(|(_, owned)| !owned.bounded) {
            if let Some(expected) = &owned.expected {
                return Err(other_inputs(partition, expected.get(0).offset()));
            }
            let position = owned.standing.tables[1];
            if owned.delivered.is_some_and(|delivered| delivered < position) {
                return Err(Error::new(ErrorKind::Mismatch, "the input ends before the lake's position")
                    .with("partition", partition)
                    .with("end", owned.delivered.unwrap_or_default())
                    .with("position", position)
                    .with_help(
                        "give all the inputs that the lake was filled from, in the same order, or fill another lake",
                    ));
            }
        }
        Ok(())
    }
}
