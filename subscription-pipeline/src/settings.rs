//! What a lake must not be filled with twice: the settings it keeps, compared at every start.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use subscription_core::{
    Catalog, Counter, EngineConfig, Error, ErrorKind, Placement, Result, Settings, Source, SourceIdentity, Survey,
    Table, Timestamp,
};

use crate::commit::Committer;
use crate::pipeline::DEFAULT_NAME;

/// What the lake and this process agree on.
pub(crate) struct Agreed {
    /// How records are placed; `None` as long as there is none to tell by.
    pub(crate) placement: Option<Placement>,
    /// Where partitions began that no longer began at 0 when the lake was first filled.
    pub(crate) starts: BTreeMap<u32, u64>,
}

/// Compares the lake with what it is about to be filled from, and keeps what is new. Of processes that start at once,
/// one keeps its settings first and the others agree with these.
pub(crate) async fn agree(
    committer: &Committer,
    source: &mut dyn Source,
    name: &str,
    identity: &SourceIdentity,
    engine: &EngineConfig,
) -> Result<Agreed> {
    let Committer { store, topic, retry, .. } = committer;
    loop {
        let known = retry.run("read the lake's partitions", || store.partitions(topic)).await?;
        let mut read_to = None;
        for state in retry.run("read positions", || store.state(topic, &known)).await? {
            let time = state.table(Table::Bronze).counter(Counter::IngestionTime).map(Timestamp::from_millis);
            read_to = read_to.max(time);
        }
        let kept = retry.run("read the lake's settings", || store.settings()).await?;
        let old = kept.as_ref().map(|kept| serde_json::from_str::<Value>(&kept.json).map_err(broken)).transpose()?;
        let survey = survey(committer, source, identity, old.as_ref()).await?;
        let now = describe(topic, name, identity, engine, &survey)?;
        let agreed = Agreed { placement: survey.placement, starts: survey.starts.into_iter().collect() };
        match reconcile(kept.as_ref().map(|kept| kept.version).zip(old), &now, read_to)? {
            None => return Ok(agreed),
            Some(settings) => match store.put_settings(settings).await {
                Ok(()) => return Ok(agreed),
                // Another process was first: what it kept is now the lake's.
                Err(error) if error.kind() == ErrorKind::Fenced => {}
                Err(error) => return Err(error),
            },
        }
    }
}

/// What is known of the source: by the lake, else by configuration, else by a look at it. What a lake once knows of
/// placement is never found out again.
async fn survey(
    committer: &Committer,
    source: &mut dyn Source,
    identity: &SourceIdentity,
    old: Option<&Value>,
) -> Result<Survey> {
    let kept = old.and_then(|old| old["placement"].as_str()).and_then(Placement::from_name);
    let starts = old.map(|old| {
        let starts = old["starts"].as_object().into_iter().flatten();
        starts.filter_map(|(partition, start)| Some((partition.parse().ok()?, start.as_u64()?))).collect()
    });
    if let (Some(placement), Some(starts)) = (identity.placement.or(kept), &starts) {
        return Ok(Survey { placement: Some(placement), starts: Vec::clone(starts) });
    }
    let mut tries = committer.retry.tries("look at the source");
    let mut survey = loop {
        match source.survey().await {
            Ok(survey) => break survey,
            Err(error) => tries.failed(error).await?,
        }
    };
    survey.placement = identity.placement.or(kept).or(survey.placement);
    survey.starts = starts.unwrap_or(survey.starts);
    Ok(survey)
}

/// The settings of a run, as a lake keeps them.
fn describe(topic: &str, name: &str, source: &SourceIdentity, engine: &EngineConfig, survey: &Survey) -> Result<Value> {
    let settings: serde_json::Map<_, _> =
        source.settings.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    let starts: serde_json::Map<_, _> =
        survey.starts.iter().map(|(partition, start)| (partition.to_string(), Value::from(*start))).collect();
    let mut settings = json!({
        "format": 1,
        "topic": topic,
        "partitions": source.partitions,
        "rules": serde_json::to_value(&engine.rules).map_err(broken)?,
        "catalog": serde_json::from_str::<Value>(&engine.catalog.to_canonical_json()).map_err(broken)?,
        "source": settings,
    });
    if name != DEFAULT_NAME {
        settings["name"] = name.into();
    }
    if let Some(placement) = survey.placement {
        settings["placement"] = placement.name().into();
    }
    if !starts.is_empty() {
        settings["starts"] = starts.into();
    }
    Ok(settings)
}

/// Compares with what the lake has; answers what to keep instead, where the difference concerns no record read so far.
///
/// `read_to` is the greatest ingestion time read, `None` where nothing was read yet.
fn reconcile(kept: Option<(u64, Value)>, now: &Value, read_to: Option<Timestamp>) -> Result<Option<Settings>> {
    let next = |version| Some(Settings { version, json: now.to_string() });
    let Some((version, old)) = kept else { return Ok(next(1)) };
    if old == *now {
        return Ok(None);
    }
    let Some(read_to) = read_to else { return Ok(next(version + 1)) };
    if let (Some(was), Some(is)) = (old["partitions"].as_u64(), now["partitions"].as_u64())
        && was != is
        && old["topic"] == now["topic"]
    {
        return Err(if was < is { more_partitions(was as u32, is as u32) } else { fewer_partitions(was, is) });
    }
    // Lakes from before placement was looked at have none.
    let placement = if old["placement"].is_null() { "format" } else { "placement" };
    for part in ["format", "name", "topic", "source", "rules", placement] {
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
    Ok(next(version + 1))
}

/// The error of partitions that were added to a topic in use.
pub(crate) fn more_partitions(was: u32, is: u32) -> Error {
    Error::new(ErrorKind::Mismatch, "partitions were added: tenants now go to others than before, and would be in two")
        .with("lake", was)
        .with("now", is)
        .with_help(
            "files: run with the number of partitions of the lake. A topic: its partitions cannot be taken away again, so make \
             a new topic with as many as are wanted, move the producers to it, and fill another lake from it",
        )
}

fn fewer_partitions(was: u64, is: u64) -> Error {
    Error::new(ErrorKind::Mismatch, "the source has fewer partitions than the lake has positions for")
        .with("lake", was)
        .with("now", is)
        .with_help(
            "files: run with the number of partitions of the lake. A topic: it was deleted and made again, or is another one: \
             name the topic that the lake was filled from, or fill another lake",
        )
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
