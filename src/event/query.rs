//! The query of a notification, read leniently where no doubt is left.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use url::form_urlencoded;

use super::credential::is_credential;
use super::url::name_one_event;
use crate::printable::is_hidden;

/// Bytes of other query parameters that are kept with an event.
const MAX_PARAMETER_BYTES: usize = 2048;
/// How often an event URL may have been encoded beyond the once that it must be.
const MAX_EXTRA_ENCODINGS: usize = 3;
/// How much of a parameter's name an error repeats, in characters.
const SHOWN_NAME: usize = 40;

/// The query of a notification: where the event lies, not checked yet, and whatever else was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationQuery {
    /// `eventUrl`, or `url` as older set-ups name it; decoded.
    pub event_url: String,
    /// The other parameters, in their order, encoded; without those that prove who is calling, or look like it, which
    /// are not for keeping.
    pub parameters: String,
    /// What is wrong with how the marketplace calls us, though what it means is certain.
    pub oddity: Option<Oddity>,
}

/// A fault in the set-up at the marketplace that leaves no doubt which event is meant.
///
/// Such a notification is taken: a marketplace does not repeat it, so refusing it would leave a purchase pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// The event URL was encoded more than once.
    EncodedAgain,
    /// It was given more than once, each time the same.
    Repeated,
    /// It was given beside a placeholder or an empty value.
    BesidePlaceholder,
    /// The parameter's name is not written as it should be.
    Misnamed,
    /// The parameter was joined to the one before it by something else than `&`.
    Misjoined,
    /// White space or quotes stand around it.
    Wrapped,
}

impl Oddity {
    /// The name it is logged under.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EncodedAgain => "event_url_encoded_again",
            Self::Repeated => "event_url_repeated",
            Self::BesidePlaceholder => "event_url_beside_placeholder",
            Self::Misnamed => "event_url_misnamed",
            Self::Misjoined => "event_url_misjoined",
            Self::Wrapped => "event_url_wrapped",
        }
    }
}

/// What to change at the marketplace.
impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EncodedAgain => {
                "eventUrl was percent-encoded more than once; whoever builds the address must encode it once, and a proxy \
                 must pass the query on as it is"
            }
            Self::Repeated => {
                "eventUrl was given twice; in the marketplace, configure the URL either bare or with \
                 ?eventUrl={eventUrl}, where it adds none itself"
            }
            Self::BesidePlaceholder => {
                "eventUrl was given, and beside it a placeholder that the marketplace did not replace; in the \
                 marketplace, configure the URL without ?eventUrl={eventUrl}"
            }
            Self::Misnamed => "the event URL came under another spelling of eventUrl; in the marketplace, write eventUrl",
            Self::Misjoined => {
                "eventUrl was joined to what stands before it by ? or &amp;; in the marketplace, join it by a bare &"
            }
            Self::Wrapped => {
                "eventUrl was given with white space or quotes around it; in the marketplace, write ?eventUrl={eventUrl} \
                 and nothing around it"
            }
        })
    }
}

/// Why a query is no notification's. Each says what to change in the marketplace.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryError {
    /// No event URL.
    #[error(
        "eventUrl is missing; the marketplace must send ?eventUrl=<percent-encoded event URL>, so configure the URL there \
         bare or with ?eventUrl={{eventUrl}}{0}"
    )]
    NoEventUrl(Hint),
    /// An event URL of no length.
    #[error(
        "eventUrl is missing: it is given, and empty; in the marketplace, configure the URL bare or with ?eventUrl={{eventUrl}}, spelt like this"
    )]
    Empty,
    /// The placeholder itself.
    #[error(
        "eventUrl is the placeholder {0:?}, which the marketplace did not replace; in the marketplace, configure the URL \
         bare, or with ?eventUrl={{eventUrl}}, the braces not percent-encoded"
    )]
    Placeholder(String),
    /// More than one event URL.
    #[error(
        "eventUrl is given more than once, and not twice the same; in the marketplace, configure the URL without a \
         query of its own"
    )]
    TwoEventUrls,
    /// More beside the event URL than is kept.
    #[error("the query has {0} bytes beside eventUrl; at most {MAX_PARAMETER_BYTES} are kept")]
    TooLong(usize),
}

