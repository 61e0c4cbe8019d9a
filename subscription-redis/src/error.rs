//! Errors of servers and connections, told as ours.

use redis::{RedisError, ServerErrorKind};
use subscription_core::{Error, ErrorKind};

/// What an error means for the connection it came over, and for a call that is to be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// None: the server answered.
    None,
    /// The connection is useless: another one is needed.
    Reconnect,
    /// The server does not know the script; nothing was done.
    NoScript,
    /// The keys are at another node of the cluster, for good or for this one call; nothing was done.
    Moved,
    Ask,
}

pub(crate) fn consequence(error: &RedisError) -> Consequence {
    match error.kind() {
        redis::ErrorKind::Server(kind) => match kind {
            ServerErrorKind::NoScript => Consequence::NoScript,
            ServerErrorKind::Moved => Consequence::Moved,
            ServerErrorKind::Ask => Consequence::Ask,
            // Of a primary that has become a replica.
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown => Consequence::Reconnect,
            _ => Consequence::None,
        },
        redis::ErrorKind::Extension | redis::ErrorKind::UnexpectedReturnType => Consequence::None,
        redis::ErrorKind::Io if error.is_timeout() => Consequence::None,
        _ => Consequence::Reconnect,
    }
}

/// The error of a call, or of connecting.
pub(crate) fn foreign(error: RedisError, server: &str) -> Error {
    let (kind, message, help) = describe(&error);
    let mapped = Error::new(kind, message).with("server", server);
    let mapped = if help.is_empty() { mapped } else { mapped.with_help(help) };
    // What an operator or time can put right may be tried again.
    let mapped = if kind == ErrorKind::Unavailable { mapped.retryable() } else { mapped };
    mapped.with_source(error)
}

fn describe(error: &RedisError) -> (ErrorKind, &'static str, &'static str) {
    match (error.kind(), error.code()) {
        (redis::ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => (
            ErrorKind::PermissionDenied,
            "the counter store refused user or password",
            "correct them in the URL: redis://user:password@host",
        ),
        (_, Some("NOPERM")) => (
            ErrorKind::PermissionDenied,
            "the counter store's user lacks rights",
            "allow it the commands eval, evalsha, time, hmget, hset, pexpire and ping on the keys of the prefix",
        ),
        (redis::ErrorKind::Server(ServerErrorKind::ReadOnly), _) => (
            ErrorKind::Unavailable,
            "the counter store is a replica that takes no writes",
            "give the primary's address, or Sentinel's: redis-sentinel://host/name",
        ),
        (_, Some("WRONGTYPE")) => (
            ErrorKind::Corrupt,
            "a key of the counters holds something else",
            "find out who wrote it and delete it, or give the counters a prefix of their own",
        ),
        (_, Some("OOM")) => (
            ErrorKind::StorageFull,
            "the counter store is out of memory",
            "raise maxmemory, with the policy noeviction or volatile-ttl",
        ),
        (redis::ErrorKind::InvalidClientConfig, _) => {
            (ErrorKind::Configuration, "the counter store's address is wrong", "give redis://host:port")
        }
        (redis::ErrorKind::MasterNameNotFoundBySentinel, _) => (
            ErrorKind::Unavailable,
            "Sentinel knows no primary of that name, or none that is up",
            "compare the name in the URL with `sentinel monitor` in Sentinel's configuration",
        ),
        (redis::ErrorKind::Server(ServerErrorKind::TryAgain | ServerErrorKind::Ask | ServerErrorKind::Moved), _) => {
            (ErrorKind::Unavailable, "the tenant's counters are on their way to another node", "")
        }
        (redis::ErrorKind::Server(kind), _)
            if !matches!(
                kind,
                ServerErrorKind::ClusterDown | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown
            ) =>
        {
            (ErrorKind::Other, "the counter store refused the call", "")
        }
        (redis::ErrorKind::Extension, Some(code)) if code != "BUSY" && code != "LOADING" => {
            (ErrorKind::Other, "the counter store refused the call", "")
        }
        _ => (ErrorKind::Unavailable, "the counter store did not answer", "start it, or correct its address"),
    }
}
