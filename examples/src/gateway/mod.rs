//! The `gateway` command: a reverse proxy that enforces and reports, for those without one that calls the layer.

mod proxy;
mod reload;
mod serve;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use subscription_core::testkit::ManualClock;
use subscription_core::{
    Catalog, Clock, CounterStore, Enforcer, EnforcerConfig, Error, ErrorKind, EventEmitter, FileEmitter,
    MemoryCounters, NearCacheConfig, SpoolConfig, SystemClock, Timestamp,
};
use subscription_gateway::{ApiKeys, GatewayLayer};
use subscription_kafka::{EmitterConfig, KafkaConfig, KafkaEmitter, TopicSpec};
use subscription_redis::{RedisConfig, RedisCounters};

use self::reload::Watched;
use crate::exit::{At, Exit, Failure, Outcome, report};
use crate::run::signal;

/// How long events may take to leave when the gateway ends. What has not left by then is in the spool.
const CLOSE: Duration = Duration::from_secs(5);

/// Keys of the demonstration.
const DEMO_KEYS: &str = r#"
[[key]]
secret = "demo"
id = "demo-key"
tenant = "acme"
plan = "free"
"#;

/// Enforces subscriptions in front of an HTTP service, and reports its usage
#[derive(Debug, Parser)]
#[command(name = "gateway", version)]
struct Gateway {
    /// Serve a toy API itself: counters in memory, events into a file, the key `demo`
    #[arg(long)]
    demo: bool,

    /// The service behind: http://host:port
    #[arg(long, value_name = "URL", env = "GATEWAY_UPSTREAM", required_unless_present = "demo")]
    upstream: Option<String>,

    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", env = "GATEWAY_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Counters that all gateways share: redis://host:port [default: in this process]
    #[arg(long, value_name = "URL", env = "GATEWAY_REDIS")]
    redis: Option<String>,

    /// Brokers to report usage to
    #[arg(long, value_name = "HOST:PORT,...", env = "GATEWAY_KAFKA", conflicts_with = "events")]
    kafka: Option<String>,

    /// The topic [default: api-usage-events.v1]
    #[arg(long, value_name = "TOPIC", env = "GATEWAY_TOPIC")]
    topic: Option<String>,

    /// Folder that events are in until the broker has them, so that killing the gateway loses none
    #[arg(long, value_name = "DIR", env = "GATEWAY_SPOOL", requires = "kafka")]
    spool: Option<PathBuf>,

    /// File to report usage to, instead of brokers
    #[arg(long, value_name = "FILE", env = "GATEWAY_EVENTS")]
    events: Option<PathBuf>,

    /// Plan catalog, a TOML file, read again when it changes [default: free, starter, pro and enterprise]
    #[arg(long, value_name = "FILE", env = "GATEWAY_PLANS")]
    plans: Option<PathBuf>,

    /// API keys, a TOML file, read again when it changes
    #[arg(long, value_name = "FILE", env = "GATEWAY_KEYS", required_unless_present = "demo")]
    keys: Option<PathBuf>,

    /// How many gateways share the counters: while these cannot be reached each admits its share
    #[arg(long, value_name = "N", env = "GATEWAY_REPLICAS", default_value_t = 1)]
    replicas: u32,

    /// How long a request may wait for the counters, in milliseconds
    #[arg(long, value_name = "MS", env = "GATEWAY_DEADLINE", default_value_t = 5)]
    deadline: u64,

    /// Decide tenants far below their limits in this process
    #[arg(long, env = "GATEWAY_NEAR_CACHE")]
    near_cache: bool,

    /// Decide and report, but let all pass
    #[arg(long, env = "GATEWAY_SHADOW")]
    shadow: bool,

    /// Name that tells this gateway from others
    #[arg(long, value_name = "NAME", env = "GATEWAY_NAME", default_value = "gateway")]
    name: String,

    /// Stop the clock at these milliseconds since the epoch, and decide by it; for tests
    #[arg(long, value_name = "MS", hide = true)]
    fixed_time: Option<i64>,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let gateway = Gateway::parse();
    let outcome = subscription_pipeline::runtime().at_usage().and_then(|runtime| runtime.block_on(run(gateway)));
    match outcome {
        Ok(exit) => exit.into(),
        Err(Failure { exit, error }) => {
            let _ = std::io::stderr().write_all(report(&error).as_bytes());
            exit.into()
        }
    }
}

