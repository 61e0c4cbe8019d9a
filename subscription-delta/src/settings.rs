//! What the lake keeps of how it was filled: one small file a version, `_pipeline/settings/{version}.json`.

use std::sync::Arc;

use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use futures::TryStreamExt as _;
use subscription_core::{Error, ErrorKind, Result, Settings};

use crate::error::Doing;
use crate::failpoint;

/// What errors call it in place of a table.
const SETTINGS: &str = "settings";

/// The settings of a lake.
pub(crate) struct SettingsFiles {
    /// The lake's folder.
    lake: Arc<dyn ObjectStore>,
    path: String,
}

impl SettingsFiles {
    pub(crate) fn new(lake: Arc<dyn ObjectStore>, path: &str) -> Self {
        Self { lake, path: format!("{}/_pipeline/settings", path.trim_end_matches('/')) }
    }

    fn doing(&self, what: &'static str) -> Doing<'_> {
        Doing { what, table: SETTINGS, path: &self.path }
    }

    async fn newest(&self) -> Result<Option<(u64, Path)>> {
        let folder = Path::from("_pipeline/settings");
        let files: Vec<Path> = match self.lake.list(Some(&folder)).map_ok(|meta| meta.location).try_collect().await {
            Ok(files) => files,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.doing("list the settings").store(error)),
        };
        let versions = files.into_iter().filter_map(|file| {
            let version = file.filename()?.strip_suffix(".json")?.parse::<u64>().ok()?;
            Some((version, file))
        });
        Ok(versions.max_by_key(|(version, _)| *version))
    }

    pub(crate) async fn get(&self) -> Result<Option<Settings>> {
        let Some((version, file)) = self.newest().await? else { return Ok(None) };
        let doing = self.doing("read the settings");
        let bytes = self.lake.get(&file).await.map_err(|error| doing.store(error))?;
        let bytes = bytes.bytes().await.map_err(|error| doing.store(error))?;
        let json = String::from_utf8(bytes.into()).map_err(|error| doing.corrupt(error))?;
        if !json.trim_start().starts_with('{') {
            return Err(doing.corrupt(format_args!("{file} is no JSON object")));
        }
        Ok(Some(Settings { version, json }))
    }

    pub(crate) async fn put(&self, settings: Settings) -> Result<()> {
        let fenced = |found: u64| {
            Error::new(ErrorKind::Fenced, "another process has changed the lake's settings")
                .with("path", &self.path)
                .with("expected", settings.version.saturating_sub(1))
                .with("found", found)
                .with_help("another process writes this lake: start again with its settings")
        };
        if let Some((newest, _)) = self.newest().await?
            && newest >= settings.version
        {
            return Err(fenced(newest));
        }
        let file = Path::from(format!("_pipeline/settings/{:020}.json", settings.version));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.lake.put_opts(&file, settings.json.clone().into(), options).await {
            Ok(_) => {
                failpoint::hit("delta.after_settings", "");
                Ok(())
            }
            Err(StoreError::AlreadyExists { .. }) => Err(fenced(settings.version)),
            Err(error) => Err(self.doing("write the settings").store(error)),
        }
    }
}
