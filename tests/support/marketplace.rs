//! A marketplace whose every move a test decides.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::PATIENCE;

/// What the marketplace does with one request instead of what it usually does.
#[derive(Debug, Clone)]
pub enum Twist {
    Answer(u16),
    RetryAfter(u16, String),
    Redirect(String),
    /// Does what it should, and answers this.
    TakeAndAnswer(u16),
    /// Does what it should, and never answers.
    TakeAndHang,
    /// Gives an event or a token out, but not before the test lets it.
    GiveLate(Arc<Semaphore>),
    /// Never answers.
    Hang,
    /// Answers this status, headers and body.
    Say(u16, Vec<(&'static str, &'static str)>, Vec<u8>),
    /// Does what it should, and answers this with a body that is not packed as it says.
    TakeAndMislabel(u16),
    /// Answers this with a body that is not packed as it says.
    Mislabel(u16),
    /// Answers 200 and breaks off within the body.
    Truncated,
    /// Does what it should, answers 200 and breaks off within the body.
    TakeAndTruncate,
}

#[derive(Debug, Default, Clone)]
pub struct Event {
    pub body: Vec<u8>,
    /// What is said of the body; nothing is `application/json`.
    pub headers: Vec<(&'static str, String)>,
    pub reads: usize,
    /// What the last who read it asked for.
    pub accept_encoding: Option<String>,
    /// Results that were taken: at most one.
    pub taken: Vec<Value>,
    /// Reports that came after a result was taken.
    pub refused: usize,
}

#[derive(Debug, Default)]
pub struct State {
    pub events: HashMap<String, Event>,
    pub token_requests: usize,
    pub valid_tokens: Vec<String>,
    pub read_twists: VecDeque<Twist>,
    pub result_twists: VecDeque<Twist>,
    pub token_twists: VecDeque<Twist>,
    /// Done with every token request that has no twist of its own.
    pub token_rule: Option<Twist>,
    /// The one `Authorization` that gets tokens, instead of the usual one.
    pub credentials: Option<String>,
    /// The `Authorization` of every token request.
    pub shown_credentials: Vec<String>,
    /// The body of every token request.
    pub token_forms: Vec<String>,
    /// Everything is answered 503.
    pub out_of_service: bool,
    /// Requests that arrived, by what they were for.
    pub arrived: HashMap<&'static str, usize>,
}

/// What a request is for.
#[derive(Clone, Copy)]
enum PublicListener {
    Token,
    Read,
    Result,
}

impl State {
    fn next_twist(&mut self, listener: PublicListener) -> Option<Twist> {
        if self.out_of_service {
            return Some(Twist::Answer(503));
        }
        match listener {
            PublicListener::Token => self.token_twists.pop_front().or_else(|| self.token_rule.clone()),
            PublicListener::Read => self.read_twists.pop_front(),
            PublicListener::Result => self.result_twists.pop_front(),
        }
    }
}

pub struct Marketplace {
    pub base_url: String,
    pub state: Arc<Mutex<State>>,
    moved: watch::Sender<u64>,
}

#[derive(Clone)]
struct SandboxState {
    state: Arc<Mutex<State>>,
    moved: watch::Sender<u64>,
}

impl SandboxState {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.state.lock().expect("unpoisoned"));
        self.moved.send_modify(|moves| *moves += 1);
        value
    }
}

impl Marketplace {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let moved = watch::Sender::new(0);
        let sandbox = SandboxState { state: Arc::clone(&state), moved: moved.clone() };
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(sandbox.clone()))
                .app_data(web::PayloadConfig::new(4 << 20))
                .route("/oauth2/token", web::post().to(issue))
                .route("/api/integration/v1/events/{id}", web::get().to(read))
                .route("/api/integration/v1/events/{id}/result", web::post().to(take))
        })
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a free port");
        let base_url = format!("http://{}", server.addrs()[0]);
        tokio::spawn(server.run());
        Self { base_url, state, moved }
    }

    /// Puts an event up and returns its URL.
    pub fn event(&self, id: &str, body: &Value) -> String {
        self.raw_event(id, body.to_string().as_bytes())
    }

    pub fn raw_event(&self, id: &str, body: &[u8]) -> String {
        self.event_with(id, &[], body)
    }

    /// Puts an event up that is given out with these headers.
    pub fn event_with(&self, id: &str, headers: &[(&'static str, &str)], body: &[u8]) -> String {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let event = Event { body: body.to_vec(), headers, ..Event::default() };
        self.with(|state| state.events.insert(id.to_owned(), event));
        format!("{}/api/integration/v1/events/{id}", self.base_url)
    }

    pub fn order(&self, id: &str) -> String {
        self.event(id, &json!({"type": "SUBSCRIPTION_ORDER", "payload": {"order": {"editionCode": "BASIC"}}}))
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("unpoisoned"))
    }

    pub fn seen(&self, id: &str) -> Event {
        self.with(|state| state.events[id].clone())
    }

    /// Waits until the marketplace's state satisfy `condition`.
    pub async fn until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let mut moved = self.moved.subscribe();
        let reached = async {
            while !self.with(|state| condition(state)) {
                moved.changed().await.expect("the marketplace lives");
            }
        };
        assert!(
            tokio::time::timeout(PATIENCE, reached).await.is_ok(),
            "waited in vain until {what}: {:?}",
            self.with(|state| format!("{state:?}"))
        )
    }

    pub async fn until_settled(&self, id: &str) {
        self.until(&format!("{id} has a result"), |state| !state.events[id].taken.is_empty()).await;
    }
}

