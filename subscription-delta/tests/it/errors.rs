//! What a user can do wrong, or have happen, and what is said.

use std::os::unix::fs::PermissionsExt as _;

use subscription_core::{Error, ErrorKind, Table, TableStore};
use subscription_delta::{DeltaConfig, DeltaStore};

use crate::support::*;

fn says(error: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error:?}");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
    assert!(error.help().is_some_and(|help| !help.is_empty()), "no help: {error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_that_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lake"), "text").unwrap();
    for error in [
        DeltaStore::open(config(dir.path())).await.unwrap_err(),
        DeltaStore::open_existing(config(dir.path())).await.unwrap_err(),
        DeltaStore::open(DeltaConfig::new(dir.path().join("lake/below").to_str().unwrap()).unwrap()).await.unwrap_err(),
    ] {
        says(&error, ErrorKind::Configuration, &["lake"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lake_is_not_made_by_those_who_read() {
    let dir = tempfile::tempdir().unwrap();
    says(&DeltaStore::open_existing(config(dir.path())).await.unwrap_err(), ErrorKind::NotFound, &["no lake"]);
    assert!(!dir.path().join("lake").exists());
    open(dir.path()).await;
    let lake = DeltaStore::open_existing(config(dir.path())).await.unwrap();
    let error = lake.commit(step(&BRONZE, 0, 0, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_location_that_is_no_place() {
    for location in ["nowhere://bucket/lake", "http://host/lake"] {
        let error = DeltaStore::open(DeltaConfig::new(location).unwrap()).await.unwrap_err();
        says(&error, ErrorKind::Configuration, &[]);
    }
    says(&DeltaConfig::new("://").unwrap_err(), ErrorKind::Configuration, &["://"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_another_schema() {
    let edits: [(&str, &str, &str); 4] = [
        (r#"\"name\":\"payload\""#, r#"\"name\":\"content\""#, "payload"),
        (r#"\"name\":\"offset\",\"type\":\"long\""#, r#"\"name\":\"offset\",\"type\":\"string\""#, "`offset` is string"),
        (r#""partitionColumns":["ingestion_date"]"#, r#""partitionColumns":[]"#, "partitioned by []"),
        (r#""minReaderVersion":1"#, r#""minReaderVersion":2"#, "reader 2"),
    ];
    for (from, to, named) in edits {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).await;
        let entry = dir.path().join("lake/bronze_api_usage/_delta_log/00000000000000000000.json");
        let text = std::fs::read_to_string(&entry).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&entry, text.replace(from, to)).unwrap();
        let error = DeltaStore::open(config(dir.path())).await.unwrap_err();
        says(&error, ErrorKind::Mismatch, &["bronze_api_usage", named]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_read() {
    for damage in ["", "\0\0\0\0\0\0\0\0", "{\"add\":", "{\"nonsense\":{}}", "gone"] {
        let dir = tempfile::tempdir().unwrap();
        let lake = open(dir.path()).await;
        for at in 0..4 {
            lake.commit(step(&BRONZE, 0, at * 10, at * 10 + 10)).await.unwrap();
        }
        let name = "00000000000000000002.json";
        let entry = dir.path().join("lake/bronze_api_usage/_delta_log").join(name);
        if damage == "gone" {
            std::fs::remove_file(&entry).unwrap();
        } else {
            std::fs::write(&entry, damage).unwrap();
        }
        let error = DeltaStore::open(config(dir.path())).await.unwrap_err();
        says(&error, ErrorKind::Corrupt, &["bronze_api_usage", name]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_file_that_cannot_be_read() {
    for damage in [Some(&b"PAR1 is not enough"[..]), Some(b""), None] {
        let dir = tempfile::tempdir().unwrap();
        let lake = open(dir.path()).await;
        lake.commit(step(&BRONZE, 0, 0, 10)).await.unwrap();
        let folder = dir.path().join("lake/bronze_api_usage/ingestion_date=2024-02-29");
        let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        match damage {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let error = lake.read_bronze(TOPIC, 0, 0, 1).await.unwrap_err();
        let kind = if damage.is_some() { ErrorKind::Corrupt } else { ErrorKind::NotFound };
        says(&error, kind, &["bronze_api_usage", file.file_name().unwrap().to_str().unwrap()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_deleted_underneath() {
    let dir = tempfile::tempdir().unwrap();
    let lake = open(dir.path()).await;
    lake.commit(step(&BRONZE, 0, 0, 10)).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("lake/bronze_api_usage")).unwrap();
    let error = lake.commit(step(&BRONZE, 0, 10, 20)).await.unwrap_err();
    says(&error, ErrorKind::NotFound, &["bronze_api_usage"]);
    assert!(!dir.path().join("lake/bronze_api_usage").exists(), "nothing is written where the table was");
    says(&lake.read_bronze(TOPIC, 0, 0, 1).await.unwrap_err(), ErrorKind::NotFound, &["bronze_api_usage"]);
    assert_eq!(lake.info().await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_that_may_not_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let lake = open(dir.path()).await;
    lake.commit(step(&BRONZE, 0, 0, 10)).await.unwrap();
    let folder = dir.path().join("lake/bronze_api_usage/_delta_log");
    let may = |mode| std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
    may(0o555);
    // Root may write everywhere; the error is that of a file system then, tried in the test of the disk.
    let probe = folder.join("probe");
    if std::fs::write(&probe, "").is_ok() {
        std::fs::remove_file(&probe).unwrap();
        may(0o755);
        return;
    }
    let error = lake.commit(step(&[Table::Bronze], 0, 10, 20)).await.unwrap_err();
    says(&error, ErrorKind::PermissionDenied, &["bronze_api_usage"]);
    may(0o755);
    lake.commit(step(&[Table::Bronze], 0, 10, 20)).await.unwrap();
    assert_eq!(lake.info().await.unwrap()[Table::Bronze as usize].rows, 18);
}

/// A small file system of its own, where this process may mount one.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(at: &std::path::Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "lake-test"])
            .arg(at)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then(|| Self(at.to_owned()))
    }

    fn remount(&self, options: &str) {
        let done = std::process::Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(done.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_and_one_that_is_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("disk"), "size=640k") else {
        // No right to mount: the errors themselves are tried where they are mapped.
        return;
    };
    let lake = open(&disk.0).await;
    let mut at = 0;
    let error = loop {
        match lake.commit(step(&[Table::Bronze], 0, at, at + 500)).await {
            Ok(_) => at += 500,
            Err(error) => break error,
        }
        assert!(at < 1_000_000, "the disk fills");
    };
    says(&error, ErrorKind::StorageFull, &["bronze_api_usage", "no space left"]);
    assert!(at > 0);
    let whole = open(&disk.0).await;
    assert_eq!(whole.info().await.unwrap()[Table::Bronze as usize].rows, at / 10 * 9);

    disk.remount("size=64m");
    lake.commit(step(&[Table::Bronze], 0, at, at + 500)).await.unwrap();
    assert_eq!(whole.info().await.unwrap()[Table::Bronze as usize].rows, (at + 500) / 10 * 9);

    disk.remount("ro");
    let error = lake.commit(step(&[Table::Bronze], 0, at + 500, at + 600)).await.unwrap_err();
    says(&error, ErrorKind::PermissionDenied, &["bronze_api_usage", "ead-only"]);
    assert_eq!(open(&disk.0).await.state(TOPIC, &[0]).await.unwrap()[0].position(Table::Bronze), at + 500);
}
