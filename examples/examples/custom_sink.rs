//! A sink of one's own: requests by country, in a JSON file, exactly once.
//!
//! `cargo run --example custom_sink` runs the conformance suite that any sink should pass. A pipeline takes it by
//! `Pipeline::builder().sink(Arc::new(Countries::open("countries.json".into())?))`.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Mutex};

use subscription_core::testkit::{block_on, conformance};
use subscription_core::{Delivery, Error, ErrorKind, Result, Sink};

/// Requests and positions are in one file that is replaced as a whole: so they cannot disagree.
struct Countries {
    path: PathBuf,
    numbers: Mutex<BTreeMap<String, u64>>,
}

impl Countries {
    fn open(path: PathBuf) -> io::Result<Self> {
        let numbers = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, numbers: Mutex::new(numbers) })
    }

    fn save(&self, numbers: &BTreeMap<String, u64>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(numbers)?)?;
        std::fs::rename(&new, &self.path)
    }
}

#[async_trait::async_trait]
impl Sink for Countries {
    fn name(&self) -> &str {
        "countries"
    }

    async fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>> {
        Ok(self.numbers.lock().expect("no panic").get(&format!("position {topic}/{partition}")).copied())
    }

    async fn write(&self, delivery: &Delivery) -> Result<()> {
        let Delivery { topic, partition, from, to, events, .. } = delivery;
        let mut numbers = self.numbers.lock().expect("no panic");
        let mut next = numbers.clone();
        let position = next.insert(format!("position {topic}/{partition}"), *to).unwrap_or(*from);
        if *to <= position {
            return Ok(());
        }
        if *from > position {
            return Err(Error::new(ErrorKind::Gap, "a span is missing").with("from", from).with("position", position));
        }
        for row in events.rows().iter().filter(|row| row.offset >= position) {
            let country = events.opt_text(row.country_code).unwrap_or("unknown");
            *next.entry(format!("requests {topic}/{country}")).or_default() += 1;
        }
        let cannot = |error| Error::new(ErrorKind::Other, "cannot keep the countries").with_source(error);
        self.save(&next).map_err(|error| cannot(error).with("file", self.path.display()))?;
        *numbers = next;
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let (folder, lakes) = (tempfile::tempdir()?, std::cell::Cell::new(0));
    let open_new = async || {
        let path = folder.path().join(format!("{}.json", lakes.replace(lakes.get() + 1)));
        async move || Countries::open(path.clone()).expect("a file that can be read")
    };
    block_on(conformance::sink(open_new, |sink: &Countries, topic| {
        let numbers = sink.numbers.lock().expect("no panic");
        let of_topic = numbers.iter().filter(|(key, _)| key.starts_with(&format!("requests {topic}/")));
        Some(of_topic.map(|(_, requests)| *requests as usize).sum())
    }));
    println!("the sink passes the conformance suite");
    Ok(())
}
