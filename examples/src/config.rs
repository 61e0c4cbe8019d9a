//! Configuration files.

use serde::de::DeserializeOwned;
use subscription_core::{Error, ErrorKind, Result};

/// Reads TOML; an error names the file and the line.
///
/// # Errors
/// `Configuration`.
pub fn from_toml<T: DeserializeOwned>(text: &str, name: &str) -> Result<T> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
        Error::new(ErrorKind::Configuration, error.message().trim().replace('\n', ", "))
            .with("file", name)
            .with("line", line)
            .with_help(format!("correct line {line} of {name}"))
    })
}
