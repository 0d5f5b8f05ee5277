use std::fmt;

use thiserror::Error;
use url::{Host, Url};

/// The longest event URL that is accepted, in bytes.
///
/// Real ones have about 110; the limit keeps a hostile caller from filling the disk by length alone.
pub const MAX_EVENT_URL_BYTES: usize = 2048;

/// Where a marketplace lives: scheme, host, port, and the path its routes lie under.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl(Url);

/// Why a configured base URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BaseUrlError {
    /// It does not parse.
    #[error("is not a URL ({0}); write it like \"https://marketplace.example\"")]
    NotAUrl(url::ParseError),
    /// Neither `http` nor `https`.
    #[error("has the scheme {0:?}; it must be https, or http for a loopback address")]
    Scheme(String),
    /// It names a user, a password, a query or a fragment.
    #[error("must be scheme, host, port and path only, without user, query or fragment")]
    Extra,
}

impl BaseUrl {
    /// Reads a base URL from configuration.
    ///
    /// # Errors
    /// If it is no absolute `http` or `https` URL, or has more in it than a base may have.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        let mut url = Url::parse(text).map_err(BaseUrlError::NotAUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(BaseUrlError::Scheme(url.scheme().to_owned()));
        }
        let plain =
            url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        if !plain {
            return Err(BaseUrlError::Extra);
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }

    /// The base without a slash at its end, as it is shown and as paths are appended to it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// The path without a slash at its end: `""` for a bare host.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path().trim_end_matches('/')
    }

    /// Whether the host can only be this machine, so that nothing travels in the clear.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            None => false,
        }
    }

    /// Whether requests to it are encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether `url` has this base's scheme, host and port.
    #[must_use]
    pub fn has_origin_of(&self, url: &Url) -> bool {
        self.0.scheme() == url.scheme()
            && self.0.host() == url.host()
            && self.0.port_or_known_default() == url.port_or_known_default()
    }

    /// Whether `other` has this base's scheme, host and port.
    #[must_use]
    pub fn shares_origin_with(&self, other: &Self) -> bool {
        self.has_origin_of(&other.0)
    }

    fn contains(&self, url: &Url) -> bool {
        self.has_origin_of(url) && url.path().strip_prefix(self.path()).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Where an event's body is read, known to lie in a configured marketplace.
///
/// [`EventUrl::parse`] is the only way to make one, so no other part of the program can be talked into
/// calling a host nobody configured (G6).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventUrl {
    url: Url,
    marketplace: BaseUrl,
}

/// Why an event URL was refused. The text goes to the caller: it names the fault and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EventUrlError {
    /// Longer than [`MAX_EVENT_URL_BYTES`].
    #[error("eventUrl has {0} bytes; at most {MAX_EVENT_URL_BYTES} are accepted")]
    TooLong(usize),
    /// Holds a character no URL may hold unencoded.
    #[error("eventUrl holds the character {0:?}, which a URL must percent-encode")]
    Character(char),
    /// Not an absolute `http` or `https` URL.
    #[error("eventUrl is not an absolute http or https URL")]
    NotAbsolute,
    /// Names a user or password before the host.
    #[error("eventUrl names a user before its host; that is refused")]
    UserInfo,
    /// Has a fragment.
    #[error("eventUrl has a fragment (#…), which would never be sent")]
    Fragment,
    /// Means something else to a URL parser than it says.
    #[error("eventUrl is not in normal form (dot segments, an encoded host, an odd port or a doubled slash)")]
    NotNormal,
    /// Has no last path segment to be the event's token.
    #[error("eventUrl has no event id at the end of its path")]
    NoToken,
    /// Lies in no configured marketplace.
    #[error("eventUrl points to {0}, which is not a marketplace of this integration")]
    Foreign(String),
}

