use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use http::Request;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};

use super::{Failure, Output, Source, reachable};
use crate::config::Config;
use crate::egress::Egress;
use crate::event::{BaseUrl, MAX_BODY_BYTES};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Sign tokens with a new key from now on; the old ones verify theirs until they end.
    #[command(after_help = "Example:\n  doorbell keys rotate --config config/doorbell.toml")]
    Rotate(Rotate),
    /// List the signing keys by name.
    #[command(after_help = "Example:\n  doorbell keys list --output json")]
    List(List),
}

#[derive(Debug, Args)]
struct Rotate {
    #[command(flatten)]
    list: List,
    /// Forget the old keys at once, so that every token issued so far is refused: for a key that leaked.
    #[arg(long)]
    revoke: bool,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    source: Source,
    /// How to print the keys.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Deserialize, Serialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    kid: String,
    created_at: String,
    verifies_until: Option<String>,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (list, request) = match &arguments.action {
        Action::List(list) => (list, Request::get("/api/v1/keys")),
        Action::Rotate(rotate) => {
            (&rotate.list, Request::post(format!("/api/v1/keys/rotate?revoke={}", rotate.revoke)))
        }
    };
    let config = list.source.load()?;
    let answer = ask_office(&config, request).await?;
    let keys: Keys = serde_json::from_slice(&answer).map_err(Failure::because)?;
    match list.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&keys).map_err(Failure::because)?),
        Output::Table => {
            let mut table = Table::new();
            table.load_style(UTF8_FULL_CONDENSED).set_header(["key", "made", "verifies until"]);
            for key in &keys.keys {
                let until = key.verifies_until.as_deref().unwrap_or("it signs");
                table.add_row([key.kid.as_str(), key.created_at.as_str(), until]);
            }
            println!("{table}");
        }
    }
    Ok(())
}

/// Asks the admin API of the running receiver.
async fn ask_office(config: &Config, mut request: http::request::Builder) -> Result<Vec<u8>, Failure> {
    let address = format!("http://{}", reachable(config.admin.listen));
    let base = BaseUrl::parse(&address).map_err(Failure::because)?;
    let path = request.uri_ref().map(ToString::to_string).unwrap_or_default();
    request = request.uri(format!("{address}{path}"));
    if let Some(token) = &config.admin.token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let request = request.body(Vec::new()).map_err(Failure::because)?;
    let egress = Egress::new(&config.egress.direct(), vec![base], MAX_BODY_BYTES).map_err(Failure::because)?;
    let answer = egress.call(request).await.map_err(|error| {
        Failure::Command(format!("no answer from admin.listen {address}: {error}; is `doorbell serve` running?"))
    })?;
    if answer.status().is_success() {
        return Ok(answer.into_body());
    }
    let problem: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("it does not say why");
    Err(Failure::Command(format!("admin.listen {address} answered {}: {detail}", answer.status())))
}
