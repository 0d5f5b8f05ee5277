//! How much one request may have and how many there may be, and what those are told who go beyond it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, web};
use ipnet::IpNet;

use super::Door;
use super::answer::{Format, Refusal};
use crate::config::{Limits, Server};
use crate::http::{self, Excess, Refusals};
use crate::store::StoreError;

/// What keeps strangers within the limits.
pub(super) struct Threshold {
    limits: Limits,
    trusted_proxies: Vec<IpNet>,
    refusals: Arc<Refusals>,
    in_flight: AtomicUsize,
    /// Whether the operator was told of a proxy that is not trusted.
    warned: AtomicBool,
}

/// One request, counted as long as it is being answered.
pub(super) struct Turn<'a>(&'a AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Threshold {
    pub(super) fn new(server: &Server) -> Arc<Self> {
        Arc::new(Self {
            limits: server.limits.clone(),
            trusted_proxies: server.trusted_proxies.clone(),
            refusals: Arc::default(),
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
        if let Some(excess) = http::excess_of_connection(request) {
            return Some(excess);
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
    pub(super) fn enter(&self) -> Option<Turn<'_>> {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let turn = Turn(&self.in_flight);
        (before < self.limits.max_requests_in_flight).then_some(turn)
    }

    /// Notes a refusal, and says it in the caller's format.
    pub(super) fn refuse(&self, excess: Excess, request: &HttpRequest) -> Refusal {
        self.refusals.note(excess);
        Refusal::new(excess, Format::asked_by(request))
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

/// How long a request may be worked on once it has arrived: twice the longest wait that any route has.
const HANDLING: Duration = Duration::from_secs(10);

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
    let path = request.match_info().as_str();
    // A receiver that is busy is no receiver that is ill.
    let is_health = path.ends_with("/health/live") || path.ends_with("/health/ready");
    // Where a body is read, the request is at its sender's pace until it is whole, and takes its turn then: else
    // strangers who send slowly would have all turns. How many may do so the limits of connections say.
    let is_read_first = request.method() == Method::POST && path.ends_with("/oauth2/token");
    let _turn = match threshold.enter() {
        _ if is_read_first => None,
        Some(turn) => Some(turn),
        None if is_health => None,
        None => {
            let refusal = threshold.refuse(Excess::RequestsInFlight, request.request());
            return Ok(request.error_response(refusal));
        }
    };
    // Whatever is waited for, a disk that hangs included, nobody waits for ever: no marketplace does.
    let (format, patience) = (Format::asked_by(request.request()), threshold.limits.request_timeout + HANDLING);
    tokio::select! {
        response = next.call(request) => Ok(response?.map_into_boxed_body()),
        () = door.clock.sleep(patience) => {
            Err(Refusal::new(StoreError::Unavailable("a request was not answered in time".to_owned()), format).into())
        }
    }
}

/// Has the connection closed: what is left of the request is not read.
fn closing(mut response: ServiceResponse) -> ServiceResponse {
    response.response_mut().head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use actix_web::test::TestRequest;

    #[test]
    fn proxies_are_believed_as_far_as_they_are_trusted() {
        let mut server = Config::defaults().server;
        server.trusted_proxies = vec!["10.0.0.0/8".parse().expect("a network")];
        let threshold = Threshold::new(&server);
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
