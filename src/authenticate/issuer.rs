//! The built-in issuer: tokens a marketplace gets from us, and shows us again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header, encode};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::admission::{Admission, KEY_PATIENCE, KEY_WAITERS};
use super::credentials::NameAndPassword;
use super::keyring::{KeyInfo, Keyring, KeyringError, Keys};
use super::login_throttle::{LoginThrottle, Refused};
use super::shared_secret::{Client, proven};
use super::token_cache::TokenCache;
use super::{AuthenticationError, Caller};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Oauth2};
use crate::event::BaseUrl;
use crate::store::Secrets;

/// The scope of every token, where none is configured.
pub(super) const SCOPE: &str = "notifications";
/// The one algorithm tokens are signed with and accepted in.
const ALGORITHM: Algorithm = Algorithm::HS256;

/// Issues and verifies bearer tokens.
pub struct Issuer {
    /// Who issues, and for whom: our own address, so that a token of another receiver is none here.
    identity: String,
    clients: Vec<Client>,
    /// What each client's tokens are like, in the order of the clients.
    grants: Vec<Grant>,
    longest_lifetime: Duration,
    keyring: Arc<Keyring>,
    /// Who waits for the keys to be read again.
    waiting: Arc<Admission>,
    clock: Arc<dyn Clock>,
    validation: Validation,
    /// Tokens whose signature and claims were found good. Their end is looked at every time.
    /// With the version of the keys they were verified by.
    verified: TokenCache<(Result<Caller, AuthenticationError>, u64)>,
}

struct Grant {
    lifetime: Duration,
    /// The scopes that may be asked for, if that is looked at.
    may_ask_for: Option<Vec<String>>,
}

impl Grant {
    fn of(oauth2: &Oauth2) -> Self {
        Self { lifetime: oauth2.token_lifetime, may_ask_for: oauth2.scope.clone() }
    }

    /// What a notification's token must carry.
    fn needs(&self) -> Vec<&str> {
        self.may_ask_for.as_ref().map_or_else(|| vec![SCOPE], |scopes| scopes.iter().map(String::as_str).collect())
    }
}

/// What a client asks the token endpoint for.
#[derive(Debug, Default)]
pub struct TokenRequest {
    /// `scope`, words separated by spaces.
    pub scope: Option<String>,
    /// `audience`, or `resource` (RFC 8707): whom the token is to be for.
    pub audiences: Vec<String>,
}

/// A token fresh from the issuer.
pub struct IssuedToken {
    /// The token itself.
    pub access_token: String,
    /// How long it is good.
    pub lifetime: Duration,
    /// What it is good for.
    pub scope: String,
}

/// Why no token is issued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenRefused {
    /// The client is unknown, or its secret wrong; which of the two is not said.
    #[error("unknown client or wrong secret")]
    Client,
    /// Too many failures from the caller's address.
    #[error("too many failures from this address; wait before the next try")]
    TooManyFailures {
        /// How long.
        retry_after: Duration,
    },
    /// A scope that is not to be had.
    #[error("the scopes to be had here are: {0}")]
    Scope(String),
    /// Somebody else's token.
    #[error("tokens are issued here for {0} only")]
    Audience(String),
    /// The token could not be signed.
    #[error("no token can be signed")]
    Signing,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    scope: String,
    iat: i64,
    exp: i64,
    jti: Uuid,
}

