//! Decides requests: 60 of a clock minute pass on the free plan, the 61st does not, the next minute's first one does.
//!
//! `cargo run -p subscription-core --example decide`

use subscription_core::{Catalog, Limits, MemoryCounters, Timestamp, WindowAlgorithm};

fn main() {
    let catalog = Catalog::default();
    let counters = MemoryCounters::new();
    // A service calls `counters.decide(tenant, &limits, 1)`, on the system's clock.
    let minute = Timestamp::from_millis(1_780_271_400_000);
    let plan = catalog.plan("acme", "free", minute).expect("a plan of the catalog");
    let limits = Limits { window: WindowAlgorithm::Fixed, ..plan.into() };
    for request in 1..=62 {
        let at = minute.plus_millis(if request <= 61 { 30_000 } else { 60_000 });
        let decision = counters.decide_at("acme", &limits, 1, at);
        if request >= 58 {
            let answer = if decision.allowed { "allowed" } else { "denied " };
            let counted = counters.counters_at("acme", at).minute.live;
            println!("{at} request {request}: {answer} counter: {counted:2} RateLimit: {}", decision.rate_limit());
        }
        if let Some(body) = decision.problem_json() {
            println!("{:24} Retry-After: {}\n{:24} {body}", "", decision.retry_after().unwrap_or_default(), "");
        }
    }
}
