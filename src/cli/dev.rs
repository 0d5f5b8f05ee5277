//! `doorbell dev`: a receiver and a sandbox marketplace in one process.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{Failure, print};
use crate::app::{App, configured_handler};
use crate::clock::SystemClock;
use crate::config::{Config, StoreUrl};
use crate::event::BaseUrl;
use crate::handler::Handler;
use crate::sandbox::Sandbox;
use crate::{shutdown, telemetry};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directory to keep events in [default: a fresh temporary directory, removed at exit].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments, handler: Option<Arc<dyn Handler>>) -> Result<(), Failure> {
    let mut config = Config::for_development()?;
    telemetry::start(&config.log);
    let stop = shutdown::on_signal(config.server.shutdown_timeout).map_err(Failure::because)?;

    // Lives until the end of this function, and is removed then.
    let (_temporary, directory) = if let Some(directory) = arguments.data {
        (None, directory)
    } else {
        let temporary = tempfile::Builder::new().prefix("doorbell-").tempdir().map_err(Failure::because)?;
        let path = temporary.path().to_owned();
        (Some(temporary), path)
    };
    config.store.url = StoreUrl::Sled(directory.clone());

    let sandbox = Sandbox::bind(&config).map_err(Failure::because)?;
    let market = format!("http://{}", sandbox.address);
    let base_url = BaseUrl::parse(&market).map_err(Failure::because)?;
    config.integrations[0].marketplaces[0].base_url = base_url;
    let handler = handler.unwrap_or_else(|| configured_handler(&config));
    let app = App::start(&config, handler, Arc::new(SystemClock)).await.map_err(Failure::because)?;
    let receiver = format!("http://{}{}", app.public, config.server.public_url.path());
    let receiver_base = BaseUrl::parse(&receiver).map_err(Failure::because)?;
    sandbox.open(&config, receiver_base, SystemClock).map_err(Failure::because)?;

    let by_hand = config.integrations[0].outbound.oauth2().map_or_else(String::new, |oauth2| {
        let (id, secret) = (&oauth2.client.client_id, oauth2.client.client_secret.expose());
        format!(
            "
ring by hand, as a marketplace would:
  curl -u {id}:{secret} -d grant_type=client_credentials {receiver}/oauth2/token
"
        )
    });
    // A closed standard output is no reason to stop serving.
    let _ = print::lines(format!(
        "doorbell dev: a receiver and a marketplace to ring it

  receiver     {receiver}
  operator     http://{admin}/api/v1/events
  marketplace  {market}
  events in    {data}

make something happen:
  curl -X POST {market}/simulate/subscription-order
  curl -X POST {market}/simulate/user-assignment
  curl -X POST {market}/simulate/ping

see what came of it:
  curl {market}/simulate/events
  curl http://{admin}/api/v1/events
{by_hand}
Ctrl-C stops.",
        admin = app.admin,
        data = directory.display(),
    ));

    stop.cancelled().await;
    sandbox.stop().await;
    app.stop().await;
    Ok(())
}
