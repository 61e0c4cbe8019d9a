//! The scripts, and how a server runs one: by its hash, or by its text where it does not know that.

use std::sync::LazyLock;

use redis::{Cmd, Script};

/// Decides and counts, or tells counters; see the file.
pub(crate) static CHECK: LazyLock<Source> = LazyLock::new(|| Source::new(include_str!("scripts/check.lua")));
/// Raises counters; see the file.
pub(crate) static RAISE: LazyLock<Source> = LazyLock::new(|| Source::new(include_str!("scripts/raise.lua")));

pub(crate) struct Source {
    text: &'static str,
    hash: String,
}

impl Source {
    fn new(text: &'static str) -> Self {
        Self { text, hash: Script::new(text).get_hash().to_owned() }
    }
}

/// A call of a script.
pub(crate) struct Call {
    source: &'static Source,
    keys: Vec<String>,
    args: Vec<String>,
}

impl Call {
    pub(crate) fn new(source: &'static Source) -> Self {
        Self { source, keys: Vec::new(), args: Vec::new() }
    }

    pub(crate) fn key(&mut self, key: String) -> &mut Self {
        self.keys.push(key);
        self
    }

    pub(crate) fn arg(&mut self, arg: impl ToString) -> &mut Self {
        self.args.push(arg.to_string());
        self
    }

    /// Adds a time, or nothing where the server's is to be taken.
    pub(crate) fn time(&mut self, at: Option<subscription_core::Timestamp>) -> &mut Self {
        self.arg(at.map(|at| at.millis().to_string()).unwrap_or_default())
    }

    pub(crate) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.source.hash)
    }

    /// As the server then knows the script, the next call can be by hash.
    pub(crate) fn by_text(&self) -> Cmd {
        self.command("EVAL", self.source.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.args);
        command
    }
}
