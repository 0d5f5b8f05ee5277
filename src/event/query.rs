use thiserror::Error;
use url::form_urlencoded;

/// Bytes of other query parameters that are kept with an event.
const MAX_PARAMETER_BYTES: usize = 2048;

/// The query of a notification: where the event lies, not checked yet, and whatever else was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationQuery {
    /// `eventUrl`, or `url` as older set-ups name it; decoded.
    pub event_url: String,
    /// The other parameters, in their order, encoded; without those that prove who is calling, which are not for
    /// keeping.
    pub parameters: String,
}

/// Why a query is no notification's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QueryError {
    /// No event URL.
    #[error("eventUrl is missing; send ?eventUrl=<percent-encoded event URL>")]
    NoEventUrl,
    /// More than one event URL.
    #[error("eventUrl is given more than once")]
    TwoEventUrls,
    /// More beside the event URL than is kept.
    #[error("the query has {0} bytes beside eventUrl; at most {MAX_PARAMETER_BYTES} are kept")]
    TooLong(usize),
}

impl NotificationQuery {
    /// Reads the query of a notification's address, as it stands behind the `?`.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let (mut event_url, mut old_name) = (None, None);
        let mut others = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "eventUrl" => &mut event_url,
                "url" => &mut old_name,
                name if is_credential(name) => continue,
                _ => {
                    others.append_pair(&name, &value);
                    continue;
                }
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(QueryError::TwoEventUrls);
            }
        }
        if let (Some(_), Some(other)) = (&event_url, &old_name) {
            others.append_pair("url", other);
        }
        let event_url = event_url.or(old_name).filter(|url| !url.is_empty()).ok_or(QueryError::NoEventUrl)?;
        let parameters = others.finish();
        if parameters.len() > MAX_PARAMETER_BYTES {
            return Err(QueryError::TooLong(parameters.len()));
        }
        Ok(Self { event_url, parameters })
    }
}

/// Whether a parameter is, or looks like, part of the caller's credentials.
fn is_credential(name: &str) -> bool {
    name.starts_with("oauth_") || name == "access_token"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_in_the_query_are_not_kept() {
        let query = "eventUrl=u&oauth_nonce=1&access_token=secret&oauth_signature=s&plan=b";
        assert_eq!(NotificationQuery::parse(query).expect("a notification's").parameters, "plan=b");
    }

    #[test]
    fn the_event_url_is_read_by_either_name_and_the_rest_is_kept() {
        for (query, url, others) in [
            ("eventUrl=https%3A%2F%2Fm%2Fe%2F1", "https://m/e/1", ""),
            ("url=https%3A%2F%2Fm%2Fe%2F1", "https://m/e/1", ""),
            ("eventUrl=https://m/e/1&lang=en&x=%20", "https://m/e/1", "lang=en&x=+"),
            ("a=b&eventUrl=https://m/e/1&url=https://other", "https://m/e/1", "a=b&url=https%3A%2F%2Fother"),
        ] {
            let read = NotificationQuery::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
            assert_eq!((read.event_url.as_str(), read.parameters.as_str()), (url, others), "{query}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_into_a_query_is_read_from_it(
            url in "\\PC{1,80}",
            others in prop::collection::vec(("[a-zA-Z]{1,8}", "\\PC{0,20}"), 0..5),
        ) {
            let others: Vec<_> = others.into_iter().filter(|(name, _)| name != "url" && name != "eventUrl").collect();
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(&others).append_pair("eventUrl", &url);
            let read = NotificationQuery::parse(&query.finish()).expect("a notification's");
            prop_assert_eq!(read.event_url, url);
            let kept: Vec<_> = form_urlencoded::parse(read.parameters.as_bytes()).into_owned().collect();
            prop_assert_eq!(kept, others);
        }
    }
}
