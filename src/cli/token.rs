//! `doorbell token`: a bearer token of the running receiver.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use url::form_urlencoded::byte_serialize;

use super::{Failure, Source, local_url, print};
use crate::config::{Integration, Outbound};
use crate::egress::Egress;
use crate::event::{BaseUrl, MAX_BODY_BYTES};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Whose token [default: the first integration's].
    #[arg(long, value_name = "NAME")]
    integration: Option<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = arguments.source.load()?;
    let integration = match &arguments.integration {
        None => &config.integrations[0],
        Some(name) => config.integrations.iter().find(|integration| integration.name == *name).ok_or_else(|| {
            let known: Vec<_> = config.integrations.iter().map(|integration| integration.name.as_str()).collect();
            Failure::Command(format!("there is no integration {name:?}; there is {}", known.join(", ")))
        })?,
    };
    let base = BaseUrl::parse(&local_url(&config)).map_err(Failure::because)?;
    let egress = Egress::new(&config.egress.direct(), vec![base.clone()], MAX_BODY_BYTES).map_err(Failure::because)?;
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let client = &integration.outbound.oauth2().ok_or_else(|| no_tokens_here(integration))?.client;
    let credentials = format!("{}:{}", encoded(&client.client_id), encoded(client.client_secret.expose()));
    let request = Request::post(format!("{base}/oauth2/token"))
        .header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(credentials)))
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(b"grant_type=client_credentials".to_vec())
        .map_err(Failure::because)?;
    let answer = egress.call(request).await.map_err(|error| {
        Failure::Command(format!("no token from {base}: {error}; is `doorbell serve` or `doorbell dev` running?"))
    })?;
    let status = answer.status();
    let token: TokenAnswer = serde_json::from_slice(answer.body()).map_err(|_| {
        Failure::Command(format!("no token from {base}: it answered {status}; does it run with this configuration?"))
    })?;
    print::line(token.access_token)
}

/// The failure for an integration that does not use our token endpoint: it says where credentials come from instead.
fn no_tokens_here(integration: &Integration) -> Failure {
    let kinds: Vec<_> = integration.outbound.iter().map(Outbound::kind).collect();
    Failure::Command(format!(
        "integration {:?} takes {}, and doorbell issues tokens for the kind oauth2 only; jwt and introspection: ask your \
         identity provider for a token; basic: curl -u CLIENT_ID:CLIENT_SECRET",
        integration.name,
        kinds.join(" and ")
    ))
}
