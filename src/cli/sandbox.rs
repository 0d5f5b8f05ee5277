//! `doorbell sandbox`: the sandbox marketplace alone.

use super::{Failure, print};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::sandbox::Sandbox;
use crate::{shutdown, telemetry};

pub(super) async fn run(config: &Config) -> Result<(), Failure> {
    telemetry::start(&config.log);
    let stop = shutdown::on_signal(config.server.shutdown_timeout).map_err(Failure::because)?;
    let sandbox = Sandbox::bind(config).map_err(Failure::because)?;
    sandbox.open(config, config.server.public_url.clone(), SystemClock).map_err(Failure::because)?;
    let expected = &config.integrations[0].marketplaces[0].base_url;
    let market = format!("http://{}", sandbox.address);
    // A closed standard output is no reason to stop serving.
    let _ = print::line(format!("doorbell sandbox: a marketplace at {market}, notifying {}", config.server.public_url));
    if expected.as_str() != market {
        print::remark(format_args!(
            "the receiver's integrations[0].marketplaces[0].base_url is {expected}, so it will refuse events of \
             {market}; make the two agree"
        ));
    }
    stop.cancelled().await;
    sandbox.stop().await;
    Ok(())
}
