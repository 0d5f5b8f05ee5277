//! Tokens of the vendor's own identity provider: keys that change, providers that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use doorbell::clock::{Clock, ManualClock, SystemClock, Timestamp};
use doorbell::handler::Accept;
use doorbell::store::memory::MemoryStore;
use jsonwebtoken::Algorithm;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::identity::{IdentityProvider, Signer};
use crate::support::marketplace::Marketplace;
use crate::support::receiver::{Receiver, json as body_of, notify};
use crate::support::{PATIENCE, configuration, let_time_pass};

struct Scene {
    market: Marketplace,
    provider: IdentityProvider,
    receiver: Receiver,
    clock: Arc<ManualClock>,
}

/// A receiver whose marketplace authenticates as `outbound` says, `{provider}` standing for the provider's address.
async fn start(outbound: &str) -> Scene {
    start_with(outbound, |_| {}).await
}

async fn start_with(outbound: &str, prepare: impl FnOnce(&IdentityProvider)) -> Scene {
    let (market, provider) = (Marketplace::start().await, IdentityProvider::start().await);
    prepare(&provider);
    let text = configuration(&market.base_url, "memory:");
    let (before, rest) = text.split_once("kind = \"oauth2\"").expect("a kind");
    let (_, after) = rest.split_once("[[integrations.marketplaces]]").expect("marketplaces");
    let outbound = outbound.replace("{provider}", &provider.base_url);
    let text = format!("{before}client_id = \"market\"\n{outbound}\n[[integrations.marketplaces]]{after}");
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let receiver = Receiver::start_with(&text, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    Scene { market, provider, receiver, clock }
}

const JWT: &str =
    "kind = \"jwt\"\nissuer = \"{provider}\"\naudience = \"doorbell\"\nalgorithms = [\"ES256\", \"ES384\"]";
const INTROSPECTION: &str = "kind = \"introspection\"\nintrospection_url = \"{provider}/introspect\"\n\
                             introspection_client_id = \"door:bell\"\nintrospection_client_secret = \"s3cret&\"";

impl Scene {
    async fn show(&self, token: &str) -> Response {
        let event = self.market.order("1");
        notify(&self.receiver.client, &self.receiver.public, token, "/create", &event).await
    }

    /// What `token` is answered; a duplicate's 200 counts as the first notification's 202.
    async fn status(&self, token: &str) -> u16 {
        let status = tokio::time::timeout(PATIENCE, self.show(token)).await.expect("an answer").status().as_u16();
        if status == 200 { 202 } else { status }
    }

    /// The same of a token whose key has to be looked for: time passes meanwhile.
    async fn status_in_the_end(&self, token: &str) -> u16 {
        tokio::select! {
            status = self.status(token) => status,
            () = let_time_pass(&self.clock) => unreachable!("it passes for ever"),
        }
    }

    fn token(&self, signer: &Signer) -> String {
        signer.sign(&self.provider.claims("market", self.clock.now()))
    }

    /// Lets so much time pass that keys are fetched without anybody asking, and waits until the provider is asked.
    async fn until_keys_are_refreshed(&self) {
        let asked = || self.provider.with(|state| state.discovered);
        let before = asked();
        let refreshed = async {
            while asked() == before {
                self.clock.advance(Duration::from_mins(5));
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, refreshed).await.expect("keys are fetched");
    }

    /// Waits until `token` is answered `status`.
    async fn until_status(&self, token: &str, status: u16) {
        let answered = async { while self.status_in_the_end(token).await != status {} };
        tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("not answered {status}"));
    }
}

#[tokio::test]
async fn every_algorithm_that_is_allowed_verifies() {
    let algorithms = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ];
    let signers: Vec<_> =
        algorithms.iter().map(|algorithm| Signer::new(&format!("{algorithm:?}"), *algorithm)).collect();
    let names: Vec<_> = algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect();
    let outbound = JWT.replace("[\"ES256\", \"ES384\"]", &format!("{names:?}\njwks_url = \"{{provider}}/jwks\""));
    let scene = start_with(&outbound, |provider| provider.publish(&signers.iter().collect::<Vec<_>>())).await;
    for signer in &signers {
        assert_eq!(scene.status(&scene.token(signer)).await, 202, "{:?}", signer.algorithm);
    }
}

#[tokio::test]
async fn a_key_that_is_not_known_yet_is_fetched_and_found() {
    let (first, second) = (Signer::new("first", Algorithm::ES256), Signer::new("second", Algorithm::ES256));
    let scene = start_with(JWT, |provider| provider.publish(&[&first])).await;
    assert_eq!(scene.status(&scene.token(&first)).await, 202);
    scene.provider.publish(&[&first, &second]);
    scene.clock.advance(Duration::from_secs(2));
    assert_eq!(scene.status(&scene.token(&second)).await, 202);
    assert_eq!(scene.status(&scene.token(&first)).await, 202);
}

