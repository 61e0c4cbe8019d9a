//! Which events were accepted: all ids since a time, or the answers to thousands of questions in one pass.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use subscription_core::{AcceptedId, Error, ErrorKind, IdLookup, Result, Timestamp};

use crate::file::{Content, DataFile};
use crate::read::{Columns, Reader, event_id, group_bounds, group_overlaps};
use crate::values::Values;

/// Files that are read side by side.
const SIDE_BY_SIDE: usize = 4;

/// For each partition the keys of its rows with an event time not before the one given.
pub(crate) async fn ids(
    reader: &Reader,
    files: Vec<Arc<DataFile>>,
    topic: &str,
    since: &[(u32, Timestamp)],
) -> Result<Vec<Vec<AcceptedId>>> {
    let topic: Arc<str> = topic.into();
    let asked: Arc<[(u32, Timestamp)]> = since.into();
    let tasks = files.into_iter().map(|file| {
        let (reader, topic, asked) = (reader.clone(), topic.clone(), asked.clone());
        spawn(async move { ids_of_file(&reader, &file, &topic, &asked).await })
    });
    let mut ids = vec![Vec::new(); since.len()];
    let mut found = futures::stream::iter(tasks).buffered(SIDE_BY_SIDE);
    while let Some(of_file) = found.try_next().await? {
        for (place, id) in of_file {
            ids[place].push(id);
        }
    }
    Ok(ids)
}

/// Each with the place of its partition among those asked for.
async fn ids_of_file(
    reader: &Reader,
    file: &DataFile,
    topic: &str,
    asked: &[(u32, Timestamp)],
) -> Result<Vec<(usize, AcceptedId)>> {
    let path = reader.path(file);
    let doing = reader.doing(&path);
    let footer = reader.footer(file).await?;
    let metadata = footer.metadata();
    let (mut found, mut tenants) = (Vec::new(), HashSet::<Arc<str>>::new());
    let places: HashMap<i32, (usize, Timestamp)> =
        asked.iter().enumerate().map(|(place, (partition, since))| (*partition as i32, (place, *since))).collect();
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let partitions = group_bounds(metadata, group, "partition");
        let wanted = |(partition, since): &(u32, Timestamp)| {
            partitions.is_none_or(|(min, max)| (min..=max).contains(&i64::from(*partition)))
                && group_overlaps(metadata, group, "event_timestamp", *since, Timestamp::MAX)
        };
        if !asked.iter().any(wanted) {
            continue;
        }
        let batch = reader.group(file, &footer, index, Columns::Keys).await?;
        let rows = KeyRows::new(file, Values::new(&batch, doing))?;
        for row in 0..batch.num_rows() {
            let Some(&(place, since)) = places.get(&rows.partitions.value(row)) else { continue };
            let event_timestamp = rows.times.at(row);
            if event_timestamp < since || !rows.is_of(row, topic) {
                continue;
            }
            let tenant = rows.tenants.value(row);
            let tenant_id = match tenants.get(tenant) {
                Some(tenant) => tenant.clone(),
                None => {
                    let tenant: Arc<str> = tenant.into();
                    tenants.insert(tenant.clone());
                    tenant
                }
            };
            let event_id = event_id(rows.ids.value(row), doing)?;
            found.push((place, AcceptedId { tenant_id, event_id, event_timestamp }));
        }
    }
    Ok(found)
}

