//! What is wrong with a server is told in words that help.

use subscription_core::{
    Check, Clock as _, CounterStore, Error, ErrorKind, Limits, Result, Settled, SystemClock, WindowAlgorithm,
    WindowKind,
};
use subscription_redis::{RedisConfig, RedisCounters};

use crate::server::{DEADLINE, Servers};

const WIDE: Limits = Limits { per_minute: 100, per_hour: 100, per_month: 100, window: WindowAlgorithm::Sliding };

async fn ask(counters: &RedisCounters, tenant: &str) -> Result<bool> {
    let check = Check { tenant, limits: WIDE, scopes: &[], cost: 1, at: None };
    counters.check_and_add(check, DEADLINE).await.map(|decision| decision.allowed)
}

/// As a pipeline does, for some tenants at once.
async fn settle(counters: &RedisCounters, tenants: &[&str]) -> Result<()> {
    let window_start = WindowKind::Month.start(SystemClock::new().now());
    let values: Vec<_> = tenants
        .iter()
        .map(|&tenant| Settled { tenant, kind: WindowKind::Month, window_start, quota_used: 7 })
        .collect();
    counters.settle(&values, DEADLINE).await
}

fn told(error: &Error, kind: ErrorKind, words: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(format!("{error:?}").contains(words), "{error:?}");
    assert!(error.help().is_some(), "{error:?}");
}

#[tokio::test]
async fn nobody_there() {
    let config = RedisConfig::new("redis://127.0.0.1:1").unwrap();
    let counters = RedisCounters::new(config.clone()).unwrap();
    let error = counters.ready().await.unwrap_err();
    told(&error, ErrorKind::Unavailable, "127.0.0.1:1");
    assert!(ask(&counters, "acme").await.unwrap_err().is_retryable());
    told(&RedisCounters::connect(config).await.unwrap_err(), ErrorKind::Unavailable, "127.0.0.1:1");
    let wrong = RedisConfig::new("redis://127.0.0.1:1").unwrap().prefix("a{b}");
    told(&RedisCounters::new(wrong).unwrap_err(), ErrorKind::Configuration, "a{b}");
}

#[tokio::test]
async fn passwords_and_rights() {
    let Some(servers) = Servers::up(&["--", "requirepass", "secret"]) else { return };
    let port = servers.ports()[0];
    let connect = async |user: &str| {
        let url = format!("redis://{user}127.0.0.1:{port}");
        RedisCounters::connect(RedisConfig::new(&url).unwrap().connect_timeout(DEADLINE)).await
    };
    assert!(ask(&connect(":secret@").await.unwrap(), "acme").await.unwrap());
    let error = connect(":guess@").await.unwrap_err();
    told(&error, ErrorKind::PermissionDenied, "password");
    assert!(!format!("{error:?}").contains("guess"), "{error:?}");
    let error = match connect("").await {
        Ok(counters) => ask(&counters, "acme").await.unwrap_err(),
        Err(error) => error,
    };
    told(&error, ErrorKind::PermissionDenied, "password");

    // The rights that the documentation names are enough, and none of another prefix.
    let acl =
        "acl setuser gateway on >pw ~usage:* resetchannels -@all +eval +evalsha +time +hmget +hset +pexpire +ping";
    let words: Vec<&str> = ["-a", "secret", "--no-auth-warning"].into_iter().chain(acl.split(' ')).collect();
    assert_eq!(servers.cli(port, &words), "OK");
    let url = format!("redis://gateway:pw@127.0.0.1:{port}");
    let config = RedisConfig::new(&url).unwrap().connect_timeout(DEADLINE);
    let counters = RedisCounters::connect(config.clone()).await.unwrap();
    assert!(ask(&counters, "acme").await.unwrap());
    settle(&counters, &["acme", "other"]).await.unwrap();
    let elsewhere = RedisCounters::connect(config.prefix("other")).await.unwrap();
    told(&ask(&elsewhere, "acme").await.unwrap_err(), ErrorKind::PermissionDenied, "rights");
    told(&settle(&elsewhere, &["acme", "other"]).await.unwrap_err(), ErrorKind::PermissionDenied, "rights");
}

#[tokio::test]
async fn a_replica() {
    let Some(servers) = Servers::up(&["--sentinel"]) else { return };
    let url = format!("redis://127.0.0.1:{}", servers.ports()[1]);
    let counters = RedisCounters::connect(RedisConfig::new(&url).unwrap().connect_timeout(DEADLINE)).await.unwrap();
    told(&settle(&counters, &["acme", "other"]).await.unwrap_err(), ErrorKind::Unavailable, "replica");
    told(&ask(&counters, "acme").await.unwrap_err(), ErrorKind::Unavailable, "replica");
    let wrong = servers.url().replace("/main", "/other");
    let config = RedisConfig::new(&wrong).unwrap().connect_timeout(DEADLINE);
    told(&RedisCounters::connect(config).await.unwrap_err(), ErrorKind::Unavailable, "Sentinel");
}

#[tokio::test]
async fn a_key_of_another_type() {
    let Some(servers) = Servers::up(&[]) else { return };
    let counters = servers.counters().await;
    let at = counters.counters("acme", DEADLINE).await.unwrap().at;
    let month = subscription_core::WindowKind::Month.start(at).millis() / 1_000;
    servers.cli(servers.ports()[0], &["set", &format!("usage:{{acme}}:1month:{month}"), "a string"]);
    let error = ask(&counters, "acme").await.unwrap_err();
    told(&error, ErrorKind::Corrupt, "something else");
    assert!(!error.is_retryable(), "{error:?}");
    assert!(ask(&counters, "other").await.unwrap(), "others are not concerned");
    told(&settle(&counters, &["acme", "other"]).await.unwrap_err(), ErrorKind::Corrupt, "something else");
    assert_eq!(counters.counters("other", DEADLINE).await.unwrap().month.settled, 7);
}

#[tokio::test]
async fn no_memory_left() {
    let Some(servers) = Servers::up(&["--", "maxmemory", "1", "maxmemory-policy", "noeviction"]) else { return };
    let counters = servers.counters().await;
    told(&ask(&counters, "acme").await.unwrap_err(), ErrorKind::StorageFull, "memory");
    told(&settle(&counters, &["acme", "other"]).await.unwrap_err(), ErrorKind::StorageFull, "memory");
}
