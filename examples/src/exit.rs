//! How the command ends: exit codes, and errors as people read them.

use std::error::Error as _;
use std::process::ExitCode;

use subscription_core::{Error, ErrorKind};

/// The exit code, by what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// The lake contradicts itself, or the program does.
    Broken = 1,
    /// A flag, a configuration file or a plan catalog is wrong.
    Usage = 2,
    /// An input cannot be opened or read to its end.
    Input = 3,
    /// The lake cannot be opened, read or written.
    Lake = 4,
    /// The lake is in use by another process, or was filled from other inputs or with other settings.
    Taken = 5,
    /// Records that come next are gone from the topic.
    Gone = 6,
    /// Stopped by SIGINT after committing what was read.
    Interrupted = 130,
    /// Stopped by SIGTERM after committing what was read.
    Terminated = 143,
}

/// The table of exit codes, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    verify found the lake broken, or this program contradicts itself
  2    a flag, a configuration file or a plan catalog is wrong
  3    an input cannot be opened or read to its end, or a topic or its brokers cannot be reached
  4    the lake cannot be opened, read or written
  5    another process writes the lake, or it was filled from other inputs or with other settings; or a topic is not as it should be
  6    records that come next are gone from the topic (retention passed the lake's position)
  130  interrupted (SIGINT); all that was read is committed
  143  terminated (SIGTERM); all that was read is committed";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error, and the exit code that it ends in.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong.
    pub error: Error,
}

/// The result of a command.
pub type Outcome<T = Exit> = Result<T, Failure>;

/// Where an error comes from, for those kinds that do not say.
pub trait At<T> {
    /// From settings.
    fn at_usage(self) -> Outcome<T>;
    /// From an input.
    fn at_input(self) -> Outcome<T>;
    /// From the lake.
    fn at_lake(self) -> Outcome<T>;
}

impl<T> At<T> for subscription_core::Result<T> {
    fn at_usage(self) -> Outcome<T> {
        self.map_err(|error| Failure { exit: Exit::Usage, error })
    }

    fn at_input(self) -> Outcome<T> {
        self.map_err(|error| {
            let exit = if error.kind() == ErrorKind::Configuration { Exit::Usage } else { Exit::Input };
            Failure { exit: general(&error).unwrap_or(exit), error }
        })
    }

    fn at_lake(self) -> Outcome<T> {
        self.map_err(|error| Failure { exit: general(&error).unwrap_or(Exit::Lake), error })
    }
}

/// The exit code of the kinds that mean the same wherever they come from.
fn general(error: &Error) -> Option<Exit> {
    match error.kind() {
        ErrorKind::Fenced | ErrorKind::Mismatch => Some(Exit::Taken),
        ErrorKind::Invariant => Some(Exit::Broken),
        ErrorKind::Gap => Some(Exit::Gone),
        _ => None,
    }
}

/// The error with its causes, and what can be done about it.
pub fn report(error: &Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut cause = error.source();
    let mut said = error.to_string();
    while let Some(error) = cause {
        let message = error.to_string();
        // Wrapped errors often repeat what they wrap.
        if !said.contains(&message) {
            text.push_str(&format!("  because: {message}\n"));
        }
        said = message;
        cause = error.source();
    }
    if let Some(help) = error.help() {
        text.push_str(&format!("help: {help}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_causes_and_help() {
        let disk = std::io::Error::other("no room");
        let inner = Error::new(ErrorKind::StorageFull, "cannot write").with_source(disk);
        let same = Error::new(ErrorKind::StorageFull, "cannot write").with_source(inner);
        let error = Error::new(ErrorKind::StorageFull, "lake is full")
            .with("table", "silver_api_usage")
            .with_help("make room")
            .with_source(same);
        assert_eq!(
            report(&error),
            "error: lake is full (table: silver_api_usage)\n  because: cannot write\n  because: no room\nhelp: make room\n"
        );
    }

    #[test]
    fn the_table_has_every_code() {
        for exit in [
            Exit::Ok,
            Exit::Broken,
            Exit::Usage,
            Exit::Input,
            Exit::Lake,
            Exit::Taken,
            Exit::Gone,
            Exit::Interrupted,
            Exit::Terminated,
        ] {
            let line = format!("\n  {:<5}", exit as u8);
            assert!(EXIT_CODES.contains(&line), "{exit:?}");
        }
    }

    #[test]
    fn kinds_decide_before_places() {
        let failure = |kind| Err::<(), _>(Error::new(kind, "x"));
        let exit = |outcome: Outcome<()>| outcome.expect_err("an error").exit;
        assert_eq!(exit(failure(ErrorKind::Mismatch).at_input()), Exit::Taken);
        assert_eq!(exit(failure(ErrorKind::Fenced).at_lake()), Exit::Taken);
        assert_eq!(exit(failure(ErrorKind::Invariant).at_lake()), Exit::Broken);
        assert_eq!(exit(failure(ErrorKind::NotFound).at_lake()), Exit::Lake);
        assert_eq!(exit(failure(ErrorKind::NotFound).at_input()), Exit::Input);
        assert_eq!(exit(failure(ErrorKind::Configuration).at_input()), Exit::Usage);
        assert_eq!(exit(failure(ErrorKind::NotFound).at_usage()), Exit::Usage);
    }
}
