//! Event URLs and the marketplaces they lie in.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::{Host, Url};

use super::credential::is_credential;
use super::spelling::{has_whole_escapes, spelt_plainly};
use crate::printable::is_hidden;

/// The longest event URL that is accepted, in bytes.
///
/// Real ones have about 110; the limit keeps a hostile caller from filling the disk by length alone.
pub const MAX_EVENT_URL_BYTES: usize = 2048;

/// Bytes of a refused URL that are shown, which is no more than is needed to see where it leads.
const MAX_SHOWN_BYTES: usize = 200;

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
        let path = spelt_plainly(url.path());
        url.set_path(path.trim_end_matches('/'));
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

    /// Whether `url`, which has this base's origin, lies in it.
    fn contains(&self, url: &Url) -> bool {
        url.path().strip_prefix(self.path()).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether some server may read `url`, which has this base's origin, as lying in it.
    fn may_contain(&self, url: &Url) -> bool {
        let segments = |path: &str| -> Vec<String> {
            path.split('/').map(read_loosely).filter(|segment| !segment.is_empty()).collect()
        };
        segments(url.path()).starts_with(&segments(self.path()))
    }

    /// Where among `bases` `url` lies.
    fn find<'a>(bases: impl IntoIterator<Item = &'a Self>, url: &Url) -> Place<'a> {
        let mut place = Place { innermost: None, ambiguous: None };
        let is_deeper =
            |base: &Self, than: Option<&Self>| than.is_none_or(|than| base.path().len() > than.path().len());
        for base in bases.into_iter().filter(|base| base.has_origin_of(url)) {
            if base.contains(url) {
                if is_deeper(base, place.innermost) {
                    place.innermost = Some(base);
                }
            } else if is_deeper(base, place.ambiguous) && base.may_contain(url) {
                place.ambiguous = Some(base);
            }
        }
        place
    }
}

/// Where a URL lies among configured bases.
struct Place<'a> {
    /// Of bases that lie in each other, the innermost.
    ///
    /// `http://market.example` and `http://market.example/store` may be two marketplaces, and a token of the first is
    /// not for the second (G6).
    innermost: Option<&'a BaseUrl>,
    /// The deepest of those that it lies in for a server that ignores case or path parameters.
    ambiguous: Option<&'a BaseUrl>,
}

impl<'a> Place<'a> {
    /// The base, deeper than `base`, that some servers would take the URL to lie in.
    fn ambiguous_within(&self, base: &BaseUrl) -> Option<&'a BaseUrl> {
        self.ambiguous.filter(|ambiguous| ambiguous.path().len() > base.path().len())
    }
}

/// A segment of a path as the most lenient server reads it: in any case, without parameters behind a `;`, without white
/// space or dots around it, and without what nobody sees. One that nothing is left of is left out.
fn read_loosely(segment: &str) -> String {
    let decoded = percent_decode_str(segment).decode_utf8_lossy();
    let bare = decoded.split(';').next().unwrap_or_default();
    let seen: String = bare.chars().filter(|c| !is_hidden(*c)).collect();
    seen.trim_matches(|c: char| c == '.' || c.is_whitespace()).to_lowercase()
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
/// [`EventUrl::parse`] and [`EventUrl::parse_among`] are the only ways to make one, so no other part of the program can
/// be talked into calling a host nobody configured (G6).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventUrl {
    /// As it is called: spelt plainly, but with the slash at its end that it was given with, since some servers route
    /// by it.
    url: Url,
    /// As a parser reads what was given, which earlier releases made the event's id of; where that is another name.
    former_identity: Option<String>,
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
    #[error("eventUrl is not an absolute http or https URL; send one like https://marketplace.example/api/events/1")]
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
    /// Has a `%` that encodes nothing.
    #[error("eventUrl has a % that is not followed by two hexadecimal digits; a % itself is written %25")]
    Escape,
    /// Lies in a marketplace of another integration, which lies within one of this integration's.
    #[error("eventUrl lies in {0}, which is a marketplace of another integration")]
    OtherIntegration(String),
    /// Lies in an inner marketplace for some servers, and not for us.
    #[error("eventUrl may be read as lying in {0}; the marketplace must write its path as that address has it")]
    Ambiguous(String),
    /// Has no last path segment to be the event's token.
    #[error("eventUrl has no event id at the end of its path")]
    NoToken,
    /// Lies in no configured marketplace.
    #[error(
        "eventUrl points to {0}, which lies in no marketplace of this integration; correct the marketplace's base_url here, or \
         the address there"
    )]
    Foreign(String),
}

