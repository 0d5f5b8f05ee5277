//! Opaque tokens of an identity provider, which is asked about each (RFC 7662).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::claims::{Claims, Rules};
use super::remembered::Remembered;
use super::{AuthenticationError, Caller};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Endpoint, Introspection};
use crate::egress::{Egress, EgressError};

/// How long a token that is good is not asked about again.
const GOOD_FOR: Duration = Duration::from_mins(1);
/// How long one that is not is not asked about again.
const BAD_FOR: Duration = Duration::from_secs(5);
/// How long a caller waits: a marketplace waits 5 s for its answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// Tokens that are being asked about at once; callers with others are turned away.
const IN_FLIGHT: usize = 64;
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// One integration's client at one identity provider.
pub(super) struct Introspector {
    integration: usize,
    url: Endpoint,
    authorization: String,
    rules: Rules,
    egress: Egress,
    clock: Arc<dyn Clock>,
    good: Remembered<Caller>,
    bad: Remembered<AuthenticationError>,
    /// Held while a token is asked about, so that any number of callers with one token ask once.
    in_flight: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Deserialize)]
struct Answer {
    active: bool,
    #[serde(flatten)]
    claims: Claims,
}

impl Introspector {
    pub(super) fn new(
        integration: usize,
        introspection: &Introspection,
        egress: &config::Egress,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EgressError> {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let (id, secret) = (&introspection.introspection_client_id, &introspection.introspection_client_secret);
        let credentials = format!("{}:{}", encoded(id), encoded(secret.expose()));
        let url = introspection.introspection_url.clone();
        Ok(Self {
            integration,
            authorization: format!("Basic {}", STANDARD.encode(credentials)),
            rules: Rules {
                client_id: introspection.client_id.clone(),
                client_id_claim: introspection.client_id_claim,
                issuer: introspection.issuer.clone(),
                audience: introspection.audience.clone(),
                scope: introspection.scope.clone(),
            },
            egress: Egress::new(egress, vec![url.base().clone()], MAX_ANSWER_BYTES)?,
            url,
            clock,
            good: Remembered::new(),
            bad: Remembered::new(),
            in_flight: Mutex::default(),
        })
    }

    pub(super) const fn integration(&self) -> usize {
        self.integration
    }

    /// What the provider said of `token` a moment ago.
    pub(super) fn recall(&self, token: &str, now: Timestamp) -> Option<Result<Caller, AuthenticationError>> {
        self.good.recall(token, now).map(Ok).or_else(|| self.bad.recall(token, now).map(Err))
    }

    /// The caller that shows `token`, in the words of its provider.
    pub(super) async fn verify(&self, token: &str) -> Result<Caller, AuthenticationError> {
        let turn = self.queue(token)?;
        tokio::select! {
            verdict = self.ask_in_turn(token, &turn.lock) => verdict,
            () = self.clock.sleep(PATIENCE) => {
                tracing::warn!(url = %self.url, "the identity provider does not answer in time");
                Err(AuthenticationError::Unavailable)
            }
        }
    }

    /// A place among those who ask about `token`.
    fn queue<'a>(&'a self, token: &'a str) -> Result<Turn<'a>, AuthenticationError> {
        let mut in_flight = self.in_flight();
        if in_flight.len() >= IN_FLIGHT && !in_flight.contains_key(token) {
            return Err(AuthenticationError::Unavailable);
        }
        let lock = Arc::clone(in_flight.entry(token.to_owned()).or_default());
        Ok(Turn { introspector: self, token, lock })
    }

    async fn ask_in_turn(&self, token: &str, turn: &tokio::sync::Mutex<()>) -> Result<Caller, AuthenticationError> {
        let _turn = turn.lock().await;
        let now = self.clock.now();
        if let Some(verdict) = self.recall(token, now) {
            return verdict;
        }
        let answer = self.ask(token).await.map_err(|reason| {
            tracing::warn!(url = %self.url, reason, "a token cannot be asked about");
            AuthenticationError::Unavailable
        })?;
        let verdict =
            if answer.active { answer.claims.check(&self.rules, now) } else { Err(AuthenticationError::Invalid) };
        match verdict {
            Ok(()) => {
                let caller = Caller { integration: self.integration };
                let until = now.plus(GOOD_FOR).min(answer.claims.end().unwrap_or(Timestamp::MAX));
                self.good.keep(token, caller, until, self.good.generation());
                Ok(caller)
            }
            Err(error) => {
                self.bad.keep(token, error, now.plus(BAD_FOR), self.bad.generation());
                Err(error)
            }
        }
    }

    /// Asks about a token that is none: whether the provider answers us.
    pub(super) async fn check(&self) -> Result<String, String> {
        let answered = self.ask("doorbell-check").await.map(|_| format!("{} answers us", self.url));
        answered.map_err(|reason| format!("{}: {reason}", self.url))
    }

    /// What the provider says of `token`, or why it says nothing.
    async fn ask(&self, token: &str) -> Result<Answer, String> {
        let form: String = Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let request = Request::post(self.url.as_str())
            .header(AUTHORIZATION, &self.authorization)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.into_bytes())
            .map_err(|error| error.to_string())?;
        let answer = self.egress.call(request).await.map_err(|error| error.to_string())?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("it answered {}", answer.status()));
        }
        // The parser's words could quote the answer, which is not ours to show.
        serde_json::from_slice(answer.body()).map_err(|_| "its answer is not one of RFC 7662".to_owned())
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those who ask about a token. Given back when it is dropped, whatever becomes of its holder.
struct Turn<'a> {
    introspector: &'a Introspector,
    token: &'a str,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.introspector.in_flight();
        // The map holds one, and we hold one: nobody else waits.
        if Arc::strong_count(&self.lock) <= 2 {
            in_flight.remove(self.token);
        }
    }
}
