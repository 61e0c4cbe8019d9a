//! Judges events line by line: `cargo run -p subscription-core --example validate < events.ndjson`.
//!
//! Prints a line for each that is refused, then how many were accepted; without input it judges three of its own.

use std::io::{self, BufRead, IsTerminal};

use subscription_core::{Catalog, Judged, Rules, check_business, judge};

const OWN: &str = r#"{"event_id":"0f8fad5b-d9cb-469f-a165-70867728950e","event_timestamp":"2026-01-15T12:00:00Z","tenant_id":"acme","api_key_id":"key-1","endpoint":"/v1/reports","http_method":"GET","response_status_code":200,"response_time_ms":12.5,"subscription_plan":"pro"}
{"event_id":"7d444840-9dc0-11d1-b245-5ffdce74fad2","event_timestamp":"2026-01-15T12:00:00Z","tenant_id":"acme","api_key_id":"key-1","endpoint":"v1/reports","http_method":"get","response_status_code":200,"response_time_ms":12.5,"subscription_plan":"pro"}
{"event_id":"7d444840-9dc0-11d1-b245-5ffdce74fad2","event_timest
"#;

fn main() -> io::Result<()> {
    let (rules, catalog) = (Rules::default(), Catalog::default());
    let own = io::stdin().is_terminal();
    let input: Box<dyn BufRead> = if own { Box::new(OWN.as_bytes()) } else { Box::new(io::stdin().lock()) };
    let (mut accepted, mut refused) = (0, 0);
    for (number, line) in input.split(b'\n').enumerate() {
        let line = line?;
        let errors = match judge(&line) {
            Judged::Dead { code, error } => vec![format!("{code}: {error}")],
            Judged::Invalid(invalid) => invalid.errors,
            Judged::Valid(event) => {
                // No broker has stamped these records; the emitter's own word has to do.
                let ingestion = event.ingestion_timestamp.unwrap_or(event.event_timestamp);
                check_business(&event, ingestion, &rules, &catalog, None)
            }
        };
        if errors.is_empty() {
            accepted += 1;
        } else {
            refused += 1;
            println!("line {}: {}", number + 1, errors.join(", "));
        }
    }
    println!("{accepted} accepted, {refused} refused");
    Ok(())
}