impl Issuer {
    /// An issuer for the integrations with the kind `oauth2`, on the keys in `secrets`; none, if there are none.
    pub(super) async fn open(
        config: &Config,
        secrets: Arc<dyn Secrets>,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>, KeyringError> {
        let identity = identity(&config.server.public_url).to_owned();
        let mut validation = Validation::new(ALGORITHM);
        validation.set_issuer(&[&identity]);
        validation.set_audience(&[&identity]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Expiry is compared with the clock we are given.
        validation.validate_exp = false;
        let (mut clients, mut grants) = (Vec::new(), Vec::new());
        for integration in &config.integrations {
            if let Some(oauth2) = integration.outbound.oauth2() {
                clients.push(Client::new(integration.name.as_str().into(), &oauth2.client));
                grants.push(Grant::of(oauth2));
            }
        }
        let Some(longest_lifetime) = grants.iter().map(|grant| grant.lifetime).max() else { return Ok(None) };
        let keyring = Arc::new(Keyring::open(secrets, longest_lifetime, Arc::clone(&clock)).await?);
        Ok(Some(Self {
            identity,
            clients,
            grants,
            longest_lifetime,
            keyring,
            waiting: Admission::new(KEY_WAITERS, Arc::clone(&clock)),
            clock,
            validation,
            verified: TokenCache::new(),
        }))
    }

    /// Who issues, as tokens say it.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Every scope that may be asked for.
    #[must_use]
    pub fn scopes(&self) -> Vec<&str> {
        let mut scopes: Vec<_> = self.grants.iter().flat_map(Grant::needs).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }

    /// Issues a token to a client that knows its secret.
    pub(super) fn issue(
        &self,
        credentials: &NameAndPassword,
        request: &TokenRequest,
        throttle: (&LoginThrottle, IpAddr),
        now: Timestamp,
    ) -> Result<IssuedToken, TokenRefused> {
        let place = self.authenticate(credentials, throttle)?;
        let (client, grant) = (&self.clients[place], &self.grants[place]);
        let scope = granted(grant, request.scope.as_deref())?;
        if request.audiences.iter().any(|audience| audience.trim_end_matches('/') != self.identity) {
            return Err(TokenRefused::Audience(self.identity.clone()));
        }
        let claims = Claims {
            iss: self.identity.clone(),
            aud: self.identity.clone(),
            sub: client.id.clone(),
            scope: scope.clone(),
            iat: now.as_seconds(),
            exp: now.plus(grant.lifetime).as_seconds(),
            jti: Uuid::new_v4(),
        };
        let keys = self.keyring.current();
        let header = Header { kid: Some(keys.signing_kid.clone()), ..Header::new(ALGORITHM) };
        let access_token = encode(&header, &claims, &keys.signing).map_err(|_| TokenRefused::Signing)?;
        Ok(IssuedToken { access_token, lifetime: grant.lifetime, scope })
    }

    /// The place of the client among ours.
    fn authenticate(
        &self,
        credentials: &NameAndPassword,
        (throttle, address): (&LoginThrottle, IpAddr),
    ) -> Result<usize, TokenRefused> {
        // RFC 6749 §2.3.1 wants each half form-encoded before it is joined; many clients send them as they are.
        let decoded = credentials.form_decoded();
        let found = [credentials, &decoded]
            .map(|given| proven(&self.clients, &given.name, given.password.expose_secret()))
            .into_iter()
            .find_map(|client| client.map(|client| client.id.as_str()));
        let proof = found.and_then(|id| Some((id, self.clients.iter().position(|client| client.id == id)?)));
        // Counted decoded, since there is no end to the ways in which a name can be encoded.
        throttle.judge(address, &decoded.name, proof).map_err(|refused| match refused {
            Refused::Wrong => TokenRefused::Client,
            Refused::TooManyFailures { retry_after } => TokenRefused::TooManyFailures { retry_after },
        })
    }

    /// What was found out about `token` before.
    pub(super) fn recall(&self, token: &str, now: Timestamp) -> Option<Result<Caller, AuthenticationError>> {
        let (found, version) = self.verified.recall(token, now)?;
        (version == self.keyring.current().version).then_some(found)
    }

    /// The caller that shows `token` from `address`.
    ///
    /// Refused if the token was not signed by us with the pinned algorithm for this address, has expired, or names a
    /// client that is configured no more.
    pub(super) async fn verify(
        &self,
        token: &str,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<Caller, AuthenticationError> {
        let kid = decode_header(token).ok().and_then(|header| header.kid).ok_or(AuthenticationError::Invalid)?;
        let keys = self.keys_with(&kid, address).await?;
        let (found, expires) = self.examine(token, &keys, &kid, now)?;
        let end = Timestamp::from_millis(expires.saturating_mul(1000));
        if end <= now {
            return Err(AuthenticationError::Expired);
        }
        self.verified.keep(token, (found.clone(), keys.version), end);
        if found.is_ok() {
            self.waiting.proved(address);
        }
        found
    }

    /// The keys, read again if the one that `kid` names is not among them: another process may have made it.
    async fn keys_with(&self, kid: &str, address: IpAddr) -> Result<Arc<Keys>, AuthenticationError> {
        let began = self.keyring.readings();
        let known = self.keyring.current();
        if known.has(kid) {
            return Ok(known);
        }
        let unavailable = AuthenticationError::Unavailable;
        let _waiting = self.waiting.enter(address, false).ok_or(unavailable)?;
        tokio::select! {
            read = self.keyring.read_again(began) => read.map_err(|_| unavailable),
            () = self.clock.sleep(KEY_PATIENCE) => Err(unavailable),
        }
    }

    fn examine(
        &self,
        token: &str,
        keys: &Keys,
        kid: &str,
        now: Timestamp,
    ) -> Result<(Result<Caller, AuthenticationError>, i64), AuthenticationError> {
        let invalid = AuthenticationError::Invalid;
        let key = keys.verifying(kid, now).ok_or(invalid)?;
        let claims = decode::<Claims>(token, key, &self.validation).map_err(|_| invalid)?.claims;
        let place = self.clients.iter().position(|client| client.id == claims.sub).ok_or(invalid)?;
        let carries = |scope: &str| claims.scope.split(' ').any(|carried| carried == scope);
        let found = if self.grants[place].needs().into_iter().all(carries) {
            Ok(Caller { integration: Arc::clone(&self.clients[place].integration) })
        } else {
            Err(AuthenticationError::Scope)
        };
        Ok((found, claims.exp))
    }

    /// Signs with a new key from now on; see [`Keyring::rotate`].
    pub(super) async fn rotate(&self, revoke: bool, now: Timestamp) -> Result<Vec<KeyInfo>, KeyringError> {
        self.keyring.rotate(self.longest_lifetime, revoke, now).await?;
        Ok(self.keyring.infos())
    }

    /// Reads the signing keys again, which another process may have changed.
    pub(super) async fn reload(&self) {
        if let Err(error) = self.keyring.reload().await {
            tracing::warn!(%error, "the signing keys cannot be read again; those that are known stay good");
        }
    }

    pub(super) fn keys(&self) -> Vec<KeyInfo> {
        self.keyring.infos()
    }
}

/// The scope that is granted for one that is asked for (RFC 6749 §3.3).
fn granted(grant: &Grant, asked: Option<&str>) -> Result<String, TokenRefused> {
    let all = grant.needs().join(" ");
    let (Some(may_ask_for), Some(asked)) = (&grant.may_ask_for, asked) else { return Ok(all) };
    let asked: Vec<&str> = asked.split_ascii_whitespace().collect();
    if asked.is_empty() {
        return Ok(all);
    }
    if asked.iter().all(|scope| may_ask_for.iter().any(|known| known == scope)) {
        Ok(asked.join(" "))
    } else {
        Err(TokenRefused::Scope(all))
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn identity(public_url: &BaseUrl) -> &str {
    public_url.as_str()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::EncodingKey;
    use secrecy::SecretSlice;
    use tokio::task::JoinSet;

    use super::*;
    use crate::clock::ManualClock;
    use crate::store::StoreError;
    use crate::store::memory::MemoryStore;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn throttle() -> LoginThrottle {
        LoginThrottle::new(Arc::new(crate::clock::SystemClock))
    }

    /// Secrets in memory that count how often they are read, and may fail at it.
    #[derive(Default)]
    struct Counted {
        store: MemoryStore,
        reads: AtomicUsize,
        fails: AtomicBool,
    }

    #[async_trait]
    impl Secrets for Counted {
        async fn get(&self, name: &str) -> Result<Option<SecretSlice<u8>>, StoreError> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            if self.fails.load(Ordering::SeqCst) {
                return Err(StoreError::Unavailable("the disk is gone".to_owned()));
            }
            self.store.get(name).await
        }

        async fn create(&self, name: &str, fresh: SecretSlice<u8>) -> Result<SecretSlice<u8>, StoreError> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            if self.fails.load(Ordering::SeqCst) {
                return Err(StoreError::Unavailable("the disk is gone".to_owned()));
            }
            self.store.create(name, fresh).await
        }

        async fn replace(
            &self,
            name: &str,
            held: &SecretSlice<u8>,
            fresh: SecretSlice<u8>,
        ) -> Result<bool, StoreError> {
            self.store.replace(name, held, fresh).await
        }

        async fn put(&self, _: [u8; 16], _: Timestamp, _: SecretSlice<u8>, _: Timestamp) -> Result<bool, StoreError> {
            unreachable!("tokens have no nonce")
        }

        async fn take(&self, _: [u8; 16], _: Timestamp, _: Timestamp) -> Result<Option<SecretSlice<u8>>, StoreError> {
            unreachable!("tokens have no nonce")
        }
    }

    async fn open(secrets: &Arc<Counted>, config: &Config, now: Timestamp) -> Issuer {
        open_by(Arc::new(ManualClock::starting_at(now)), secrets, config).await
    }

    async fn open_by(clock: Arc<ManualClock>, secrets: &Arc<Counted>, config: &Config) -> Issuer {
        Issuer::open(config, Arc::clone(secrets) as _, clock).await.expect("opens").expect("is used")
    }

    async fn issuer() -> Issuer {
        open(&Arc::default(), &Config::defaults(), NOW).await
    }

    fn credentials(id: &str, secret: &str) -> NameAndPassword {
        NameAndPassword { name: id.as_bytes().to_vec(), password: secret.as_bytes().to_vec().into() }
    }

    fn issue(issuer: &Issuer, request: &TokenRequest, now: Timestamp) -> Result<IssuedToken, TokenRefused> {
        issuer.issue(&credentials("marketplace", "change-me"), request, (&throttle(), HERE), now)
    }

    fn token(issuer: &Issuer, now: Timestamp) -> String {
        issue(issuer, &TokenRequest::default(), now).expect("issued").access_token
    }

    fn config(outbound: &str) -> Config {
        config_of("marketplace", outbound)
    }

    fn config_of(client: &str, outbound: &str) -> Config {
        Config::from_toml(&format!(
            "[[integrations]]\nname = \"a\"\n[integrations.outbound]\nkind = \"oauth2\"\nclient_id = \"{client}\"\n\
             client_secret = \"change-me\"\n{outbound}\n[[integrations.marketplaces]]\nbase_url = \
             \"http://127.0.0.1:8090\"\n[integrations.marketplaces.inbound]\nclient_id = \"v\"\nclient_secret = \"s\"\n"
        ))
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// A token in every respect but for the key, which has this name.
    fn invented(issuer: &Issuer, kid: &str) -> String {
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode(token(issuer, NOW)).expect("claims").claims;
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(ALGORITHM) };
        encode(&header, &claims, &EncodingKey::from_secret(&[8; 32])).expect("signs")
    }

    #[tokio::test]
    async fn while_the_keys_cannot_be_read_nobody_is_told_that_a_token_is_wrong() {
        let secrets: Arc<Counted> = Arc::default();
        let issuer = Arc::new(open(&secrets, &Config::defaults(), NOW).await);
        let good = token(&issuer, NOW);
        secrets.fails.store(true, Ordering::SeqCst);
        let mut callers = JoinSet::new();
        for number in 0..20 {
            let (issuer, token) = (Arc::clone(&issuer), invented(&issuer, &number.to_string()));
            callers.spawn(async move { issuer.verify(&token, HERE, NOW).await });
        }
        for refused in callers.join_all().await {
            assert_eq!(refused, Err(AuthenticationError::Unavailable));
        }
        assert!(issuer.verify(&good, HERE, NOW).await.is_ok());
    }

    #[tokio::test]
    async fn strangers_who_wait_for_invented_keys_are_turned_away_beyond_their_share() {
        let secrets: Arc<Counted> = Arc::default();
        let issuer = Arc::new(open(&secrets, &Config::defaults(), NOW).await);
        // From now on a reading is waited for, and the clock stands still.
        assert_eq!(issuer.verify(&invented(&issuer, "a"), HERE, NOW).await, Err(AuthenticationError::Invalid));
        let mut crowd = JoinSet::new();
        for number in 0..2 * KEY_WAITERS.of_stranger {
            let (issuer, token) = (Arc::clone(&issuer), invented(&issuer, &number.to_string()));
            let stranger = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));
            crowd.spawn(async move { issuer.verify(&token, stranger, NOW).await });
        }
        for _ in 0..KEY_WAITERS.of_stranger {
            let refused = crowd.join_next().await.expect("one").expect("does not panic");
            assert_eq!(refused, Err(AuthenticationError::Unavailable));
        }
    }

    #[tokio::test]
    async fn a_token_is_good_until_its_end_and_not_a_second_longer() {
        let issuer = issuer().await;
        let token = token(&issuer, NOW);
        assert_eq!(issuer.verify(&token, HERE, NOW).await, Ok(Caller { integration: "default".into() }));
        let last = NOW.plus(Duration::from_secs(3599));
        assert_eq!(issuer.recall(&token, last), Some(Ok(Caller { integration: "default".into() })));
        assert!(issuer.verify(&token, HERE, last).await.is_ok());
        let end = last.plus(Duration::from_secs(1));
        assert_eq!(issuer.recall(&token, end), None);
        assert_eq!(issuer.verify(&token, HERE, end).await, Err(AuthenticationError::Expired));
    }

    #[tokio::test]
    async fn a_client_without_its_secret_gets_no_token() {
        let issuer = issuer().await;
        for (id, secret) in [("marketplace", "wrong"), ("nobody", "change-me"), ("", ""), ("marketplace", "")] {
            let request = TokenRequest::default();
            let refused = issuer.issue(&credentials(id, secret), &request, (&throttle(), HERE), NOW);
            assert_eq!(refused.err(), Some(TokenRefused::Client), "{id}:{secret}");
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_its_name_form_encoded_does_not_wait_for_strangers_either() {
        let issuer = open(&Arc::default(), &config_of("a b", ""), NOW).await;
        let throttle = throttle();
        let ask = |id: &str, secret: &str| {
            issuer.issue(&credentials(id, secret), &TokenRequest::default(), (&throttle, HERE), NOW).is_ok()
        };
        assert!(ask("a+b", "change-me"));
        for _ in 0..20 {
            assert!(!ask("a+b", "guess"));
        }
        assert!(ask("a+b", "change-me"));
    }

    #[tokio::test]
    async fn the_secret_before_is_as_good_as_the_present_one_while_it_is_configured() {
        let issuer = open(&Arc::default(), &config("previous_client_secret = \"before\""), NOW).await;
        for (secret, is_good) in [("change-me", true), ("before", true), ("changebefore", false), ("", false)] {
            let request = TokenRequest::default();
            let given = issuer.issue(&credentials("marketplace", secret), &request, (&throttle(), HERE), NOW);
            assert_eq!(given.is_ok(), is_good, "{secret}");
        }
    }

    #[tokio::test]
    async fn a_scope_is_granted_as_far_as_it_is_configured() {
        let open_to_all = issuer().await;
        let narrow = open(&Arc::default(), &config("scope = \"notifications read\""), NOW).await;
        let ask = |issuer: &Issuer, scope: &str| {
            let request = TokenRequest { scope: Some(scope.to_owned()), ..TokenRequest::default() };
            issue(issuer, &request, NOW).map(|token| token.scope)
        };
        assert_eq!(ask(&open_to_all, "ROLE_ANY other"), Ok("notifications".to_owned()));
        assert_eq!(ask(&narrow, ""), Ok("notifications read".to_owned()));
        assert_eq!(ask(&narrow, "read"), Ok("read".to_owned()));
        assert_eq!(ask(&narrow, "read write"), Err(TokenRefused::Scope("notifications read".to_owned())));
        let request = TokenRequest { scope: Some("read".to_owned()), ..TokenRequest::default() };
        let partial = issue(&narrow, &request, NOW).expect("issued").access_token;
        assert_eq!(narrow.verify(&partial, HERE, NOW).await, Err(AuthenticationError::Scope));
        assert_eq!(narrow.recall(&partial, NOW), Some(Err(AuthenticationError::Scope)));
    }

    #[tokio::test]
    async fn a_token_is_for_us_or_for_nobody() {
        let issuer = issuer().await;
        for (audiences, is_granted) in [
            (vec!["http://127.0.0.1:8080"], true),
            (vec!["http://127.0.0.1:8080/"], true),
            (vec!["http://127.0.0.1:8080", "http://other"], false),
            (vec!["http://other"], false),
        ] {
            let audiences: Vec<String> = audiences.into_iter().map(str::to_owned).collect();
            let request = TokenRequest { audiences: audiences.clone(), ..TokenRequest::default() };
            assert_eq!(issue(&issuer, &request, NOW).is_ok(), is_granted, "{audiences:?}");
        }
    }

    #[tokio::test]
    async fn a_key_that_was_rotated_out_verifies_until_the_last_of_its_tokens_has_ended() {
        let secrets = Arc::default();
        let issuer = open(&secrets, &config("token_lifetime = \"1h\""), NOW).await;
        let old = token(&issuer, NOW);
        let keys = issuer.rotate(false, NOW).await.expect("rotates");
        assert_eq!((keys.len(), keys[0].verifies_until.is_some(), keys[1].verifies_until.is_some()), (2, true, false));
        let new = token(&issuer, NOW);
        assert_ne!(decode_header(&old).expect("a header").kid, decode_header(&new).expect("a header").kid);
        let last = NOW.plus(Duration::from_secs(3599));
        for token in [&old, &new] {
            assert!(issuer.verify(token, HERE, last).await.is_ok());
        }
        // Another process on the same secrets, with tokens that live shorter.
        let after = open(&secrets, &config("token_lifetime = \"1m\""), last).await;
        for token in [&old, &new] {
            assert!(after.verify(token, HERE, last).await.is_ok());
        }
        let later = NOW.plus(Duration::from_hours(2));
        assert_eq!(issuer.rotate(false, later).await.expect("rotates").len(), 2, "the first is gone");
    }

    #[tokio::test]
    async fn a_key_that_is_revoked_verifies_nothing_from_then_on() {
        let issuer = issuer().await;
        let old = token(&issuer, NOW);
        assert!(issuer.verify(&old, HERE, NOW).await.is_ok());
        issuer.rotate(true, NOW).await.expect("rotates");
        assert_eq!(issuer.recall(&old, NOW), None);
        assert_eq!(issuer.verify(&old, HERE, NOW).await, Err(AuthenticationError::Invalid));
        assert!(issuer.verify(&token(&issuer, NOW), HERE, NOW).await.is_ok());
    }

    #[tokio::test]
    async fn two_who_rotate_at_once_lose_no_key() {
        let secrets = Arc::default();
        let (one, other) =
            (open(&secrets, &Config::defaults(), NOW).await, open(&secrets, &Config::defaults(), NOW).await);
        one.rotate(false, NOW).await.expect("rotates");
        assert_eq!(other.rotate(false, NOW).await.expect("rotates").len(), 3);
    }

    #[tokio::test]
    async fn processes_that_open_the_keys_at_once_agree_on_them() {
        let secrets = Arc::default();
        let configs = ["1m", "1h", "2h", "3h"].map(|lifetime| config(&format!("token_lifetime = \"{lifetime}\"")));
        let [a, b, c, d] = &configs;
        let issuers = tokio::join!(
            open(&secrets, a, NOW),
            open(&secrets, b, NOW),
            open(&secrets, c, NOW),
            open(&secrets, d, NOW)
        );
        let token = token(&issuers.0, NOW);
        for issuer in [&issuers.1, &issuers.2, &issuers.3] {
            assert!(issuer.verify(&token, HERE, NOW).await.is_ok());
        }
        let kept: Vec<_> = issuers.3.rotate(false, NOW).await.expect("rotates");
        let until = NOW.plus(Duration::from_hours(3)).plus(Duration::from_mins(1)).to_string();
        assert_eq!(kept[0].verifies_until, Some(until), "the longest lifetime counts, whoever was last");
    }

    #[tokio::test]
    async fn a_key_that_another_process_made_is_found_when_a_token_names_it() {
        let (secrets, clock) = (Arc::default(), Arc::new(ManualClock::starting_at(NOW)));
        let one = open(&secrets, &Config::defaults(), NOW).await;
        let other = open_by(Arc::clone(&clock), &secrets, &Config::defaults()).await;
        let before = token(&other, NOW);
        assert!(other.verify(&before, HERE, NOW).await.is_ok());
        one.rotate(true, NOW).await.expect("rotates");
        assert!(other.verify(&token(&one, NOW), HERE, NOW).await.is_ok());
        assert_eq!(other.recall(&before, NOW), None, "the key of this one was revoked");
        clock.advance(Duration::from_millis(250));
        assert_eq!(other.verify(&before, HERE, NOW).await, Err(AuthenticationError::Invalid));
    }

    #[tokio::test]
    async fn a_key_that_another_process_revoked_verifies_nothing_once_the_keys_are_read_again() {
        let secrets = Arc::default();
        let (one, other) =
            (open(&secrets, &Config::defaults(), NOW).await, open(&secrets, &Config::defaults(), NOW).await);
        let token = token(&one, NOW);
        assert!(other.verify(&token, HERE, NOW).await.is_ok());
        one.rotate(true, NOW).await.expect("rotates");
        other.reload().await;
        assert_eq!(other.recall(&token, NOW), None);
        assert_eq!(other.verify(&token, HERE, NOW).await, Err(AuthenticationError::Invalid));
    }

    #[tokio::test]
    async fn invented_key_names_cost_one_reading_in_a_while_and_hide_no_new_key() {
        let secrets: Arc<Counted> = Arc::default();
        let clock = Arc::new(ManualClock::starting_at(NOW));
        let one = open(&secrets, &Config::defaults(), NOW).await;
        let other = Arc::new(open_by(Arc::clone(&clock), &secrets, &Config::defaults()).await);
        assert_eq!(other.verify(&invented(&one, "a"), HERE, NOW).await, Err(AuthenticationError::Invalid));
        let before = secrets.reads.load(Ordering::SeqCst);
        one.rotate(false, NOW).await.expect("rotates");
        let good = token(&one, NOW);
        let mut strangers = JoinSet::new();
        for token in (1..20).map(|number| invented(&one, &number.to_string())) {
            let other = Arc::clone(&other);
            strangers.spawn(async move { other.verify(&token, HERE, NOW).await });
        }
        let passing = async {
            // Every stranger has looked by then.
            tokio::task::yield_now().await;
            clock.advance(Duration::from_millis(250));
        };
        let (found, ()) = tokio::join!(other.verify(&good, HERE, NOW), passing);
        assert!(found.is_ok());
        for refused in strangers.join_all().await {
            assert_eq!(refused, Err(AuthenticationError::Invalid));
        }
        assert_eq!(secrets.reads.load(Ordering::SeqCst), before + 1);
    }

    #[tokio::test]
    async fn a_token_that_is_not_ours_in_every_respect_is_refused() {
        let issuer = issuer().await;
        let good = token(&issuer, NOW);
        let part = |index: usize| good.split('.').nth(index).expect("three parts").to_owned();
        let header = decode_header(&good).expect("a header");
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let keys = issuer.keyring.current();
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode(&good).expect("claims").claims;
        let signed = |header: &Header, change: &dyn Fn(&mut Claims)| {
            let mut claims: Claims =
                serde_json::from_value(serde_json::to_value(&claims).expect("JSON")).expect("claims");
            change(&mut claims);
            encode(header, &claims, &keys.signing).expect("signs")
        };
        let unchanged = |_: &mut Claims| {};
        assert!(issuer.verify(&signed(&header, &unchanged), HERE, NOW).await.is_ok());
        let stranger = EncodingKey::from_secret(&[8; 32]);
        for (case, token) in [
            ("empty", String::new()),
            ("no token at all", "abc".into()),
            ("another key", encode(&header, &claims, &stranger).expect("signs")),
            ("no key named", signed(&Header::new(ALGORITHM), &unchanged)),
            ("another key named", signed(&Header { kid: Some("other".into()), ..header.clone() }, &unchanged)),
            ("another algorithm", signed(&Header { alg: Algorithm::HS512, ..header.clone() }, &unchanged)),
            ("another issuer", signed(&header, &|claims| claims.iss = "http://other".into())),
            ("another audience", signed(&header, &|claims| claims.aud = "http://other".into())),
            ("an unknown client", signed(&header, &|claims| claims.sub = "stranger".into())),
            ("no signature", format!("{}.{}.", part(0), part(1))),
            ("alg none", format!("{none}.{}.", part(1))),
            ("alg none, signature kept", format!("{none}.{}.{}", part(1), part(2))),
        ] {
            assert_eq!(issuer.verify(&token, HERE, NOW).await, Err(AuthenticationError::Invalid), "{case}");
        }
    }
}
