//! Servers that die, sleep, forget and move: every call ends, nothing is counted twice, all goes on by itself.

use std::time::Duration;

use subscription_core::{Check, CounterStore, ErrorKind, Limits, Result, WindowAlgorithm};
use subscription_redis::RedisCounters;

use crate::server::{DEADLINE, Servers};

const WIDE: Limits =
    Limits { per_minute: 1 << 40, per_hour: 1 << 40, per_month: 1 << 40, window: WindowAlgorithm::Fixed };

async fn ask(counters: &RedisCounters, tenant: &str, deadline: Duration) -> Result<bool> {
    let check = Check { tenant, limits: WIDE, scopes: &[], cost: 1, at: None };
    counters.check_and_add(check, deadline).await.map(|decision| decision.allowed)
}

/// Asks until there is an answer; says how often there was none.
async fn until_answered(counters: &RedisCounters, tenant: &str) -> u32 {
    for failures in 0..3_000 {
        match ask(counters, tenant, DEADLINE).await {
            Ok(allowed) => {
                assert!(allowed);
                return failures;
            }
            Err(error) => {
                assert!(error.is_retryable(), "{error:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    panic!("no answer for {tenant} in 3,000 attempts");
}

async fn live(counters: &RedisCounters, tenant: &str) -> i64 {
    counters.counters(tenant, DEADLINE).await.expect("counters").month.live
}

#[tokio::test]
async fn a_server_that_is_killed_comes_back() {
    let Some(servers) = Servers::up(&[]) else { return };
    let port = servers.ports()[0];
    let counters = servers.counters().await;
    for _ in 0..3 {
        assert!(ask(&counters, "acme", DEADLINE).await.unwrap());
        servers.kill(port);
        let error = ask(&counters, "acme", DEADLINE).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error:?}");
        servers.start(port);
        // The script is gone with the server's memory, and sent anew.
        until_answered(&counters, "acme").await;
        assert_eq!(live(&counters, "acme").await, 1);
    }
}

#[tokio::test]
async fn a_server_that_forgets() {
    let Some(servers) = Servers::up(&[]) else { return };
    let port = servers.ports()[0];
    let counters = servers.counters().await;
    assert!(ask(&counters, "acme", DEADLINE).await.unwrap());
    servers.cli(port, &["script", "flush"]);
    assert!(ask(&counters, "acme", DEADLINE).await.unwrap());
    assert_eq!(live(&counters, "acme").await, 2);
    servers.cli(port, &["flushall"]);
    assert!(ask(&counters, "acme", DEADLINE).await.unwrap());
    assert_eq!(live(&counters, "acme").await, 1);
}

/// An answer that comes too late counts once: the call was sent, and is not sent again.
#[tokio::test]
async fn a_server_that_sleeps() {
    let Some(servers) = Servers::up(&[]) else { return };
    let port = servers.ports()[0];
    let counters = servers.counters().await;
    assert!(ask(&counters, "acme", DEADLINE).await.unwrap());
    servers.signal(port, "STOP");
    for _ in 0..10 {
        let error = ask(&counters, "acme", Duration::from_millis(5)).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error:?}");
    }
    servers.signal(port, "CONT");
    until_answered(&counters, "acme").await;
    assert_eq!(live(&counters, "acme").await, 12, "one before, ten whose answers were lost, one after");
}

/// The connection is given up after a second of silence: a host that is gone closes none.
#[tokio::test]
async fn a_server_that_stays_silent() {
    let Some(servers) = Servers::up(&[]) else { return };
    let port = servers.ports()[0];
    let counters = servers.counters().await;
    servers.signal(port, "STOP");
    let mut errors = Vec::new();
    while errors.len() < 600 {
        errors.push(ask(&counters, "acme", Duration::from_millis(5)).await.unwrap_err());
    }
    servers.signal(port, "CONT");
    until_answered(&counters, "acme").await;
    assert!(errors.iter().all(|error| error.is_retryable()));
}

#[tokio::test]
async fn a_failover_by_sentinel() {
    let Some(servers) = Servers::up(&["--sentinel"]) else { return };
    let ports = servers.ports();
    let counters = servers.counters().await;
    assert!(ask(&counters, "acme", DEADLINE).await.unwrap());
    servers.kill(ports[0]);
    let failures = until_answered(&counters, "acme").await;
    assert!(failures > 0, "the primary was killed");
    let primary = servers.cli(ports[3], &["sentinel", "get-master-addr-by-name", "main"]);
    assert!(!primary.ends_with(&ports[0].to_string()), "{primary}");
    assert!(ask(&counters, "acme", DEADLINE).await.unwrap());
}

/// While slots move from node to node each request is decided once, by the node that has the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move() {
    let Some(servers) = Servers::up(&["--cluster"]) else { return };
    let counters = servers.counters().await;
    let tenants = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];
    let mut answered = [0; 8];
    let mut failed = [0; 8];
    let mover = async {
        // Each slot goes round all nodes.
        for target in [1, 2, 0] {
            for tenant in tenants {
                servers.move_slot(tenant, target).await;
            }
        }
    };
    let asker = async {
        loop {
            for (n, tenant) in tenants.iter().enumerate() {
                match ask(&counters, tenant, DEADLINE).await {
                    Ok(_) => answered[n] += 1,
                    Err(error) => {
                        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error:?}");
                        failed[n] += 1;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = mover => {}
        () = asker => {}
    }
    for (n, tenant) in tenants.iter().enumerate() {
        until_answered(&counters, tenant).await;
        let counted = live(&counters, tenant).await;
        // Refused requests are not executed, but for one that was under way when the asking stopped.
        let expected = answered[n] + 1;
        assert!(
            (expected..=expected + 1).contains(&counted),
            "{tenant}: {counted} of {expected}, {} failed",
            failed[n]
        );
    }
    println!("answered {answered:?}, refused {failed:?}");
}

#[tokio::test]
async fn a_node_that_dies() {
    let Some(servers) = Servers::up(&["--cluster", "--replicas", "1"]) else { return };
    let ports = servers.ports();
    let counters = servers.counters().await;
    let tenants: Vec<String> = (0..30).map(|n| format!("tenant-{n}")).collect();
    for tenant in &tenants {
        assert!(ask(&counters, tenant, DEADLINE).await.unwrap());
    }
    let primary = ports.iter().copied().find(|&port| servers.cli(port, &["role"]).starts_with("master"));
    servers.kill(primary.expect("a primary"));
    let mut failures = 0;
    for tenant in &tenants {
        failures += until_answered(&counters, tenant).await;
    }
    assert!(failures > 0, "the tenants of the dead node had no answer at first");
    // Its replica, which took over, had been told of all.
    for tenant in &tenants {
        assert_eq!(live(&counters, tenant).await, 2, "{tenant}");
    }
}