async fn run(gateway: Gateway) -> Outcome {
    let clock: Arc<dyn Clock> = match gateway.fixed_time {
        Some(millis) => Arc::new(ManualClock::new(Timestamp::from_millis(millis))),
        None => Arc::new(SystemClock::new()),
    };
    let (key_file, plan_file) = (Watched::new(gateway.keys.clone()), Watched::new(gateway.plans.clone()));
    let catalog = gateway.plans.as_ref().map_or_else(|| Ok(Catalog::default()), Catalog::load).at_usage()?;
    let keys = match &gateway.keys {
        Some(file) => ApiKeys::load(file),
        None => ApiKeys::from_toml(DEMO_KEYS, "the demonstration's keys"),
    };
    let keys = keys.at_usage()?;
    let upstream = gateway.upstream.as_deref().map(proxy::Upstream::new).transpose().at_usage()?;
    let counters = counters(&gateway, &clock).await?;
    let mut config = EnforcerConfig::default();
    config.replicas = gateway.replicas;
    config.deadline = Duration::from_millis(gateway.deadline);
    config.near_cache = gateway.near_cache.then(NearCacheConfig::default);
    let enforcer = Arc::new(Enforcer::new(counters, clock.clone(), config).at_usage()?);
    let emitter = emitter(&gateway, &clock)?;

    let mut layer =
        GatewayLayer::builder(enforcer, keys.clone(), Arc::new(catalog)).clock(clock).shadow(gateway.shadow);
    if let Some(emitter) = &emitter {
        layer = layer.emitter(emitter.clone());
    } else {
        eprintln!("warning: usage is not reported: give --kafka or --events");
    }
    if gateway.fixed_time.is_some() {
        layer = layer.decide_by_own_clock();
    }
    let layer = layer.build();
    let stop = signal(Arc::new(AtomicU8::new(0)), "finishing the requests under way").at_usage()?;
    let watching = tokio::spawn(reload::watch(key_file, keys, plan_file, layer.clone()));
    let served = serve::serve(gateway.listen, &layer, upstream, stop).await;
    watching.abort();

    layer.enforcer().flush().await;
    let closed = match emitter {
        Some(emitter) => tokio::task::spawn_blocking(move || emitter.close(CLOSE)).await.unwrap_or(Ok(())),
        None => Ok(()),
    };
    served.at_input()?;
    closed.at_input()?;
    Ok(Exit::Ok)
}

/// The counters. That they are away keeps no gateway from starting.
async fn counters(gateway: &Gateway, clock: &Arc<dyn Clock>) -> Outcome<Arc<dyn CounterStore>> {
    let Some(url) = &gateway.redis else {
        return Ok(Arc::new(MemoryCounters::with_clock(clock.clone())));
    };
    let counters = RedisCounters::new(RedisConfig::new(url).at_usage()?).at_usage()?;
    if let Err(error) = counters.ready().await {
        eprint!("warning: {}", report(&error).trim_start_matches("error: "));
        eprintln!("requests are decided by each plan's failure policy until the counters are there");
    }
    Ok(Arc::new(counters))
}

/// Tells problems on standard error, each of them once in ten seconds: a broker that is away is a problem many times a second.
fn seldom(clock: Arc<dyn Clock>) -> impl Fn(&Error) + Send + Sync {
    const PAUSE: u64 = 10_000_000_000;
    let told = Mutex::new(HashMap::new());
    move |error| {
        let (text, now) = (error.to_string(), clock.monotonic_nanos());
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now - *at < PAUSE);
        if let Entry::Vacant(place) = told.entry(text) {
            eprintln!("warning: {}", place.key());
            place.insert(now);
        }
    }
}

fn emitter(gateway: &Gateway, clock: &Arc<dyn Clock>) -> Outcome<Option<Arc<dyn EventEmitter>>> {
    if let Some(brokers) = &gateway.kafka {
        let topic = gateway.topic.clone().unwrap_or_else(TopicSpec::documented_topic);
        let mut config = EmitterConfig::new(KafkaConfig::new(brokers, topic).at_usage()?)
            .with_name(&gateway.name)
            .on_problem(seldom(clock.clone()));
        match &gateway.spool {
            Some(folder) => config = config.with_write_ahead(SpoolConfig::new(folder)),
            None => eprintln!("warning: events are in memory alone until the broker has them: give --spool DIR"),
        }
        return Ok(Some(Arc::new(KafkaEmitter::open(config).at_usage()?)));
    }
    let file = gateway.events.clone().or_else(|| {
        let file = std::env::temp_dir().join(format!("gateway-demo-{}.ndjson", std::process::id()));
        gateway.demo.then_some(file)
    });
    let Some(file) = file else { return Ok(None) };
    if gateway.demo {
        println!(
            "try it:    for i in $(seq 61); do curl -s -o /dev/null -w '%{{http_code}} ' -H 'X-Api-Key: demo' http://{}/v1/items; done",
            gateway.listen
        );
        println!("events in  {}", file.display());
    }
    Ok(Some(Arc::new(FileEmitter::open(file, &gateway.name).at_usage()?)))
}

/// What went wrong while serving.
pub(crate) fn cannot(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Other, format!("cannot {what}")).with_source(error)
}
