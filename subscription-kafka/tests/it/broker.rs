//! A real Apache Kafka for a test, started by `dev/services`, with ports and a folder of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Ends with its value; where the test process is killed, the script ends it.
pub(crate) struct Broker {
    dir: TempDir,
    port: u16,
    brokers: u16,
}

impl Broker {
    /// Starts one, `None` where no Kafka can be had here: the test then says so and passes, except in CI.
    pub(crate) fn start(brokers: u16, options: &[&str]) -> Option<Self> {
        let broker = Self { dir: tempfile::tempdir().expect("a folder"), port: free_ports(3 * brokers), brokers };
        let (port, count, parent) = (broker.port.to_string(), brokers.to_string(), std::process::id().to_string());
        let output = broker.services(
            &["up", "kafka"],
            &[&["--port", &port, "--brokers", &count, "--while", &parent], options].concat(),
        );
        if output.status.success() {
            return Some(broker);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // Exit code 3 says that neither Kafka nor what would fetch it is here.
        assert_eq!(output.status.code(), Some(3), "cannot start Kafka: {said}");
        assert!(std::env::var("CI").is_err(), "CI without Kafka: {said}");
        println!("skipped: {said}");
        None
    }

    /// For clients that need not say who they are.
    pub(crate) fn address(&self) -> String {
        self.addresses(0)
    }

    /// For clients that say who they are, where started with `--sasl`.
    pub(crate) fn sasl_address(&self) -> String {
        self.addresses(2)
    }

    fn addresses(&self, offset: u16) -> String {
        let addresses = (0..self.brokers).map(|i| format!("127.0.0.1:{}", self.port + 3 * i + offset));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// kill -9 of a broker, counted from 1.
    pub(crate) fn kill(&self, broker: u16) {
        self.must("kill", broker);
    }

    /// Starts a killed broker on the data that it left.
    pub(crate) fn restart(&self, broker: u16) {
        self.must("start", broker);
    }

    fn must(&self, command: &str, broker: u16) {
        let output = self.services(&[command, "kafka", &broker.to_string()], &[]);
        assert!(output.status.success(), "{command} {broker}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn services(&self, command: &[&str], options: &[&str]) -> Output {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dev/services");
        Command::new(script).args(command).arg("--dir").arg(self.dir.path()).args(options).output().expect("a shell")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.services(&["down", "kafka"], &[]);
    }
}

/// The first of so many consecutive ports that are free now.
fn free_ports(count: u16) -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if first.checked_add(count).is_some() && (first..first + count).all(free) {
            return first;
        }
    }
}
