//! `doorbell serve`: the receiver.

use std::sync::Arc;

use super::Failure;
use crate::app::{App, configured_handler, open_store, warn_of_durability};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::handler::Handler;
use crate::{shutdown, telemetry};

pub(super) async fn run(config: &Config, handler: Option<Arc<dyn Handler>>) -> Result<(), Failure> {
    telemetry::start(&config.log);
    let stop = shutdown::on_signal(config.server.shutdown_timeout).map_err(Failure::because)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = open_store(config, &clock).await.map_err(Failure::because)?;
    warn_of_durability(config, store.describe().durability);
    let handler = handler.unwrap_or_else(|| configured_handler(config));
    let app = App::start_on(config, Arc::clone(&store), handler, clock).await.map_err(Failure::because)?;
    tracing::info!(public = %app.public, admin = %app.admin, public_url = %config.server.public_url, "listening");
    stop.cancelled().await;
    app.stop().await;
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}
