//! The operator's view of events, and copies of them.

mod copy;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use super::office::Office;
use super::print::{self, Table, cell};
use super::{Failure, Output, Source};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List events, newest first.
    #[command(after_help = "Example:\n  doorbell events list --state dead")]
    List(List),
    /// Show an event with its body and everything it went through.
    #[command(after_help = "Example:\n  doorbell events show 6f0d81e4-52a9-5c0b-9c35-0f6b7a1ed00b")]
    Show(One),
    /// Run a dead, deferred or finished event again.
    #[command(after_help = "Example:\n  doorbell events retry 6f0d81e4-52a9-5c0b-9c35-0f6b7a1ed00b")]
    Retry(One),
    /// Answer for a deferred or dead event.
    #[command(
        after_help = "Example:\n  doorbell events resolve ID --account-identifier acct-1\n  doorbell events resolve ID \
                      --error-code ACCOUNT_NOT_FOUND --message \"no such account\""
    )]
    Resolve(Resolve),
    /// Write a copy of every event, while the receiver runs: a backup.
    #[command(after_help = "Example:\n  doorbell events export --to backup.ndjson\n\nSigning keys are not in it.")]
    Export(copy::Export),
    /// Take events from a copy into a store that nobody serves: the way back from a damaged or retired one.
    #[command(
        after_help = "Example:\n  doorbell events import backup.ndjson\n\nEvents that are there already are passed over, so \
                      an import that was cut off can be done again."
    )]
    Import(copy::Import),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    source: Source,
    /// received, fetched, handled, done, deferred or dead.
    #[arg(long)]
    state: Option<String>,
    /// A type such as `SUBSCRIPTION_ORDER`.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// An account.
    #[arg(long)]
    account: Option<String>,
    /// An integration's name.
    #[arg(long)]
    integration: Option<String>,
    /// Received at this moment (RFC 3339) or later.
    #[arg(long)]
    from: Option<String>,
    /// Received before this moment.
    #[arg(long)]
    to: Option<String>,
    /// How many.
    #[arg(long, default_value = "20")]
    limit: usize,
    /// Where a longer list goes on.
    #[arg(long)]
    cursor: Option<String>,
    /// How to print them.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
struct One {
    #[command(flatten)]
    source: Source,
    /// The event.
    id: String,
    /// How to print it.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
struct Resolve {
    #[command(flatten)]
    one: One,
    /// The vendor's name of the account: an order that succeeded must have one.
    #[arg(long, value_name = "NAME")]
    account_identifier: Option<String>,
    /// The vendor's name of the user.
    #[arg(long, value_name = "NAME")]
    user_identifier: Option<String>,
    /// Why it did not succeed; without it, it did.
    #[arg(long, value_name = "CODE")]
    error_code: Option<String>,
    /// What the marketplace is told.
    #[arg(long)]
    message: Option<String>,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        Action::List(list) => list.run().await,
        Action::Show(one) => {
            let office = Office::of(&one.source.load()?)?;
            print_event(&office.get(&format!("/api/v1/events/{}", path_segment(&one.id))).await?, one.output)
        }
        Action::Retry(one) => change(one, "retry", None).await,
        Action::Resolve(resolve) => {
            let result = json!({
                "success": resolve.error_code.is_none(),
                "errorCode": resolve.error_code,
                "message": resolve.message,
                "accountIdentifier": resolve.account_identifier,
                "userIdentifier": resolve.user_identifier,
            });
            change(&resolve.one, "result", Some(&result)).await
        }
        Action::Export(export) => export.run().await,
        Action::Import(import) => import.run().await,
    }
}

async fn change(one: &One, how: &str, body: Option<&Value>) -> Result<(), Failure> {
    let office = Office::of(&one.source.load()?)?;
    print_event(&office.post(&format!("/api/v1/events/{}/{how}", path_segment(&one.id)), body).await?, one.output)
}

fn path_segment(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
}

impl List {
    async fn run(&self) -> Result<(), Failure> {
        let mut query = Serializer::new(String::new());
        for (name, value) in [
            ("state", &self.state),
            ("type", &self.kind),
            ("account", &self.account),
            ("integration", &self.integration),
            ("from", &self.from),
            ("to", &self.to),
            ("cursor", &self.cursor),
        ] {
            query.extend_pairs(value.iter().map(|value| (name, value)));
        }
        let query = query.append_pair("limit", &self.limit.to_string()).finish();
        let answer: Value = Office::of(&self.source.load()?)?.get(&format!("/api/v1/events?{query}")).await?;
        if self.output == Output::Json {
            return print::json(&answer);
        }
        let mut table = Table::with_header(["received", "event", "type", "account", "state", "attempts", "last error"]);
        for event in answer["events"].as_array().into_iter().flatten() {
            let fields = ["receivedAt", "id", "type", "account", "state", "attempts", "lastError"];
            table.row(fields.map(|field| cell(&event[field])));
        }
        table.print()?;
        for event in answer["unreadable"].as_array().into_iter().flatten() {
            print::line(format!("event number {} cannot be read: {}", event["number"], cell(&event["reason"])))?;
        }
        answer["next"].as_str().map_or(Ok(()), |next| print::line(format!("there are more: --cursor {next}")))
    }
}

fn print_event(event: &Value, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return print::json(event);
    }
    let mut table = Table::plain();
    for field in [
        "id",
        "eventUrl",
        "integration",
        "type",
        "flag",
        "account",
        "state",
        "receivedAt",
        "updatedAt",
        "attempts",
        "result",
        "lastError",
        "charset",
        "bodyEncoding",
    ] {
        if !event[field].is_null() {
            table.row([field, &cell(&event[field])]);
        }
    }
    table.print()?;
    if let Some(steps) = event["timeline"].as_array() {
        let mut table = Table::with_header(["at", "step", "note"]);
        for step in steps {
            table.row(["at", "step", "note"].map(|field| cell(&step[field])));
        }
        table.print()?;
    }
    if let Some(forgotten) = event["timelineForgotten"].as_u64().filter(|forgotten| *forgotten > 0) {
        print::line(format!("of the steps in the middle {forgotten} are not kept"))?;
    }
    event["body"].as_str().map_or(Ok(()), print::lines)
}
