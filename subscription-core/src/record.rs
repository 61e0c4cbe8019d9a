//! Records as a source delivers them: bytes and coordinates, in batches that own their memory.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::time::Timestamp;

/// The longest payload that is looked into, in bytes; a longer one is a dead letter `too_large`.
pub const MAX_PAYLOAD_BYTES: u64 = 16 * 1024 * 1024;

/// What is kept of a payload longer than [`MAX_PAYLOAD_BYTES`], in bytes.
pub const TOO_LARGE_KEPT_BYTES: usize = 4 * 1024;

/// A span of bytes in the memory of the batch that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    start: u32,
    /// Its length and one, so that an optional text takes no more memory than a text: rows have a dozen of them.
    len_and_one: NonZeroU32,
}

impl Text {
    /// # Panics
    /// Where it lies beyond 4 GiB.
    pub(crate) fn new(start: usize, len: usize) -> Self {
        let place = u32::try_from(start).ok().zip(u32::try_from(len + 1).ok().and_then(NonZeroU32::new));
        let (start, len_and_one) = place.expect("at most 4 GiB in a batch");
        Self { start, len_and_one }
    }

    /// How many bytes it spans.
    pub fn len(self) -> usize {
        self.len_and_one.get() as usize - 1
    }

    /// Whether it spans none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// What it spans of all that it can.
    pub(crate) fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.len()
    }
}

impl Default for Text {
    /// Nothing, at the beginning.
    fn default() -> Self {
        Self { start: 0, len_and_one: NonZeroU32::MIN }
    }
}

/// A header of a record: a name and a value, which may be absent.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// Records of one partition in offset order, and the span `[from, to)` that they are all the records of.
///
/// Offsets rise strictly and lie in the span; there may be gaps. The batch owns the bytes of its records and shares
/// them cheaply: cloning it copies no payload. At most 4 GiB of bytes.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    topic: Arc<str>,
    partition: u32,
    from: u64,
    to: u64,
    /// Payloads and headers.
    data: Bytes,
    /// Keys, apart from what is between them otherwise: who needs only those reads them in a row.
    keys: Bytes,
    metas: Arc<[Meta]>,
    headers: Arc<[(Text, Option<Text>)]>,
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    offset: u64,
    timestamp: Timestamp,
    payload: Option<Text>,
    payload_len: u64,
    key: Option<Text>,
    /// The end of its headers; they begin where those of the record before it end.
    headers_end: u32,
}

/// One record of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    batch: &'a RecordBatch,
    index: usize,
}

impl RecordBatch {
    /// An empty batch to fill; `from` is the first offset of its span.
    pub fn builder(topic: Arc<str>, partition: u32, from: u64) -> RecordBatchBuilder {
        RecordBatchBuilder {
            topic,
            partition,
            from,
            data: Vec::new(),
            keys: Vec::new(),
            metas: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// The topic that the records come from.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition that the records come from.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The first offset of the span.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The offset after the span: the position once the batch is done with.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.metas.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.metas.is_empty()
    }

    /// The memory that the batch holds, in bytes.
    pub fn memory(&self) -> usize {
        let bytes = self.data.len() + self.keys.len();
        bytes + self.metas.len() * size_of::<Meta>() + self.headers.len() * size_of::<(Text, Option<Text>)>()
    }

    /// The record at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`RecordBatch::len`].
    pub fn get(&self, index: usize) -> Record<'_> {
        assert!(index < self.metas.len(), "record {index} of {}", self.metas.len());
        Record { batch: self, index }
    }

    /// The records in offset order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> + DoubleEndedIterator {
        (0..self.metas.len()).map(|index| Record { batch: self, index })
    }

    /// The same batch without what is before offset `from`: its span begins there.
    ///
    /// # Panics
    /// If `from` is not in the span or its end.
    pub fn since(&self, from: u64) -> Self {
        assert!((self.from..=self.to).contains(&from), "offset {from} of a span {}..{}", self.from, self.to);
        let first = self.metas.partition_point(|meta| meta.offset < from);
        let gone = if first == 0 { 0 } else { self.metas[first - 1].headers_end };
        let metas = self.metas[first..].iter().map(|meta| Meta { headers_end: meta.headers_end - gone, ..*meta });
        Self {
            from,
            metas: metas.collect(),
            headers: self.headers[gone as usize..].into(),
            topic: self.topic.clone(),
            data: self.data.clone(),
            keys: self.keys.clone(),
            ..*self
        }
    }

    /// What the payloads' [`Text`]s point into.
    pub(crate) fn data(&self) -> &Bytes {
        &self.data
    }

    /// The memory that [`Record::payload_start`] is a place in, for encoders that take payloads without copying them.
    pub fn memory_of_payloads(&self) -> impl AsRef<[u8]> + Clone + Send + Sync + 'static {
        self.data.clone()
    }

    fn bytes(&self, text: Text) -> &[u8] {
        &self.data[text.range()]
    }
}

impl<'a> Record<'a> {
    fn meta(&self) -> &'a Meta {
        &self.batch.metas[self.index]
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> u64 {
        self.meta().offset
    }

    /// Its ingestion time: the record timestamp.
    pub fn timestamp(&self) -> Timestamp {
        self.meta().timestamp
    }

