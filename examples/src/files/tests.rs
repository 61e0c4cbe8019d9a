use std::io::Write;

use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::json;
use subscription_core::{MAX_PAYLOAD_BYTES, murmur2_partition};
use tempfile::TempDir;

use super::*;

/// A record as a test compares it: offset, partition, timestamp, key, payload, length of the payload.
type Seen = (u64, u32, i64, Option<String>, Vec<u8>, u64);

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> Input {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a file");
    Input::File(path)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).expect("memory")
}

/// Reads a source to its end, each partition from its own start; checks that spans follow each other.
fn read_from(inputs: &[Input], options: FileOptions, starts: &[u64]) -> (Vec<Seen>, Result<u64>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let partitions = options.partitions;
    let mut source = FileSource::open(inputs.to_vec(), options).expect("inputs");
    let mut positions = starts.to_vec();
    let mut seen = Vec::new();
    let end = runtime.block_on(async {
        assert!(
            matches!(source.next().await?, SourceEvent::Assigned(all) if all == (0..partitions).collect::<Vec<_>>())
        );
        for (partition, &from) in (0..).zip(starts) {
            tokio::select! {
                biased;
                event = source.next() => panic!("{event:?} before all partitions were started"),
                () = std::future::ready(()) => {}
            }
            source.start(partition, from).await?;
            assert!(source.start(partition, from).await.is_err(), "started twice");
        }
        loop {
            match source.next().await? {
                SourceEvent::Records(batch) => {
                    let position = &mut positions[batch.partition() as usize];
                    assert_eq!((batch.from(), &**batch.topic()), (*position, TOPIC));
                    *position = batch.to();
                    seen.extend(batch.iter().map(|record| {
                        assert!((batch.from()..batch.to()).contains(&record.offset()));
                        let key = record.key().map(|key| String::from_utf8(key.to_vec()).expect("text"));
                        let payload = record.payload().expect("a payload").to_vec();
                        (
                            record.offset(),
                            batch.partition(),
                            record.timestamp().millis(),
                            key,
                            payload,
                            record.payload_len(),
                        )
                    }));
                }
                SourceEvent::End => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(source.next().await?, SourceEvent::End));
        let progress = source.progress();
        if let Some(total) = progress.total {
            assert_eq!(progress.done, total);
        }
        assert!(positions.windows(2).all(|pair| pair[0] == pair[1]), "every partition is at the end: {positions:?}");
        Ok(positions[0])
    });
    assert_eq!(source.failed().load(Ordering::Relaxed), end.is_err());
    seen.sort();
    (seen, end)
}

fn read(inputs: &[Input], options: FileOptions) -> (Vec<Seen>, Result<u64>) {
    let starts = vec![0; options.partitions as usize];
    read_from(inputs, options, &starts)
}

fn event(tenant: &str, second: u32) -> String {
    json!({"tenant_id": tenant, "event_timestamp": format!("1970-01-01T00:00:{second:02}Z")}).to_string()
}

#[test]
fn lines_are_records_of_one_topic() {
    let folder = TempDir::new().expect("a folder");
    let (a, b) = (event("acme", 1), event("bolt", 2));
    let inputs = [
        write(&folder, "1.json", format!("{a}\r\n\n  \n{b}").as_bytes()),
        write(&folder, "empty", b""),
        write(&folder, "2.json.zst", &zstd(format!("not json\n{a}\n").as_bytes())),
        write(&folder, "3.json", &[gzip(format!("{b}\n{{\"tenant_id\":").as_bytes()), gzip(b"\"x\"}\n\n")].concat()),
    ];
    let (seen, end) = read(&inputs, FileOptions::default());
    let place = |tenant: &str| (murmur2_partition(tenant.as_bytes(), 8), Some(tenant.to_owned()));
    let expected: Vec<Seen> = [
        (0, place("acme"), 1_000, a.clone()),
        (3, place("bolt"), 2_000, b.clone()),
        (4, (0, None), 2_000, "not json".to_owned()),
        (5, place("acme"), 1_000, a),
        (6, place("bolt"), 2_000, b),
        (7, place("x"), 2_000, r#"{"tenant_id":"x"}"#.to_owned()),
    ]
    .into_iter()
    .map(|(offset, (partition, key), time, payload)| {
        let len = payload.len() as u64;
        (offset, partition, time, key, payload.into_bytes(), len)
    })
    .collect();
    assert_eq!(seen, expected);
    assert_eq!(end.expect("the end"), 9);
}

#[test]
fn a_line_too_long_is_a_truncated_record_of_partition_0() {
    let folder = TempDir::new().expect("a folder");
    let long = format!("{{\"tenant_id\": \"acme\", \"x\": \"{}\"}}", "x".repeat(MAX_PAYLOAD_BYTES as usize));
    let (a, b) = (event("acme", 1), event("bolt", 2));
    let input = write(&folder, "long", format!("{a}\n{long}\r\n{b}\n").as_bytes());
    let (seen, end) = read(&[input], FileOptions::default());
    assert_eq!(end.expect("the end"), 3);
    assert_eq!(seen.len(), 3);
    let (offset, partition, time, key, payload, len) = &seen[1];
    assert_eq!((*offset, *partition, *time, key), (1, 0, 1_000, &None));
    assert_eq!((&payload[..], *len), (&long.as_bytes()[..4096], long.len() as u64));
}

#[test]
fn formats_are_told_by_the_first_line_that_is_known() {
    let folder = TempDir::new().expect("a folder");
    let line = r#"192.0.2.7 - - [01/Jan/1970:00:00:07 +0000] "GET / HTTP/1.1" 200 1"#;
    let log = write(&folder, "log", format!("junk\n{line}\n{}\nmore junk\n", event("acme", 1)).as_bytes());
    let events = write(&folder, "events", format!("junk\n{}\n{line}\n", event("acme", 1)).as_bytes());
    let (seen, _) = read(&[log.clone(), events.clone()], FileOptions::default());
    let is_log = |seen: &Seen| seen.3.as_deref() == Some("192.0.2.7");
    assert_eq!(seen.iter().map(is_log).collect::<Vec<_>>(), [false, true, false, false, false, false, false]);
    assert_eq!(seen[3].2, 1_000, "what is no log line has the time of the line before");
    let options = |format| FileOptions { format, ..FileOptions::default() };
    let (seen, _) = read(&[log], options(Format::Events));
    assert!(!seen.iter().any(is_log));
    let (seen, _) = read(&[events], options(Format::AccessLog));
    assert_eq!(seen.iter().filter(|seen| is_log(seen)).count(), 1);
}

#[test]
fn broken_inputs_are_read_as_far_as_they_go() {
    let folder = TempDir::new().expect("a folder");
    let lines: String = (0..2_000).map(|i| event(&format!("tenant-{i}"), i % 60) + "\n").collect();
    let good = write(&folder, "good", b"{}\n");
    let fails = |name: &str, bytes: &[u8], kind: ErrorKind, message: &str| {
        let bad = write(&folder, name, bytes);
        let (seen, end) = read(&[good.clone(), bad], FileOptions::default());
        let error = end.expect_err("a broken input");
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(message) && text.contains(name) && error.help().is_some(), "{text}");
        if kind == ErrorKind::Corrupt {
            assert!(text.contains(&format!("lines read: {}", seen.len())), "{} records, {text}", seen.len());
        }
        seen.len()
    };
    for (name, whole) in [("cut.gz", gzip(lines.as_bytes())), ("cut.zst", zstd(lines.as_bytes()))] {
        let read = fails(name, &whole[..whole.len() / 2], ErrorKind::Corrupt, "input is truncated");
        assert!(read >= 1);
        fails(name, &whole[..whole.len() - 3], ErrorKind::Corrupt, "input is truncated");
    }
    let mut corrupt = gzip(lines.as_bytes());
    let middle = corrupt.len() / 2;
    corrupt[middle..middle + 100].fill(0xff);
    fails("corrupt.gz", &corrupt, ErrorKind::Corrupt, "input is corrupt");
    fails("log.xz", b"\xfd7zXZ\0\0\x04", ErrorKind::Other, "compressed with xz");
}

#[test]
fn inputs_are_looked_at_before_anything_is_read() {
    let folder = TempDir::new().expect("a folder");
    let open = |inputs: Vec<Input>| FileSource::open(inputs, FileOptions::default()).map(|_| ());
    let error = open(vec![Input::File(folder.path().join("missing.log"))]).expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing.log"), "{error}");
    let error = open(vec![Input::File(folder.path().to_owned())]).expect_err("a folder");
    assert!(error.to_string().starts_with("input is a folder"), "{error}");
    assert!(open(vec![Input::Stdin, Input::Stdin]).is_err());
    assert!(open(vec![]).is_err());
    assert!(FileSource::open(vec![Input::Stdin], FileOptions { partitions: 0, ..FileOptions::default() }).is_err());
}

#[test]
fn an_input_that_became_shorter_is_told() {
    let folder = TempDir::new().expect("a folder");
    let input = write(&folder, "short", b"{}\n{}\n");
    let (_, end) = read_from(&[input], FileOptions { partitions: 2, ..FileOptions::default() }, &[2, 5]);
    let error = end.expect_err("too short");
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("lines: 2, position in the lake: 5"), "{error}");
}

