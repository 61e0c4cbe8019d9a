//! Keys and plans that change while the gateway runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use subscription_core::{Catalog, Result};
use subscription_gateway::{ApiKeys, GatewayLayer};

use crate::exit::report;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What tells one version of a file from another, cheaply.
type Version = Option<(SystemTime, u64)>;

/// Reads the files again whenever they change, for ever. What is wrong with them is told once a change, and the gateway goes
/// on with what it had.
pub(crate) async fn watch(keys: ApiKeys, key_file: Option<PathBuf>, layer: GatewayLayer, plan_file: Option<PathBuf>) {
    let mut versions = [&key_file, &plan_file].map(|file| version(file.as_deref()));
    loop {
        tokio::time::sleep(LOOK).await;
        let now = [&key_file, &plan_file].map(|file| version(file.as_deref()));
        if let Some(file) = key_file.as_ref().filter(|_| now[0] != versions[0]) {
            tell(file, keys.reload(file).map(|()| format!("{} keys", keys.len())));
        }
        if let Some(file) = plan_file.as_ref().filter(|_| now[1] != versions[1]) {
            tell(
                file,
                Catalog::load(file).map(|catalog| layer.set_catalog(Arc::new(catalog))).map(|()| "plans".to_owned()),
            );
        }
        versions = now;
    }
}

fn version(file: Option<&Path>) -> Version {
    let metadata = std::fs::metadata(file?).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
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