impl EventUrl {
    /// Reads the event URL of a notification against the marketplaces it may lie in.
    ///
    /// Strict on purpose: two parsers that disagree about a URL are how a request is sent somewhere nobody
    /// meant. A URL is accepted only if it already says what the parser understands, save for what RFC 3986 §6.2 calls
    /// equivalent: the case of scheme and host, an explicit default port, unreserved characters that are
    /// percent-encoded, and the case of the digits that encode others.
    ///
    /// # Errors
    /// One variant for each fault; see [`EventUrlError`].
    pub fn parse<'a>(text: &str, marketplaces: impl IntoIterator<Item = &'a BaseUrl>) -> Result<Self, EventUrlError> {
        Self::parse_among(text, marketplaces, [])
    }

    /// As [`EventUrl::parse`], where `others` are the marketplaces of every integration: an event that lies in one of
    /// those, within a marketplace of this integration, is refused. It would be read with a token of the wrong one.
    ///
    /// # Errors
    /// One variant for each fault; see [`EventUrlError`].
    pub fn parse_among<'a, 'b>(
        text: &str,
        marketplaces: impl IntoIterator<Item = &'a BaseUrl>,
        others: impl IntoIterator<Item = &'b BaseUrl>,
    ) -> Result<Self, EventUrlError> {
        let given = read(text)?;
        let (url, former_identity) = match spelt_otherwise(&given) {
            Some(plain) => (plain, Some(String::from(given))),
            None if given.path().ends_with('/') => (given.clone(), Some(given.into())),
            None => (given, None),
        };
        let foreign = || {
            let place = format!("{}{}", url.origin().ascii_serialization(), url.path());
            let place = shown_event_url(&place);
            EventUrlError::Foreign(place[..place.floor_char_boundary(MAX_SHOWN_BYTES)].to_owned())
        };
        let place = BaseUrl::find(marketplaces, &url);
        let marketplace = place.innermost.ok_or_else(foreign)?.clone();
        if let Some(inner) = place.ambiguous_within(&marketplace) {
            return Err(EventUrlError::Ambiguous(inner.to_string()));
        }
        let among_all = BaseUrl::find(others, &url);
        let of_other = among_all.innermost.filter(|other| other.path().len() > marketplace.path().len());
        if let Some(other) = of_other.or_else(|| among_all.ambiguous_within(&marketplace)) {
            return Err(EventUrlError::OtherIntegration(other.to_string()));
        }
        let former_identity = former_identity.filter(|former| without_slash(&url) != former.as_str());
        let event = Self { url, former_identity, marketplace };
        if event.token().is_empty() {
            return Err(EventUrlError::NoToken);
        }
        Ok(event)
    }

    /// The URL as it is called and stored. It may hold a credential in its query: to be shown, use `Display`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// What names the event: the same for every spelling of its URL (G2).
    pub(super) fn identity(&self) -> Cow<'_, str> {
        without_slash(&self.url)
    }

    /// What named the event in releases that told spellings apart, if it is not what names it now.
    pub(super) fn former_identity(&self) -> Option<&str> {
        self.former_identity.as_deref()
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

/// Reads a URL that says what a parser understands.
fn read(text: &str) -> Result<Url, EventUrlError> {
    if text.len() > MAX_EVENT_URL_BYTES {
        return Err(EventUrlError::TooLong(text.len()));
    }
    let is_refused = |byte: u8| !byte.is_ascii_graphic() || b"\\<>\"{}|^`".contains(&byte);
    if let Some(place) = text.bytes().position(is_refused)
        && let Some(character) = text[place..].chars().next()
    {
        return Err(EventUrlError::Character(character));
    }
    let (scheme, rest) = text.split_once("://").ok_or(EventUrlError::NotAbsolute)?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
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
    if !has_whole_escapes(tail) {
        return Err(EventUrlError::Escape);
    }
    let url = Url::parse(text).map_err(|_| EventUrlError::NotAbsolute)?;
    if is_normal(&url, authority, tail) { Ok(url) } else { Err(EventUrlError::NotNormal) }
}

/// The same URL in the one spelling of RFC 3986 §6.2.2, without an empty query; nothing if it is spelt so.
fn spelt_otherwise(url: &Url) -> Option<Url> {
    if !url.as_str().contains(['%', '?']) {
        return None;
    }
    let mut plain = url.clone();
    plain.set_path(&spelt_plainly(url.path()));
    plain.set_query(url.query().filter(|query| !query.is_empty()).map(spelt_plainly).as_deref());
    (plain != *url).then_some(plain)
}

/// A URL without a slash at the end of its path.
fn without_slash(url: &Url) -> Cow<'_, str> {
    let Some(path) = url.path().strip_suffix('/').filter(|path| !path.is_empty()) else {
        return Cow::Borrowed(url.as_str());
    };
    let mut bare = url.clone();
    bare.set_path(path);
    Cow::Owned(bare.into())
}

