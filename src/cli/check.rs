//! `doorbell check`: whether configuration, store, marketplaces and identity providers are as they should be.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::health::is_ready;
use super::print::{self, Table};
use super::{Failure, Output, Source, local_url};
use crate::app::{authenticator, integrations, open_store};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, StoreUrl};
use crate::marketplace::CredentialForm;
use crate::store::EventStore;
use crate::store::memory::MemoryStore;
use crate::store::sled::OpenError;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// How to print the findings.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    ok: bool,
    detail: String,
}

impl Finding {
    fn of(check: impl Into<String>, found: Result<String, String>) -> Self {
        let ok = found.is_ok();
        let (Ok(detail) | Err(detail)) = found;
        Self { check: check.into(), ok, detail }
    }
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = arguments.source.load()?;
    let mut findings = vec![Finding::of("configuration", Ok(format!("{} integration(s)", config.integrations.len())))];
    findings.push(Finding::of("store", check_store(&config).await));
    findings.extend(check_marketplaces(&config).await);
    findings.extend(check_providers(&config).await);

    match arguments.output {
        Output::Table => {
            let mut table = Table::with_header(["check", "", "detail"]);
            for finding in &findings {
                let verdict = if finding.ok { "ok" } else { "FAILED" };
                table.row([finding.check.as_str(), verdict, finding.detail.as_str()]);
            }
            table.print()?;
        }
        Output::Json => print::json(&findings)?,
    }
    if findings.iter().all(|finding| finding.ok) { Ok(()) } else { Err(Failure::Printed) }
}

async fn check_store(config: &Config) -> Result<String, String> {
    let place = match &config.store.url {
        StoreUrl::Sled(directory) => directory.display().to_string(),
        StoreUrl::Memory => "memory".to_owned(),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    match open_store(config, &clock).await {
        Ok(store) => {
            store.ready().await.map_err(|error| error.to_string())?;
            Ok(format!("{place}: {}", store.describe().durability))
        }
        Err(OpenError::Locked { .. }) => {
            // The receiver that has the store open tells whether it is ready.
            let url = format!("{}/health/ready", local_url(config));
            match is_ready(&url).await {
                Ok(()) => Ok(format!("{place}: in use by the doorbell at {}, which is ready", config.server.listen)),
                Err(_) => Err(format!("{place} is in use by a process that does not answer at {url}")),
            }
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn check_marketplaces(config: &Config) -> Vec<Finding> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let clients = match integrations(config, &clock) {
        Ok(clients) => clients,
        Err(error) => return vec![Finding::of("marketplaces", Err(error.to_string()))],
    };
    let mut findings = Vec::new();
    for (integration, configured) in clients.iter().zip(&config.integrations) {
        for (client, marketplace) in integration.marketplaces.iter().zip(&configured.marketplaces) {
            let found = client.check().await;
            let detail = found
                .map(|form| match form {
                    CredentialForm::Encoded => format!("token issued by {}", marketplace.token_url()),
                    CredentialForm::Raw => format!(
                        "token issued by {}, which takes client_id and client_secret only as they are: it refuses them \
                         encoded as RFC 6749 §2.3.1 says, so each start costs it one refused request",
                        marketplace.token_url()
                    ),
                })
                .map_err(|error| format!("{error} ({})", marketplace.token_url()));
            findings.push(Finding::of(format!("{}: {}", integration.name, client.base_url()), detail));
        }
    }
    findings
}

/// Checks the identity providers whose tokens marketplaces send.
async fn check_providers(config: &Config) -> Vec<Finding> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // This check needs no signing keys, and the store may be in use.
    let store: Arc<dyn EventStore> = Arc::new(MemoryStore::new());
    let authenticator = match authenticator(config, &store, &clock).await {
        Ok(authenticator) => authenticator,
        Err(error) => return vec![Finding::of("identity providers", Err(error.to_string()))],
    };
    let finding =
        |(integration, kind, found): (&str, &str, _)| Finding::of(format!("{integration}: outbound {kind}"), found);
    authenticator.check().await.into_iter().map(finding).collect()
}
