//! `doorbell health`: whether a receiver is ready.

use clap::Args;
use http::Request;

use super::{Failure, Source, local_url, print};
use crate::config::Config;
use crate::egress::Egress;
use crate::event::{BaseUrl, MAX_BODY_BYTES};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Address to ask [default: the configured public listener's /health/ready].
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let url = match &arguments.url {
        Some(url) => url.clone(),
        None => format!("{}/health/ready", local_url(&arguments.source.load()?)),
    };
    is_ready(&url).await?;
    print::line("ready")
}

/// Fails if the receiver at `url` is not ready.
pub(super) async fn is_ready(url: &str) -> Result<(), Failure> {
    let base = BaseUrl::parse(url).map_err(|error| Failure::Command(format!("--url {url} {error}")))?;
    let egress = Egress::new(&Config::defaults().egress, vec![base], MAX_BODY_BYTES).map_err(Failure::because)?;
    let request = Request::get(url).body(Vec::new()).map_err(Failure::because)?;
    let answer = egress.call(request).await.map_err(Failure::because)?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(Failure::Command(format!("{url} answered {status}"))) }
}
