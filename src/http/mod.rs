//! What all listeners share: how they listen, who may hold a connection, and how long each of its parts may take.
//!
//! HTTP itself is actix's. Its timers cover the first head of a connection and the time between two requests, and no
//! other wait for a client; so they are off, and [`connection`] has a deadline for each.

mod authorization;
mod client_address;
mod connection;
mod farewell;
mod files;
pub(crate) mod health;
mod limiter;
mod limits;
mod negotiation;
mod observed;
mod private;
mod resource;
mod stream;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::{HttpService, KeepAlive};
use actix_service::{IntoServiceFactory, ServiceFactoryExt};
use actix_web::dev::{AppConfig, Server, Service, ServiceFactory, fn_factory, fn_service};
use actix_web::rt::net::TcpStream;
use actix_web::web::ServiceConfig;
use actix_web::{App, HttpRequest};
use thiserror::Error;
use tokio::net::TcpSocket;

use crate::clock::Clock;
use crate::log_limiter::LogLimiter;
use connection::{Connection, Guarded, Policy};
use limiter::ConnectionLimiter;
use observed::Observed;
use stream::GuardedStream;

pub(crate) use authorization::{bearer_token, is_same_secret};
pub(crate) use client_address::ClientAddresses;
pub(crate) use connection::ConnectionTimes;
pub(crate) use farewell::Wording;
pub(crate) use files::raise_open_file_limit;
pub(crate) use limiter::ConnectionLimits;
pub use limits::{LimitCounters, LimitExceeded};
pub(crate) use negotiation::prefers_xml;
pub(crate) use private::{HEAD_SLACK, PRIVATE_CONNECTIONS, surplus};
pub(crate) use resource::{POST, READ, postable, readable};

/// How many connections the system makes before we take them in.
const BACKLOG: u32 = 2048;

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
#[error("{key} {address} cannot be listened on: {source}; stop what listens there, or set {key} to another address")]
pub struct ListenError {
    key: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// How a listener treats its connections.
pub(crate) struct Listener {
    /// How long each part of a connection may take, and how large it may be.
    pub(crate) times: ConnectionTimes,
    /// How many connections there may be.
    pub(crate) connections: ConnectionLimits,
    /// Where exceeded limits are counted.
    pub(crate) limit_counters: Arc<LimitCounters>,
    /// How it words what it says where there is no request to be answered.
    pub(crate) wording: Wording,
    /// What time it is.
    pub(crate) clock: Arc<dyn Clock>,
    /// How long work in hand may take at a stop.
    pub(crate) shutdown_timeout: Duration,
}

/// Why requests on the connection of `request` are turned away, if they are.
pub(crate) fn limit_exceeded_by_connection(request: &HttpRequest) -> Option<LimitExceeded> {
    request.conn_data::<Rc<Connection>>()?.exceeded()
}

/// Why the body of `request` ended early, if the connection did not wait for more of it.
pub(crate) fn limit_exceeded_by_body(request: &HttpRequest) -> Option<LimitExceeded> {
    request.conn_data::<Rc<Connection>>()?.body_limit_exceeded()
}

/// Binds `address`, which the configuration has under `key`, and makes a server of `routes` on it. It serves once it is
/// polled.
pub(crate) fn listen(
    key: &'static str,
    address: SocketAddr,
    listener: Listener,
    routes: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
) -> Result<(Server, SocketAddr), ListenError> {
    bind(address, listener, routes).map_err(|source| ListenError { key, address, source })
}

fn bind(
    address: SocketAddr,
    listener: Listener,
    routes: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
) -> io::Result<(Server, SocketAddr)> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let Listener { times, connections, limit_counters, wording, clock, shutdown_timeout } = listener;
    // A newcomer has to be taken in before somebody can make room for it.
    let taken_in = connections.total.saturating_add(connections.surplus.saturating_mul(2));
    let limiter = ConnectionLimiter::new(connections);
    let policy = Arc::new(Policy { times, log: LogLimiter::new(Arc::clone(&clock)), clock, limit_counters, wording });
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(taken_in.div_ceil(workers))
        .shutdown_timeout(shutdown_timeout.as_secs().max(1))
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let socket = socket.listen(BACKLOG)?.into_std()?;
    let bound = socket.local_addr()?;
    let serve = move || {
        let (limiter, policy, stopping, routes) =
            (Arc::clone(&limiter), Arc::clone(&policy), stopping.clone(), routes.clone());
        fn_factory(move || {
            let routes = routes.clone();
            let stopping = stopping.clone();
            let app = App::new().configure(routes).into_factory();
            let requests = fn_factory(move || {
                let app = app.new_service(AppConfig::default());
                async move { app.await.map(|requests| Observed { requests }) }
            });
            let protocol = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                .keep_alive(KeepAlive::Os)
                .client_request_timeout(Duration::ZERO)
                .client_disconnect_timeout(Duration::ZERO)
                // Whoever has said all it has to say still waits for the answer.
                .h1_allow_half_closed(true)
                .local_addr(bound)
                .on_connect_ext(|stream: &GuardedStream, data| {
                    data.insert(Rc::clone(&stream.connection));
                })
                .expect(fn_service(observed::expect))
                .h1(requests.map_err(|error: actix_web::Error| error.as_response_error().error_response()))
                .new_service(());
            let (limiter, policy) = (Arc::clone(&limiter), Arc::clone(&policy));
            async move {
                let protocol = Rc::new(protocol.await?);
                Ok::<_, ()>(fn_service(move |socket: TcpStream| {
                    let peer = socket.peer_addr().ok();
                    let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
                    let permit = limiter.admit(address, policy.clock.monotonic());
                    let connection = Rc::new(Connection::new(Arc::clone(&policy), permit));
                    let stream = GuardedStream::new(socket, Rc::clone(&connection));
                    let guarded = Guarded::new(protocol.call((stream, peer)), connection);
                    async move {
                        guarded.await;
                        Ok::<_, ()>(())
                    }
                }))
            }
        })
    };
    let server = builder.listen("http", socket, serve)?.run();
    Ok((server, bound))
}
