//! How much is taken from strangers, and what those are told who go beyond it.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::middleware::Next;
use actix_web::rt::net::TcpStream;
use actix_web::{Error, HttpRequest, web};
use ipnet::IpNet;

use super::Door;
use super::answer::{Format, Refusal};
use crate::clock::{Clock, Moment};
use crate::config::{Limits, Server};

/// What a request can have too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Path and query are too long.
    Url,
    /// The headers are too large.
    Headers,
    /// The body is too large.
    Body,
    /// The request took too long to arrive.
    Slow,
    /// The connection is one too many of its address.
    ConnectionsOfAddress,
    /// The connection is one too many in total.
    Connections,
    /// The request is one too many at once.
    RequestsInFlight,
}

impl Excess {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Url,
        Self::Headers,
        Self::Body,
        Self::Slow,
        Self::ConnectionsOfAddress,
        Self::Connections,
        Self::RequestsInFlight,
    ];

    /// The name it is counted under.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Headers => "headers",
            Self::Body => "body",
            Self::Slow => "slow",
            Self::ConnectionsOfAddress => "connections_of_address",
            Self::Connections => "connections",
            Self::RequestsInFlight => "requests_in_flight",
        }
    }

    /// What it is answered.
    pub(super) const fn status_code(self) -> StatusCode {
        match self {
            Self::Url => StatusCode::URI_TOO_LONG,
            Self::Headers => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::ConnectionsOfAddress => StatusCode::TOO_MANY_REQUESTS,
            Self::Connections | Self::RequestsInFlight => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "the request's path and query are longer than is taken here",
            Self::Headers => "the request's headers are larger than is taken here",
            Self::Body => "the request's body is larger than is taken here",
            Self::Slow => "the request took too long to arrive",
            Self::ConnectionsOfAddress => "too many connections from this address; close some",
            Self::Connections => "too many connections; try again",
            Self::RequestsInFlight => "too many requests at once; try again",
        })
    }
}

/// How often each excess was refused since the start.
#[derive(Debug, Default)]
pub struct Refusals([AtomicU64; Excess::ALL.len()]);

impl Refusals {
    /// How often `excess` was refused.
    #[must_use]
    pub fn count(&self, excess: Excess) -> u64 {
        self.0[excess as usize].load(Ordering::Relaxed)
    }

    fn note(&self, excess: Excess) {
        self.0[excess as usize].fetch_add(1, Ordering::Relaxed);
        tracing::debug!(excess = excess.name(), "refused");
    }
}

/// What keeps strangers within the limits.
pub(super) struct Threshold {
    limits: Limits,
    trusted_proxies: Vec<IpNet>,
    clock: Arc<dyn Clock>,
    refusals: Arc<Refusals>,
    connections: Mutex<Connections>,
    in_flight: AtomicUsize,
    /// Whether the operator was told of a proxy that is not trusted.
    warned: AtomicBool,
}

/// The connections that are open.
#[derive(Default)]
struct Connections {
    total: usize,
    of_address: HashMap<IpAddr, usize>,
}

/// One connection, counted as long as it is open.
struct Seat {
    threshold: Arc<Threshold>,
    address: IpAddr,
    since: Moment,
    excess: Option<Excess>,
    requests: AtomicUsize,
}