impl QueryError {
    /// The name it is logged under.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoEventUrl(_) => "event_url_missing",
            Self::Empty => "event_url_empty",
            Self::Placeholder(_) => "event_url_placeholder",
            Self::TwoEventUrls => "event_urls_differ",
            Self::TooLong(_) => "parameters_too_long",
        }
    }
}

/// What may have been meant to be the event URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    #[default]
    Nothing,
    /// A parameter of this name, but for its spelling, that holds no URL.
    NoUrl(String),
    /// The URL in a parameter of this name.
    OtherName(String),
    /// A URL that stands there without a name.
    Nameless,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::NoUrl(name) => write!(f, "; it sends a parameter {name:?}, which holds no URL"),
            Self::OtherName(name) => write!(f, "; it sends a parameter {name:?}, which holds a URL: name it eventUrl"),
            Self::Nameless => f.write_str("; what it sends is a URL without a name: write eventUrl= before it"),
        }
    }
}

impl Hint {
    /// What among parameters that are named otherwise is a URL.
    fn among(others: &[(Cow<'_, str>, Cow<'_, str>)]) -> Self {
        let is_url = |text: &str| is_absolute(&decoded(text).0);
        let found = others.iter().find_map(|(name, value)| {
            if is_url(name) {
                return Some(Self::Nameless);
            }
            is_url(value).then(|| Self::OtherName(name.chars().take(SHOWN_NAME).collect()))
        });
        found.unwrap_or_default()
    }
}

/// The values that may be the event URL, by how their parameter is named.
#[derive(Default)]
struct Candidates<'a> {
    proper: Vec<Cow<'a, str>>,
    old: Vec<Cow<'a, str>>,
    misnamed: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl NotificationQuery {
    /// Reads the query of a notification's address, as it stands behind the `?`.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let as_it_is = Self::read(query);
        let is_certain =
            as_it_is.as_ref().is_ok_and(|read| is_absolute(&read.event_url) && !is_joined(&read.event_url));
        if is_certain || matches!(as_it_is, Err(QueryError::TwoEventUrls | QueryError::TooLong(_))) {
            return as_it_is;
        }
        match rejoined(query).map(|query| Self::read(&query)) {
            Some(Ok(read)) if is_absolute(&read.event_url) => Ok(Self { oddity: Some(Oddity::Misjoined), ..read }),
            Some(Err(error @ QueryError::TwoEventUrls)) => Err(error),
            Some(Err(error)) if matches!(as_it_is, Err(QueryError::NoEventUrl(_))) => Err(error),
            _ => as_it_is,
        }
    }

    fn read(query: &str) -> Result<Self, QueryError> {
        let mut found = Candidates::default();
        let mut others = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "eventUrl" => found.proper.push(value),
                "url" => found.old.push(value),
                other if is_called_event_url(other) => found.misnamed.push((name, value)),
                _ => others.push((name, value)),
            }
        }
        let (event_url, oddity) = found.choose().map_err(|error| match error {
            QueryError::NoEventUrl(Hint::Nothing) => QueryError::NoEventUrl(Hint::among(&others)),
            error => error,
        })?;
        // What was not taken for the event URL is kept, but for what says the same.
        let old = found.old.into_iter().map(|value| (Cow::Borrowed("url"), value));
        others.extend(old.chain(found.misnamed).filter(|(_, value)| !name_one_event(&decoded(value).0, &event_url)));
        let mut kept = form_urlencoded::Serializer::new(String::new());
        kept.extend_pairs(others.iter().filter(|(name, value)| !is_credential(name, value)));
        let parameters = kept.finish();
        if parameters.len() > MAX_PARAMETER_BYTES {
            return Err(QueryError::TooLong(parameters.len()));
        }
        Ok(Self { event_url, parameters, oddity })
    }
}

