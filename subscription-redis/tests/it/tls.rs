//! TLS: the server is who its certificate says, or there is no connection.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use subscription_core::{Check, CounterStore, ErrorKind, Limits, WindowAlgorithm};
use subscription_redis::{RedisConfig, RedisCounters};

use crate::server::{DEADLINE, Servers};

/// A certificate for 127.0.0.1 that signs itself, and its key.
fn certificate(folder: &Path, name: &str) -> (String, String) {
    let path = |kind: &str| folder.join(format!("{name}.{kind}")).display().to_string();
    let (certificate, key) = (path("crt"), path("key"));
    let made = Command::new("openssl")
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1".split(' '),
        )
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-out", &certificate, "-keyout", &key])
        .output();
    let made = made.expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

#[tokio::test]
async fn certificates_are_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = certificate(folder.path(), "server");
    let (other, _) = self::certificate(folder.path(), "other");
    // Free now, and most likely still when the server takes it.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let settings = [
        "--",
        "tls-port",
        &port.to_string(),
        "tls-cert-file",
        &certificate,
        "tls-key-file",
        &key,
        "tls-ca-cert-file",
        &certificate,
        "tls-auth-clients",
        "no",
    ];
    let Some(_servers) = Servers::up(&settings) else { return };
    let connect = async |trusted: &str| {
        let config = RedisConfig::new(&format!("rediss://127.0.0.1:{port}")).expect("a URL");
        let config = config.connect_timeout(DEADLINE).ca_certificates(std::fs::read(trusted).expect("a certificate"));
        RedisCounters::connect(config).await
    };
    let counters = connect(&certificate).await.expect("a connection");
    let limits = Limits { per_minute: 1, per_hour: 1, per_month: 1, window: WindowAlgorithm::Fixed };
    let check = Check { tenant: "acme", limits, scopes: &[], cost: 1, at: None };
    assert!(counters.check_and_add(check, DEADLINE).await.expect("a decision").allowed);
    let error = connect(&other).await.expect_err("a server that nobody vouches for");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(format!("{error:?}").to_lowercase().contains("certificate"), "{error:?}");
}
