//! Which route a path means: a slash at its end, and slashes that are doubled, change nothing.

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse, Url};
use actix_web::http::Uri;
use actix_web::middleware::Next;

/// Finds the route by the path without the slashes that change nothing.
///
/// The request itself keeps its path as it was sent: that is what an OAuth 1.0 signature covers, and what the limits
/// count.
pub(super) async fn find(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if let Some(uri) = plain(request.uri()) {
        *request.match_info_mut().get_mut() = Url::new(uri);
    }
    next.call(request).await
}

/// An address with a plain path; nothing if it has one.
fn plain(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let mut plain = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !plain.ends_with('/') {
            plain.push(character);
        }
    }
    if plain.len() > 1 && plain.ends_with('/') {
        plain.pop();
    }
    if plain == path { None } else { plain.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_that_change_nothing_are_left_out() {
        for (path, expected) in [
            ("/notifications/create", None),
            ("/", None),
            ("/notifications/create/", Some("/notifications/create")),
            ("//notifications///create//", Some("/notifications/create")),
            ("//evil.example/notifications", Some("/evil.example/notifications")),
            ("//", Some("/")),
            ("/notifications%2Fcreate", None),
            ("/a%20b/", Some("/a%20b")),
        ] {
            let uri = Uri::builder().path_and_query(path).build().expect("a path");
            assert_eq!(plain(&uri).map(|uri| uri.path().to_owned()).as_deref(), expected, "{path}");
        }
    }
}
