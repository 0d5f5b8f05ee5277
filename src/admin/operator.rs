//! Who may use the private listener.

use std::future::{Ready, ready};
use std::net::IpAddr;

use actix_web::dev::Payload;
use actix_web::http::header::{HOST, ORIGIN};
use actix_web::{FromRequest, HttpRequest, web};

use super::AdminState;
use super::api::Problem;
use crate::http;

/// Proof that the caller may use the private listener: no handler that takes one runs without it.
pub(super) struct Operator;

impl FromRequest for Operator {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(state) = request.app_data::<web::Data<AdminState>>() else {
            return ready(Err(Problem::unauthorized()));
        };
        ready(match (&state.token, http::bearer_token(request)) {
            (None, _) if is_meant_for_us(request) => Ok(Self),
            (None, _) => Err(Problem::forbidden()),
            (Some(expected), Some(given)) if http::is_same_secret(given.as_bytes(), expected.expose().as_bytes()) => {
                Ok(Self)
            }
            (Some(_), _) => Err(Problem::unauthorized()),
        })
    }
}

/// Whether a request without a token was meant for this listener.
///
/// A page in the operator's browser can send requests to loopback, under a host name of its own choice (DNS rebinding).
/// It cannot hide that name, nor its own origin.
fn is_meant_for_us(request: &HttpRequest) -> bool {
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(HOST).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let is_own_page = text(ORIGIN).is_none_or(|origin| origin.split_once("://").is_some_and(|(_, of)| of == host));
    (is_address || name.eq_ignore_ascii_case("localhost")) && is_own_page
}
