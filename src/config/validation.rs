//! What no single key shows.

use super::bounds::text_fault;
use super::{Config, Integration, Outbound, Secret};
use crate::event::{BaseUrl, EventUrl};

/// Secrets of the built-in defaults, and what else stands where a secret is to be written: known to everybody.
const PLACEHOLDER_SECRETS: [&str; 5] = ["change-me", "change-me-too", "changeme", "…", "..."];

/// The longest name of an integration, in bytes: it is a part of many keys.
const LONGEST_NAME: usize = 100;
/// The longest base URL, in bytes: every record has it.
const LONGEST_BASE_URL: usize = 512;

/// The fewest characters of the private listener's token, where others can try some: hex digits of them are 64 bits.
const MIN_TOKEN_BYTES: usize = 16;

/// What is wrong with one key: where, what, and what to write.
pub(super) struct InvalidValue {
    pub(super) key: String,
    pub(super) problem: String,
}

impl Config {
    /// What no single key shows: names that clash, listeners that are open, secrets everybody knows.
    pub(super) fn invalid_values(&self) -> Vec<InvalidValue> {
        let mut invalid_values = Vec::new();
        let mut invalid = |key: String, problem: String| invalid_values.push(InvalidValue { key, problem });

        if !self.admin.listen.ip().is_loopback() && self.admin.token.is_none() {
            invalid(
                "admin.token".into(),
                format!(
                    "is missing, and admin.listen {} can be reached from other machines; write token = \"…\" or \
                     listen on 127.0.0.1",
                    self.admin.listen
                ),
            );
        }
        let (public, private) = (self.server.listen, self.admin.listen);
        let shares_an_address =
            public.ip() == private.ip() || public.ip().is_unspecified() || private.ip().is_unspecified();
        if public.port() == private.port() && public.port() != 0 && shares_an_address {
            let problem = format!("{private} is server.listen {public} too; write another port, such as 8081");
            invalid("admin.listen".into(), problem);
        }
        if let Some(token) = &self.admin.token {
            let token = token.expose();
            if let Some(problem) = text_fault(token) {
                invalid("admin.token".into(), format!("{problem}; write a token of your own, or remove the key"));
            } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let problem =
                    "holds a character that no header can carry; write visible ASCII characters without spaces";
                invalid("admin.token".into(), problem.into());
            } else if is_placeholder(token) && !private.ip().is_loopback() {
                let problem = "is a placeholder everybody knows, and admin.listen is no loopback address; write a token of \
                               your own";
                invalid("admin.token".into(), problem.into());
            } else if token.len() < MIN_TOKEN_BYTES && !private.ip().is_loopback() {
                let problem = format!(
                    "has {} characters, which can be guessed, and admin.listen is no loopback address; write at least \
                     {MIN_TOKEN_BYTES}, such as openssl rand -hex 32 gives",
                    token.len()
                );
                invalid("admin.token".into(), problem);
            }
        }
        for network in self.server.trusted_proxies.iter().filter(|network| network.prefix_len() == 0) {
            let problem = format!(
                "holds {network}, which is everybody: any caller could say whom it comes from; write your proxies' addresses"
            );
            invalid("server.trusted_proxies".into(), problem);
        }
        for (key, problem) in self.out_of_bounds() {
            invalid(key, problem);
        }
        if let Some(problem) = level_fault(&self.log.level) {
            invalid(
                "log.level".into(),
                format!("{problem}; write \"info\", or a filter such as \"info,doorbell=debug\""),
            );
        }
        if self.integrations.is_empty() {
            invalid("integrations".into(), "is empty; write at least one [[integrations]] table".into());
        }
        for (index, integration) in self.integrations.iter().enumerate() {
            let at = format!("integrations[{index}]");
            for (field, problem) in integration.invalid_values() {
                invalid(format!("{at}.{field}"), problem);
            }
            let earlier = &self.integrations[..index];
            if earlier.iter().any(|other| other.name == integration.name) {
                invalid(
                    format!("{at}.name"),
                    format!("{:?} is taken by an earlier integration; choose another", integration.name),
                );
            }
            for (key, outbound) in integration.outbound.keyed() {
                let looks_the_same =
                    |other: &Outbound| (other.realm(), other.client_id()) == (outbound.realm(), outbound.client_id());
                if earlier.iter().any(|other| other.outbound.iter().any(looks_the_same)) {
                    invalid(
                        format!("{at}.{key}.client_id"),
                        "is the same as an earlier integration's, so a caller would not say which one it means; \
                         choose another"
                            .into(),
                    );
                }
            }
            if !self.server.public_url.is_loopback() {
                for (field, secret) in integration.secrets() {
                    if is_placeholder(secret.expose()) {
                        invalid(
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
        invalid_values
    }
}

fn is_placeholder(secret: &str) -> bool {
    PLACEHOLDER_SECRETS.iter().any(|placeholder| secret.eq_ignore_ascii_case(placeholder))
}

/// What is wrong with a level or filter. A word that is no level would be taken for a library's name, and nothing be logged.
fn level_fault(level: &str) -> Option<String> {
    let is_level = |word: &str| !word.is_empty() && word.parse::<tracing::level_filters::LevelFilter>().is_ok();
    let mut words = level.split(',').map(str::trim).filter(|word| !word.contains(['=', '[']));
    if let Some(word) = words.find(|word| !is_level(word)) {
        return Some(match word {
            "" => "is empty".to_owned(),
            word => format!("holds {word:?}, which is not a level (error, warn, info, debug, trace, off)"),
        });
    }
    let parsed = level.parse::<tracing_subscriber::EnvFilter>();
    parsed.err().map(|error| format!("is not a level or filter ({error})"))
}

impl Integration {
    fn invalid_values(&self) -> Vec<(String, String)> {
        let mut invalid_values = Vec::new();
        let mut invalid = |field: String, problem: &str| invalid_values.push((field, problem.to_owned()));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_a_name = self.name.starts_with(|c: char| c.is_ascii_alphanumeric()) && self.name.chars().all(plain);
        if !is_a_name || self.name.len() > LONGEST_NAME {
            invalid(
                "name".into(),
                "must be up to 100 letters, digits, '-', '_' and '.', beginning with a letter or digit; write something \
                 like \"my-product\"",
            );
        }
        if self.outbound.iter().next().is_none() {
            invalid("outbound".into(), "is empty; write at least one way in which the marketplace authenticates");
        }
        for (key, outbound) in self.outbound.keyed() {
            for (field, problem) in outbound.invalid_values() {
                invalid(format!("{key}.{field}"), &problem);
            }
        }
        if self.outbound.iter().filter(|outbound| matches!(outbound, Outbound::Oauth2(_))).count() > 1 {
            invalid(
                "outbound".into(),
                "has the kind oauth2 more than once; keep one, and give an older secret in previous_client_secret",
            );
        }
        for (field, secret) in self.secrets() {
            if let Some(problem) = text_fault(secret.expose()) {
                let remedy = "write the secret, or name a file that holds it in the same key with _file";
                invalid(field, &format!("{problem}; {remedy}"));
            }
        }
        if self.marketplaces.is_empty() {
            invalid("marketplaces".into(), "is empty; write at least one [[integrations.marketplaces]] table");
        }
        for (index, marketplace) in self.marketplaces.iter().enumerate() {
            let at = format!("marketplaces[{index}]");
            for (key, text, remedy) in [
                (
                    "client_id",
                    &marketplace.inbound.client_id,
                    "the id the marketplace generated for the inbound client",
                ),
                ("scope", &marketplace.inbound.scope, "what the marketplace wants asked for, or \"\" for nothing"),
            ] {
                // An empty scope is none, which some marketplaces want.
                let is_none = key == "scope" && text.is_empty();
                if let Some(problem) = text_fault(text).filter(|_| !is_none) {
                    invalid(format!("{at}.inbound.{key}"), &format!("{problem}; write {remedy}"));
                }
            }
            if marketplace.base_url.as_str().len() > LONGEST_BASE_URL {
                let problem = format!("is longer than {LONGEST_BASE_URL} bytes; write the marketplace's own address");
                invalid(format!("{at}.base_url"), &problem);
            }
            let clear = |url: &BaseUrl| !(url.is_https() || url.is_loopback() || marketplace.allow_http);
            if clear(&marketplace.base_url) {
                invalid(
                    format!("{at}.base_url"),
                    "is http:// and no loopback address, so secrets would travel in the clear; write https://, or set \
                     allow_http = true on this marketplace",
                );
            }
            match BaseUrl::parse(&marketplace.token_url()) {
                Err(error) => invalid(format!("{at}.inbound.token_url"), &error.to_string()),
                Ok(url) if clear(&url) && !clear(&marketplace.base_url) => {
                    invalid(format!("{at}.inbound.token_url"), "is http:// and no loopback address; write https://");
                }
                Ok(_) => {}
            }
            let event = format!("{}/events/1", marketplace.base_url);
            if let Err(error) = EventUrl::parse(&event, [&marketplace.base_url]) {
                let problem = format!("is one that no event can lie below ({error}); write it as the marketplace does");
                invalid(format!("{at}.base_url"), &problem);
            }
            if self.marketplaces[..index].iter().any(|other| other.base_url == marketplace.base_url) {
                invalid(format!("{at}.base_url"), "is given twice in this integration; remove one");
            }
        }
        invalid_values
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
