//! The spool: nothing appended is lost or changed, whatever happens to the process, the files or the disk.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use subscription_core::{ErrorKind, Fsync, Spool, SpoolConfig, SpoolReader};

fn small(folder: &Path) -> SpoolConfig {
    SpoolConfig { segment_bytes: 200, max_bytes: 4_000, ..SpoolConfig::new(folder) }
}

/// Opens a spool that was just let go. A test beside that starts a process lends it all locks for a moment, between fork and exec.
fn open(config: SpoolConfig) -> (Spool, SpoolReader) {
    loop {
        match Spool::open(config.clone()) {
            Err(error) if error.kind() == ErrorKind::Fenced => std::thread::yield_now(),
            opened => return opened.expect("a spool"),
        }
    }
}

fn record(n: u64) -> Vec<u8> {
    format!("record {n} {}", "x".repeat((n * 7 % 50) as usize)).into_bytes()
}

/// All that is left, as numbers, each checked.
fn drain(reader: &mut SpoolReader) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(spooled) = reader.next().expect("a sound spool") {
        assert_eq!(spooled.record, record(spooled.number));
        numbers.push(spooled.number);
    }
    numbers
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".spool")).collect();
    names.sort();
    names
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Append,
    Take,
    Acknowledge,
    Tidy,
    /// The process dies, which may tear this many bytes off an append that was not done.
    Restart {
        torn: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => Just(Step::Append),
        6 => Just(Step::Take),
        3 => Just(Step::Acknowledge),
        3 => Just(Step::Tidy),
        1 => (0..60usize).prop_map(|torn| Step::Restart { torn }),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    /// Against a queue in memory.
    #[test]
    fn a_queue_that_outlives_its_process(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, mut reader) = open(small(folder.path()));
        // The numbers that are not acknowledged on disk, and of them those that were taken and acknowledged.
        let mut queue: VecDeque<u64> = VecDeque::new();
        let (mut end, mut taken, mut acknowledged) = (0u64, 0u64, 0u64);
        for step in steps {
            match step {
                Step::Append => match spool.append(&record(end)) {
                    Ok(number) => {
                        prop_assert_eq!(number, end);
                        queue.push_back(end);
                        end += 1;
                    }
                    Err(error) => {
                        prop_assert_eq!(error.kind(), ErrorKind::StorageFull);
                        prop_assert!(error.is_retryable() && error.help().is_some());
                        prop_assert!(spool.bytes() > 3_800, "refused at {} bytes", spool.bytes());
                    }
                },
                Step::Take => {
                    let next = reader.next().unwrap();
                    let expected = (taken < end).then_some(taken);
                    prop_assert_eq!(next.map(|spooled| spooled.number), expected);
                    if let Some(spooled) = next {
                        prop_assert_eq!(spooled.record, &record(taken)[..]);
                        taken += 1;
                    }
                }
                Step::Acknowledge => {
                    acknowledged = taken;
                    reader.acknowledge(acknowledged);
                }
                Step::Tidy => {
                    reader.tidy().unwrap();
                    queue.retain(|number| *number >= acknowledged);
                }
                Step::Restart { torn } => {
                    drop((spool, reader));
                    let last = folder.path().join(files(folder.path()).pop().unwrap());
                    let whole = [&40u32.to_le_bytes()[..], &[7; 56]].concat();
                    fs::File::options().append(true).open(last).unwrap().write_all(&whole[..torn.min(47)]).unwrap();
                    (spool, reader) = open(small(folder.path()));
                    prop_assert_eq!(reader.torn_bytes(), torn.min(47) as u64);
                    prop_assert!(!reader.end_is_damaged());
                    taken = queue.front().copied().unwrap_or(end);
                    acknowledged = taken;
                    prop_assert_eq!(reader.remaining(), queue.len() as u64);
                }
            }
            // A start adds a header.
            prop_assert!(spool.bytes() <= 4_016);
        }
        drop((spool, reader));
        let (_spool, mut reader) = open(small(folder.path()));
        prop_assert_eq!(drain(&mut reader), Vec::from(queue));
    }

    /// A file cut anywhere has the records that were whole, if it was the last one; else the loss is told.
    #[test]
    fn cuts_and_flips_are_told(at in any::<prop::sample::Index>(), file in 0..5usize, flip: bool) {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, reader) = open(small(folder.path()));
        (0..30).for_each(|n| assert_eq!(spool.append(&record(n)).unwrap(), n));
        drop((spool, reader));
        let names = files(folder.path());
        let (is_last, path) = (file + 1 >= names.len(), folder.path().join(&names[file.min(names.len() - 1)]));
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if flip {
            bytes[at] ^= 0x40;
        } else {
            bytes.truncate(at);
        }
        fs::write(&path, &bytes).unwrap();

        let (mut spool, mut reader) = open(small(folder.path()));
        let next = spool.append(b"another").unwrap();
        let (mut read, mut told) = (Vec::new(), reader.torn_bytes() > 0);
        loop {
            match reader.next() {
                Ok(None) => break,
                Ok(Some(spooled)) if spooled.number == next => prop_assert_eq!(spooled.record, b"another"),
                Ok(Some(spooled)) => {
                    prop_assert_eq!(spooled.record, &record(spooled.number)[..]);
                    read.push(spooled.number);
                }
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
                    told = true;
                }
            }
        }
        prop_assert!(read.windows(2).all(|pair| pair[0] < pair[1]));
        let lost = 30 - read.len() as u64;
        if !is_last {
            prop_assert_eq!(reader.damaged(), lost);
        }
        prop_assert!(!reader.end_is_damaged() || is_last && flip);
        // A last file that ends between two records, or within its header, cannot be told from one that was never longer.
        prop_assert!(lost == 0 || told || (is_last && !flip), "{} lost and not told", lost);
        prop_assert!(lost < 30 || names.len() == 1);
        reader.acknowledge(u64::MAX);
        reader.tidy().unwrap();
        if flip && lost > 0 {
            let kept = fs::read_dir(folder.path()).unwrap();
            let kept = kept.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("damaged".as_ref()));
            prop_assert_eq!(kept.count(), 1, "the damaged file is kept");
        }
    }
}