#[test]
fn identity_is_what_changes_rows() {
    let identity = |options: FileOptions| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut source = FileSource::open(vec![Input::Stdin], options).expect("a source");
        runtime.block_on(source.identity()).expect("an identity")
    };
    let default = identity(FileOptions::default());
    assert_eq!(default.partitions, 8);
    assert!(default.settings.is_sorted());
    let log = LogOptions { default_tenant: Some("x".to_owned()), ..LogOptions::default() };
    assert_ne!(default, identity(FileOptions { log: log.clone(), ..FileOptions::default() }));
    let events = FileOptions { format: Format::Events, ..FileOptions::default() };
    assert_eq!(identity(events.clone()), identity(FileOptions { log, ..events }));
}

#[test]
fn a_pipe_is_read_as_its_writer_writes() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    // Opened for both, a pipe waits for no one.
    let mut pipe = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("a pipe");
    let options = FileOptions { partitions: 1, ..FileOptions::default() };
    let mut source = FileSource::open(vec![Input::File(path)], options).expect("a source");
    assert_eq!(source.total, None);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        source.next().await.expect("assigned");
        source.start(0, 0).await.expect("started");
        for i in 0..3 {
            tokio::select! {
                biased;
                event = source.next() => panic!("{event:?} before anything was written"),
                () = std::future::ready(()) => {}
            }
            writeln!(pipe, "{{\"line\": {i}}}").expect("written");
            match source.next().await.expect("records") {
                SourceEvent::Records(batch) => assert_eq!((batch.from(), batch.to(), batch.len()), (i, i + 1, 1)),
                other => panic!("{other:?}"),
            }
        }
        drop(pipe);
        assert!(matches!(source.next().await, Ok(SourceEvent::End)));
    });
}

