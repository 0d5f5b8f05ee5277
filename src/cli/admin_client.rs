//! The client of the running receiver's admin API.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Failure, reachable};
use crate::admin::api::{
    EventDetail, EventPage, EventQuery, EventSummary, ExportPage, KeyList, Problem, ResolveRequest,
};
use crate::config::{Config, Secret};
use crate::egress::Egress;
use crate::event::BaseUrl;
use crate::store::Sequence;

/// The largest answer that is read, in bytes: a page of an export, escaped.
const MAX_ANSWER_BYTES: usize = 64 << 20;

pub(super) struct AdminClient {
    base_url: BaseUrl,
    token: Option<Secret>,
    egress: Egress,
}

impl AdminClient {
    pub(super) fn new(config: &Config) -> Result<Self, Failure> {
        let address = format!("http://{}", reachable(config.admin.listen));
        let base_url = BaseUrl::parse(&address).map_err(Failure::because)?;
        let egress = Egress::new(&config.egress.direct(), vec![base_url.clone()], MAX_ANSWER_BYTES);
        Ok(Self { base_url, token: config.admin.token.clone(), egress: egress.map_err(Failure::because)? })
    }

    pub(super) async fn events(&self, query: &EventQuery) -> Result<EventPage, Failure> {
        self.get(&format!("/api/v1/events?{}", query.encoded())).await
    }

    pub(super) async fn event(&self, id: &str) -> Result<EventDetail, Failure> {
        self.get(&event_path(id)).await
    }

    pub(super) async fn retry(&self, id: &str) -> Result<EventSummary, Failure> {
        self.post(&format!("{}/retry", event_path(id))).await
    }

    pub(super) async fn resolve(&self, id: &str, result: &ResolveRequest) -> Result<EventSummary, Failure> {
        self.post_json(&format!("{}/result", event_path(id)), result).await
    }

    pub(super) async fn export(&self, from: Sequence) -> Result<ExportPage, Failure> {
        self.get(&format!("/api/v1/export?from={from}")).await
    }

    pub(super) async fn keys(&self) -> Result<KeyList, Failure> {
        self.get("/api/v1/keys").await
    }

    pub(super) async fn rotate_keys(&self, revoke: bool) -> Result<KeyList, Failure> {
        self.post(&format!("/api/v1/keys/rotate?revoke={revoke}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, None).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::POST, path, None).await
    }

    async fn post_json<T: DeserializeOwned>(&self, path: &str, document: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(document).map_err(Failure::because)?;
        self.call(Method::POST, path, Some(body)).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<T, Failure> {
        let listener = format!("admin.listen {}", self.base_url);
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base_url));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(body.unwrap_or_default()).map_err(Failure::because)?;
        let answer = self.egress.call(request).await.map_err(|error| {
            Failure::Command(format!("no answer from {listener}: {error}; is `doorbell serve` running?"))
        })?;
        let status = answer.status();
        if status.is_success() {
            let unreadable = |error| Failure::Command(format!("{listener} answered what is not understood: {error}"));
            return serde_json::from_slice(answer.body()).map_err(unreadable);
        }
        let reason = match status {
            StatusCode::UNAUTHORIZED => self.token_mistake().to_owned(),
            _ => reason(answer.body()),
        };
        Err(Failure::Command(format!("{listener} answered {status}: {reason}")))
    }

    /// What to set where the receiver does not take the token of this configuration.
    const fn token_mistake(&self) -> &'static str {
        match self.token {
            Some(_) => {
                "admin.token of this configuration is not the one that the receiver runs with; set admin.token, or \
                 DOORBELL__ADMIN__TOKEN, to that one"
            }
            None => {
                "the receiver runs with an admin.token, and this configuration has none; set admin.token, or \
                 DOORBELL__ADMIN__TOKEN, to that one"
            }
        }
    }
}

fn reason(body: &[u8]) -> String {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    if problem.detail.is_empty() { "it does not say why".to_owned() } else { problem.detail }
}

fn event_path(id: &str) -> String {
    format!("/api/v1/events/{}", utf8_percent_encode(id, NON_ALPHANUMERIC))
}
