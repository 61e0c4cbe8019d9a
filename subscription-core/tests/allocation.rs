//! Deciding a request of a known tenant allocates nothing. (A binary of its own: it replaces the allocator.)

use allocation_counter::measure;
use subscription_core::{Catalog, Limits, MemoryCounters, Timestamp, WindowAlgorithm, WindowKind};

#[test]
fn decisions_of_known_tenants_allocate_nothing() {
    let catalog = Catalog::default();
    let counters = MemoryCounters::new();
    let now = Timestamp::from_millis(1_780_271_400_000);
    for window in [WindowAlgorithm::Fixed, WindowAlgorithm::Sliding] {
        let tenant = window.as_str();
        let limits = Limits { window, ..catalog.plan(tenant, "free", now).unwrap().into() };
        let first = measure(|| assert!(counters.decide_at(tenant, &limits, 1, now).allowed));
        assert!(first.count_total > 0, "the allocator counts");
        // Allowed and denied, over minutes, an hour and a month.
        let (mut allowed, mut denied) = (0, 0);
        let later = measure(|| {
            for second in 0..3_600 {
                let at = now.plus_millis(second * 250);
                let limits = Limits::from(catalog.plan(tenant, "free", at).unwrap());
                let limits = Limits { per_minute: 100, window, ..limits };
                let decision = counters.decide_at(tenant, &limits, 1, at);
                if decision.allowed { allowed += 1 } else { denied += 1 }
            }
        });
        assert!(WindowKind::Month.start(now) < WindowKind::Month.start(now.plus_millis(3_600 * 250)));
        assert!(allowed > 1_000 && denied > 1_000, "{allowed} allowed, {denied} denied");
        assert_eq!(later.count_total, 0);
    }
}
