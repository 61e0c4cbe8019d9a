//! What is behind: the upstream service, or a toy API.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use subscription_core::{Error, ErrorKind, Result};
use subscription_gateway::PeerAddress;

/// A body that is passed on as it comes.
pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A service that requests are passed to.
#[derive(Clone)]
pub(crate) struct Upstream {
    authority: Authority,
    client: Client<HttpConnector, Incoming>,
}

impl Upstream {
    pub(crate) fn new(url: &str) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::Configuration, "the upstream is no address of an HTTP service")
                .with("upstream", url)
                .with_help("give --upstream http://host:port, without a path")
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let has_path = !matches!(uri.path(), "" | "/") || uri.query().is_some();
        let authority = uri.authority().cloned().filter(|_| uri.scheme() == Some(&Scheme::HTTP) && !has_path);
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { authority: authority.ok_or_else(wrong)?, client })
    }

    /// Passes a request on, and the answer back, both as streams.
    pub(crate) async fn pass(self, mut request: Request<Incoming>) -> std::result::Result<Response<Body>, Infallible> {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.authority).path_and_query(path).build();
        let Ok(uri) = uri else { return Ok(problem(StatusCode::BAD_REQUEST, "the request's target is no path")) };
        *request.uri_mut() = uri;
        *request.version_mut() = hyper::Version::HTTP_11;
        drop_connection_headers(request.headers_mut());
        let peer = request.extensions().get().copied();
        tell_forwarded(request.headers_mut(), peer);
        if !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
            // Else the client takes a GET for one without a body.
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Ok(match self.client.request(request).await {
            Ok(mut response) => {
                drop_connection_headers(response.headers_mut());
                response.map(BodyExt::boxed_unsync)
            }
            Err(error) => {
                eprintln!("warning: the upstream did not answer: {error}");
                problem(StatusCode::BAD_GATEWAY, "the service did not answer")
            }
        })
    }
}

/// Those of one connection, which a proxy keeps to itself (RFC 9110, section 7.6.1).
fn drop_connection_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let keep_alive = HeaderName::from_static("keep-alive");
    let proxy_connection = HeaderName::from_static("proxy-connection");
    let known = [CONNECTION, keep_alive, proxy_connection, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    for name in named.iter().chain(&known) {
        headers.remove(name);
    }
}

/// Who asked for what, for the service behind: this proxy's client as the last of those that it was forwarded for, and what that
/// asked for unless a proxy before has told. Only the service knows how many proxies to believe.
fn tell_forwarded(headers: &mut HeaderMap, peer: Option<PeerAddress>) {
    const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    if let Some(peer) = peer.and_then(|PeerAddress(address)| address.to_string().parse().ok()) {
        headers.append(FOR, peer);
    }
    if let Some(host) = headers.remove(HOST) {
        headers.entry("x-forwarded-host").or_insert(host);
    }
    headers.entry("x-forwarded-proto").or_insert(HeaderValue::from_static("http"));
}

/// The demonstration's API: tells the path.
pub(crate) async fn toy(request: Request<Incoming>) -> std::result::Result<Response<Body>, Infallible> {
    let body = serde_json::json!({ "path": request.uri().path(), "method": request.method().as_str() });
    Ok(json(StatusCode::OK, "application/json", body.to_string() + "\n"))
}

fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or_default();
    let body =
        serde_json::json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    json(status, "application/problem+json", body.to_string())
}

fn json(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Full::from(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
