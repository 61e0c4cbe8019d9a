//! Servers of a test's own.

#![allow(dead_code, reason = "each program that includes this file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use subscription_redis::{RedisConfig, RedisCounters};
use tempfile::TempDir;

/// Far longer than any call takes on a busy machine; tests of deadlines give their own.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Servers that end with the value.
pub(crate) struct Servers {
    url: String,
    folder: TempDir,
}

fn script() -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.map(|folder| folder.join("dev/redis.sh")).find(|script| script.exists()).expect("dev/redis.sh")
}

impl Servers {
    /// Starts what `dev/redis.sh up` is told to; `None` where there is no server to be had.
    pub(crate) fn up(arguments: &[&str]) -> Option<Self> {
        let folder = TempDir::new().expect("a folder");
        let (options, settings) =
            arguments.split_at(arguments.iter().position(|argument| *argument == "--").unwrap_or(arguments.len()));
        let output = Command::new(script())
            .arg("up")
            .args(options)
            .args(["--port", "random", "--dir"])
            .arg(folder.path().join("redis"))
            .args(settings)
            .output()
            .expect("dev/redis.sh");
        if output.status.success() {
            return Some(Self { url: text(&output).lines().last().unwrap_or_default().to_owned(), folder });
        }
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{why}");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no server: {why}");
        println!("skipped: {why}");
        None
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Each on its own port, in rising order.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let folders = std::fs::read_dir(self.folder.path().join("redis")).expect("the servers' folder");
        let mut ports: Vec<u16> =
            folders.filter_map(|folder| folder.ok()?.file_name().to_str()?.parse().ok()).collect();
        ports.sort_unstable();
        ports
    }

    /// What the command line client prints.
    pub(crate) fn cli(&self, port: u16, arguments: &[&str]) -> String {
        let client = if program("valkey-cli") { "valkey-cli" } else { "redis-cli" };
        let output = Command::new(client).args(["-p", &port.to_string()]).args(arguments).output().expect(client);
        text(&output).trim().to_owned()
    }

    /// Sends a signal to the server on a port.
    pub(crate) fn signal(&self, port: u16, signal: &str) {
        let pid = std::fs::read_to_string(self.folder.path().join(format!("redis/{port}/pid"))).expect("a pid file");
        assert!(Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status().expect("kill").success());
    }

    /// Kills the server on a port; it comes back empty.
    pub(crate) fn kill(&self, port: u16) {
        self.signal(port, "KILL");
    }

    /// Starts a server again after it was killed, with no memory.
    pub(crate) fn start(&self, port: u16) {
        let folder = self.folder.path().join(format!("redis/{port}"));
        let server = if program("valkey-server") { "valkey-server" } else { "redis-server" };
        let (pid, log) = (folder.join("pid"), folder.join("log"));
        let status = Command::new(server)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "yes", "--save", "", "--dir"])
            .arg(&folder)
            .arg("--pidfile")
            .arg(pid)
            .arg("--logfile")
            .arg(log)
            .status();
        assert!(status.expect(server).success());
    }

    /// Moves the slot of a tenant to a node of the cluster, counted from 0, key by key, as `redis-cli --cluster reshard` does it.
    pub(crate) async fn move_slot(&self, tenant: &str, target: usize) {
        let ports = self.ports();
        let slot = self.cli(ports[0], &["cluster", "keyslot", tenant]);
        let key = format!("x{{{tenant}}}");
        let owner = (0..ports.len()).find(|&node| !self.cli(ports[node], &["get", &key]).contains("MOVED"));
        let source = owner.expect("an owner");
        if source == target {
            return;
        }
        let [from, to] = [source, target].map(|node| self.cli(ports[node], &["cluster", "myid"]));
        self.cli(ports[target], &["cluster", "setslot", &slot, "importing", &from]);
        self.cli(ports[source], &["cluster", "setslot", &slot, "migrating", &to]);
        tokio::time::sleep(Duration::from_millis(20)).await;
        loop {
            let keys = self.cli(ports[source], &["cluster", "getkeysinslot", &slot, "1"]);
            if keys.is_empty() {
                break;
            }
            let port = ports[target].to_string();
            self.cli(ports[source], &["migrate", "127.0.0.1", &port, &keys, "0", "5000"]);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for node in [target, source] {
            self.cli(ports[node], &["cluster", "setslot", &slot, "node", &to]);
        }
    }

    pub(crate) async fn counters(&self) -> RedisCounters {
        connect(RedisConfig::new(&self.url).expect("a URL")).await
    }
}

pub(crate) async fn connect(config: RedisConfig) -> RedisCounters {
    RedisCounters::connect(config.connect_timeout(DEADLINE)).await.expect("a server")
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = Command::new(script()).args(["down", "--dir"]).arg(self.folder.path().join("redis")).output();
    }
}

fn program(name: &str) -> bool {
    Command::new(name).arg("--version").output().is_ok()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
