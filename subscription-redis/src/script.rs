//! The scripts, and how a server runs one: by its hash, or by its text where it does not know that.

use std::fmt::{Display, Write as _};
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
    keys: Texts,
    args: Texts,
}

/// Texts, one behind the other in one piece of memory: a decision has a dozen.
#[derive(Default)]
struct Texts {
    all: String,
    ends: Vec<usize>,
}

impl Texts {
    /// Adds what is written.
    fn push(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.all);
        self.ends.push(self.all.len());
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        self.ends.iter().scan(0, |start, end| Some(&self.all[std::mem::replace(start, *end)..*end]))
    }
}

impl Call {
    pub(crate) fn new(source: &'static Source) -> Self {
        Self { source, keys: Texts::default(), args: Texts::default() }
    }

    /// Adds the key that is written.
    pub(crate) fn key(&mut self, write: impl FnOnce(&mut String)) {
        self.keys.push(write);
    }

    pub(crate) fn arg(&mut self, arg: impl Display) -> &mut Self {
        self.args.push(|text| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{arg}");
        });
        self
    }

    /// Adds a number, or nothing: a time where the server's is to be taken, a cost where nothing is to be counted.
    pub(crate) fn opt_arg(&mut self, arg: Option<impl Display>) -> &mut Self {
        match arg {
            Some(arg) => self.arg(arg),
            None => self.arg(""),
        }
    }

    pub(crate) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.source.hash)
    }

    /// As the server then knows the script, the next call can be by hash.
    pub(crate) fn by_text(&self) -> Cmd {
        self.command("EVAL", self.source.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let Self { keys, args, .. } = self;
        let texts = keys.ends.len() + args.ends.len();
        let mut command =
            Cmd::with_capacity(3 + texts, name.len() + script.len() + 8 + keys.all.len() + args.all.len());
        command.arg(name).arg(script).arg(keys.ends.len());
        for text in keys.iter().chain(args.iter()) {
            command.arg(text);
        }
        command
    }
}
