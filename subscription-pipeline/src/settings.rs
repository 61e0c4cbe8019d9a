//! What a lake must not be filled with twice: the settings it keeps, compared at every start.

use serde_json::{Value, json};
use subscription_core::{Catalog, Error, ErrorKind, Result, Rules, Settings, SourceIdentity, Timestamp};

/// The settings of a run, as a lake keeps them.
pub(crate) fn describe(topic: &str, source: &SourceIdentity, rules: &Rules, catalog: &Catalog) -> Result<Value> {
    let settings: serde_json::Map<_, _> =
        source.settings.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    Ok(json!({
        "format": 1,
        "topic": topic,
        "partitions": source.partitions,
        "rules": serde_json::to_value(rules).map_err(broken)?,
        "catalog": serde_json::from_str::<Value>(&catalog.to_canonical_json()).map_err(broken)?,
        "source": settings,
    }))
}

/// Compares with what the lake has; answers what to keep instead, where the difference concerns no record read so far.
///
/// `read_to` is the greatest ingestion time read, `None` where nothing was read yet.
pub(crate) fn reconcile(kept: Option<&Settings>, now: &Value, read_to: Option<Timestamp>) -> Result<Option<Settings>> {
    let next = |version| Some(Settings { version, json: now.to_string() });
    let Some(kept) = kept else { return Ok(next(1)) };
    let old: Value = serde_json::from_str(&kept.json).map_err(broken)?;
    if old == *now {
        return Ok(None);
    }
    let Some(read_to) = read_to else { return Ok(next(kept.version + 1)) };
    for part in ["format", "topic", "partitions", "source", "rules"] {
        if let Some((path, was, is)) = first_difference(part, &old[part], &now[part]) {
            return Err(Error::new(ErrorKind::Mismatch, "the lake was filled with other settings")
                .with("setting", path)
                .with("lake", was)
                .with("now", is)
                .with_help("run with the settings of the lake, or fill another lake"));
        }
    }
    let (old_catalog, new_catalog) = (catalog(&old)?, catalog(now)?);
    // Events may be ahead of their ingestion time by this much, and were priced by the terms of then.
    let skew = old["rules"]["clock_skew_ms"].as_i64().unwrap_or_default();
    if let Some(difference) = new_catalog.differs_before(&old_catalog, read_to.plus_millis(skew)) {
        return Err(Error::new(ErrorKind::Mismatch, "the lake was filled with another plan catalog")
            .with("difference", difference)
            .with("records read up to", read_to)
            .with_help("leave past terms as they are and give the new ones an `effective_from` in the future, or fill another lake"));
    }
    Ok(next(kept.version + 1))
}

fn catalog(settings: &Value) -> Result<Catalog> {
    Catalog::from_canonical_json(&settings["catalog"].to_string())
        .map_err(|e| Error::new(ErrorKind::Corrupt, "the lake's settings hold no plan catalog").with_source(e))
}

fn broken(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "the lake's settings are no JSON").with_source(error)
}

fn first_difference(path: &str, old: &Value, new: &Value) -> Option<(String, String, String)> {
    match (old, new) {
        _ if old == new => None,
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys()).find_map(|key| {
            let none = Value::Null;
            first_difference(&format!("{path}.{key}"), a.get(key).unwrap_or(&none), b.get(key).unwrap_or(&none))
        }),
        _ => Some((path.to_owned(), show(old), show(new))),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "(none)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
