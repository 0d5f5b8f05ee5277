//! The `Authorization` header, where one token is all that may stand in it.

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

/// The bearer token of a request, whose scheme may be written in any case (RFC 9110 §11.1).
pub(crate) fn bearer_token(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_start())
}

/// Whether two secrets are the same, in a time that does not tell how much of them is.
pub(crate) fn is_same_secret(given: &[u8], expected: &[u8]) -> bool {
    given.ct_eq(expected).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn the_scheme_may_be_written_in_any_case_and_no_other_scheme_is_taken() {
        for (header, token) in [
            ("Bearer secret", Some("secret")),
            ("bearer secret", Some("secret")),
            ("BEARER  secret ", Some("secret")),
            ("Bearersecret", None),
            ("Basic secret", None),
            ("secret", None),
            ("Bearer", None),
        ] {
            let request = TestRequest::default().insert_header((AUTHORIZATION, header)).to_http_request();
            assert_eq!(bearer_token(&request), token, "{header}");
        }
        assert_eq!(bearer_token(&TestRequest::default().to_http_request()), None);
    }
}
