//! Group 3 of the validation: what only the platform, not the payload alone, can tell.

use crate::event::ApiUsageEvent;
use crate::partition::Routing;
use crate::plan::Catalog;
use crate::rules::Rules;
use crate::time::Timestamp;

/// Checks a valid event against its surroundings: times, velocities, the catalog, its partition.
///
/// `ingestion` is the record timestamp. `routing` is the record's partition and where its topic has which tenant; `None`
/// where that is not to be checked.
///
/// Answers `code:field` for every rule that is broken, sorted; nothing is allocated where none is.
///
/// # Panics
/// If `routing` has 0 partitions.
pub fn check_business(
    event: &ApiUsageEvent<'_>,
    ingestion: Timestamp,
    rules: &Rules,
    catalog: &Catalog,
    routing: Option<(u32, Routing)>,
) -> Vec<String> {
    let mut errors = Vec::new();
    // In the order of the codes, so that they come out sorted.
    let age = ingestion.millis().saturating_sub(event.event_timestamp.millis());
    if age < rules.clock_skew_ms.saturating_neg() {
        errors.push("event_after_ingestion:event_timestamp".to_owned());
    }
    if age > rules.max_age_ms {
        errors.push("event_too_old:event_timestamp".to_owned());
    }
    if let Some(field) = implausible_velocity(event, rules.max_velocity) {
        errors.push(format!("implausible_velocity:{field}"));
    }
    if let Some((partition, routing)) = routing
        && routing.partition(&event.tenant_id) != partition
    {
        errors.push("misrouted:tenant_id".to_owned());
    }
    if catalog.terms(&event.tenant_id, &event.subscription_plan, event.event_timestamp).is_none() {
        errors.push("unknown_plan:subscription_plan".to_owned());
    }
    errors
}

/// The first velocity above that of the next longer time, where that is given, or above `max`.
fn implausible_velocity(event: &ApiUsageEvent<'_>, max: i64) -> Option<&'static str> {
    let (minute, five, hour) = (event.velocity_last_1min, event.velocity_last_5min, event.velocity_last_1hour);
    [("velocity_last_1min", minute, five), ("velocity_last_5min", five, hour), ("velocity_last_1hour", hour, None)]
        .into_iter()
        .find(|(_, velocity, next)| velocity.is_some_and(|v| v > max || next.is_some_and(|next| v > next)))
        .map(|(field, _, _)| field)
}
