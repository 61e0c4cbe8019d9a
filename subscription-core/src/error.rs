//! The one error type at the plug-in boundary.

use std::fmt;

/// What went wrong, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting, a flag or a file that the operator wrote is wrong.
    Configuration,
    /// Something named does not exist (a file, a topic, a table).
    NotFound,
    /// The operating system or a service refused access.
    PermissionDenied,
    /// Another process has moved the position: this one must drop what it has not committed.
    Fenced,
    /// What is stored does not fit what was asked for (another schema, other inputs, another catalog).
    Mismatch,
    /// Stored bytes cannot be read back.
    Corrupt,
    /// No room is left.
    StorageFull,
    /// A service did not answer.
    Unavailable,
    /// Records that should be there are gone (retention passed the position).
    Gap,
    /// A bug in this program: an invariant, such as the ledger, does not hold.
    Invariant,
    /// Anything else.
    Other,
}

/// An error of a plug-in or of the pipeline.
///
/// `Display` prints the message and its context on one line; [`Error::help`] says what the operator can do; the
/// cause is reachable through [`std::error::Error::source`].
///
/// ```
/// use subscription_core::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::Unavailable, "broker did not answer")
///     .with("broker", "localhost:9092")
///     .with_help("start the broker, or correct --kafka")
///     .retryable();
/// assert_eq!(error.to_string(), "broker did not answer (broker: localhost:9092)");
/// assert!(error.is_retryable());
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    help: Option<String>,
    retryable: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of a plug-in call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that is final: trying again would fail again.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            help: None,
            retryable: false,
            source: None,
        }))
    }

    /// An error of the operating system about a file or folder.
    pub(crate) fn io(message: impl Into<String>, error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let message = message.into();
        match error.kind() {
            Io::NotFound => Self::new(ErrorKind::NotFound, message).with_source(error),
            Io::PermissionDenied | Io::ReadOnlyFilesystem => {
                Self::new(ErrorKind::PermissionDenied, message).with_source(error)
            }
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Self::new(ErrorKind::StorageFull, message)
                .with_source(error)
                .with_help("make room on the disk")
                .retryable(),
            _ => Self::new(ErrorKind::Other, message).with_source(error).retryable(),
        }
    }

    /// Adds where it happened: a table, a partition, an offset.
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Adds what the operator can do about it.
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Adds the cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Marks it as worth trying again, unchanged, after a pause.
    pub fn retryable(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What the operator can do about it.
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (i, (key, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{key}: {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, "; caused by: {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}
