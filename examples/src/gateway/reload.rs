//! Keys and plans that change while the gateway runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use subscription_core::{Catalog, Result};
use subscription_gateway::{ApiKeys, GatewayLayer};

use crate::exit::report;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A file that may change. To be made before the file is read for the first time, so that no change is missed.
pub(crate) struct Watched {
    file: Option<PathBuf>,
    /// What tells one version of it from another, cheaply.
    version: Option<(SystemTime, u64)>,
}

impl Watched {
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        let version = version(file.as_deref());
        Self { file, version }
    }

    /// The file, if it has changed since the last look.
    fn changed(&mut self) -> Option<&Path> {
        let now = version(self.file.as_deref());
        let changed = std::mem::replace(&mut self.version, now) != now;
        self.file.as_deref().filter(|_| changed)
    }
}

fn version(file: Option<&Path>) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(file?).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Reads the files again whenever they change, for ever. What is wrong with them is told once a change, and the gateway goes
/// on with what it had.
pub(crate) async fn watch(mut key_file: Watched, keys: ApiKeys, mut plan_file: Watched, layer: GatewayLayer) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(file) = key_file.changed() {
            tell(file, keys.reload(file).map(|()| format!("{} keys", keys.len())));
        }
        if let Some(file) = plan_file.changed() {
            let plans = Catalog::load(file).map(|catalog| layer.set_catalog(Arc::new(catalog)));
            tell(file, plans.map(|()| "plans".to_owned()));
        }
    }
}

fn tell(file: &Path, read: Result<String>) {
    match read {
        Ok(what) => eprintln!("read {} again: {what}", file.display()),
        Err(error) => {
            eprint!("warning: {}", report(&error).trim_start_matches("error: "));
            eprintln!("{} is not taken over: the gateway goes on with what it had", file.display());
        }
    }
}