impl Candidates<'_> {
    /// The event URL, under the best name that one was given by.
    fn choose(&self) -> Result<(String, Option<Oddity>), QueryError> {
        // Under another spelling of the name, only what is a URL is meant to be one.
        let misnamed: Vec<_> = self
            .misnamed
            .iter()
            .map(|(_, value)| value.clone())
            .filter(|value| is_absolute(&decoded(value).0))
            .collect();
        let beside = |oddity: Option<Oddity>| oddity.or(Some(Oddity::BesidePlaceholder));
        match (agreed(&self.proper), agreed(&self.old), agreed(&misnamed)) {
            (Found::One(url, oddity), _, _) => Ok((url, oddity)),
            (Found::Several, _, _) | (Found::None, Found::Several, _) | (Found::None, Found::None, Found::Several) => {
                Err(QueryError::TwoEventUrls)
            }
            (Found::None, Found::One(url, oddity), _) if self.proper.is_empty() => Ok((url, oddity)),
            (Found::None, Found::One(url, oddity), _) => Ok((url, beside(oddity))),
            (Found::None, Found::None, Found::One(url, oddity)) => Ok((url, oddity.or(Some(Oddity::Misnamed)))),
            (Found::None, Found::None, Found::None) => {
                let given = || self.proper.iter().chain(&self.old);
                if let Some(placeholder) = given().find(|value| !value.is_empty()) {
                    return Err(QueryError::Placeholder(placeholder.to_string()));
                }
                if given().next().is_some() {
                    return Err(QueryError::Empty);
                }
                let hint = self.misnamed.first().map(|(name, _)| Hint::NoUrl(name.chars().take(SHOWN_NAME).collect()));
                Err(QueryError::NoEventUrl(hint.unwrap_or_default()))
            }
        }
    }
}

/// What the values given under one name come to.
enum Found {
    None,
    One(String, Option<Oddity>),
    Several,
}

/// The one event URL that `values` name, leaving aside what names none.
fn agreed(values: &[Cow<'_, str>]) -> Found {
    let mut urls = values.iter().filter(|value| !is_placeholder(value)).map(|value| decoded(value));
    let Some((url, oddity_of_first)) = urls.next() else { return Found::None };
    let mut is_repeated = false;
    for (other, _) in urls {
        if !name_one_event(&other, &url) {
            return Found::Several;
        }
        is_repeated = true;
    }
    let is_beside = values.iter().any(|value| is_placeholder(value));
    let oddity = if is_beside {
        Some(Oddity::BesidePlaceholder)
    } else if is_repeated {
        Some(Oddity::Repeated)
    } else {
        oddity_of_first
    };
    Found::One(url.into_owned(), oddity)
}

/// Whether a value has another `eventUrl` joined to it.
fn is_joined(value: &str) -> bool {
    MARKS.iter().any(|mark| value.match_indices(mark).any(|(at, _)| is_before_event_url(&value[at + mark.len()..])))
}

/// What an `eventUrl` is joined by to what stands before it, where no `&` is: a second `?`, what stands for `&` in HTML,
/// one that was encoded, or the `;` of old.
const MARKS: [&str; 9] = ["&amp;", "&#38;", "%26amp;", "?", "%3F", "%3f", "%26", ";", "="];

fn is_before_event_url(rest: &str) -> bool {
    rest.split_once('=').is_some_and(|(name, _)| is_called_event_url(name))
}

/// A query whose `eventUrl` is a parameter of its own, where it was joined to another one; nothing if it was not.
fn rejoined(query: &str) -> Option<String> {
    // Once one stands for a separator all do.
    let mut joined = query.replace("&amp;", "&").replace("&#38;", "&");
    for mark in MARKS {
        while let Some((at, _)) =
            joined.match_indices(mark).find(|(at, _)| is_before_event_url(&joined[at + mark.len()..]))
        {
            joined.replace_range(at..at + mark.len(), "&");
        }
    }
    (joined != query).then_some(joined)
}

/// A value without what may stand around a URL and is no part of it.
fn unwrapped(value: &str) -> &str {
    let is_around = |c: char| c.is_whitespace() || is_hidden(c);
    let bare = value.trim_matches(is_around);
    let pairs = [('"', '"'), ('\'', '\''), ('<', '>')];
    let inner = pairs.iter().find_map(|(open, close)| bare.strip_prefix(*open)?.strip_suffix(*close));
    inner.map_or(bare, |inner| inner.trim_matches(is_around))
}

/// An event URL without what stands around it, as it was before it was encoded more than once; and what was odd. A value
/// is only decoded while its scheme is still encoded: then nothing else can be meant.
fn decoded(value: &str) -> (Cow<'_, str>, Option<Oddity>) {
    let bare = unwrapped(value);
    let mut url = Cow::Borrowed(bare);
    for _ in 0..MAX_EXTRA_ENCODINGS {
        if !has_encoded_scheme(&url) {
            break;
        }
        let Ok(once) = percent_decode_str(&url).decode_utf8() else { break };
        url = Cow::Owned(once.into_owned());
    }
    if !is_absolute(&url) {
        // What is still no URL is shown as it came.
        return (Cow::Borrowed(value), None);
    }
    let oddity = if is_absolute(bare) {
        (bare.len() != value.len()).then_some(Oddity::Wrapped)
    } else {
        Some(Oddity::EncodedAgain)
    };
    (url, oddity)
}

fn is_absolute(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| is_web(scheme))
}

