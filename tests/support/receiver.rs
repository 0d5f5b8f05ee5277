//! A receiver in this process.

use std::sync::Arc;

use doorbell::app::{App, StoreParts};
use doorbell::clock::{Clock, Moment, SystemClock};
use doorbell::config::Config;
use doorbell::handler::Handler;
use doorbell::store::EventStore;
use doorbell::store::memory::MemoryStore;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use url::form_urlencoded::byte_serialize;

use super::PATIENCE;

pub struct Receiver {
    pub app: App,
    pub client: Client,
    pub public: String,
    pub admin: String,
    pub store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
}

impl Receiver {
    /// A receiver on a store in memory, by the clock of the machine.
    pub async fn start(configuration: &str, handler: impl Handler) -> Self {
        Self::start_with(configuration, Arc::new(MemoryStore::new()), handler, Arc::new(SystemClock)).await
    }

    pub async fn start_with(
        configuration: &str,
        store: Arc<dyn EventStore>,
        handler: impl Handler,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::start_on(configuration, &store, Arc::clone(&store).into(), handler, clock).await
    }

    /// The same on a store some of whose parts are others.
    pub async fn start_on(
        configuration: &str,
        store: &Arc<dyn EventStore>,
        parts: StoreParts,
        handler: impl Handler,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let config = Config::from_toml(configuration).unwrap_or_else(|error| panic!("{error}"));
        let app = App::start_on(&config, parts, Arc::new(handler), Arc::clone(&clock)).await.expect("starts");
        let public = format!("http://{}{}", app.public, config.server.public_url.path());
        let admin = format!("http://{}", app.admin);
        // A test that lets an hour pass finds every kept connection closed, or about to be.
        let client = Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        Self { app, client, public, admin, store: Arc::clone(store), clock }
    }

    /// A bearer token, as the marketplace gets it.
    pub async fn token(&self) -> String {
        token(&self.client, &self.public, "marketplace", "outbound-secret").await
    }

    /// Notifies as the marketplace does.
    pub async fn notify(&self, route: &str, event_url: &str) -> Response {
        notify(&self.client, &self.public, &self.token().await, route, event_url).await
    }

    /// Every event there is, newest first, by the operator's API.
    pub async fn events(&self) -> Vec<Value> {
        let answer = self.client.get(format!("{}/api/v1/events", self.admin)).send().await.expect("answers");
        json(answer).await["events"].as_array().expect("a list").clone()
    }

    /// When the next event comes due.
    pub async fn idle_until(&self) -> Option<Moment> {
        let now = self.clock.read();
        self.store.claim(0, &[], now).await.expect("answers").idle_until
    }

    /// Waits until the one event there is has reached `state`.
    pub async fn until_state(&self, state: &str) -> Value {
        let reached = async {
            loop {
                if let Some(event) = self.events().await.into_iter().find(|event| event["state"] == state) {
                    return event;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(event) => event,
            Err(_) => panic!("no event became {state}: {:?}", self.events().await),
        }
    }
}

pub async fn token(client: &Client, public: &str, id: &str, secret: &str) -> String {
    let request = client.post(format!("{public}/oauth2/token")).basic_auth(id, Some(secret));
    let request =
        request.header("content-type", "application/x-www-form-urlencoded").body("grant_type=client_credentials");
    let answer = request.send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::OK);
    json(answer).await["access_token"].as_str().expect("a token").to_owned()
}

pub async fn notify(client: &Client, public: &str, token: &str, route: &str, event_url: &str) -> Response {
    let encoded: String = byte_serialize(event_url.as_bytes()).collect();
    let url = format!("{public}/notifications{route}?eventUrl={encoded}");
    client.get(url).bearer_auth(token).send().await.expect("answers")
}

pub async fn json(answer: Response) -> Value {
    let bytes = answer.bytes().await.expect("a body");
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
}
