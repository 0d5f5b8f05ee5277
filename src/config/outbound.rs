//! `[integrations.outbound]`: how the marketplace authenticates to us.

use std::time::Duration;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::bounds::text_fault;
use super::{Endpoint, Secret, from_text, parse_duration};
use crate::event::BaseUrl;

/// The ways in which one integration's marketplaces may authenticate to us: one table, or a list of them while a
/// marketplace moves from one to another.
#[derive(Debug, Clone)]
pub struct OutboundCredentials(Vec<Outbound>);

/// One way in which a marketplace may authenticate to us.
#[derive(Debug, Clone)]
pub enum Outbound {
    /// Tokens of our own token endpoint.
    Oauth2(Oauth2),
    /// Signed tokens (RFC 7519) of the vendor's identity provider.
    Jwt(Jwt),
    /// Opaque tokens of the vendor's identity provider, which is asked about each (RFC 7662).
    Introspection(Introspection),
    /// A name and a password with every notification (RFC 7617).
    Basic(SharedSecret),
    /// A signature over every notification (RFC 5849), by integrations older than December 2020.
    Oauth1(SharedSecret),
}

/// A client's name and what only it and we know.
#[derive(Debug, Clone)]
pub struct SharedSecret {
    /// Who it says it is.
    pub client_id: String,
    /// How it proves it.
    pub client_secret: Secret,
    /// The secret that came before, good until it is removed: both are while a marketplace is given a new one.
    pub previous_client_secret: Option<Secret>,
}

/// Client credentials at our own token endpoint.
#[derive(Debug, Clone)]
pub struct Oauth2 {
    /// Who may ask for tokens.
    pub client: SharedSecret,
    /// How long a token is good.
    pub token_lifetime: Duration,
    /// What may be asked for, and what a notification's token must carry. Without it anything may be asked for,
    /// and what is granted is the one scope there is.
    pub scope: Option<Vec<String>>,
}

/// What a token of an identity provider must say.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// The marketplace's client at the identity provider.
    pub client_id: String,
    /// Which claim names it.
    pub client_id_claim: ClientIdClaim,
    /// Who issues, as the claim `iss` has it.
    pub issuer: String,
    /// For whom, as the claim `aud` has it.
    pub audience: String,
    /// Where its keys are; without it, where its discovery document says.
    pub jwks_url: Option<Endpoint>,
    /// How its tokens may be signed.
    pub algorithms: Vec<SigningAlgorithm>,
    /// What a token must carry, all of it.
    pub scope: Vec<String>,
    /// Whether it may be called in the clear.
    pub allow_http: bool,
}

/// Where to ask about a token, and what the answer must say.
#[derive(Debug, Clone)]
pub struct Introspection {
    /// The marketplace's client at the identity provider.
    pub client_id: String,
    /// Which field of the answer names it.
    pub client_id_claim: ClientIdClaim,
    /// Where to ask.
    pub introspection_url: Endpoint,
    /// Who we are there.
    pub introspection_client_id: String,
    /// How we prove it.
    pub introspection_client_secret: Secret,
    /// Who must have issued the token, if that is looked at.
    pub issuer: Option<String>,
    /// For whom it must be, if that is looked at.
    pub audience: Option<String>,
    /// What a token must carry, all of it.
    pub scope: Vec<String>,
    /// Whether it may be called in the clear.
    pub allow_http: bool,
}

/// Which claim of a token names the client it was issued to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientIdClaim {
    /// `azp`, of OpenID Connect.
    Azp,
    /// `client_id`, of RFC 9068 and RFC 7662.
    ClientId,
    /// `sub`.
    Sub,
}

/// How a token may be signed: with a key pair, so that who can verify cannot sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[expect(missing_docs, reason = "the names are those of RFC 7518 and RFC 8037")]
pub enum SigningAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Oauth2,
    Jwt,
    Introspection,
    Basic,
    Oauth1,
}

/// Every key there is for any kind. Read as it is, so that a fault is reported under its own key, and then as the
/// kind that it says it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutboundTable {
    kind: Kind,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    previous_client_secret: Option<Secret>,
    #[serde(default, deserialize_with = "some_duration")]
    token_lifetime: Option<Duration>,
    scope: Option<String>,
    client_id_claim: Option<ClientIdClaim>,
    issuer: Option<String>,
    audience: Option<String>,
    jwks_url: Option<Endpoint>,
    algorithms: Option<Vec<SigningAlgorithm>>,
    introspection_url: Option<Endpoint>,
    introspection_client_id: Option<String>,
    introspection_client_secret: Option<Secret>,
    #[serde(default, deserialize_with = "from_text")]
    allow_http: bool,
}

const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_hours(1);

/// Takes a field that the kind needs.
macro_rules! needed {
    ($table:ident.$field:ident) => {
        $table.$field.take().ok_or_else(|| E::missing_field(stringify!($field)))?
    };
}

