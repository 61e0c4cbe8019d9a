//! The `pipeline` binary as its users meet it: what it does, and what it says when something is wrong.

mod bad_input;
mod bad_lake;
mod kafka;
mod kill;
mod usage;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What a command printed, and how it ended.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    /// It ended well.
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }

    /// It failed with that code, and said all that.
    #[track_caller]
    fn fails(self, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        assert!(self.err.contains("error: ") && self.err.contains("help: "), "{}", self.err);
        for word in says {
            assert!(self.err.contains(word), "no `{word}` in: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// A folder to work in, and the binary in it.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    /// A command in the folder, with no setting from the environment of the test.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PIPELINE_")) {
            command.env_remove(name);
        }
        command.args(line.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn pipeline(&self, line: &str) -> Ran {
        self.command(line).output().expect("the binary").into()
    }

    /// Rows of a table, by a column.
    fn column(&self, table: &str, column: &str) -> Vec<Value> {
        let shown = self.pipeline(&format!("show {table} --lake lake --format json --columns {column}")).ok();
        let row = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")[column].clone();
        shown.out.lines().map(row).collect()
    }

    /// The ledger, of a lake that is sound.
    fn ledger(&self) -> Ledger {
        self.pipeline("verify --lake lake").ok();
        let page = self.pipeline("tables --lake lake --json").ok().json();
        let n = |name: &str| page["ledger"][name].as_u64().expect("a number");
        assert_eq!(page["ledger"]["balanced"], true);
        Ledger {
            read: n("read"),
            dead: n("dead_lettered"),
            accepted: n("accepted"),
            duplicates: n("duplicates"),
            quarantined: n("quarantined"),
        }
    }

    /// Runs a command as a user who may do nothing, where the test's user may do everything.
    fn as_nobody(&self, line: &str) -> Ran {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        use std::os::unix::process::CommandExt;
        let mut command = self.command(line);
        if std::fs::metadata(self.folder.path()).expect("the folder").uid() == 0 {
            let copy = self.path("pipeline-of-nobody");
            if !copy.exists() {
                // By another process: where this one had it open to write while another test starts a child, that child would
                // hold it open, and what is open to write cannot be run.
                let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_pipeline")).arg(&copy).status();
                assert!(copied.expect("cp").success());
            }
            for path in [self.folder.path(), &copy] {
                std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("permissions");
            }
            let mut other = Command::new(copy);
            other.args(command.get_args()).current_dir(self.folder.path()).stdin(Stdio::null()).uid(65_534).gid(65_534);
            command = other;
        }
        command.output().expect("the binary").into()
    }
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Ledger {
    read: u64,
    dead: u64,
    accepted: u64,
    duplicates: u64,
    quarantined: u64,
}

impl Ledger {
    /// Of events that are all accepted.
    fn of(accepted: u64) -> Self {
        Self { read: accepted, dead: 0, accepted, duplicates: 0, quarantined: 0 }
    }
}

/// An event; the number makes its id, its time and its tenant.
fn event(n: u64) -> String {
    let (hour, minute, second) = (n / 3_600, n / 60 % 60, n % 60);
    format!(
        r#"{{"event_id":"00000000-0000-4000-8000-{n:012}","event_timestamp":"2026-01-05T{hour:02}:{minute:02}:{second:02}Z","tenant_id":"tenant-{}","api_key_id":"k","endpoint":"/v1/x","http_method":"GET","response_status_code":200,"response_time_ms":1.5,"subscription_plan":"free"}}"#,
        n % 17
    )
}

/// Lines of events.
fn events(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| event(n) + "\n").collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// All files below a folder with their bytes.
fn files(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(path).expect("a file"));
        }
    }
    found
}