/// Whether `text` begins like `https%3A`, or `https%253A`, and so on.
fn has_encoded_scheme(text: &str) -> bool {
    text.split_once('%').is_some_and(|(scheme, rest)| {
        let colon = rest.trim_start_matches("25");
        is_web(scheme) && colon.get(..2).is_some_and(|colon| colon.eq_ignore_ascii_case("3a"))
    }) || text.split_once(':').is_some_and(|(scheme, rest)| {
        let slash = rest.strip_prefix('%').map(|rest| rest.trim_start_matches("25")).and_then(|rest| rest.get(..2));
        is_web(scheme) && slash.is_some_and(|slash| slash.eq_ignore_ascii_case("2f"))
    })
}

fn is_web(scheme: &str) -> bool {
    ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

/// Whether a value names no event: it is empty, or what a template leaves where it has nothing to put in, or the placeholder
/// for an event URL that was not replaced, in whatever brackets and however encoded.
fn is_placeholder(value: &str) -> bool {
    const BRACKETS: [char; 14] = ['{', '}', '$', '[', ']', '<', '>', '(', ')', '%', ':', '"', '\'', ' '];
    const NOTHING: [&str; 5] = ["url", "null", "undefined", "none", "nil"];
    if is_absolute(unwrapped(value)) {
        return false;
    }
    let decoded = percent_decode_str(value).decode_utf8_lossy();
    let decoded = percent_decode_str(&decoded).decode_utf8_lossy();
    let given = decoded.trim();
    let bare = given.trim_matches(BRACKETS);
    let is_in_brackets = given.starts_with(['{', '$', '[', '<', '(', '%'])
        && bare.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '$'));
    bare.is_empty()
        || is_in_brackets
        || is_called_event_url(bare)
        || NOTHING.iter().any(|nothing| bare.eq_ignore_ascii_case(nothing))
}

