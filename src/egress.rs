//! The one way out: every request Doorbell makes goes through [`Egress`].
//!
//! It calls configured origins only, follows no redirect, uses no proxy that was not configured, waits so long and no
//! longer, and reads so much and no more, counted both as it arrives and while it is unpacked (G6, G8).

mod content_encoding;

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Request, Response};
use reqwest::{Certificate, Proxy, redirect};
use thiserror::Error;
use url::Url;

use self::content_encoding::{ACCEPTED, DecodeError, unpacked};
use crate::config;
use crate::event::BaseUrl;

/// How a gzip document begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Idle connections that are kept open to one host.
const IDLE_CONNECTIONS: usize = 64;

/// The client all requests go through.
#[derive(Debug, Clone)]
pub(crate) struct Egress {
    client: reqwest::Client,
    allowed: Vec<BaseUrl>,
    max_response: usize,
}

/// Marks a request, as its extension, whose answer's status is all that matters: its content is not looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatusOnly;

/// Why a request got no usable answer.
#[derive(Debug, Clone, Error)]
pub enum EgressError {
    /// The address is not among those configured.
    #[error("{0} is not a configured address")]
    NotAllowed(String),
    /// The client cannot be made as it is configured.
    #[error("egress.{key} {problem}")]
    Setting {
        /// Which key.
        key: &'static str,
        /// What is wrong with it, and what to write.
        problem: String,
    },
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
    #[error("{host} did not answer in time")]
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
        /// What was read of it.
        received: Received,
    },
    /// The answer is not packed as it says, or as nobody asked for.
    #[error("{host} {problem}")]
    Encoding {
        /// The host that was called.
        host: String,
        /// What it says, and what is wrong with that.
        problem: String,
        /// The answer as it arrived.
        received: Received,
    },
}

/// How long content is waited for that adds nothing to its answer's status.
const UNWANTED_CONTENT: std::time::Duration = std::time::Duration::from_millis(500);

/// The bytes of an answer that is of no use as it is. They may hold persons, so they are shown where an operator asks for
/// them, and in no error.
#[derive(Clone)]
pub struct Received(pub(crate) Vec<u8>);

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Egress {
    /// A client that calls `allowed` origins and reads answers of up to `max_response` bytes.
    ///
    /// # Errors
    /// If the certificates cannot be read, the proxy is none, or the platform's TLS roots cannot be set up.
    pub(crate) fn new(
        settings: &config::Egress,
        allowed: Vec<BaseUrl>,
        max_response: usize,
    ) -> Result<Self, EgressError> {
        let mut builder = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.read_timeout)
            .timeout(settings.total_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tcp_nodelay(true)
            .default_headers(HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED))]))
            .user_agent(concat!("doorbell/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = &settings.ca_file {
            let unusable = |reason: String| EgressError::Setting {
                key: "ca_file",
                problem: format!(
                    "names {}, which cannot be used: {reason}; write the path of a readable file of PEM certificates",
                    file.display()
                ),
            };
            let pem = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(innermost(&error)))?;
            if certificates.is_empty() {
                return Err(unusable("it holds no certificate".to_owned()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some(proxy) = &settings.proxy {
            // The address may hold a password, so it is not repeated.
            let proxy = Proxy::all(proxy.expose()).map_err(|_| EgressError::Setting {
                key: "proxy",
                problem: "is no proxy's address; write it like \"http://proxy.internal:3128\"".to_owned(),
            })?;
            builder = builder.proxy(proxy);
        }
        let client = builder.build().map_err(|error| EgressError::Unsendable(innermost(&error)))?;
        Ok(Self { client, allowed, max_response })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// Any answer with a status is an answer, whatever the status; see [`EgressError`] for the rest. One that tells
    /// of a failure, or of which the status is all that matters, is an answer even if its content is too large, breaks
    /// off, or cannot be unpacked. It comes without content then: half of it could be taken for the whole.
    pub(crate) async fn call(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, EgressError> {
        let uri = request.uri().to_string();
        let url = Url::parse(&uri).map_err(|error| EgressError::Unsendable(error.to_string()))?;
        if !self.allowed.iter().any(|base| base.has_origin_of(&url)) {
            return Err(EgressError::NotAllowed(url.origin().ascii_serialization()));
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let is_status_only = request.extensions().get::<StatusOnly>().is_some();
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
        let is_content_wanted = response.status().is_success() && !is_status_only;
        let content = async {
            if !is_status_only {
                return self.content(answer, response.headers()).await;
            }
            // Whoever has said its status is not waited for: what comes at once is read, so that the connection is of use.
            let content = tokio::time::timeout(UNWANTED_CONTENT, self.content(answer, response.headers())).await;
            content.unwrap_or_else(|_| Ok(Vec::new()))
        };
        let content = content.await;
        *response.body_mut() = match content {
            Ok(content) => content,
            Err(_) if !is_content_wanted => Vec::new(),
            Err(ContentError::Broken(error)) => return Err(unreachable(&error)),
            Err(ContentError::TooLarge(received)) => {
                return Err(EgressError::TooLarge { host, limit: self.max_response, received });
            }
            Err(ContentError::Encoding(problem, received)) => {
                return Err(EgressError::Encoding { host, problem, received });
            }
        };
        // They are those of what arrived.
        response.headers_mut().remove(CONTENT_ENCODING);
        response.headers_mut().remove(CONTENT_LENGTH);
        Ok(response)
    }

    /// The content of an answer with these headers, unpacked.
    ///
    /// Of one that is too large as much is kept as may be read, to the byte, however it was cut on its way.
    async fn content(&self, mut answer: reqwest::Response, headers: &HeaderMap) -> Result<Vec<u8>, ContentError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(ContentError::Broken)? {
            let room = self.max_response - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Err(ContentError::TooLarge(Received(bytes)));
            }
        }
        let is_packed = headers.contains_key(CONTENT_ENCODING) || bytes.starts_with(&GZIP);
        let arrived = if is_packed { bytes.clone() } else { Vec::new() };
        unpacked(headers, bytes, self.max_response).map_err(|error| match error {
            DecodeError::TooLarge => ContentError::TooLarge(Received(arrived)),
            DecodeError::Encoding(problem) => ContentError::Encoding(problem, Received(arrived)),
        })
    }
}

/// Why the content of an answer could not be had.
enum ContentError {
    /// The connection broke, or nothing came in time.
    Broken(reqwest::Error),
    /// It is larger than is read.
    TooLarge(Received),
    /// It is not packed as it says.
    Encoding(String, Received),
}

/// The cause beneath reqwest's own words, which would repeat the whole URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
