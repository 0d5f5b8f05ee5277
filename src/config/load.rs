//! From file and environment to a [`Config`], or to an error that says what to write.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml::{Table, Value};

use super::Config;

/// Every key with its default and a comment: `config/default.toml`.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Where the file is looked for if no other is named.
const DEFAULT_FILE: &str = "config/doorbell.toml";
const ENVIRONMENT_PREFIX: &str = "DOORBELL__";
const ENVIRONMENT_FILE: &str = "DOORBELL_CONFIG";

/// Secrets, each of which may be given as `…_file` too. `url` and `proxy` are because they may hold a password.
const SECRETS: [&str; 6] =
    ["client_secret", "previous_client_secret", "introspection_client_secret", "token", "url", "proxy"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// An environment variable, by name.
    Environment(String),
    /// Neither.
    Defaults,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Defaults => f.write_str("built-in defaults"),
        }
    }
}

/// A mistake in the configuration: where it is, which key, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {reason}; name a readable file with --config or DOORBELL_CONFIG", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{}: line {line}: not TOML: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// What the parser says. Never the line itself, which may hold a secret.
        problem: String,
    },
    /// A key is wrong.
    #[error("{origin}: {key} {problem}")]
    Key {
        /// Where the value came from.
        origin: Origin,
        /// Which key.
        key: String,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// Several keys are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<ConfigError>),
}

impl Config {
    /// Reads the configuration: `file` if one is named, else `$DOORBELL_CONFIG`, else `./config/doorbell.toml` if
    /// it is there, else the defaults; over all of them the environment's `DOORBELL__…` variables.
    ///
    /// # Errors
    /// Each names the file or variable, the key and what to write; none repeats a secret.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let variables = environment()?;
        let path = Self::file(file);
        if path.as_deref() == Some(Path::new("")) {
            let (path, reason) = (PathBuf::from("\"\""), "a file has a name".to_owned());
            return Err(ConfigError::Unreadable { path, reason });
        }
        let text = match &path {
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| ConfigError::Unreadable { path: path.clone(), reason: error.to_string() })?,
            ),
            None => None,
        };
        Self::assemble(path.as_deref().zip(text.as_deref()), &variables)
    }

    /// The file that [`Config::load`] reads, if there is one.
    #[must_use]
    pub fn file(named: Option<&Path>) -> Option<PathBuf> {
        let named = named.map(Path::to_owned).or_else(|| std::env::var_os(ENVIRONMENT_FILE).map(PathBuf::from));
        named.or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()))
    }

    /// The built-in defaults, with what the environment's `DOORBELL__…` variables change: no file is read.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn for_development() -> Result<Self, ConfigError> {
        Self::assemble(None, &environment()?)
    }

    /// The built-in defaults.
    ///
    /// # Panics
    /// Never: a test reads them.
    #[must_use]
    pub fn defaults() -> Self {
        Self::assemble(None, &BTreeMap::new()).unwrap_or_else(|error| unreachable!("built-in defaults: {error}"))
    }

    /// A configuration from the text of a file over the defaults.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::assemble(Some((Path::new("configuration"), text)), &BTreeMap::new())
    }

    fn assemble(file: Option<(&Path, &str)>, variables: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut sources = Sources { file: None, environment: BTreeMap::new() };
        let mut tree = parse(Path::new("config/default.toml"), DEFAULTS)?;
        if let Some((path, text)) = file {
            sources.file = Some(path.to_owned());
            overlay(&mut tree, parse(path, text)?);
        }
        for (variable, value) in variables {
            if let Some(path) = variable.strip_prefix(ENVIRONMENT_PREFIX) {
                let segments: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
                let mut at = String::new();
                set(&mut tree, &segments, value, &mut at).map_err(|problem| ConfigError::Key {
                    origin: Origin::Environment(variable.clone()),
                    key: path.to_ascii_lowercase().replace("__", "."),
                    problem,
                })?;
                sources.environment.insert(at, variable.clone());
            }
        }
        let mut tree = Value::Table(tree);
        read_secret_files(&mut tree, "", &sources)?;

        let config: Self = serde_path_to_error::deserialize(tree).map_err(|error| {
            // What follows on further lines is the path once more.
            let message = error.inner().to_string().lines().next().unwrap_or_default().to_owned();
            let path = error.path().to_string();
            sources.invalid(&path, &message)
        })?;
        let mut invalid_values: Vec<ConfigError> =
            config.invalid_values().into_iter().map(|invalid| sources.key(invalid.key, invalid.problem)).collect();
        match invalid_values.len() {
            0 => Ok(config),
            1 => Err(invalid_values.remove(0)),
            _ => Err(ConfigError::Several(invalid_values)),
        }
    }
}