    /// Its payload; `None` for a tombstone. Of a payload longer than [`MAX_PAYLOAD_BYTES`] it is the beginning only.
    pub fn payload(&self) -> Option<&'a [u8]> {
        self.meta().payload.map(|text| self.batch.bytes(text))
    }

    /// Where its payload begins in [`RecordBatch::memory_of_payloads`].
    pub fn payload_start(&self) -> Option<usize> {
        self.meta().payload.map(|text| text.range().start)
    }

    /// How long the payload was when the source had it, in bytes.
    pub fn payload_len(&self) -> u64 {
        self.meta().payload_len
    }

    /// Its key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.meta().key.map(|text| &self.batch.keys[text.range()])
    }

    /// Its headers in the order they came.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = Header<'a>> + use<'a> {
        let batch = self.batch;
        let start = if self.index == 0 { 0 } else { batch.metas[self.index - 1].headers_end };
        batch.headers[start as usize..self.meta().headers_end as usize].iter().map(move |(name, value)| {
            // The builder takes names as `&str`.
            let name = std::str::from_utf8(batch.bytes(*name)).unwrap_or_default();
            (name, value.map(|text| batch.bytes(text)))
        })
    }
}

/// Builds a [`RecordBatch`].
///
/// ```
/// use subscription_core::{RecordBatch, Timestamp};
/// let mut builder = RecordBatch::builder("usage".into(), 3, 100);
/// builder.push(100, Timestamp::EPOCH, Some(b"key"), Some(b"{}"));
/// builder.push(105, Timestamp::EPOCH, None, None);
/// builder.push_header("trace", Some(b"1"));
/// let batch = builder.finish(110);
/// assert_eq!((batch.from(), batch.to(), batch.len()), (100, 110, 2));
/// assert_eq!(batch.get(1).headers().next(), Some(("trace", Some(&b"1"[..]))));
/// ```
#[derive(Debug)]
pub struct RecordBatchBuilder {
    topic: Arc<str>,
    partition: u32,
    from: u64,
    data: Vec<u8>,
    keys: Vec<u8>,
    metas: Vec<Meta>,
    headers: Vec<(Text, Option<Text>)>,
}

impl RecordBatchBuilder {
    /// Adds a record. Of a payload longer than [`MAX_PAYLOAD_BYTES`] the beginning is kept.
    ///
    /// # Panics
    /// If `offset` is not above the one before it or lies before the span, or the batch passes 4 GiB.
    pub fn push(&mut self, offset: u64, timestamp: Timestamp, key: Option<&[u8]>, payload: Option<&[u8]>) {
        let len = payload.map_or(0, |p| p.len() as u64);
        self.push_truncated(offset, timestamp, key, payload, len);
    }

    /// Adds a record of whose payload, `payload_len` bytes long, the source kept the beginning only.
    ///
    /// # Panics
    /// As [`RecordBatchBuilder::push`].
    pub fn push_truncated(
        &mut self,
        offset: u64,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        payload_len: u64,
    ) {
        let least = self.position();
        assert!(offset >= least, "offset {offset} after position {least}");
        let payload = payload.map(|p| {
            let kept = if payload_len > MAX_PAYLOAD_BYTES { p.len().min(TOO_LARGE_KEPT_BYTES) } else { p.len() };
            text(&mut self.data, &p[..kept])
        });
        let key = key.map(|k| text(&mut self.keys, k));
        let headers_end = self.headers.len() as u32;
        self.metas.push(Meta { offset, timestamp, payload, payload_len, key, headers_end });
    }

    /// Adds a record of another batch as it is, headers and all.
    ///
    /// # Panics
    /// As [`RecordBatchBuilder::push`].
    pub fn push_record(&mut self, record: &Record<'_>) {
        let Meta { offset, timestamp, payload_len, .. } = *record.meta();
        self.push_truncated(offset, timestamp, record.key(), record.payload(), payload_len);
        for (name, value) in record.headers() {
            self.push_header(name, value);
        }
    }

    /// Adds a header to the record pushed last.
    ///
    /// # Panics
    /// If no record was pushed.
    pub fn push_header(&mut self, name: &str, value: Option<&[u8]>) {
        let header = (text(&mut self.data, name.as_bytes()), value.map(|v| text(&mut self.data, v)));
        self.headers.push(header);
        self.metas.last_mut().expect("a record to carry the header").headers_end = self.headers.len() as u32;
    }

    /// Makes room for so many more records, with keys of 16 bytes, and bytes of payloads and headers.
    pub fn reserve(&mut self, records: usize, bytes: usize) {
        self.metas.reserve(records);
        self.keys.reserve(16 * records);
        self.data.reserve(bytes);
    }

    /// How many records were pushed.
    pub fn len(&self) -> usize {
        self.metas.len()
    }

    /// Whether none was pushed.
    pub fn is_empty(&self) -> bool {
        self.metas.is_empty()
    }

    /// The least offset that the next record may have, which is also the least end of the span.
    pub fn position(&self) -> u64 {
        self.metas.last().map_or(self.from, |meta| meta.offset + 1)
    }

    /// The bytes pushed so far.
    pub fn bytes(&self) -> usize {
        self.data.len() + self.keys.len()
    }

    /// The batch; its span ends before `to`.
    ///
    /// # Panics
    /// If `to` is not above the last offset, or below `from`.
    pub fn finish(self, to: u64) -> RecordBatch {
        let least = self.position();
        assert!(to >= least, "span ends at {to}, before position {least}");
        RecordBatch {
            topic: self.topic,
            partition: self.partition,
            from: self.from,
            to,
            data: self.data.into(),
            keys: self.keys.into(),
            metas: self.metas.into(),
            headers: self.headers.into(),
        }
    }
}

/// Appends a text to a batch's memory.
fn text(memory: &mut Vec<u8>, bytes: &[u8]) -> Text {
    let kept = Text::new(memory.len(), bytes.len());
    memory.extend_from_slice(bytes);
    kept
}