#[tokio::test]
async fn names_that_strangers_invent_cost_the_provider_one_request_in_two_seconds() {
    let (known, invented) = (Signer::new("known", Algorithm::ES256), Signer::new("invented", Algorithm::ES256));
    let scene = start_with(JWT, |provider| provider.publish(&[&known])).await;
    assert_eq!(scene.status(&scene.token(&known)).await, 202);
    let before = scene.provider.with(|state| state.keys_fetched);
    let start = scene.clock.now();
    let strangers = (0..40).map(|_| async { assert_eq!(scene.status(&scene.token(&invented)).await, 401) });
    tokio::select! {
        _ = join(strangers.collect()) => {}
        () = let_time_pass(&scene.clock) => {}
    }
    let fetched = scene.provider.with(|state| state.keys_fetched) - before;
    let passed = scene.clock.now().since(start).as_secs();
    assert!(fetched as u64 <= passed / 2 + 1, "{fetched} times in {passed} s");
    assert_eq!(scene.status(&scene.token(&known)).await, 202, "who is known does not wait");
}

/// Polls all of them on one task.
async fn join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<T>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, result) in pinned.iter_mut().zip(&mut results) {
            if result.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
            }
        }
        if results.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_provider_that_is_out_of_reach_before_any_key_is_known_is_503_and_never_401() {
    let signer = Signer::new("key", Algorithm::ES256);
    let scene = start_with(JWT, |provider| {
        provider.publish(&[&signer]);
        provider.with(|state| state.out_of_service = Some(500));
    })
    .await;
    for _ in 0..3 {
        let answer = scene.show(&scene.token(&signer)).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("retry-after"));
        assert_eq!(body_of(answer).await["errorCode"], "TRANSPORT_ERROR");
    }
    assert!(scene.receiver.events().await.is_empty());
    scene.provider.with(|state| state.out_of_service = None);
    scene.clock.advance(Duration::from_secs(2));
    assert_eq!(scene.status(&scene.token(&signer)).await, 202, "and it is asked again before long");
}

#[tokio::test]
async fn the_last_good_keys_are_kept_through_an_outage() {
    let (known, new) = (Signer::new("known", Algorithm::ES256), Signer::new("new", Algorithm::ES256));
    let scene = start_with(JWT, |provider| provider.publish(&[&known])).await;
    assert_eq!(scene.status(&scene.token(&known)).await, 202);
    scene.provider.with(|state| state.out_of_service = Some(503));
    scene.until_keys_are_refreshed().await;
    assert_eq!(scene.status(&scene.token(&known)).await, 202);
    scene.clock.advance(Duration::from_secs(2));
    assert_eq!(scene.status(&scene.token(&new)).await, 503, "whether it is good cannot be told now");
    scene.provider.with(|state| state.out_of_service = None);
    scene.clock.advance(Duration::from_secs(2));
    assert_eq!(scene.status(&scene.token(&new)).await, 401, "and now it can");
}

#[tokio::test]
async fn a_key_that_is_withdrawn_opens_no_door_for_longer_than_five_minutes() {
    let (withdrawn, kept) = (Signer::new("withdrawn", Algorithm::ES256), Signer::new("kept", Algorithm::ES256));
    let scene = start_with(JWT, |provider| provider.publish(&[&withdrawn, &kept])).await;
    let mut lasting = scene.provider.claims("market", scene.clock.now());
    lasting["exp"] = json!(scene.clock.now().as_seconds() + 86_400);
    let token = withdrawn.sign(&lasting);
    assert_eq!(scene.status(&token).await, 202);
    scene.provider.publish(&[&kept]);
    scene.until_keys_are_refreshed().await;
    scene.until_status(&token, 401).await;
    assert_eq!(scene.status(&scene.token(&kept)).await, 202);
}

#[tokio::test]
async fn a_token_without_the_name_of_a_key_needs_the_only_key_there_is() {
    let (only, other) = (Signer::new("only", Algorithm::ES256), Signer::new("other", Algorithm::ES256));
    let curve = Signer::new("curve", Algorithm::ES384);
    let scene = start_with(JWT, |provider| provider.publish(&[&only, &curve])).await;
    let nameless = |signer: &Signer| {
        let header = jsonwebtoken::Header { kid: None, ..signer.header() };
        signer.sign_as(&header, &scene.provider.claims("market", scene.clock.now()))
    };
    assert_eq!(scene.status(&nameless(&only)).await, 202, "the other is for another algorithm");
    scene.provider.publish(&[&only, &other, &curve]);
    scene.until_keys_are_refreshed().await;
    scene.until_status(&nameless(&only), 401).await;
    assert_eq!(scene.status(&scene.token(&other)).await, 202, "a name tells");
}