/// Whether two texts are URLs of one event.
pub(super) fn name_one_event(one: &str, other: &str) -> bool {
    one == other || stored_identity(one).is_some_and(|one| stored_identity(other) == Some(one))
}

/// What names the event whose URL is stored as `event_url`; nothing if that is no URL.
pub(super) fn stored_identity(event_url: &str) -> Option<String> {
    let given = Url::parse(event_url).ok()?;
    let url = spelt_otherwise(&given).unwrap_or(given);
    Some(without_slash(&url).into_owned())
}

/// An event URL to be shown: what looks like a credential in its query, or in the parameters of its path, is left out
/// (G11).
#[must_use]
pub fn shown_event_url(event_url: &str) -> Cow<'_, str> {
    let (path, query) = event_url.split_once('?').map_or((event_url, None), |(path, query)| (path, Some(query)));
    let mut shown = String::with_capacity(event_url.len());
    for (number, segment) in path.split('/').enumerate() {
        if number > 0 {
            shown.push('/');
        }
        let (name, parameters) = segment.split_at(parameter_in(segment).unwrap_or(segment.len()));
        shown.push_str(name);
        let mut rest = parameters;
        while !rest.is_empty() {
            let separator = if rest.starts_with(';') { 1 } else { ENCODED_SEMICOLON.len() };
            let end = parameter_in(&rest[separator..]).map_or(rest.len(), |next| separator + next);
            shown.push_str(&rest[..separator]);
            shown.push_str(&shown_pair(&rest[separator..end]));
            rest = &rest[end..];
        }
    }
    if let Some(query) = query {
        for (number, pair) in query.split('&').enumerate() {
            shown.push(if number == 0 { '?' } else { '&' });
            shown.push_str(&shown_pair(pair));
        }
    }
    if shown == event_url { Cow::Borrowed(event_url) } else { Cow::Owned(shown) }
}

const ENCODED_SEMICOLON: &str = "%3b";

/// Where in a segment of a path its next parameter begins, with a semicolon in whatever spelling.
fn parameter_in(segment: &str) -> Option<usize> {
    let encoded = segment.as_bytes().windows(ENCODED_SEMICOLON.len());
    let encoded = encoded.into_iter().position(|escape| escape.eq_ignore_ascii_case(ENCODED_SEMICOLON.as_bytes()));
    segment.find(';').into_iter().chain(encoded).min()
}

/// A name and its value, without the value if that may be a credential.
fn shown_pair(pair: &str) -> Cow<'_, str> {
    let read = url::form_urlencoded::parse(pair.as_bytes()).next();
    if !read.is_some_and(|(name, value)| is_credential(&name, &value)) {
        return Cow::Borrowed(pair);
    }
    // What stands without a name is the credential itself.
    pair.split_once('=').map_or("[not shown]".into(), |(name, _)| format!("{name}=[not shown]").into())
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
        f.write_str(&shown_event_url(self.as_str()))
    }
}

