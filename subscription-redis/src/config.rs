//! Where the counters are, and how they are reached.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionInfo, IntoConnectionInfo};
use subscription_core::{Clock, Error, ErrorKind, Result};

/// Where the counters are, and how they are reached.
///
/// | URL | of |
/// |---|---|
/// | `redis://[user:password@]host[:port][/db]` | one server; `rediss://` with TLS (feature `tls`) |
/// | `redis-sentinel://[user:password@]host[:port],host[:port]…/name[/db]` | the primary that Sentinel knows under the name; `rediss-sentinel://` |
/// | `redis-cluster://[user:password@]host[:port],host[:port]…` | a cluster, of which these nodes are asked first; `rediss-cluster://` |
///
/// User and password are those of the servers (ACL); write other characters than letters and digits percent-encoded.
///
/// ```
/// use subscription_redis::RedisConfig;
/// let config = RedisConfig::new("redis://gateway:secret@localhost:6379")?.prefix("usage");
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), subscription_core::Error>(())
/// ```
#[derive(Clone)]
pub struct RedisConfig {
    pub(crate) target: Target,
    pub(crate) prefix: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    #[cfg(feature = "sentinel")]
    pub(crate) sentinel_user: Option<(String, String)>,
    #[cfg(feature = "tls")]
    pub(crate) certificates: redis::TlsCertificates,
}

/// What there is at the address.
#[derive(Clone)]
pub(crate) enum Target {
    Server(ConnectionInfo),
    #[cfg(feature = "sentinel")]
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        name: String,
        tls: bool,
    },
    #[cfg(feature = "cluster")]
    Cluster(Vec<ConnectionInfo>),
}

impl RedisConfig {
    /// Counters at a URL.
    ///
    /// # Errors
    /// `Configuration`, where it is none of the above, or of a feature that this program was built without.
    pub fn new(url: &str) -> Result<Self> {
        Ok(Self {
            target: Target::parse(url)?,
            prefix: "usage".to_owned(),
            connect_timeout: Duration::from_secs(1),
            clock: None,
            #[cfg(feature = "sentinel")]
            sentinel_user: None,
            #[cfg(feature = "tls")]
            certificates: redis::TlsCertificates { client_tls: None, root_cert: None },
        })
    }

    /// What all keys begin with. Default `usage`. Without braces, which would change where a cluster keeps them.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long making a connection may take. Default 1 s. Calls wait for it no longer than their own deadline.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Decides by the callers' clock, which must then be the same for all, instead of the server's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// User and password at the Sentinels, where they want any; an empty user for the password alone.
    #[cfg(feature = "sentinel")]
    pub fn sentinel_user(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.sentinel_user = Some((user.into(), password.into()));
        self
    }

    /// The certificates (PEM) of the authorities to trust instead of the operating system's.
    #[cfg(feature = "tls")]
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.root_cert = Some(pem.into());
        self
    }

    /// The certificate and its private key (PEM) that this program shows the server.
    #[cfg(feature = "tls")]
    pub fn client_certificate(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let (client_cert, client_key) = (certificate.into(), key.into());
        self.certificates.client_tls = Some(redis::ClientTlsConfig { client_cert, client_key });
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            return Err(Error::new(ErrorKind::Configuration, "the prefix of keys is empty or has braces")
                .with("prefix", &self.prefix)
                .with_help("use letters, digits and colons"));
        }
        Ok(())
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("servers", &self.target.to_string())
            .field("prefix", &self.prefix)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

