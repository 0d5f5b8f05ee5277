//! The command line.

mod admin_client;
mod check;
#[cfg(feature = "sandbox")]
mod dev;
mod events;
mod health;
mod keys;
mod print;
#[cfg(feature = "sandbox")]
mod sandbox;
mod serve;
mod token;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Config, ConfigError, Origin};
use crate::egress::{Egress, EgressError};
use crate::handler::Handler;

/// Exit code for a command that could not do what it was asked.
const FAILED: u8 = 1;
/// Exit code for a configuration that cannot be used (`EX_CONFIG` of sysexits.h).
const BAD_CONFIGURATION: u8 = 78;

/// How long the tasks that a command leaves behind may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Receives AppDirect marketplace events: authenticated, durable, run once, reported back.
#[derive(Debug, Parser)]
#[command(name = "doorbell", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run receiver and sandbox marketplace in one process, with nothing to configure.
    #[cfg(feature = "sandbox")]
    #[command(
        after_help = "Example:\n  doorbell dev\n  curl -X POST http://127.0.0.1:8090/simulate/subscription-order\n\n\
        Configuration files are not read; DOORBELL__… variables are."
    )]
    Dev(dev::Arguments),
    /// Run the receiver.
    #[command(after_help = "Example:\n  doorbell serve --config config/doorbell.toml")]
    Serve(Source),
    /// Run the sandbox marketplace alone, pointed at the receiver at `server.public_url`.
    #[cfg(feature = "sandbox")]
    #[command(
        after_help = "Example:\n  doorbell serve &\n  doorbell sandbox\n  curl -X POST http://127.0.0.1:8090/simulate/ping"
    )]
    Sandbox(Source),
    /// Check configuration, store, each marketplace's token endpoint, and identity providers.
    #[command(
        after_help = "Example:\n  doorbell check --config config/doorbell.toml\n\nExit code 0 only if all of it holds."
    )]
    Check(check::Arguments),
    /// Print a bearer token that a marketplace could use, from the running receiver.
    #[command(after_help = "Example:\n  curl -H \"Authorization: Bearer $(doorbell token)\" \\\n    \
        'http://127.0.0.1:8080/notifications/create?eventUrl=…'")]
    Token(token::Arguments),
    /// List, show, retry, resolve, copy events: the operator's view of the running receiver.
    Events(events::Arguments),
    /// List or rotate the keys that tokens are signed with, in the running receiver.
    Keys(keys::Arguments),
    /// Exit with 0 if the receiver is ready: a container's HEALTHCHECK.
    #[command(after_help = "Example:\n  doorbell health --url http://127.0.0.1:8080/health/ready")]
    Health(health::Arguments),
}

#[derive(Debug, Args)]
struct Source {
    /// Configuration file [default: $`DOORBELL_CONFIG`, else config/doorbell.toml if it is there].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Source {
    fn load(&self) -> Result<Config, Failure> {
        let config = Config::load(self.config.as_deref())?;
        self.check_egress(&config)?;
        Ok(config)
    }

    /// Checks what `egress` names outside the configuration, certificates and a proxy, before anything begins.
    fn check_egress(&self, config: &Config) -> Result<(), Failure> {
        if config.egress.ca_file.is_none() && config.egress.proxy.is_none() {
            return Ok(());
        }
        let Err(EgressError::Setting { key, problem }) = Egress::new(&config.egress, Vec::new(), 0) else {
            return Ok(());
        };
        let variable = format!("DOORBELL__EGRESS__{}", key.to_ascii_uppercase());
        let origin = match Config::file(self.config.as_deref()) {
            _ if std::env::var_os(&variable).is_some() => Origin::Environment(variable),
            Some(file) => Origin::File(file),
            None => Origin::Defaults,
        };
        Err(ConfigError::Key { origin, key: format!("egress.{key}"), problem }.into())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Why a command ends with an exit code other than 0.
#[derive(Debug)]
enum Failure {
    Configuration(ConfigError),
    Command(String),
    /// The reason is already printed.
    Printed,
}

impl Failure {
    fn because(reason: impl fmt::Display) -> Self {
        Self::Command(reason.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Configuration(error)
    }
}

/// Runs the command line with the handler that the configuration names.
#[must_use]
pub fn run_configured() -> ExitCode {
    execute(None)
}

/// Runs the command line with a handler of your own: the entry point of a vendor's binary.
///
/// Every command and every configuration key works as in the stock binary, except that `handler.kind` is not
/// asked.
#[must_use]
pub fn run(handler: impl Handler) -> ExitCode {
    execute(Some(Arc::new(handler)))
}

fn execute(handler: Option<Arc<dyn Handler>>) -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::remark(format_args!("no runtime: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let outcome = runtime.block_on(cli.command.run(handler));
    // The tasks that are left release the store when they are dropped; threads that block are not waited for.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => {
            print::remark(error);
            ExitCode::from(BAD_CONFIGURATION)
        }
        Err(Failure::Command(reason)) => {
            print::remark(reason);
            ExitCode::from(FAILED)
        }
        Err(Failure::Printed) => ExitCode::from(FAILED),
    }
}

impl Command {
    async fn run(self, handler: Option<Arc<dyn Handler>>) -> Result<(), Failure> {
        match self {
            #[cfg(feature = "sandbox")]
            Self::Dev(arguments) => dev::run(arguments, handler).await,
            Self::Serve(source) => serve::run(&source.load()?, handler).await,
            #[cfg(feature = "sandbox")]
            Self::Sandbox(source) => sandbox::run(&source.load()?).await,
            Self::Check(arguments) => check::run(&arguments).await,
            Self::Token(arguments) => token::run(&arguments).await,
            Self::Events(arguments) => events::run(&arguments).await,
            Self::Keys(arguments) => keys::run(&arguments).await,
            Self::Health(arguments) => health::run(&arguments).await,
        }
    }
}

/// The URL of the public listener from this machine.
fn local_url(config: &Config) -> String {
    format!("http://{}{}", reachable(config.server.listen), config.server.public_url.path())
}

/// The address of a listener from this machine: loopback where it listens on every interface.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}
