//! Opaque tokens of an identity provider, which is asked about each (RFC 7662).
//!
//! A token that is in use is asked about again before what is known of it is too old, so that its callers wait for
//! nobody. Questions are tasks of their own: the answer to one that came too late for its caller is there for the next.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use lru::LruCache;
use serde_json::{Number, Value};
use tokio::sync::{Semaphore, watch};
use url::form_urlencoded::{Serializer, byte_serialize};

use super::admission::{Admission, Bounds, CallerClass, Place};
use super::at_most;

use super::{AuthenticationError, Caller};
use crate::clock::{Clock, Moment, Timestamp};
use crate::config::{self, Endpoint, Introspection};
use crate::egress::{Egress, EgressError};
use crate::event;
use crate::log_limiter::LogLimiter;
use crate::oidc::{Claims, Rules};

/// How long a token is good after the provider was asked about it: how long one that is revoked is still good here.
const GOOD_FOR: Duration = Duration::from_mins(1);
/// When one that is in use is asked about again.
const REFRESHED_AFTER: Duration = Duration::from_secs(30);
/// When it is asked about once more, if that came to nothing.
const REFRESHED_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long one that is not good is not asked about again.
const BAD_FOR: Duration = Duration::from_secs(5);
/// How long one that was good has a place of its own to be asked about.
const KNOWN_FOR: Duration = Duration::from_hours(24);
/// Good tokens that are remembered. A marketplace uses one at a time.
const REMEMBERED_GOOD: NonZeroUsize = at_most(256);
/// Bad ones.
const REMEMBERED_BAD: NonZeroUsize = at_most(1024);
/// How long a caller waits: a marketplace waits 5 s for its answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long an answer is waited for, whoever still wants it.
const LONGEST_QUESTION: Duration = Duration::from_secs(20);
/// Questions at once: about known tokens, from proven networks, from strangers.
const QUESTIONS: [usize; 3] = [16, 32, 16];
/// Tokens that are asked about or wait for that; callers with others are turned away.
const PLACES: Bounds = Bounds { total: 768, kept_for_known: 64, strangers: 256, of_stranger: 8, of_proven: 256 };
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

type IntrospectionResult = Result<Caller, AuthenticationError>;

/// One integration's client at one identity provider.
pub(super) struct Introspector {
    integration: Arc<str>,
    url: Endpoint,
    authorization: String,
    /// The same with the credentials as they are, where that differs: what an identity provider wants that compares them raw.
    raw: Option<String>,
    /// Whether that is how they were taken last.
    is_raw: AtomicBool,
    rules: Rules,
    egress: Egress,
    clock: Arc<dyn Clock>,
    log: LogLimiter,
    memory: Mutex<Memory>,
    admission: Arc<Admission>,
    questions: [Semaphore; 3],
}

/// What is known of tokens, by their digests: so much and no more, however long they are.
struct Memory {
    good: LruCache<Fingerprint, Good>,
    bad: LruCache<Fingerprint, (AuthenticationError, Moment)>,
    /// Those that are being asked about, so that any number of callers with one token ask once.
    asked_about: HashMap<Fingerprint, Arc<watch::Sender<Option<IntrospectionResult>>>>,
}

/// The SHA-256 digest of a token.
type Fingerprint = [u8; 32];

/// A token that was good when it was asked about.
struct Good {
    caller: Caller,
    asked: Moment,
    /// When the token itself ends.
    ends: Timestamp,
    refreshed_from: Moment,
}

/// What an answer says of a token.
enum Answer {
    Active(Claims),
    /// Then nothing else that it says matters.
    Inactive,
}

/// What an answer of this `Content-Type` says, if it is one of RFC 7662.
///
/// Its charset, the characters in its strings, and what it writes moments as are taken as they come; in a signed token
/// they are not. Names are not: what is not called as RFC 7662 calls it says nothing.
fn read(body: &[u8], content_type: Option<&str>) -> Option<Answer> {
    let mut answer = event::object(body, content_type)?;
    let active = answer.get("active")?.as_str()?;
    if active.eq_ignore_ascii_case("false") {
        return Some(Answer::Inactive);
    }
    if !active.eq_ignore_ascii_case("true") {
        return None;
    }
    for moment in ["exp", "nbf"] {
        let seconds = match answer.get(moment) {
            None | Some(Value::Null) => continue,
            Some(value) => value.as_str()?.trim(),
        };
        let seconds = if seconds.is_empty() { Value::Null } else { number(seconds)?.into() };
        answer.insert(moment.to_owned(), seconds);
    }
    serde_json::from_value(answer.into()).ok().map(Answer::Active)
}

/// A number, and the largest there is instead of a larger one.
fn number(text: &str) -> Option<Number> {
    let number: f64 = text.parse().ok()?;
    Number::from_f64(number.clamp(f64::MIN, f64::MAX))
}