impl fmt::Debug for EventUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventUrl")
            .field("url", &self.to_string())
            .field("marketplace", &self.marketplace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::EventId;

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
            ("HTTPS://market.example/events/1", "https://market.example/events/1", "1"),
            ("https://market.example/%65vents/%31?", "https://market.example/events/1", "1"),
            (
                "https://market.example/events/a%c3%a9?q=%7e%2f",
                "https://market.example/events/a%C3%A9?q=~%2F",
                "a%C3%A9",
            ),
            ("https://shared.example:8443/%73tore/events/1", "https://shared.example:8443/store/events/1", "1"),
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
            ("https:/market.example/events/1", E::NotAbsolute),
            ("https://market.example:99999/events/1", E::NotAbsolute),
            ("http://market.example/events/1", foreign("http://market.example/events/1")),
            ("https://evil.example/events/1", foreign("https://evil.example/events/1")),
            ("https://market.example.evil.example/events/1", foreign("https://market.example.evil.example/events/1")),
            ("https://market.example:8443/events/1", foreign("https://market.example:8443/events/1")),
            ("http://127.0.0.1/events/1", foreign("http://127.0.0.1/events/1")),
            ("http://localhost:8090/events/1", foreign("http://localhost:8090/events/1")),
            ("https://shared.example:8443/other/events/1", foreign("https://shared.example:8443/other/events/1")),
            (
                "https://shared.example:8443/storefront/events/1",
                foreign("https://shared.example:8443/storefront/events/1"),
            ),
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
            ("https://market.example/events/1%", E::Escape),
            ("https://market.example/events/%6%31", E::Escape),
            ("https://market.example/events/1?q=100%&x=1", E::Escape),
        ] {
            assert_eq!(parse(text), Err(fault), "{text}");
        }
        let long = format!("https://market.example/events/{}", "a".repeat(MAX_EVENT_URL_BYTES));
        assert_eq!(parse(&long), Err(E::TooLong(long.len())));
    }

    #[test]
    fn of_marketplaces_that_lie_in_each_other_the_innermost_is_meant() {
        let base = |text: &str| BaseUrl::parse(text).expect("a base URL");
        let (outer, inner) = (base("http://h.localhost"), base("http://H.localhost:80/%73tore/"));
        assert_eq!(inner.as_str(), "http://h.localhost/store");
        for (event, lies_in) in [
            ("http://h.localhost/events/1", &outer),
            ("http://h.localhost/store/events/1", &inner),
            ("http://h.localhost:80/%73tore/events/1", &inner),
            ("http://h.localhost/storefront/events/1", &outer),
        ] {
            for bases in [[&outer, &inner], [&inner, &outer]] {
                assert_eq!(EventUrl::parse(event, bases).expect("an event URL").marketplace(), lies_in, "{event}");
            }
            let of_outer = EventUrl::parse_among(event, [&outer], [&outer, &inner]);
            assert_eq!(of_outer.is_ok(), lies_in == &outer, "{event} with the outer one's token");
            let of_inner = EventUrl::parse_among(event, [&inner], [&outer, &inner]);
            assert_eq!(of_inner.is_ok(), lies_in == &inner, "{event} with the inner one's token");
        }
        for event in [
            "http://h.localhost/STORE/events/1",
            "http://h.localhost/%53tore/events/1",
            "http://h.localhost/store;v=1/events/1",
            "http://h.localhost/store;/events/1",
            "http://h.localhost/store%3Bv/events/1",
            "http://h.localhost/store./events/1",
            "http://h.localhost/%20store/events/1",
            "http://h.localhost/store%0A/events/1",
            "http://h.localhost/;a=b/store/events/1",
            "http://h.localhost/%E2%80%8Bstore/events/1",
        ] {
            for bases in [[&outer, &inner], [&inner, &outer]] {
                let ambiguous = Err(EventUrlError::Ambiguous(inner.to_string()));
                assert_eq!(EventUrl::parse(event, bases), ambiguous, "{event}");
                let of_other = Err(EventUrlError::OtherIntegration(inner.to_string()));
                assert_eq!(EventUrl::parse_among(event, [&outer], bases), of_other, "{event}");
            }
            assert!(EventUrl::parse(event, [&outer]).is_ok(), "{event} where nothing lies within");
            assert!(matches!(EventUrl::parse(event, [&inner]), Err(EventUrlError::Foreign(_))), "{event}");
        }
        let twin = EventUrl::parse_among("http://h.localhost/events/1", [&outer], [&outer, &outer]);
        assert!(twin.is_ok(), "two integrations may be of one marketplace");
    }

    #[test]
    fn what_looks_like_a_credential_is_called_and_not_shown() {
        let url = parse("https://market.example/events/1?view=full&Sig=s3cret&x=eyJh.eyJi.c").expect("an event URL");
        assert!(url.as_str().contains("s3cret"));
        let shown = "https://market.example/events/1?view=full&Sig=[not shown]&x=[not shown]";
        assert_eq!(url.to_string(), shown);
        assert!(!format!("{url:?}").contains("s3cret"));
        for (event, shown) in [
            ("/ev;v=2/j1;jsessionid=s3cret?view=full", "/ev;v=2/j1;jsessionid=[not shown]?view=full"),
            ("/ev;sid=s3cret;v=2/j1", "/ev;sid=[not shown];v=2/j1"),
            ("/ev/j1%3Bjsessionid=s3cret", "/ev/j1%3Bjsessionid=[not shown]"),
            ("/ev/j1%3bjsessionid%3Ds3cret;v=2", "/ev/j1%3b[not shown];v=2"),
            ("/ev/j1;eyJh.eyJi.s3cret", "/ev/j1;[not shown]"),
            ("/ev/j1?a=b;sid=s3cret&v=2", "/ev/j1?a=[not shown]&v=2"),
            ("/ev/é%3", "/ev/é%3"),
            ("", ""),
        ] {
            assert_eq!(shown_event_url(event), shown);
        }
    }

    /// A segment of a path, or a part of a query, as the characters it says.
    fn text(alphabet: &'static str) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(alphabet.chars().collect::<Vec<_>>()), 1..12)
            .prop_map(|characters| characters.into_iter().collect())
    }

    /// Some spelling of `text`: unreserved characters encoded or not, escapes in either case.
    fn spelt(text: &str, choices: &[u8]) -> String {
        let mut choices = choices.iter().cycle();
        let spell = |c: char| {
            let choice = choices.next().copied().unwrap_or_default();
            let is_unreserved = c.is_ascii_alphanumeric() || "-_~".contains(c);
            if is_unreserved && choice < 2 || "!$'()*+,;=:@/?&".contains(c) {
                return c.to_string();
            }
            let mut bytes = [0; 4];
            let encoded = c.encode_utf8(&mut bytes).bytes();
            encoded.map(|byte| if choice % 2 == 0 { format!("%{byte:02X}") } else { format!("%{byte:02x}") }).collect()
        };
        text.chars().map(spell).collect()
    }

    type Said = (Vec<String>, Option<String>);

    fn said() -> impl Strategy<Value = Said> {
        let segments = prop::collection::vec(text("abzAZ09-_~ é\u{1F514}!$()*,=:@"), 1..4);
        (segments, prop::option::of(text("abzAZ09-_~ é!$()*,=:@&/?")))
    }

    fn spelling((segments, query): &Said, choices: &[u8]) -> String {
        let pick = |at: usize| choices.get(at).copied().unwrap_or_default();
        let segments: Vec<_> = segments.iter().map(|segment| spelt(segment, choices)).collect();
        let scheme = ["https", "HTTPS", "Https", "https"][usize::from(pick(0)) % 4];
        let host =
            ["market.example", "MARKET.example", "market.example:443", "Market.Example:443"][usize::from(pick(1)) % 4];
        let query = match query {
            Some(query) => format!("?{}", spelt(query, choices)),
            None => ["", "?"][usize::from(pick(2)) % 2].to_owned(),
        };
        format!("{scheme}://{host}/events/{}{}{query}", segments.join("/"), ["", "/"][usize::from(pick(3)) % 2])
    }

    proptest! {
        #[test]
        fn all_spellings_of_one_url_are_one_event_and_different_urls_are_never(
            one in said(),
            other in said(),
            choices in prop::collection::vec(0_u8..4, 4..40),
            others in prop::collection::vec(0_u8..4, 4..40),
        ) {
            let read = |said: &Said, choices: &[u8]| {
                let text = spelling(said, choices);
                parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
            };
            let id = |url: &EventUrl| EventId::of("default", url);
            let (first, second) = (read(&one, &choices), read(&one, &others));
            prop_assert_eq!(id(&first), id(&second));
            prop_assert_eq!(stored_identity(first.as_str()), Some(first.identity().into_owned()));
            prop_assert_eq!(id(&parse(first.as_str()).expect("an event URL")), id(&first));
            prop_assert_eq!(id(&first) == id(&read(&other, &others)), one == other);
        }
    }

    #[test]
    fn an_event_that_an_earlier_release_named_by_its_spelling_is_found_by_that_name() {
        for (spelling, is_new) in [
            ("https://market.example/events/1", false),
            ("https://MARKET.example:443/events/1", false),
            ("https://market.example/events/1?view=full", false),
            ("https://market.example/events/1/", true),
            ("https://market.example/events/%31", true),
            ("https://market.example/events/1?", true),
        ] {
            let url = parse(spelling).expect("an event URL");
            let former = EventId::former("default", &url);
            assert_eq!(former.is_some(), is_new, "{spelling}");
            let stored = url.former_identity().unwrap_or(url.as_str());
            assert_eq!(former, is_new.then(|| EventId::named("default", stored)), "{spelling}");
            assert!(former.is_none_or(|former| former.is_of("default", stored)), "its record is still its own");
            assert!(EventId::of("default", &url).is_of("default", url.as_str()));
            assert!(!EventId::of("other", &url).is_of("default", url.as_str()));
        }
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
