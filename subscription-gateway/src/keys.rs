//! API keys from a file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::request::Parts;
use serde::Deserialize;
use subscription_core::{Error, ErrorKind, Limits, MAX_LIMIT, Result, WindowAlgorithm};

use crate::identity::{Identify, Identity, Principal};
use crate::usage::is_tenant_id;

/// The longest secret that is looked up.
const MAX_SECRET: usize = 512;

/// API keys: each secret names a tenant, the key's id and the tenant's plan.
///
/// Copies are the same keys, so one can be kept to [`ApiKeys::reload`] them.
///
/// A request shows its secret in `X-Api-Key` or as `Authorization: Bearer`. No other header has a say in whose it is.
///
/// ```
/// use subscription_gateway::ApiKeys;
///
/// let keys = ApiKeys::from_toml(
///     r#"
///     [[key]]
///     secret = "s3cret-of-acme"
///     id = "acme-1"
///     tenant = "acme"
///     plan = "free"
///
///     [[key]]
///     secret = "another"
///     id = "acme-2"
///     tenant = "acme"
///     plan = "free"
///     suspended = true                    # answered with 403
///     per_minute = 10                     # limits of this key alone; also per_hour, per_month
///     "#,
///     "keys.toml",
/// )?;
/// assert_eq!(keys.len(), 2);
/// # Ok::<(), subscription_core::Error>(())
/// ```
#[derive(Clone)]
pub struct ApiKeys(Arc<RwLock<Arc<HashMap<String, Identity>>>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<toml::Spanned<Key>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    secret: String,
    id: String,
    tenant: String,
    plan: String,
    user: Option<String>,
    #[serde(default)]
    suspended: bool,
    per_minute: Option<i64>,
    per_hour: Option<i64>,
    per_month: Option<i64>,
}

impl ApiKeys {
    /// Reads a file; see [`ApiKeys::from_toml`].
    ///
    /// # Errors
    /// Also `NotFound` or `PermissionDenied` where it cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let (text, name) = read(path.as_ref())?;
        Self::from_toml(&text, &name)
    }

    /// Reads keys from TOML; `name` is what errors call the file.
    ///
    /// # Errors
    /// `Configuration`, with the line of what is wrong, and never with a secret.
    pub fn from_toml(text: &str, name: &str) -> Result<Self> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(parse(text, name)?)))))
    }

    /// Reads the file again, while requests go on. After an error the keys are those of before.
    ///
    /// # Errors
    /// As [`ApiKeys::load`].
    pub fn reload(&self, path: impl AsRef<Path>) -> Result<()> {
        let (text, name) = read(path.as_ref())?;
        let keys = Arc::new(parse(&text, &name)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn keys(&self) -> Arc<HashMap<String, Identity>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Identify for ApiKeys {
    async fn identify(&self, request: &Parts) -> Identity {
        let secret = secret(request).filter(|secret| secret.len() <= MAX_SECRET);
        secret.and_then(|secret| self.keys().get(secret).cloned()).unwrap_or(Identity::Unknown)
    }
}

/// The secret that a request shows; none where it shows several.
fn secret(request: &Parts) -> Option<&str> {
    let mut shown = request.headers.get_all("x-api-key").iter();
    let secret = match (shown.next(), shown.next()) {
        (Some(secret), None) => secret.to_str().ok()?,
        (None, _) => {
            let mut shown = request.headers.get_all(AUTHORIZATION).iter();
            let value = shown.next().filter(|_| shown.next().is_none())?.to_str().ok()?;
            let (scheme, secret) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())?
        }
        _ => return None,
    };
    Some(secret)
}

fn read(path: &Path) -> Result<(String, String)> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Configuration,
        };
        Error::new(kind, format!("{name}: cannot read the API keys: {error}"))
            .with_help("name a TOML file of keys that this user may read")
    })?;
    Ok((text, name))
}