impl OutboundTable {
    fn typed<E: serde::de::Error>(self) -> Result<Outbound, E> {
        let mut table = self.refuse_foreign()?;
        let allow_http = table.allow_http;
        let client_id_claim = table.client_id_claim.unwrap_or(ClientIdClaim::Azp);
        let scope = table.scope.take().map(|scope| words(&scope));
        Ok(match table.kind {
            Kind::Oauth2 => Outbound::Oauth2(Oauth2 {
                token_lifetime: table.token_lifetime.unwrap_or(DEFAULT_TOKEN_LIFETIME),
                scope,
                client: table.shared_secret()?,
            }),
            Kind::Basic => Outbound::Basic(table.shared_secret()?),
            Kind::Oauth1 => Outbound::Oauth1(table.shared_secret()?),
            Kind::Jwt => Outbound::Jwt(Jwt {
                client_id: needed!(table.client_id),
                client_id_claim,
                issuer: needed!(table.issuer),
                audience: needed!(table.audience),
                jwks_url: table.jwks_url.take(),
                algorithms: table.algorithms.take().unwrap_or_else(|| vec![SigningAlgorithm::RS256]),
                scope: scope.unwrap_or_default(),
                allow_http,
            }),
            Kind::Introspection => Outbound::Introspection(Introspection {
                client_id: needed!(table.client_id),
                client_id_claim: table.client_id_claim.unwrap_or(ClientIdClaim::ClientId),
                introspection_url: needed!(table.introspection_url),
                introspection_client_id: needed!(table.introspection_client_id),
                introspection_client_secret: needed!(table.introspection_client_secret),
                issuer: table.issuer.take(),
                audience: table.audience.take(),
                scope: scope.unwrap_or_default(),
                allow_http,
            }),
        })
    }

    fn shared_secret<E: serde::de::Error>(&mut self) -> Result<SharedSecret, E> {
        Ok(SharedSecret {
            client_id: needed!(self.client_id),
            client_secret: needed!(self.client_secret),
            previous_client_secret: self.previous_client_secret.take(),
        })
    }

    /// A key of another kind is as wrong as one that nobody knows: what it was meant to say is not done.
    fn refuse_foreign<E: serde::de::Error>(self) -> Result<Self, E> {
        const SHARED: &[&str] = &["kind", "client_id", "client_secret", "previous_client_secret"];
        const OAUTH2: &[&str] =
            &["kind", "client_id", "client_secret", "previous_client_secret", "token_lifetime", "scope"];
        const JWT: &[&str] = &[
            "kind",
            "client_id",
            "client_id_claim",
            "issuer",
            "audience",
            "jwks_url",
            "algorithms",
            "scope",
            "allow_http",
        ];
        const INTROSPECTION: &[&str] = &[
            "kind",
            "client_id",
            "client_id_claim",
            "introspection_url",
            "introspection_client_id",
            "introspection_client_secret",
            "issuer",
            "audience",
            "scope",
            "allow_http",
        ];
        let known = match self.kind {
            Kind::Oauth2 => OAUTH2,
            Kind::Basic | Kind::Oauth1 => SHARED,
            Kind::Jwt => JWT,
            Kind::Introspection => INTROSPECTION,
        };
        let given = [
            ("client_secret", self.client_secret.is_some()),
            ("previous_client_secret", self.previous_client_secret.is_some()),
            ("token_lifetime", self.token_lifetime.is_some()),
            ("scope", self.scope.is_some()),
            ("client_id_claim", self.client_id_claim.is_some()),
            ("issuer", self.issuer.is_some()),
            ("audience", self.audience.is_some()),
            ("jwks_url", self.jwks_url.is_some()),
            ("algorithms", self.algorithms.is_some()),
            ("introspection_url", self.introspection_url.is_some()),
            ("introspection_client_id", self.introspection_client_id.is_some()),
            ("introspection_client_secret", self.introspection_client_secret.is_some()),
            ("allow_http", self.allow_http),
        ];
        match given.into_iter().find(|(field, is_given)| *is_given && !known.contains(field)) {
            Some((field, _)) => Err(E::unknown_field(field, known)),
            None => Ok(self),
        }
    }
}

