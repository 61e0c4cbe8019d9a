//! `pipeline usage`: what enforcement sees of a tenant.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use subscription_core::{CounterStore, Result, TenantCounters, WindowCounter};
use subscription_redis::{RedisConfig, RedisCounters};

use crate::exit::{At, Exit, Outcome};
use crate::text::{Align, columns, count};

/// What `usage` is told.
#[derive(Debug, Clone, Args)]
pub struct Usage {
    /// The tenant
    tenant: String,

    /// The counters by which gateways decide: redis://host:port
    #[arg(long, value_name = "URL", env = "PIPELINE_REDIS")]
    redis: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Asks the counters.
///
/// # Errors
/// With the exit code by what failed.
pub async fn usage(usage: &Usage) -> Outcome<(Exit, String)> {
    let config = RedisConfig::new(&usage.redis).at_usage()?;
    let store = RedisCounters::connect(config).await.at_input()?;
    let counters = store.counters(&usage.tenant, Duration::from_secs(1)).await.at_input()?;
    Ok((Exit::Ok, if usage.json { json(&usage.tenant, &counters) } else { page(&counters) }))
}

/// The counters at a URL, for a pipeline: it begins without them where they are away, and says so.
pub(crate) async fn counters(url: &str) -> Result<RedisCounters> {
    let counters = RedisCounters::new(RedisConfig::new(url)?)?;
    if let Err(error) = counters.ready().await {
        eprintln!("warning: {error}; they are told once they are there");
    }
    Ok(counters)
}

fn windows(counters: &TenantCounters) -> [(&'static str, WindowCounter); 4] {
    let TenantCounters { minute, previous_minute, hour, month, .. } = *counters;
    [("minute", minute), ("minute before", previous_minute), ("hour", hour), ("month", month)]
}

fn page(counters: &TenantCounters) -> String {
    let heading = ["", "used", "admitted by gateways", "metered"].map(str::to_owned).to_vec();
    let row = |(name, counter): (&str, WindowCounter)| {
        vec![name.to_owned(), count(counter.used()), count(counter.live), count(counter.settled)]
    };
    let rows: Vec<_> = std::iter::once(heading).chain(windows(counters).map(row)).collect();
    let align = [Align::Left, Align::Right, Align::Right, Align::Right];
    format!("at {}\n{}", counters.at, columns(&align, &rows))
}

fn json(tenant: &str, counters: &TenantCounters) -> String {
    let mut object = json!({ "tenant_id": tenant, "at": counters.at.to_string() });
    for (name, counter) in windows(counters) {
        let value = json!({ "used": counter.used(), "live": counter.live, "settled": counter.settled });
        object[name.replace(' ', "_")] = value;
    }
    format!("{object}\n")
}