fn parse(text: &str, name: &str) -> Result<HashMap<String, Identity>> {
    let wrong = |at: usize, message: &str| {
        let line = text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(ErrorKind::Configuration, format!("{name}:{line}: {message}")).with_help(
            "a key has secret, id, tenant and plan; and user, suspended, per_minute, per_hour, per_month if wanted",
        )
    };
    // Its own message would show the line, and with it a secret.
    let file: File =
        toml::from_str(text).map_err(|error| wrong(error.span().map_or(0, |span| span.start), error.message()))?;
    let mut keys = HashMap::with_capacity(file.key.len());
    for key in file.key {
        let at = key.span().start;
        let key = key.into_inner();
        if key.secret.is_empty() || key.secret.len() > MAX_SECRET || !key.secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong(at, "a secret is 1 to 512 visible ASCII characters"));
        }
        if key.id.is_empty() || key.id.chars().count() > 128 {
            return Err(wrong(at, "an id is 1 to 128 characters"));
        }
        if !is_tenant_id(&key.tenant) {
            return Err(wrong(at, "a tenant is 1 to 128 of A-Z a-z 0-9 . _ : - and begins with a letter or digit"));
        }
        let limits = [key.per_minute, key.per_hour, key.per_month];
        if limits.iter().flatten().any(|limit| !(0..=MAX_LIMIT).contains(limit)) {
            return Err(wrong(at, "a limit is 0 to 999,999,999,999,999"));
        }
        let [per_minute, per_hour, per_month] = limits.map(|limit| limit.unwrap_or(MAX_LIMIT));
        let key_limits = limits.iter().any(Option::is_some).then_some(Limits {
            per_minute,
            per_hour,
            per_month,
            window: WindowAlgorithm::Sliding,
        });
        let principal =
            Arc::new(Principal { user_id: key.user, key_limits, ..Principal::new(key.tenant, key.id, key.plan) });
        let identity = if key.suspended { Identity::Suspended(principal) } else { Identity::Known(principal) };
        if keys.insert(key.secret, identity).is_some() {
            return Err(wrong(at, "this secret is given twice"));
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn secrets() {
        let shown = |headers: &[(&str, &str)]| secret(&parts(headers)).map(str::to_owned);
        assert_eq!(shown(&[("x-api-key", "a")]).as_deref(), Some("a"));
        assert_eq!(shown(&[("authorization", "bEARER b")]).as_deref(), Some("b"));
        assert_eq!(shown(&[("x-api-key", "a"), ("authorization", "Bearer b")]).as_deref(), Some("a"));
        assert_eq!(shown(&[("x-api-key", "a"), ("x-api-key", "b")]), None, "which of them?");
        assert_eq!(shown(&[("authorization", "Basic b")]), None);
        assert_eq!(shown(&[("x-tenant-id", "acme")]), None);
    }

    #[test]
    fn files_that_are_wrong() {
        for (text, line) in [
            ("[[key]]\nsecret = 'hush'\nid = 'k'\ntenant = 'a}b'\nplan = 'free'", ":1:"),
            ("\n\n[[key]]\nsecret = 'hush'\nid = 'k'\nplan = 'free'", ":3:"),
            ("[[key]]\nsecret = 'hush'\nid = 'k'\ntenant = 'a'\nplan = 'free'\ncolour = 1", ":6:"),
            ("[[key]]\nsecret = 'hush", ":2:"),
            ("[[key]]\nsecret = 'hush'\nid = 'k'\ntenant = 'a'\nplan = 'free'\nper_minute = -1", ":1:"),
            (
                "[[key]]\nsecret='hush'\nid='k'\ntenant='a'\nplan='f'\n[[key]]\nsecret='hush'\nid='l'\ntenant='a'\nplan='f'",
                ":6:",
            ),
        ] {
            let error = parse(text, "keys.toml").unwrap_err();
            assert!(error.to_string().starts_with(&format!("keys.toml{line}")), "{error}");
            assert!(error.help().is_some() && !format!("{error:?}").contains("hush"), "{error:?}");
        }
        assert!(parse("", "keys.toml").unwrap().is_empty());
    }
}
