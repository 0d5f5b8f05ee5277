//! Whom a request comes from, behind proxies that are trusted.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::HttpRequest;
use ipnet::IpNet;

/// Tells the addresses of clients, as far as proxies are trusted to name them.
pub(crate) struct ClientAddresses {
    trusted_proxies: Vec<IpNet>,
    /// Whether the operator was told of a proxy that is not trusted.
    has_warned: AtomicBool,
}

impl ClientAddresses {
    pub(crate) const fn new(trusted_proxies: Vec<IpNet>) -> Self {
        Self { trusted_proxies, has_warned: AtomicBool::new(false) }
    }

    /// Whom a request comes from: its peer, or, as far as proxies are trusted, whom they say it comes from.
    pub(crate) fn of(&self, request: &HttpRequest) -> IpAddr {
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let mut address = request.peer_addr().map_or(unknown, |peer| peer.ip().to_canonical());
        let headers: Vec<_> = request.headers().get_all("x-forwarded-for").collect();
        if !headers.is_empty() && !self.is_trusted(address) && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %address,
                "a request has X-Forwarded-For, and came from no trusted proxy; if it is your proxy, name it in \
                 server.trusted_proxies, or its callers all count as one"
            );
        }
        let hops = headers.iter().rev().flat_map(|header| header.to_str().unwrap_or("?").rsplit(','));
        for hop in hops {
            // What stands left of a stranger's address, the stranger may have written.
            let Some(named) = self.is_trusted(address).then(|| address_in(hop)).flatten() else { break };
            address = named;
        }
        address
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// The address in one element of `X-Forwarded-For`, with or without a port.
fn address_in(element: &str) -> Option<IpAddr> {
    let element = element.trim();
    let bare = element.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let address = bare.unwrap_or(element);
    let address = address.parse::<IpAddr>().ok().or_else(|| Some(address.parse::<std::net::SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn proxies_are_believed_as_far_as_they_are_trusted() {
        let clients = ClientAddresses::new(vec!["10.0.0.0/8".parse().expect("a network")]);
        for (peer, forwarded, expected) in [
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", vec!["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", vec!["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", vec!["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", vec!["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", vec!["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", vec!["198.51.100.7, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", vec!["198.51.100.7", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", vec!["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", vec!["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", vec!["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("203.0.113.9", vec!["10.0.0.2"], "203.0.113.9"),
            ("203.0.113.9", vec!["198.51.100.7"], "203.0.113.9"),
            ("::ffff:10.0.0.1", vec!["203.0.113.9"], "203.0.113.9"),
        ] {
            let peer_address: IpAddr = peer.parse().expect("an address");
            let mut request = TestRequest::default().peer_addr((peer_address, 1234).into());
            for header in &forwarded {
                request = request.append_header(("x-forwarded-for", *header));
            }
            let address = clients.of(&request.to_http_request());
            assert_eq!(address.to_string(), expected, "{peer} {forwarded:?}");
        }
    }
}
