//! An address that is called as it is written.

use std::fmt;

use serde::{Deserialize, Deserializer};

use crate::event::{BaseUrl, BaseUrlError};

/// One address that is called as it is written, query and trailing slash included.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    url: String,
    base: BaseUrl,
}

impl Endpoint {
    /// Reads an endpoint from configuration.
    ///
    /// # Errors
    /// If it is no absolute `http` or `https` URL, or names a user or a fragment.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        if text.contains('#') {
            return Err(BaseUrlError::Extra);
        }
        let before_query = text.split('?').next().unwrap_or_default();
        Ok(Self { url: text.to_owned(), base: BaseUrl::parse(before_query)? })
    }

    /// The whole address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Scheme, host, port and path.
    #[must_use]
    pub const fn base(&self) -> &BaseUrl {
        &self.base
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.url, f)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
