//! Dead letters on their way to their sinks, once they are durable in the lake.

use std::sync::Arc;

use subscription_core::{DeadLetterSink, DeadLetters, Result};

use crate::commit::{Committer, Standing};
use crate::partition::PartitionCut;

/// Rows of `dead_letter` read at a time while a sink catches up.
const CATCH_UP_ROWS: usize = 1_000;

impl Committer {
    /// Shows the dead letters of a cut that was committed.
    pub(crate) async fn deliver_letters(&self, cut: &PartitionCut, standing: &mut Standing) -> Result<()> {
        for (sink, position) in self.letter_sinks.iter().zip(&mut standing.letters) {
            for admitted in &cut.admitted {
                let (from, to) = (admitted.records.from().max(*position), admitted.records.to());
                if to > *position {
                    self.write_letters(sink, &DeadLetters::of(admitted, from)).await?;
                    *position = to;
                }
            }
        }
        Ok(())
    }

    /// Brings the sinks of a partition to where the table `dead_letter` stands.
    pub(crate) async fn catch_up_letters(&self, partition: u32, table: u64) -> Result<Vec<u64>> {
        let mut positions = Vec::new();
        for sink in &self.letter_sinks {
            let ask = || sink.position(&self.topic, partition);
            let mut at = self.retry.run("ask a sink for its position", ask).await?.unwrap_or(0);
            while at < table {
                let read = || self.store.read_dead_letters(&self.topic, partition, at, table, CATCH_UP_ROWS);
                let letters = self.retry.run("read dead letters", read).await?;
                self.write_letters(sink, &letters).await?;
                at = letters.records.to();
            }
            positions.push(at);
        }
        Ok(positions)
    }

    async fn write_letters(&self, sink: &Arc<dyn DeadLetterSink>, letters: &DeadLetters) -> Result<()> {
        let write = || sink.write(letters);
        self.retry.run("write dead letters", write).await.map_err(|error| error.with("sink", sink.name()))
    }
}
