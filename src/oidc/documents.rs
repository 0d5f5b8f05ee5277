//! The documents that a provider publishes: where its keys are, and the keys.

use http::Request;
use http::header::ACCEPT;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::jwk::Key;
use crate::config::{self, Endpoint};
use crate::egress::{Egress, EgressError};
use crate::event::BaseUrl;

/// The largest document that is read, in bytes.
const MAX_DOCUMENT_BYTES: usize = 256 << 10;
/// Keys that are kept of one document.
const MAX_KEYS: usize = 100;

/// Why keys cannot be fetched.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    /// No answer.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// An answer that is none.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked.
        url: String,
        /// The answer's status.
        status: http::StatusCode,
    },
    /// An answer that cannot be used.
    #[error("{url} answered no usable {what}: {reason}")]
    Unusable {
        /// What was asked.
        url: String,
        /// What for.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where keys are found.
enum KeySetLocation {
    Document(Endpoint),
    /// As the discovery document of the issuer says.
    Discovered {
        issuer: String,
        base: BaseUrl,
    },
}

/// Where one provider's documents are, and the way there.
pub(super) struct Documents {
    location: KeySetLocation,
    egress: Egress,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Documents {
    pub(super) fn new(jwt: &config::Jwt, egress: &config::Egress) -> Result<Self, EgressError> {
        let (location, allowed) = if let Some(url) = &jwt.jwks_url {
            (KeySetLocation::Document(url.clone()), url.base().clone())
        } else {
            let base =
                BaseUrl::parse(&jwt.issuer).map_err(|error| EgressError::Unsendable(format!("issuer {error}")))?;
            (KeySetLocation::Discovered { issuer: jwt.issuer.clone(), base: base.clone() }, base)
        };
        Ok(Self { location, egress: Egress::new(egress, vec![allowed], MAX_DOCUMENT_BYTES)? })
    }

    /// Where the keys are, for people.
    pub(super) fn place(&self) -> String {
        match &self.location {
            KeySetLocation::Document(url) => url.to_string(),
            KeySetLocation::Discovered { issuer, .. } => issuer.clone(),
        }
    }

    /// Fetches the keys, after the discovery document where that says where they are.
    pub(super) async fn fetch(&self) -> Result<Vec<Key>, FetchError> {
        let url = match &self.location {
            KeySetLocation::Document(url) => url.clone(),
            KeySetLocation::Discovered { issuer, base } => self.discover(issuer, base).await?,
        };
        let document: Document = self.get(url.as_str(), "key set").await?;
        Ok(document.keys.into_iter().take(MAX_KEYS).filter_map(Key::of).collect())
    }

    /// Where the issuer says that its keys are (OpenID Connect Discovery 1.0 §4).
    async fn discover(&self, issuer: &str, base: &BaseUrl) -> Result<Endpoint, FetchError> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let discovery: Discovery = self.get(&url, "discovery document").await?;
        let unusable = |reason: String| FetchError::Unusable { url: url.clone(), what: "discovery document", reason };
        if discovery.issuer != issuer {
            return Err(unusable(format!("it is of the issuer {:?}, not {issuer:?}", discovery.issuer)));
        }
        let endpoint = Endpoint::parse(&discovery.jwks_uri).map_err(|error| unusable(format!("jwks_uri {error}")))?;
        if !base.shares_origin_with(endpoint.base()) {
            let jwks_uri = &discovery.jwks_uri;
            return Err(unusable(format!(
                "jwks_uri {jwks_uri:?} is not at the issuer, and only what is configured is called; if it is right, write \
                 jwks_url = {jwks_uri:?}"
            )));
        }
        Ok(endpoint)
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str, what: &'static str) -> Result<T, FetchError> {
        let request = Request::get(url)
            .header(ACCEPT, "application/json")
            .body(Vec::new())
            .map_err(|error| EgressError::Unsendable(error.to_string()))?;
        let answer = self.egress.call(request).await?;
        if !answer.status().is_success() {
            return Err(FetchError::Status { url: url.to_owned(), status: answer.status() });
        }
        serde_json::from_slice(answer.body()).map_err(|error| FetchError::Unusable {
            url: url.to_owned(),
            what,
            reason: error.to_string(),
        })
    }
}
