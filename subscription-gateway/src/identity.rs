//! Whose a request is.

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;
use subscription_core::Limits;

/// Who asks, on whose account, and by which terms.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Principal {
    /// The tenant whose limits count, and who pays.
    pub tenant_id: String,
    /// The id of the credential, never its secret.
    pub api_key_id: String,
    /// The name of the tenant's plan in the catalog.
    pub plan: String,
    /// The user, where one is known.
    pub user_id: Option<String>,
    /// Limits of this credential alone, within the tenant's.
    pub key_limits: Option<Limits>,
}

impl Principal {
    /// A principal without user and without limits of its credential.
    pub fn new(tenant_id: impl Into<String>, api_key_id: impl Into<String>, plan: impl Into<String>) -> Self {
        Self {
            tenant_id: tenant_id.into(),
            api_key_id: api_key_id.into(),
            plan: plan.into(),
            user_id: None,
            key_limits: None,
        }
    }
}

/// What is known of who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// This one.
    Known(Arc<Principal>),
    /// This one, who may not ask: answered with 403, and reported.
    Suspended(Arc<Principal>),
    /// Nobody knows: answered with 401, and not reported, as there is nobody to report it of.
    Unknown,
    /// It cannot be found out now: answered with 503.
    Unavailable,
}

/// Finds out whose a request is: by an API key ([`ApiKeys`](crate::ApiKeys)), by what an authentication before it left in
/// the request's extensions, by asking somebody.
///
/// A header that the client can set proves nothing. Take the tenant from what was checked: a secret, a signature.
///
/// A function is one too. This takes the claims that a layer before it has verified:
///
/// ```
/// use std::sync::Arc;
/// use http::request::Parts;
/// use subscription_gateway::{Identify, Identity, Principal};
///
/// #[derive(Clone)]
/// struct Claims { org: String, sub: String }
///
/// fn by_claims(request: &Parts) -> Identity {
///     let Some(claims) = request.extensions.get::<Claims>() else { return Identity::Unknown };
///     Identity::Known(Arc::new(Principal::new(claims.org.as_str(), claims.sub.as_str(), "pro")))
/// }
///
/// fn takes(_: impl Identify) {}
/// takes(by_claims);
/// ```
#[async_trait]
pub trait Identify: Send + Sync + 'static {
    /// Whose request it is. Should take microseconds; whoever asks somebody keeps what it was told.
    async fn identify(&self, request: &Parts) -> Identity;
}

#[async_trait]
impl<F: Fn(&Parts) -> Identity + Send + Sync + 'static> Identify for F {
    async fn identify(&self, request: &Parts) -> Identity {
        self(request)
    }
}
