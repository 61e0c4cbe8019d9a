//! The connection that all calls share: made, and made again, by a task of its own, so that no call pays for it.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, RedisError, Value};
use subscription_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{RedisConfig, Target};
use crate::error::{Consequence, consequence, foreign};
use crate::script::Call;

/// Between attempts to connect: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A connection, by which many calls at once are pipelined.
#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    #[cfg(feature = "cluster")]
    Cluster(redis::cluster_async::ClusterConnection),
}

/// How the connection is.
#[derive(Clone)]
enum State {
    /// The first attempt is under way.
    Connecting,
    Up {
        connection: Connection,
        /// Counts connections, so that each is given up once.
        number: u64,
    },
    /// The last attempt failed; the next one follows.
    Down(Arc<Error>),
}

/// Keeps a connection. Ends with the value.
pub(crate) struct Link {
    state: watch::Receiver<State>,
    broken: watch::Sender<u64>,
    server: String,
    task: JoinHandle<()>,
}

impl Link {
    /// Begins to connect. Needs a tokio runtime.
    pub(crate) fn new(config: RedisConfig) -> Self {
        let server = config.target.to_string();
        let (states, state) = watch::channel(State::Connecting);
        let (broken, given_up) = watch::channel(0);
        let task = tokio::spawn(keep(config, states, given_up));
        Self { state, broken, server, task }
    }