/// One request, counted as long as it is being answered.
struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Threshold {
    pub(super) fn new(server: &Server, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            limits: server.limits.clone(),
            trusted_proxies: server.trusted_proxies.clone(),
            clock,
            refusals: Arc::default(),
            connections: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            warned: AtomicBool::new(false),
        })
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) const fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// Counts a connection, and leaves with it what its requests are to be told.
    pub(super) fn on_connect(self: &Arc<Self>, connection: &dyn Any, data: &mut Extensions) {
        let Some(Ok(peer)) = connection.downcast_ref::<TcpStream>().map(TcpStream::peer_addr) else { return };
        let address = peer.ip().to_canonical();
        let excess = {
            let mut connections = self.connections();
            connections.total += 1;
            let of_address = connections.of_address.entry(address).or_default();
            *of_address += 1;
            let of_address = *of_address;
            if connections.total > self.limits.max_connections {
                Some(Excess::Connections)
            } else if of_address > self.limits.max_connections_per_address && !self.is_trusted(address) {
                Some(Excess::ConnectionsOfAddress)
            } else {
                None
            }
        };
        let (threshold, since) = (Arc::clone(self), self.clock.monotonic());
        data.insert(Seat { threshold, address, since, excess, requests: AtomicUsize::new(0) });
    }

    /// Whom a request comes from: its peer, or, as far as proxies are trusted, whom they say it comes from.
    pub(super) fn address_of(&self, request: &HttpRequest) -> IpAddr {
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let mut address = request.peer_addr().map_or(unknown, |peer| peer.ip().to_canonical());
        let headers: Vec<_> = request.headers().get_all("x-forwarded-for").collect();
        if !headers.is_empty() && !self.is_trusted(address) && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %address,
                "a request has X-Forwarded-For, and came from no trusted proxy; if it is your proxy, name it in \
                 server.trusted_proxies, or its callers all count as one"
            );
        }
        let hops = headers.iter().rev().flat_map(|header| header.to_str().unwrap_or("?").rsplit(','));
        for hop in hops {
            // What stands left of a stranger's address, the stranger may have written.
            let Some(named) = self.is_trusted(address).then(|| address_in(hop)).flatten() else { break };
            address = named;
        }
        address
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }

    /// What `request` has too much of.
    fn excess_of(&self, request: &HttpRequest) -> Option<Excess> {
        if let Some(seat) = request.conn_data::<Seat>() {
            seat.requests.fetch_add(1, Ordering::Relaxed);
            if seat.excess.is_some() {
                return seat.excess;
            }
        }
        if request.uri().path_and_query().map_or(0, |url| url.as_str().len()) > self.limits.max_url_bytes {
            return Some(Excess::Url);
        }
        let headers: usize =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.as_bytes().len()).sum();
        if headers > self.limits.max_header_bytes {
            return Some(Excess::Headers);
        }
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > self.limits.max_body_bytes as u64) {
            return Some(Excess::Body);
        }
        None
    }

    /// A turn for one more request, if there is one.
    fn enter(&self) -> Option<Turn<'_>> {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let turn = Turn(&self.in_flight);
        (before < self.limits.max_requests_in_flight).then_some(turn)
    }

    /// Notes a refusal, and says it in the caller's format.
    pub(super) fn refuse(&self, excess: Excess, request: &HttpRequest) -> Refusal {
        self.refusals.note(excess);
        Refusal::new(excess, Format::asked_by(request))
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // A head that does not arrive is answered 408 before any code of ours sees it, by a coarse clock. Whoever hangs
        // up at once was no slow client.
        let open_for = self.threshold.clock.monotonic().since(self.since);
        if *self.requests.get_mut() == 0 && open_for * 2 >= self.threshold.limits.request_timeout {
            self.threshold.refusals.note(Excess::Slow);
        }
        let mut connections = self.threshold.connections();
        connections.total -= 1;
        if let Some(of_address) = connections.of_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                connections.of_address.remove(&self.address);
            }
        }
    }
}

/// The address in one element of `X-Forwarded-For`, with or without a port.
fn address_in(element: &str) -> Option<IpAddr> {
    let element = element.trim();
    let bare = element.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let address = bare.unwrap_or(element);
    let address = address.parse::<IpAddr>().ok().or_else(|| Some(address.parse::<std::net::SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

/// Stands before every public route: turns away whoever goes beyond the limits.
pub(super) async fn keep(
    door: web::Data<Door>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let threshold = &door.threshold;
    if let Some(excess) = threshold.excess_of(request.request()) {
        let refusal = threshold.refuse(excess, request.request());
        return Ok(closing(request.error_response(refusal)));
    }
    // A receiver that is busy is no receiver that is ill.
    let is_health = request.path().ends_with("/health/live") || request.path().ends_with("/health/ready");
    let _turn = match threshold.enter() {
        Some(turn) => Some(turn),
        None if is_health => None,
        None => {
            let refusal = threshold.refuse(Excess::RequestsInFlight, request.request());
            return Ok(request.error_response(refusal));
        }
    };
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// Has the connection closed: what is left of the request is not read.
fn closing(mut response: ServiceResponse) -> ServiceResponse {
    response.response_mut().head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::config::Config;
    use actix_web::test::TestRequest;

    #[test]
    fn proxies_are_believed_as_far_as_they_are_trusted() {
        let mut server = Config::defaults().server;
        server.trusted_proxies = vec!["10.0.0.0/8".parse().expect("a network")];
        let threshold = Threshold::new(&server, Arc::new(SystemClock));
        for (peer, forwarded, expected) in [
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", vec!["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", vec!["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", vec!["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", vec!["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", vec!["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", vec!["198.51.100.7, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", vec!["198.51.100.7", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", vec!["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", vec!["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", vec!["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("203.0.113.9", vec!["10.0.0.2"], "203.0.113.9"),
            ("203.0.113.9", vec!["198.51.100.7"], "203.0.113.9"),
            ("::ffff:10.0.0.1", vec!["203.0.113.9"], "203.0.113.9"),
        ] {
            let peer_address: IpAddr = peer.parse().expect("an address");
            let mut request = TestRequest::default().peer_addr((peer_address, 1234).into());
            for header in &forwarded {
                request = request.append_header(("x-forwarded-for", *header));
            }
            let address = threshold.address_of(&request.to_http_request());
            assert_eq!(address.to_string(), expected, "{peer} {forwarded:?}");
        }
    }
}
