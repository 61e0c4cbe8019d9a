//! Against real servers, which the tests start themselves (`dev/redis.sh`). Where there is none to be had they say so
//! and pass; with `CI=true` they fail.

mod broken;
mod conformance;
mod differential;
mod faults;
mod keys;
mod server;
#[cfg(feature = "tls")]
mod tls;
