//! How much one request may have and how many there may be, and what those are told who go beyond it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, web};

use super::PublicListener;
use super::answer::{ErrorResponse, Format};
use crate::config::{Limits, Server};
use crate::http::{self, ClientAddresses, LimitCounters, LimitExceeded};
use crate::store::StoreError;

/// What keeps strangers within the limits.
pub(super) struct RequestLimiter {
    limits: Limits,
    clients: ClientAddresses,
    limit_counters: Arc<LimitCounters>,
    in_flight: AtomicUsize,
}

/// One request, counted as long as it is being answered.
pub(super) struct InFlightGuard<'a>(&'a AtomicUsize);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl RequestLimiter {
    pub(super) fn new(server: &Server) -> Arc<Self> {
        Arc::new(Self {
            limits: server.limits.clone(),
            clients: ClientAddresses::new(server.trusted_proxies.clone()),
            limit_counters: Arc::default(),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Whom a request comes from.
    pub(super) fn address_of(&self, request: &HttpRequest) -> IpAddr {
        self.clients.of(request)
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) const fn limit_counters(&self) -> &Arc<LimitCounters> {
        &self.limit_counters
    }

    /// What `request` has too much of.
    fn exceeded_by(&self, request: &HttpRequest) -> Option<LimitExceeded> {
        if let Some(exceeded) = http::limit_exceeded_by_connection(request) {
            return Some(exceeded);
        }
        if request.uri().path_and_query().map_or(0, |url| url.as_str().len()) > self.limits.max_url_bytes {
            return Some(LimitExceeded::Url);
        }
        let headers: usize =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.as_bytes().len()).sum();
        if headers > self.limits.max_header_bytes {
            return Some(LimitExceeded::Headers);
        }
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > self.limits.max_body_bytes as u64) {
            return Some(LimitExceeded::Body);
        }
        None
    }

    /// A turn for one more request, if there is one.
    pub(super) fn enter(&self) -> Option<InFlightGuard<'_>> {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let guard = InFlightGuard(&self.in_flight);
        (before < self.limits.max_requests_in_flight).then_some(guard)
    }

    /// Notes a refusal, and says it in the caller's format.
    pub(super) fn refuse(&self, exceeded: LimitExceeded, request: &HttpRequest) -> ErrorResponse {
        self.limit_counters.note(exceeded);
        ErrorResponse::new(exceeded, Format::asked_by(request))
    }
}

/// How long a request may be worked on once it has arrived: twice the longest wait that any route has.
const HANDLING: Duration = Duration::from_secs(10);

/// Stands before every public route: turns away whoever goes beyond the limits.
pub(super) async fn keep(
    listener: web::Data<PublicListener>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let limiter = &listener.limiter;
    if let Some(exceeded) = limiter.exceeded_by(request.request()) {
        let refusal = limiter.refuse(exceeded, request.request());
        return Ok(closing(request.error_response(refusal)));
    }
    let path = request.match_info().as_str();
    // A receiver that is busy is no receiver that is ill.
    let is_health = path.ends_with("/health/live") || path.ends_with("/health/ready");
    // Where a body is read, the request is at its sender's pace until it is whole, and takes its turn then: else
    // strangers who send slowly would have all turns. How many may do so the limits of connections say.
    let is_read_first = request.method() == Method::POST && path.ends_with("/oauth2/token");
    let _in_flight = match limiter.enter() {
        _ if is_read_first => None,
        Some(guard) => Some(guard),
        None if is_health => None,
        None => {
            let refusal = limiter.refuse(LimitExceeded::RequestsInFlight, request.request());
            return Ok(request.error_response(refusal));
        }
    };
    // Whatever is waited for, a disk that hangs included, nobody waits for ever: no marketplace does.
    let (format, patience) = (Format::asked_by(request.request()), limiter.limits.request_timeout + HANDLING);
    tokio::select! {
        response = next.call(request) => Ok(response?.map_into_boxed_body()),
        () = listener.clock.sleep(patience) => {
            Err(ErrorResponse::new(StoreError::Unavailable("a request was not answered in time".to_owned()), format).into())
        }
    }
}

/// Has the connection closed: what is left of the request is not read.
fn closing(mut response: ServiceResponse) -> ServiceResponse {
    response.response_mut().head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    response
}
