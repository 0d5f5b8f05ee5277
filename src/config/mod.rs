//! What can be configured, checked before anything is opened or bound.

mod answers;
mod load;
mod secret;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::event::BaseUrl;

pub use answers::{Answer, Answers};
pub use load::{ConfigError, DEFAULTS, Origin};
pub use secret::Secret;

/// The whole configuration, valid in itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The public listener.
    pub server: Server,
    /// The private listener.
    pub admin: Admin,
    /// Where events are kept.
    pub store: Store,
    /// What runs for an event.
    pub handler: Handler,
    /// How events are worked.
    pub delivery: Delivery,
    /// What is logged.
    pub log: Log,
    /// The marketplace to develop against.
    pub sandbox: Sandbox,
    /// Who may notify us of what.
    pub integrations: Vec<Integration>,
}

/// The public listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The same as the marketplace sees it; its path is the prefix of every public route.
    #[serde(deserialize_with = "base_url")]
    pub public_url: BaseUrl,
    /// How long work in hand may finish at a stop.
    #[serde(deserialize_with = "duration")]
    pub shutdown_timeout: Duration,
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

/// Where events are kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Which store, and where.
    pub url: StoreUrl,
    /// Refuse to start where acknowledged events would not survive loss of power.
    #[serde(deserialize_with = "from_text")]
    pub require_durable: bool,
    /// How long finished events are kept.
    #[serde(deserialize_with = "duration")]
    pub keep: Duration,
}

/// Which store, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sled:DIR`
    Sled(PathBuf),
    /// `memory:`
    Memory,
}

/// What runs for an event.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// Which handler; a vendor's own binary brings its own and ignores this.
    pub kind: HandlerKind,
    /// How long one run may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
}

/// The handlers Doorbell brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandlerKind {
    /// Log, succeed, invent identifiers.
    Accept,
}

/// How events are worked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// How long passing failures are retried.
    #[serde(deserialize_with = "duration")]
    pub give_up_after: Duration,
    /// How many events are worked on at once.
    #[serde(deserialize_with = "from_text")]
    pub concurrency: usize,
    /// How many events of one marketplace.
    #[serde(deserialize_with = "from_text")]
    pub concurrency_per_marketplace: usize,
    /// The longest wait before each next try; the last repeats.
    #[serde(deserialize_with = "durations")]
    pub retry: Vec<Duration>,
}

/// What is logged.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// A level, or a filter in the syntax of `tracing_subscriber`.
    pub level: String,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The marketplace to develop against.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// One set of credentials, and the marketplaces it is used in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Integration {
    /// Names it in records, logs and the API. Part of every event's id: renaming makes old events strangers.
    pub name: String,
    /// How the marketplace authenticates to us.
    pub outbound: Outbound,
    /// Which types of event are answered with their result.
    #[serde(default)]
    pub answer: Answers,
    /// Where its events may lie.
    pub marketplaces: Vec<Marketplace>,
}

/// How the marketplace authenticates to us.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// By what means.
    pub kind: OutboundKind,
    /// Who it says it is.
    pub client_id: String,
    /// How it proves it.
    pub client_secret: Secret,
    /// How long a token of ours is good.
    #[serde(default = "default_token_lifetime", deserialize_with = "duration")]
    pub token_lifetime: Duration,
}

/// The means by which a marketplace authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutboundKind {
    /// Client credentials at our own token endpoint.
    Oauth2,
}

/// A marketplace and how we authenticate to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marketplace {
    /// Where it lives.
    #[serde(deserialize_with = "base_url")]
    pub base_url: BaseUrl,
    /// Whether it may be called in the clear.
    #[serde(default, deserialize_with = "from_text")]
    pub allow_http: bool,
    /// Our credentials there.
    pub inbound: Inbound,
}

/// Our credentials in a marketplace.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inbound {
    /// Who we are.
    pub client_id: String,
    /// How we prove it.
    pub client_secret: Secret,
    /// What we ask for.
    #[serde(default = "default_scope")]
    pub scope: String,
    /// Where tokens are issued; `{base_url}` stands for the marketplace's.
    #[serde(default = "default_token_url")]
    pub token_url: String,
}

impl Marketplace {
    /// Where tokens are issued.
    #[must_use]
    pub fn token_url(&self) -> String {
        self.inbound.token_url.replace("{base_url}", self.base_url.as_str())
    }
}

fn default_token_lifetime() -> Duration {
    Duration::from_hours(1)
}

fn default_scope() -> String {
    "ROLE_APPLICATION".to_owned()
}

fn default_token_url() -> String {
    "{base_url}/oauth2/token".to_owned()
}

/// A placeholder secret of the built-in defaults: known to everybody.
const PLACEHOLDER_SECRETS: [&str; 2] = ["change-me", "change-me-too"];

/// What is wrong with one key: where, what, and what to write.
pub(crate) struct Fault {
    key: String,
    problem: String,
}

impl Config {
    /// What no single key shows: names that clash, listeners that are open, secrets everybody knows.
    fn faults(&self) -> Vec<Fault> {
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
            if earlier.iter().any(|other| other.outbound.client_id == integration.outbound.client_id) {
                fault(
                    format!("{at}.outbound.client_id"),
                    "is the same as an earlier integration's, so a caller would not say which one it means; choose another".into(),
                );
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
        if self.outbound.client_id.is_empty() || self.outbound.client_id.contains(':') {
            fault(
                "outbound.client_id".into(),
                "must not be empty or hold a ':'; write the id the marketplace was given",
            );
        }
        for (field, secret) in self.secrets() {
            if secret.expose().is_empty() {
                fault(field, "is empty; write the secret, or name a file that holds it in client_secret_file");
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
        std::iter::once(("outbound.client_secret".to_owned(), &self.outbound.client_secret)).chain(inbound)
    }
}

impl<'de> Deserialize<'de> for StoreUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some(("sled", directory)) if !directory.is_empty() => Ok(Self::Sled(directory.into())),
            Some(("memory", "")) => Ok(Self::Memory),
            // The text may hold a password, so it is not repeated.
            _ => Err(serde::de::Error::custom("names no known store; write \"sled:DIR\" or \"memory:\"")),
        }
    }
}

fn base_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BaseUrl, D::Error> {
    let text = String::deserialize(deserializer)?;
    BaseUrl::parse(&text).map_err(serde::de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?)
}

fn durations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| parse_duration(text)).collect()
}

fn parse_duration<E: serde::de::Error>(text: &str) -> Result<Duration, E> {
    humantime::parse_duration(text)
        .map_err(|error| E::custom(format!("{text:?} is not a duration ({error}); write something like \"30s\"")))
}

/// A value as TOML has it, or as the text an environment variable holds.
fn from_text<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + std::str::FromStr,
    T::Err: std::fmt::Display,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given<T> {
        Value(T),
        Text(String),
    }
    match Given::deserialize(deserializer) {
        Ok(Given::Value(value)) => Ok(value),
        Ok(Given::Text(text)) => {
            text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?} will not do: {error}")))
        }
        Err(_) => {
            let kind = std::any::type_name::<T>();
            let wanted = if kind == "bool" { "true or false" } else { "a whole number" };
            Err(serde::de::Error::custom(format!("must be {wanted}")))
        }
    }
}
