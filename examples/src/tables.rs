//! `pipeline tables`: what each table holds, and the ledger.

use serde::Serialize;

use crate::summary::{Ledger, TableSummary, section_ledger, table_columns};
use crate::text::{Align, columns, count};

/// The page. Its JSON is stable: keys may be added, none is renamed or removed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TablesPage {
    /// Where the tables lie.
    pub lake: String,
    /// Every table, in the order in which records reach them.
    pub tables: Vec<TableSummary>,
    /// What became of all records.
    pub ledger: Ledger,
}

impl TablesPage {
    /// The page for people.
    pub fn render(&self) -> String {
        let mut page = format!("Tables in {}\n{}", self.lake, table_columns(&self.tables));
        page.push_str("\nPositions\n");
        page.push_str(&positions(&self.tables));
        section_ledger(&mut page, &self.ledger);
        page
    }

    /// The page for programs: one JSON object.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers go into memory")
    }
}

/// One line for tables that stand at the same places, which is all of them after a run that ended.
fn positions(tables: &[TableSummary]) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut tables = tables.iter().peekable();
    while let Some(first) = tables.next() {
        let mut names = vec![first.table];
        while let Some(same) = tables.next_if(|next| next.positions == first.positions) {
            names.push(same.table);
        }
        let name = match names[..] {
            [one] => one.to_owned(),
            [first, .., last] => format!("{first} … {last}"),
            [] => String::new(),
        };
        let mut by_topic: Vec<(&str, Vec<String>)> = Vec::new();
        for at in &first.positions {
            let position = format!("{}:{}", at.partition, count(at.position));
            match by_topic.last_mut() {
                Some((topic, positions)) if *topic == at.topic => positions.push(position),
                _ => by_topic.push((&at.topic, vec![position])),
            }
        }
        if by_topic.is_empty() {
            rows.push(vec![name, "(nothing yet)".to_owned()]);
        } else {
            rows.extend(
                by_topic
                    .into_iter()
                    .map(|(topic, positions)| vec![name.clone(), topic.to_owned(), positions.join("  ")]),
            );
        }
    }
    columns(&[Align::Left, Align::Left, Align::Left], &rows)
}

#[cfg(test)]
mod tests {
    use subscription_core::{Counts, Table};

    use super::*;
    use crate::summary::Position;

    #[test]
    fn the_page_for_people() {
        let table = |table: Table, position: Option<u64>| TableSummary {
            table: table.name(),
            rows: 1_000,
            version: 3,
            files: 2,
            bytes: 2_048,
            positions: position
                .into_iter()
                .flat_map(|position| [0, 1].map(|partition| Position { topic: "file".to_owned(), partition, position }))
                .collect(),
        };
        let page = TablesPage {
            lake: "/lake".to_owned(),
            tables: vec![
                table(Table::DeadLetter, Some(2_000)),
                table(Table::Bronze, Some(2_000)),
                table(Table::Quarantine, Some(1_500)),
                table(Table::UsageMinute, None),
            ],
            ledger: Counts { read: 2, accepted: 2, ..Counts::default() }.into(),
        };
        assert_eq!(
            page.render(),
            "\
Tables in /lake
  table               rows  version  files    bytes
  dead_letter        1,000        3      2  2.0 KiB
  bronze_api_usage   1,000        3      2  2.0 KiB
  quarantine_silver  1,000        3      2  2.0 KiB
  tenant_usage_1min  1,000        3      2  2.0 KiB

Positions
  dead_letter … bronze_api_usage  file           0:2,000  1:2,000
  quarantine_silver               file           0:1,500  1:1,500
  tenant_usage_1min               (nothing yet)

Ledger (closed)
  2     read            2     bronze
  2  =  bronze          2  =  silver
  0  +  dead letters    0  +  duplicates
                        0  +  quarantine
"
        );
        let json: serde_json::Value = serde_json::from_str(&page.json()).expect("JSON");
        assert_eq!(json["tables"][0]["positions"][1]["position"], 2_000);
    }
}