    /// The outcome of the attempt to connect that is under way, or of the last one.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.get().await.map(|_| ())
    }

    /// Runs a script, once; the caller bounds the time.
    pub(crate) async fn run(&self, call: &Call) -> Result<Vec<i64>> {
        let (mut connection, number) = self.get().await?;
        let answer = connection.run(call).await;
        answer.and_then(|value| Ok(redis::from_redis_value(value)?)).map_err(|error| {
            if consequence(&error) == Consequence::Reconnect {
                self.give_up(number);
            }
            foreign(error, &self.server)
        })
    }

    /// Runs scripts of one kind, each once, at the same time; the caller bounds the time. Where one fails, others may have run.
    pub(crate) async fn run_all(&self, calls: &[Call]) -> Result<()> {
        let (mut connection, number) = self.get().await?;
        connection.run_all(calls).await.map_err(|error| {
            if consequence(&error) == Consequence::Reconnect {
                self.give_up(number);
            }
            foreign(error, &self.server)
        })
    }

    /// Says that a connection has been silent for too long.
    pub(crate) fn give_up_current(&self) {
        let number = match &*self.state.borrow() {
            State::Up { connection: Connection::Server(_), number } => *number,
            // A cluster's connection looks after those to its nodes.
            _ => return,
        };
        self.give_up(number);
    }

    fn give_up(&self, number: u64) {
        self.broken.send_if_modified(|last| {
            let newer = number > *last;
            *last = number.max(*last);
            newer
        });
    }

    async fn get(&self) -> Result<(Connection, u64)> {
        if let Some(state) = self.now() {
            return state;
        }
        let mut state = self.state.clone();
        // Waits for the first attempt only; the error is that of a task which is gone.
        let _ = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        self.now().unwrap_or_else(|| Err(unreachable_server("it is being connected to", &self.server)))
    }

    fn now(&self) -> Option<Result<(Connection, u64)>> {
        match &*self.state.borrow() {
            State::Connecting => None,
            State::Up { connection, number } => Some(Ok((connection.clone(), *number))),
            State::Down(error) => Some(Err(again(error))),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn unreachable_server(why: &str, server: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the counter store cannot be reached: {why}"))
        .with("server", server)
        .retryable()
}

/// The error of the last attempt, for one more call. Retryable, as attempts go on.
fn again(error: &Arc<Error>) -> Error {
    let copy = Error::new(error.kind(), "the counter store cannot be reached").with_source(error.clone()).retryable();
    match error.help() {
        Some(help) => copy.with_help(help),
        None => copy,
    }
}

async fn keep(config: RedisConfig, states: watch::Sender<State>, mut broken: watch::Receiver<u64>) {
    let server = config.target.to_string();
    let mut pause = FIRST_PAUSE;
    let mut number = 0;
    loop {
        let attempt = tokio::time::timeout(config.connect_timeout, Connection::open(&config)).await;
        let attempt = match attempt {
            Ok(attempt) => attempt.map_err(|error| foreign(error, &server)),
            Err(_) => Err(unreachable_server("it did not answer in time", &server)),
        };
        match attempt {
            Ok(connection) => {
                number += 1;
                pause = FIRST_PAUSE;
                states.send_replace(State::Up { connection, number });
                if broken.wait_for(|&last| last >= number).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                states.send_replace(State::Down(Arc::new(error)));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

impl Connection {
    async fn open(config: &RedisConfig) -> Result<Self, RedisError> {
        #[cfg(feature = "tls")]
        // Where the program chose none; that it was chosen meanwhile is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        match &config.target {
            Target::Server(server) => Self::server(client(server.clone(), config)?, config).await,
            #[cfg(feature = "sentinel")]
            Target::Sentinel { sentinels, name, tls } => {
                let client = sentinel(sentinels, name, *tls, config)?.async_get_client().await?;
                Self::server(self::client(client.get_connection_info().clone(), config)?, config).await
            }
            #[cfg(feature = "cluster")]
            Target::Cluster(nodes) => {
                let client = redis::cluster::ClusterClient::builder(nodes.clone())
                    // A call that may have been executed is never sent again.
                    .retries(0)
                    .tcp_settings(crate::config::tcp())
                    .connection_timeout(config.connect_timeout)
                    .response_timeout(config.connect_timeout);
                // Certificates alone would turn TLS on.
                #[cfg(feature = "tls")]
                let client = match nodes.first().map(ConnectionInfo::addr) {
                    Some(redis::ConnectionAddr::TcpTls { .. }) => client.certs(config.certificates.clone()),
                    _ => client,
                };
                Ok(Self::Cluster(client.build()?.get_async_connection().await?))
            }
        }
    }

    async fn server(client: Client, config: &RedisConfig) -> Result<Self, RedisError> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            // Callers bound each call, and give up a connection that is silent.
            .set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
        // To be told now, in plain words, where a password is missing.
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(Self::Server(connection))
    }

    async fn send(&mut self, command: Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Server(connection) => command.query_async(connection).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(connection) => cluster(connection, command).await,
        }
    }

    async fn run(&mut self, call: &Call) -> Result<Value, RedisError> {
        match self.send(call.by_hash()).await {
            Err(error) if consequence(&error) == Consequence::NoScript => self.send(call.by_text()).await,
            answer => answer,
        }
    }

    async fn run_all(&mut self, calls: &[Call]) -> Result<(), RedisError> {
        match self {
            Self::Server(connection) => {
                // Once it was told the script's text, the server knows it.
                let mut pipe = redis::pipe();
                for (i, call) in calls.iter().enumerate() {
                    pipe.add_command(if i == 0 { call.by_text() } else { call.by_hash() });
                }
                // Not `query_async`: its error has no code where several can be.
                let answers = connection.send_packed_commands(&pipe, 0, calls.len()).await?;
                answers.into_iter().try_for_each(|answer| answer.extract_error().map(|_| ()))
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => {
                let run = |call| {
                    let mut connection = self.clone();
                    async move { connection.run(call).await }
                };
                // Each to its end: one node that fails takes nothing from the others.
                let answers = futures::future::join_all(calls.iter().map(run)).await;
                answers.into_iter().try_for_each(|answer| answer.map(|_| ()))
            }
        }
    }
}

/// Follows where a cluster points: what was answered so was not executed.
#[cfg(feature = "cluster")]
async fn cluster(connection: &mut redis::cluster_async::ClusterConnection, command: Cmd) -> Result<Value, RedisError> {
    use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};

    let mut answer: Result<Value, _> = command.query_async(connection).await;
    for _ in 0..3 {
        let Err(error) = &answer else { break };
        let redirect = consequence(error);
        if !matches!(redirect, Consequence::Moved | Consequence::Ask) {
            break;
        }
        let Some(node) = error.redirect_node().and_then(|(address, _)| address.rsplit_once(':')) else { break };
        let Ok(port) = node.1.parse() else { break };
        let node = SingleNodeRoutingInfo::ByAddress { host: node.0.to_owned(), port };
        answer = if redirect == Consequence::Moved {
            let answer = connection.route_command(command.clone(), RoutingInfo::SingleNode(node)).await;
            answer.and_then(Value::extract_error)
        } else {
            // ASKING holds for the next command of the connection: they go out as one.
            let mut both = redis::pipe();
            both.cmd("ASKING").ignore().add_command(command.clone());
            let answers = connection.route_pipeline(both, 0, 2, node).await;
            answers.and_then(|mut values| values.pop().unwrap_or(Value::Nil).extract_error())
        };
    }
    answer
}

fn client(server: ConnectionInfo, config: &RedisConfig) -> Result<Client, RedisError> {
    #[cfg(feature = "tls")]
    if matches!(server.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        return Client::build_with_tls(server, config.certificates.clone());
    }
    let _ = config;
    Client::open(server)
}

#[cfg(feature = "sentinel")]
fn sentinel(
    sentinels: &[ConnectionInfo],
    name: &str,
    tls: bool,
    config: &RedisConfig,
) -> Result<redis::sentinel::SentinelClient, RedisError> {
    use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};

    // The URL's user is the servers'.
    let server = sentinels.first().map(|first| first.redis_settings().clone()).unwrap_or_default();
    let mut own = redis::RedisConnectionInfo::default();
    if let Some((user, password)) = &config.sentinel_user {
        if !user.is_empty() {
            own = own.set_username(user);
        }
        own = own.set_password(password);
    }
    let sentinels = sentinels.iter().map(|sentinel| sentinel.clone().set_redis_settings(own.clone())).collect();
    let mut node =
        SentinelNodeConnectionInfo::default().set_redis_connection_info(server).set_tcp_settings(crate::config::tcp());
    if tls {
        node = node.set_tls_mode(redis::TlsMode::Secure);
    }
    SentinelClient::build(sentinels, String::from(name), Some(node), SentinelServerType::Master)
}
