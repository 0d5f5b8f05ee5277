//! What no single key shows.

use super::{Config, Integration, Outbound, Secret};
use crate::event::BaseUrl;

/// A placeholder secret of the built-in defaults: known to everybody.
const PLACEHOLDER_SECRETS: [&str; 2] = ["change-me", "change-me-too"];

/// What is wrong with one key: where, what, and what to write.
pub(super) struct Fault {
    pub(super) key: String,
    pub(super) problem: String,
}

impl Config {
    /// What no single key shows: names that clash, listeners that are open, secrets everybody knows.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |key: String, problem: String| faults.push(Fault { key, problem });

        if !self.admin.listen.ip().is_loopback() && self.admin.token.is_none() {
            fault(
                "admin.token".into(),
                format!(
                    "is missing, and admin.listen {} can be reached from other machines; write token = \"…\" or \
                     listen on 127.0.0.1",
                    self.admin.listen
                ),
            );
        }
        for (key, limit) in [
            ("server.limits.max_url_bytes", self.server.limits.max_url_bytes),
            ("server.limits.max_header_bytes", self.server.limits.max_header_bytes),
            ("server.limits.max_body_bytes", self.server.limits.max_body_bytes),
            ("server.limits.max_connections", self.server.limits.max_connections),
            (
                "server.limits.max_connections_per_address",
                self.server.limits.max_connections_per_address.unwrap_or(usize::MAX),
            ),
            ("server.limits.max_requests_in_flight", self.server.limits.max_requests_in_flight),
        ] {
            if limit == 0 {
                fault(key.into(), "is 0, so nothing would be taken; write at least 1".into());
            }
        }
        for (key, time) in [
            ("server.keep_alive", self.server.keep_alive),
            ("server.limits.request_timeout", self.server.limits.request_timeout),
        ] {
            if time.is_zero() {
                fault(key.into(), "is 0, so no request could arrive in time; write something like \"5s\"".into());
            }
        }
        for (key, concurrency) in [
            ("delivery.concurrency", self.delivery.concurrency),
            ("delivery.concurrency_per_marketplace", self.delivery.concurrency_per_marketplace),
        ] {
            if concurrency == 0 {
                fault(key.into(), "is 0, so no event would ever be worked; write at least 1".into());
            }
        }
        if self.delivery.retry.is_empty() {
            fault("delivery.retry".into(), "is empty; write at least one duration, such as [\"5s\"]".into());
        }
        if let Err(error) = self.log.level.parse::<tracing_subscriber::EnvFilter>() {
            fault("log.level".into(), format!("is not a level or filter ({error}); write \"info\""));
        }
        if self.integrations.is_empty() {
            fault("integrations".into(), "is empty; write at least one [[integrations]] table".into());
        }
        for (index, integration) in self.integrations.iter().enumerate() {
            let at = format!("integrations[{index}]");
            for (field, problem) in integration.faults() {
                fault(format!("{at}.{field}"), problem);
            }
            let earlier = &self.integrations[..index];
            if earlier.iter().any(|other| other.name == integration.name) {
                fault(
                    format!("{at}.name"),
                    format!("{:?} is taken by an earlier integration; choose another", integration.name),
                );
            }
            for (key, outbound) in integration.outbound.keyed() {
                let looks_the_same =
                    |other: &Outbound| (other.realm(), other.client_id()) == (outbound.realm(), outbound.client_id());
                if earlier.iter().any(|other| other.outbound.iter().any(looks_the_same)) {
                    fault(
                        format!("{at}.{key}.client_id"),
                        "is the same as an earlier integration's, so a caller would not say which one it means; \
                         choose another"
                            .into(),
                    );
                }
            }
            if !self.server.public_url.is_loopback() {
                for (field, secret) in integration.secrets() {
                    if PLACEHOLDER_SECRETS.contains(&secret.expose()) {
                        fault(
                            format!("{at}.{field}"),
                            format!(
                                "is the placeholder everybody knows, and server.public_url {} is no loopback address; \
                                 write a secret of your own",
                                self.server.public_url
                            ),
                        );
                    }
                }
            }
        }
        faults
    }
}

impl Integration {
    fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut fault = |field: String, problem: &str| faults.push((field, problem.to_owned()));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || !self.name.chars().all(plain) {
            fault("name".into(), "must be letters, digits, '-', '_' and '.' only; write something like \"my-product\"");
        }
        if self.outbound.iter().next().is_none() {
            fault("outbound".into(), "is empty; write at least one way in which the marketplace authenticates");
        }
        for (key, outbound) in self.outbound.keyed() {
            for (field, problem) in outbound.faults() {
                fault(format!("{key}.{field}"), &problem);
            }
        }
        if self.outbound.iter().filter(|outbound| matches!(outbound, Outbound::Oauth2(_))).count() > 1 {
            fault(
                "outbound".into(),
                "has the kind oauth2 more than once; keep one, and give an older secret in previous_client_secret",
            );
        }
        for (field, secret) in self.secrets() {
            if secret.expose().is_empty() {
                fault(field, "is empty; write the secret, or name a file that holds it in the same key with _file");
            }
        }
        if self.marketplaces.is_empty() {
            fault("marketplaces".into(), "is empty; write at least one [[integrations.marketplaces]] table");
        }
        for (index, marketplace) in self.marketplaces.iter().enumerate() {
            let at = format!("marketplaces[{index}]");
            if marketplace.inbound.client_id.is_empty() {
                fault(
                    format!("{at}.inbound.client_id"),
                    "is empty; write the id the marketplace generated for the inbound client",
                );
            }
            let clear = |url: &BaseUrl| !(url.is_https() || url.is_loopback() || marketplace.allow_http);
            if clear(&marketplace.base_url) {
                fault(
                    format!("{at}.base_url"),
                    "is http:// and no loopback address, so secrets would travel in the clear; write https://, or set \
                     allow_http = true on this marketplace",
                );
            }
            match BaseUrl::parse(&marketplace.token_url()) {
                Err(error) => fault(format!("{at}.inbound.token_url"), &error.to_string()),
                Ok(url) if clear(&url) && !clear(&marketplace.base_url) => {
                    fault(format!("{at}.inbound.token_url"), "is http:// and no loopback address; write https://");
                }
                Ok(_) => {}
            }
            if self.marketplaces[..index].iter().any(|other| other.base_url == marketplace.base_url) {
                fault(format!("{at}.base_url"), "is given twice in this integration; remove one");
            }
        }
        faults
    }

    fn secrets(&self) -> impl Iterator<Item = (String, &Secret)> {
        let inbound = self.marketplaces.iter().enumerate().map(|(index, marketplace)| {
            (format!("marketplaces[{index}].inbound.client_secret"), &marketplace.inbound.client_secret)
        });
        let outbound = self.outbound.keyed().flat_map(|(key, outbound)| {
            outbound.secrets().into_iter().map(move |(field, secret)| (format!("{key}.{field}"), secret))
        });
        outbound.chain(inbound)
    }
}