impl Target {
    fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong(url, "it has no scheme"))?;
        let (tls, kind) = match scheme {
            "redis" | "valkey" => (false, ""),
            "rediss" | "valkeys" => (true, ""),
            _ => match scheme.split_once('-') {
                Some(("redis" | "valkey", kind)) => (false, kind),
                Some(("rediss" | "valkeys", kind)) => (true, kind),
                _ => return Err(wrong(url, "its scheme is unknown")),
            },
        };
        if tls && !cfg!(feature = "tls") {
            return Err(missing("tls"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let scheme = if tls { "rediss" } else { "redis" };
        let server = |host: &str, user: &str, port: u16, db: &str| -> Result<ConnectionInfo> {
            if host.is_empty() {
                return Err(wrong(url, "a host is missing"));
            }
            let at = if user.is_empty() { "" } else { "@" };
            // The last colon begins the port, but for one within the brackets of an IPv6 address.
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
            let port = if has_port { String::new() } else { format!(":{port}") };
            let info = format!("{scheme}://{user}{at}{host}{port}/{db}").into_connection_info();
            let info = info.map_err(|error| wrong(url, "it cannot be read").with_source(error))?;
            Ok(info.set_tcp_settings(tcp()))
        };
        match kind {
            "" => Ok(Self::Server(server(hosts, user, 6379, path)?)),
            #[cfg(feature = "sentinel")]
            "sentinel" => {
                let (name, db) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    return Err(wrong(url, "the name of the primary is missing"));
                }
                let sentinels = hosts.split(',').map(|host| server(host, user, 26_379, db)).collect::<Result<_>>()?;
                Ok(Self::Sentinel { sentinels, name: name.to_owned(), tls })
            }
            #[cfg(feature = "cluster")]
            "cluster" => {
                Ok(Self::Cluster(hosts.split(',').map(|host| server(host, user, 6379, "")).collect::<Result<_>>()?))
            }
            #[cfg(not(feature = "sentinel"))]
            "sentinel" => Err(missing("sentinel")),
            #[cfg(not(feature = "cluster"))]
            "cluster" => Err(missing("cluster")),
            _ => Err(wrong(url, "its scheme is unknown")),
        }
    }
}

impl fmt::Display for Target {
    /// The addresses, without users and passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = match self {
            Self::Server(server) => std::slice::from_ref(server),
            #[cfg(feature = "sentinel")]
            Self::Sentinel { sentinels, .. } => sentinels,
            #[cfg(feature = "cluster")]
            Self::Cluster(nodes) => nodes,
        };
        for (i, server) in servers.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { "," }, server.addr())?;
        }
        Ok(())
    }
}

/// Small packets at once: a decision waits for each of them.
pub(crate) fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// Never with the URL itself, which may hold a password.
fn wrong(url: &str, why: &str) -> Error {
    let url = url.rsplit_once('@').map_or(url, |(_, hosts)| hosts);
    Error::new(ErrorKind::Configuration, format!("the counter store's URL is wrong: {why}"))
        .with("url", url)
        .with_help("use redis://host:port, redis-sentinel://host:port/name or redis-cluster://host:port")
}

fn missing(feature: &'static str) -> Error {
    Error::new(ErrorKind::Configuration, "this program was built without a feature that the URL needs")
        .with("feature", feature)
        .with_help("build subscription-redis with it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let shown = |url: &str| RedisConfig::new(url).map(|config| config.target.to_string());
        assert_eq!(shown("redis://localhost").unwrap(), "localhost:6379");
        assert_eq!(shown("valkey://u:p@[::1]:7000/3").unwrap(), "::1:7000");
        assert_eq!(shown("redis-cluster://u:p@a,b:7001").unwrap(), "a:6379,b:7001");
        assert_eq!(shown("redis-sentinel://a,b:5/main").unwrap(), "a:26379,b:5");
        for url in [
            "",
            "localhost:6379",
            "http://a",
            "redis-ring://a",
            "redis-sentinel://a",
            "redis://",
            "redis-cluster://a,",
            "redis://u:hush@:::/x",
        ] {
            let error = RedisConfig::new(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{url}");
            assert!(error.help().is_some() && !format!("{error:?}").contains("hush"), "{error:?}");
        }
        assert!(RedisConfig::new("redis://a").unwrap().prefix("a{b}").check().is_err());
    }
}