/// The variables that are meant for us. One that is no text would otherwise be as good as unset.
fn environment() -> Result<BTreeMap<String, String>, ConfigError> {
    let ours = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let ours = ours.filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX));
    let text = |(name, value): (String, OsString)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(ConfigError::Key {
            key: name.trim_start_matches(ENVIRONMENT_PREFIX).to_ascii_lowercase().replace("__", "."),
            origin: Origin::Environment(name),
            problem: "is not UTF-8; write it as UTF-8".to_owned(),
        }),
    };
    ours.map(text).collect()
}

/// Where values came from, for errors.
struct Sources {
    file: Option<PathBuf>,
    environment: BTreeMap<String, String>,
}

impl Sources {
    fn key(&self, key: String, problem: String) -> ConfigError {
        let origin = match (self.environment.get(&key), &self.file) {
            (Some(variable), _) => Origin::Environment(variable.clone()),
            (None, Some(path)) => Origin::File(path.clone()),
            (None, None) => Origin::Defaults,
        };
        ConfigError::Key { origin, key, problem }
    }

    /// serde's words for a fault, in ours.
    fn invalid(&self, path: &str, message: &str) -> ConfigError {
        let quoted = |start: &str| message.strip_prefix(start).and_then(|rest| rest.split('`').next());
        if let Some(field) = quoted("missing field `") {
            let key = if path == "." { field.to_owned() } else { format!("{path}.{field}") };
            let file = if SECRETS.contains(&field) { format!(", or {field}_file = \"PATH\"") } else { String::new() };
            return self.key(key, format!("is missing; write {field} = \"…\"{file}"));
        }
        if let Some(field) = quoted("unknown field `") {
            let parent = path.strip_suffix(field).unwrap_or(path).trim_end_matches('.');
            let key = if parent.is_empty() { field.to_owned() } else { format!("{parent}.{field}") };
            let known = message.split_once(", ").map_or(String::new(), |(_, known)| format!(": {known}"));
            return self.key(key, format!("is not a key doorbell knows{known}"));
        }
        self.key(path.to_owned(), message.to_owned())
    }
}

fn parse(path: &Path, text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            problem: error.message().to_owned(),
        }
    })
}

