//! The admin API of the running receiver, as commands ask it.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Failure, reachable};
use crate::config::{Config, Secret};
use crate::egress::Egress;
use crate::event::BaseUrl;

/// The largest answer that is read, in bytes: some events of an export, escaped.
const MAX_ANSWER_BYTES: usize = 64 << 20;

pub(super) struct Office {
    base_url: BaseUrl,
    token: Option<Secret>,
    egress: Egress,
}

impl Office {
    pub(super) fn of(config: &Config) -> Result<Self, Failure> {
        let address = format!("http://{}", reachable(config.admin.listen));
        let base_url = BaseUrl::parse(&address).map_err(Failure::because)?;
        let egress = Egress::new(&config.egress.direct(), vec![base_url.clone()], MAX_ANSWER_BYTES);
        Ok(Self { base_url, token: config.admin.token.clone(), egress: egress.map_err(Failure::because)? })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(&Method::GET, path, None).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: Option<&Value>) -> Result<T, Failure> {
        self.ask(&Method::POST, path, body).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<T, Failure> {
        let listener = format!("admin.listen {}", self.base_url);
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base_url));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = request.body(body).map_err(Failure::because)?;
        let answer = self.egress.call(request).await.map_err(|error| {
            Failure::Command(format!("no answer from {listener}: {error}; is `doorbell serve` running?"))
        })?;
        let status = answer.status();
        if status.is_success() {
            let unreadable = |error| Failure::Command(format!("{listener} answered what is not understood: {error}"));
            return serde_json::from_slice(answer.body()).map_err(unreadable);
        }
        let problem: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("it does not say why");
        Err(Failure::Command(format!("{listener} answered {status}: {detail}")))
    }
}