/// Whether a name is `eventUrl`, but for case and separators.
fn is_called_event_url(name: &str) -> bool {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).eq("eventurl".chars())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_in_the_query_are_not_kept() {
        for secret in [
            "oauth_nonce=1",
            "access_token=s",
            "oauth_signature=s",
            "token=s",
            "TOKEN=s",
            "api_key=s",
            "api%5Fkey=s",
            "apiKey=s",
            "sig=s",
            "X-Amz-Signature=s",
            "client-secret=s",
            "user%5Bpassword%5D=s",
            "code=s",
            "jwt=s",
            "x=eyJhbGciOiJub25lIn0.e30.",
            "back=https%3A%2F%2Fp%2F%3Fkey%3Ds",
            "url=https%3A%2F%2Fu%3Ap%40other%2F",
        ] {
            for query in [
                format!("eventUrl=https://m/e/1&{secret}&plan=b&applicationUuid=06ea7f9d"),
                format!("{secret}&plan=b&applicationUuid=06ea7f9d&eventUrl=https://m/e/1"),
            ] {
                let read = NotificationQuery::parse(&query).expect("a notification's");
                assert_eq!(read.parameters, "plan=b&applicationUuid=06ea7f9d", "{query}");
            }
        }
    }

    #[test]
    fn the_event_url_is_read_by_either_name_and_the_rest_is_kept() {
        for (query, url, others) in [
            ("eventUrl=https%3A%2F%2Fm%2Fe%2F1", "https://m/e/1", ""),
            ("url=https%3A%2F%2Fm%2Fe%2F1", "https://m/e/1", ""),
            ("eventUrl=https://m/e/1&lang=en&x=%20", "https://m/e/1", "lang=en&x=+"),
            ("a=b&eventUrl=https://m/e/1&url=https://other", "https://m/e/1", "a=b&url=https%3A%2F%2Fother"),
            ("eventUrl=https://m/e/1%3Fa=b%252Fc", "https://m/e/1?a=b%2Fc", ""),
        ] {
            let read = NotificationQuery::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
            assert_eq!(
                (read.event_url.as_str(), read.parameters.as_str(), read.oddity),
                (url, others, None),
                "{query}"
            );
        }
    }

    #[test]
    fn a_wrong_set_up_that_leaves_no_doubt_is_taken_and_named() {
        for (query, oddity) in [
            ("eventUrl=https%253A%252F%252Fm%252Fe%252F1", Oddity::EncodedAgain),
            ("eventUrl=https%25253a%25252f%25252fm%25252fe%25252f1", Oddity::EncodedAgain),
            ("eventUrl=https:%252F%252Fm%252Fe%252F1", Oddity::EncodedAgain),
            ("url=HTTPS%253A%252F%252Fm%252Fe%252F1", Oddity::EncodedAgain),
            ("eventUrl=https://m/e/1&eventUrl=https%3A%2F%2Fm%2Fe%2F1", Oddity::Repeated),
            ("eventUrl=https://m/e/1&eventUrl=https%253A%252F%252Fm%252Fe%252F1", Oddity::Repeated),
            ("eventUrl={eventUrl}&eventUrl=https://m/e/1", Oddity::BesidePlaceholder),
            ("eventUrl=https://m/e/1&eventUrl=%257BeventUrl%257D", Oddity::BesidePlaceholder),
            ("eventUrl=&eventUrl=https://m/e/1", Oddity::BesidePlaceholder),
            ("eventUrl=%7BeventUrl%7D&url=https://m/e/1", Oddity::BesidePlaceholder),
            ("eventurl=https://m/e/1", Oddity::Misnamed),
            ("event_url=https://m/e/1", Oddity::Misnamed),
            ("eventUrl=https://m/e/1&eventUrl=https://m/e/1/", Oddity::Repeated),
            ("eventUrl=https://m/e/1&eventUrl=https://M:443/e/%31", Oddity::Repeated),
            ("eventUrl=https://m/e/1&eventUrl=null", Oddity::BesidePlaceholder),
            ("eventUrl=%20https://m/e/1", Oddity::Wrapped),
            ("eventUrl=https://m/e/1%0D%0A", Oddity::Wrapped),
            ("eventUrl=%22https://m/e/1%22", Oddity::Wrapped),
            ("url='https://m/e/1'+", Oddity::Wrapped),
            ("eventUrl=%3Chttps://m/e/1%3E", Oddity::Wrapped),
            ("eventUrl=+https%253A%252F%252Fm%252Fe%252F1", Oddity::EncodedAgain),
        ] {
            let read = NotificationQuery::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
            let url = read.event_url.to_ascii_lowercase();
            assert_eq!(
                (url.as_str(), read.parameters.as_str(), read.oddity),
                ("https://m/e/1", "", Some(oddity)),
                "{query}"
            );
        }
    }

    #[test]
    fn an_event_url_that_was_not_joined_by_a_bare_ampersand_is_found_and_what_stands_before_it_is_kept() {
        for query in [
            "lang=en?eventUrl=https://m/e/1%3Fa=b",
            "lang=en%3FeventUrl=https://m/e/1%3Fa=b",
            "lang=en&amp;eventUrl=https://m/e/1%3Fa=b",
            "lang=en?event_url=https%3A%2F%2Fm%2Fe%2F1%3Fa%3Db",
            "lang=en%26eventUrl=https://m/e/1%3Fa=b",
            "lang=en;eventUrl=https://m/e/1%3Fa=b",
            "lang=en&#38;eventUrl=https://m/e/1%3Fa=b",
            "lang=en&amp;code=s3cret&amp;eventUrl=https://m/e/1%3Fa=b",
            "lang=en&eventUrl={eventUrl}?eventUrl=https://m/e/1%3Fa=b",
            "lang=en&eventUrl=?eventUrl=https://m/e/1%3Fa=b",
            "lang=en&eventUrl=&amp;eventUrl=https://m/e/1%3Fa=b",
            "lang=en&eventUrl=%7BeventUrl%7D&amp;eventUrl=https://m/e/1%3Fa=b",
            "lang=en&eventUrl=eventUrl=https://m/e/1%3Fa=b",
        ] {
            let read = NotificationQuery::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
            let expected = ("https://m/e/1?a=b", "lang=en", Some(Oddity::Misjoined));
            assert_eq!((read.event_url.as_str(), read.parameters.as_str(), read.oddity), expected, "{query}");
        }
        let certain = "eventUrl=https://m/e/1&back=x?eventUrl=https://m/e/2";
        assert_eq!(NotificationQuery::parse(certain).map(|read| read.oddity), Ok(None));
    }

    #[test]
    fn a_wrong_set_up_that_names_no_event_is_refused_by_its_name() {
        for (query, name) in [
            ("", "event_url_missing"),
            ("lang=en", "event_url_missing"),
            ("EVENTURL=x", "event_url_missing"),
            ("eventUrl", "event_url_empty"),
            ("eventUrl=", "event_url_empty"),
            ("eventUrl=&url=", "event_url_empty"),
            ("url=", "event_url_empty"),
            ("eventUrl={eventUrl}", "event_url_placeholder"),
            ("eventUrl=%7BeventUrl%7D", "event_url_placeholder"),
            ("eventUrl=%257BeventUrl%257D", "event_url_placeholder"),
            ("eventUrl=${eventUrl}", "event_url_placeholder"),
            ("eventUrl=%7Bevent_url%7D&eventUrl=", "event_url_placeholder"),
            ("url=%7Burl%7D", "event_url_placeholder"),
            ("eventUrl={0}", "event_url_placeholder"),
            ("eventUrl=$1", "event_url_placeholder"),
            ("eventUrl=%25s", "event_url_placeholder"),
            ("eventUrl=null", "event_url_placeholder"),
            ("eventUrl=undefined", "event_url_placeholder"),
            ("eventUrl=%7Bevent.url%7D", "event_url_placeholder"),
            ("lang=en?eventUrl={eventUrl}", "event_url_placeholder"),
            ("lang=en?eventUrl=https://m/e/1&amp;eventUrl=https://m/e/2", "event_urls_differ"),
            ("eventUrl=https://m/e/1&eventUrl=https://m/e/2", "event_urls_differ"),
            ("url=https://m/e/1&url=https://m/e/2", "event_urls_differ"),
        ] {
            let error = NotificationQuery::parse(query).expect_err("no notification's");
            assert_eq!(error.name(), name, "{query}");
            assert!(error.to_string().contains("marketplace"), "{error}");
        }
        let hint = NotificationQuery::parse("EVENTURL=x").expect_err("no notification's").to_string();
        assert!(hint.contains("\"EVENTURL\""), "{hint}");
        for (query, hint) in [
            ("lang=en&event=https%3A%2F%2Fm%2Fe%2F1", "\"event\", which holds a URL"),
            ("event=https%253A%252F%252Fm%252Fe%252F1", "\"event\", which holds a URL"),
            ("https://m/e/1", "a URL without a name"),
            ("https%3A%2F%2Fm%2Fe%2F1%3Fsig%3Ds3cret&x=1", "a URL without a name"),
        ] {
            let error = NotificationQuery::parse(query).expect_err("no notification's").to_string();
            assert!(error.contains(hint) && !error.contains("s3cret"), "{query}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_into_a_query_is_read_from_it(
            url in "https://\\PC{1,80}",
            others in prop::collection::vec(("[a-zA-Z]{1,8}", "\\PC{0,20}"), 0..5),
        ) {
            let others: Vec<_> = others.into_iter().filter(|(name, _)| name != "url" && !is_called_event_url(name)).collect();
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(&others).append_pair("eventUrl", &url);
            let read = NotificationQuery::parse(&query.finish()).expect("a notification's");
            prop_assert_eq!(read.event_url, url.trim_matches(|c: char| c.is_whitespace() || is_hidden(c)));
            let kept: Vec<_> = form_urlencoded::parse(read.parameters.as_bytes()).into_owned().collect();
            let others: Vec<_> = others.into_iter().filter(|(name, value)| !is_credential(name, value)).collect();
            prop_assert_eq!(kept, others);
        }
    }
}
