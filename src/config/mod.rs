//! What can be configured, checked before anything is opened or bound.

mod answers;
mod bounds;
mod endpoint;
mod listener;
mod load;
mod outbound;
mod secret;
mod validation;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::event::BaseUrl;

pub use answers::{Answer, Answers};
pub use endpoint::Endpoint;
pub use listener::{Admin, Limits, Server};
pub use load::{ConfigError, DEFAULTS, Origin};
pub use outbound::{
    ClientIdClaim, Introspection, Jwt, Oauth2, Outbound, OutboundCredentials, SharedSecret, SigningAlgorithm,
};
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
    /// How others are called.
    pub egress: Egress,
    /// What is logged.
    pub log: Log,
    /// The marketplace to develop against.
    pub sandbox: Sandbox,
    /// Who may notify us of what.
    pub integrations: Vec<Integration>,
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
    /// How long transient failures are retried.
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

/// How others are called: marketplaces, identity providers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// How long a connection may take to be made.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    /// How long may pass without a byte of the answer.
    #[serde(deserialize_with = "duration")]
    pub read_timeout: Duration,
    /// How long the whole exchange may take.
    #[serde(deserialize_with = "duration")]
    pub total_timeout: Duration,
    /// Certificates, as PEM, that are trusted beside the platform's.
    pub ca_file: Option<PathBuf>,
    /// The proxy everything is called through. The environment's is not asked.
    pub proxy: Option<Secret>,
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
    pub outbound: OutboundCredentials,
    /// Which types of event are answered with their result.
    #[serde(default)]
    pub answer: Answers,
    /// Where its events may lie.
    pub marketplaces: Vec<Marketplace>,
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

impl Egress {
    /// The same without a proxy: for calls to this machine.
    #[must_use]
    pub fn direct(&self) -> Self {
        Self { proxy: None, ..self.clone() }
    }
}

impl Marketplace {
    /// Where tokens are issued.
    #[must_use]
    pub fn token_url(&self) -> String {
        self.inbound.token_url.replace("{base_url}", self.base_url.as_str())
    }
}

fn default_scope() -> String {
    "ROLE_APPLICATION".to_owned()
}

fn default_token_url() -> String {
    "{base_url}/oauth2/token".to_owned()
}

impl<'de> Deserialize<'de> for StoreUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some(("sled", directory)) if bounds::text_fault(directory).is_none() => Ok(Self::Sled(directory.into())),
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
    // An entry of its own, so that an error names its place in the list.
    #[derive(Deserialize)]
    struct Entry(#[serde(deserialize_with = "duration")] Duration);
    Ok(Vec::<Entry>::deserialize(deserializer)?.into_iter().map(|Entry(duration)| duration).collect())
}

fn parse_duration<E: serde::de::Error>(text: &str) -> Result<Duration, E> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| E::custom(format!("{text:?} is not a duration ({error}); write something like \"30s\"")))?;
    if duration > bounds::LONGEST {
        return Err(E::custom(format!("{text:?} is longer than a hundred years; write something like \"400d\"")));
    }
    Ok(duration)
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

/// As [`from_text`], for a key that may be left out.
fn some_from_text<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de> + std::str::FromStr,
    T::Err: std::fmt::Display,
{
    from_text(deserializer).map(Some)
}