/// The event times at which each question's key was accepted.
pub(crate) async fn answers(
    reader: &Reader,
    files: Vec<Arc<DataFile>>,
    topic: &str,
    questions: &[IdLookup],
) -> Result<Vec<Vec<Timestamp>>> {
    let topic: Arc<str> = topic.into();
    let asked: Arc<[IdLookup]> = questions.into();
    // By first time of interest; with the longest range, a file's questions lie side by side.
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by_key(|&question| questions[question].from);
    let millis = |time: Timestamp| i128::from(time.millis());
    let longest = questions.iter().map(|question| millis(question.to) - millis(question.from)).max().unwrap_or(0);

    let mut tasks = Vec::new();
    for file in files {
        let (first, last) = file.times.unwrap_or((Timestamp::MIN, Timestamp::MAX));
        let from = order.partition_point(|&question| millis(questions[question].from) < millis(first) - longest);
        let to = order.partition_point(|&question| questions[question].from <= last);
        let of_file: Vec<usize> = order[from..to.max(from)]
            .iter()
            .copied()
            .filter(|&question| {
                let question = &questions[question];
                question.to >= first && file.offsets(&topic, question.partition).is_some()
            })
            .collect();
        if !of_file.is_empty() {
            let (reader, topic, asked) = (reader.clone(), topic.clone(), asked.clone());
            tasks.push(spawn(async move { answers_of_file(&reader, &file, &topic, &asked, &of_file).await }));
        }
    }
    let mut answers = vec![Vec::new(); questions.len()];
    let mut found = futures::stream::iter(tasks).buffer_unordered(SIDE_BY_SIDE);
    while let Some(of_file) = found.try_next().await? {
        for (question, time) in of_file {
            answers[question].push(time);
        }
    }
    Ok(answers)
}

async fn answers_of_file(
    reader: &Reader,
    file: &DataFile,
    topic: &str,
    questions: &[IdLookup],
    of_file: &[usize],
) -> Result<Vec<(usize, Timestamp)>> {
    let path = reader.path(file);
    let doing = reader.doing(&path);
    let footer = reader.footer(file).await?;
    let metadata = footer.metadata();
    let texts: Vec<[u8; 36]> = of_file
        .iter()
        .map(|&question| {
            let mut text = [0; 36];
            questions[question].event_id.hyphenated().encode_lower(&mut text);
            text
        })
        .collect();
    let mut found = Vec::new();
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let in_time =
            |question: &IdLookup| group_overlaps(metadata, group, "event_timestamp", question.from, question.to);
        let mut open: Vec<usize> = (0..of_file.len()).filter(|&place| in_time(&questions[of_file[place]])).collect();
        if open.is_empty() {
            continue;
        }
        if let Some(bloom) = reader.bloom(file, &footer, index).await? {
            open.retain(|&place| bloom.check(&texts[place][..]));
        }
        if open.is_empty() {
            continue;
        }
        let mut by_id: HashMap<&[u8], Vec<usize>> = HashMap::with_capacity(open.len());
        for place in open {
            by_id.entry(&texts[place]).or_default().push(of_file[place]);
        }
        let batch = reader.group(file, &footer, index, Columns::Keys).await?;
        let rows = KeyRows::new(file, Values::new(&batch, doing))?;
        for row in 0..batch.num_rows() {
            for &question in by_id.get(rows.ids.value(row).as_bytes()).into_iter().flatten() {
                let asked = &questions[question];
                let time = rows.times.at(row);
                if (asked.from..=asked.to).contains(&time)
                    && rows.partitions.value(row) == asked.partition as i32
                    && rows.tenants.value(row) == &*asked.tenant_id
                    && rows.is_of(row, topic)
                {
                    found.push((question, time));
                }
            }
        }
    }
    Ok(found)
}

struct KeyRows<'a> {
    topics: Option<&'a deltalake::arrow::array::StringArray>,
    partitions: &'a deltalake::arrow::array::Int32Array,
    times: crate::values::Times<'a>,
    ids: &'a deltalake::arrow::array::StringArray,
    tenants: &'a deltalake::arrow::array::StringArray,
}

impl<'a> KeyRows<'a> {
    fn new(file: &DataFile, values: Values<'a>) -> Result<Self> {
        Ok(Self {
            topics: if file.content == Content::Unknown { Some(values.texts("topic")?) } else { None },
            partitions: values.integers("partition")?,
            times: values.times("event_timestamp")?,
            ids: values.texts("event_id")?,
            tenants: values.texts("tenant_id")?,
        })
    }

    fn is_of(&self, row: usize, topic: &str) -> bool {
        self.topics.is_none_or(|topics| topics.value(row) == topic)
    }
}

/// On a thread of the runtime: decoding is work.
async fn spawn<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Invariant, "a reading task ended early").with_source(error))?
}