/// A body that breaks off.
struct BrokenOff {
    is_begun: bool,
}

impl MessageBody for BrokenOff {
    type Error = std::io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(1000)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<web::Bytes, std::io::Error>>> {
        let next =
            if self.is_begun { Err(std::io::Error::other("broken off")) } else { Ok("{\"type\":\"SUBSCR".into()) };
        self.is_begun = true;
        Poll::Ready(Some(next))
    }
}

async fn twisted(twist: &Twist) -> HttpResponse {
    let status = |code: u16| StatusCode::from_u16(code).expect("a status");
    match twist {
        Twist::Answer(code) | Twist::TakeAndAnswer(code) => HttpResponse::build(status(*code)).finish(),
        Twist::TakeAndMislabel(code) | Twist::Mislabel(code) => {
            HttpResponse::build(status(*code)).insert_header(("Content-Encoding", "gzip")).body("{}")
        }
        Twist::RetryAfter(code, wait) => {
            HttpResponse::build(status(*code)).insert_header(("Retry-After", wait.clone())).finish()
        }
        Twist::Say(code, headers, body) => {
            let mut answer = HttpResponse::build(status(*code));
            for header in headers {
                answer.insert_header(*header);
            }
            answer.body(body.clone())
        }
        Twist::Redirect(to) => HttpResponse::Found().insert_header(("Location", to.clone())).finish(),
        Twist::Hang | Twist::TakeAndHang | Twist::GiveLate(_) => std::future::pending().await,
        Twist::Truncated | Twist::TakeAndTruncate => HttpResponse::Ok().body(BrokenOff { is_begun: false }),
    }
}

async fn issue(sandbox: web::Data<SandboxState>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let shown = request.headers().get("authorization").and_then(|header| header.to_str().ok()).unwrap_or_default();
    let (twist, token, credentials) = sandbox.with(|state| {
        state.token_requests += 1;
        state.shown_credentials.push(shown.to_owned());
        state.token_forms.push(String::from_utf8_lossy(&body).into_owned());
        *state.arrived.entry("token").or_default() += 1;
        let token = format!("token-{}", state.token_requests);
        state.valid_tokens.push(token.clone());
        (state.next_twist(PublicListener::Token), token, state.credentials.clone())
    });
    match twist {
        Some(Twist::GiveLate(gate)) => gate.acquire().await.expect("not closed").forget(),
        Some(twist) => return twisted(&twist).await,
        None => {}
    }
    // vendor:inbound-secret
    let is_us = shown == credentials.as_deref().unwrap_or("Basic dmVuZG9yOmluYm91bmQtc2VjcmV0");
    let body = String::from_utf8_lossy(&body);
    if !is_us || !body.contains("grant_type=client_credentials") || !body.contains("scope=ROLE_APPLICATION") {
        return HttpResponse::Unauthorized().json(json!({"error": "invalid_client"}));
    }
    HttpResponse::Ok().json(json!({"access_token": token, "token_type": "bearer", "expires_in": 43199}))
}

fn is_authorized(state: &State, request: &HttpRequest) -> bool {
    let header = request.headers().get("authorization").and_then(|header| header.to_str().ok()).unwrap_or_default();
    state.valid_tokens.iter().any(|token| header == format!("Bearer {token}"))
}

async fn read(sandbox: web::Data<SandboxState>, request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    let (twist, body) = sandbox.with(|state| {
        *state.arrived.entry("read").or_default() += 1;
        if !is_authorized(state, &request) {
            return (Some(Twist::Answer(401)), None);
        }
        let twist = state.next_twist(PublicListener::Read);
        let event = state.events.get_mut(&*id);
        let body = event.map(|event| {
            event.reads += 1;
            let accepted = request.headers().get("accept-encoding").and_then(|value| value.to_str().ok());
            event.accept_encoding = accepted.map(str::to_owned);
            (event.headers.clone(), event.body.clone())
        });
        (twist, body)
    });
    let twist = match twist {
        Some(Twist::GiveLate(gate)) => {
            gate.acquire().await.expect("not closed").forget();
            None
        }
        other => other,
    };
    match (twist, body) {
        (Some(twist), _) => twisted(&twist).await,
        (None, Some((headers, body))) => {
            let mut answer = HttpResponse::Ok();
            if headers.is_empty() {
                answer.content_type("application/json");
            }
            for header in headers {
                answer.append_header(header);
            }
            answer.body(body)
        }
        (None, None) => HttpResponse::NotFound().finish(),
    }
}

async fn take(
    sandbox: web::Data<SandboxState>,
    request: HttpRequest,
    id: web::Path<String>,
    result: web::Json<Value>,
) -> HttpResponse {
    let twist = sandbox.with(|state| {
        *state.arrived.entry("result").or_default() += 1;
        if !is_authorized(state, &request) {
            return Some(Twist::Answer(401));
        }
        let twist = state.next_twist(PublicListener::Result);
        if twist.as_ref().is_some_and(|twist| {
            !matches!(
                twist,
                Twist::TakeAndAnswer(_) | Twist::TakeAndHang | Twist::TakeAndMislabel(_) | Twist::TakeAndTruncate
            )
        }) {
            return twist;
        }
        let Some(event) = state.events.get_mut(&*id) else { return Some(Twist::Answer(404)) };
        if !event.taken.is_empty() {
            event.refused += 1;
            return Some(Twist::Answer(409));
        }
        event.taken.push(result.into_inner());
        Some(twist.unwrap_or(Twist::Answer(204)))
    });
    twisted(&twist.expect("always decided")).await
}