#[tokio::test]
async fn keys_are_looked_for_where_nobody_but_the_configuration_says() {
    let trap = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let elsewhere = format!("http://{}/jwks", trap.local_addr().expect("an address"));
    let signer = Signer::new("key", Algorithm::ES256);
    for (case, prepare) in [
        ("keys at another origin", json!({"issuer": "{provider}", "jwks_uri": elsewhere})),
        ("another issuer's document", json!({"issuer": "http://other.example", "jwks_uri": "{provider}/jwks"})),
        ("no document", json!("nothing")),
    ] {
        let scene = start_with(JWT, |provider| {
            provider.publish(&[&signer]);
            let document = prepare.to_string().replace("{provider}", &provider.base_url);
            provider.with(|state| state.discovery = serde_json::from_str(&document).expect("JSON"));
        })
        .await;
        assert_eq!(scene.status(&scene.token(&signer)).await, 503, "{case}");
    }
    for outbound in [format!("{JWT}\njwks_url = \"{{provider}}/jwks\""), INTROSPECTION.to_owned()] {
        let scene =
            start_with(&outbound, |provider| provider.with(|state| state.redirect = Some(elsewhere.clone()))).await;
        assert_eq!(scene.status(&scene.token(&signer)).await, 503, "a redirect is not followed");
    }
    let sprung = tokio::select! {
        biased;
        connection = trap.accept() => Some(connection),
        () = std::future::ready(()) => None,
    };
    assert!(sprung.is_none(), "somebody called the trap");
}