impl EventUrl {
    /// Reads the event URL of a notification against the marketplaces it may lie in.
    ///
    /// Strict on purpose: two parsers that disagree about a URL are how a request is sent somewhere nobody
    /// meant. A URL is accepted only if it already says what the parser understands, save for the case of
    /// the host and an explicit default port.
    ///
    /// # Errors
    /// One variant for each fault; see [`EventUrlError`].
    pub fn parse<'a>(text: &str, marketplaces: impl IntoIterator<Item = &'a BaseUrl>) -> Result<Self, EventUrlError> {
        if text.len() > MAX_EVENT_URL_BYTES {
            return Err(EventUrlError::TooLong(text.len()));
        }
        let refused =
            |c: &char| !c.is_ascii_graphic() || matches!(c, '\\' | '<' | '>' | '"' | '{' | '}' | '|' | '^' | '`');
        if let Some(character) = text.chars().find(refused) {
            return Err(EventUrlError::Character(character));
        }
        let (scheme, rest) = text.split_once("://").ok_or(EventUrlError::NotAbsolute)?;
        if !matches!(scheme, "http" | "https") {
            return Err(EventUrlError::NotAbsolute);
        }
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(authority_end);
        if authority.contains('@') {
            return Err(EventUrlError::UserInfo);
        }
        if tail.contains('#') {
            return Err(EventUrlError::Fragment);
        }
        let url = Url::parse(text).map_err(|_| EventUrlError::NotAbsolute)?;
        if !is_normal(&url, authority, tail) {
            return Err(EventUrlError::NotNormal);
        }
        let marketplace = marketplaces
            .into_iter()
            .find(|base| base.contains(&url))
            .ok_or_else(|| EventUrlError::Foreign(url.origin().ascii_serialization()))?
            .clone();
        let event = Self { url, marketplace };
        if event.token().is_empty() {
            return Err(EventUrlError::NoToken);
        }
        Ok(event)
    }

    /// The URL in normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// The marketplace the event lies in.
    #[must_use]
    pub const fn marketplace(&self) -> &BaseUrl {
        &self.marketplace
    }

    /// The event's id in its marketplace: the last path segment that is not empty.
    #[must_use]
    pub fn token(&self) -> &str {
        let below = self.url.path().get(self.marketplace.path().len()..).unwrap_or_default();
        below.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    /// Where the event's result is reported.
    #[must_use]
    pub fn result_url(&self) -> String {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/result", self.url.path().trim_end_matches('/')));
        url.into()
    }
}

/// Whether the parser read the URL as it is written.
fn is_normal(url: &Url, authority: &str, tail: &str) -> bool {
    let host = url.host_str().unwrap_or_default();
    let written = authority.to_ascii_lowercase();
    let default_port = if url.scheme() == "https" { ":443" } else { ":80" };
    let host_as_written = match url.port() {
        Some(port) => written == format!("{host}:{port}"),
        None => written == host || written.strip_suffix(default_port) == Some(host),
    };
    let path_as_written = match url.query() {
        Some(query) => tail == format!("{}?{query}", url.path()),
        None => tail == url.path(),
    };
    let path = url.path().to_ascii_lowercase();
    // Some servers read "..;" as "..".
    let hidden = ["//", "%2f", "%5c", "%2e", "%00", "%25", "/..;", "/.;"].iter().any(|trick| path.contains(trick));
    host_as_written && path_as_written && !hidden && !host.ends_with('.')
}