/// Lines of every kind.
fn lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let line = prop_oneof![
        4 => (0u32..5, 0u32..60).prop_map(|(tenant, second)| event(&format!("t{tenant}"), second).into_bytes()),
        3 => (0u32..5, 0u32..9).prop_map(|(client, second)| {
            format!(r#"192.0.2.{client} - - [01/Jan/1970:00:00:0{second} +0000] "GET / HTTP/1.1" 200 1"#).into_bytes()
        }),
        1 => Just(br#"{"tenant_id": "no-time"}"#.to_vec()),
        1 => Just(b"junk".to_vec()),
        1 => Just(b"".to_vec()),
        1 => Just(b" \t".to_vec()),
    ];
    prop::collection::vec(line, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn going_on_in_the_middle_gives_the_same_records(
        files in prop::collection::vec(lines(), 1..3),
        format in prop::sample::select(&Format::ALL[..]),
        starts in prop::collection::vec(any::<prop::sample::Index>(), 3),
    ) {
        let folder = TempDir::new().expect("a folder");
        let inputs: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(i, lines)| {
                let bytes: Vec<u8> = lines.iter().flat_map(|line| [&line[..], b"\n"].concat()).collect();
                write(&folder, &i.to_string(), &bytes)
            })
            .collect();
        let options = FileOptions { partitions: 3, format, ..FileOptions::default() };
        let (whole, end) = read(&inputs, options.clone());
        let total = end.expect("the end");
        prop_assert_eq!(total, files.iter().map(|lines| lines.len() as u64).sum::<u64>());
        let starts: Vec<_> = starts.iter().map(|start| start.index(total as usize + 1) as u64).collect();
        let (rest, _) = read_from(&inputs, options, &starts);
        let expected: Vec<_> = whole.into_iter().filter(|seen| seen.0 >= starts[seen.1 as usize]).collect();
        prop_assert_eq!(rest, expected);
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let folder = TempDir::new().expect("a folder");
        let compressed = [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0", b"PK\x03\x04", b"\x5f\x2a\x4d\x18"];
        prop_assume!(!compressed.iter().any(|magic| bytes.starts_with(magic)));
        let (seen, end) = read(&[write(&folder, "bytes", &bytes)], FileOptions::default());
        prop_assert!(end.is_ok());
        let kept: usize = seen.iter().map(|seen| seen.4.len()).sum();
        prop_assert!(kept <= bytes.len());
    }
}