#[test]
fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, reader) = open(SpoolConfig::new(folder.path()));
    let error = Spool::open(SpoolConfig::new(folder.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(error.help().unwrap().contains("folder of its own"));
    drop(spool);
    assert!(Spool::open(SpoolConfig::new(folder.path())).is_err(), "its reader is still there");
    drop(reader);
    open(SpoolConfig::new(folder.path()));
}

#[test]
fn room_comes_back_with_what_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    for fsync in [Fsync::Never, Fsync::Always, Fsync::Every(std::time::Duration::ZERO)] {
        let (mut spool, mut reader) = open(SpoolConfig { fsync, ..small(folder.path()) });
        let mut sent = 0;
        for _ in 0..if fsync == Fsync::Always { 2 } else { 20 } {
            while spool.append(&record(sent)).is_ok() {
                sent += 1;
            }
            drain(&mut reader);
            reader.acknowledge(u64::MAX);
            reader.tidy().unwrap();
            assert!(files(folder.path()).len() <= 2, "{:?}", files(folder.path()));
        }
        assert!(sent > 100, "{sent}");
        drop((spool, reader));
        fs::remove_dir_all(folder.path()).unwrap();
    }
}

/// A file that cannot be removed now goes later, and takes none of those after it with it.
#[test]
fn files_that_could_not_be_removed_go_later() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, mut reader) = open(small(folder.path()));
    for n in 0..20 {
        spool.append(&record(n)).unwrap();
    }
    drain(&mut reader);
    let second = folder.path().join(&files(folder.path())[1]);
    fs::remove_file(&second).unwrap();
    fs::create_dir(&second).unwrap();
    reader.acknowledge(20);
    reader.tidy().unwrap_err();
    assert!(spool.bytes() > 0 && files(folder.path()).len() > 2);
    fs::remove_dir(&second).unwrap();
    reader.tidy().unwrap();
    assert_eq!(files(folder.path()).len(), 1, "the one that is being written");
}

#[test]
fn an_unreadable_acknowledgement_costs_copies_only() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, mut reader) = open(small(folder.path()));
    (0..5).for_each(|n| assert_eq!(spool.append(&record(n)).unwrap(), n));
    drain(&mut reader);
    reader.acknowledge(4);
    reader.tidy().unwrap();
    drop((spool, reader));
    fs::write(folder.path().join("acknowledged"), [1, 2, 3]).unwrap();
    let (_spool, mut reader) = open(small(folder.path()));
    let left = drain(&mut reader);
    assert!(left.ends_with(&[4]), "{left:?}");
}

#[test]
fn two_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, mut reader) =
        Spool::open(SpoolConfig { segment_bytes: 5_000, ..SpoolConfig::new(folder.path()) }).unwrap();
    let writer = std::thread::spawn(move || (0..20_000).for_each(|n| assert_eq!(spool.append(&record(n)).unwrap(), n)));
    let mut next = 0;
    while next < 20_000 {
        for number in drain(&mut reader) {
            assert_eq!(number, next);
            next += 1;
        }
        reader.acknowledge(next);
        reader.tidy().unwrap();
    }
    writer.join().unwrap();
}

/// The child of the test below: appends until it is killed, and says how far it is.
#[test]
fn child_that_is_killed() {
    let Ok(folder) = std::env::var("SPOOL_FOLDER") else { return };
    let (mut spool, _reader) = Spool::open(SpoolConfig { segment_bytes: 50_000, ..SpoolConfig::new(folder) }).unwrap();
    let start: u64 = std::env::var("SPOOL_START").unwrap().parse().unwrap();
    let mut out = std::io::stdout().lock();
    for n in start.. {
        assert_eq!(spool.append(&record(n)).unwrap(), n);
        writeln!(out, "\nappended {n}").unwrap();
    }
}

#[test]
fn what_was_appended_outlives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_that_is_killed", "--exact", "--nocapture"])
            .env("SPOOL_FOLDER", folder.path())
            .env("SPOOL_START", expected.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut said = lines.by_ref().filter_map(|line| line.strip_prefix("appended ")?.parse::<u64>().ok());
        let wanted = expected + 100 * (round + 1);
        assert!(said.any(|n| n >= wanted));
        child.kill().unwrap();
        child.wait().unwrap();
        let last =
            lines.filter_map(|line| line.strip_prefix("appended ")?.parse::<u64>().ok()).last().unwrap_or(wanted);

        let (spool, mut reader) = open(SpoolConfig::new(folder.path()));
        let read = drain(&mut reader);
        assert_eq!(read, (0..read.len() as u64).collect::<Vec<_>>());
        expected = read.len() as u64;
        assert!(expected > last, "{last} was appended, {expected} are there");
        drop((spool, reader));
    }
}
