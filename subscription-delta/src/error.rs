//! Foreign errors, told as ours: what went wrong, with which table and file, and what can be done.

use std::error::Error as StdError;
use std::io;

use deltalake::DeltaTableError;
use deltalake::arrow::error::ArrowError;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::object_store::Error as StoreError;
use deltalake::parquet::errors::ParquetError;
use subscription_core::{Error, ErrorKind};

/// What an operation was about, for the error that it may end in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doing<'a> {
    /// As in "cannot {what}".
    pub(crate) what: &'static str,
    /// The table's name, or the lake's part that is no table.
    pub(crate) table: &'a str,
    /// The file or folder.
    pub(crate) path: &'a str,
}

impl Doing<'_> {
    /// An error of an object store.
    pub(crate) fn store(self, error: StoreError) -> Error {
        let kind = match &error {
            StoreError::NotFound { .. } => ErrorKind::NotFound,
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::PermissionDenied,
            StoreError::NotSupported { .. }
            | StoreError::NotImplemented { .. }
            | StoreError::InvalidPath { .. }
            | StoreError::UnknownConfigurationKey { .. } => ErrorKind::Configuration,
            _ => ErrorKind::Unavailable,
        };
        self.foreign(error, kind)
    }

    /// An error of delta-rs.
    pub(crate) fn delta(self, error: DeltaTableError) -> Error {
        match error {
            DeltaTableError::ObjectStore { source } => self.store(source),
            DeltaTableError::InvalidTableLocation(_) | DeltaTableError::MissingFeature { .. } => self
                .foreign(error, ErrorKind::Configuration)
                .with_help("use a path, or a URL of a store that this program was built with (features s3, azure, gcs)"),
            other => self.foreign(other, ErrorKind::Other),
        }
    }

    /// An error of a commit's log entry.
    pub(crate) fn transaction(self, error: TransactionError) -> Error {
        match error {
            TransactionError::ObjectStore { source } => self.store(source),
            other => self.foreign(other, ErrorKind::Unavailable),
        }
    }

    /// An error of reading a data file.
    pub(crate) fn parquet(self, error: ParquetError) -> Error {
        // What the object store said while the file was read comes wrapped.
        let kind = match store_error(&error) {
            Some(StoreError::NotFound { .. }) => ErrorKind::NotFound,
            Some(StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }) => ErrorKind::PermissionDenied,
            Some(_) => ErrorKind::Unavailable,
            None => ErrorKind::Corrupt,
        };
        self.foreign(error, kind)
    }

    /// An error of Arrow; on the reading side the file is not what it should be.
    pub(crate) fn arrow(self, error: ArrowError) -> Error {
        match error {
            ArrowError::ParquetError(message) => self.parquet(ParquetError::General(message)),
            ArrowError::ExternalError(source) => match source.downcast::<ParquetError>() {
                Ok(error) => self.parquet(*error),
                Err(source) => self.foreign(ArrowError::ExternalError(source), ErrorKind::Other),
            },
            other => self.foreign(other, ErrorKind::Corrupt),
        }
    }

    /// Stored bytes that make no sense.
    pub(crate) fn corrupt(self, why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, format!("cannot {}: {why}", self.what))
            .with("table", self.table)
            .with("file", self.path)
            .with_help(
                "restore the file from a backup; if there is none, move the lake away and fill a new one from its source",
            )
    }

    fn foreign(self, error: impl StdError + Send + Sync + 'static, kind: ErrorKind) -> Error {
        let (kind, help) = io_error(&error).and_then(of_io).unwrap_or_else(|| (kind, help(kind)));
        let message = match root_cause(&error) {
            cause if kind == ErrorKind::StorageFull => format!("cannot {}: no space left ({cause})", self.what),
            cause => format!("cannot {}: {cause}", self.what),
        };
        let mut result = Error::new(kind, message).with("table", self.table).with("path", self.path).with_source(error);
        if !help.is_empty() {
            result = result.with_help(help);
        }
        if kind == ErrorKind::Unavailable { result.retryable() } else { result }
    }
}

fn help(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "a file of the lake is gone: restore it, or move the lake away and fill a new one",
        ErrorKind::PermissionDenied => "give this process the right to read and write the lake",
        ErrorKind::Corrupt => {
            "restore the file from a backup; if there is none, move the lake away and fill a new one from its source"
        }
        ErrorKind::Unavailable => "check that the storage of the lake can be reached",
        _ => "",
    }
}

/// The operating system's word, where there is one, decides the kind.
fn of_io(error: &io::Error) -> Option<(ErrorKind, &'static str)> {
    Some(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::StorageFull, "make room and run again: what was committed is whole, and nothing is lost or doubled")
        }
        io::ErrorKind::PermissionDenied => (ErrorKind::PermissionDenied, help(ErrorKind::PermissionDenied)),
        io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::PermissionDenied, "the file system is mounted read-only: mount it writable, or choose another path")
        }
        io::ErrorKind::NotADirectory => {
            (ErrorKind::Configuration, "a lake is a folder, and this path, or a part of it, is a file: choose another path")
        }
        io::ErrorKind::NotFound => (ErrorKind::NotFound, help(ErrorKind::NotFound)),
        _ => return None,
    })
}

type Cause<'a> = &'a (dyn StdError + 'static);

fn chain(error: Cause<'_>) -> impl Iterator<Item = Cause<'_>> {
    fn cause(error: Cause<'_>) -> Option<Cause<'_>> {
        error.source()
    }
    std::iter::successors(Some(error), |error| cause(*error))
}

fn io_error(error: Cause<'_>) -> Option<&io::Error> {
    // An I/O error may wrap another one, which knows more.
    chain(error).filter_map(|error| error.downcast_ref::<io::Error>()).last()
}

fn store_error(error: Cause<'_>) -> Option<&StoreError> {
    chain(error).find_map(|error| match error.downcast_ref::<ParquetError>() {
        Some(ParquetError::External(source)) => source.downcast_ref::<StoreError>(),
        _ => error.downcast_ref::<StoreError>(),
    })
}

fn root_cause(error: Cause<'_>) -> Cause<'_> {
    chain(error).last().unwrap_or(error)
}
