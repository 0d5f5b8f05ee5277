//! Inbound tokens: fetched with our credentials, cached, renewed before they end.
//!
//! A marketplace is asked for one token at a time, in a task of its own. All who need a token share what comes of it, so
//! that nobody queues; when it fails, it fails for all of them at once. Then the endpoint is left alone for a moment,
//! in which callers learn the reason without asking again: an endpoint that hangs costs each event one failed attempt, and
//! not one after the other the whole time that a request may take.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use super::call_error::CallError;
use super::token_endpoint::{CredentialForm, Issued, TokenEndpoint};
use crate::clock::{Clock, Moment};

/// What a token is good for when the answer does not say: what marketplaces usually give.
const ASSUMED_LIFETIME: Duration = Duration::from_hours(1);
/// How long before its end a token is renewed, unless it lives too short for that.
const RENEWAL_MARGIN: Duration = Duration::from_mins(1);
/// How long an endpoint that fails is left alone at most, and how long its next answer is waited for.
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(5);
/// The same where the endpoint asks for it by `Retry-After`. Events that failed wait as long as it asks; this is how soon
/// later ones find out whether it still holds.
const LONGEST_ASKED_COOL_DOWN: Duration = Duration::from_mins(1);

/// The tokens of one inbound client in one marketplace.
///
/// A token leaves here only for the marketplace it was issued by: each client owns its own `Tokens` (G6).
pub(super) struct Tokens(Arc<Shared>);

struct Shared {
    endpoint: TokenEndpoint,
    /// Where the tokens are for, as logs name it.
    marketplace: String,
    clock: Arc<dyn Clock>,
    /// How long one request may take.
    limit: Duration,
    cache: Mutex<Cache>,
}

/// What a request came to, for all who waited for it.
type Outcome = Result<SecretString, CallError>;

#[derive(Default)]
struct Cache {
    token: Option<Token>,
    /// The request that is on its way.
    request: Option<watch::Receiver<Option<Outcome>>>,
    /// Set while the endpoint fails.
    failure: Option<Failure>,
}

struct Token {
    secret: SecretString,
    renew_at: Moment,
    ends_at: Moment,
}

/// The last failure of a series.
struct Failure {
    /// How many there were.
    count: u32,
    reason: String,
    /// Until when the endpoint is left alone.
    until: Moment,
    /// Until when it asked for that.
    asked_until: Moment,
}

impl Failure {
    /// The failure as a caller learns of it at `now`.
    fn error(&self, now: Moment) -> CallError {
        let wait = self.until.max(self.asked_until).since(now);
        CallError::token(self.reason.clone(), (!wait.is_zero()).then_some(wait))
    }
}

/// What a caller is to do.
enum Need {
    Take(SecretString),
    Fail(CallError),
    /// Wait for the request that is on its way, and so long if the endpoint has been failing.
    Wait(watch::Receiver<Option<Outcome>>, Option<(Duration, CallError)>),
}

impl Tokens {
    pub(super) fn new(endpoint: TokenEndpoint, marketplace: String, clock: Arc<dyn Clock>, limit: Duration) -> Self {
        Self(Arc::new(Shared { endpoint, marketplace, clock, limit, cache: Mutex::default() }))
    }

    /// The form in which our credentials were taken last.
    pub(super) fn form(&self) -> CredentialForm {
        self.0.endpoint.form()
    }

