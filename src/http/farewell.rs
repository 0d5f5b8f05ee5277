//! What a client is told before its connection ends, where there is no request whose answer could say it.

use std::fmt;

use actix_web::http::StatusCode;
use serde_json::json;

use super::limits::LimitExceeded;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The head has too much of something.
    LimitExceeded(LimitExceeded),
    /// What arrives is no HTTP/1.1 request.
    Malformed(Malformed),
}

/// What arrives instead of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    /// The beginning of a TLS handshake.
    Tls,
    /// The preface of HTTP/2 with prior knowledge.
    Http2,
    /// Anything else.
    Other,
}

impl Malformed {
    /// What it is that begins with `bytes`, if it turns out to be no request.
    pub(super) fn beginning_with(bytes: &[u8]) -> Self {
        match bytes {
            [0x16, 0x03, ..] => Self::Tls,
            [b'P', b'R', b'I', b' ', b'*', ..] => Self::Http2,
            _ => Self::Other,
        }
    }

    /// The name it is logged under.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls_instead_of_http",
            Self::Http2 => "http2_instead_of_http1",
            Self::Other => "malformed_request",
        }
    }
}

/// What is wrong, and what to change.
impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "this is TLS, and plain HTTP is spoken here; call http://, or put a proxy that ends TLS before it",
            Self::Http2 => "this is HTTP/2, and HTTP/1.1 is spoken here; have the proxy or the client use HTTP/1.1",
            Self::Other => {
                "the request is not well-formed HTTP/1.1, or says in two ways how long its body is; send it as RFC 9112 has it"
            }
        })
    }
}

impl Farewell {
    const fn status_code(self) -> StatusCode {
        match self {
            Self::LimitExceeded(exceeded) => exceeded.status_code(),
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LimitExceeded(exceeded) => exceeded.fmt(f),
            Self::Malformed(malformed) => malformed.fmt(f),
        }
    }
}

/// How a listener words its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wording {
    /// In plain text.
    Text,
    /// As RFC 9457 has it.
    Problem,
}

impl Wording {
    /// The whole answer that says `farewell`.
    pub(super) fn answer(self, farewell: Farewell) -> String {
        let status = farewell.status_code();
        let reason = status.canonical_reason().unwrap_or_default();
        let (kind, body) = match self {
            Self::Text => ("text/plain; charset=utf-8", format!("{farewell}\n")),
            Self::Problem => {
                let detail = farewell.to_string();
                let problem =
                    json!({ "type": "about:blank", "title": reason, "status": status.as_u16(), "detail": detail });
                ("application/problem+json", problem.to_string())
            }
        };
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}",
            status.as_u16(),
            body.len()
        )
    }
}

/// An answer that the protocol gives by itself, without a body, to what it cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bodiless {
    /// Where it begins in what is written.
    pub(super) start: usize,
    /// Whether it says that there are too many headers, and not that this is no request.
    pub(super) is_too_large: bool,
}

impl Bodiless {
    /// Finds it in what the protocol writes. It is the last of all; every other answer of ours with such a status has a
    /// body.
    pub(super) fn find(bytes: &[u8]) -> Option<Self> {
        const LONGEST_HEAD: usize = 256;
        if !bytes.ends_with(b"\r\n\r\n") {
            return None;
        }
        let tail_start = bytes.len().saturating_sub(LONGEST_HEAD);
        let tail = &bytes[tail_start..];
        let start = tail.windows(7).rposition(|window| window == b"HTTP/1.")?;
        let head = std::str::from_utf8(&tail[start..]).ok()?;
        let is_too_large = match head.get(9..12)? {
            "400" => false,
            "431" => true,
            _ => return None,
        };
        let found = Self { start: tail_start + start, is_too_large };
        head.contains("\r\ncontent-length: 0\r\n").then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocols_own_refusal_is_told_from_our_answers() {
        let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: x\r\n\r\n";
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let found = |start, is_too_large| Some(Bodiless { start, is_too_large });
        assert_eq!(Bodiless::find(refusal.as_bytes()), found(0, false));
        assert_eq!(Bodiless::find(refusal.replace("400", "431").as_bytes()), found(0, true));
        assert_eq!(Bodiless::find(format!("{answer}{refusal}").as_bytes()), found(answer.len(), false));
        for other in [
            answer,
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 17\r\n\r\n",
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
            "\r\n\r\n",
            "HTTP/1.",
        ] {
            assert_eq!(Bodiless::find(other.as_bytes()), None, "{other}");
        }
    }
}
