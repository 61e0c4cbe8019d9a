//! Connections: accepted, served, and let go in the end.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use subscription_core::Result;
use subscription_gateway::{GatewayLayer, PeerAddress};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt as _, service_fn};

use super::cannot;
use super::proxy::{Upstream, toy};

/// How long requests under way may take once the gateway is asked to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// Serves until `stop` completes, and then the requests that are under way.
pub(crate) async fn serve(
    address: SocketAddr,
    layer: &GatewayLayer,
    upstream: Option<Upstream>,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        cannot("listen", error).with("address", address).with_help("give another --listen HOST:PORT")
    })?;
    let address = listener.local_addr().map_err(|error| cannot("listen", error))?;
    println!("listening on {address}");
    let service = service_fn(move |request| {
        let upstream = upstream.clone();
        async move {
            match upstream {
                Some(upstream) => upstream.pass(request).await,
                None => toy(request).await,
            }
        }
    });
    let service = layer.layer(service);
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    let (connections, mut tasks) = (GracefulShutdown::new(), JoinSet::new());
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, most likely: those under way will give some back.
                eprintln!("warning: cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let peer = PeerAddress(peer.ip().to_canonical());
        let service = service.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        });
        let service = TowerToHyperService::new(service);
        let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = connections.watch(connection);
        // A client that goes away is no news.
        tasks.spawn(async move { drop(connection.await) });
        while tasks.try_join_next().is_some() {}
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, connections.shutdown()).await.is_err() {
        eprintln!("warning: some requests did not end within {DRAIN:?} and were cut off");
    }
    // What is cut off is reported as its task ends: before the emitter is closed.
    tasks.shutdown().await;
    Ok(())
}