impl fmt::Display for EventUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<EventUrl, EventUrlError> {
        let bases = ["https://market.example", "http://127.0.0.1:8090", "https://shared.example:8443/store"]
            .map(|base| BaseUrl::parse(base).expect("a base URL"));
        EventUrl::parse(text, &bases)
    }

    #[test]
    fn an_event_url_of_a_configured_marketplace_is_accepted_in_normal_form() {
        for (text, normal, token) in [
            (
                "https://market.example/api/integration/v1/events/7f3a",
                "https://market.example/api/integration/v1/events/7f3a",
                "7f3a",
            ),
            ("https://MARKET.example/events/1", "https://market.example/events/1", "1"),
            ("https://market.example:443/events/1", "https://market.example/events/1", "1"),
            ("https://market.example/events/1/", "https://market.example/events/1/", "1"),
            ("https://market.example/events/1?view=full", "https://market.example/events/1?view=full", "1"),
            ("https://market.example/events/a%20b", "https://market.example/events/a%20b", "a%20b"),
            ("http://127.0.0.1:8090/events/1", "http://127.0.0.1:8090/events/1", "1"),
            ("https://shared.example:8443/store/events/1", "https://shared.example:8443/store/events/1", "1"),
        ] {
            let url = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.as_str(), url.token()), (normal, token));
        }
    }

    #[test]
    fn everything_else_is_refused_with_the_fault_by_name() {
        use EventUrlError as E;
        let foreign = |origin: &str| E::Foreign(origin.to_owned());
        for (text, fault) in [
            ("", E::NotAbsolute),
            ("/events/1", E::NotAbsolute),
            ("ftp://market.example/events/1", E::NotAbsolute),
            ("HTTPS://market.example/events/1", E::NotAbsolute),
            ("https:/market.example/events/1", E::NotAbsolute),
            ("https://market.example:99999/events/1", E::NotAbsolute),
            ("http://market.example/events/1", foreign("http://market.example")),
            ("https://evil.example/events/1", foreign("https://evil.example")),
            ("https://market.example.evil.example/events/1", foreign("https://market.example.evil.example")),
            ("https://market.example:8443/events/1", foreign("https://market.example:8443")),
            ("http://127.0.0.1/events/1", foreign("http://127.0.0.1")),
            ("http://localhost:8090/events/1", foreign("http://localhost:8090")),
            ("https://shared.example:8443/other/events/1", foreign("https://shared.example:8443")),
            ("https://shared.example:8443/storefront/events/1", foreign("https://shared.example:8443")),
            ("https://market.example@evil.example/events/1", E::UserInfo),
            ("https://user:pass@market.example/events/1", E::UserInfo),
            ("https://evil.example\\@market.example/events/1", E::Character('\\')),
            ("https://market.example/events/1#fragment", E::Fragment),
            ("https://market.example/events/../admin/1", E::NotNormal),
            ("https://market.example/events/%2e%2e/1", E::NotNormal),
            ("https://market.example/events/a%2Fb", E::NotNormal),
            ("https://market.example//events/1", E::NotNormal),
            ("https://market.example/events/..;/1", E::NotNormal),
            ("https://market.example/events/.;a=b/1", E::NotNormal),
            ("https://market.example./events/1", E::NotNormal),
            ("https://m%61rket.example/events/1", E::NotNormal),
            ("http://2130706433:8090/events/1", E::NotNormal),
            ("http://0x7f.0.0.1:8090/events/1", E::NotNormal),
            ("http://127.1:8090/events/1", E::NotNormal),
            ("http://127.0.0.1:08090/events/1", E::NotNormal),
            ("https://market.example:/events/1", E::NotNormal),
            ("https://market.example", E::NotNormal),
            ("https://market.example/", E::NoToken),
            ("https://shared.example:8443/store/", E::NoToken),
            ("https://market.example/events/a b", E::Character(' ')),
            ("https://market.example/events/1\r\nHost: evil", E::Character('\r')),
            ("https://märket.example/events/1", E::Character('ä')),
            ("https://market.example/events/{eventUrl}", E::Character('{')),
        ] {
            assert_eq!(parse(text), Err(fault), "{text}");
        }
        let long = format!("https://market.example/events/{}", "a".repeat(MAX_EVENT_URL_BYTES));
        assert_eq!(parse(&long), Err(E::TooLong(long.len())));
    }

    #[test]
    fn a_result_lies_below_its_event() {
        for (event, result) in [
            ("https://market.example/events/1", "https://market.example/events/1/result"),
            ("https://market.example/events/1/", "https://market.example/events/1/result"),
            ("https://market.example/events/1?a=b", "https://market.example/events/1/result?a=b"),
        ] {
            assert_eq!(parse(event).expect("an event URL").result_url(), result);
        }
    }
}