#[tokio::test]
async fn while_a_provider_changes_its_keys_nobody_is_refused_who_should_pass_nor_passes_who_should_not() {
    let signers: Vec<_> = (0..6).map(|number| Signer::new(&format!("key-{number}"), Algorithm::ES256)).collect();
    let stranger = Signer::new("key-0", Algorithm::ES256);
    let scene = Arc::new(start_with(JWT, |provider| provider.publish(&[&signers[0]])).await);
    let signers = Arc::new(signers);
    let (current, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let passed: Arc<Vec<AtomicUsize>> = Arc::new(signers.iter().map(|_| AtomicUsize::new(0)).collect());
    let refused = Arc::new(AtomicUsize::new(0));
    let mut load = Vec::new();
    for _ in 0..8 {
        let (scene, signers, current) = (scene.clone(), signers.clone(), current.clone());
        let (over, passed) = (over.clone(), passed.clone());
        load.push(tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let number = current.load(Ordering::SeqCst);
                let token = scene.token(&signers[number]);
                assert_eq!(scene.status(&token).await, 202, "a token of {}", signers[number].kid);
                passed[number].fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    {
        let (scene, over, refused) = (scene.clone(), over.clone(), refused.clone());
        load.push(tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(scene.status(&scene.token(&stranger)).await, 401);
                refused.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    let time = {
        let scene = scene.clone();
        tokio::spawn(async move { let_time_pass(&scene.clock).await })
    };
    for next in 1..signers.len() {
        // The new key is published, and used at once; the old one is withdrawn when its tokens are no longer shown.
        scene.provider.publish(&[&signers[next - 1], &signers[next]]);
        current.store(next, Ordering::SeqCst);
        let before = refused.load(Ordering::SeqCst);
        let both = async {
            while passed[next].load(Ordering::SeqCst) < 20 || refused.load(Ordering::SeqCst) < before + 3 {
                assert!(load.iter().all(|task| !task.is_finished()), "somebody was refused, or passed, wrongly");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(3 * PATIENCE, both).await.expect("tokens of the new key pass, and forged ones do not");
    }
    over.store(true, Ordering::SeqCst);
    for task in load {
        task.await.expect("nobody was refused, or passed, wrongly");
    }
    time.abort();
}

#[tokio::test]
async fn our_own_keys_rotate_under_load_without_anybody_noticing() {
    let market = Marketplace::start().await;
    let receiver = Arc::new(Receiver::start(&configuration(&market.base_url, "memory:"), Accept).await);
    let event = market.order("1");
    let first = receiver.token().await;
    let over = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (receiver, event, first, over) = (receiver.clone(), event.clone(), first.clone(), over.clone());
            tokio::spawn(async move {
                let forged = format!("{}x", &first[..first.len() - 1]);
                let mut shown = 0;
                while !over.load(Ordering::SeqCst) {
                    let fresh = receiver.token().await;
                    for token in [&fresh, &first] {
                        let answer = notify(&receiver.client, &receiver.public, token, "/create", &event).await;
                        assert!(answer.status().is_success(), "{}", answer.status());
                    }
                    let answer = notify(&receiver.client, &receiver.public, &forged, "/create", &event).await;
                    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                    shown += 3;
                }
                shown
            })
        })
        .collect();
    for rotation in 0..20 {
        let answer =
            receiver.client.post(format!("{}/api/v1/keys/rotate", receiver.admin)).send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK);
        let keys = body_of(answer).await["keys"].as_array().expect("keys").clone();
        assert_eq!(keys.len(), rotation + 2, "the old ones verify until their tokens have ended");
        assert_eq!(keys.iter().filter(|key| key["verifiesUntil"].is_null()).count(), 1, "one signs");
    }
    over.store(true, Ordering::SeqCst);
    for task in load {
        assert!(task.await.expect("nobody was refused, or passed, wrongly") > 0);
    }
    let answer = receiver.client.post(format!("{}/api/v1/keys/rotate?revoke=true", receiver.admin)).send().await;
    assert_eq!(body_of(answer.expect("answers")).await["keys"].as_array().map(Vec::len), Some(1));
    let answer = notify(&receiver.client, &receiver.public, &first, "/create", &event).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "what is revoked is no good");
}

#[tokio::test]
async fn a_token_in_use_is_asked_about_again_after_half_a_minute_and_a_bad_one_after_five_seconds() {
    let scene = start(INTROSPECTION).await;
    let asked = || scene.provider.with(|state| state.tokens_asked_about);
    let good = |exp: i64| json!({"active": true, "client_id": "market", "exp": exp});
    let now = scene.clock.now().as_seconds();
    scene.provider.with(|state| state.tokens.insert("good".into(), good(now + 600)));
    scene.provider.with(|state| state.tokens.insert("short".into(), good(now + 10)));
    for _ in 0..3 {
        assert_eq!(scene.status("good").await, 202);
    }
    assert_eq!(asked(), 1);
    scene.clock.advance(Duration::from_secs(29));
    assert_eq!((scene.status("good").await, asked()), (202, 1));
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(scene.status("good").await, 202);
    scene.until_asked_about("good", 2).await;

    scene.provider.with(|state| state.tokens.insert("short".into(), good(now + 40)));
    assert_eq!((scene.status("short").await, asked()), (202, 3));
    scene.clock.advance(Duration::from_secs(10));
    assert_eq!((scene.status("short").await, asked()), (401, 4), "its end is looked at sooner than in a minute");

    assert_eq!((scene.status("bad").await, asked()), (401, 5));
    scene.provider.with(|state| state.tokens.insert("bad".into(), good(now + 600)));
    scene.clock.advance(Duration::from_secs(4));
    assert_eq!((scene.status("bad").await, asked()), (401, 5));
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!((scene.status("bad").await, asked()), (202, 6));
    let credentials = scene.provider.with(|state| state.authorization[0].clone());
    assert_eq!(credentials, "Basic ZG9vciUzQWJlbGw6czNjcmV0JTI2", "door%3Abell:s3cret%26");
}

/// Strangers who show one invented token after the other, each from the address it is given, until it is dropped.
struct Strangers(Vec<tokio::task::JoinHandle<()>>);

impl Strangers {
    fn come(scene: &Scene, number: usize, address: impl Fn(usize) -> String) -> Self {
        let event = scene.market.order("stranger");
        let stranger = |place: usize| {
            let (client, public) = (scene.receiver.client.clone(), scene.receiver.public.clone());
            let (event, address) = (event.clone(), address(place));
            tokio::spawn(async move {
                for turn in 0_u64.. {
                    let request = client.get(format!("{public}/notifications/create?eventUrl={event}"));
                    let request = request.bearer_auth(format!("invented-{place}-{turn}"));
                    let answer = request.header("X-Forwarded-For", &address).send().await.expect("answers");
                    assert!([401, 503].contains(&answer.status().as_u16()), "{}", answer.status());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        Self((0..number).map(stranger).collect())
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        for stranger in &self.0 {
            stranger.abort();
        }
    }
}

impl Scene {
    async fn until(&self, what: &str, condition: impl Fn(&crate::support::identity::State) -> bool) {
        let reached = async {
            while !self.provider.with(|state| condition(state)) {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, reached).await.is_ok(), "waited in vain until {what}");
    }

    async fn until_asked_about(&self, token: &str, times: usize) {
        self.until("it is asked about", |state| state.asked_about.get(token).copied().unwrap_or_default() >= times)
            .await;
    }

    /// What `token` is answered that is shown from `address`, as a proxy says.
    async fn status_from(&self, token: &str, address: &str) -> u16 {
        let event = self.market.order("1");
        let url = format!("{}/notifications/create?eventUrl={event}", self.receiver.public);
        let request = self.receiver.client.get(url).bearer_auth(token).header("X-Forwarded-For", address);
        let answer = tokio::time::timeout(PATIENCE, request.send()).await.expect("in time").expect("answers");
        let status = answer.status().as_u16();
        if status == 200 { 202 } else { status }
    }
}

async fn start_behind_a_proxy(outbound: &str) -> Scene {
    let (market, provider) = (Marketplace::start().await, IdentityProvider::start().await);
    let text =
        configuration(&market.base_url, "memory:").replace("[server]", "[server]\ntrusted_proxies = [\"127.0.0.1\"]");
    let (before, rest) = text.split_once("kind = \"oauth2\"").expect("a kind");
    let (_, after) = rest.split_once("[[integrations.marketplaces]]").expect("marketplaces");
    let outbound = outbound.replace("{provider}", &provider.base_url);
    let text = format!("{before}client_id = \"market\"\n{outbound}\n[[integrations.marketplaces]]{after}");
    let clock = Arc::new(ManualClock::starting_at(SystemClock.now()));
    let receiver = Receiver::start_with(&text, Arc::new(MemoryStore::new()), Accept, clock.clone()).await;
    Scene { market, provider, receiver, clock }
}

#[tokio::test]
async fn a_hundred_strangers_with_invented_tokens_do_not_lock_the_marketplace_out_even_from_its_own_address() {
    let scene = start(INTROSPECTION).await;
    scene.provider.with(|state| state.tokens.insert("good".into(), json!({"active": true, "client_id": "market"})));
    assert_eq!(scene.status("good").await, 202);
    scene.provider.with(|state| state.hangs_on_inventions = true);
    let strangers = Strangers::come(&scene, 100, |_| "203.0.113.1".into());
    for round in 0..13 {
        scene.until("strangers keep the provider busy", |state| state.hanging >= 32).await;
        if round == 0 {
            assert_eq!(scene.status("good").await, 202);
            assert_eq!(scene.provider.with(|state| state.hanging), 32, "the provider is not asked without bound");
        }
        // What was known of the token has ended: it has to be asked about again.
        scene.clock.advance(Duration::from_secs(61));
        scene.until("strangers keep the provider busy", |state| state.hanging >= 32).await;
        assert_eq!(scene.status("good").await, 202, "round {round}");
        assert_eq!(scene.provider.with(|state| state.asked_about["good"]), round + 2);
    }
    drop(strangers);
}

#[tokio::test]
async fn a_new_token_from_a_network_that_showed_a_good_one_does_not_wait_behind_strangers_of_other_networks() {
    let scene = start_behind_a_proxy(INTROSPECTION).await;
    let token = |number: usize| format!("good-{number}");
    for number in 0..6 {
        let says = json!({"active": true, "client_id": "market"});
        scene.provider.with(|state| state.tokens.insert(token(number), says));
    }
    assert_eq!(scene.status_from(&token(0), "2001:db8:1::1").await, 202);
    scene.provider.with(|state| state.hangs_on_inventions = true);
    let strangers = Strangers::come(&scene, 120, |number| format!("2001:db8:{:x}::{number}", 100 + number % 60));
    for number in 1..6 {
        scene.until("strangers keep the provider busy", |state| state.hanging >= 16).await;
        let address = format!("2001:db8:1::{number}");
        assert_eq!(scene.status_from(&token(number), &address).await, 202, "{address}");
        if number == 1 {
            assert_eq!(scene.provider.with(|state| state.hanging), 16, "so many questions are strangers', and no more");
        }
        scene.clock.advance(Duration::from_mins(5));
    }
    drop(strangers);
}

#[tokio::test]
async fn one_network_of_strangers_takes_a_few_places_and_leaves_the_rest_to_others() {
    let scene = start_behind_a_proxy(INTROSPECTION).await;
    scene.provider.with(|state| state.tokens.insert("good".into(), json!({"active": true, "client_id": "market"})));
    scene.provider.with(|state| state.hangs_on_inventions = true);
    let strangers = Strangers::come(&scene, 100, |number| format!("2001:db8:7::{number:x}"));
    scene.until("strangers keep the provider busy", |state| state.hanging == 8).await;
    assert_eq!(
        scene.status_from("good", "198.51.100.1").await,
        202,
        "who never came before is asked about all the same"
    );
    assert_eq!(scene.provider.with(|state| state.hanging), 8);
    drop(strangers);
}

#[tokio::test]
async fn a_token_stays_good_while_it_is_asked_about_again_and_never_longer_than_a_minute() {
    let scene = start(INTROSPECTION).await;
    scene.provider.with(|state| state.tokens.insert("good".into(), json!({"active": true, "client_id": "market"})));
    assert_eq!(scene.status("good").await, 202);
    scene.provider.with(|state| state.hangs = true);
    scene.clock.advance(Duration::from_secs(30));
    assert_eq!(scene.status("good").await, 202, "its callers do not wait for the provider");
    scene.until_asked_about("good", 2).await;
    // The wall clock may step back as far as it likes.
    scene.clock.set(Timestamp::from_millis(scene.clock.now().as_millis() - 3_600_000));
    scene.clock.advance(Duration::from_millis(29_999));
    assert_eq!(scene.status("good").await, 202);
    scene.clock.advance(Duration::from_millis(1));
    assert_eq!(scene.status_in_the_end("good").await, 503, "nobody has vouched for it within a minute");
    scene.provider.with(|state| state.hangs = false);
    scene.provider.with(|state| state.tokens.insert("good".into(), json!({"active": false})));
    scene.clock.advance(Duration::from_secs(20));
    scene.until_status("good", 401).await;
}

#[tokio::test]
async fn a_token_that_is_revoked_is_refused_as_soon_as_the_provider_says_so() {
    let scene = start(INTROSPECTION).await;
    scene.provider.with(|state| state.tokens.insert("good".into(), json!({"active": true, "client_id": "market"})));
    assert_eq!(scene.status("good").await, 202);
    scene.provider.with(|state| state.tokens.clear());
    scene.clock.advance(Duration::from_secs(30));
    assert_eq!(scene.status("good").await, 202);
    // No further time passes.
    let refused = async { while scene.status("good").await != 401 {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("is refused");
}

#[tokio::test]
async fn an_answer_that_comes_too_late_for_its_caller_is_there_for_the_next() {
    let scene = start(INTROSPECTION).await;
    scene.provider.with(|state| state.hangs = true);
    let asked = async {
        scene.until("both are asked about", |state| state.hanging == 2).await;
        scene.clock.advance(Duration::from_secs(4));
    };
    let (one, other, ()) = tokio::join!(scene.status("one"), scene.status("other"), asked);
    assert_eq!((one, other), (503, 503));
    assert_eq!(scene.provider.with(|state| state.hanging), 2, "they are asked about still");
    scene.provider.with(|state| {
        state.tokens.insert("one".into(), json!({"active": true, "client_id": "market"}));
        state.hangs = false;
        state.looked_at.send_replace(());
    });
    scene.until("both are answered", |state| state.hanging == 0).await;
    assert_eq!(scene.status("one").await, 202);
    assert_eq!(scene.status("other").await, 401);
    assert_eq!(scene.provider.with(|state| state.tokens_asked_about), 2, "once each");
}

#[tokio::test]
async fn strangers_with_invented_key_names_do_not_take_the_place_of_a_token_with_a_new_key() {
    let (known, new, invented) = (
        Signer::new("known", Algorithm::ES256),
        Signer::new("new", Algorithm::ES256),
        Signer::new("invented", Algorithm::ES256),
    );
    let scene = start_behind_a_proxy(JWT).await;
    scene.provider.publish(&[&known]);
    scene.clock.advance(Duration::from_secs(2));
    let market = "198.51.100.1";
    let first = scene.token(&known);
    tokio::select! {
        status = scene.status_from(&first, market) => assert_eq!(status, 202),
        () = let_time_pass(&scene.clock) => unreachable!("it passes for ever"),
    }
    let mut crowd = tokio::task::JoinSet::new();
    let invention = scene.token(&invented);
    let event = scene.market.order("stranger");
    for number in 0..600_usize {
        let url = format!("{}/notifications/create?eventUrl={event}", scene.receiver.public);
        let request = scene.receiver.client.get(url).bearer_auth(&invention);
        let request = request.header("X-Forwarded-For", format!("2001:db8:{number:x}::1"));
        crowd.spawn(async move { request.send().await.expect("answers").status().as_u16() });
    }
    // The clock stands still, so those who found a place wait in it; the rest is turned away.
    let mut refused = 0;
    while refused < 600 - 384 - 1 {
        let status = tokio::time::timeout(PATIENCE, crowd.join_next()).await.expect("in time").expect("one is left");
        let status = status.expect("answers");
        assert!([401, 503].contains(&status), "{status}");
        refused += 1;
    }
    scene.provider.publish(&[&known, &new]);
    let token = scene.token(&new);
    tokio::select! {
        status = scene.status_from(&token, market) => assert_eq!(status, 202),
        () = let_time_pass(&scene.clock) => unreachable!("it passes for ever"),
    }
}

#[tokio::test]
async fn keys_that_come_too_late_for_their_caller_are_there_for_the_next() {
    let (known, new) = (Signer::new("known", Algorithm::ES256), Signer::new("new", Algorithm::ES256));
    let scene = start_with(JWT, |provider| provider.publish(&[&known])).await;
    assert_eq!(scene.status(&scene.token(&known)).await, 202);
    scene.clock.advance(Duration::from_secs(2));
    scene.provider.publish(&[&known, &new]);
    scene.provider.with(|state| state.withholds_keys = true);
    let fetched = || scene.provider.with(|state| state.keys_fetched);
    let before = fetched();
    let token = scene.token(&new);
    let asked = async {
        scene.until("keys are asked for", |state| state.hanging == 1).await;
        scene.clock.advance(Duration::from_secs(4));
    };
    let (status, ()) = tokio::join!(scene.status(&token), asked);
    assert_eq!(status, 503);
    assert_eq!(scene.provider.with(|state| state.hanging), 1, "they are asked for still");
    scene.provider.with(|state| {
        state.withholds_keys = false;
        state.looked_at.send_replace(());
    });
    scene.until("keys are given out", |state| state.hanging == 0).await;
    assert_eq!(scene.status(&token).await, 202);
    assert_eq!(fetched(), before + 1, "once for both");
}

#[tokio::test]
async fn a_key_fetch_that_nobody_waits_for_any_more_still_counts_as_one() {
    let (known, invented) = (Signer::new("known", Algorithm::ES256), Signer::new("invented", Algorithm::ES256));
    let scene = start_with(JWT, |provider| provider.publish(&[&known])).await;
    assert_eq!(scene.status(&scene.token(&known)).await, 202);
    scene.clock.advance(Duration::from_secs(2));
    scene.provider.with(|state| state.withholds_keys = true);
    let before = scene.provider.with(|state| state.keys_fetched);
    let token = scene.token(&invented);
    for _ in 0..5 {
        let asked = async {
            scene.until("keys are asked for", |state| state.hanging >= 1).await;
            let_time_pass(&scene.clock).await;
        };
        tokio::select! {
            status = scene.status(&token) => assert_eq!(status, 503),
            () = asked => unreachable!("time passes for ever"),
        }
    }
    assert_eq!(scene.provider.with(|state| state.keys_fetched), before + 1, "the provider is not asked anew for each");
}

#[tokio::test]
async fn any_number_of_callers_with_one_new_token_ask_about_it_once() {
    let scene = start(INTROSPECTION).await;
    scene.provider.with(|state| state.tokens.insert("good".into(), json!({"active": true, "client_id": "market"})));
    let all = (0..50).map(|_| scene.show("good")).collect();
    let answers = join(all).await;
    assert!(answers.iter().all(|answer| answer.status().is_success()));
    assert_eq!(scene.provider.with(|state| state.tokens_asked_about), 1);
}

#[tokio::test]
async fn a_provider_that_cannot_be_asked_about_a_token_is_503() {
    let scene = start(INTROSPECTION).await;
    scene.provider.with(|state| state.tokens.insert("good".into(), json!({"active": true, "client_id": "market"})));
    for status in [500, 401, 404, 204] {
        scene.provider.with(|state| state.out_of_service = Some(status));
        let answer = scene.show("good").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "it answers {status}");
        assert_eq!(body_of(answer).await["errorCode"], "TRANSPORT_ERROR");
    }
    scene.provider.with(|state| state.out_of_service = None);
    assert_eq!(scene.status("good").await, 202, "what could not be told is not remembered");
    scene.provider.with(|state| state.out_of_service = Some(500));
    assert_eq!(scene.status("good").await, 202, "what was told is");
    scene.clock.advance(Duration::from_mins(1));
    assert_eq!(scene.status("good").await, 503, "for a minute");
}

#[tokio::test]
async fn a_token_is_taken_by_whichever_kind_vouches_for_it() {
    let signer = Signer::new("key", Algorithm::ES256);
    let outbound = "kind = \"basic\"\nclient_secret = \"s\"";
    let scene = start_with(outbound, |_| {}).await;
    assert_eq!(scene.status(&scene.token(&signer)).await, 401, "where no token is taken, none is good");
    let answer = scene.receiver.client.post(format!("{}/oauth2/token", scene.receiver.public)).send().await;
    assert_eq!(answer.expect("answers").status(), StatusCode::NOT_FOUND, "and none is issued");
    let rotated = scene.receiver.client.post(format!("{}/api/v1/keys/rotate", scene.receiver.admin)).send().await;
    assert_eq!(rotated.expect("answers").status(), StatusCode::NOT_FOUND, "nor is there a key to rotate");
    let keys: Value = body_of(
        scene.receiver.client.get(format!("{}/api/v1/keys", scene.receiver.admin)).send().await.expect("answers"),
    )
    .await;
    assert_eq!(keys, json!({"keys": []}));
}

#[tokio::test]
async fn answers_about_tokens_that_are_nearly_right_are_answers() {
    let scene = start(INTROSPECTION).await;
    let (before, after) = (scene.clock.now().as_seconds() - 60, scene.clock.now().as_seconds() + 3600);
    for (number, (says, status)) in [
        (json!({"active": "true", "client_id": "market"}), 202),
        (json!({"active": true, "client_id": "market", "exp": after.to_string(), "nbf": before.to_string()}), 202),
        (json!({"active": true, "client_id": "market", "exp": null}), 202),
        (json!({"active": "false"}), 401),
        (json!({"active": true, "client_id": "market", "exp": before.to_string()}), 401),
        (json!({"active": true, "client_id": "market", "exp": null, "nbf": ""}), 202),
        (json!({"active": true, "client_id": "market", "iat": "soon"}), 202),
        (json!({"active": false, "exp": ""}), 401),
        (json!({"active": "False", "exp": "soon", "nbf": {}, "aud": 7}), 401),
        (json!({"active": true, "client_id": "market", "exp": "soon"}), 503),
        (json!({"active": 1, "client_id": "market"}), 503),
    ]
    .into_iter()
    .enumerate()
    {
        let token = number.to_string();
        scene.provider.with(|state| state.tokens.insert(token.clone(), says.clone()));
        assert_eq!(scene.status(&token).await, status, "{says}");
    }
}

#[tokio::test]
async fn answers_about_tokens_are_read_whatever_their_charset_and_the_characters_in_their_strings() {
    let scene = start(INTROSPECTION).await;
    let good = |more: &[u8]| [&br#"{"active": true, "client_id": "market", "#[..], more, b"}"].concat();
    let wide: Vec<u16> = "\u{feff}{\"active\": true, \"client_id\": \"market\"}".encode_utf16().collect();
    for (number, (content_type, says, status)) in [
        ("application/json", good(b"\"name\": \"Zo\xe9\""), 202),
        ("application/json; charset=ISO-8859-1", good(b"\"name\": \"Zo\xe9\""), 202),
        ("application/json", good(br#""name": "Zo\ud800""#), 202),
        ("application/json", good(b"\"name\": \"Zo\te\""), 202),
        ("application/json", wide.into_iter().flat_map(u16::to_be_bytes).collect(), 202),
        ("application/json", good(br#""exp": 1e999"#), 202),
        ("application/json", good(br#""exp": -1e999"#), 401),
        ("application/json", good(br#""nbf": 1e999"#), 401),
        ("application/json", good(br#""exp": Infinity"#), 202),
        ("application/json", good(br#""exp": NaN"#), 503),
        ("application/json", good(br#""cnf": {}"#), 401),
        ("application/json", good(br#""client_id": "stranger""#), 401),
        ("text/html", b"<html>active: true</html>".to_vec(), 503),
        ("application/json", br#"{"Active": true, "client_id": "market"}"#.to_vec(), 503),
        ("application/json", br#"[{"active": true, "client_id": "market"}]"#.to_vec(), 503),
    ]
    .into_iter()
    .enumerate()
    {
        let token = number.to_string();
        let shown = String::from_utf8_lossy(&says).into_owned();
        scene.provider.with(|state| state.raw_tokens.insert(token.clone(), (content_type, says)));
        assert_eq!(scene.status(&token).await, status, "{shown}");
    }
    // What the provider says of a token that is none is remembered whatever else it says.
    let inactive = br#"{"active": false, "exp": ""}"#.to_vec();
    scene.provider.with(|state| state.raw_tokens.insert("none".into(), ("application/json", inactive)));
    assert_eq!((scene.status("none").await, scene.status("none").await), (401, 401));
    assert_eq!(scene.provider.with(|state| state.asked_about["none"]), 1);
}

#[tokio::test]
async fn an_identity_provider_that_compares_our_secret_raw_is_asked_with_it_raw() {
    let with = INTROSPECTION.replace("door:bell", "doorbell");
    for refusal in [401, 403] {
        let scene = start(&with).await;
        // "doorbell:s3cret&"
        let raw = "Basic ZG9vcmJlbGw6czNjcmV0Jg==";
        scene.provider.with(|state| {
            state.wants = Some((raw.to_owned(), refusal));
            for token in ["one", "two"] {
                state.tokens.insert(token.into(), json!({"active": true, "client_id": "market"}));
            }
        });
        for token in ["one", "two"] {
            assert_eq!(scene.status(token).await, 202, "refused with {refusal}");
        }
        let others = scene.provider.with(|state| state.authorization.iter().filter(|shown| *shown != raw).count());
        assert_eq!(others, 1);
    }
}
