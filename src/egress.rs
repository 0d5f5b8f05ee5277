//! The one way out: every request Doorbell makes goes through [`Egress`].
//!
//! It calls configured origins only, follows no redirect, uses no proxy, waits so long and no longer, and reads
//! so much and no more (G6, G8).

use std::time::Duration;

use http::{Request, Response};
use reqwest::redirect;
use thiserror::Error;
use url::Url;

use crate::event::BaseUrl;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole exchange may take.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle connections that are kept open to one host.
const IDLE_CONNECTIONS: usize = 64;

/// The client all requests go through.
#[derive(Debug, Clone)]
pub(crate) struct Egress {
    client: reqwest::Client,
    allowed: Vec<BaseUrl>,
    max_response: usize,
}

/// Why a request got no usable answer.
#[derive(Debug, Error)]
pub enum EgressError {
    /// The address is not among those configured.
    #[error("{0} is not a configured address")]
    NotAllowed(String),
    /// The request could not be built.
    #[error("the request cannot be sent: {0}")]
    Unsendable(String),
    /// No connection, or it broke.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// The host that was called.
        host: String,
        /// Why not, in the words of the innermost cause.
        reason: String,
    },
    /// No answer in time.
    #[error("{host} did not answer within {} s", TOTAL_TIMEOUT.as_secs())]
    TimedOut {
        /// The host that was called.
        host: String,
    },
    /// The answer is larger than is read.
    #[error("{host} answered more than {limit} bytes")]
    TooLarge {
        /// The host that was called.
        host: String,
        /// What is read at most.
        limit: usize,
    },
}

impl Egress {
    /// A client that calls `allowed` origins and reads answers of up to `max_response` bytes.
    ///
    /// # Errors
    /// If the platform's TLS roots cannot be set up.
    pub(crate) fn new(allowed: Vec<BaseUrl>, max_response: usize) -> Result<Self, EgressError> {
        let client = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TOTAL_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tcp_nodelay(true)
            .user_agent(concat!("doorbell/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| EgressError::Unsendable(innermost(&error)))?;
        Ok(Self { client, allowed, max_response })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// Any answer with a status is an answer, whatever the status; see [`EgressError`] for the rest.
    pub(crate) async fn call(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, EgressError> {
        let uri = request.uri().to_string();
        let url = Url::parse(&uri).map_err(|error| EgressError::Unsendable(error.to_string()))?;
        if !self.allowed.iter().any(|base| base.has_origin_of(&url)) {
            return Err(EgressError::NotAllowed(url.origin().ascii_serialization()));
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let unreachable = |error: &reqwest::Error| {
            if error.is_timeout() {
                EgressError::TimedOut { host: host.clone() }
            } else {
                EgressError::Unreachable { host: host.clone(), reason: innermost(error) }
            }
        };
        let request =
            reqwest::Request::try_from(request).map_err(|error| EgressError::Unsendable(innermost(&error)))?;
        let mut answer = self.client.execute(request).await.map_err(|error| unreachable(&error))?;
        let mut response = Response::new(Vec::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(&error))? {
            if response.body().len() + chunk.len() > self.max_response {
                return Err(EgressError::TooLarge { host, limit: self.max_response });
            }
            response.body_mut().extend_from_slice(&chunk);
        }
        Ok(response)
    }
}

/// The cause beneath reqwest's own words, which would repeat the whole URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
