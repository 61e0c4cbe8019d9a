//! Requests through the layer: what is answered, counted and reported.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use subscription_core::testkit::{ManualClock, block_on};
use subscription_core::{
    Catalog, ChannelEmitter, Clock, Emitted, Enforcer, EnforcerConfig, Limits, MAX_LIMIT, MemoryCounters, Timestamp,
    WindowAlgorithm,
};
use subscription_gateway::{ApiKeys, GatewayBody, GatewayBuilder, GatewayLayer, Identify, Identity, Principal};
use tower::{Layer, ServiceExt};

/// 2026-01-01T00:00:30Z.
const NOW: i64 = 1_767_225_630_000;

const PLANS: &str = r#"
    currency = "USD"
    currency_digits = 2
    [plans.free]
    per_minute = 60
    per_hour = 1_000
    per_month = 10_000
    price_per_thousand_units = 0
    window = "fixed"
"#;

const KEYS: &str = r#"
    [[key]]
    secret = "acme-secret"
    id = "k1"
    tenant = "acme"
    plan = "free"
    [[key]]
    secret = "narrow-secret"
    id = "k2"
    tenant = "acme"
    plan = "free"
    per_minute = 2
    [[key]]
    secret = "suspended-secret"
    id = "k3"
    tenant = "gone"
    plan = "free"
    suspended = true
    [[key]]
    secret = "misplanned-secret"
    id = "k4"
    tenant = "odd"
    plan = "platinum"
"#;

struct Setup {
    clock: Arc<ManualClock>,
    counters: Arc<MemoryCounters>,
    events: Receiver<Emitted>,
    layer: GatewayLayer,
}

fn setup_with(identify: impl Identify, change: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Setup {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(NOW)));
    let counters = Arc::new(MemoryCounters::with_clock(clock.clone()));
    let enforcer = Enforcer::new(counters.clone(), clock.clone(), EnforcerConfig::default()).unwrap();
    let (emitter, events) = ChannelEmitter::new("test", 10_000).unwrap();
    let catalog = Arc::new(Catalog::from_toml(PLANS, "plans.toml").unwrap());
    let builder =
        GatewayLayer::builder(Arc::new(enforcer), identify, catalog).emitter(Arc::new(emitter)).clock(clock.clone());
    Setup { clock, counters, events, layer: change(builder).build() }
}

fn setup() -> Setup {
    setup_with(ApiKeys::from_toml(KEYS, "keys.toml").unwrap(), |builder| builder)
}

/// A service that answers 200 and `hello`, and to `/broken` 500.
async fn hello(request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::from("hello"));
    if request.uri().path() == "/broken" {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}

impl Setup {
    fn send(&self, request: Request<Full<Bytes>>) -> Response<GatewayBody<Full<Bytes>>> {
        let service = self.layer.layer(tower::service_fn(hello));
        block_on(service.oneshot(request)).unwrap()
    }

    fn get(&self, path: &str, secret: &str) -> Response<GatewayBody<Full<Bytes>>> {
        self.send(Request::get(path).header("x-api-key", secret).body(Full::default()).unwrap())
    }

    /// The events reported since the last call.
    fn reported(&self) -> Vec<Value> {
        self.events.try_iter().map(|event| serde_json::from_str(&event.payload).unwrap()).collect()
    }
}

fn header<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