/// Lays `over` over `base`: tables merge, anything else replaces.
fn overlay(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => overlay(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Sets the value at `segments`, making tables on the way; a number is an index into a list.
///
/// Notes in `at` the path as errors spell it.
fn set(table: &mut Table, segments: &[String], value: &str, at: &mut String) -> Result<(), String> {
    let Some((segment, rest)) = segments.split_first().filter(|(segment, _)| !segment.is_empty()) else {
        return Err("is not a path of keys; write DOORBELL__SECTION__KEY".to_owned());
    };
    if !at.is_empty() {
        at.push('.');
    }
    at.push_str(segment);
    if rest.is_empty() {
        table.insert(segment.clone(), Value::String(value.to_owned()));
        return Ok(());
    }
    let is_index = rest[0].bytes().all(|byte| byte.is_ascii_digit());
    let fresh = || if is_index { Value::Array(Vec::new()) } else { Value::Table(Table::new()) };
    match table.entry(segment.clone()).or_insert_with(fresh) {
        Value::Table(inner) => set(inner, rest, value, at),
        Value::Array(list) => {
            let (index, rest) = (&rest[0], &rest[1..]);
            let place: usize = index.parse().map_err(|_| format!("{segment} is a list; write an index after it"))?;
            if place > list.len() {
                return Err(format!(
                    "names index {place} of a list that has {} entries; the next is {}",
                    list.len(),
                    list.len()
                ));
            }
            at.push('[');
            at.push_str(index);
            at.push(']');
            if rest.is_empty() {
                let text = Value::String(value.to_owned());
                if place == list.len() {
                    list.push(text);
                } else {
                    list[place] = text;
                }
                return Ok(());
            }
            if place == list.len() {
                list.push(Value::Table(Table::new()));
            }
            match &mut list[place] {
                Value::Table(inner) => set(inner, rest, value, at),
                _ => Err(format!("goes below {segment}[{place}], which is a plain value")),
            }
        }
        _ => Err(format!("goes below {segment}, which is a plain value")),
    }
}

/// Replaces every `x_file` by the `x` that the file holds, for the secrets that may be given so.
fn read_secret_files(value: &mut Value, at: &str, sources: &Sources) -> Result<(), ConfigError> {
    match value {
        Value::Array(list) => {
            for (index, item) in list.iter_mut().enumerate() {
                read_secret_files(item, &format!("{at}[{index}]"), sources)?;
            }
        }
        Value::Table(table) => {
            for name in SECRETS {
                let key = format!("{name}_file");
                let Some(path) = table.remove(&key) else { continue };
                let full = format!("{at}.{key}").trim_start_matches('.').to_owned();
                let Value::String(path) = path else {
                    return Err(sources.key(full, "must be text; write the path of a file in double quotes".to_owned()));
                };
                // A default under the plain name gives way; one that was written does not.
                let is_written = sources.file.is_some() || sources.environment.contains_key(&format!("{at}.{name}"));
                if table.contains_key(name) && is_written && !is_default_section(at) {
                    return Err(sources.key(full, format!("is given beside {name}; keep one of the two")));
                }
                let secret = std::fs::read_to_string(&path).map_err(|error| {
                    sources.key(
                        full.clone(),
                        format!("names {path:?}, which cannot be read: {error}; write the path of a readable file"),
                    )
                })?;
                let secret = secret.trim_end_matches(['\r', '\n']).to_owned();
                if secret.trim().is_empty() {
                    return Err(sources.key(full, format!("names {path:?}, which is empty; write the secret into it")));
                }
                table.insert(name.to_owned(), Value::String(secret));
            }
            for (key, inner) in table.iter_mut() {
                let below = format!("{at}.{key}");
                read_secret_files(inner, below.trim_start_matches('.'), sources)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Sections whose keys the defaults fill in, so that a secret there need not have been written by anybody.
fn is_default_section(at: &str) -> bool {
    at == "store"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreUrl;

    fn secret_of(config: &Config) -> &str {
        config.integrations[0].outbound.oauth2().expect("oauth2").client.client_secret.expose()
    }

    fn with(file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::assemble(Some((Path::new("doorbell.toml"), file)), &variables)
    }

    fn message(file: &str, variables: &[(&str, &str)]) -> String {
        with(file, variables).err().unwrap_or_else(|| panic!("{file} {variables:?} is no mistake")).to_string()
    }

    const INTEGRATION: &str = r#"
        [[integrations]]
        name = "a"
        [integrations.outbound]
        kind = "oauth2"
        client_id = "market"
        client_secret = "s3cret-1"
        [[integrations.marketplaces]]
        base_url = "https://market.example"
        [integrations.marketplaces.inbound]
        client_id = "us"
        client_secret = "s3cret-2"
    "#;

    #[test]
    fn the_built_in_defaults_are_a_valid_configuration() {
        let config = Config::defaults();
        assert_eq!(config.store.url, StoreUrl::Sled("./data".into()));
        assert_eq!(config.integrations[0].marketplaces[0].token_url(), "http://127.0.0.1:8090/oauth2/token");
    }

    #[test]
    fn a_file_replaces_what_it_names_and_leaves_the_rest() {
        let config = with(&format!("[server]\nlisten = \"0.0.0.0:80\"\n{INTEGRATION}"), &[]).expect("valid");
        assert_eq!(config.server.listen.port(), 80);
        assert_eq!(config.admin.listen.port(), 8081);
        assert_eq!(config.integrations.len(), 1);
        assert_eq!(config.integrations[0].name, "a");
    }

    #[test]
    fn the_environment_wins_over_the_file_by_key_and_by_index() {
        let variables = [
            ("DOORBELL__SERVER__LISTEN", "127.0.0.1:1"),
            ("DOORBELL__STORE__REQUIRE_DURABLE", "true"),
            ("DOORBELL__DELIVERY__CONCURRENCY", "7"),
            ("DOORBELL__INTEGRATIONS__0__OUTBOUND__CLIENT_SECRET", "12345"),
            ("DOORBELL__DELIVERY__RETRY__0", "9s"),
        ];
        let config = with(INTEGRATION, &variables).expect("valid");
        assert_eq!(config.server.listen.port(), 1);
        assert!(config.store.require_durable);
        assert_eq!(config.delivery.concurrency, 7);
        assert_eq!(secret_of(&config), "12345");
        assert_eq!(config.delivery.retry[0].as_secs(), 9);
    }

    #[test]
    fn every_mistake_names_the_key_where_it_is_and_what_to_write() {
        for (file, variables, expected) in [
            ("[server]\nlisen = \"x\"", &[][..], "doorbell.toml: server.lisen is not a key doorbell knows"),
            ("[server]\nlisten = \"nowhere\"", &[], "doorbell.toml: server.listen"),
            ("[servers]\nlisten = \"x\"", &[], "doorbell.toml: servers is not a key doorbell knows"),
            (
                "",
                &[("DOORBELL__SERVER__LISEN", "x")],
                "environment variable DOORBELL__SERVER__LISEN: server.lisen is not a key",
            ),
            ("", &[("DOORBELL__SERVER__LISTEN", "x")], "environment variable DOORBELL__SERVER__LISTEN: server.listen"),
            ("", &[("DOORBELL__INTEGRATIONS__5__NAME", "x")], "names index 5 of a list that has 1 entries"),
            ("[server]\npublic_url = \"product.example\"", &[], "server.public_url is not a URL"),
            ("[server]\npublic_url = \"https://product.example\"", &[], "is the placeholder everybody knows"),
            ("[admin]\nlisten = \"0.0.0.0:8081\"", &[], "admin.token is missing, and admin.listen 0.0.0.0:8081"),
            ("[store]\nurl = \"redis://x\"", &[], "store.url names no known store; write \"sled:DIR\""),
            ("[store]\nrequire_durable = \"maybe\"", &[], "store.require_durable \"maybe\" will not do"),
            ("[delivery]\ngive_up_after = \"soon\"", &[], "delivery.give_up_after \"soon\" is not a duration"),
            ("[handler]\nkind = \"magic\"", &[], "handler.kind unknown variant `magic`, expected `accept`"),
            ("[log]\nlevel = \"a=b=c\"", &[], "log.level is not a level or filter"),
            ("integrations = []", &[], "integrations is empty"),
            (
                "[[integrations]]\nname = \"a\"\n[integrations.outbound]\nkind = \"oauth2\"\nclient_id = \"m\"",
                &[],
                "integrations[0].outbound.client_secret is missing; write client_secret = \"…\", or client_secret_file = \"PATH\"",
            ),
        ] {
            let message = message(file, variables);
            assert!(message.contains(expected), "{file} gives {message}, which lacks {expected}");
        }
    }

    fn outbound(table: &str) -> String {
        let (before, rest) = INTEGRATION.split_once("[integrations.outbound]").expect("a table");
        let (_, after) = rest.split_once("[[integrations.marketplaces]]").expect("a table");
        format!("{before}{table}\n[[integrations.marketplaces]]{after}")
    }

    const JWT: &str = "[integrations.outbound]\nkind = \"jwt\"\nclient_id = \"m\"\nissuer = \"https://id.example\"\n\
                       audience = \"us\"\n";
    const INTROSPECTION: &str = "[integrations.outbound]\nkind = \"introspection\"\nclient_id = \"m\"\n\
                                 introspection_url = \"https://id.example/introspect?tenant=1\"\n\
                                 introspection_client_id = \"us\"\nintrospection_client_secret = \"s\"\n";
    const BASIC: &str = "kind = \"basic\"\nclient_id = \"m\"\nclient_secret = \"s\"\n";

    #[test]
    fn every_kind_of_outbound_credentials_can_be_configured_alone_and_beside_others() {
        let several = format!(
            "[[integrations.outbound]]\n{BASIC}{}",
            JWT.replace("[integrations.outbound]", "[[integrations.outbound]]")
        );
        for (table, kinds) in [
            (JWT.to_owned(), "jwt"),
            (INTROSPECTION.to_owned(), "introspection"),
            (format!("[integrations.outbound]\n{BASIC}previous_client_secret = \"o\""), "basic"),
            (format!("[integrations.outbound]\n{BASIC}").replace("basic", "oauth1"), "oauth1"),
            (several, "basic jwt"),
        ] {
            let config = with(&outbound(&table), &[]).unwrap_or_else(|error| panic!("{table}: {error}"));
            let found: Vec<_> = config.integrations[0].outbound.iter().map(crate::config::Outbound::kind).collect();
            assert_eq!(found.join(" "), kinds);
        }
        let variables = [
            ("DOORBELL__INTEGRATIONS__0__OUTBOUND__KIND", "basic"),
            ("DOORBELL__SERVER__TRUSTED_PROXIES__0", "10.1.2.3"),
        ];
        let config = with("", &variables).expect("the defaults, changed by the environment");
        assert_eq!(config.server.trusted_proxies[0].to_string(), "10.1.2.3/32");
    }

    #[test]
    fn every_mistake_in_outbound_credentials_names_the_key_and_what_to_write() {
        let second = format!("[[integrations.outbound]]\n{BASIC}[[integrations.outbound]]\n");
        for (table, expected) in [
            (
                format!("[integrations.outbound]\n{BASIC}scope = \"x\""),
                "integrations[0].outbound.scope is not a key doorbell knows",
            ),
            (JWT.replace("audience = \"us\"\n", ""), "integrations[0].outbound.audience is missing; write audience"),
            (format!("{JWT}client_secret = \"s3cret\""), "integrations[0].outbound.client_secret is not a key"),
            (JWT.replace("https", "http"), "integrations[0].outbound.issuer is http:// and no loopback address"),
            (JWT.replace("https://id.example", "accounts"), "integrations[0].outbound.issuer is not a URL"),
            (format!("{JWT}algorithms = []"), "integrations[0].outbound.algorithms is empty"),
            (
                format!("{JWT}algorithms = [\"HS256\"]"),
                "integrations[0].outbound.algorithms[0] unknown variant `HS256`",
            ),
            (format!("{JWT}jwks_url = \"ftp://x\""), "integrations[0].outbound.jwks_url has the scheme \"ftp\""),
            (
                INTROSPECTION.replace("https", "http"),
                "integrations[0].outbound.introspection_url is http:// and no loopback address",
            ),
            (
                INTROSPECTION.replace("introspection_client_secret = \"s\"", ""),
                "introspection_client_secret is missing; write introspection_client_secret = \"…\", or \
                 introspection_client_secret_file",
            ),
            (
                format!("[integrations.outbound]\n{BASIC}previous_client_secret = \"\""),
                "integrations[0].outbound.previous_client_secret is empty",
            ),
            (
                format!("{second}{}", BASIC.replace("client_secret = \"s\"", "")),
                "integrations[0].outbound[1].client_secret is missing",
            ),
            (
                format!("{second}{}token_lifetime = \"soon\"", BASIC.replace("basic", "oauth2")),
                "integrations[0].outbound[1].token_lifetime \"soon\" is not a duration",
            ),
            (
                "[integrations.outbound]\nkind = \"saml\"".to_owned(),
                "integrations[0].outbound.kind unknown variant `saml`",
            ),
        ] {
            let message = message(&outbound(&table), &[]);
            assert!(message.contains(expected), "{table} gives {message}, which lacks {expected}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        let twice = format!("{INTEGRATION}{}", INTEGRATION.replace("\"a\"", "\"b\""));
        assert!(message(&twice, &[]).contains("integrations[1].outbound.client_id is the same as an earlier"));
        for (file, expected) in [
            ("[server]\ntrusted_proxies = [\"proxy\"]", "server.trusted_proxies holds \"proxy\""),
            ("[server.limits]\nmax_url_bytes = 0", "server.limits.max_url_bytes is 0"),
            ("[egress]\ntotal_timeout = 5", "egress.total_timeout"),
        ] {
            assert!(message(file, &[]).contains(expected), "{file} gives {}", message(file, &[]));
        }
    }

    /// Every value of the built-in defaults, by the variable that sets it.
    fn leaves(value: &Value, at: &str, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Table(table) => {
                for (key, inner) in table {
                    leaves(inner, &format!("{at}__{}", key.to_ascii_uppercase()), found);
                }
            }
            Value::Array(list) => {
                for (index, inner) in list.iter().enumerate() {
                    leaves(inner, &format!("{at}__{index}"), found);
                }
            }
            leaf => found.push((at.to_owned(), leaf.clone())),
        }
    }

    #[test]
    fn every_duration_number_and_text_of_the_defaults_is_refused_where_it_makes_no_sense() {
        // At a stop, or at the first failure, nothing need be waited for; and a marketplace may know no scopes.
        let makes_sense = [
            ("DOORBELL__SERVER__SHUTDOWN_TIMEOUT", "0s"),
            ("DOORBELL__DELIVERY__GIVE_UP_AFTER", "0s"),
            ("DOORBELL__INTEGRATIONS__0__MARKETPLACES__0__INBOUND__SCOPE", ""),
        ];
        let mut found = Vec::new();
        leaves(&Value::Table(DEFAULTS.parse().expect("TOML")), "DOORBELL", &mut found);
        assert!(found.len() > 30, "{found:?}");
        for (variable, value) in found {
            let senseless: &[&str] = match &value {
                Value::Integer(_) => &["0", "-1", "1.5", "9223372036854775807", "18446744073709551615", "", "many"],
                Value::String(text) if text.parse::<humantime::Duration>().is_ok() => {
                    &["0s", "40000d", "", "-1s", "30"]
                }
                Value::Boolean(_) => &["", "yes", "2"],
                _ => &["", " ", "\n", " x", "x\n"],
            };
            let senseless = senseless.iter().filter(|text| !makes_sense.contains(&(variable.as_str(), **text)));
            for text in senseless {
                let message = message("", &[(&variable, text)]);
                assert!(
                    message.contains(&format!("environment variable {variable}: ")),
                    "{variable}={text:?}: {message}"
                );
            }
        }
    }

    #[test]
    fn what_only_looks_configured_is_refused_with_what_to_write() {
        let off_loopback = |token: &str| format!("[admin]\nlisten = \"0.0.0.0:8081\"\ntoken = {token:?}");
        let outbound_with = |line: &str| outbound(&format!("{JWT}{line}"));
        for (file, expected) in [
            (off_loopback(""), "admin.token is empty; write a token of your own, or remove the key"),
            (off_loopback("  "), "admin.token is empty"),
            (off_loopback("operator\n"), "admin.token holds a line end"),
            (off_loopback("two words"), "admin.token holds a character that no header can carry"),
            (off_loopback("schlüssel"), "admin.token holds a character that no header can carry"),
            (off_loopback("Change-Me"), "admin.token is a placeholder everybody knows"),
            (off_loopback("..."), "admin.token is a placeholder"),
            (off_loopback("a"), "admin.token has 1 characters, which can be guessed"),
            (off_loopback("fifteen-letters"), "admin.token has 15 characters"),
            ("[admin]\ntoken = \"\"".into(), "admin.token is empty"),
            ("[admin]\nlisten = \"127.0.0.1:8080\"".into(), "admin.listen 127.0.0.1:8080 is server.listen"),
            (
                "[server]\nlisten = \"0.0.0.0:8081\"".into(),
                "admin.listen 127.0.0.1:8081 is server.listen 0.0.0.0:8081 too",
            ),
            (
                "[server]\ntrusted_proxies = [\"10.0.0.1\", \"::/0\"]".into(),
                "server.trusted_proxies holds ::/0, which is",
            ),
            ("[store]\nkeep = \"0s\"".into(), "store.keep is 0s, which makes no sense; write a duration from \"1m\""),
            ("[store]\nkeep = \"1ms\"".into(), "store.keep is 1ms, which makes no sense"),
            ("[store]\nkeep = \"101years\"".into(), "store.keep \"101years\" is longer than a hundred years"),
            ("[store]\nurl = \"sled: \"".into(), "store.url names no known store"),
            ("[delivery]\nretry = [\"5s\", \"0s\"]".into(), "delivery.retry[1] is 0s, which makes no sense"),
            ("[delivery]\nretry = []".into(), "delivery.retry is empty; write at least one"),
            (
                format!("[delivery]\nretry = [{}]", "\"1s\",".repeat(101)),
                "delivery.retry has 101 entries; write at most 100",
            ),
            (
                "[server.limits]\nmax_url_bytes = 10".into(),
                "max_url_bytes is 10, which makes no sense; write a number from 256",
            ),
            ("[log]\nlevel = \"verbose\"".into(), "log.level holds \"verbose\", which is not a level"),
            ("[log]\nlevel = \"inof,doorbell=debug\"".into(), "log.level holds \"inof\", which is not a level"),
            ("[log]\nlevel = \"info,\"".into(), "log.level is empty"),
            (INTEGRATION.replace("\"a\"", "\"..\""), "integrations[0].name must be up to 100 letters"),
            (
                INTEGRATION.replace("\"a\"", &format!("{:?}", "a".repeat(101))),
                "integrations[0].name must be up to 100 letters",
            ),
            (format!("{INTEGRATION}scope = \" \""), "integrations[0].marketplaces[0].inbound.scope is empty"),
            (INTEGRATION.replace("\"us\"", "\" us\""), "inbound.client_id begins or ends with a space"),
            (INTEGRATION.replace("s3cret-1", "s3cret-1\\n"), "outbound.client_secret holds a line end"),
            (INTEGRATION.replace("s3cret-2", "\\t"), "inbound.client_secret is empty; write the secret"),
            (
                INTEGRATION.replace("\"market\"", "\" \""),
                "outbound.client_id is empty; write the id the marketplace was given",
            ),
            (
                INTEGRATION.replace("[[integrations.marketplaces]]", "scope = \"\"\n[[integrations.marketplaces]]"),
                "outbound.scope is empty",
            ),
            (
                INTEGRATION
                    .replace("[[integrations.marketplaces]]", "token_lifetime = \"0s\"\n[[integrations.marketplaces]]"),
                "integrations[0].outbound.token_lifetime is 0s, which makes no sense",
            ),
            (
                outbound_with("").replace("\"us\"", "\" \""),
                "outbound.audience is empty; write what the tokens say there",
            ),
            (
                outbound(INTROSPECTION).replace("client_id = \"us\"", "client_id = \"\""),
                "introspection_client_id is empty",
            ),
            (
                outbound(&format!("{INTROSPECTION}issuer = \"\"")),
                "outbound.issuer is empty; write what the tokens say there, or",
            ),
        ] {
            let message = message(&file, &[]);
            assert!(message.contains(expected), "{file} gives {message}, which lacks {expected}");
            assert!(message.starts_with("doorbell.toml: "), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
    }

    #[test]
    fn a_secret_file_without_a_secret_or_a_name_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        for (written, named, expected) in [
            (" \n\n", format!("{path:?}"), "which is empty; write the secret into it"),
            ("s3cret \n", format!("{path:?}"), "outbound.client_secret begins or ends with a space"),
            ("s3cret", "5".to_owned(), "outbound.client_secret_file must be text"),
        ] {
            std::fs::write(&path, written).expect("written");
            let file = INTEGRATION.replace("client_secret = \"s3cret-1\"", &format!("client_secret_file = {named}"));
            let message = message(&file, &[]);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_marketplace_in_the_clear_is_refused_unless_it_is_allowed() {
        let clear = INTEGRATION.replace("https://market.example", "http://market.example");
        assert!(message(&clear, &[]).contains("marketplaces[0].base_url is http:// and no loopback address"));
        let allowed = clear.replace("base_url", "allow_http = true\nbase_url");
        assert!(with(&allowed, &[]).is_ok());
    }

    #[test]
    fn a_secret_can_come_from_a_file_without_its_line_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        std::fs::write(&path, "from-a-file\n").expect("written");
        let file = INTEGRATION.replace("client_secret = \"s3cret-1\"", &format!("client_secret_file = {path:?}"));
        assert_eq!(secret_of(&with(&file, &[]).expect("valid")), "from-a-file");
        let missing = INTEGRATION.replace("client_secret = \"s3cret-1\"", "client_secret_file = \"/nowhere\"");
        assert!(
            message(&missing, &[])
                .contains("integrations[0].outbound.client_secret_file names \"/nowhere\", which cannot be read")
        );
    }

    #[test]
    fn no_error_and_no_debug_repeats_a_secret() {
        let shown = [
            format!("{:?}", with(INTEGRATION, &[]).expect("valid")),
            message(&INTEGRATION.replace("\"s3cret-1\"", "[\"s3cret-1\"]"), &[]),
            message(&INTEGRATION.replace("\"s3cret-1\"", "\"s3cret-1"), &[]),
            message(&INTEGRATION.replace("\"s3cret-1\"", "53"), &[]).replace("53", "s3cret"),
            message("[store]\nurl = \"mysql://user:s3cret@host\"", &[]),
        ];
        for text in shown {
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