impl Outbound {
    /// The kind, as the configuration writes it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Oauth2(_) => "oauth2",
            Self::Jwt(_) => "jwt",
            Self::Introspection(_) => "introspection",
            Self::Basic(_) => "basic",
            Self::Oauth1(_) => "oauth1",
        }
    }

    /// The name of the marketplace's client.
    #[must_use]
    pub fn client_id(&self) -> &str {
        match self {
            Self::Oauth2(oauth2) => &oauth2.client.client_id,
            Self::Jwt(jwt) => &jwt.client_id,
            Self::Introspection(introspection) => &introspection.client_id,
            Self::Basic(client) | Self::Oauth1(client) => &client.client_id,
        }
    }

    /// Within what the client's name must be its own: two integrations whose callers look the same could not be
    /// told apart.
    pub(super) fn realm(&self) -> (&'static str, &str) {
        let within = match self {
            Self::Oauth2(_) | Self::Basic(_) | Self::Oauth1(_) => "",
            Self::Jwt(jwt) => &jwt.issuer,
            Self::Introspection(introspection) => introspection.introspection_url.as_str(),
        };
        (self.kind(), within)
    }

    /// Every secret with its key.
    pub(super) fn secrets(&self) -> Vec<(&'static str, &Secret)> {
        match self {
            Self::Oauth2(Oauth2 { client, .. }) | Self::Basic(client) | Self::Oauth1(client) => {
                let previous = client.previous_client_secret.iter().map(|secret| ("previous_client_secret", secret));
                std::iter::once(("client_secret", &client.client_secret)).chain(previous).collect()
            }
            Self::Introspection(introspection) => {
                vec![("introspection_client_secret", &introspection.introspection_client_secret)]
            }
            Self::Jwt(_) => Vec::new(),
        }
    }

    /// What is wrong, by key.
    pub(super) fn invalid_values(&self) -> Vec<(&'static str, String)> {
        let mut invalid_values = Vec::new();
        let mut texts = vec![("client_id", self.client_id(), "the id the marketplace was given")];
        let mut scopes = None;
        match self {
            Self::Oauth2(oauth2) => scopes = oauth2.scope.as_ref(),
            Self::Jwt(jwt) => {
                texts.push(("issuer", &jwt.issuer, "what the tokens say there"));
                texts.push(("audience", &jwt.audience, "what the tokens say there"));
            }
            Self::Introspection(introspection) => {
                texts.push(("introspection_client_id", &introspection.introspection_client_id, "our id there"));
                let given = [("issuer", &introspection.issuer), ("audience", &introspection.audience)];
                let given = given.into_iter().filter_map(|(field, text)| Some((field, text.as_deref()?)));
                texts.extend(given.map(|(field, text)| (field, text, "what the tokens say there, or remove the key")));
            }
            Self::Basic(_) | Self::Oauth1(_) => {}
        }
        for (field, text, remedy) in texts {
            if let Some(problem) = text_fault(text) {
                invalid_values.push((field, format!("{problem}; write {remedy}")));
            }
        }
        if scopes.is_some_and(Vec::is_empty) {
            invalid_values
                .push(("scope", "is empty; write the scopes that may be asked for, or remove the key".to_owned()));
        }
        if self.client_id().contains(':') {
            invalid_values
                .push(("client_id", "must not hold a ':'; write the id the marketplace was given".to_owned()));
        }
        let mut clear = |field, url: &BaseUrl, allow_http| {
            if !(url.is_https() || url.is_loopback() || allow_http) {
                let problem = "is http:// and no loopback address, so it could be forged on the way; write https://, \
                               or set allow_http = true beside it";
                invalid_values.push((field, problem.to_owned()));
            }
        };
        match self {
            Self::Jwt(jwt) => {
                match (&jwt.jwks_url, BaseUrl::parse(&jwt.issuer)) {
                    (Some(url), _) => clear("jwks_url", url.base(), jwt.allow_http),
                    (None, Ok(issuer)) => clear("issuer", &issuer, jwt.allow_http),
                    (None, Err(error)) => invalid_values.push((
                        "issuer",
                        format!("{error}; its keys are looked for there, unless jwks_url says where they are"),
                    )),
                }
                if jwt.algorithms.is_empty() {
                    invalid_values.push(("algorithms", "is empty; write at least one, such as [\"RS256\"]".to_owned()));
                }
            }
            Self::Introspection(introspection) => {
                clear("introspection_url", introspection.introspection_url.base(), introspection.allow_http);
            }
            Self::Oauth2(_) | Self::Basic(_) | Self::Oauth1(_) => {}
        }
        invalid_values
    }
}

impl OutboundCredentials {
    /// Each way.
    pub fn iter(&self) -> impl Iterator<Item = &Outbound> {
        self.0.iter()
    }

    /// Each way, with the key it stands under.
    pub(super) fn keyed(&self) -> impl Iterator<Item = (String, &Outbound)> {
        let is_list = self.0.len() > 1;
        let key = move |index| if is_list { format!("outbound[{index}]") } else { "outbound".to_owned() };
        self.0.iter().enumerate().map(move |(index, outbound)| (key(index), outbound))
    }

    /// The client that may ask our own token endpoint, if there is one.
    #[must_use]
    pub fn oauth2(&self) -> Option<&Oauth2> {
        self.0.iter().find_map(|outbound| match outbound {
            Outbound::Oauth2(oauth2) => Some(oauth2),
            _ => None,
        })
    }
}

impl<'de> Deserialize<'de> for Outbound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        OutboundTable::deserialize(deserializer)?.typed()
    }
}

impl<'de> Deserialize<'de> for OutboundCredentials {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = OutboundCredentials;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table, or a list of tables")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Outbound::deserialize(MapAccessDeserializer::new(map)).map(|one| OutboundCredentials(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OutboundCredentials)
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map(Some)
}