fn body(response: Response<GatewayBody<Full<Bytes>>>) -> String {
    let bytes = block_on(response.into_body().collect()).unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The worked example of the semantics: fixed window, plan free.
#[test]
fn the_sixty_first_request_of_a_minute_is_denied() {
    let gateway = setup();
    for request in 1..=60 {
        let response = gateway.get("/v1/items/7", "acme-secret");
        assert_eq!(response.status(), 200, "request {request}");
        assert_eq!(header(&response, "ratelimit"), format!("\"minute\";r={};t=30", 60 - request));
        assert_eq!(header(&response, "retry-after"), "");
        assert_eq!(body(response), "hello");
    }
    let policy = "\"minute\";q=60;w=60, \"hour\";q=1000;w=3600, \"month\";q=10000;w=2678400";
    let denied = gateway.get("/v1/items/7", "acme-secret");
    assert_eq!(denied.status(), 429);
    assert_eq!(header(&denied, "ratelimit"), "\"minute\";r=0;t=30");
    assert_eq!(header(&denied, "ratelimit-policy"), policy);
    assert_eq!(header(&denied, "retry-after"), "30");
    assert_eq!(header(&denied, "content-type"), "application/problem+json");
    let problem: Value = serde_json::from_str(&body(denied)).unwrap();
    assert_eq!((&problem["status"], &problem["violated-policies"][0]), (&429.into(), &"minute".into()));
    assert_eq!(gateway.counters.counters("acme").minute.live, 60);

    gateway.clock.advance_millis(30_000);
    assert_eq!(gateway.get("/v1/items/7", "acme-secret").status(), 200);
    assert_eq!(gateway.counters.counters("acme").minute.live, 1);

    let reported = gateway.reported();
    let statuses: Vec<_> = reported.iter().map(|event| event["response_status_code"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [vec![200; 60], vec![429], vec![200]].concat());
    assert_eq!(reported[60]["event_timestamp"], "2026-01-01T00:00:30.000Z");
    assert_eq!(reported[61]["event_timestamp"], "2026-01-01T00:01:00.000Z");
}

#[test]
fn events_say_what_is_known() {
    let gateway =
        setup_with(ApiKeys::from_toml(KEYS, "keys.toml").unwrap(), |builder| builder.cost("/v1/items/{id}", 7));
    let request = Request::post("/v1/items/42?secret=x")
        .header("authorization", "Bearer acme-secret")
        .header("user-agent", "curl/8")
        .header("x-request-id", "r-1")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("content-length", "3")
        .body(Full::from("abc"))
        .unwrap();
    let response = gateway.send(request);
    assert!(gateway.reported().is_empty(), "the answer is not out yet");
    gateway.clock.advance_millis(25);
    assert_eq!(body(response), "hello");
    let [event] = &gateway.reported()[..] else { panic!("one event") };
    for (field, value) in [
        ("tenant_id", Value::from("acme")),
        ("api_key_id", "k1".into()),
        ("subscription_plan", "free".into()),
        ("endpoint", "/v1/items/{id}".into()),
        ("http_method", "POST".into()),
        ("response_status_code", 200.into()),
        ("response_size_bytes", 5.into()),
        ("request_size_bytes", 3.into()),
        ("quota_cost", 7.into()),
        ("user_agent", "curl/8".into()),
        ("request_id", "r-1".into()),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736".into()),
        ("emitter_sequence", 0.into()),
    ] {
        assert_eq!(event[field], value, "{field}");
    }
    assert_eq!(event["response_time_ms"].as_f64(), Some(25.0));
    assert_eq!(gateway.counters.counters("acme").minute.live, 7);

    // An answer that nobody reads to its end is reported with what was read of it.
    drop(gateway.get("/broken", "acme-secret"));
    let [event] = &gateway.reported()[..] else { panic!("one event") };
    assert_eq!((event["response_status_code"].as_u64(), event["response_size_bytes"].as_u64()), (Some(500), Some(0)));
}

/// The event is out when the last frame is handed over, and not only once somebody asks for another.
#[test]
fn the_event_is_there_before_the_last_byte_leaves() {
    let gateway = setup();
    let mut response = gateway.get("/", "acme-secret");
    block_on(response.body_mut().frame()).unwrap().unwrap();
    assert_eq!(gateway.reported().len(), 1);
    drop(response);
    assert_eq!(gateway.reported().len(), 0, "once");
    drop(gateway.get("/", "acme-secret"));
    assert_eq!(gateway.reported().len(), 1);
}

/// A service that is called has perhaps done its work, whether or not anybody waits for the answer: it was counted, so it is told.
#[test]
fn a_request_without_an_answer_is_reported_once() {
    let gateway = setup();
    let request =
        || Request::get("/v1/items").header("x-api-key", "acme-secret").body(Full::<Bytes>::default()).unwrap();
    let statuses = || -> Vec<Value> {
        gateway.reported().into_iter().map(|event| event["response_status_code"].clone()).collect()
    };

    let silent = tower::service_fn(|_| std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>());
    let mut call = Box::pin(gateway.layer.layer(silent).oneshot(request()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(call.as_mut().poll(&mut context).is_pending());
    assert!(statuses().is_empty());
    drop(call);
    assert_eq!(statuses(), [499]);

    let failing = tower::service_fn(async |_| Err::<Response<Full<Bytes>>, _>("down"));
    assert_eq!(block_on(gateway.layer.layer(failing).oneshot(request())).unwrap_err(), "down");
    assert_eq!(statuses(), [500]);

    let odd = tower::service_fn(async |_| {
        Ok::<_, Infallible>(Response::builder().status(799).body(Full::<Bytes>::default()).unwrap())
    });
    assert_eq!(block_on(gateway.layer.layer(odd).oneshot(request())).unwrap().status(), 799);
    assert_eq!(statuses(), [599], "the last that an event can tell");
    assert_eq!(gateway.counters.counters("acme").minute.live, 3);
}

#[test]
fn nobody_else_s_identity_can_be_chosen() {
    let gateway = setup();
    for secret in ["", "wrong", "acme", &"x".repeat(60_000)] {
        let request = Request::get("/")
            .header("x-api-key", secret)
            .header("x-tenant-id", "acme")
            .header("x-forwarded-user", "acme")
            .body(Full::default())
            .unwrap();
        let response = gateway.send(request);
        assert_eq!(response.status(), 401);
        assert_eq!(header(&response, "www-authenticate"), "Bearer");
        assert_eq!(header(&response, "content-type"), "application/problem+json");
    }
    assert!(gateway.reported().is_empty(), "there is nobody to report it of");
    let response = gateway.get("/", "suspended-secret");
    assert_eq!(response.status(), 403);
    let [event] = &gateway.reported()[..] else { panic!("one event") };
    assert_eq!((&event["tenant_id"], &event["response_status_code"]), (&"gone".into(), &403.into()));
    assert_eq!(event["quota_cost"], 0, "its tenant's limits are those of keys that may ask");
    assert!(gateway.counters.is_empty());
}

#[test]
fn limits_of_tenant_key_and_route_hold_together() {
    let per_minute =
        |limit| Limits { per_minute: limit, per_hour: MAX_LIMIT, per_month: MAX_LIMIT, window: WindowAlgorithm::Fixed };
    let gateway = setup_with(ApiKeys::from_toml(KEYS, "keys.toml").unwrap(), |builder| {
        builder.route_limits("/v1/slow", per_minute(3))
    });
    let first = gateway.get("/v1/slow", "narrow-secret");
    assert_eq!(header(&first, "ratelimit"), "\"key-minute\";r=1;t=30");
    assert_eq!(header(&first, "ratelimit-policy"), "\"key-minute\";q=2;w=60");
    assert_eq!(gateway.get("/v1/slow", "narrow-secret").status(), 200);
    assert_eq!(gateway.get("/v1/fast", "narrow-secret").status(), 429, "the key's two are used");
    assert_eq!(gateway.get("/v1/slow", "acme-secret").status(), 200);
    let denied = gateway.get("/v1/slow", "acme-secret");
    assert_eq!((denied.status().as_u16(), header(&denied, "ratelimit-policy")), (429, "\"route-minute\";q=3;w=60"));
    let problem: Value = serde_json::from_str(&body(denied)).unwrap();
    assert_eq!(problem["violated-policies"][0], "route-minute", "as the headers call it");
    let passed = gateway.get("/v1/fast", "acme-secret");
    assert_eq!((passed.status().as_u16(), header(&passed, "ratelimit")), (200, "\"minute\";r=56;t=30"));
    assert_eq!(gateway.counters.counters("acme").minute.live, 4, "denied ones count nowhere");
}

#[test]
fn in_shadow_all_pass() {
    let gateway = setup_with(ApiKeys::from_toml(KEYS, "keys.toml").unwrap(), |builder| builder.shadow(true));
    for _ in 0..60 {
        drop(gateway.get("/", "acme-secret"));
    }
    let response = gateway.get("/", "acme-secret");
    assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (200, "30"));
    assert_eq!(gateway.layer.enforcer().stats().denied, 1);
}

#[test]
fn grpc_clients_are_answered_as_they_expect() {
    let gateway = setup();
    let ask = |secret: &str| {
        let request = Request::post("/shop.Orders/List")
            .header("content-type", "application/grpc+proto")
            .header("x-api-key", secret)
            .body(Full::default())
            .unwrap();
        gateway.send(request)
    };
    let unknown = ask("wrong");
    assert_eq!((unknown.status().as_u16(), header(&unknown, "grpc-status")), (200, "16"));
    for _ in 0..60 {
        assert_eq!(header(&ask("acme-secret"), "grpc-status"), "");
    }
    let denied = ask("acme-secret");
    assert_eq!((denied.status().as_u16(), header(&denied, "grpc-status")), (200, "8"));
    assert_eq!(header(&denied, "retry-after"), "30");
    assert_eq!(body(denied), "");
    assert_eq!(gateway.reported().last().unwrap()["response_status_code"], 429);
}

#[test]
fn what_the_operator_got_wrong_is_no_panic() {
    let gateway = setup();
    assert_eq!(gateway.get("/", "misplanned-secret").status(), 500);
    for tenant in ["a}b", "a\nb", "🔑", "", &"x".repeat(200)] {
        let tenant = tenant.to_owned();
        let identify = move |_: &Parts| Identity::Known(Arc::new(Principal::new(tenant.as_str(), "k", "free")));
        let gateway = setup_with(identify, |builder| builder);
        assert_eq!(gateway.get("/", "any").status(), 500);
        assert!(gateway.counters.is_empty() && gateway.reported().is_empty());
    }
    let nameless =
        setup_with(|_: &Parts| Identity::Known(Arc::new(Principal::new("acme", "", "free"))), |builder| builder);
    assert_eq!(nameless.get("/", "any").status(), 500, "a key that no event can have");
    let request = Request::builder().method("BREW").uri("/").header("x-api-key", "acme-secret");
    assert_eq!(gateway.send(request.body(Full::default()).unwrap()).status(), 501);
    let away = setup_with(|_: &Parts| Identity::Unavailable, |builder| builder);
    assert_eq!(away.get("/", "any").status(), 503);
    assert!(gateway.clock.now() == Timestamp::from_millis(NOW));
}
