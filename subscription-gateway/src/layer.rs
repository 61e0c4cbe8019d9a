//! Putting a gateway together.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use http::request::Parts;
use subscription_core::{Catalog, Clock, Enforcer, EventEmitter, Limits, SystemClock};
use tokio::task::JoinHandle;
use tower_layer::Layer;

use crate::identity::Identify;
use crate::route::template_of;
use crate::service::GatewayService;
use crate::velocity::Velocity;

type Route = dyn Fn(&Parts) -> Option<String> + Send + Sync;
type Address = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;

/// The address that a request came from, for a server to put into the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub IpAddr);

/// A [`Layer`] that decides each request by its tenant's plan and reports it; put it around a service.
///
/// Copies are the same gateway: they share counters, emitter and catalog. See the crate's documentation for an example.
#[derive(Clone)]
pub struct GatewayLayer {
    pub(crate) gateway: Arc<Gateway>,
}

/// What all copies share.
pub(crate) struct Gateway {
    pub(crate) enforcer: Arc<Enforcer>,
    pub(crate) identify: Arc<dyn Identify>,
    pub(crate) emitter: Option<Arc<dyn EventEmitter>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) costs: HashMap<String, u32>,
    pub(crate) route_limits: HashMap<String, Limits>,
    pub(crate) shadow: bool,
    /// Decide by `clock` instead of the store's.
    pub(crate) callers_time: bool,
    catalog: RwLock<Arc<Catalog>>,
    route: Option<Box<Route>>,
    client_address: Option<Box<Address>>,
    pub(crate) velocity: Velocity,
    flushing: Option<JoinHandle<()>>,
}

impl Gateway {
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn route(&self, request: &Parts) -> String {
        let told = self.route.as_ref().and_then(|route| route(request));
        told.unwrap_or_else(|| template_of(request.uri.path()))
    }

    pub(crate) fn client_address(&self, request: &Parts) -> Option<IpAddr> {
        match &self.client_address {
            Some(address) => address(request),
            None => request.extensions.get().map(|PeerAddress(address)| *address),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(flushing) = &self.flushing {
            flushing.abort();
        }
    }
}

impl GatewayLayer {
    /// A gateway that decides by `enforcer`, for those that `identify` knows, by the plans of `catalog`.
    pub fn builder(enforcer: Arc<Enforcer>, identify: impl Identify, catalog: Arc<Catalog>) -> GatewayBuilder {
        GatewayBuilder {
            enforcer,
            identify: Arc::new(identify),
            catalog,
            emitter: None,
            clock: Arc::new(SystemClock::new()),
            costs: HashMap::new(),
            route_limits: HashMap::new(),
            shadow: false,
            callers_time: false,
            route: None,
            client_address: None,
        }
    }

    /// Goes on with another catalog; requests under way keep the old one.
    pub fn set_catalog(&self, catalog: Arc<Catalog>) {
        *self.gateway.catalog.write().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    /// Who decides, for figures and for a last [`Enforcer::flush`] before the process ends.
    pub fn enforcer(&self) -> &Arc<Enforcer> {
        &self.gateway.enforcer
    }
}

impl<S> Layer<S> for GatewayLayer {
    type Service = GatewayService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GatewayService::new(inner, self.gateway.clone())
    }
}

impl fmt::Debug for GatewayLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayLayer").field("enforcer", &self.gateway.enforcer).finish_non_exhaustive()
    }
}

/// Puts a [`GatewayLayer`] together.
pub struct GatewayBuilder {
    enforcer: Arc<Enforcer>,
    identify: Arc<dyn Identify>,
    catalog: Arc<Catalog>,
    emitter: Option<Arc<dyn EventEmitter>>,
    clock: Arc<dyn Clock>,
    costs: HashMap<String, u32>,
    route_limits: HashMap<String, Limits>,
    shadow: bool,
    callers_time: bool,
    route: Option<Box<Route>>,
    client_address: Option<Box<Address>>,
}

impl GatewayBuilder {
    /// Where usage events go. Without one nothing is reported, and so nothing metered.
    pub fn emitter(mut self, emitter: Arc<dyn EventEmitter>) -> Self {
        self.emitter = Some(emitter);
        self
    }

    /// Tells a request's route, such as axum's `MatchedPath`. Where it answers `None`, and without it, routes are made of
    /// paths by [`template_of`].
    pub fn route(mut self, route: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.route = Some(Box::new(route));
        self
    }

    /// Tells the client's address, such as axum's `ConnectInfo`, or what a proxy that is trusted has put into a header. Without
    /// it that is the request's [`PeerAddress`], and where there is none the event has no address.
    pub fn client_address(mut self, address: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        self.client_address = Some(Box::new(address));
        self
    }

    /// What a request of this route takes of its tenant's limits. Default 1.
    pub fn cost(mut self, route: impl Into<String>, cost: u32) -> Self {
        self.costs.insert(route.into(), cost);
        self
    }

    /// Limits of this route, for each tenant by itself and within its own.
    pub fn route_limits(mut self, route: impl Into<String>, limits: Limits) -> Self {
        self.route_limits.insert(route.into(), limits);
        self
    }

    /// Decides, reports and tells, but lets all pass: to see what limits would do.
    ///
    /// What passes is reported with its own status, so metering takes it as admitted, and the counters follow.
    pub fn shadow(mut self, shadow: bool) -> Self {
        self.shadow = shadow;
        self
    }

    /// The clock that latencies are measured by. Default: the operating system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Decides by this gateway's clock instead of the store's. All gateways' clocks must then be the same.
    pub fn decide_by_own_clock(mut self) -> Self {
        self.callers_time = true;
        self
    }

    /// The layer. Within a tokio runtime it calls [`Enforcer::flush`] at intervals, until the last copy is dropped; elsewhere
    /// the host does.
    pub fn build(self) -> GatewayLayer {
        let flushing = tokio::runtime::Handle::try_current().ok().map(|handle| {
            let enforcer = self.enforcer.clone();
            handle.spawn(flush(enforcer))
        });
        let Self {
            enforcer,
            identify,
            catalog,
            emitter,
            clock,
            costs,
            route_limits,
            shadow,
            callers_time,
            route,
            client_address,
        } = self;
        let catalog = RwLock::new(catalog);
        let gateway = Gateway {
            enforcer,
            identify,
            emitter,
            clock,
            costs,
            route_limits,
            shadow,
            callers_time,
            catalog,
            route,
            client_address,
            velocity: Velocity::new(),
            flushing,
        };
        GatewayLayer { gateway: Arc::new(gateway) }
    }
}

impl fmt::Debug for GatewayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayBuilder").field("enforcer", &self.enforcer).finish_non_exhaustive()
    }
}

async fn flush(enforcer: Arc<Enforcer>) {
    let mut ticks = tokio::time::interval(enforcer.flush_interval());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut degraded = false;
    loop {
        ticks.tick().await;
        enforcer.flush().await;
        if degraded != enforcer.is_degraded() {
            degraded = !degraded;
            if degraded {
                tracing::warn!("the counter store does not answer: requests are decided by failure policies");
            } else {
                tracing::info!("the counter store answers again");
            }
        }
    }
}
