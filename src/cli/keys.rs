//! `doorbell keys`: the keys that tokens are signed with.

use clap::{Args, Subcommand};

use super::admin_client::AdminClient;
use super::print::{self, Table};
use super::{Failure, Output, Source};

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

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (list, revoke) = match &arguments.action {
        Action::List(list) => (list, None),
        Action::Rotate(rotate) => (&rotate.list, Some(rotate.revoke)),
    };
    let client = AdminClient::new(&list.source.load()?)?;
    let keys = match revoke {
        None => client.keys().await?,
        Some(revoke) => client.rotate_keys(revoke).await?,
    };
    match list.output {
        Output::Json => print::json(&keys),
        Output::Table => {
            let mut table = Table::with_header(["key", "made", "verifies until"]);
            for key in &keys.keys {
                let until = key.verifies_until.as_deref().unwrap_or("it signs");
                table.row([key.kid.as_str(), key.created_at.as_str(), until]);
            }
            table.print()
        }
    }
}
