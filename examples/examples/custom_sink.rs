//! A sink of one's own: requests by country, in a JSON file, exactly once.
//!
//! `cargo run --example custom_sink` runs the conformance suite that any sink should pass. A pipeline takes it by
//! `Pipeline::builder().sink(Arc::new(Countries::open("countries.json".into())?))`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use subscription_core::testkit::{block_on, conformance};
use subscription_core::{Delivery, Error, ErrorKind, Result, Sink};

/// Counts and positions are in one file that is replaced as a whole: so they cannot disagree.
struct Countries {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    positions: BTreeMap<String, u64>,
    requests: BTreeMap<String, u64>,
}

impl Countries {
    fn open(path: PathBuf) -> Result<Self> {
        let state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| broken(&path, e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(e) => return Err(broken(&path, e)),
        };
        Ok(Self { path, state: Mutex::new(state) })
    }
}

fn broken(path: &Path, e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Other, "cannot keep the countries").with("file", path.display()).with_source(e)
}

#[async_trait::async_trait]
impl Sink for Countries {
    fn name(&self) -> &str {
        "countries"
    }

    async fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>> {
        Ok(self.state.lock().expect("no panic").positions.get(&format!("{topic}/{partition}")).copied())
    }

    async fn write(&self, delivery: &Delivery) -> Result<()> {
        let mut state = self.state.lock().expect("no panic");
        let mut next = state.clone();
        let key = format!("{}/{}", delivery.topic, delivery.partition);
        let position = next.positions.entry(key).or_insert(delivery.from);
        if delivery.to <= *position {
            return Ok(());
        }
        if delivery.from > *position {
            return Err(Error::new(ErrorKind::Gap, "a span is missing")
                .with("from", delivery.from)
                .with("position", *position));
        }
        let position = std::mem::replace(position, delivery.to);
        for row in delivery.events.rows().iter().filter(|row| row.offset >= position) {
            let country = delivery.events.opt_text(row.country_code).unwrap_or("unknown");
            *next.requests.entry(format!("{}/{country}", delivery.topic)).or_default() += 1;
        }
        let new = self.path.with_extension("new");
        let bytes = serde_json::to_vec(&next).map_err(|e| broken(&new, e))?;
        std::fs::write(&new, bytes)
            .and_then(|()| std::fs::rename(&new, &self.path))
            .map_err(|e| broken(&self.path, e))?;
        *state = next;
        Ok(())
    }
}

fn main() -> std::io::Result<()> {
    let folder = tempfile::tempdir()?;
    let lakes = std::cell::Cell::new(0);
    block_on(conformance::sink(
        async || {
            let path = folder.path().join(format!("{}.json", lakes.replace(lakes.get() + 1)));
            async move || Countries::open(path.clone()).expect("a file that can be read")
        },
        |sink, topic| {
            let state = sink.state.lock().expect("no panic");
            let of_topic = state.requests.iter().filter(|(key, _)| key.starts_with(&format!("{topic}/")));
            Some(of_topic.map(|(_, requests)| *requests as usize).sum())
        },
    ));
    println!("the sink passes the conformance suite");
    Ok(())
}
