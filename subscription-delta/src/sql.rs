//! SQL over the tables, by DataFusion.

use std::error::Error as _;

use deltalake::arrow::array::RecordBatch;
use deltalake::datafusion::prelude::SessionContext;
use subscription_core::{Error, ErrorKind, Result};

use crate::store::DeltaStore;

impl DeltaStore {
    /// Answers a query over the tables, under their names, as of now.
    ///
    /// # Errors
    /// `Configuration` where DataFusion refuses the query; what the storage says.
    pub async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let context = SessionContext::new();
        let failed = |error: deltalake::datafusion::error::DataFusionError| {
            // The cause knows more than what it is wrapped in.
            let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            Error::new(ErrorKind::Configuration, format!("the query failed: {message}"))
                .with_help("the tables and their columns are described in docs/tables.md")
                .with_source(error)
        };
        for log in &self.logs {
            let table = log.delta_table().await?;
            table
                .update_datafusion_session(&context.state())
                .map_err(|error| log.doing("open", &log.path).delta(error))?;
            let provider = table.table_provider().await.map_err(failed)?;
            context.register_table(log.table.name(), provider).map_err(failed)?;
        }
        context.sql(sql).await.map_err(failed)?.collect().await.map_err(failed)
    }
}
