//! What a verification found.

use serde::Serialize;

use crate::text::{Align, columns, count};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether everything holds.
    pub sound: bool,
    /// Each thing that was checked.
    pub checks: Vec<Check>,
}

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What must hold.
    pub name: &'static str,
    /// Of how many rows, records or numbers it was looked at.
    pub checked: u64,
    /// For how many it does not hold.
    pub broken: u64,
    /// The first of those.
    pub examples: Vec<String>,
}

/// Examples kept of what is broken.
pub(super) const EXAMPLES: usize = 5;

impl Check {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, checked: 0, broken: 0, examples: Vec::new() }
    }

    pub(super) fn expect(&mut self, holds: bool, example: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.fail(1, example);
        }
    }

    pub(super) fn fail(&mut self, broken: u64, example: impl FnOnce() -> String) {
        self.broken += broken;
        if broken > 0 && self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

impl Verdict {
    /// The verdict for people.
    pub fn render(&self) -> String {
        let rows: Vec<_> = self
            .checks
            .iter()
            .map(|check| {
                let verdict =
                    if check.broken == 0 { "ok".to_owned() } else { format!("{} BROKEN", count(check.broken)) };
                vec![check.name.to_owned(), count(check.checked), verdict]
            })
            .collect();
        let mut text = columns(&[Align::Left, Align::Right, Align::Left], &rows);
        for check in self.checks.iter().filter(|check| check.broken > 0) {
            text.push_str(&format!("\n{}:\n", check.name));
            for example in &check.examples {
                text.push_str(&format!("  {example}\n"));
            }
            let more = check.broken - (check.examples.len() as u64).min(check.broken);
            if more > 0 {
                text.push_str(&format!("  and {} more\n", count(more)));
            }
        }
        text.push_str(if self.sound { "\nThe lake is sound.\n" } else { "\nThe lake is BROKEN.\n" });
        text
    }
}
