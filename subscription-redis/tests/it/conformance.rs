//! The contract of counter stores.

use subscription_core::testkit::conformance::counter_store;

use crate::server::Servers;

#[tokio::test]
async fn one_server() {
    let Some(servers) = Servers::up(&[]) else { return };
    let counters = servers.counters().await;
    counter_store(&counters, "once").await;
    counter_store(&counters, "twice").await;
}

#[tokio::test]
async fn a_cluster() {
    let Some(servers) = Servers::up(&["--cluster"]) else { return };
    counter_store(&servers.counters().await, "once").await;
}

#[tokio::test]
async fn a_primary_that_sentinel_watches() {
    let Some(servers) = Servers::up(&["--sentinel"]) else { return };
    counter_store(&servers.counters().await, "once").await;
}
