//! Named points between two effects, at which a crash test ends the process.
//!
//! With feature `failpoints` and `SUBSCRIPTION_FAILPOINT=name:count` in the environment the process aborts when it
//! comes to the point for the `count`th time (first, if no count is given). Without the feature a point is nothing.

/// The points of this crate; `{table}` stands for every table's name.
pub const FAILPOINTS: [&str; 5] = [
    "delta.before_data_files",
    "delta.after_data_files",
    "delta.before_log.{table}",
    "delta.after_log.{table}",
    "delta.after_settings",
];

#[cfg(feature = "failpoints")]
pub(crate) fn hit(name: &str, table: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let value = std::env::var("SUBSCRIPTION_FAILPOINT").ok()?;
        let (name, count) = value.rsplit_once(':').unwrap_or((&value, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });
    static HITS: AtomicU64 = AtomicU64::new(0);

    if let Some((chosen, count)) = &*CHOSEN {
        let here = if table.is_empty() { chosen == name } else { *chosen == format!("{name}.{table}") };
        if here && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *count {
            std::process::abort();
        }
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn hit(_name: &str, _table: &str) {}
