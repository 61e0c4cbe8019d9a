//! What is in the server: names, values, lives.

use subscription_core::{Check, CounterStore, Limits, Scope, Settled, WindowAlgorithm, WindowKind};

use crate::server::{DEADLINE, Servers};

const WIDE: Limits = Limits { per_minute: 1_000, per_hour: 1_000, per_month: 1_000, window: WindowAlgorithm::Sliding };

#[tokio::test]
async fn keys_end_with_their_windows() {
    let Some(servers) = Servers::up(&[]) else { return };
    let port = servers.ports()[0];
    let counters = servers.counters().await;
    let scopes = [Scope { name: "key:k 1", limits: WIDE }];
    let check = Check { tenant: "acme", limits: WIDE, scopes: &scopes, cost: 7, at: None };
    let at = counters.check_and_add(check, DEADLINE).await.expect("a decision").at;
    let value = |kind: WindowKind| Settled { tenant: "metered", kind, window_start: kind.start(at), quota_used: 9 };
    counters.settle(&WindowKind::ALL.map(value), DEADLINE).await.expect("to settle");

    let mut names = Vec::new();
    for kind in WindowKind::ALL {
        let start = kind.start(at);
        let death = if kind == WindowKind::Minute { start } else { kind.end(start) }.plus_millis(120_000);
        for (owner, field, value) in
            [("{acme}", "live", "7"), ("{acme}/key:k%201", "live", "7"), ("{metered}", "settled", "9")]
        {
            let name = format!("usage:{owner}:{kind}:{}", start.millis() / 1_000);
            assert_eq!(servers.cli(port, &["hgetall", &name]), format!("{field}\n{value}"), "{name}");
            // Within a second, for rounding and for the machine's pace.
            let dies: i64 = servers.cli(port, &["pexpiretime", &name]).parse().expect("a time");
            assert!((dies - death.millis()).abs() < 1_000, "{name} dies at {dies}, not at {death}");
            names.push(name);
        }
    }
    names.sort_unstable();
    let all = servers.cli(port, &["keys", "*"]);
    let mut all: Vec<_> = all.lines().collect();
    all.sort_unstable();
    assert_eq!(all, names, "and no other keys");
}

#[tokio::test]
async fn denied_requests_leave_no_key() {
    let Some(servers) = Servers::up(&[]) else { return };
    let counters = servers.counters().await;
    let none = Limits { per_month: 0, ..WIDE };
    let check = Check { tenant: "acme", limits: none, scopes: &[], cost: 1, at: None };
    assert!(!counters.check_and_add(check, DEADLINE).await.expect("a decision").allowed);
    counters.counters("acme", DEADLINE).await.expect("counters");
    assert_eq!(servers.cli(servers.ports()[0], &["dbsize"]), "0");
}

/// A tenant's keys are in the slot that `CounterStore::shard` is told by.
#[tokio::test]
async fn a_tenant_is_in_one_slot() {
    let Some(servers) = Servers::up(&["--cluster"]) else { return };
    let counters = servers.counters().await;
    for tenant in ["acme", "a}b{c", "", "Ω\n"] {
        let check = Check { tenant, limits: WIDE, scopes: &[], cost: 1, at: None };
        counters.check_and_add(check, DEADLINE).await.expect("a decision");
    }
    let mut seen = 0;
    for port in servers.ports() {
        for key in servers.cli(port, &["keys", "*"]).lines() {
            let slot: usize = servers.cli(port, &["cluster", "keyslot", key]).parse().expect("a slot");
            let tenant = match key.split(['{', '}']).nth(1) {
                Some("acme") => "acme",
                Some("a%7Db%7Bc") => "a}b{c",
                Some("%") => "",
                Some("%CE%A9%0A") => "Ω\n",
                other => panic!("whose is {other:?}?"),
            };
            assert_eq!(counters.shard(tenant), slot / 256, "{key}");
            seen += 1;
        }
    }
    assert_eq!(seen, 4 * 3);
}
