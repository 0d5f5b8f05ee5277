//! The two listeners and their limits.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::{Secret, base_url, duration, from_text, some_from_text};
use crate::event::BaseUrl;

/// The public listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The same as the marketplace sees it; its path is the prefix of every public route.
    #[serde(deserialize_with = "base_url")]
    pub public_url: BaseUrl,
    /// How long a connection is kept without a request.
    #[serde(deserialize_with = "duration")]
    pub keep_alive: Duration,
    /// How long work in hand may finish at a stop.
    #[serde(deserialize_with = "duration")]
    pub shutdown_timeout: Duration,
    /// Proxies whose `X-Forwarded-For` is believed: whom a request came from is the first address, from the right,
    /// that is not one of theirs.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// How much is taken from strangers.
    pub limits: Limits,
}

/// How much the public listener takes from strangers. Whoever goes beyond gets an answer that says so.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The longest path and query, in bytes.
    #[serde(deserialize_with = "from_text")]
    pub max_url_bytes: usize,
    /// The largest headers, names and values together, in bytes.
    #[serde(deserialize_with = "from_text")]
    pub max_header_bytes: usize,
    /// The largest body, in bytes. Only the token endpoint reads one.
    #[serde(deserialize_with = "from_text")]
    pub max_body_bytes: usize,
    /// How long a client may take to send a request's head, and again its body, and to read the answer.
    #[serde(deserialize_with = "duration")]
    pub request_timeout: Duration,
    /// Connections that are open at once.
    #[serde(deserialize_with = "from_text")]
    pub max_connections: usize,
    /// Of these, those of one network (an IPv4 address, an IPv6 /64) that is no trusted proxy.
    #[serde(default, deserialize_with = "some_from_text")]
    pub max_connections_per_address: Option<usize>,
    /// Requests that are being answered at once.
    #[serde(deserialize_with = "from_text")]
    pub max_requests_in_flight: usize,
}

/// The private listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The bearer token it asks for.
    pub token: Option<Secret>,
}

/// Networks, or single addresses.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: &String| {
        text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address))).map_err(|_| {
            serde::de::Error::custom(format!(
                "holds {text:?}, which is neither an address nor a network; write something like \"10.0.0.0/8\""
            ))
        })
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(network).collect()
}