impl Introspector {
    pub(super) fn new(
        integration: Arc<str>,
        introspection: &Introspection,
        egress: &config::Egress,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EgressError> {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let (id, secret) = (&introspection.introspection_client_id, &introspection.introspection_client_secret);
        let credentials = format!("{}:{}", encoded(id), encoded(secret.expose()));
        let as_they_are = format!("{id}:{}", secret.expose());
        let raw = (as_they_are != credentials && !id.contains(':'))
            .then(|| format!("Basic {}", STANDARD.encode(&as_they_are)));
        let url = introspection.introspection_url.clone();
        Ok(Self {
            integration,
            authorization: format!("Basic {}", STANDARD.encode(credentials)),
            raw,
            is_raw: AtomicBool::new(false),
            rules: Rules {
                client_id: introspection.client_id.clone(),
                client_id_claim: introspection.client_id_claim,
                issuer: introspection.issuer.clone(),
                audience: introspection.audience.clone(),
                scope: introspection.scope.clone(),
            },
            egress: Egress::new(egress, vec![url.base().clone()], MAX_ANSWER_BYTES)?,
            url,
            log: LogLimiter::new(Arc::clone(&clock)),
            memory: Mutex::new(Memory {
                good: LruCache::new(REMEMBERED_GOOD),
                bad: LruCache::new(REMEMBERED_BAD),
                asked_about: HashMap::new(),
            }),
            admission: Admission::new(PLACES, Arc::clone(&clock)),
            questions: QUESTIONS.map(Semaphore::new),
            clock,
        })
    }

    pub(super) fn integration(&self) -> &str {
        &self.integration
    }

    /// The caller that shows `token`, if the provider called it good within the last minute. It is asked again in good
    /// time.
    pub(super) fn recall(self: &Arc<Self>, token: &str, address: IpAddr) -> Option<Caller> {
        let fingerprint = fingerprint_of(token);
        let now = self.clock.read();
        let mut memory = self.memory();
        let good = memory.good.get_mut(&fingerprint).filter(|good| good.is_good_at(now.monotonic, now.wall))?;
        let caller = good.caller.clone();
        if good.refreshed_from <= now.monotonic {
            good.refreshed_from = now.monotonic.plus(REFRESHED_AGAIN_AFTER);
            if !memory.asked_about.contains_key(&fingerprint)
                && let Some(place) = self.admission.enter(address, true)
            {
                self.begin(&mut memory, fingerprint, token, place, IfNobodyWaits::GoOn);
            }
        }
        drop(memory);
        self.admission.proved(address);
        Some(caller)
    }

    /// The caller that shows `token` from `address`, in the words of its provider.
    pub(super) async fn verify(self: &Arc<Self>, token: &str, address: IpAddr) -> IntrospectionResult {
        if let Some(caller) = self.recall(token, address) {
            return Ok(caller);
        }
        let mut verdict = {
            let fingerprint = fingerprint_of(token);
            let now = self.clock.monotonic();
            let mut memory = self.memory();
            if let Some((error, until)) = memory.bad.get(&fingerprint)
                && *until > now
            {
                return Err(*error);
            }
            if let Some(asked) = memory.asked_about.get(&fingerprint) {
                asked.subscribe()
            } else {
                let is_known = memory.good.get(&fingerprint).is_some_and(|good| now.since(good.asked) < KNOWN_FOR);
                let Some(place) = self.admission.enter(address, is_known) else {
                    return Err(AuthenticationError::Unavailable);
                };
                self.begin(&mut memory, fingerprint, token, place, IfNobodyWaits::Stop)
            }
        };
        let unavailable = AuthenticationError::Unavailable;
        let verdict = tokio::select! {
            told = verdict.wait_for(Option::is_some) => told.ok().and_then(|told| told.clone()).unwrap_or(Err(unavailable)),
            () = self.clock.sleep(PATIENCE) => {
                self.warn("introspection_slow", "it does not answer in time");
                Err(unavailable)
            }
        };
        if verdict.is_ok() {
            self.admission.proved(address);
        }
        verdict
    }

    /// Begins to ask about a token: what tells the verdict.
    fn begin(
        self: &Arc<Self>,
        memory: &mut Memory,
        fingerprint: Fingerprint,
        token: &str,
        place: Place,
        if_nobody_waits: IfNobodyWaits,
    ) -> watch::Receiver<Option<IntrospectionResult>> {
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        memory.asked_about.insert(fingerprint, Arc::clone(&sender));
        let question = Question { introspector: Arc::clone(self), fingerprint, place, sender };
        let token = token.to_owned();
        tokio::spawn(async move { question.put(&token, if_nobody_waits).await });
        receiver
    }

    /// What the provider says of a token, remembered.
    async fn decide(&self, token: &str, fingerprint: Fingerprint) -> IntrospectionResult {
        let asked = self.clock.monotonic();
        let answer = tokio::select! {
            answer = self.ask(token) => answer,
            () = self.clock.sleep(LONGEST_QUESTION) => Err("it does not answer in time".to_owned()),
        };
        let answer = answer.map_err(|reason| {
            self.warn("introspection_failed", &reason);
            AuthenticationError::Unavailable
        })?;
        let now = self.clock.read();
        let ends = match answer {
            Answer::Active(claims) => claims
                .check(&self.rules, now.wall)
                .map(|()| claims.end().unwrap_or(Timestamp::MAX))
                .map_err(AuthenticationError::from),
            Answer::Inactive => Err(AuthenticationError::Invalid),
        };
        let mut memory = self.memory();
        match ends {
            Ok(ends) => {
                let caller = Caller { integration: Arc::clone(&self.integration) };
                memory.bad.pop(&fingerprint);
                memory.good.put(
                    fingerprint,
                    Good { caller: caller.clone(), asked, ends, refreshed_from: asked.plus(REFRESHED_AFTER) },
                );
                Ok(caller)
            }
            Err(error) => {
                memory.good.pop(&fingerprint);
                memory.bad.put(fingerprint, (error, now.monotonic.plus(BAD_FOR)));
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
        let is_raw = self.is_raw.load(Ordering::Relaxed);
        let mut answer = self.ask_as(&form, is_raw).await?;
        let is_refused = matches!(answer.status(), http::StatusCode::UNAUTHORIZED | http::StatusCode::FORBIDDEN);
        if is_refused && self.raw.is_some() {
            answer = self.ask_as(&form, !is_raw).await?;
            if answer.status() == http::StatusCode::OK {
                self.is_raw.store(!is_raw, Ordering::Relaxed);
            }
        }
        if answer.status() != http::StatusCode::OK {
            return Err(format!("it answered {}", answer.status()));
        }
        // The parser's words could quote the answer, which is not ours to show.
        let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        read(answer.body(), content_type).ok_or_else(|| "its answer is not one of RFC 7662".to_owned())
    }

    async fn ask_as(&self, form: &str, is_raw: bool) -> Result<http::Response<Vec<u8>>, String> {
        let authorization = self.raw.as_ref().filter(|_| is_raw).unwrap_or(&self.authorization);
        let request = Request::post(self.url.as_str())
            .header(AUTHORIZATION, authorization)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.as_bytes().to_vec())
            .map_err(|error| error.to_string())?;
        self.egress.call(request).await.map_err(|error| error.to_string())
    }

    /// Strangers can bring this about as often as they like.
    fn warn(&self, kind: &'static str, reason: &str) {
        if let Some(times) = self.log.admit(kind) {
            tracing::warn!(url = %self.url, reason, times, "the identity provider cannot be asked about a token");
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Good {
    fn is_good_at(&self, now: Moment, wall: Timestamp) -> bool {
        now.since(self.asked) < GOOD_FOR && self.ends > wall
    }
}

/// What becomes of a question that has not been put yet when nobody waits for its answer any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfNobodyWaits {
    Stop,
    GoOn,
}

/// A token that is being asked about, or waits for that.
struct Question {
    introspector: Arc<Introspector>,
    fingerprint: Fingerprint,
    place: Place,
    sender: Arc<watch::Sender<Option<IntrospectionResult>>>,
}

impl Question {
    async fn put(self, token: &str, if_nobody_waits: IfNobodyWaits) {
        let of_standing = match self.place.class {
            CallerClass::Known => 0,
            CallerClass::Proven => 1,
            CallerClass::Stranger => 2,
        };
        let turn = loop {
            tokio::select! {
                turn = self.introspector.questions[of_standing].acquire() => break turn,
                () = self.sender.closed(), if if_nobody_waits == IfNobodyWaits::Stop => {
                    // Whoever comes meanwhile looks for the question under this lock.
                    let mut memory = self.introspector.memory();
                    if self.sender.receiver_count() == 0 {
                        memory.asked_about.remove(&self.fingerprint);
                        return;
                    }
                }
            }
        };
        let verdict = self.introspector.decide(token, self.fingerprint).await;
        drop(turn);
        self.introspector.memory().asked_about.remove(&self.fingerprint);
        self.sender.send_replace(Some(verdict));
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // A question that is cut off, as at the end of its thread, is not waited for by those who come later.
        let mut memory = self.introspector.memory();
        if memory.asked_about.get(&self.fingerprint).is_some_and(|asked| Arc::ptr_eq(asked, &self.sender)) {
            memory.asked_about.remove(&self.fingerprint);
        }
    }
}

fn fingerprint_of(token: &str) -> Fingerprint {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    fingerprint
}
