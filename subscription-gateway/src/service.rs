//! One request's way through the gateway.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use subscription_core::{Check, Decision, HttpMethod, Limits, Outcome, Plan, Scope, Timestamp};
use tower_service::Service;
use tracing::field::Empty;

use crate::answer::{self, Refusal};
use crate::body::GatewayBody;
use crate::identity::{Identity, Principal};
use crate::layer::Gateway;
use crate::usage::{Origin, Usage, is_api_key_id, is_tenant_id};

/// A service behind a gateway; see [`GatewayLayer`](crate::GatewayLayer).
#[derive(Clone)]
pub struct GatewayService<S> {
    inner: S,
    gateway: Arc<Gateway>,
}

impl<S> GatewayService<S> {
    pub(crate) fn new(inner: S, gateway: Arc<Gateway>) -> Self {
        Self { inner, gateway }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for GatewayService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<GatewayBody<ResBody>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // The one that is ready is the one to call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let gateway = self.gateway.clone();
        Box::pin(async move {
            let started = gateway.clock.monotonic_nanos();
            let (parts, body) = request.into_parts();
            let decided = match gateway.decide(&parts, started).await {
                Ok(decided) => decided,
                Err(answer) => return Ok(*answer),
            };
            let Decided { outcome, limits, scope, usage } = decided;
            let decision = outcome.decision;
            let mut response = if decision.allowed || gateway.shadow {
                let unanswered = Unanswered(usage);
                let response = match inner.call(Request::from_parts(parts, body)).await {
                    Ok(response) => response,
                    Err(error) => {
                        unanswered.failed();
                        return Err(error);
                    }
                };
                let (status, usage) = (response.status().as_u16(), unanswered.answered());
                response.map(|body| GatewayBody::service(body, usage, status))
            } else {
                answer::denied(&parts, &decision, scope, usage)
            };
            answer::add_headers(response.headers_mut(), &decision, &limits, scope);
            Ok(response)
        })
    }
}

/// A request that was let through, and counted, and has no answer yet. Reported where it never has one, as the service may have
/// done its work: with status 499 where the client goes away (as nginx has it), with 500 where the service fails.
struct Unanswered(Option<Usage>);

impl Unanswered {
    fn answered(mut self) -> Option<Usage> {
        self.0.take()
    }

    fn failed(mut self) {
        if let Some(usage) = self.0.take() {
            usage.report(500, 0);
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(usage) = self.0.take() {
            usage.report(if std::thread::panicking() { 500 } else { 499 }, 0);
        }
    }
}

/// A request that was allowed or denied.
struct Decided {
    outcome: Outcome,
    /// Those of the scope that decided.
    limits: Limits,
    scope: &'static str,
    usage: Option<Usage>,
}

impl Gateway {
    /// Decides a request, or answers it at once.
    async fn decide<B: Body<Data = Bytes>>(
        &self,
        request: &Parts,
        started: u64,
    ) -> Result<Decided, Box<Response<GatewayBody<B>>>> {
        let refuse = |refusal, usage| Err(Box::new(answer::refused(request, &refusal, usage)));
        let Some(method) = HttpMethod::from_name(request.method.as_str()) else {
            return refuse(Refusal::Method, None);
        };
        let (principal, suspended) = match self.identify.identify(request).await {
            Identity::Known(principal) => (principal, false),
            Identity::Suspended(principal) => (principal, true),
            Identity::Unknown => return refuse(Refusal::UnknownKey, None),
            Identity::Unavailable => return refuse(Refusal::NoIdentity, None),
        };
        let route = self.route(request);
        let cost = self.costs.get(&route).copied().unwrap_or(1);
        let usage = |at, cost| {
            let emitter = self.emitter.clone()?;
            let origin = Origin::of(request, self.client_address(request));
            let rates = self.velocity.count(&principal.tenant_id, at);
            let (clock, principal, route) = (self.clock.clone(), principal.clone(), route.clone());
            Some(Usage { emitter, clock, started, at, principal, route, method, cost, origin, rates })
        };
        let now = self.clock.now();
        if suspended {
            // It takes nothing of the limits of others of its tenant.
            return refuse(Refusal::Suspended, usage(now, 0));
        }
        let Some(plan) = self.plan(&principal, now) else { return refuse(Refusal::Misconfigured, None) };

        let limits = Limits::from(&plan);
        let key = principal.key_limits.map(|limits| ("key", format!("key:{}", principal.api_key_id), limits));
        let of_route = self.route_limits.get(&route).map(|limits| ("route", format!("route:{route}"), *limits));
        let narrower: Vec<_> = key.into_iter().chain(of_route).collect();
        let scopes: Vec<Scope<'_>> = narrower.iter().map(|(_, name, limits)| Scope { name, limits: *limits }).collect();
        let at = self.callers_time.then_some(now);
        let check = Check { tenant: &principal.tenant_id, limits, scopes: &scopes, cost, at };

        let span = tracing::debug_span!(
            "subscription.decide",
            "http.request.method" = method.as_str(),
            "http.route" = %route,
            "subscription.tenant_id" = %principal.tenant_id,
            "subscription.plan" = %principal.plan,
            "subscription.allowed" = Empty,
            "subscription.decided_by" = Empty,
        );
        let outcome = self.enforcer.decide(check, plan.enforcement.failure_policy).await;
        let Decision { allowed, scope, at, .. } = outcome.decision;
        span.record("subscription.allowed", allowed);
        span.record("subscription.decided_by", outcome.by.as_str());
        if let Some(error) = &outcome.error {
            tracing::debug!(parent: &span, %error, "the counter store did not decide");
        }
        let labels = [
            ("subscription.allowed", if allowed { "true" } else { "false" }),
            ("subscription.decided_by", outcome.by.as_str()),
        ];
        metrics::counter!("subscription.gateway.decisions", &labels).increment(1);

        let (scope, limits) =
            scope.and_then(|place| narrower.get(place)).map_or(("", limits), |(name, _, limits)| (*name, *limits));
        Ok(Decided { limits, scope, usage: usage(at, cost), outcome })
    }

    /// The principal's plan; `None`, and a line in the log, where the operator has made a mistake.
    fn plan(&self, principal: &Principal, now: Timestamp) -> Option<Plan> {
        let Principal { tenant_id, plan: name, .. } = principal;
        if !is_tenant_id(tenant_id) || !is_api_key_id(&principal.api_key_id) {
            tracing::error!(
                "subscription.tenant_id" = ?tenant_id,
                "subscription.api_key_id" = ?principal.api_key_id,
                "an identity names a tenant or a key that no event can have"
            );
            return None;
        }
        let plan = self.catalog().plan(tenant_id, name, now);
        if plan.is_none() {
            tracing::error!(
                "subscription.tenant_id" = %tenant_id,
                "subscription.plan" = %name,
                "the catalog does not have the tenant's plan"
            );
        }
        plan
    }
}