    /// A token that is good for a while yet.
    ///
    /// A caller that goes away takes nothing from the others: the request is nobody's.
    pub(super) async fn get(&self) -> Result<SecretString, CallError> {
        let (mut request, patience) = match self.need() {
            Need::Take(token) => return Ok(token),
            Need::Fail(error) => return Err(error),
            Need::Wait(request, patience) => (request, patience),
        };
        let outcome = async {
            match request.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(outcome)) => outcome.clone(),
                Ok(None) | Err(_) => Err(CallError::token("the request for one was given up".to_owned(), None)),
            }
        };
        let Some((patience, error)) = patience else { return outcome.await };
        tokio::select! {
            outcome = outcome => outcome,
            () = self.0.clock.sleep(patience) => Err(error),
        }
    }

    /// Forgets `refused`, unless it has been renewed since.
    pub(super) fn forget(&self, refused: &SecretString) {
        let mut cache = self.0.cache();
        if cache.token.as_ref().is_some_and(|token| token.secret.expose_secret() == refused.expose_secret()) {
            cache.token = None;
        }
    }

    /// Looks what there is, and sees to it that a request is on its way if one is needed.
    fn need(&self) -> Need {
        let now = self.0.clock.monotonic();
        let mut cache = self.0.cache();
        let good = cache.token.as_ref().filter(|token| now < token.ends_at);
        let secret = good.map(|token| token.secret.clone());
        let is_fresh = good.is_some_and(|token| now < token.renew_at);
        if let (Some(secret), true) = (&secret, is_fresh) {
            return Need::Take(secret.clone());
        }
        // Its sender is only gone while it is still here if the request panicked.
        let on_its_way = cache.request.take().filter(|request| request.has_changed().is_ok());
        let request = match (on_its_way, cache.failure.as_ref().filter(|failure| now < failure.until)) {
            (Some(request), _) => request,
            (None, Some(failure)) => {
                return secret.map_or_else(|| Need::Fail(failure.error(now)), Need::Take);
            }
            (None, None) => {
                let (sender, receiver) = watch::channel(None);
                tokio::spawn(Arc::clone(&self.0).ask(sender));
                receiver
            }
        };
        cache.request = Some(request.clone());
        // While the old one is good nobody has to wait for its successor.
        secret.map_or_else(
            || {
                let patience = cache.failure.as_ref().map(|failure| (LONGEST_COOL_DOWN, failure.error(now)));
                Need::Wait(request, patience)
            },
            Need::Take,
        )
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one request and tells everybody what came of it.
    async fn ask(self: Arc<Self>, everybody: watch::Sender<Option<Outcome>>) {
        let asked_at = self.clock.monotonic();
        let answer = tokio::select! {
            answer = self.endpoint.ask() => answer,
            () = self.clock.sleep(self.limit) => {
                let limit = humantime::format_duration(self.limit);
                Err(CallError::token(format!("the token endpoint did not answer within {limit}"), None))
            }
        };
        let outcome = match answer {
            Ok(issued) => Ok(self.keep(issued, asked_at)),
            Err(error) => Err(self.fail(&error, asked_at)),
        };
        // Nobody may be waiting any more.
        let _ = everybody.send(Some(outcome));
    }

    fn keep(&self, issued: Issued, asked_at: Moment) -> SecretString {
        let lifetime = issued.lifetime.unwrap_or(ASSUMED_LIFETIME);
        let margin = RENEWAL_MARGIN.min(lifetime / 2);
        let (ends_at, renew_at) = (asked_at.plus(lifetime), asked_at.plus(lifetime.saturating_sub(margin)));
        let mut cache = self.cache();
        cache.request = None;
        let failed = cache.failure.take();
        cache.token = Some(Token { secret: issued.secret.clone(), renew_at, ends_at });
        drop(cache);
        if let Some(failure) = failed {
            tracing::info!(
                marketplace = self.marketplace,
                failures = failure.count,
                "the token endpoint gives tokens again"
            );
        }
        issued.secret
    }

    fn fail(&self, error: &CallError, asked_at: Moment) -> CallError {
        let now = self.clock.monotonic();
        let reason = match error {
            CallError::Token { reason, .. } => reason.clone(),
            CallError::Egress(_) | CallError::Status { .. } => error.to_string(),
        };
        let asked = error.retry_after().unwrap_or_default();
        let mut cache = self.cache();
        cache.request = None;
        let count = cache.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        let until = now.plus(cool_down(count, now.since(asked_at), asked));
        let failure = Failure { count, reason, until, asked_until: now.plus(asked) };
        let error = failure.error(now);
        cache.failure = Some(failure);
        drop(cache);
        if count == 1 {
            tracing::warn!(marketplace = self.marketplace, %error, "the token endpoint gives no token");
        }
        error
    }
}

/// How long an endpoint is left alone after so many failures in a row, the last of which took so long.
///
/// One failure that came at once costs nothing; what hangs, or keeps failing, is asked less often.
fn cool_down(failures: u32, took: Duration, asked: Duration) -> Duration {
    let grown = match failures {
        0 | 1 => Duration::ZERO,
        2 => Duration::from_secs(1),
        3 => Duration::from_secs(2),
        4.. => LONGEST_COOL_DOWN,
    };
    grown.max(took).min(LONGEST_COOL_DOWN).max(asked.min(LONGEST_ASKED_COOL_DOWN))
}
