//! `pipeline demo`: made-up traffic with every kind of trouble, through all layers, in seconds.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use subscription_core::{Error, ErrorKind, Result};

use crate::config::Settings;
use crate::exit::{At, Exit, Outcome};
use crate::generate::{Generate, Profile};
use crate::run::{self, Run};
use crate::summary::Summary;

/// What `demo` is told.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// How many records
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub events: u64,

    /// The same seed makes the same records
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,

    /// Folder for the records and the tables [default: a new one among the temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// Generates, runs, and answers what came out.
///
/// # Errors
/// As [`run::run`].
pub async fn demo(demo: &Demo) -> Outcome<(Exit, Summary)> {
    let folder = match &demo.dir {
        Some(folder) => create(folder).map(|()| folder.clone()),
        None => temporary(),
    }
    .at_usage()?;
    let events = folder.join("events.json");
    let generate = Generate {
        events: demo.events,
        tenants: Some(200),
        seed: demo.seed,
        rate: Some(20.0),
        paced: false,
        profile: Profile::Trouble,
    };
    eprintln!("writing {} records to {}", demo.events, events.display());
    let file = File::create(&events).map_err(|error| cannot_write(&events, error)).at_usage()?;
    generate.write(file).at_usage()?;
    let settings = Settings {
        input: Some(vec![events]),
        lake: Some(folder.join("lake").display().to_string()),
        ..Settings::default()
    };
    run::run(&Run { settings, json: demo.json, ..Run::default() }).await
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))
}

/// A folder that nobody else has.
fn temporary() -> Result<PathBuf> {
    let mut attempt = 0;
    loop {
        let folder = std::env::temp_dir().join(format!("pipeline-demo-{}-{attempt}", std::process::id()));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1_000 => attempt += 1,
            Err(error) => return Err(cannot_write(&folder, error)),
        }
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Configuration, "cannot write the demo's files")
        .with("path", path.display())
        .with_help("name a folder that this user may write: --dir DIR")
        .with_source(error)
}
